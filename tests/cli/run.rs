//! `run`: the text as it comes, one JSON object, conversations, efforts, failures, interrupts.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use serde_json::Value;

use crate::process::{Place, Process, get, get_until, until};

#[tokio::test]
async fn a_run_streams_its_answer_or_says_it_as_one_json_object_here_and_through_a_server() {
    for place in Place::both() {
        let said = place.cli(&["run", "-m", "please say something long"]);
        assert_eq!(said.code, 0, "{said:?}");
        let listed = place.cli(&["history", "list", "--json"]).json();
        let entry = &listed["executions"][0];
        assert_eq!(said.out.trim_end(), entry["result"].as_str().unwrap(), "streamed what is stored");
        assert!(said.out.len() > 40, "{said:?}");

        let said = place.cli(&["run", "-m", "please say it in JSON", "--json"]);
        let result = said.json();
        assert_eq!((said.code, &result["status"], said.out.lines().count()), (0, &"completed".into(), 1), "{said:?}");
        let entry = place.cli(&["history", "show", result["execution_id"].as_str().unwrap(), "--json"]).json();
        for field in ["result", "metadata", "conversation_id", "error"] {
            assert_eq!(result[field], entry[field], "{field}");
        }
        assert_eq!(entry["task"], "please say it in JSON");
    }
}

#[tokio::test]
async fn a_conversation_goes_on_across_runs_here_and_through_a_server() {
    for mut place in Place::both() {
        for message in ["my first question", "my second question"] {
            let said = place.cli(&["run", "-m", message, "--conversation", "talk-1", "--json"]);
            assert_eq!((said.code, &said.json()["conversation_id"]), (0, &"talk-1".into()), "{said:?}");
        }
        place.kill();
        let url = place.serve();
        let conversation = get(&format!("{url}/api/v1/conversations/talk-1")).await;
        let messages = conversation["messages"].as_array().unwrap();
        assert_eq!(messages.iter().map(|m| m["role"].as_str().unwrap()).collect::<Vec<_>>().join(" "), ROLES);
        let requests = get(&format!("{}/admin/requests?after=0", place.model.trim_end_matches("/v1"))).await;
        let last = requests["requests"].as_array().unwrap().last().unwrap()["messages"].to_string();
        assert!(
            last.contains("my first question") && last.contains("my second question"),
            "the model sees both: {last}"
        );
    }
}

#[tokio::test]
async fn the_runtime_of_a_run_is_the_time_that_its_model_took() {
    let place = Place::with_model(300, 0);
    let id = place.ran("please take your time");
    let ms = place.cli(&["history", "show", &id, "--json"]).json()["runtime_ms"].as_u64().unwrap();
    // The model's latency varies by a fifth.
    assert!((240..5_000).contains(&ms), "{ms} ms");
}

const ROLES: &str = "user assistant user assistant";

#[tokio::test]
async fn an_effort_given_to_run_reaches_the_model_here_and_through_a_server() {
    for place in Place::both() {
        let said = place.cli(&["run", "-m", "please think hard", "--reasoning-effort", "maximal"]);
        assert_eq!(said.code, 0, "{said:?}");
        let requests = get(&format!("{}/admin/requests?after=0", place.model.trim_end_matches("/v1"))).await;
        assert_eq!(requests["requests"][0]["effort"], "high", "{requests}");
    }
}

#[tokio::test]
async fn a_run_whose_model_fails_exits_1_with_the_code_on_one_line() {
    for place in Place::both() {
        let said = place.cli(&["run", "-m", "please [[sim:500]] fail"]);
        said.failed(1, "error: provider_");
        assert_eq!(said.out, "");
        let said = place.cli(&["run", "-m", "please [[sim:500]] fail", "--json"]);
        let result = said.json();
        assert_eq!((said.code, &result["status"], &result["result"]), (1, &"failed".into(), &Value::Null));
        assert!(result["error"]["code"].as_str().unwrap().starts_with("provider_"), "{result}");
    }
}

#[tokio::test]
async fn an_interrupt_cancels_the_run_and_its_model_call_here_and_through_a_server() {
    for served in [false, true] {
        let mut place = Place::with_model(60_000, 0);
        if served {
            place.serve();
        }
        let mut command = place.reach(&["run", "-m", "please work for long"]);
        let run = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut run = Process::reading(run);
        place.until_called().await;
        run.signal("-INT");
        assert_eq!(run.exit_code(), Some(1), "{}", run.log());
        run.wait_for("the run was stopped", 1);
        let stats = get_until(&place.stats(), |stats| stats["aborted"] == 1).await;
        assert_eq!((&stats["live"], &stats["completed"]), (&0.into(), &0.into()), "{stats}");
        let listed = place.cli(&["history", "list", "--json"]).json();
        assert_eq!(listed["executions"][0]["status"], "cancelled", "{listed}");
    }
}

#[tokio::test]
async fn a_full_house_tells_run_when_to_come_back() {
    let mut place = Place::with_model(60_000, 0);
    place.set("MAX_CONCURRENT_WORKFLOWS", "1");
    let url = place.serve();
    let body = serde_json::json!({ "task": "please hold the place" });
    let held = crate::process::http().post(format!("{url}/api/v1/runs")).json(&body).send().await.unwrap();
    assert_eq!(held.status(), 202);
    let said = place.cli(&["run", "-m", "please let me in"]);
    said.failed(1, "session_cap_reached: ");
    assert!(said.err.contains("(try again in "), "{said:?}");
}

#[tokio::test]
async fn a_run_is_the_only_owner_of_its_data_directory_and_readers_work_beside_it() {
    let place = Place::with_model(60_000, 0);
    let run =
        place.command(&["run", "-m", "please work for long"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
    let run = Process::reading(run.unwrap());
    place.until_called().await;
    let said = place.local(&["run", "-m", "me too"]);
    said.failed(75, ".var is in use by process ");
    assert!(said.err.contains("agentic-fleet run"), "names the owner: {said:?}");
    let unfinished = place.local(&["checkpoints", "list", "--json"]).json();
    assert_eq!(unfinished["unfinished"][0]["task"], "please work for long", "{unfinished}");
    drop(run);
}

#[tokio::test]
async fn who_follows_a_run_through_a_server_that_dies_or_drains_is_told_how_to_come_back() {
    for signal in ["-KILL", "-TERM"] {
        let mut place = Place::with_model(0, 20);
        place.set("FLEET_SERVER__DRAIN_TIMEOUT_MS", "0");
        place.serve();
        let mut command = place.reach(&["run", "-m", "please tell me more"]);
        let run = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut run = Process::reading(run);
        place.until_called().await;
        place.server().signal(signal);
        assert_eq!(run.exit_code(), Some(1), "{}", run.log());
        let hint = "; to go on: agentic-fleet checkpoints resume ";
        run.wait_for(hint, 1);
        let log = run.log();
        let (id, server) = log.split_once(hint).unwrap().1.trim().split_once(' ').unwrap();
        assert!(server.starts_with("--server http://127.0.0.1:"), "{log}");
        place.kill();
        place.serve();
        // A run that was submitted goes on by itself after a restart; following it again starts no second one.
        let resumed = place.cli(&["checkpoints", "resume", id, "--json"]);
        assert_eq!((resumed.code, &resumed.json()["status"]), (0, &"completed".into()), "{signal}: {resumed:?}");
        assert_eq!(place.counted("completed").await, 1);
    }
}

#[tokio::test]
async fn a_json_run_whose_server_dies_or_drains_prints_which_run_it_was_and_that_it_was_interrupted() {
    for signal in ["-KILL", "-TERM"] {
        let mut place = Place::with_model(0, 20);
        place.set("FLEET_SERVER__DRAIN_TIMEOUT_MS", "0");
        place.serve();
        let mut command = place.reach(&["run", "-m", "please tell me more", "--json"]);
        let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = run.stdout.take().unwrap();
        let mut run = Process::reading(run);
        place.until_called().await;
        place.server().signal(signal);
        assert_eq!(run.exit_code(), Some(1), "{}", run.log());
        let mut told = String::new();
        out.read_to_string(&mut told).unwrap();
        let told: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{signal}: {error}: {told:?}"));
        let hint = format!("; to go on: agentic-fleet checkpoints resume {} ", told["execution_id"].as_str().unwrap());
        run.wait_for(&hint, 1);
        assert_eq!((&told["status"], &told["result"]), (&"interrupted".into(), &Value::Null), "{told}");
        assert_eq!(told["error"]["code"], "interrupted", "{told}");
        assert!(told["error"]["message"].as_str().unwrap().contains(&hint) && told["conversation_id"].is_string());
    }
}

#[test]
fn code_can_be_run_whatever_the_umask_of_the_process_is() {
    let place = Place::new();
    let wanted = place.command(&["run", "-m", "please work"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(wanted.get_program()).args(wanted.get_args());
    for (name, value) in wanted.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let said = shell.current_dir(place.dir.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && !errors.contains("Permission denied"), "{errors}");
}

/// The server takes the connection and says nothing, so the run is still being started.
#[test]
fn an_interrupt_while_a_run_begins_is_remembered_and_a_second_one_leaves() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::new();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut command = place.command(&["run", "-m", "please work", "--server", &url]);
    let run = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = run.id();
    let mut run = Process::reading(run);
    let _accepted = silent.accept().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
    assert!(u64::from_str_radix(caught, 16).unwrap() & 2 != 0, "an interrupt would end it at once");
    // Two that come before the first is looked at are one.
    until("it leaves", || {
        run.signal("-INT");
        run.log().contains("left while the run was being started")
    });
    assert_eq!(run.exit_code(), Some(1), "{}", run.log());
}

/// The server starts the run and dies before it can be followed.
#[test]
fn a_run_that_was_started_and_cannot_be_followed_is_named_with_the_way_back() {
    let dying = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::new();
    let url = format!("http://{}", dying.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut client, _) = dying.accept().unwrap();
        drop(dying);
        let (mut asked, mut piece) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&asked).contains("please work") {
            let read = client.read(&mut piece).unwrap();
            assert!(read > 0, "the body is missing");
            asked.extend_from_slice(&piece[..read]);
        }
        let body = r#"{"workflow_id":"run-7"}"#;
        let head = format!("HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        client.write_all(format!("{head}{body}").as_bytes()).unwrap();
    });
    let said = place.local(&["run", "-m", "please work", "--json", "--server", &url]);
    server.join().unwrap();
    let told = said.json();
    assert_eq!((&told["execution_id"], &told["status"]), (&"run-7".into(), &"interrupted".into()), "{told}");
    said.failed(1, &format!("; to go on: agentic-fleet checkpoints resume run-7 --server {url}"));
}
