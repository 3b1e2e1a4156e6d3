//! `approvals`: open questions, listed and answered in the data directory and through a server, and what an answer that comes late
//! leads to.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::process::{Place, Process, get_until};

/// A place whose assistant asks before it fetches a page; the model's own statistics are a page that it may have then.
fn careful() -> Place {
    let mut place = Place::new();
    let host = place.stats().replace("/admin/stats", "").replace("http://", "");
    let rules = format!(
        r#"tools:
  policy: [{{ principal: "*", tool: fetch_page, access: ask }}]
  fetch_page: {{ allow_hosts: ["{host}"] }}
agents: {{ assistant: {{ tools: [fetch_page] }} }}
pipeline: {{ default_agent: assistant }}
approvals: {{ ask_user: true }}
sessions: {{ park_after_ms: 50 }}
"#
    );
    let file = place.dir.path().join("rules.yaml");
    std::fs::write(&file, rules).unwrap();
    place.set("FLEET_CONFIG", file.to_str().unwrap());
    place
}

/// Runs a message until it asks, in the data directory; its question.
fn asked(place: &Place, conversation: &str, order: &str) -> Value {
    let waits = place.local(&["run", "-m", &format!("please {order}"), "--conversation", conversation]);
    assert!(waits.code == 1 && waits.err.contains("agentic-fleet approvals answer"), "{waits:?}");
    let listed = place.local(&["approvals", "list", "--conversation", conversation, "--json"]).json();
    let questions = listed["approvals"].as_array().unwrap();
    assert_eq!(questions.len(), 1, "{listed}");
    questions[0].clone()
}

fn fetch(place: &Place) -> String {
    format!(r#"[[sim:tool name=fetch_page args={{"url":"{}"}}]]"#, place.stats())
}

fn id(question: &Value) -> &str {
    question["request_id"].as_str().unwrap()
}

fn run_of(question: &Value) -> &str {
    question["workflow_id"].as_str().unwrap()
}

#[test]
fn open_questions_are_listed_page_by_page_and_by_what_they_are_about_here_and_through_a_server() {
    let mut place = careful();
    let first = asked(&place, "talk-1", &fetch(&place));
    let second = asked(&place, "talk-2", r#"[[sim:tool name=ask_user args={"question":"Which year?"}]]"#);
    for served in [false, true] {
        if served {
            place.serve();
        }
        let page = |arguments: &[&str]| {
            let said = place.cli(&[&["approvals", "list", "--json"], arguments].concat()).json();
            let ids: Vec<String> = said["approvals"].as_array().unwrap().iter().map(|row| id(row).to_owned()).collect();
            (ids, said["next_offset"].clone())
        };
        let (one, two) = (vec![id(&first).to_owned()], vec![id(&second).to_owned()]);
        assert_eq!(page(&[]), ([one.clone(), two.clone()].concat(), Value::Null), "the longest waiting first");
        assert_eq!(page(&["--limit", "1"]), (one.clone(), json!(1)));
        assert_eq!(page(&["--limit", "1", "--offset", "1"]).0, two);
        assert_eq!(page(&["--conversation", "talk-2"]).0, two);
        assert_eq!(page(&["--workflow", run_of(&first)]).0, one);
        assert_eq!(page(&["--request", id(&second)]).0, two);
        assert_eq!(page(&["--type", "tool_approval"]).0, one);
        assert_eq!(page(&["--type", "plan_review"]).0, Vec::<String>::new());
        let all = place.cli(&["approvals", "list", "--json"]).json();
        assert_eq!(all["approvals"], json!([first, second]), "what is listed does not depend on the place");

        let said = place.cli(&["approvals", "list", "--limit", "2"]);
        assert!(said.code == 0 && said.out.starts_with("REQUEST") && said.out.lines().count() == 3, "{said:?}");
        assert!(
            said.out.contains("assistant wants fetch_page {\"url\":") && said.out.contains("Which year?"),
            "{said:?}"
        );
        assert!(said.err.contains("--offset 2"), "{said:?}");
    }
}

#[tokio::test]
async fn answers_given_while_no_server_runs_or_through_one_reach_their_runs_and_no_finished_call_is_made_again() {
    for late in [true, false] {
        let mut place = careful();
        let allowed = asked(&place, "allowed", &fetch(&place));
        let refused = asked(&place, "refused", &fetch(&place));
        let changed = asked(&place, "changed", &fetch(&place));
        assert_eq!(place.counted("completed").await, 3, "one call each, before the question");
        let url = if late { String::new() } else { place.serve() };
        let answer = |question: &Value, word: &[&str]| {
            let said = place.cli(&[&["approvals", "answer", id(question)], word].concat());
            assert_eq!(said.code, 0, "{said:?}");
            assert!(said.out.contains(id(question)) && said.out.contains(run_of(question)), "{said:?}");
            assert_eq!(said.err.contains("agentic-fleet serve"), late, "whether it has to wait for a server: {said:?}");
        };
        answer(&allowed, &["--approve"]);
        answer(&refused, &["--reject", "not from that host"]);
        answer(&changed, &["--edit", r#"{"url":"https://127.0.0.1:7/other"}"#]);
        let url = if late {
            let open = place.local(&["approvals", "list", "--json"]).json();
            assert_eq!(open["approvals"], json!([]), "an answered question is not open");
            assert_eq!(place.counted("completed").await, 3, "nothing goes on before a server runs");
            place.serve()
        } else {
            url
        };
        for (question, told) in [
            // The page of statistics, as the model was shown it.
            (&allowed, "completed"),
            (&refused, "not from that host"),
            (&changed, "url_denied"),
        ] {
            let entry = format!("{url}/api/v1/history/{}", run_of(question));
            let entry = get_until(&entry, |entry| entry["status"] == "completed").await;
            assert!(entry["result"].as_str().unwrap().contains(told), "{told}: {entry}");
        }
        assert_eq!(place.counted("completed").await, 6, "one more call each");
    }
}

#[tokio::test]
async fn a_question_of_an_agent_takes_words_and_the_run_is_gone_on_with_in_place() {
    let place = careful();
    let order = r#"[[sim:tool name=ask_user args={"question":"Which year?","options":["2025","2026"]}]]"#;
    let question = asked(&place, "talk", order);
    let answer = ["approvals", "answer", id(&question)];
    let said = place.local(&[&answer[..], &["--approve"]].concat());
    said.failed(2, "this is a user_input: answer it with --text or --value");
    let said = place.local(&[&answer[..], &["--text", "2026", "--json"]].concat());
    let expected = json!({ "request_id": id(&question), "workflow_id": run_of(&question), "status": "ok" });
    assert_eq!((said.code, said.json()), (0, expected));
    let resumed = place.local(&["checkpoints", "resume", run_of(&question)]);
    assert!(resumed.code == 0 && resumed.out.contains("2026"), "{resumed:?}");
    let closed = format!("request {}: answered", id(&question));
    assert!(resumed.err.contains(&closed), "a question that is shown again is told to be over: {resumed:?}");
    assert_eq!(place.counted("completed").await, 2);
}

#[test]
fn a_json_run_that_waits_prints_its_id_and_that_of_its_question_and_both_lead_on() {
    let place = careful();
    let order = r#"please [[sim:tool name=ask_user args={"question":"Which year?"}]]"#;
    let waits = place.local(&["run", "-m", order, "--json"]);
    let told = waits.json();
    assert_eq!((waits.code, &told["status"]), (1, &json!("parked")), "{waits:?}");
    let listed = place.local(&["approvals", "list", "--json"]).json();
    let question = &listed["approvals"][0];
    assert_eq!((id(&told), &told["execution_id"]), (id(question), &question["workflow_id"]));
    assert_eq!(told["conversation_id"], question["conversation_id"]);
    assert_eq!((&told["result"], &told["error"]), (&Value::Null, &Value::Null));
    assert!(waits.err.contains(&format!("agentic-fleet approvals answer {}", id(&told))), "{waits:?}");

    let again = place.local(&["checkpoints", "resume", run_of(question), "--json"]);
    assert_eq!((again.code, &again.json()["status"], id(&again.json())), (1, &json!("parked"), id(&told)));
    assert_eq!(place.local(&["approvals", "answer", id(&told), "--text", "2026"]).code, 0);
    let resumed = place.local(&["checkpoints", "resume", run_of(question), "--json"]);
    assert_eq!((resumed.code, &resumed.json()["status"]), (0, &json!("completed")), "{resumed:?}");
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_said_a_question_stays_open_until_one_fits_and_a_second_answer_is_told_of_its_run()
 {
    for served in [false, true] {
        let mut place = careful();
        let question = asked(&place, "talk", &fetch(&place));
        if served {
            let url = place.serve();
            let local = place.local(&["approvals", "answer", id(&question), "--approve"]);
            local.failed(75, &format!("--server {url}"));
            assert!(place.local(&["approvals", "list"]).out.contains(id(&question)), "listing works beside a server");
        }
        let answer = |id: &str, word: &[&str]| place.cli(&[&["approvals", "answer", id], word].concat());
        let wrong: [&[&str]; 7] = [
            &[],
            &["--approve", "--reject", "no"],
            &["--edit", "[1]"],
            &["--edit", "{"],
            &["--edit", r#"{"address":"https://example.org"}"#],
            &["--text", "not that"],
            &["--value", "3"],
        ];
        for word in wrong {
            let said = answer(id(&question), word);
            assert!(said.code == 2 && said.out.is_empty() && !said.err.contains("panicked"), "{word:?}: {said:?}");
        }
        answer(id(&question), &["--edit", r#"{"url":7}"#]).failed(2, "response/arguments/url");
        let other = r#"{"decision":"approve","arguments":{"url":"https://127.0.0.1:7/other"}}"#;
        answer(id(&question), &["--value", other]).failed(2, r#"{"decision": "edit", "arguments": ...}"#);
        assert_eq!(answer("a/b", &["--approve"]).code, 2);
        answer("nobody", &["--approve"]).failed(1, "nobody: request_unknown");
        answer(id(&question), &["--approve", "--workflow", "nobody"]).failed(1, "not_found");
        answer("nobody", &["--approve", "--workflow", run_of(&question)]).failed(1, "request_unknown");

        assert_eq!(answer(id(&question), &["--value", r#"{"decision":"reject"}"#]).code, 0);
        let closed = format!("{}: request_closed: the request of run {} is", id(&question), run_of(&question));
        answer(id(&question), &["--approve"]).failed(1, &closed);
        answer(id(&question), &["--approve", "--workflow", run_of(&question)]).failed(1, "request_closed");
    }
}

#[tokio::test]
async fn a_run_whose_client_died_before_it_was_parked_keeps_its_question_and_goes_on_when_it_is_answered() {
    for served in [false, true] {
        let mut place = careful();
        place.set("FLEET_SESSIONS__PARK_AFTER_MS", "3600000");
        place.set("FLEET_SESSIONS__DISCONNECT_GRACE_MS", "0");
        let mut run = place.command(&["run", "-m", &format!("please {}", fetch(&place))]);
        let run = Process::reading(run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        run.wait_for("an answer is needed", 1);
        drop(run);
        if served {
            place.serve();
        }
        let listed = place.cli(&["approvals", "list", "--json"]).json();
        let question = &listed["approvals"][0];
        let answered = place.cli(&["approvals", "answer", id(question), "--approve"]);
        assert_eq!(answered.code, 0, "{answered:?}");
        if served {
            let url = place.url();
            let entry = format!("{url}/api/v1/history/{}", run_of(question));
            get_until(&entry, |entry| entry["status"] == "completed").await;
        } else {
            let resume = format!("to go on: agentic-fleet checkpoints resume {}", run_of(question));
            assert!(answered.err.contains(&resume) && !answered.err.contains("serve"), "{answered:?}");
            let resumed = place.cli(&["checkpoints", "resume", run_of(question), "--json"]);
            assert_eq!((resumed.code, &resumed.json()["status"]), (0, &json!("completed")), "{resumed:?}");
        }
        assert_eq!(place.counted("completed").await, 2, "no finished call is made again");
    }
}
