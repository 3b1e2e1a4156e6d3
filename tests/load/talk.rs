//! What was said before: a run sees the conversation, and goes on seeing the same after a panic.

use std::sync::Arc;

use agentic_fleet::runtime::SystemClock;
use fleet_actors::testing::MemoryStore;

use crate::client::{ask, events};
use crate::world::{Recipe, silence_panics_that_were_asked_for};

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
