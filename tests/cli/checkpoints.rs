//! `checkpoints`: what is listed, shown, forked and gone on with, and what that costs at the model.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use agentic_fleet::storage::DataDirLock;
use serde_json::Value;

use crate::process::{Place, Process, http, until};

#[tokio::test]
async fn a_finished_run_is_listed_shown_and_resumed_without_a_call_here_and_through_a_server() {
    for place in Place::both() {
        let id = place.ran("please answer at length");
        let listed = place.cli(&["checkpoints", "list", &id, "--json"]).json();
        let newest = listed["checkpoints"][0]["checkpoint_id"].as_str().unwrap().to_owned();
        assert!(newest.starts_with(&format!("{id}:")) && listed["next_before"].is_null(), "{listed}");
        let said = place.cli(&["checkpoints", "list", &id]);
        assert!(said.out.starts_with("CHECKPOINT") && said.out.contains(&newest), "{said:?}");
        let shown = place.cli(&["checkpoints", "show", &id, "--json"]).json();
        assert_eq!((shown["checkpoint_id"].as_str(), &shown["resumable"]), (Some(newest.as_str()), &false.into()));
        let said = place.cli(&["checkpoints", "show", &newest]);
        assert!(said.out.contains("POSITION") && said.out.contains("step_completed"), "{said:?}");

        let calls = place.counted("completed").await;
        let stored = place.cli(&["history", "show", &id, "--json"]).json();
        let resumed = place.cli(&["checkpoints", "resume", &id]);
        assert_eq!((resumed.code, resumed.out.trim_end()), (0, stored["result"].as_str().unwrap()), "{resumed:?}");
        let resumed = place.cli(&["checkpoints", "resume", &newest, "--json"]).json();
        assert_eq!((&resumed["execution_id"], &resumed["result"]), (&stored["workflow_id"], &stored["result"]));
        assert_eq!(place.counted("completed").await, calls, "no model was called again");
    }
}

#[tokio::test]
async fn a_fork_is_a_run_of_its_own_that_waits_until_it_is_resumed() {
    for place in Place::both() {
        let id = place.ran("please answer twice");
        let calls = place.counted("completed").await;
        let fork =
            place.cli(&["checkpoints", "fork", &id, "--json"]).json()["workflow_id"].as_str().unwrap().to_owned();
        let bare = place.cli(&["checkpoints", "fork", &id]);
        assert!(bare.code == 0 && bare.out.trim() != fork && bare.out.lines().count() == 1, "{bare:?}");
        let unfinished = place.cli(&["checkpoints", "list", "--json"]).json();
        let waiting: Vec<&Value> = unfinished["unfinished"].as_array().unwrap().iter().collect();
        assert_eq!(waiting.len(), 2, "{unfinished}");
        assert!(waiting.iter().any(|run| run["workflow_id"] == fork.as_str()));
        let resumed = place.cli(&["checkpoints", "resume", &fork, "--json"]);
        assert_eq!((resumed.code, resumed.json()["execution_id"].as_str()), (0, Some(fork.as_str())), "{resumed:?}");
        assert_eq!(place.counted("completed").await, calls, "what it shares is not paid for again");

        // Before the answer: the answer is made again, by another run.
        let shown = place.cli(&["checkpoints", "show", &id, "--json"]).json();
        let before = format!("{id}:{}", shown["position"].as_u64().unwrap() - 1);
        let again = place.cli(&["checkpoints", "resume", &before, "--json"]);
        assert_eq!(again.code, 0, "{again:?}");
        assert_ne!(again.json()["execution_id"].as_str(), Some(id.as_str()));
        assert_eq!(place.counted("completed").await, calls + 1);
    }
}

#[tokio::test]
async fn a_run_that_declined_checkpoints_lists_none_and_is_resumed_and_forked_all_the_same() {
    for place in Place::both() {
        let declined = place.cli(&["run", "--json", "-m", "please", "--enable-checkpointing", "false"]).json();
        let wanted = place.cli(&["run", "--json", "-m", "please", "--enable-checkpointing", "true"]).json();
        let listed = |run: &Value| {
            let list = place.cli(&["checkpoints", "list", run["execution_id"].as_str().unwrap(), "--json"]).json();
            list["checkpoints"].as_array().unwrap().len()
        };
        assert_eq!((listed(&declined), listed(&wanted) > 0), (0, true));
        let id = declined["execution_id"].as_str().unwrap();
        let said = place.cli(&["checkpoints", "list", id]);
        assert_eq!((said.code, said.out.lines().count()), (0, 1), "a heading and nothing under it: {said:?}");
        let calls = place.counted("completed").await;
        let resumed = place.cli(&["checkpoints", "resume", id, "--json"]).json();
        assert_eq!((&resumed["execution_id"], &resumed["result"]), (&declined["execution_id"], &declined["result"]));
        let shown = place.cli(&["checkpoints", "show", id, "--json"]).json();
        assert!(shown["position"].is_u64() && place.cli(&["checkpoints", "fork", id]).code == 0, "{shown}");
        assert_eq!(place.counted("completed").await, calls, "no model was called again");
    }
    let mut place = Place::new();
    place.set("FLEET_SESSIONS__ENABLE_CHECKPOINTING", "false");
    let id = place.ran("please");
    let list = place.local(&["checkpoints", "list", &id, "--json"]).json();
    assert_eq!(list["checkpoints"], serde_json::json!([]), "the settings say it where the run does not");
}

#[tokio::test]
async fn a_run_that_died_with_its_process_is_found_and_gone_on_with_to_its_whole_text() {
    for served in [false, true] {
        let mut place = Place::with_model(0, 20);
        place.set("FLEET_SESSIONS__DISCONNECT_GRACE_MS", "0");
        let mut command = place.command(&["run", "-m", "please tell me more"]);
        let run = Process::reading(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        place.until_called().await;
        drop(run);
        if served {
            place.serve();
        }
        let unfinished = place.cli(&["checkpoints", "list", "--json"]).json();
        let id = unfinished["unfinished"][0]["workflow_id"].as_str().unwrap().to_owned();
        let resumed = place.cli(&["checkpoints", "resume", &id]);
        assert_eq!(resumed.code, 0, "{resumed:?}");
        let entry = place.cli(&["history", "show", &id, "--json"]).json();
        assert_eq!(entry["status"], "completed", "{entry}");
        assert!(resumed.out.trim_end().ends_with(entry["result"].as_str().unwrap()), "{resumed:?}");
        assert_eq!(place.cli(&["checkpoints", "list"]).out.lines().count(), 1, "nothing is left");
        assert_eq!((place.counted("completed").await, place.counted("aborted").await), (1, 1));
    }
}

#[tokio::test]
async fn a_run_whose_process_was_killed_is_listed_as_interrupted_and_one_whose_process_lives_as_running() {
    let mut place = Place::with_model(60_000, 0);
    let url = place.serve();
    let task = serde_json::json!({ "task": "please stay" });
    let accepted = http().post(format!("{url}/api/v1/runs")).json(&task).send().await.unwrap();
    assert_eq!(accepted.status(), 202);
    let id = accepted.json::<Value>().await.unwrap()["workflow_id"].as_str().unwrap().to_owned();
    let listed = || {
        let said = place.local(&["checkpoints", "list", "--json"]).json();
        assert_eq!(said["unfinished"][0]["workflow_id"], id.as_str(), "{said}");
        let shown = place.local(&["checkpoints", "list"]).out;
        let status = said["unfinished"][0]["status"].as_str().unwrap().to_owned();
        assert!(shown.lines().nth(1).unwrap().contains(&format!(" {status} ")), "{shown}");
        status
    };
    assert_eq!(listed(), "running");
    place.server().signal("-KILL");
    until("the lock ends with its process", || listed() == "interrupted");
    // Looking takes nothing away from who comes next.
    let (looked, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let looks = std::thread::spawn({
        let (data, looked, served) = (place.dir.path().join(".var"), looked.clone(), served.clone());
        move || {
            while !served.load(Ordering::SeqCst) {
                let _ = DataDirLock::is_held(&data);
                looked.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    until("somebody looks", || looked.load(Ordering::SeqCst) > 0);
    place.serve();
    served.store(true, Ordering::SeqCst);
    looks.join().unwrap();
    println!("the lock was taken between {} looks at it", looked.load(Ordering::SeqCst));
    assert_eq!(place.local(&["checkpoints", "list", "--json"]).json()["unfinished"][0]["status"], "running");
}
