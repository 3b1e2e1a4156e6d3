//! Ten thousand runs that wait for a person's word in a house of ten places: what they cost in memory, on disk and to the
//! chats meanwhile, and how fast they go on when they are answered.

use std::path::Path;
use std::time::Instant;

use super::crowd;
use super::figure::{Bar, Table};
use super::process::Process;

const RUNS: usize = 10_000;
/// Before anything is compared: workers, connections and the store's page caches have their size then.
const WARM: usize = 300;

pub fn run(table: &mut Table) {
    table.about(&format!("parked: {RUNS} runs that wait for an approval, 10 places"));
    let dir = tempfile::tempdir().expect("a directory");
    let model = Process::simulate(dir.path(), 0);
    let model_url = format!("http://{}/v1", model.address);
    let (file, environment) = crowd::settings(&model_url);
    let config = dir.path().join("fleet.yaml");
    std::fs::write(&config, file).expect("a file");
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Process::serve_with(dir.path(), &config, &environment);
    let url = format!("http://{}", server.address);
    let http = crowd::http();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let warm = crowd::submit(&http, &url, &model_url, WARM).await;
        let questions = crowd::parked(&http, &url, WARM).await;
        crowd::allow(&http, &url, &questions).await;
        crowd::finished(&http, &url, &warm.into_iter().collect()).await;
        let chat_before = crowd::chat_p50(&http, &url, 200, "before").await;
        let (before, disk_before) = (server.usage().rss_bytes, bytes(&dir.path().join(".var")));
        let began = Instant::now();
        let all = crowd::submit(&http, &url, &model_url, RUNS).await.into_iter().collect();
        let questions = crowd::parked(&http, &url, RUNS).await;
        let parking_s = began.elapsed().as_secs_f64();
        let disk = bytes(&dir.path().join(".var"));
        let chat_with = crowd::chat_p50(&http, &url, 200, "with").await;
        let more = (server.usage().rss_bytes - before) / 1e6;
        let began = Instant::now();
        let chats = crowd::chat_p50(&http, &url, 100, "meanwhile");
        let (_, chat_meanwhile) = futures_util::future::join(crowd::allow(&http, &url, &questions), chats).await;
        crowd::finished(&http, &url, &all).await;
        let waking_s = began.elapsed().as_secs_f64();
        table.alone("parked: memory beside before", "MB", more, Bar::AtMost(10.0));
        table.alone("parked: on disk, a run", "KB", (disk - disk_before) / 1e3 / RUNS as f64, Bar::None);
        table.beside("parked: chat p50 with them", "ms", chat_with, chat_before, Bar::RatioAtMost(1.5));
        table.beside("parked: chat p50 while all are answered", "ms", chat_meanwhile, chat_before, Bar::None);
        table.alone("parked: submitted and parked", "/s", RUNS as f64 / parking_s, Bar::None);
        table.alone("parked: answered and finished", "/s", RUNS as f64 / waking_s, Bar::None);
    });
}

/// All files under a directory.
fn bytes(dir: &Path) -> f64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0.0 };
    let of = |path: std::path::PathBuf| {
        if path.is_dir() { bytes(&path) } else { path.metadata().map_or(0.0, |m| m.len() as f64) }
    };
    entries.flatten().map(|entry| of(entry.path())).sum()
}
