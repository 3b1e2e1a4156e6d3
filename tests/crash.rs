//! kill -9 at random moments of real runs: nothing that was acknowledged is lost, and finished model calls are not made
//! again. The server is the real binary; the model is the simulated server in a process of its own, which counts.

#![allow(
    clippy::unwrap_used,
    clippy::zombie_processes,
    reason = "a test that cannot go on panics; guards wait for children"
)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the binary and answers with what stands behind `mark` on its first lines.
fn start(arguments: &[&str], environment: &[(&str, &str)], dir: &Path, mark: &str) -> (Process, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentic-fleet"));
    command.args(arguments).current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command.env_remove("OPENAI_API_KEY").envs(environment.iter().copied());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.take(5) {
        let line = line.unwrap();
        if let Some((_, rest)) = line.split_once(mark) {
            let value = rest.split_whitespace().next().unwrap_or_default().to_owned();
            return (Process(child), value);
        }
    }
    panic!("{arguments:?} did not say `{mark}`");
}

fn serve(dir: &Path, model: &str) -> (Process, String) {
    let environment = [("OPENAI_BASE_URL", model), ("MAX_CONCURRENT_WORKFLOWS", "64")];
    let (server, docs) = start(&["serve", "--port", "0"], &environment, dir, "browser:");
    (server, docs.trim_end_matches("/docs").to_owned())
}

async fn get(http: &reqwest::Client, url: String) -> Value {
    http.get(url).send().await.unwrap().json().await.unwrap()
}

/// Asks until the answer fits, for at most 20 seconds.
async fn until(http: &reqwest::Client, url: String, fits: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = get(http, url.clone()).await;
        if fits(&answer) {
            return answer;
        }
        assert!(Instant::now() < end, "{url} stayed {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await; // allow-sleep: polls a condition under a deadline
    }
}

#[tokio::test(flavor = "current_thread")]
async fn background_runs_survive_kill_9_and_finished_model_calls_are_never_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let model_arguments = ["simulate-llm", "--port", "0", "--latency-ms", "20", "--tokens-per-second", "2000"];
    let (_model, model) = start(&model_arguments, &[], dir.path(), "OPENAI_BASE_URL=");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let (mut accepted, mut kills) = (BTreeSet::new(), 0);
    // From before the first token to after the last one; every second life is long enough for progress, since a run that
    // starts four times without any is quarantined on purpose.
    let moments = [0, 250, 5, 300, 15, 350, 25, 400, 35, 450, 50, 500];
    for (round, moment) in moments.into_iter().enumerate() {
        let (server, url) = serve(dir.path(), &model);
        for n in 0..4 {
            let body = json!({ "task": format!("task {round} {n}") });
            let response = http.post(format!("{url}/api/v1/runs")).json(&body).send().await.unwrap();
            assert_eq!(response.status(), 202);
            let answer: Value = response.json().await.unwrap();
            accepted.insert(answer["workflow_id"].as_str().unwrap().to_owned());
        }
        tokio::time::sleep(Duration::from_millis(moment)).await; // allow-sleep: the moment of the kill
        drop(server);
        kills += 1;
    }
    let (_server, url) = serve(dir.path(), &model);
    for workflow in &accepted {
        let found =
            until(&http, format!("{url}/api/v1/history/{workflow}"), |answer| answer["status"] == "completed").await;
        assert!(!found["result"].is_null(), "{found}");
    }
    let requests = get(&http, format!("{}/admin/stats", model.trim_end_matches("/v1"))).await;
    let completed = requests["completed"].as_u64().unwrap();
    // A call that was answered and not yet journaled when the kill came may be made again, under the same key; a
    // journaled one never. With four runs in flight at each of the kills that is the bound.
    let most = accepted.len() as u64 + kills * 4;
    assert!(completed >= accepted.len() as u64 && completed <= most, "{completed} calls for {} runs", accepted.len());
    println!("{kills} kills, {} accepted runs, all completed, {completed} answered model calls", accepted.len());
}

#[tokio::test(flavor = "current_thread")]
async fn a_finished_conversation_is_there_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let model_arguments = ["simulate-llm", "--port", "0", "--latency-ms", "0", "--tokens-per-second", "0"];
    let (_model, model) = start(&model_arguments, &[], dir.path(), "OPENAI_BASE_URL=");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let (server, url) = serve(dir.path(), &model);
    let stream = http.get(format!("{url}/api/chat/talk/stream?message=tell+me+more")).send().await.unwrap();
    let text = stream.text().await.unwrap();
    assert!(text.contains(r#""type":"done""#), "{text}");
    drop(server);
    let (_server, url) = serve(dir.path(), &model);
    let conversation = get(&http, format!("{url}/api/v1/conversations/talk")).await;
    let roles: Vec<_> = conversation["messages"].as_array().unwrap().iter().map(|m| m["role"].clone()).collect();
    assert_eq!(roles, ["user", "assistant"], "{conversation}");
}
