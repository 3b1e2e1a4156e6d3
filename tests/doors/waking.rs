//! Runs at rest whose clients come back by each of the doors: in the one place there is, and to a full house.

use std::time::Duration;

use agentic_fleet::settings::Settings;
use agentic_fleet::settings::units::Count;
use fleet_actors::ids::WorkflowId;
use fleet_actors::ports::{Posted, Rest, StoreWrite, WorkflowState, Written};
use serde_json::{Value, json};

use crate::app::{TestApp, until};
use crate::client::{Sse, Ws};

const DOORS: [&str; 3] = ["v1", "v2", "sse"];

/// A client of one run.
enum Client {
    Ws(Ws),
    Sse(Sse),
}

impl Client {
    /// Comes back to a run that rests, and is connected.
    async fn back(app: &TestApp, door: &str, run: &WorkflowId) -> Self {
        let (mut client, frame) = match door {
            // It says that it resumes, so that a full house lets it in.
            "v1" => (
                Self::Ws(app.try_ws("/api/ws/chat?resume=1", &[]).await.expect("a socket")),
                json!({"type": "workflow.resume", "checkpoint_id": run}),
            ),
            "v2" => (Self::Ws(app.ws2().await), json!({"type": "chat.resume", "workflow_id": run})),
            _ => {
                let stream = app.get("/api/chat/c/stream?message=hello", &[("last-event-id", "0")]).await;
                (Self::Sse(Sse::new(stream)), Value::Null)
            }
        };
        if let Self::Ws(ws) = &mut client {
            ws.send(frame).await;
        }
        let connected = client.next().await;
        assert_eq!((&connected["type"], &connected["workflow_id"]), (&json!("connected"), &json!(run)), "{door}");
        client
    }

    async fn next(&mut self) -> Value {
        match self {
            Self::Ws(ws) => ws.next().await.expect("an event"),
            Self::Sse(sse) => sse.next().await.expect("an event").1,
        }
    }
}

/// A run that rests as `interrupted`: the newest of its conversation.
async fn resting(app: &TestApp) -> WorkflowId {
    let mut ws = app.ws().await;
    ws.send(json!({"message": "hello", "conversation_id": "c"})).await;
    let (events, _) = ws.rest().await;
    let run: WorkflowId = events[0]["workflow_id"].as_str().expect("an id").parse().expect("an id");
    app.api.sessions.fork(&run, None).await.expect("a fork")
}

async fn state(app: &TestApp, run: &WorkflowId) -> WorkflowState {
    app.api.sessions.store().workflow(run).await.expect("a store").expect("a run").state
}

#[actix_web::test]
async fn a_run_at_rest_is_resumed_in_the_one_place_that_it_has_for_watchers() {
    for door in DOORS {
        let one = |s: &mut Settings| s.sessions.watchers_per_run_max = Count::new(1).expect("in range");
        let app = TestApp::with(one).await;
        let run = resting(&app).await;
        let mut client = Client::back(&app, door, &run).await;
        loop {
            let event = client.next().await;
            assert_ne!(event["type"], "error", "{door}: {event}");
            if event["type"] == "done" {
                break;
            }
        }
    }
}

#[actix_web::test]
async fn a_client_that_leaves_while_its_run_waits_for_a_place_leaves_the_run_at_rest() {
    for door in DOORS {
        let one = |s: &mut Settings| s.sessions.max_concurrent_workflows = Count::new(1).expect("in range");
        let app = TestApp::with(one).await;
        let run = resting(&app).await;
        let mut full = app.ws().await;
        full.send(json!({"message": "wait"})).await;
        full.until("response.delta").await;
        let client = Client::back(&app, door, &run).await;
        let watchers = app.api.sessions.services().logs.open(&run).watchers();
        assert_eq!(*watchers.borrow(), 1, "{door}: it waits in one place");
        drop(client);
        until("its place free", || *watchers.borrow() == 0).await;
        app.script.gate.open();
        full.rest().await;
        until("the house empty", || app.live() == 0).await;
        for _ in 0..10 {
            // allow-sleep: what waits for a permit looks every 20 ms, and must not be there to look
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(state(&app, &run).await, WorkflowState::Resting(Rest::Interrupted), "{door}");
        }
    }
}

#[actix_web::test]
async fn a_run_that_is_cancelled_and_removed_while_it_waits_for_a_place_says_so_and_is_done() {
    for door in DOORS {
        let one = |s: &mut Settings| s.sessions.max_concurrent_workflows = Count::new(1).expect("in range");
        let app = TestApp::with(one).await;
        let run = resting(&app).await;
        let full = app.api.sessions.admit().expect("a place");
        let mut client = Client::back(&app, door, &run).await;
        assert_eq!(app.api.sessions.cancel(&run, "client").await, Ok(Posted::Accepted));
        let delete = StoreWrite::DeleteConversation("c".parse().expect("an id"));
        assert_eq!(app.api.sessions.services().checkpoints.write(delete).await, Ok(Written::Done));
        let mut last = Vec::new();
        while last.last().is_none_or(|kind| kind != "done") {
            let event = client.next().await;
            assert_ne!(event["type"], "error", "{door}: {event}");
            last.push(event["type"].clone());
        }
        assert!(last.contains(&json!("cancelled")), "{door}: {last:?}");
        drop(full);
    }
}

#[actix_web::test]
async fn a_socket_of_many_runs_is_told_which_of_them_does_not_go_on() {
    let app = TestApp::with(|_| {}).await;
    let runs = [resting(&app).await, resting(&app).await];
    app.api.sessions.drain(false).await.expect("drained");
    let mut ws = app.ws2().await;
    for run in runs {
        ws.send(json!({"type": "chat.resume", "workflow_id": run})).await;
        let error = ws.until("error").await.pop().expect("an error");
        assert_eq!((&error["data"]["code"], &error["workflow_id"]), (&json!("draining"), &json!(run)));
        ws.send(json!({"type": "chat.respond", "workflow_id": run, "request_id": "r", "response": 1})).await;
        let error = ws.until("error").await.pop().expect("an error");
        assert_eq!((&error["data"]["code"], &error["workflow_id"]), (&json!("request_unknown"), &json!(run)));
    }
}
