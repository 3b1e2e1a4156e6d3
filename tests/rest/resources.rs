//! Each resource: what it shows and what it does.

use std::time::Duration;

use fleet_actors::event::RunOutcome;
use fleet_actors::ports::{Rest, Store as _, StoreError, WorkflowState};
use fleet_actors::testing::{CommitFault, Reading};
use serde_json::{Value, json};

use crate::app::{Script, TestApp};

#[actix_web::test]
async fn a_run_answers_with_its_result_and_stands_in_history_and_checkpoints() {
    let app = TestApp::spawn(Script::Answers("four"), 1);
    let response = app.post("/api/v1/run", r#"{"task":"two and two?"}"#).await;
    assert_eq!(response.status(), 201);
    let run: Value = response.json().await.unwrap();
    assert_eq!((&run["result"], &run["status"]), (&json!("four"), &json!("completed")));
    let id = run["execution_id"].as_str().unwrap();
    let entry: Value = app.get(&format!("/api/v1/history/{id}")).await.json().await.unwrap();
    assert_eq!(entry["task"], "two and two?");
    let checkpoints: Value = app.get(&format!("/api/v1/checkpoints?workflow_id={id}")).await.json().await.unwrap();
    let checkpoint = checkpoints[0]["checkpoint_id"].as_str().unwrap();
    let shown: Value = app.get(&format!("/api/v1/checkpoints/{checkpoint}")).await.json().await.unwrap();
    assert!(!shown["steps"].as_array().unwrap().is_empty());
    let fork = app.post(&format!("/api/v1/checkpoints/{checkpoint}/fork"), "").await;
    assert_eq!(fork.status(), 201);
    assert_eq!(app.get("/api/v1/checkpoints").await.status(), 422);
    assert_eq!(app.sessions.admission().live(), 0);
}

#[actix_web::test]
async fn a_provider_failure_is_502_and_a_deadline_504_with_the_execution_id() {
    for (code, status) in [("provider_error", 502), ("provider_timeout", 504)] {
        let app = TestApp::spawn(Script::Fails(code), 1);
        let response = app.post("/api/v1/run", r#"{"task":"t"}"#).await;
        assert_eq!(response.status().as_u16(), status);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["code"], code);
        assert!(body["execution_id"].is_string());
    }
}

#[actix_web::test]
async fn the_same_idempotency_key_calls_the_model_once_and_another_body_is_refused() {
    let app = TestApp::spawn(Script::Answers("once"), 1);
    let ask = |task: &str| {
        app.request("/api/v1/run", json!({ "task": task }).to_string()).header("idempotency-key", "k1").send()
    };
    let first: Value = ask("t").await.unwrap().json().await.unwrap();
    let full = app.sessions.admit().unwrap();
    let again = ask("t").await.unwrap();
    assert_eq!(again.status(), 201, "a repeat needs no place");
    let again: Value = again.json().await.unwrap();
    assert_eq!(first["execution_id"], again["execution_id"]);
    assert_eq!(app.model_calls(), 1);
    let other = ask("something else").await.unwrap();
    assert_eq!(other.status(), 422);
    let other: Value = other.json().await.unwrap();
    assert_eq!(other["code"], "request_key_conflict");
    drop(full);
}

#[actix_web::test]
async fn a_background_run_is_listed_and_deleting_its_session_cancels_it() {
    let app = TestApp::spawn(Script::Hangs, 1);
    let response = app.post("/api/v1/runs", r#"{"task":"long"}"#).await;
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let run: Value = response.json().await.unwrap();
    assert_eq!(run["links"]["self"], location);
    let listed: Value = app.get("/api/v1/sessions").await.json().await.unwrap();
    assert_eq!((&listed[0]["workflow_id"], &listed[0]["status"]), (&run["workflow_id"], &json!("running")));
    assert_eq!(app.delete(&location).await.status(), 204);
    let ended: Value = app.get(&location).await.json().await.unwrap();
    assert_eq!(ended["status"], "cancelled");
    assert_eq!(app.delete("/api/v1/sessions/unknown").await.status(), 404);
}

#[actix_web::test]
async fn a_conversation_is_made_listed_shown_and_deleted() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let made: Value = app.post("/api/v1/conversations", r#"{"title":"Plans"}"#).await.json().await.unwrap();
    assert_eq!(made["id"], made["conversation_id"]);
    assert_eq!((&made["title"], &made["messages"]), (&json!("Plans"), &json!([])));
    let path = format!("/api/v1/conversations/{}", made["id"].as_str().unwrap());
    let listed: Value = app.get("/api/v1/conversations?limit=1").await.json().await.unwrap();
    assert_eq!(listed[0]["id"], made["id"]);
    assert_eq!(app.get("/api/v1/conversations?limit=101").await.status(), 422);
    assert_eq!(app.get(&path).await.status(), 200);
    assert_eq!(app.delete(&path).await.status(), 204);
    assert_eq!(app.get(&path).await.status(), 404);
}

#[actix_web::test]
async fn a_run_with_a_damaged_journal_is_cancelled_by_each_door_and_deleted_with_its_conversation_or_alone() {
    let doors = ["session", "chat", "conversation"];
    for door in doors {
        let died = TestApp::spawn(Script::Hangs, 1);
        let path = format!("/api/v1/conversations/{}", conversation(&died).await);
        let body = json!({ "task": "long", "conversation_id": path.rsplit('/').next() }).to_string();
        let run: Value = died.post("/api/v1/runs", body).await.json().await.unwrap();
        let id = run["workflow_id"].as_str().unwrap().to_owned();
        let app = died.restarted(Script::Hangs, 1);
        let damaged = Reading::Journal(id.parse().unwrap());
        app.store.on_read(move |reading| match reading == damaged {
            true => Err(StoreError::Damaged("a record".to_owned())),
            false => Ok(()),
        });
        let state = async || app.store.workflow(&id.parse().unwrap()).await.unwrap().map(|row| row.state);
        assert_eq!(app.post(&format!("/api/v1/checkpoints/{id}/resume"), "").await.status(), 500, "{door}");
        assert_eq!(state().await, Some(WorkflowState::Resting(Rest::Quarantined)), "{door}");
        let entry = format!("/api/v1/history/{id}");
        assert_eq!(app.delete(&entry).await.status(), 409, "{door}: it is not over");
        let cancelled = match door {
            "session" => app.delete(&format!("/api/v1/sessions/{id}")).await,
            "chat" => {
                let talk = path.rsplit('/').next().unwrap();
                app.post(&format!("/api/chat/{talk}/cancel?workflow_id={id}"), "").await
            }
            _ => app.delete(&path).await,
        };
        assert!(cancelled.status().is_success(), "{door}: {}", cancelled.status());
        if door != "conversation" {
            assert_eq!(state().await, Some(WorkflowState::Ended(RunOutcome::Cancelled)), "{door}");
            assert_eq!(app.get(&entry).await.json::<Value>().await.unwrap()["status"], "cancelled", "{door}");
            assert_eq!(app.delete(&entry).await.status(), 204, "{door}");
        }
        assert_eq!(state().await, None, "{door}");
    }
}

async fn conversation(app: &TestApp) -> String {
    let made: Value = app.post("/api/v1/conversations", "{}").await.json().await.unwrap();
    made["id"].as_str().unwrap().to_owned()
}

#[actix_web::test]
async fn history_pages_by_cursor_and_can_be_deleted() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    for _ in 0..3 {
        assert_eq!(app.post("/api/v1/run", r#"{"task":"t"}"#).await.status(), 201);
    }
    let page = app.get("/api/v1/history?limit=2").await;
    let cursor = page.headers()["x-next-cursor"].to_str().unwrap().to_owned();
    let page: Vec<Value> = page.json().await.unwrap();
    assert_eq!((page.len(), page[1]["workflow_id"].as_str()), (2, Some(cursor.as_str())));
    let last = app.get(&format!("/api/v1/history?limit=2&before={cursor}")).await;
    assert!(!last.headers().contains_key("x-next-cursor"));
    assert_eq!(last.json::<Vec<Value>>().await.unwrap().len(), 1);
    assert_eq!(app.get("/api/v1/history?limit=0").await.status(), 422);
    assert_eq!(app.delete(&format!("/api/v1/history/{cursor}")).await.status(), 204);
    assert_eq!(app.delete("/api/v1/history").await.status(), 204);
    assert!(app.get("/api/v1/history").await.json::<Vec<Value>>().await.unwrap().is_empty());
}

#[actix_web::test]
async fn no_list_of_sessions_remembers_what_was_deleted() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let mut ids = Vec::new();
    for body in [r#"{"task":"a","conversation_id":"talk"}"#, r#"{"task":"b"}"#, r#"{"task":"c"}"#, r#"{"task":"d"}"#] {
        let done: Value = app.post("/api/v1/run", body).await.json().await.unwrap();
        ids.push(done["execution_id"].as_str().unwrap().to_owned());
    }
    let steps = [
        ("/api/v1/conversations/talk".to_owned(), &ids[1..]),
        (format!("/api/v1/history/{}", ids[1]), &ids[2..]),
        ("/api/v1/history".to_owned(), &[]),
    ];
    for (path, left) in steps {
        assert_eq!(app.delete(&path).await.status(), 204, "{path}");
        let listed: Vec<Value> = app.get("/api/v1/sessions").await.json().await.unwrap();
        let listed: Vec<&str> = listed.iter().rev().map(|session| session["workflow_id"].as_str().unwrap()).collect();
        assert_eq!(listed, left, "{path}");
    }
    assert_eq!(app.get(&format!("/api/v1/sessions/{}", ids[0])).await.status(), 404);
}

#[actix_web::test]
async fn a_client_without_a_key_that_leaves_ends_its_run_at_once() {
    let app = TestApp::spawn(Script::Hangs, 1);
    let asked = async {
        while app.model_calls() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = app.post("/api/v1/run", r#"{"task":"t"}"#) => panic!("the model hangs"),
        () = asked => {}
    }
    let freed = async {
        while app.sessions.admission().live() > 0 {
            app.sessions.admission().released().await;
        }
    };
    // Far below the grace, which a client with a key gets.
    tokio::time::timeout(std::time::Duration::from_secs(5), freed).await.expect("the run goes on");
    // The place is free at once; the end shows one commit later.
    let ended = async {
        loop {
            let sessions: Value = app.get("/api/v1/sessions").await.json().await.unwrap();
            if sessions[0]["status"] != "running" {
                return sessions[0]["status"].clone();
            }
        }
    };
    let status = tokio::time::timeout(std::time::Duration::from_secs(5), ended).await.expect("the end does not show");
    assert_eq!(status, "cancelled");
}

#[actix_web::test]
async fn a_submission_may_name_its_conversation_and_effort_and_goes_on_from_a_checkpoint() {
    let app = TestApp::spawn(Script::Answers("so"), 4);
    let task = r#"{"task":"first","conversation_id":"talk","reasoning_effort":"minimal"}"#;
    let run: Value = app.post("/api/v1/run", task).await.json().await.unwrap();
    let id = run["execution_id"].as_str().unwrap();
    let entry: Value = app.get(&format!("/api/v1/history/{id}")).await.json().await.unwrap();
    assert_eq!((&entry["conversation_id"], &entry["reasoning_effort"]), (&json!("talk"), &json!("minimal")));
    for (body, field) in [
        (r#"{"task":"x","conversation_id":"a b"}"#, "conversation_id"),
        (r#"{"task":"x","conversation_id":7}"#, "conversation_id"),
        (r#"{"task":"x","reasoning_effort":"much"}"#, "reasoning_effort"),
    ] {
        let refused = app.post("/api/v1/runs", body).await;
        assert_eq!(refused.status(), 422);
        let problem: Value = refused.json().await.unwrap();
        assert_eq!((&problem["code"], &problem["errors"][0]["field"]), (&json!("validation_failed"), &json!(field)));
    }

    let all: Value = app.get(&format!("/api/v1/checkpoints?workflow_id={id}")).await.json().await.unwrap();
    let newest = all[0]["position"].as_u64().unwrap();
    let page = app.get(&format!("/api/v1/checkpoints?workflow_id={id}&limit=1")).await;
    assert!(page.headers().get("x-next-cursor").is_none());
    assert_eq!(page.json::<Value>().await.unwrap(), all);
    let page = app.get(&format!("/api/v1/checkpoints?workflow_id={id}&before={newest}")).await;
    assert_eq!(page.json::<Value>().await.unwrap(), json!([]));
    assert_eq!(app.get(&format!("/api/v1/checkpoints?workflow_id={id}&before=x")).await.status(), 422);

    let calls = app.model_calls();
    let resumed = app.post(&format!("/api/v1/checkpoints/{id}/resume"), "").await;
    assert_eq!(resumed.status(), 202);
    assert_eq!(resumed.json::<Value>().await.unwrap()["workflow_id"], id);
    let earlier = format!("{id}:{}", newest - 1);
    let resumed = app.post(&format!("/api/v1/checkpoints/{earlier}/resume"), r#"{"reasoning_effort":"maximal"}"#).await;
    assert_eq!(resumed.status(), 202);
    let fork = resumed.json::<Value>().await.unwrap()["workflow_id"].as_str().unwrap().to_owned();
    assert_ne!(fork, id);
    let events = app.get(&format!("/api/v1/workflows/{fork}/events")).await.text().await.unwrap();
    assert!(events.contains(r#""type":"done""#), "{events}");
    let entry: Value = app.get(&format!("/api/v1/history/{fork}")).await.json().await.unwrap();
    assert_eq!((&entry["status"], &entry["reasoning_effort"]), (&json!("completed"), &json!("maximal")));
    assert_eq!(app.model_calls(), calls + 1, "only the fork asked the model");
    for (path, body, status) in
        [("nobody", "", 404), (id, r#"{"reasoning_effort":"much"}"#, 422), (id, r#"{"other":1}"#, 422), (id, "{", 400)]
    {
        assert_eq!(
            app.post(&format!("/api/v1/checkpoints/{path}/resume"), body).await.status(),
            status,
            "{path} {body}"
        );
    }
    assert_eq!(app.sessions.admission().live(), 0);
}

#[actix_web::test]
async fn a_resume_over_http_waits_for_a_place_as_a_woken_run_does() {
    let app = TestApp::spawn(Script::Answers("so"), 1);
    let run: Value = app.post("/api/v1/run", r#"{"task":"first"}"#).await.json().await.unwrap();
    let id = run["execution_id"].as_str().unwrap();
    let fork = app.post(&format!("/api/v1/checkpoints/{id}/fork"), "").await;
    let fork = fork.json::<Value>().await.unwrap()["workflow_id"].as_str().unwrap().to_owned();
    let permit = app.sessions.admit().unwrap();
    let url = format!("/api/v1/checkpoints/{fork}/resume");
    let mut resume = std::pin::pin!(app.post(&url, ""));
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut resume).await;
    assert!(early.is_err(), "the house is full");
    let again = app.post(&format!("/api/v1/checkpoints/{id}/resume"), "").await;
    assert_eq!(again.status(), 202, "what is over needs no place");
    drop(permit);
    assert_eq!(resume.await.status(), 202);
    let events = app.get(&format!("/api/v1/workflows/{fork}/events")).await.text().await.unwrap();
    assert!(events.contains(r#""type":"done""#), "{events}");
    let entry: Value = app.get(&format!("/api/v1/history/{fork}")).await.json().await.unwrap();
    assert_eq!(entry["status"], "completed", "a fork of a run that is over has an end of its own");
}

#[actix_web::test]
async fn while_the_store_is_full_new_work_is_refused_without_asking_it_until_a_probe_finds_room() {
    let app = TestApp::spawn(Script::Answers("so"), 1);
    let done: Value = app.post("/api/v1/run", r#"{"task":"before"}"#).await.json().await.unwrap();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let commits = asked.clone();
    app.store.on_commit(move |_| {
        commits.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        CommitFault::RefuseBefore(StoreError::Full)
    });
    let asked = || asked.load(std::sync::atomic::Ordering::SeqCst);
    // The probe of a store in memory finds room at once, after the interval that the app gives it.
    for commits in [1, 1, 1] {
        let refused = app.post("/api/v1/run", r#"{"task":"now"}"#).await;
        assert_eq!((refused.status(), refused.headers().contains_key("retry-after")), (503.try_into().unwrap(), true));
        assert_eq!(refused.json::<Value>().await.unwrap()["code"], "storage_unavailable");
        assert_eq!(asked(), commits, "only the first one reached the store");
    }
    assert_eq!(app.get("/readyz").await.status(), 503);
    let id = done["execution_id"].as_str().unwrap();
    assert_eq!(app.get(&format!("/api/v1/history/{id}")).await.status(), 200, "reading goes on");
    assert_eq!(app.delete(&format!("/api/v1/history/{id}")).await.status(), 204, "and so does deleting");
    app.store.heal();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while app.get("/readyz").await.status() != 200 {
        assert!(std::time::Instant::now() < end, "it never heals");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // allow-sleep: polls a condition under a deadline
    }
    assert_eq!(app.post("/api/v1/run", r#"{"task":"after"}"#).await.status(), 201);
    assert_eq!(app.sessions.admission().live(), 0);
}

#[actix_web::test]
async fn a_run_that_a_full_store_stopped_says_so_to_lists_and_to_who_comes_later() {
    let app = TestApp::spawn(Script::Answers("so"), 1);
    app.store.on_commit(|appends| match appends.iter().all(|append| append.create.is_some()) {
        true => CommitFault::Proceed,
        false => CommitFault::RefuseBefore(StoreError::Failed("no more".into())),
    });
    let run: Value = app.post("/api/v1/runs", r#"{"task":"t"}"#).await.json().await.unwrap();
    let id = run["workflow_id"].as_str().unwrap();
    let session = async || app.get(&format!("/api/v1/sessions/{id}")).await.json::<Value>().await.unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while session().await["status"] == "running" {
        assert!(std::time::Instant::now() < end, "it never stops");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await; // allow-sleep: polls a condition under a deadline
    }
    assert_eq!(session().await["status"], "failed");
    let listed: Value = app.get("/api/v1/sessions").await.json().await.unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["status"]), (1, &json!("failed")), "{listed}");
    let events = format!("/api/v1/workflows/{id}/events");
    let told = app.get(&events).await.text().await.unwrap();
    assert!(told.contains(r#""code":"storage_unavailable""#) && !told.contains(r#""type":"done""#), "{told}");
    app.store.heal();
    assert_eq!(app.post(&format!("/api/v1/checkpoints/{id}/resume"), "").await.status(), 202);
    let told = app.get(&events).await.text().await.unwrap();
    assert!(told.contains(r#""type":"done""#), "{told}");
    let listed: Value = app.get("/api/v1/sessions").await.json().await.unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["status"]), (1, &json!("completed")), "{listed}");
}

#[actix_web::test]
async fn an_intent_is_one_of_those_that_may_be_and_is_answered_as_it_was_judged() {
    let answer = r#"{"intent":"refund","confidence":0.9,"reasoning":"they want their money"}"#;
    let app = TestApp::spawn(Script::Answers(answer), 1);
    let body = r#"{"text":"give me my money back","possible_intents":["refund","greeting"]}"#;
    let response = app.post("/api/v1/classify_intent", body).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.json::<Value>().await.unwrap(), serde_json::from_str::<Value>(answer).unwrap());
    // One that is none of them is asked for once more, and then there is no answer.
    let body = r#"{"text":"give me my money back","possible_intents":["greeting"]}"#;
    let response = app.post("/api/v1/classify_intent", body).await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.json::<Value>().await.unwrap()["code"], "prompt_output_invalid");
    let entries: Value = app.get("/api/v1/history").await.json().await.unwrap();
    assert_eq!((&entries[0]["model_calls"], &entries[1]["model_calls"]), (&json!(2), &json!(1)));
    assert_eq!(app.sessions.admission().live(), 0);
}

#[actix_web::test]
async fn entities_are_answered_and_a_text_or_a_choice_that_is_wrong_is_named() {
    let answer = r#"{"entities":[{"text":"Paris","type":"location","confidence":1.0}],"reasoning":"a city"}"#;
    let app = TestApp::spawn(Script::Answers(answer), 1);
    let response = app.post("/api/v1/extract_entities", r#"{"text":"off to Paris","entity_types":["location"]}"#).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.json::<Value>().await.unwrap(), serde_json::from_str::<Value>(answer).unwrap());
    for (body, field) in [
        (r#"{"text":"  "}"#, "text"),
        (r#"{}"#, "text"),
        (r#"{"text":"x","entity_types":"location"}"#, "entity_types"),
        (r#"{"text":"x","entity_types":[""]}"#, "entity_types"),
        (r#"{"text":"x","mode":"auto"}"#, "mode"),
    ] {
        let response = app.post("/api/v1/extract_entities", body).await;
        assert_eq!(response.status(), 422, "{body}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["errors"][0]["field"], field, "{body}");
    }
}

#[actix_web::test]
async fn a_full_house_refuses_an_intent_as_it_refuses_a_run() {
    let app = TestApp::spawn(Script::Hangs, 1);
    assert_eq!(app.post("/api/v1/runs", r#"{"task":"stay"}"#).await.status(), 202);
    let response = app.post("/api/v1/classify_intent", r#"{"text":"hello"}"#).await;
    assert_eq!(response.status(), 429);
    assert!(response.headers().contains_key("retry-after"));
}

#[actix_web::test]
async fn a_conversation_whose_runs_a_stopping_process_left_to_the_next_one_is_not_deleted() {
    // More than one page of runs.
    const RUNS: u32 = 101;
    let app = TestApp::spawn(Script::Hangs, RUNS);
    for n in 0..RUNS {
        let run = json!({"task": "wait", "conversation_id": "c"}).to_string();
        assert_eq!(app.post("/api/v1/runs", run).await.status(), 202, "run {n}");
    }
    app.sessions.drain(true).await.unwrap();
    let deletion = app.delete("/api/v1/conversations/c");
    let refused = tokio::time::timeout(Duration::from_secs(20), deletion).await.expect("in time");
    let refused: Value = refused.json().await.unwrap();
    assert_eq!((&refused["status"], &refused["code"]), (&json!(409), &json!("in_use")), "{refused}");
    assert_eq!(app.get("/api/v1/conversations/c").await.status(), 200);
}

#[actix_web::test]
async fn a_conversation_whose_runs_cannot_end_for_want_of_room_is_deleted() {
    let app = TestApp::spawn(Script::Answers("so"), 1);
    let run = app.post("/api/v1/run", r#"{"task":"first","conversation_id":"c"}"#).await.json::<Value>().await.unwrap();
    let id = run["execution_id"].as_str().unwrap();
    let fork = app.post(&format!("/api/v1/checkpoints/{id}/fork"), "").await.json::<Value>().await.unwrap();
    let fork = format!("/api/v1/workflows/{}/events", fork["workflow_id"].as_str().unwrap());
    app.store.on_commit(|_| CommitFault::RefuseBefore(StoreError::Full));
    let refused = app.post("/api/v1/runs", r#"{"task":"now"}"#).await;
    assert_eq!(refused.status(), 503, "the control: nothing can be written");
    assert_eq!(app.get(&fork).await.status(), 200, "the control: it rests");
    let deleted = app.delete("/api/v1/conversations/c").await;
    assert_eq!(deleted.status(), 204, "{}", deleted.text().await.unwrap());
    for gone in ["/api/v1/conversations/c", &fork] {
        assert_eq!(app.get(gone).await.status(), 404, "{gone}");
    }
}
