//! Server-sent events, and the answers and cancels beside them.

use agentic_fleet::settings::units::{Count, Millis};
use serde_json::{Value, json};

use crate::app::{TestApp, app, until};
use crate::client::{Sse, types};
use crate::v1::GOLDEN;

#[actix_web::test]
async fn a_chat_streams_the_same_events_with_rising_ids() {
    let app = app().await;
    let response = app.get("/api/chat/c1/stream?message=hello", &[]).await;
    assert_eq!(response.headers()["cache-control"], "no-cache");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let events = Sse::new(response).rest().await;
    let (ids, events): (Vec<_>, Vec<_>) = events.into_iter().unzip();
    assert_eq!(types(&events), [&GOLDEN[..], &["done"]].concat());
    assert_eq!(ids[0], None, "connected is the stream's own");
    assert!(ids[1..].iter().all(Option::is_some) && ids.is_sorted_by(|a, b| a < b));
}

#[actix_web::test]
async fn a_last_event_id_goes_on_and_past_the_end_stops_without_a_second_call() {
    let app = app().await;
    let path = "/api/chat/c1/stream?message=wait";
    let mut first = Sse::new(app.get(path, &[]).await);
    let mut last = None;
    while let Some((id, event)) = first.next().await {
        last = id.or(last);
        if event["type"] == "response.delta" {
            break;
        }
    }
    drop(first);
    let seen = last.expect("an id");
    let mut back = Sse::new(app.get(path, &[("last-event-id", &seen.to_string())]).await);
    assert_eq!(back.next().await.expect("connected").1["data"]["is_resume"], true);
    app.script.gate.open();
    let rest = back.rest().await;
    assert!(rest.iter().all(|(id, _)| *id > Some(seen)));
    let end = rest.last().expect("done");
    assert_eq!(end.1["type"], "done");
    let end = end.0.expect("an id").to_string();
    assert_eq!(app.get(path, &[("last-event-id", &end)]).await.status().as_u16(), 204);
    let nobody = app.get("/api/chat/c1/stream?message=never", &[("last-event-id", "1")]).await;
    assert_eq!(nobody.status().as_u16(), 204);
    assert_eq!(app.calls(), 1);
}

#[actix_web::test]
async fn a_full_house_is_429_with_retry_after_but_the_run_that_was_left_is_found() {
    let app = TestApp::with(|s| s.sessions.max_concurrent_workflows = Count::new(1).expect("in range")).await;
    let path = "/api/chat/c1/stream?message=wait";
    let mut first = Sse::new(app.get(path, &[]).await);
    let workflow = first.next().await.expect("connected").1["workflow_id"].clone();
    let full = app.get("/api/chat/c2/stream?message=hello", &[]).await;
    assert_eq!(full.status().as_u16(), 429);
    assert!(full.headers().contains_key("retry-after") && full.headers().contains_key("ratelimit"));
    let problem: Value = full.json().await.expect("json");
    assert_eq!(problem["code"], "session_cap_reached");
    drop(first);
    until("the run is in its grace", || app.api.sessions.services().logs.in_grace() == 1).await;
    let mut again = Sse::new(app.get(path, &[]).await);
    assert_eq!(again.next().await.expect("connected").1["workflow_id"], workflow);
    app.script.gate.open();
    assert_eq!(again.rest().await.last().expect("done").1["type"], "done");
}

#[actix_web::test]
async fn bad_queries_are_422_and_name_their_field() {
    let app = app().await;
    let long = format!("/api/chat/c/stream?message={}", "x".repeat(8_193));
    let table = [
        ("/api/chat/c/stream", "message"),
        ("/api/chat/c/stream?message=%20", "message"),
        (&long, "message"),
        ("/api/chat/a%20b/stream?message=hi", "conversation_id"),
        ("/api/chat/c/stream?message=hi&reasoning_effort=huge", "reasoning_effort"),
        ("/api/chat/c/stream?message=hi&enable_checkpointing=maybe", "enable_checkpointing"),
        ("/api/chat/c/stream?message=hi&version=3", "version"),
        ("/api/chat/c/stream?message=hi&version=2&mode=chaos", "mode"),
    ];
    for (path, field) in table {
        let response = app.get(path, &[]).await;
        assert_eq!(response.status().as_u16(), 422, "{field}");
        let problem: Value = response.json().await.expect("json");
        assert_eq!(problem["errors"][0]["field"], field);
    }
    assert_eq!(app.calls(), 0);
}

#[actix_web::test]
async fn the_number_to_read_a_log_from_is_digits_and_nothing_else() {
    let app = app().await;
    let (_, connected) =
        Sse::new(app.get("/api/chat/c/stream?message=hello", &[]).await).next().await.expect("an event");
    let path = format!("/api/v1/workflows/{}/events", connected["workflow_id"].as_str().expect("an id"));
    let json = ("accept", "application/json");
    for (number, status) in [("5", 200), ("%2B5", 422), ("-1", 422), ("5.0", 422), ("%205", 422), ("", 422)] {
        for name in ["after", "limit"] {
            let response = app.get(&format!("{path}?{name}={number}"), &[json]).await;
            assert_eq!(response.status().as_u16(), status, "{name}={number}");
        }
    }
    for number in ["+5", "-1", "5.0"] {
        let response = app.get(&path, &[("last-event-id", number)]).await;
        assert_eq!(response.status().as_u16(), 422, "{number}");
    }
}

#[actix_web::test]
async fn version_2_may_force_a_mode_and_version_1_has_none() {
    let app = app().await;
    for (query, agents) in [
        ("version=2&mode=fast_path", 0),
        ("version=2&mode=delegated", 1),
        ("version=2&mode=", 1),
        ("version=2", 1),
        ("mode=fast_path", 1),
        ("mode=chaos", 1),
    ] {
        let path = format!("/api/chat/{}/stream?message=hello&{query}", query.replace(['=', '&'], "-"));
        let events: Vec<_> =
            Sse::new(app.get(&path, &[]).await).rest().await.into_iter().map(|(_, event)| event).collect();
        let began = events.iter().filter(|event| event["type"] == "agent.start").count();
        assert_eq!((began, &events.last().expect("done")["type"]), (agents, &json!("done")), "{query}: {events:#?}");
    }
}

#[actix_web::test]
async fn a_run_is_cancelled_over_http_once_and_strangers_do_not_find_it() {
    let app = app().await;
    let mut stream = Sse::new(app.get("/api/chat/c1/stream?message=wait", &[]).await);
    let id = stream.next().await.expect("connected").1["workflow_id"].as_str().expect("an id").to_owned();
    let post = async |path: String, body: Value| {
        let response = reqwest::Client::new().post(app.url(&path)).json(&body).send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.expect("json"))
    };
    let stranger = post(format!("/api/chat/c2/cancel?workflow_id={id}"), json!({})).await;
    assert_eq!(stranger.0, 404);
    let answer = json!({"request_id": "r", "response": true});
    let unknown = post(format!("/api/chat/c1/respond?workflow_id={id}"), answer).await;
    assert_eq!((unknown.0, &unknown.1["code"]), (404, &json!("request_unknown")));
    let cancelled = post(format!("/api/chat/c1/cancel?workflow_id={id}"), json!({})).await;
    assert_eq!(cancelled, (200, json!({"status": "cancelled", "workflow_id": id})));
    let events = stream.rest().await;
    let kinds: Vec<_> = events.iter().map(|(_, event)| event["type"].as_str().expect("a type")).collect();
    assert!(kinds.ends_with(&["cancelled", "done"]), "{kinds:?}");
    let again = post(format!("/api/chat/c1/cancel?workflow_id={id}"), json!({})).await;
    assert_eq!((again.0, &again.1["code"]), (409, &json!("workflow_closed")));
}

#[actix_web::test]
async fn the_log_of_a_run_is_read_as_a_page_or_as_a_stream() {
    let app = app().await;
    let mut stream = Sse::new(app.get("/api/chat/c1/stream?message=hello", &[]).await);
    let id = stream.next().await.expect("connected").1["workflow_id"].as_str().expect("an id").to_owned();
    stream.rest().await;
    let path = format!("/api/v1/workflows/{id}/events");
    let json = [("accept", "application/json")];
    let whole: Value = app.get(&path, &json).await.json().await.expect("json");
    let events = whole["events"].as_array().expect("events");
    assert_eq!((whole["done"].as_bool(), whole.get("next_after")), (Some(true), None));
    let mut paged = Vec::new();
    let mut after = 0;
    loop {
        let page: Value = app.get(&format!("{path}?after={after}&limit=2"), &json).await.json().await.expect("json");
        paged.extend(page["events"].as_array().expect("events").clone());
        match page["next_after"].as_u64() {
            Some(next) => {
                assert_eq!(page["events"].as_array().map(Vec::len), Some(2), "a page that is not the last is full");
                after = next;
            }
            None => break,
        }
    }
    assert_eq!(&paged, events);
    let last = events.last().and_then(|event| event["seq"].as_u64()).expect("a number");
    for after in [last, last + 1] {
        let end: Value = app.get(&format!("{path}?after={after}"), &json).await.json().await.expect("json");
        assert_eq!(end, json!({ "events": [], "done": true }), "asked from the end, after {after}");
    }
    let streamed = Sse::new(app.get(&path, &[]).await).rest().await;
    assert!(streamed.iter().skip(1).all(|(id, event)| id.is_some() && event["seq"].as_u64() == *id));
    assert_eq!(app.get("/api/v1/workflows/nobody/events", &json).await.status().as_u16(), 404);
}

#[actix_web::test]
async fn a_waiting_stream_sends_heartbeats_as_data_without_ids() {
    let app = TestApp::with(|s| s.server.heartbeat_interval_ms = Millis::new(20).expect("in range")).await;
    let mut response = app.get("/api/chat/c1/stream?message=wait", &[]).await;
    let mut text = String::new();
    while !text.contains("heartbeat") {
        let chunk = response.chunk().await.expect("a chunk").expect("open");
        text.push_str(std::str::from_utf8(&chunk).expect("utf-8"));
    }
    let beat = text.split("\n\n").find(|frame| frame.contains("heartbeat")).expect("one");
    assert!(beat.starts_with("data: "), "{beat}");
    app.script.gate.open();
}
