//! `tavily_search` against a server that speaks as Tavily does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, Handler, Log, Server, World, answer};

const KEY: &str = "tvly-canary-key-1234567890";
const JSON: &str = "content-type: application/json\r\n";

async fn service(handler: Handler, more: &[(&str, &str)]) -> (Server, World) {
    let server = Server::start(handler).await;
    let base = format!("http://{}", server.address);
    let mut variables = vec![("TAVILY_API_KEY", KEY), ("FLEET_TOOLS__TAVILY_SEARCH__BASE_URL", &base)];
    variables.extend_from_slice(more);
    let world = World::new(&variables);
    (server, world)
}

fn query() -> Value {
    json!({ "query": "rust actors" })
}

#[tokio::test]
async fn a_search_sends_what_the_service_documents_and_gives_numbered_results() {
    let reply = json!({
        "query": "rust actors",
        "answer": "Actors exist.",
        "results": [
            { "title": "One", "url": "https://one.example/", "content": "First text", "score": 0.9, "raw_content": null },
            { "title": "Two", "url": "https://two.example/", "content": "x".repeat(10_000), "score": 0.8 },
            { "title": "Three", "url": "https://three.example/", "content": "left out" },
        ],
        "response_time": 1.2,
        "request_id": "r",
    });
    let (server, world) = service(Arc::new(move |_| answer("200 OK", JSON, &reply.to_string())), &[]).await;
    let arguments = json!({ "query": "rust actors", "max_results": 2, "topic": "news", "search_depth": "advanced" });
    let output = world.call("tavily_search", arguments).await.unwrap();

    let seen = server.seen();
    let (head, body) = seen[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /search HTTP/1.1"), "{head}");
    assert!(head.contains(&format!("authorization: Bearer {KEY}")), "{head}");
    let sent: Value = serde_json::from_str(body).unwrap();
    let expected = json!({
        "query": "rust actors", "max_results": 2, "topic": "news", "search_depth": "advanced", "include_answer": true,
    });
    assert_eq!(sent, expected);

    assert!(
        output.text.starts_with("Summary: Actors exist.\n\n[1] One\nhttps://one.example/\nFirst text"),
        "{}",
        output.text
    );
    assert!(!output.text.contains("left out") && output.text.len() < 3_000, "{}", output.text.len());
    assert_eq!(output.data["results"].as_array().unwrap().len(), 2);
    assert_eq!(output.data["results"][0], json!({ "title": "One", "url": "https://one.example/", "score": 0.9 }));
    assert_eq!(output.degraded, None);
}

#[tokio::test]
async fn without_a_key_the_tool_stays_and_says_what_is_missing() {
    let world = World::new(&[]);
    let offer = world.offer("tavily_search").await;
    assert_eq!(offer.unavailable, None);
    let output = world.call("tavily_search", query()).await.unwrap();
    assert!(output.degraded.as_deref().unwrap_or_default().contains("TAVILY_API_KEY is not set"));
    assert!(output.text.contains("TAVILY_API_KEY is not set"), "{}", output.text);
}

#[tokio::test]
async fn failures_of_the_service_are_typed_and_a_429_says_when_to_come_back() {
    let cases = [
        ("429 Too Many Requests", "retry-after: 12\r\n", "takes no more searches", Some(12_000)),
        ("401 Unauthorized", "", "does not accept TAVILY_API_KEY", None),
        ("432 Plan", "", "is used up", None),
        ("500 Oops", "", "status 500", None),
        ("302 Found", "location: http://127.0.0.1:1/\r\n", "status 302", None),
        ("200 OK", "", "not understood", None),
    ];
    for (status, headers, text, retry) in cases {
        let body = format!("the service repeats {KEY}");
        let (server, world) = service(Arc::new(move |_| answer(status, headers, &body)), &[]).await;
        let failure = world.call("tavily_search", query()).await.expect_err(status);
        assert_eq!(&*failure.code, "tool_failed", "{status}");
        assert!(failure.message.contains(text), "{status}: {}", failure.message);
        assert_eq!(failure.retry_after_ms, retry, "{status}");
        assert_eq!(server.seen().len(), 1, "{status}: one call, no retry, no redirect");
    }
}

#[tokio::test]
async fn a_search_ends_at_its_time_and_at_its_bytes() {
    let slow = [("FLEET_TOOLS__TAVILY_SEARCH__TIMEOUT_MS", "200")];
    let silent = Arc::new(|_| Answer::Forever { first: Vec::new(), again: Vec::new(), pause_ms: 20 });
    let (_server, world) = service(silent, &slow).await;
    let begun = Instant::now();
    let failure = world.call("tavily_search", query()).await.expect_err("silence");
    assert_eq!(&*failure.code, "tool_timeout");
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());

    let endless = Arc::new(|_| Answer::Forever {
        first: b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[".to_vec(),
        again: b"1,".repeat(10_000),
        pause_ms: 0,
    });
    let (_server, world) = service(endless, &[("FLEET_TOOLS__TAVILY_SEARCH__RESPONSE_BYTES_MAX", "100000")]).await;
    let failure = world.call("tavily_search", query()).await.expect_err("no end");
    assert!(failure.message.contains("more than 100000 bytes"), "{}", failure.message);
}

#[tokio::test]
async fn the_key_is_in_no_log_no_result_and_no_failure() {
    let log = Log::capture();
    let mut shown = String::new();
    for status in ["200 OK", "401 Unauthorized", "500 Oops"] {
        let (_server, world) = service(Arc::new(move |_| answer(status, JSON, "{\"results\":[]}")), &[]).await;
        shown.push_str(&format!("{:?}", world.call("tavily_search", query()).await));
    }
    let world = World::new(&[("TAVILY_API_KEY", KEY), ("FLEET_TOOLS__TAVILY_SEARCH__BASE_URL", "http://127.0.0.1:1")]);
    shown.push_str(&format!("{:?}", world.call("tavily_search", query()).await));
    assert!(shown.contains("cannot be reached"), "{shown}");
    assert!(!shown.contains(KEY) && !log.text().contains(KEY), "{shown}\n{}", log.text());
    assert!(log.text().contains("execute_tool"), "nothing was logged");
}
