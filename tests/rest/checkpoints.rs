//! Whether a run's positions are listed: what each door makes of `enable_checkpointing`, and what it never takes away.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::app::{Script, TestApp};

impl TestApp {
    /// How many checkpoints a run is listed with.
    async fn listed(&self, workflow: &str) -> usize {
        let list = self.get(&format!("/api/v1/checkpoints?workflow_id={workflow}")).await;
        assert_eq!(list.status(), 200);
        list.json::<Value>().await.unwrap().as_array().unwrap().len()
    }

    /// What a socket says to one frame, up to `done`.
    async fn ask(&self, version: u8, frame: Value) -> Vec<Value> {
        let mut request = format!("{}/api/ws/chat", self.url.replace("http:", "ws:")).into_client_request().unwrap();
        if version == 2 {
            request.headers_mut().insert("sec-websocket-protocol", "fleet.v2".parse().unwrap());
        }
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        socket.send(Message::text(frame.to_string())).await.unwrap();
        let mut events = Vec::new();
        while events.last().is_none_or(|event: &Value| event["type"] != "done") {
            let message = socket.next().await.expect("an event before the end").unwrap();
            if let Ok(event) = serde_json::from_str(message.to_text().unwrap_or_default()) {
                events.push(event);
            }
        }
        events
    }

    /// What a stream says, up to its end.
    async fn stream(&self, path: &str) -> Vec<Value> {
        let text = self.get(path).await.text().await.unwrap();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|event| event.parse().unwrap()).collect()
    }
}

/// The run of a stream, and whether it was told that its positions are listed.
fn greeted(events: &[Value]) -> (String, bool) {
    assert_eq!(events[0]["type"], "connected", "{events:#?}");
    let data = &events[0]["data"];
    (data["workflow_id"].as_str().unwrap().to_owned(), data["checkpointing_enabled"].as_bool().unwrap())
}

#[actix_web::test]
async fn every_door_that_streams_carries_whether_checkpoints_are_listed() {
    for configured in [true, false] {
        let app = TestApp::spawn_with(Script::Answers("so"), 8, |settings| {
            settings.sessions.enable_checkpointing = configured;
        });
        for asked in [None, Some(true), Some(false)] {
            let expected = asked.unwrap_or(configured);
            let talk = |door: &str| format!("{door}-{asked:?}").replace(['(', ')'], "-");
            let query = asked.map(|flag| format!("&enable_checkpointing={flag}")).unwrap_or_default();
            let greetings = [
                greeted(&app.stream(&format!("/api/chat/{}/stream?message=hello{query}", talk("sse"))).await),
                greeted(
                    &app.ask(
                        1,
                        json!({"message": "hello", "conversation_id": talk("v1"), "enable_checkpointing": asked}),
                    )
                    .await,
                ),
                greeted(
                    &app.ask(2, json!({"type": "chat.send", "message": "hello", "enable_checkpointing": asked})).await,
                ),
            ];
            for (workflow, told) in greetings {
                assert_eq!((told, app.listed(&workflow).await > 0), (expected, expected), "{asked:?} {configured}");
                // Whoever comes back is told the same.
                for (version, frame) in [
                    (1, json!({"type": "workflow.resume", "checkpoint_id": workflow})),
                    (2, json!({"type": "chat.resume", "workflow_id": workflow})),
                    (2, json!({"type": "chat.watch", "workflow_id": workflow})),
                ] {
                    assert_eq!(greeted(&app.ask(version, frame).await), (workflow.clone(), expected));
                }
                let events = app.stream(&format!("/api/v1/workflows/{workflow}/events")).await;
                assert_eq!(greeted(&events), (workflow, expected));
            }
        }
        // A checkpoint id beside a message turns them on.
        let stray = json!({"message": "hello", "checkpoint_id": "any", "enable_checkpointing": false});
        let (workflow, told) = greeted(&app.ask(1, stray).await);
        assert!(told && app.listed(&workflow).await > 0);
    }
}

#[actix_web::test]
async fn checkpoints_are_listed_unless_a_submission_declines_them() {
    for configured in [true, false] {
        let app = TestApp::spawn_with(Script::Answers("so"), 8, |settings| {
            settings.sessions.enable_checkpointing = configured;
        });
        for (asked, expected) in [(json!(null), configured), (json!(true), true), (json!(false), false)] {
            let body = json!({"task": "hello", "enable_checkpointing": asked}).to_string();
            let run: Value = app.post("/api/v1/run", body.as_str()).await.json().await.unwrap();
            let submitted: Value = app.post("/api/v1/runs", body).await.json().await.unwrap();
            for workflow in [&run["execution_id"], &submitted["execution_id"]] {
                let workflow = workflow.as_str().unwrap();
                app.get(&format!("/api/v1/workflows/{workflow}/events")).await.text().await.unwrap();
                assert_eq!(app.listed(workflow).await > 0, expected, "{asked} {configured}");
            }
        }
    }
    let app = TestApp::spawn(Script::Answers("so"), 1);
    for door in ["run", "runs"] {
        let refused = app.post(&format!("/api/v1/{door}"), r#"{"task":"x","enable_checkpointing":"yes"}"#).await;
        assert_eq!(refused.status(), 422);
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["errors"][0]["field"], "enable_checkpointing");
    }
    let nobody = app.get("/api/v1/checkpoints?workflow_id=nobody").await;
    assert_eq!(nobody.status(), 404, "no list of nobody is not an empty list");
    assert_eq!(app.model_calls(), 0);
}

#[actix_web::test]
async fn a_run_that_is_not_listed_is_shown_resumed_and_forked_all_the_same() {
    let app = TestApp::spawn(Script::Answers("so"), 2);
    let task = r#"{"task":"hello","enable_checkpointing":false}"#;
    let run: Value = app.post("/api/v1/run", task).await.json().await.unwrap();
    let id = run["execution_id"].as_str().unwrap();
    for page in ["", "&limit=1", "&before=9"] {
        let list = app.get(&format!("/api/v1/checkpoints?workflow_id={id}{page}")).await;
        assert!(list.headers().get("x-next-cursor").is_none());
        assert_eq!(list.json::<Value>().await.unwrap(), json!([]), "{page}");
    }
    let shown: Value = app.get(&format!("/api/v1/checkpoints/{id}")).await.json().await.unwrap();
    let newest = shown["position"].as_u64().unwrap();
    assert!(!shown["steps"].as_array().unwrap().is_empty(), "its bare id is its newest position: {shown}");
    let resumed = app.post(&format!("/api/v1/checkpoints/{id}/resume"), "").await;
    assert_eq!((resumed.status().as_u16(), app.model_calls()), (202, 1), "it is over: no call");

    let fork = app.post(&format!("/api/v1/checkpoints/{id}:{}/fork", newest - 1), "").await;
    assert_eq!(fork.status(), 201);
    let fork = fork.json::<Value>().await.unwrap()["workflow_id"].as_str().unwrap().to_owned();
    assert_eq!(app.post(&format!("/api/v1/checkpoints/{fork}/resume"), "").await.status(), 202);
    let events = app.get(&format!("/api/v1/workflows/{fork}/events")).await.text().await.unwrap();
    assert!(events.contains(r#""type":"done""#), "{events}");
    assert_eq!(app.model_calls(), 2);
    assert_eq!(app.listed(&fork).await, 0, "a fork is listed as its parent is");

    for nowhere in [0, newest + 100, 1 << 32, u64::MAX] {
        for verb in ["fork", "resume"] {
            let asked = app.post(&format!("/api/v1/checkpoints/{id}:{nowhere}/{verb}"), "").await;
            assert_eq!(asked.status().as_u16(), 404, "{verb} at {nowhere}");
        }
    }
}
