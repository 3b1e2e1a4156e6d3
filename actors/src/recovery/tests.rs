//! The wake queue, and the start, while a run that is due cannot go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::{FAILED_MAX, LOOK_AGAIN, adopt_at_start, rest_unclaimed, wake_queue};
use crate::event::RunOutcome;
use crate::ids::{Seq, WorkflowId};
use crate::ports::{Command, OnDisconnect, Posted, Rest, StoreError, StoreWrite, WorkflowState};
use crate::sessions::tests::House;
use crate::testing::{CommitFault, Reading};

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

/// Restarts a house with a run in the background, whose store is in this trouble until it heals.
async fn goes_on_behind(trouble: impl FnOnce(&House)) {
    tokio::time::pause();
    let house = House::new();
    let workflow = house.asking(OnDisconnect::Continue).await.workflow().clone();
    let next = house.restarted();
    trouble(&next);
    assert_eq!(adopt_at_start(&next.sessions).await, Ok(Vec::new()));
    tokio::time::sleep(Duration::from_secs(12)).await; // allow-sleep: on paused time
    assert!(!next.sessions.is_live(&workflow).await.expect("an answer"), "the control");
    next.store.heal();
    tokio::time::sleep(Duration::from_secs(12)).await; // allow-sleep: on paused time
    assert!(next.sessions.is_live(&workflow).await.expect("an answer"));
}

#[actix::test]
async fn a_run_that_the_store_does_not_take_after_a_restart_goes_on_when_it_does() {
    goes_on_behind(|house| house.store.on_commit(|_| CommitFault::RefuseBefore(StoreError::Full))).await;
}

#[actix::test]
async fn a_run_that_the_store_does_not_give_after_a_restart_goes_on_when_it_does() {
    goes_on_behind(|house| unreadable(house, |reading| matches!(reading, Reading::Journal(_)))).await;
}

/// Lets these readings fail.
fn unreadable(house: &House, fails: impl Fn(&Reading) -> bool + Send + 'static) {
    house.store.on_read(move |reading| match fails(&reading) {
        true => Err(StoreError::Unavailable("no answer".into())),
        false => Ok(()),
    });
}

/// A process, and two runs that ran in those before it: one was cancelled while it stopped, the other was not.
async fn cancelled_and_not() -> (House, WorkflowId, WorkflowId) {
    let first = House::new();
    let cancelled = first.asking(OnDisconnect::Cancel).await.workflow().clone();
    turns(64).await;
    let both = futures_util::future::join(first.sessions.drain(true), first.sessions.cancel(&cancelled, "client"));
    assert_eq!(both.await, (Ok(1), Ok(Posted::Accepted)));
    let second = first.restarted();
    let left = second.asking(OnDisconnect::Cancel).await;
    second.sessions.drain(true).await.expect("drained");
    let unclaimed = left.workflow().clone();
    turns(64).await;
    (second.restarted(), cancelled, unclaimed)
}

#[actix::test]
async fn a_cancel_in_a_drain_is_done_when_the_store_takes_its_end_and_keeps_no_other_run_waiting() {
    tokio::time::pause();
    let (house, cancelled, unclaimed) = cancelled_and_not().await;
    house.store.on_commit(|_| CommitFault::RefuseBefore(StoreError::Full));
    done_behind_a_trouble(house, cancelled, unclaimed).await;
}

#[actix::test]
async fn a_cancel_in_a_drain_is_done_when_its_inbox_can_be_read_and_keeps_no_other_run_waiting() {
    tokio::time::pause();
    let (house, cancelled, unclaimed) = cancelled_and_not().await;
    let away = Reading::Inbox(cancelled.clone());
    unreadable(&house, move |reading| *reading == away);
    done_behind_a_trouble(house, cancelled, unclaimed).await;
}

async fn done_behind_a_trouble(house: House, cancelled: WorkflowId, unclaimed: WorkflowId) {
    let waiting = adopt_at_start(&house.sessions).await.expect("adopted");
    assert_eq!(waiting.len(), 2);
    let mut rest = Box::pin(rest_unclaimed(&house.sessions, waiting));
    tokio::select! {
        () = &mut rest => panic!("it gave up"),
        () = tokio::time::sleep(Duration::from_secs(60)) => {} // allow-sleep: on paused time
    }
    assert_eq!(house.state(&unclaimed).await, WorkflowState::Resting(Rest::Interrupted));
    assert_eq!(house.state(&cancelled).await, WorkflowState::Running, "it is over or rests");
    house.store.heal();
    rest.await;
    assert_eq!(house.state(&cancelled).await, CANCELLED);
}

#[actix::test]
async fn a_run_that_went_on_within_the_grace_and_was_parked_stays_parked() {
    tokio::time::pause();
    let house = House::new();
    let workflow = house.asking(OnDisconnect::Cancel).await.workflow().clone();
    let next = house.restarted();
    let waiting = adopt_at_start(&next.sessions).await.expect("adopted");
    assert_eq!(waiting.len(), 1);
    // Its client comes back, and it is parked with its question.
    let stream = next.sessions.watch(&workflow, Seq(0)).await.expect("watched");
    next.sessions.resume(&workflow, None).await.expect("it goes on");
    stream.parked().await;
    while next.sessions.is_live(&workflow).await.expect("an answer") {
        tokio::task::yield_now().await;
    }
    assert_eq!(next.state(&workflow).await, WorkflowState::Parked, "the control");
    rest_unclaimed(&next.sessions, waiting).await;
    assert_eq!(next.state(&workflow).await, WorkflowState::Parked);
}

#[actix::test]
async fn a_store_that_gives_nothing_at_a_start_is_asked_for_one_run_at_a_time() {
    tokio::time::pause();
    let mut next = House::new();
    for _ in 0..20 {
        next.asking(OnDisconnect::Cancel).await;
        next = next.restarted();
    }
    let waiting = adopt_at_start(&next.sessions).await.expect("adopted");
    assert_eq!(waiting.len(), 20);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    unreadable(&next, move |_| count.fetch_add(1, Ordering::SeqCst) < usize::MAX);
    tokio::select! {
        () = rest_unclaimed(&next.sessions, waiting) => panic!("it gave up"),
        () = tokio::time::sleep(Duration::from_secs(61)) => {} // allow-sleep: on paused time
    }
    let asked = asked.load(Ordering::SeqCst);
    assert!((5..=20).contains(&asked), "{asked}");
}

#[actix::test]
async fn while_the_store_takes_nothing_a_bounded_number_of_due_runs_is_tried_and_it_is_seldom_asked_for_more() {
    const MANY: usize = 2 * FAILED_MAX;
    const WATCHED: Duration = Duration::from_secs(60);
    tokio::time::pause();
    let house = House::new();
    for _ in 0..MANY {
        house.parked().await;
    }
    // Their questions expire: the next of them is due at once, for as long as it does not go on.
    house.clock.advance(Duration::from_secs(2 * 86_400));
    let (tries, looks) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (tried, looked) = (tries.clone(), looks.clone());
    house.store.on_commit(move |_| {
        tried.fetch_add(1, Ordering::SeqCst);
        CommitFault::RefuseBefore(StoreError::Full)
    });
    house.store.on_read(move |reading| {
        looked.fetch_add(usize::from(reading == Reading::Due), Ordering::SeqCst);
        Ok(())
    });
    tokio::select! {
        () = wake_queue(&house.sessions) => panic!("it ended"),
        () = tokio::time::sleep(WATCHED) => {} // allow-sleep: on paused time
    }
    let rounds = 1 + (WATCHED.as_millis() / LOOK_AGAIN.as_millis()) as usize;
    let (tries, looks) = (tries.load(Ordering::SeqCst), looks.load(Ordering::SeqCst));
    assert!((FAILED_MAX..=FAILED_MAX * rounds).contains(&tries), "{tries} tries");
    let seldom = 8 * WATCHED.as_secs() as usize;
    assert!((rounds..=seldom).contains(&looks), "{looks} looks");
}
