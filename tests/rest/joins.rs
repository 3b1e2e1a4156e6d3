//! Who asks again under the key of a run that rests, because its process was killed, gets that run.

use fleet_actors::ids::WorkflowId;
use fleet_actors::ports::{Posted, Rest, Store as _, StoreWrite, Written};
use serde_json::{Value, json};

use crate::app::{Script, TestApp, until};

/// A run with a key whose process was killed, in the next one, whose model answers: it rests as `interrupted`.
async fn interrupted(cap: u32) -> (TestApp, WorkflowId) {
    let killed = TestApp::spawn(Script::Hangs, 1);
    actix_web::rt::spawn(ask(&killed));
    until("the run", || killed.model_calls() == 1).await;
    let next = killed.restarted(Script::Answers("four"), cap);
    let workflow = next.store.request("k").await.unwrap().unwrap().workflow;
    let epoch = next.store.workflow(&workflow).await.unwrap().unwrap().epoch;
    let rest = StoreWrite::Rest { workflow: workflow.clone(), epoch, rest: Rest::Interrupted };
    assert_eq!(next.sessions.services().checkpoints.write(rest).await, Ok(Written::Done));
    (next, workflow)
}

fn ask(app: &TestApp) -> impl Future<Output = reqwest::Response> + use<> {
    let request = app.request("/api/v1/run", json!({ "task": "two and two?" }).to_string());
    async move { request.header("idempotency-key", "k").send().await.unwrap() }
}

#[actix_web::test]
async fn a_key_of_a_run_that_rests_wakes_it_and_is_answered_at_its_end() {
    let (app, workflow) = interrupted(1).await;
    let response = ask(&app).await;
    assert_eq!(response.status(), 201);
    let run: Value = response.json().await.unwrap();
    assert_eq!((&run["execution_id"], &run["result"]), (&json!(workflow), &json!("four")));
}

#[actix_web::test]
async fn a_run_that_is_cancelled_while_it_waits_for_a_place_is_409_to_who_joined_it() {
    let (app, workflow) = interrupted(1).await;
    let full = app.sessions.admit().unwrap();
    let joined = actix_web::rt::spawn(ask(&app));
    let log = app.sessions.services().logs.open(&workflow);
    until("its watcher", || *log.watchers().borrow() == 1).await;
    assert_eq!(app.sessions.cancel(&workflow, "client").await, Ok(Posted::Accepted));
    let response = joined.await.unwrap();
    assert_eq!(response.status(), 409);
    let problem: Value = response.json().await.unwrap();
    assert_eq!((&problem["code"], &problem["execution_id"]), (&json!("cancelled"), &json!(workflow)));
    drop(full);
}
