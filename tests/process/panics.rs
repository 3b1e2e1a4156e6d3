//! A service that panics ends the process with a code and a line of its own, and the next process takes its runs up.

use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{client, log, serve_with, simulate, until};

#[tokio::test(flavor = "current_thread")]
async fn a_panic_of_any_service_exits_with_70_and_one_line_and_the_run_ends_after_the_restart() {
    let models = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(models.path(), 5, 2_000);
    let http = client();
    let services = [
        ("register", "SessionManager"),
        ("before-ack", "CheckpointActor"),
        ("before-export", "HistoryActor"),
        ("after-commit", "store writer"),
        ("wake-queue", "wake queue"),
    ];
    for (point, service) in services {
        let dir = tempfile::tempdir().unwrap();
        // The wake queue looks once at its start, so it panics the second time.
        let at = if service == "wake queue" { 2 } else { 1 };
        let armed = format!("{point}=panic@{at}");
        let (mut server, url) = serve_with(dir.path(), &model, &[("AGENTIC_FLEET_FAIL_POINT", &armed)]);
        let ask = |url: String| {
            let request = http.post(format!("{url}/api/v1/runs")).header("idempotency-key", "k");
            request.timeout(Duration::from_secs(10)).json(&json!({ "task": "write" })).send()
        };
        let _ = ask(url.unwrap()).await;
        let status = server.ended(Duration::from_secs(15)).await;
        let status = status.unwrap_or_else(|| panic!("{service} panicked and the process lives: {}", log(dir.path())));
        assert_eq!(status.code(), Some(70), "{service}: {}", log(dir.path()));
        let log = log(dir.path());
        let lines: Vec<_> = log.lines().filter(|line| line.contains("service_panicked")).collect();
        assert_eq!(lines.len(), 1, "{service}: {log}");
        assert!(lines[0].contains(service), "{}", lines[0]);
        let (_server, url) = serve_with(dir.path(), &model, &[]);
        let url = url.unwrap();
        let accepted: Value = ask(url.clone()).await.unwrap().json().await.unwrap();
        let workflow = accepted["workflow_id"].as_str().unwrap();
        until(&http, format!("{url}/api/v1/history/{workflow}"), |entry| entry["status"] == "completed").await;
    }
    println!("{} services panicked, each exit had code 70", services.len());
}
