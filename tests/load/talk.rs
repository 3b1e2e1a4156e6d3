//! What was said before: a run sees the conversation, and goes on seeing the same after a panic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentic_fleet::runtime::SystemClock;
use fleet_actors::testing::MemoryStore;

use futures_util::StreamExt as _;

use crate::client::{ask, events, ws};
use crate::world::{Recipe, silence_panics_that_were_asked_for, until};

#[actix_web::test]
async fn a_chat_sees_what_was_said_before_it_and_one_that_is_rebuilt_after_a_panic_sees_the_same() {
    silence_panics_that_were_asked_for();
    let clock = Arc::new(SystemClock);
    let world = Recipe::over(Arc::new(MemoryStore::new(clock.clone())), clock).serve();
    let say = async |message: &str| {
        let path = format!("/api/chat/talk/stream?message={message}");
        let events = events(&ask(world.address, "GET", &path, "").await);
        assert_eq!(events.last().unwrap()["type"], "done", "{events:#?}");
        let answer = events.iter().find(|event| event["type"] == "response.completed");
        answer.unwrap_or_else(|| panic!("{events:#?}"))["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(say("hello").await, "yes: hello");
    assert_eq!(say("recall").await, "answer | hello | yes: hello | recall");
    assert_eq!(say("once").await, "yes: once");
    assert_eq!(world.script.calls(), 4, "one of them twice");
    let told =
        "answer | hello | yes: hello | recall | answer | hello | yes: hello | recall | once | yes: once | recall";
    assert_eq!(say("recall").await, told);
}

#[actix_web::test]
async fn a_version_1_socket_gives_its_place_back_as_soon_as_its_client_closes_too() {
    let clock = Arc::new(SystemClock);
    let world = Recipe::over(Arc::new(MemoryStore::new(clock.clone())), clock).serve();
    let mut socket = ws(world.address, &[]).await.unwrap();
    socket.send(serde_json::json!({ "message": "hello" })).await;
    assert_eq!(socket.rest().await.1, 1000);
    let closed = Instant::now();
    // Reading on is what answers the close frame. The connection itself lingers for a second, as actix-http does.
    let reading = actix_web::rt::spawn(async move { while socket.0.next().await.is_some() {} });
    until("the place", || world.api.connections.open() == 0).await;
    println!("the place was free after {:?}", closed.elapsed());
    assert!(closed.elapsed() < Duration::from_millis(500));
    reading.await.unwrap();
}
