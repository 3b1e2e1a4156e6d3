//! WebSocket version 1.

use std::time::Duration;

use agentic_fleet::settings::units::{Count, Millis};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};

use crate::app::{DEADLINE, TestApp, app, until};
use crate::client::{Sse, status, types};

pub const GOLDEN: [&str; 11] = [
    "connected",
    "workflow.status",
    "agent.start",
    "reasoning.delta",
    "response.delta",
    "response.delta",
    "reasoning.completed",
    "agent.output",
    "agent.complete",
    "response.completed",
    "workflow.status",
];

#[actix_web::test]
async fn a_chat_is_connected_then_events_then_done_then_closed_with_1000() {
    let app = app().await;
    let mut ws = app.ws().await;
    ws.send(json!({"message": "hello", "conversation_id": "c1"})).await;
    let (events, code) = ws.rest().await;
    assert_eq!(types(&events), [&GOLDEN[..], &["done"]].concat());
    assert_eq!(code, 1000);
    let workflow = &events[0]["workflow_id"];
    assert!(events.iter().all(|event| event["workflow_id"] == *workflow && event["timestamp"].is_string()));
    assert!(events.iter().all(|event| event.get("seq").is_none() && event.get("step").is_none()));
    let data = json!({"conversation_id": "c1", "checkpoint_id": workflow, "is_resume": false,
        "checkpointing_enabled": true, "workflow_id": workflow});
    assert_eq!(events[0]["data"], data);
    let completed = events.iter().find(|event| event["type"] == "response.completed").expect("one");
    assert_eq!(completed["message"], "Hello");
    assert_eq!(completed["category"], "response");
    assert_eq!(completed["ui_hint"], json!({"component": "MessageBubble", "priority": "high", "collapsible": false}));
    until("the permit came back", || app.live() == 0).await;
    app.stop().await;
}

#[actix_web::test]
async fn a_client_without_streaming_gets_the_same_events_without_deltas() {
    let app = app().await;
    let mut ws = app.ws().await;
    ws.send(json!({"message": "hello", "stream": false})).await;
    let (events, _) = ws.rest().await;
    let kept = GOLDEN.into_iter().filter(|kind| !kind.ends_with(".delta")).chain(["done"]);
    assert_eq!(types(&events), kept.collect::<Vec<_>>());
}

#[actix_web::test]
async fn every_bad_first_frame_gets_an_error_that_names_it_then_done_then_1008() {
    let app = app().await;
    let long = json!({ "message": "x".repeat(32_769) }).to_string();
    let table = [
        ("nonsense", None, "invalid_frame"),
        ("[1]", None, "invalid_frame"),
        ("{}", Some("message"), "invalid_frame"),
        (r#"{"message":3}"#, Some("message"), "invalid_frame"),
        (r#"{"message":""}"#, Some("message"), "validation_failed"),
        (r#"{"message":" \n "}"#, Some("message"), "validation_failed"),
        (&long, Some("message"), "validation_failed"),
        (r#"{"message":"hi","color":"red"}"#, Some("color"), "invalid_frame"),
        (r#"{"message":"hi","mode":"auto"}"#, Some("mode"), "invalid_frame"),
        (r#"{"message":"hi","stream":"yes"}"#, Some("stream"), "invalid_frame"),
        (r#"{"message":"hi","reasoning_effort":"huge"}"#, Some("reasoning_effort"), "invalid_frame"),
        (r#"{"message":"hi","conversation_id":"a b"}"#, Some("conversation_id"), "invalid_frame"),
        (r#"{"type":"cancel"}"#, Some("type"), "invalid_frame"),
        (r#"{"type":"workflow.resume"}"#, Some("checkpoint_id"), "invalid_frame"),
        (r#"{"type":"workflow.resume","checkpoint_id":"x","message":"hi"}"#, Some("message"), "invalid_frame"),
        (r#"{"type":"workflow.resume","checkpoint_id":"nobody"}"#, None, "not_found"),
    ];
    for (frame, field, code) in table {
        let mut ws = app.ws().await;
        ws.send_text(frame).await;
        let (events, closed) = ws.rest().await;
        assert_eq!((types(&events), closed), (vec!["error", "done"], 1008), "{frame}");
        assert_eq!(events[0]["data"]["code"], code, "{frame}");
        if let Some(field) = field {
            assert_eq!(events[0]["data"]["errors"][0]["field"], field, "{frame}");
        }
    }
    assert_eq!(app.calls(), 0);
}

#[actix_web::test]
async fn a_socket_that_says_nothing_is_told_so_and_closed() {
    let app = TestApp::with(|s| s.server.handshake_timeout_ms = Millis::new(50).expect("in range")).await;
    let (events, code) = app.ws().await.rest().await;
    assert_eq!((types(&events), code), (vec!["error", "done"], 1008));
    assert_eq!(events[0]["data"]["code"], "handshake_timeout");
}

#[actix_web::test]
async fn origins_are_compared_whole_and_refused_before_the_upgrade() {
    let app = app().await;
    let table = [
        ("http://localhost:3000", 101),
        ("http://127.0.0.1", 101),
        ("http://localhost.evil.example", 403),
        ("http://evil.example", 403),
        ("http://localhost@evil.example", 403),
        ("null", 403),
    ];
    for (origin, expected) in table {
        assert_eq!(status(app.try_ws("/api/ws/chat", &[("origin", origin)]).await), expected, "{origin}");
    }
    assert_eq!(status(app.try_ws("/api/ws/chat", &[]).await), 101);
}

#[actix_web::test]
async fn the_connection_above_the_last_place_is_refused_with_503() {
    let app = TestApp::with(|s| s.server.connections_max = Count::new(1).expect("in range")).await;
    let held = app.ws().await;
    assert_eq!(status(app.try_ws("/api/ws/chat", &[]).await), 503);
    drop(held);
    until("the place is free", || app.api.connections.open() == 0).await;
}

#[actix_web::test]
async fn a_full_house_refuses_tools_with_429_and_tells_browsers_before_1013() {
    let app = TestApp::with(|s| s.sessions.max_concurrent_workflows = Count::new(1).expect("in range")).await;
    let mut busy = app.ws().await;
    busy.send(json!({"message": "wait"})).await;
    busy.until("response.delta").await;
    assert_eq!(status(app.try_ws("/api/ws/chat", &[]).await), 429);
    let mut browser = app.try_ws("/api/ws/chat", &[("origin", "http://localhost")]).await.expect("accepted");
    let (events, code) = browser.rest().await;
    assert_eq!((types(&events), code), (vec!["error", "done"], 1013));
    assert_eq!(events[0]["data"]["code"], "session_cap_reached");
    assert!(events[0]["data"]["retry_after"].as_u64() >= Some(1));
    // Who comes to resume is let in, and who asks for more is told then.
    let mut resumer = app.try_ws("/api/ws/chat?resume=1", &[]).await.expect("accepted");
    resumer.send(json!({"message": "hello"})).await;
    assert_eq!(resumer.rest().await.1, 1013);
    app.script.gate.open();
    assert_eq!(busy.rest().await.1, 1000);
    assert_eq!(app.calls(), 1);
}

#[actix_web::test]
async fn a_cancel_frame_ends_in_cancelled_then_done() {
    let app = app().await;
    let mut ws = app.ws().await;
    ws.send(json!({"message": "wait"})).await;
    ws.until("response.delta").await;
    ws.send(json!({"type": "cancel"})).await;
    let (events, code) = ws.rest().await;
    assert_eq!((types(&events), code), (vec!["cancelled", "done"], 1000));
    until("the permit came back", || app.live() == 0).await;
}

#[actix_web::test]
async fn other_frames_get_an_error_and_the_run_goes_on() {
    let app = app().await;
    let mut ws = app.ws().await;
    ws.send(json!({"message": "wait"})).await;
    ws.until("response.delta").await;
    let table = [
        (json!({"message": "again"}), "invalid_frame"),
        (json!({"type": "dance"}), "invalid_frame"),
        (json!({"type": "workflow.response", "response": 1}), "invalid_frame"),
        (json!({"type": "response", "request_id": "nobody", "response": 1}), "request_unknown"),
    ];
    for (frame, code) in table {
        ws.send(frame).await;
        let event = ws.next().await.expect("an event");
        assert_eq!((&event["type"], &event["data"]["code"]), (&json!("error"), &json!(code)));
    }
    app.script.gate.open();
    let (events, code) = ws.rest().await;
    assert_eq!((types(&events).last(), code), (Some(&"done"), 1000));
}

#[actix_web::test]
async fn only_a_close_with_1000_by_the_starter_cancels() {
    let app = app().await;
    for (code, live) in [(CloseCode::Away, 1), (CloseCode::Normal, 0)] {
        let mut ws = app.ws().await;
        ws.send(json!({"message": "wait", "conversation_id": u16::from(code).to_string()})).await;
        ws.until("response.delta").await;
        let before = app.api.connections.open();
        ws.0.close(Some(CloseFrame { code, reason: "".into() })).await.expect("closed");
        until("the socket is gone", || app.api.connections.open() < before).await;
        until("the run is as it should be", || app.live() == live).await;
        app.script.gate.open();
        until("the run is over", || app.live() == 0).await;
    }
}

#[actix_web::test]
async fn the_same_message_joins_the_run_that_was_left() {
    let app = app().await;
    let ask = json!({"message": "wait", "conversation_id": "c"});
    let mut first = app.ws().await;
    first.send(ask.clone()).await;
    let left = first.until("response.delta").await;
    drop(first);
    until("the run is in its grace", || app.api.sessions.services().logs.in_grace() == 1).await;
    let mut second = app.ws().await;
    second.send(ask).await;
    let again = second.until("response.delta").await;
    assert_eq!(types(&again), types(&left), "from the start of its log");
    assert_eq!(again[0]["workflow_id"], left[0]["workflow_id"]);
    app.script.gate.open();
    assert_eq!(second.rest().await.1, 1000);
    assert_eq!(app.calls(), 1);
}

#[actix_web::test]
async fn a_finished_run_is_resumed_on_a_new_socket_without_a_call() {
    let app = app().await;
    let mut first = app.ws().await;
    first.send(json!({"message": "hello", "conversation_id": "c"})).await;
    let (events, _) = first.rest().await;
    let id = events[0]["workflow_id"].clone();
    let mut again = app.ws().await;
    again.send(json!({"type": "workflow.resume", "checkpoint_id": id})).await;
    let (replayed, code) = again.rest().await;
    assert_eq!(replayed[0]["data"]["is_resume"], true);
    let whole = |events: &[Value]| {
        let mut kinds = types(events).into_iter().map(str::to_owned).collect::<Vec<_>>();
        kinds.retain(|kind| !kind.ends_with(".delta"));
        kinds
    };
    assert_eq!((whole(&replayed), code), (whole(&events), 1000));
    assert_eq!(app.calls(), 1);
    let mut stranger = app.ws().await;
    stranger.send(json!({"type": "workflow.resume", "checkpoint_id": id, "conversation_id": "other"})).await;
    let (refused, code) = stranger.rest().await;
    assert_eq!((&refused[0]["data"]["code"], code), (&json!("validation_failed"), 1008));
}

#[actix_web::test]
async fn malformed_frames_are_closed_with_the_code_that_fits() {
    let app = app().await;
    let text = |data: Vec<u8>| Frame::message(data, OpCode::Data(Data::Text), true);
    let reserved = Frame::message(Vec::new(), OpCode::Data(Data::Reserved(3)), true);
    let mut compressed = text(b"{}".to_vec());
    compressed.header_mut().rsv1 = true;
    let table = [
        (Message::Frame(compressed), 1002),
        (Message::Frame(text(vec![0xff, 0xfe])), 1007),
        (Message::Frame(text(vec![b'x'; 524_289])), 1009),
        (Message::Binary(vec![1].into()), 1003),
        (Message::Frame(reserved), 1002),
    ];
    for (frame, expected) in table {
        let mut ws = app.ws().await;
        ws.0.send(frame).await.expect("sent");
        assert_eq!(ws.rest().await, (vec![], expected));
    }
}

/// All of it need not come first: whoever waits for that holds what a client likes to send.
#[actix_web::test]
async fn a_frame_that_is_too_big_is_closed_with_1009_when_its_header_has_come() {
    let app = app().await;
    for length in [524_289_u64, 1 << 40, 1 << 62] {
        let mut ws = app.ws().await;
        let mut header = vec![0x81, 0xff];
        header.extend(length.to_be_bytes());
        let MaybeTlsStream::Plain(stream) = ws.0.get_mut() else { panic!("a socket without TLS") };
        stream.write_all(&header).await.expect("sent");
        assert_eq!(ws.rest().await, (vec![], 1009), "{length}");
    }
}

#[actix_web::test]
async fn a_message_in_1024_fragments_and_a_last_is_read_and_one_that_goes_on_without_end_is_closed_with_1008() {
    let fragment = |code: Data, text: &str, is_last: bool| {
        Message::Frame(Frame::message(text.as_bytes().to_vec(), OpCode::Data(code), is_last))
    };
    let app = app().await;
    let mut ws = app.ws().await;
    ws.0.feed(fragment(Data::Text, r#"{"mess"#, false)).await.expect("sent");
    for _ in 1..1_024 {
        ws.0.feed(fragment(Data::Continue, "", false)).await.expect("sent");
    }
    ws.0.send(fragment(Data::Continue, r#"age":"hello"}"#, true)).await.expect("sent");
    assert_eq!(ws.rest().await.1, 1000);
    for text in ["", "x"] {
        let (mut frames, mut answers) = app.ws2().await.0.split();
        actix_web::rt::spawn(async move {
            let _ = frames.send(fragment(Data::Text, "{", false)).await;
            while frames.send(fragment(Data::Continue, text, false)).await.is_ok() {}
        });
        let closed = async {
            loop {
                let message = answers.next().await.expect("a close frame").expect("a close frame");
                if let Message::Close(frame) = message {
                    return frame.map(|frame| u16::from(frame.code));
                }
            }
        };
        let closed = tokio::time::timeout(DEADLINE, closed).await;
        assert_eq!(closed.expect("in time"), Some(1008), "{text:?}");
    }
}

#[actix_web::test]
async fn a_flood_of_frames_is_closed_with_1008_and_another_socket_is_served_meanwhile() {
    let app = app().await;
    let mut flooder = app.ws().await;
    flooder.send(json!({"message": "wait"})).await;
    flooder.until("response.delta").await;
    // As fast as it can, however fast that is, until it is closed.
    let (mut frames, mut answers) = flooder.0.split();
    actix_web::rt::spawn(async move { while frames.send(Message::text("{}")).await.is_ok() {} });
    let flood = actix_web::rt::spawn(async move {
        loop {
            match answers.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return u16::from(frame.code),
                Some(Ok(_)) => {}
                Some(Err(error)) => panic!("without a close frame: {error}"),
                None => panic!("without a close frame"),
            }
        }
    });
    let mut other = app.ws().await;
    other.send(json!({"message": "hello"})).await;
    assert_eq!(tokio::time::timeout(Duration::from_secs(1), other.rest()).await.expect("at once").1, 1000);
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), flood).await.expect("in time").expect("no panic"), 1008);
    app.script.gate.open();
}

#[actix_web::test]
async fn a_drained_run_says_error_and_done_and_closes_with_1012() {
    let app = app().await;
    let mut ws = app.ws().await;
    ws.send(json!({"message": "wait"})).await;
    ws.until("response.delta").await;
    app.api.sessions.drain(true).await.expect("drained");
    let (events, code) = ws.rest().await;
    assert_eq!((types(&events), code), (vec!["error", "done"], 1012));
    assert_eq!(events[0]["data"]["code"], "interrupted");
    let mut late = app.ws().await;
    late.send(json!({"message": "hello"})).await;
    let (events, code) = late.rest().await;
    assert_eq!((types(&events), code), (vec!["error", "done"], 1012));
    assert_eq!(events[0]["data"]["code"], "draining");
}

#[actix_web::test]
async fn a_server_that_stops_says_so_to_every_socket_and_stream_that_waits() {
    let app = app().await;
    let (mut silent, mut idle) = (app.ws().await, app.ws2().await);
    let mut watching = app.ws().await;
    watching.send(json!({"message": "wait"})).await;
    let id = watching.until("response.delta").await[0]["workflow_id"].clone();
    let id = id.as_str().expect("an id");
    let mut stream = Sse::new(app.get(&format!("/api/v1/workflows/{id}/events"), &[]).await);
    assert_eq!(stream.next().await.expect("an event").1["type"], "connected");
    app.api.connections.close();
    for socket in [&mut silent, &mut watching] {
        let (events, code) = socket.rest().await;
        assert_eq!((types(&events), code), (vec!["error", "done"], 1012));
        assert_eq!(events[0]["data"]["code"], "draining");
    }
    let (events, code) = idle.rest().await;
    assert_eq!((types(&events), code, &events[0]["data"]["code"]), (vec!["error"], 1012, &json!("draining")));
    let rest = stream.rest().await;
    let (id, last) = rest.last().expect("an event");
    assert_eq!((id, &last["type"], &last["data"]["code"]), (&None, &json!("error"), &json!("draining")));
    app.script.gate.open();
}

#[actix_web::test]
async fn a_client_without_pongs_is_closed_with_4408() {
    let app = TestApp::with(|s| {
        s.server.ping_interval_ms = Millis::new(20).expect("in range");
        s.server.pong_timeout_ms = Millis::new(60).expect("in range");
    })
    .await;
    // Not reading is what keeps a client from answering pings.
    let mut ws = app.ws().await;
    ws.send(json!({"message": "wait"})).await;
    until("the socket is gone", || app.calls() == 1 && app.api.connections.open() == 0).await;
    assert_eq!(ws.rest().await.1, 4408);
    app.script.gate.open();
}

#[actix_web::test]
async fn a_position_before_the_last_result_is_resumed_as_a_fork_with_a_call_of_its_own() {
    let app = app().await;
    let mut first = app.ws().await;
    first.send(json!({"message": "hello", "conversation_id": "c"})).await;
    let id = first.rest().await.0[0]["workflow_id"].as_str().expect("an id").to_owned();
    let mut fork = app.ws().await;
    fork.send(json!({"type": "workflow.resume", "checkpoint_id": format!("{id}:3")})).await;
    let (events, code) = fork.rest().await;
    assert_eq!((types(&events).last(), code), (Some(&"done"), 1000), "{events:#?}");
    assert_ne!(events[0]["workflow_id"], id);
    assert_eq!(events[0]["data"]["conversation_id"], "c");
    assert_eq!(app.calls(), 2);
    let mut before_its_input = app.ws().await;
    before_its_input.send(json!({"type": "workflow.resume", "checkpoint_id": format!("{id}:1")})).await;
    assert_eq!(before_its_input.rest().await.0[0]["data"]["code"], "not_found");
}

#[actix_web::test]
async fn a_live_socket_hears_heartbeats_after_connected() {
    let app = TestApp::with(|s| s.server.heartbeat_interval_ms = Millis::new(20).expect("in range")).await;
    let mut ws = app.ws().await;
    ws.send(json!({"message": "wait"})).await;
    let first = ws.raw().await;
    assert_eq!(first["type"], "connected");
    while ws.raw().await["type"] != "heartbeat" {}
    app.script.gate.open();
    assert_eq!(ws.rest().await.1, 1000);
}

#[actix_web::test]
async fn a_plain_get_is_told_that_a_handshake_is_wanted() {
    let app = app().await;
    let response = app.get("/api/ws/chat", &[]).await;
    assert_eq!(response.status().as_u16(), 400);
    assert_eq!(response.json::<Value>().await.expect("json")["code"], "invalid_handshake");
    until("the place is free", || app.api.connections.open() == 0).await;
}
