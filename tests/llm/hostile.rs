//! Providers that cut, flood, nest and babble.

use std::fmt::Write;

use agentic_fleet::llm::{Api, Caps, code};

use super::conversions::{CHAT, RESPONSES, expected};
use super::support::{Scripted, answer, ask, code_of, config, event_stream, make, run, say};

/// Cuts `whole` at every byte; only cuts at or behind `terminated` may give a reply.
async fn cut_at_every_byte(api: Api, head: &str, whole: &'static [u8], terminated: usize) {
    let head = head.to_owned();
    let all = [head.as_bytes(), whole].concat();
    let bytes = all.clone();
    let server = Scripted::start(move |n| bytes[..n].to_vec()).await;
    let clients = make(&config(api, &server.base_url));
    for cut in 0..=all.len() {
        let client = clients.client(None);
        let outcome = run(&*client, &say("hi")).await;
        match outcome {
            Ok(reply) => {
                assert!(cut >= head.len() + terminated, "a reply before the terminator, cut at {cut}");
                assert_eq!((reply.text, reply.tool_calls), (expected().text, expected().tool_calls));
            }
            Err(error) => {
                assert!(cut < head.len() + terminated, "no reply although terminated, cut at {cut}: {error:?}");
                let expected = if cut < head.len() { code::UNAVAILABLE } else { code::INCOMPLETE };
                assert_eq!(&*error.failure.code, expected, "cut at {cut}");
            }
        }
    }
    assert_eq!(server.requests(), all.len() + 1);
}

const CLOSE_DELIMITED: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n";

#[tokio::test]
async fn a_chat_stream_cut_at_any_byte_is_never_a_reply_before_its_terminator() {
    let finish = "\"finish_reason\":\"tool_calls\"}]}\n\n";
    let terminated = CHAT.find(finish).expect("in the fixture") + finish.len();
    cut_at_every_byte(Api::ChatCompletions, CLOSE_DELIMITED, CHAT.as_bytes(), terminated).await;
}

#[tokio::test]
async fn a_responses_stream_cut_at_any_byte_is_never_a_reply_before_its_terminator() {
    cut_at_every_byte(Api::Responses, CLOSE_DELIMITED, RESPONSES.as_bytes(), RESPONSES.len()).await;
}

#[tokio::test]
async fn a_stream_that_breaks_inside_its_framing_is_incomplete() {
    let half = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let chunked = format!("{:x}\r\n{half}\r\n", half.len());
    let head = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")];
    let outcome = ask(Api::ChatCompletions, answer("200 OK", &head, chunked.as_bytes())).await;
    assert_eq!(code_of(&outcome), code::INCOMPLETE);
    let body = answer("200 OK", &[("content-type", "application/json"), ("content-length", "999")], b"{\"choices\":[");
    assert_eq!(code_of(&ask(Api::ChatCompletions, body).await), code::INCOMPLETE);
}

#[tokio::test]
async fn a_response_that_was_cancelled_or_never_finished_is_no_reply() {
    for status in ["cancelled", "in_progress", "queued"] {
        let body = serde_json::json!({"status": status, "output": [{"type": "message", "content": [{"text": "hi"}]}]});
        assert_eq!(code_of(&ask(Api::Responses, super::support::json_answer(&body)).await), code::INCOMPLETE);
    }
    assert_eq!(code_of(&ask(Api::Responses, event_stream(b"data: [DONE]\n\n")).await), code::INCOMPLETE);
}

#[tokio::test]
async fn garbage_is_malformed_whatever_its_form() {
    let html = answer("200 OK", &[("content-type", "text/html")], b"<html>");
    let not_json = answer("200 OK", &[("content-type", "application/json")], b"{\"choices\"");
    let no_choice = answer("200 OK", &[("content-type", "application/json")], b"{}");
    let redirect = answer("302 Found", &[("location", "http://127.0.0.1:1/")], b"");
    for bytes in
        [html, not_json, no_choice, redirect, event_stream(b"data: {\"choi\n\n"), event_stream(b"data: \xff\xfe\n\n")]
    {
        assert_eq!(code_of(&ask(Api::ChatCompletions, bytes).await), code::MALFORMED);
    }
    let nameless =
        b"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]},\"finish_reason\":\"tool_calls\"}]}\n\n";
    assert_eq!(code_of(&ask(Api::ChatCompletions, event_stream(nameless)).await), code::MALFORMED);
}

#[tokio::test]
async fn bytes_events_and_depth_are_capped() {
    let caps = Caps { bytes_max: 64 * 1024, event_bytes_max: 32 * 1024, events_max: 100, json_depth_max: 64 };
    let piece = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let endless_line = format!("data: {}", "x".repeat(1024 * 1024));
    let deep = format!("data: {{\"a\":{}{}}}\n\n", "[".repeat(10_000), "]".repeat(10_000));
    let mut arguments = String::new();
    let _ = write!(
        arguments,
        "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"index\":0,\"function\":{{\"name\":\"t\",\"arguments\":\"{}\"}}}}]}},\"finish_reason\":\"stop\"}}]}}\n\n",
        "[".repeat(65)
    );
    let whole = answer("200 OK", &[("content-type", "application/json")], &vec![b' '; 65 * 1024]);
    let long_line = format!("data: {}", "x".repeat(33 * 1024));
    let long_event = format!("{}\n", "data: x\n".repeat(20 * 1024));
    let cases = [
        event_stream(long_line.as_bytes()),
        event_stream(long_event.as_bytes()),
        event_stream(piece.repeat(101).as_bytes()),
        event_stream(endless_line.as_bytes()),
        event_stream(deep.as_bytes()),
        event_stream(arguments.as_bytes()),
        event_stream("\n".repeat(1024 * 1024).as_bytes()),
        whole,
    ];
    for (n, bytes) in cases.into_iter().enumerate() {
        let server = Scripted::start(move |_| bytes.clone()).await;
        let mut config = config(Api::ChatCompletions, &server.base_url);
        config.caps = caps;
        assert_eq!(code_of(&run(&*make(&config).client(None), &say("hi")).await), code::TOO_LARGE, "case {n}");
    }
}

#[tokio::test]
async fn a_line_of_megabytes_is_read_in_linear_time() {
    let text = "y".repeat(4 * 1024 * 1024);
    let body =
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":\"stop\"}}]}}\n\n");
    let began = std::time::Instant::now();
    let reply = ask(Api::ChatCompletions, event_stream(body.as_bytes())).await.expect("within the cap");
    assert_eq!(reply.text.len(), text.len());
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "took {:?}", began.elapsed());
}

#[tokio::test]
async fn calls_of_one_reply_that_were_given_one_id_are_told_apart() {
    let call = |name| serde_json::json!({"id": "t", "function": {"name": name, "arguments": "{}"}});
    let chat = serde_json::json!({"choices": [{"message": {"tool_calls": [call("find"), call("now")]}}]});
    let item = |name| serde_json::json!({"type": "function_call", "call_id": "t", "name": name, "arguments": "{}"});
    let responses = serde_json::json!({"status": "completed", "output": [item("find"), item("now")]});
    for (api, body) in [(Api::ChatCompletions, chat), (Api::Responses, responses)] {
        let reply = ask(api, super::support::json_answer(&body)).await.expect("whole");
        let calls: Vec<_> = reply.tool_calls.iter().map(|call| (call.id.as_str(), call.name.as_str())).collect();
        assert_eq!(calls, [("t", "find"), ("call_1", "now")], "{api:?}");
    }
}
