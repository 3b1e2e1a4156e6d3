//! How the pieces of a stream become deltas: those that come together are one, and none waits for a piece that is not there.

use std::sync::Arc;

use agentic_fleet::llm::{Api, code};
use fleet_actors::event::Channel;
use fleet_actors::ports::ModelDelta;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::support::{Scripted, config, event_stream, make, read_request, say};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

fn event(choice: Value) -> String {
    format!("data: {}\n\n", json!({ "choices": [choice] }))
}

fn text(piece: &str) -> String {
    event(json!({ "delta": { "content": piece } }))
}

fn thought(piece: &str) -> String {
    event(json!({ "delta": { "reasoning": piece } }))
}

#[tokio::test]
async fn pieces_that_come_together_are_one_delta_and_the_next_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1/", listener.local_addr().unwrap());
    let told = Arc::new(Semaphore::new(0));
    let seen = told.clone();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await;
        let end = text("f") + &event(json!({ "delta": {}, "finish_reason": "stop" }));
        // How many deltas each write makes; the next write waits until they were told.
        for (bytes, deltas) in [
            (HEAD.to_owned() + &text("a") + &text("b") + &text("c"), 1),
            (thought("r") + &thought("s") + &text("d") + &text("e"), 2),
            (end, 1),
        ] {
            socket.write_all(bytes.as_bytes()).await.unwrap();
            seen.acquire_many(deltas).await.unwrap().forget();
        }
        let usage = json!({ "choices": [], "usage": { "prompt_tokens": 1, "completion_tokens": 2 } });
        socket.write_all(format!("data: {usage}\n\ndata: [DONE]\n\n").as_bytes()).await.unwrap();
    });
    let client = make(&config(Api::ChatCompletions, &base_url)).client(None);
    let mut deltas = Vec::new();
    let mut take = |delta: ModelDelta| {
        deltas.push((delta.channel, delta.text));
        told.add_permits(1);
    };
    let reply = client.call(&say("hi"), &mut take).await.unwrap();
    let expected = [(Channel::Text, "abc"), (Channel::Reasoning, "rs"), (Channel::Text, "de"), (Channel::Text, "f")];
    assert_eq!(deltas, expected.map(|(channel, text)| (channel, text.to_owned())));
    assert_eq!((&*reply.text, &*reply.reasoning), ("abcdef", "rs"));
    assert!(reply.usage.is_some(), "the last text was told only when the usage was not waited for any more");
}

#[tokio::test]
async fn what_came_before_a_failure_is_told_and_a_delta_has_an_end() {
    let piece = "x".repeat(1_000);
    let long = text(&piece).repeat(50);
    for (stream, told) in [(text("a") + &text("b") + "data: {oops\n\n", 2), (long, 50_000), (text("cut"), 3)] {
        let server = Scripted::start(move |_| event_stream(stream.as_bytes())).await;
        let client = make(&config(Api::ChatCompletions, &server.base_url)).client(None);
        let mut deltas: Vec<String> = Vec::new();
        let error = client.call(&say("hi"), &mut |delta| deltas.push(delta.text)).await.unwrap_err();
        assert!([code::INCOMPLETE, code::MALFORMED].contains(&&*error.failure.code), "{error:?}");
        assert_eq!(deltas.iter().map(String::len).sum::<usize>(), told);
        assert!(deltas.iter().all(|delta| delta.len() <= 5_096), "{:?}", deltas.iter().map(String::len).max());
    }
}
