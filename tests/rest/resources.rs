//! Each resource: what it shows and what it does.

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
