//! MCP servers under the whole server: they delay no start and end with it.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::process::{client, start};

/// Polls until every process whose id a server left in `file` is there, or gone.
async fn all(dir: &Path, files: &[&str], alive: bool) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let text = |file: &&str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        let pids: Vec<Vec<String>> = files.iter().map(|file| text(file).lines().map(str::to_owned).collect()).collect();
        let runs = |pid: &String| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
        };
        if pids.iter().all(|pids| !pids.is_empty() && pids.iter().all(|pid| runs(pid) == alive)) {
            return pids.concat();
        }
        assert!(Instant::now() < end, "{files:?} hold {pids:?}, expected alive: {alive}");
        tokio::time::sleep(Duration::from_millis(20)).await; // allow-sleep: polls a condition under a deadline
    }
}

fn config(dir: &Path, modes: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/servers/hostile.py");
    let mut yaml = "mcp_servers:\n".to_owned();
    for mode in modes {
        let place = dir.join(mode);
        std::fs::create_dir(&place).unwrap();
        let place = place.display();
        yaml += &format!("  {mode}: {{ transport: stdio, command: python3, args: [{script}, {mode}, {place}] }}\n");
    }
    let file = dir.join("fleet.yaml");
    std::fs::write(&file, yaml).unwrap();
    file.display().to_string()
}

#[tokio::test]
async fn servers_that_hang_delay_no_start_and_end_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), &["silent", "stubborn"]);
    let (mut server, docs) = start(&["serve", "--config", &config, "--port", "0"], &[], dir.path(), "browser:");
    let ready = client().get(docs.replace("/docs", "/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    let files = ["silent/starts", "stubborn/starts", "stubborn/child"];
    assert_eq!(all(dir.path(), &files, true).await.len(), 3);
    let began = Instant::now();
    server.end("TERM");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    all(dir.path(), &files, false).await;
}

#[tokio::test]
async fn a_server_that_minds_its_input_ends_even_when_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), &["good"]);
    let (mut server, _) = start(&["serve", "--config", &config, "--port", "0"], &[], dir.path(), "browser:");
    all(dir.path(), &["good/starts"], true).await;
    server.end("KILL");
    all(dir.path(), &["good/starts"], false).await;
}
