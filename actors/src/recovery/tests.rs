//! The wake queue, and the start, while a run that is due cannot go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::{adopt_at_start, wake_queue};
use crate::event::RunOutcome;
use crate::ids::WorkflowId;
use crate::ports::{Command, OnDisconnect, StoreError, StoreWrite, WorkflowState};
use crate::sessions::tests::House;
use crate::testing::CommitFault;

const CANCELLED: WorkflowState = WorkflowState::Ended(RunOutcome::Cancelled);

/// A parked run that is due: a command waits for it.
async fn due(house: &House) -> WorkflowId {
    let workflow = house.parked().await;
    let command = Command::Cancel { reason: "client".into() };
    let post = StoreWrite::Post { workflow: workflow.clone(), command };
    house.sessions.services().checkpoints.write(post).await.expect("posted");
    workflow
}

/// Turns of this thread, without a wait.
async fn turns(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

#[actix::test]
async fn the_wake_queue_of_a_process_that_stops_ends_and_leaves_what_is_due() {
    tokio::time::pause();
    let house = House::new();
    let workflow = due(&house).await;
    house.sessions.drain(false).await.expect("drained");
    tokio::select! {
        () = wake_queue(&house.sessions) => {}
        () = turns(10_000) => panic!("it looks again and again"),
    }
    assert_eq!(house.state(&workflow).await, WorkflowState::Parked);
    assert_eq!(house.sessions.admission().live(), 0);
}

#[actix::test]
async fn a_due_run_that_cannot_go_on_is_tried_every_few_seconds_and_keeps_no_other_waiting() {
    const MANY: usize = 1_000;
    tokio::time::pause();
    let house = House::new();
    let (stuck, other) = (due(&house).await, due(&house).await);
    let (tries, many) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (refused, counted, told) = (stuck.clone(), tries.clone(), many.clone());
    house.store.on_commit(move |appends| {
        if appends.iter().all(|append| append.claim.workflow != refused) {
            return CommitFault::Proceed;
        }
        if counted.fetch_add(1, Ordering::SeqCst) == MANY {
            told.notify_one();
        }
        CommitFault::RefuseBefore(StoreError::Full)
    });
    let mut queue = Box::pin(wake_queue(&house.sessions));
    tokio::select! {
        () = &mut queue => panic!("it ended"),
        () = many.notified() => panic!("it was tried {MANY} times"),
        () = tokio::time::sleep(Duration::from_secs(60)) => {} // allow-sleep: on paused time
    }
    assert_eq!(house.state(&other).await, CANCELLED);
    let tried = tries.load(Ordering::SeqCst);
    assert!((2..=20).contains(&tried), "{tried} times in a minute");
    house.store.heal();
    tokio::select! {
        () = &mut queue => panic!("it ended"),
        () = tokio::time::sleep(Duration::from_secs(10)) => {} // allow-sleep: on paused time
    }
    assert_eq!(house.state(&stuck).await, CANCELLED);
}

#[actix::test]
async fn a_run_that_the_store_does_not_take_after_a_restart_goes_on_when_it_does() {
    tokio::time::pause();
    let house = House::new();
    let workflow = house.asking(OnDisconnect::Continue).await.workflow().clone();
    let next = house.restarted();
    next.store.on_commit(|_| CommitFault::RefuseBefore(StoreError::Full));
    assert_eq!(adopt_at_start(&next.sessions).await, Ok(Vec::new()));
    tokio::time::sleep(Duration::from_secs(12)).await; // allow-sleep: on paused time
    assert!(!next.sessions.is_live(&workflow).await.expect("an answer"), "the control");
    next.store.heal();
    tokio::time::sleep(Duration::from_secs(12)).await; // allow-sleep: on paused time
    assert!(next.sessions.is_live(&workflow).await.expect("an answer"));
}
