//! `fleet.v2`.

use agentic_fleet::settings::units::Count;
use serde_json::{Value, json};

use crate::app::{TestApp, app};
use crate::client::types;

fn seqs(events: &[Value]) -> Vec<u64> {
    events.iter().filter_map(|event| event["seq"].as_u64()).collect()
}

#[actix_web::test]
async fn two_turns_share_a_socket_and_a_known_message_id_starts_no_third() {
    let app = app().await;
    let mut ws = app.ws2().await;
    let send = |id: &str, message: &str| json!({"type": "chat.send", "client_message_id": id, "message": message, "conversation_id": "c"});
    ws.send(send("m1", "hello")).await;
    let first = ws.until("done").await;
    ws.send(send("m2", "hello")).await;
    let second = ws.until("done").await;
    assert_eq!((&first[0]["client_message_id"], &second[0]["client_message_id"]), (&json!("m1"), &json!("m2")));
    assert_ne!(first[0]["workflow_id"], second[0]["workflow_id"]);
    ws.send(send("m1", "hello")).await;
    let again = ws.until("done").await;
    assert_eq!(again[0]["workflow_id"], first[0]["workflow_id"]);
    assert_eq!(app.calls(), 2);
    ws.send(send("m1", "other words")).await;
    let conflict = ws.next().await.expect("an event");
    assert_eq!(conflict["data"]["code"], "request_key_conflict");
    assert_eq!(conflict["client_message_id"], "m1");
}

#[actix_web::test]
async fn every_event_of_a_run_has_its_number_and_steps_are_events() {
    let app = app().await;
    let mut ws = app.ws2().await;
    ws.send(json!({"type": "chat.send", "message": "hello"})).await;
    let events = ws.until("done").await;
    let numbers = seqs(&events);
    assert_eq!(numbers.len(), events.len() - 1, "all but connected");
    assert!(numbers.is_sorted_by(|a, b| a < b));
    let completed = events.iter().find(|event| event["type"] == "step.completed" && event["text"] == "Hello");
    let completed = completed.expect("a model step");
    assert!(completed["step"].is_string() && completed["attempt"] == 1 && completed["duration_ms"].is_u64());
    assert_eq!(completed["step_info"]["kind"], "model");
    let offsets: Vec<_> = events.iter().filter(|event| event["type"] == "response.delta").collect();
    assert_eq!((&offsets[0]["offset"], &offsets[1]["offset"]), (&json!(0), &json!(3)));
}

#[actix_web::test]
async fn a_new_socket_goes_on_behind_the_number_it_names() {
    let app = app().await;
    let mut ws = app.ws2().await;
    ws.send(json!({"type": "chat.send", "message": "wait", "conversation_id": "c"})).await;
    let seen = ws.until("response.delta").await;
    let (id, after) = (seen[0]["workflow_id"].clone(), seqs(&seen).last().copied());
    drop(ws);
    let mut back = app.ws2().await;
    back.send(json!({"type": "chat.resume", "workflow_id": id, "after_seq": after})).await;
    assert_eq!(back.next().await.expect("connected")["data"]["is_resume"], true);
    app.script.gate.open();
    let rest = back.until("done").await;
    assert!(seqs(&rest).first().copied() > after);
    assert_eq!((rest[0]["delta"].as_str(), app.calls()), (Some("two"), 1));
}

#[actix_web::test]
async fn a_full_house_is_an_error_and_the_socket_stays() {
    let app = TestApp::with(|s| s.sessions.max_concurrent_workflows = Count::new(1).expect("in range")).await;
    let mut ws = app.ws2().await;
    ws.send(json!({"type": "chat.send", "client_message_id": "a", "message": "wait"})).await;
    let id = ws.until("response.delta").await[0]["workflow_id"].clone();
    ws.send(json!({"type": "chat.send", "client_message_id": "b", "message": "hello"})).await;
    let refused = ws.next().await.expect("an event");
    assert_eq!((&refused["data"]["code"], &refused["client_message_id"]), (&json!("session_cap_reached"), &json!("b")));
    ws.send(json!({"type": "ping"})).await;
    assert_eq!(ws.next().await.expect("an event")["type"], "pong");
    ws.send(json!({"type": "chat.cancel", "workflow_id": id})).await;
    let ended = ws.until("done").await;
    assert!(types(&ended).contains(&"cancelled"));
}

#[actix_web::test]
async fn a_full_house_keeps_nobody_from_the_run_of_a_known_message_id_and_a_repetition_keeps_no_place() {
    for cap in [1, 2] {
        let app = TestApp::with(|s| s.sessions.max_concurrent_workflows = Count::new(cap).expect("in range")).await;
        let send = |message: &str| json!({"type": "chat.send", "client_message_id": "a", "message": message});
        let mut ws = app.ws2().await;
        ws.send(send("wait")).await;
        let id = ws.until("response.delta").await[0]["workflow_id"].clone();
        let mut again = app.ws2().await;
        for _ in 0..3 {
            again.send(send("wait")).await;
            let connected = again.until("connected").await.pop().expect("connected");
            assert_eq!((&connected["workflow_id"], &connected["data"]["is_resume"]), (&id, &json!(true)), "cap {cap}");
            again.send(send("other words")).await;
            let conflict = again.until("error").await.pop().expect("an error");
            assert_eq!(conflict["data"]["code"], "request_key_conflict", "cap {cap}");
        }
        assert_eq!((app.api.sessions.admission().live(), app.calls()), (1, 1), "cap {cap}");
        app.script.gate.open();
        ws.until("done").await;
    }
}

#[actix_web::test]
async fn a_bad_frame_gets_an_error_that_names_its_field() {
    let app = app().await;
    let mut ws = app.ws2().await;
    let table = [
        (json!({"type": "chat.dance"}), "type"),
        (json!({"type": "chat.send", "client_message_id": "k"}), "message"),
        (json!({"type": "chat.send", "message": "hi", "x": 1}), "x"),
        (json!({"type": "chat.watch", "workflow_id": "w", "after_seq": -1}), "after_seq"),
        (json!({"type": "chat.respond", "workflow_id": "w", "request_id": "r"}), "response"),
    ];
    for (frame, field) in table {
        ws.send(frame).await;
        let event = ws.next().await.expect("an event");
        assert_eq!(event["data"]["errors"][0]["field"], field);
    }
    ws.send(json!({"type": "chat.watch", "workflow_id": "nobody"})).await;
    assert_eq!(ws.next().await.expect("an event")["data"]["code"], "not_found");
}

#[actix_web::test]
async fn many_sockets_watch_one_run() {
    let app = app().await;
    let mut first = app.ws2().await;
    first.send(json!({"type": "chat.send", "message": "wait"})).await;
    let id = first.until("response.delta").await[0]["workflow_id"].clone();
    let mut second = app.ws2().await;
    second.send(json!({"type": "chat.watch", "workflow_id": id})).await;
    second.until("response.delta").await;
    app.script.gate.open();
    assert_eq!(seqs(&first.until("done").await), seqs(&second.until("done").await));
}
