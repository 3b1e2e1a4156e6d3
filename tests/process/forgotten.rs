//! What was deleted is gone from the history file too, wherever the process is killed on the way there.

use std::time::{Duration, Instant};

use fleet_actors::failpoint::FailPoint;
use serde_json::{Value, json};

use crate::process::{client, log, serve, serve_with, simulate, until};

/// Places between a durable deletion and the file that says so.
const ON_THE_WAY: &[FailPoint] =
    &[FailPoint::BeforeExport, FailPoint::InRewrite, FailPoint::AfterExport, FailPoint::AfterExportCursor];

#[tokio::test(flavor = "current_thread")]
async fn lines_of_a_deleted_execution_leave_the_history_file_whichever_moment_a_kill_picks() {
    let models = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(models.path(), 0, 20_000);
    let http = client();
    for point in ON_THE_WAY {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".var/logs/execution_history.jsonl");
        let read = || std::fs::read_to_string(&file).unwrap_or_default();
        let (server, url) = serve(dir.path(), &model);
        let mut ids = Vec::new();
        for task in ["keep this", "forget this"] {
            let request = http.post(format!("{url}/api/v1/runs")).json(&json!({ "task": task }));
            let accepted: Value = request.send().await.unwrap().json().await.unwrap();
            let id = accepted["workflow_id"].as_str().unwrap().to_owned();
            until(&http, format!("{url}/api/v1/history/{id}"), |entry| entry["status"] == "completed").await;
            ids.push(id);
        }
        let [kept, gone] = &ids[..] else { panic!("two runs") };
        reads(&read, |text| text.contains(kept) && text.contains(gone)).await;
        server.stop().await;

        let armed = format!("{}=kill@1", point.name());
        let (mut server, url) = serve_with(dir.path(), &model, &[("AGENTIC_FLEET_FAIL_POINT", &armed)]);
        let deletion = http.delete(format!("{}/api/v1/history/{gone}", url.unwrap()));
        assert_eq!(deletion.send().await.unwrap().status(), 204, "{}", point.name());
        let status = server.ended(Duration::from_secs(15)).await;
        assert!(status.is_some(), "{} was not reached: {}", point.name(), log(dir.path()));

        let (_server, _url) = serve(dir.path(), &model);
        reads(&read, |text| text.contains(kept) && !text.contains(gone)).await;
    }
}

/// Waits until the file reads so, for at most 10 seconds.
async fn reads(read: &impl Fn() -> String, fits: impl Fn(&str) -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !fits(&read()) {
        assert!(Instant::now() < end, "the history file stayed {}", read());
        tokio::time::sleep(Duration::from_millis(20)).await; // allow-sleep: polls a condition under a deadline
    }
}
