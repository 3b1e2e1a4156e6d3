//! What a process that must not go on still says of its runs: their spans, for as long as any end may take, and not longer.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::collector::Collector;
use crate::process::{Process, client, log, serve_with, simulate, spawn};

/// How long the end of a process may wait for a collector, and what this machine may add to it.
const FLUSH: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(2);

/// Nothing is exported before the end.
fn tracing(collector: &Collector) -> [(&'static str, &str); 4] {
    [
        ("FLEET_TRACING__ENABLED", "true"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url),
        ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
        ("NO_PROXY", "127.0.0.1"),
    ]
}

fn calls(collector: &Collector) -> usize {
    collector.take().spans().iter().filter(|(_, span)| span.name.starts_with("chat ")).count()
}

/// The exit code, and how long the end took from the log line that announced it.
async fn end(server: &mut Process, dir: &std::path::Path, line: &str) -> (Option<i32>, Duration) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !log(dir).contains(line) {
        assert!(Instant::now() < deadline, "{line} is not said: {}", log(dir));
        tokio::time::sleep(Duration::from_millis(2)).await; // allow-sleep: polls a condition under a deadline
    }
    let said = Instant::now();
    let status = server.ended(Duration::from_secs(20)).await;
    (status.and_then(|status| status.code()), said.elapsed())
}

#[tokio::test(flavor = "current_thread")]
async fn an_exit_with_70_exports_the_last_spans_and_a_collector_that_hangs_delays_it_no_longer_than_any_end() {
    let models = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(models.path(), 0, 0);
    for hangs in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let collector = if hangs { Collector::that_hangs() } else { Collector::start() };
        let mut environment = tracing(&collector).to_vec();
        // The export follows the end of a run.
        environment.push(("AGENTIC_FLEET_FAIL_POINT", "after-export-cursor=panic@1"));
        let (mut server, url) = serve_with(dir.path(), &model, &environment);
        let task = json!({ "task": "write" });
        let answer = client().post(format!("{}/api/v1/runs", url.unwrap())).json(&task).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        let (code, took) = end(&mut server, dir.path(), "service_panicked").await;
        assert_eq!(code, Some(70), "{}", log(dir.path()));
        let bound = if hangs { FLUSH + SLACK } else { SLACK };
        assert!(took < bound, "a collector that {}: {took:?}", if hangs { "hangs" } else { "answers" });
        assert!(!hangs || took > FLUSH / 2, "it gave the collector its time: {took:?}");
        assert_eq!(log(dir.path()).matches("service_panicked").count(), 1);
        if hangs {
            assert!(collector.take().connections > 0, "it was asked at all");
        } else {
            assert_eq!(calls(&collector), 1);
        }
        println!("exit 70 after {took:?} with a collector that {}", if hangs { "hangs" } else { "answers" });
    }
}

#[tokio::test(flavor = "current_thread")]
async fn an_exit_with_74_exports_the_last_spans_first() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start());
    let (_model, model) = simulate(dir.path(), 0, 0);
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        println!("NOT RUN: strace is not installed");
        return;
    }
    let redo = dir.path().join(".var/fleet.db-redo");
    let mut command = std::process::Command::new("strace");
    // The process that is started is the server, and ends with its guard; who injects is apart.
    command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-P"]).arg(&redo);
    // Several runs are over by then.
    command.args(["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO:when=40+"]);
    command.arg(env!("CARGO_BIN_EXE_agentic-fleet")).args(["serve", "--port", "0"]);
    command.env("OPENAI_BASE_URL", &model).envs(crate::process::ONE_AGENT).envs(tracing(&collector));
    let (mut server, docs) = spawn(command, dir.path(), "browser:");
    let url = docs.unwrap_or_else(|| panic!("{}", log(dir.path()))).trim_end_matches("/docs").to_owned();
    let mut completed = 0;
    loop {
        let request = client().post(format!("{url}/api/v1/run")).timeout(Duration::from_secs(10));
        let Ok(response) = request.json(&json!({ "task": "write" })).send().await else { break };
        if response.status() != 201 || response.json::<Value>().await.is_err() {
            break;
        }
        completed += 1;
        assert!(completed < 100, "no sync fails");
    }
    let (code, took) = end(&mut server, dir.path(), "storage_failed").await;
    assert_eq!(code, Some(74), "{}", log(dir.path()));
    let told = calls(&collector);
    assert!(completed >= 2 && told >= completed, "{completed} runs, {told} calls told");
    println!("{completed} runs, {told} calls told, exit 74 {took:?} after its line was seen");
}
