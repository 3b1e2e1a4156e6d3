//! A run whose server died and whose client did not come back: whoever watches it is told that it rests, lists say so, and
//! whoever comes back after it was resumed has the rest of it.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::answers::{next, socket};
use crate::client::{Seen, read};
use crate::process::{client, get, serve_with, simulate};

const GRACE: [(&str, &str); 1] = [("FLEET_SESSIONS__DISCONNECT_GRACE_MS", "1500")];

/// The chat that both tests begin, and come back to.
const CHAT: &str = "/api/chat/talk/stream?version=2&message=tell+me+more";

/// Begins a chat; its run, once its model is asked. The client goes away.
async fn chatting(http: &reqwest::Client, url: &str) -> String {
    let mut chat = http.get(format!("{url}{CHAT}")).send().await.unwrap();
    let mut shown = String::new();
    while !shown.contains("step.started") {
        shown.push_str(&String::from_utf8_lossy(&chat.chunk().await.unwrap().expect("a stream")));
    }
    let connected: Value = serde_json::from_str(shown.lines().next().unwrap().trim_start_matches("data: ")).unwrap();
    connected["workflow_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "current_thread")]
async fn who_watches_a_run_that_comes_to_rest_as_interrupted_is_told_and_goes_on_with_it_once_it_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 3_000, 0);
    let http = client();
    let (server, url) = serve_with(dir.path(), &model, &GRACE);
    let workflow = chatting(&http, &url.unwrap()).await;
    drop(server);

    let (_server, url) = serve_with(dir.path(), &model, &GRACE);
    let url = url.unwrap();
    let (session, events) =
        (format!("{url}/api/v1/sessions/{workflow}"), format!("{url}/api/v1/workflows/{workflow}/events"));
    let mut v2 = socket(&url, Some("fleet.v2")).await;
    let watch = json!({ "type": "chat.watch", "workflow_id": workflow });
    v2.send(Message::text(watch.to_string())).await.unwrap();
    next(&mut v2, |event| event["type"] == "step.started").await;
    // Both began to watch while the run could still go on.
    assert_eq!(get(&http, session.clone()).await["status"], "running");
    let mut seen = Seen::default();
    let (told, told_v2) = futures_util::future::join(
        read(&http, &events, None, &mut seen),
        next(&mut v2, |event| event["type"] == "error"),
    )
    .await;
    let codes = [&told.errors[0]["data"]["code"], &told_v2["data"]["code"]];
    assert_eq!((told.errors.len(), codes), (1, ["interrupted"; 2].map(Value::from).each_ref()), "{told:?} {told_v2}");
    assert!(!seen.is_done() && seen.count("step.started") == 1, "{seen:?}");
    assert_eq!(get(&http, session.clone()).await["status"], "interrupted");
    let listed = get(&http, format!("{url}/api/v1/sessions")).await;
    assert_eq!((&listed[0]["workflow_id"], &listed[0]["status"]), (&workflow.as_str().into(), &"interrupted".into()));

    // Who comes to a run at rest is told at once, and when to come back; watching does not wake it.
    let at_rest = http.get(&events).send().await.unwrap().text().await.unwrap();
    assert!(at_rest.contains("retry: 5000\ndata: ") && at_rest.contains(r#""code":"interrupted""#), "{at_rest}");
    assert_eq!(get(&http, session.clone()).await["status"], "interrupted");

    let resumed = http.post(format!("{url}/api/v1/checkpoints/{workflow}/resume")).send().await.unwrap();
    assert_eq!(resumed.status(), 202);
    assert_eq!(get(&http, session.clone()).await["status"], "running");
    let rest = read(&http, &events, Some(seen.last), &mut seen).await;
    assert!(seen.is_done() && rest.errors.is_empty(), "{rest:?} {seen:?}");
    assert_eq!((seen.count("step.voided"), seen.count("response.completed")), (1, 1), "{seen:?}");
    v2.send(Message::text(watch.to_string())).await.unwrap();
    next(&mut v2, |event| event["type"] == "done").await;
    assert_eq!(get(&http, session).await["status"], "completed");
    let closed = tokio::time::timeout(Duration::from_millis(1), v2.next()).await;
    assert!(closed.is_err(), "the socket stays: {closed:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_that_comes_back_within_its_grace_wakes_its_run_and_who_only_watched_goes_on_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 2_000, 0);
    let http = client();
    let (server, url) = serve_with(dir.path(), &model, &[]);
    let workflow = chatting(&http, &url.unwrap()).await;
    drop(server);

    let (_server, url) = serve_with(dir.path(), &model, &[]);
    let url = url.unwrap();
    let mut v2 = socket(&url, Some("fleet.v2")).await;
    let watch = json!({ "type": "chat.watch", "workflow_id": workflow });
    v2.send(Message::text(watch.to_string())).await.unwrap();
    next(&mut v2, |event| event["type"] == "step.started").await;
    let mut seen = Seen::default();
    let chat = format!("{url}{CHAT}");
    let (back, watched) = futures_util::future::join(
        read(&http, &chat, Some(0), &mut seen),
        next(&mut v2, |event| event["type"] == "done" || event["type"] == "error"),
    )
    .await;
    assert!(seen.is_done() && back.workflow == Some(workflow), "{back:?} {seen:?}");
    assert_eq!((back.errors, &watched["type"]), (vec![], &"done".into()));
}
