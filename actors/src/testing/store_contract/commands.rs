//! Answers and cancels reach the owner through the store, once.

use super::Harness;
use super::make::*;
use crate::event::Answer;
use crate::ids::Timestamp;
use crate::ports::{Append, Command, Posted, Store};

/// A workflow that asks `q`, which expires at 10000.
async fn asking(store: &dyn Store, id: &str) {
    let append = Append { opened: vec![opened("q", "user_input", 1_000, 10_000)], ..first(id, None, 2) };
    done(store, append).await;
}

async fn inbox(store: &dyn Store, id: &str) -> Vec<Command> {
    store.inbox(&workflow(id)).await.expect("the inbox is read")
}

pub(super) async fn the_first_answer_wins(harness: &mut dyn Harness) {
    let store = harness.store();
    asking(&*store, "w").await;
    asking(&*store, "other").await;
    assert_eq!(post(&*store, "w", answer("q", "yes")).await, Posted::Accepted);
    assert_eq!(post(&*store, "w", answer("q", "no")).await, Posted::Closed);
    let expired = Command::Answer { request_id: question("q"), answer: Answer::Expired };
    assert_eq!(post(&*store, "w", expired).await, Posted::Closed);
    harness.restart();
    let store = harness.store();
    assert_eq!(inbox(&*store, "w").await, [answer("q", "yes")]);
    assert_eq!(post(&*store, "other", answer("q", "no")).await, Posted::Accepted);
    // A question that a takeover declares again is still taken.
    let mut again = life("w", 1, 2, 1);
    again.opened = vec![opened("q", "user_input", 1_000, 10_000)];
    done(&*store, again).await;
    assert_eq!(post(&*store, "w", answer("q", "no")).await, Posted::Closed);
    assert_eq!(inbox(&*store, "w").await, [answer("q", "yes")]);
}

pub(super) async fn nobody_answers_after_the_expiry(harness: &mut dyn Harness) {
    let store = harness.store();
    asking(&*store, "w").await;
    harness.clock().set(Timestamp(10_000));
    assert_eq!(post(&*store, "w", answer("q", "yes")).await, Posted::Closed);
    assert!(inbox(&*store, "w").await.is_empty());
    let expired = Command::Answer { request_id: question("q"), answer: Answer::Expired };
    assert_eq!(post(&*store, "w", expired.clone()).await, Posted::Accepted);
    assert_eq!(inbox(&*store, "w").await, [expired]);
}

pub(super) async fn a_closed_question_is_told_from_an_unknown_one(harness: &mut dyn Harness) {
    let store = harness.store();
    asking(&*store, "w").await;
    assert_eq!(post(&*store, "w", answer("other", "yes")).await, Posted::Unknown);
    assert_eq!(post(&*store, "nobody", answer("q", "yes")).await, Posted::Unknown);
    assert_eq!(post(&*store, "w", answer("q", "yes")).await, Posted::Accepted);
    done(&*store, Append { closed: vec![question("q")], ..more("w", 0, 2, 1) }).await;
    assert!(inbox(&*store, "w").await.is_empty(), "the owner has journaled it");
    assert_eq!(post(&*store, "w", answer("q", "no")).await, Posted::Closed);
    // Opened and closed by one append.
    let mut both = more("w", 0, 3, 2);
    (both.opened, both.closed) = (vec![opened("r", "user_input", 1_000, 10_000)], vec![question("r")]);
    done(&*store, both).await;
    assert_eq!(post(&*store, "w", answer("r", "yes")).await, Posted::Closed);
}

pub(super) async fn a_cancel_is_taken_once_until_the_end(harness: &mut dyn Harness) {
    let store = harness.store();
    asking(&*store, "w").await;
    let cancel = |reason: &str| Command::Cancel { reason: reason.into() };
    assert_eq!(post(&*store, "nobody", cancel("client")).await, Posted::Unknown);
    assert_eq!(post(&*store, "w", answer("q", "yes")).await, Posted::Accepted);
    assert_eq!(post(&*store, "w", cancel("client")).await, Posted::Accepted);
    assert_eq!(post(&*store, "w", cancel("operator")).await, Posted::Accepted);
    assert_eq!(inbox(&*store, "w").await, [answer("q", "yes"), cancel("client")], "oldest first, the first reason");
    done(&*store, ending(more("w", 0, 2, 1), None, 3_000)).await;
    assert_eq!(post(&*store, "w", cancel("client")).await, Posted::Closed);
}

pub(super) async fn the_end_consumes_the_inbox(harness: &mut dyn Harness) {
    let store = harness.store();
    asking(&*store, "w").await;
    assert_eq!(post(&*store, "w", answer("q", "yes")).await, Posted::Accepted);
    done(&*store, ending(more("w", 0, 2, 1), None, 3_000)).await;
    assert!(inbox(&*store, "w").await.is_empty());
    assert_eq!(post(&*store, "w", answer("q", "no")).await, Posted::Closed);
}
