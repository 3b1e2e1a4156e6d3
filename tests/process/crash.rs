//! kill -9 at random moments of real runs: nothing that was acknowledged is lost, and finished model calls are not made
//! again.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{client, get, log, serve, serve_fleet, simulate, until};

#[tokio::test(flavor = "current_thread")]
async fn background_runs_survive_kill_9_and_finished_model_calls_are_never_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 20, 2000);
    let http = client();
    let (mut accepted, mut kills) = (BTreeSet::new(), 0);
    // From before the first token to after the last one; every second life is long enough for progress, since a run that
    // was started three times without any is quarantined on purpose instead of a fourth time.
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

/// In an empty directory even what all runs share is new, and many first appends are one group.
#[tokio::test(flavor = "current_thread")]
async fn a_crowd_that_comes_first_of_all_survives_kill_9_at_its_first_acknowledgements() {
    const CROWD: usize = 24;
    let model_dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(model_dir.path(), 20, 0);
    let mut accepted = 0;
    for round in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let (server, url) = serve(dir.path(), &model);
        let http = client();
        let mut asked = tokio::task::JoinSet::new();
        for n in 0..CROWD {
            let request = http.post(format!("{url}/api/v1/runs")).header("idempotency-key", format!("key {n}"));
            let request = request.json(&json!({ "task": format!("task {n}") }));
            asked.spawn(async move {
                let answer: Value = request.send().await.ok()?.json().await.ok()?;
                Some((n, answer["workflow_id"].as_str()?.to_owned()))
            });
        }
        let mut known = Vec::new();
        while let Some(answer) = asked.join_next().await {
            known.extend(answer.unwrap());
            if known.len() > round {
                break;
            }
        }
        drop(server);
        while let Some(answer) = asked.join_next().await {
            known.extend(answer.unwrap());
        }
        assert!(known.len() > round, "{}", log(dir.path()));
        let (_server, url) = serve(dir.path(), &model);
        for (n, workflow) in &known {
            let done = |answer: &Value| answer["status"] == "completed";
            until(&http, format!("{url}/api/v1/history/{workflow}"), done).await;
            let again = http.post(format!("{url}/api/v1/runs")).header("idempotency-key", format!("key {n}"));
            let again = again.json(&json!({ "task": format!("task {n}") })).send().await.unwrap();
            assert_eq!(again.json::<Value>().await.unwrap()["workflow_id"], **workflow, "its key");
        }
        accepted += known.len();
    }
    println!("10 kills, {accepted} runs were acknowledged, all completed under their keys");
}

#[tokio::test(flavor = "current_thread")]
async fn runs_of_the_whole_fleet_in_each_mode_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 20, 2000);
    let http = client();
    let (mut accepted, mut kills) = (BTreeSet::new(), 0);
    // Short lives and long ones alternate, for the same reason.
    for (round, moment) in [10, 700, 90, 400, 200].into_iter().enumerate() {
        let (server, url) = serve_fleet(dir.path(), &model);
        for mode in ["delegated", "sequential", "parallel", "handoff", "discussion"] {
            let body = json!({ "task": format!("compare {round} and {mode} and write a brief"), "mode": mode });
            let response = http.post(format!("{url}/api/v1/runs")).json(&body).send().await.unwrap();
            assert_eq!(response.status(), 202);
            let answer: Value = response.json().await.unwrap();
            accepted.insert(answer["workflow_id"].as_str().unwrap().to_owned());
        }
        tokio::time::sleep(Duration::from_millis(moment)).await; // allow-sleep: the moment of the kill
        drop(server);
        kills += 1;
    }
    let (_server, url) = serve_fleet(dir.path(), &model);
    let mut journaled = 0;
    for workflow in &accepted {
        let judged = |answer: &Value| answer["status"] == "completed" && answer["quality"]["pending"] == false;
        let found = until(&http, format!("{url}/api/v1/history/{workflow}"), judged).await;
        assert!(found["quality"]["score"].is_number(), "{found}");
        journaled += found["model_calls"].as_u64().unwrap();
    }
    let stats = get(&http, format!("{}/admin/stats", model.trim_end_matches("/v1"))).await;
    let completed = stats["completed"].as_u64().unwrap();
    // Beside what stands in journals: calls that a kill caught between their answer and the journal, of which each run that
    // is new at a kill can have as many as agents that work at the same time, and its judge one.
    let most = journaled + kills * 5 * 4;
    assert!(
        completed >= journaled && completed <= most,
        "{completed} calls were answered, {journaled} stand in journals"
    );
    println!("{kills} kills, {} runs, {journaled} journaled calls, {completed} answered", accepted.len());
}

#[tokio::test(flavor = "current_thread")]
async fn a_finished_conversation_is_there_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 0, 0);
    let http = client();
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
