//! The line, the groups it is given on in, the door beside it, and a store that takes no writes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::shared::UNDER_WAY_MAX;
use super::{CheckpointActor, Checkpoints, WriterLimits};
use crate::ids::{Epoch, Position, Seq, Timestamp, WorkflowId};
use crate::ports::{Append, Claim, RecordRow, StoreError, StoreWrite};
use crate::testing::{CommitFault, ManualClock, MemoryStore, plain};
use crate::watch::Watch;

const RECORD_BYTES: usize = 1_000;

/// The first append of workflow `n`: one record of [`RECORD_BYTES`].
fn append(n: usize) -> Append {
    let record = RecordRow {
        position: Position(1),
        epoch: Epoch(0),
        seq: Some(Seq(1)),
        kind: "input".into(),
        path: "".into(),
        head: vec![b'x'; RECORD_BYTES],
        body: None,
    };
    let made = plain::made("chat", "a task", Timestamp(0));
    let claim = Claim { workflow: WorkflowId::from_trusted(format!("w{n}")), epoch: Epoch(0) };
    Append { create: Some(Box::new(made)), ..plain::append(claim, Position(0), vec![record]) }
}

fn store() -> MemoryStore {
    MemoryStore::new(Arc::new(ManualClock::default()))
}

fn start(store: &MemoryStore, limits: WriterLimits) -> Checkpoints {
    let arbiter = actix::Arbiter::current();
    CheckpointActor::start_watched(&arbiter, Arc::new(store.clone()), Arc::new(|_| {}), limits, &Watch::default())
}

/// Asks so many at once while the store has as much as it may; how many commits there were behind that, the largest of
/// them, and how many asks were answered.
async fn groups(limits: WriterLimits, asked: usize) -> (usize, usize, usize) {
    let (store, sizes) = (store(), Arc::new(Mutex::new(Vec::new())));
    let seen = sizes.clone();
    store.on_commit(move |appends| {
        seen.lock().expect("no panic").push(appends.len());
        CommitFault::Proceed
    });
    let door = start(&store, limits);
    let held: Vec<_> = std::iter::from_fn(|| door.shared.enter()).collect();
    assert_eq!(held.len(), UNDER_WAY_MAX);
    let asks = futures_util::future::join_all((0..asked).map(|n| door.append(append(n).into())));
    let make_room = async {
        while door.shared.waiting.load(Ordering::SeqCst) < asked.min(limits.queue_max) {
            tokio::task::yield_now().await;
        }
        // In the mailbox is not yet behind it: the actor, awake since the first ask, has its turn before this goes on.
        tokio::task::yield_now().await;
        drop(held);
    };
    let (answers, ()) = futures_util::future::join(asks, make_room).await;
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    let full = |answer: &Result<_, _>| matches!(answer, Err(StoreError::Unavailable(_)));
    assert!(answers.iter().all(|answer| answer.is_ok() || full(answer)), "{answers:?}");
    assert_eq!(door.shared.waiting.load(Ordering::SeqCst), 0);
    let sizes = sizes.lock().expect("no panic").clone();
    (sizes.len(), sizes.iter().copied().max().unwrap_or_default(), done)
}

#[actix::test]
async fn a_commit_takes_as_many_asks_and_bytes_as_the_limits_say_and_the_queue_no_more() {
    let limits = WriterLimits { group_max: 4, ..WriterLimits::default() };
    assert_eq!(groups(limits, 11).await, (3, 4, 11));
    let limits = WriterLimits { group_bytes_max: 3 * RECORD_BYTES, ..WriterLimits::default() };
    assert_eq!(groups(limits, 8).await, (3, 3, 8));
    let limits = WriterLimits { group_bytes_max: 1, ..WriterLimits::default() };
    assert_eq!(groups(limits, 3).await, (3, 1, 3));
    let limits = WriterLimits { queue_max: 5, ..WriterLimits::default() };
    assert_eq!(groups(limits, 9).await, (1, 5, 5));
}

#[actix::test]
async fn what_is_damaged_is_told_to_its_own_asker_and_the_others_of_its_group_are_committed() {
    let store = store();
    store.on_commit(|appends| match appends.iter().any(|append| append.claim.workflow.as_str() == "w1") {
        true => CommitFault::RefuseBefore(StoreError::Damaged("a page".into())),
        false => CommitFault::Proceed,
    });
    let door = start(&store, WriterLimits::default());
    let held: Vec<_> = std::iter::from_fn(|| door.shared.enter()).collect();
    let asks = futures_util::future::join_all((0..3).map(|n| door.append(append(n).into())));
    let make_room = async {
        while door.shared.waiting.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        drop(held);
    };
    let (answers, ()) = futures_util::future::join(asks, make_room).await;
    let told: Vec<_> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(told, [true, false, true], "{answers:?}");
    assert_eq!(answers[1], Err(StoreError::Damaged("a page".into())));
}

#[actix::test]
async fn an_append_is_handed_on_by_the_door_itself_unless_somebody_waits() {
    let store = store();
    let door = start(&store, WriterLimits::default());
    let polled = |ask: &mut std::pin::Pin<Box<dyn Future<Output = _> + '_>>| {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        ask.as_mut().poll(&mut cx).is_ready()
    };
    assert!(
        polled(&mut (Box::pin(door.append(append(0).into())) as _)),
        "the store answers at once, and so does the door"
    );
    let waits = door.shared.wait();
    let mut behind: std::pin::Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(door.append(append(1).into()));
    assert!(!polled(&mut behind), "it does not overtake");
    drop(waits);
    assert!(behind.await.is_ok());
    assert_eq!(door.shared.under_way.load(Ordering::SeqCst), 0);
}

#[actix::test]
async fn a_store_that_is_full_or_cannot_be_written_is_probed_at_the_interval_and_only_a_probe_clears_it() {
    tokio::time::pause();
    for error in [StoreError::Full, StoreError::Unwritable("disk I/O error".into())] {
        let store = store();
        let limits = WriterLimits { probe_interval: Duration::from_secs(60), ..WriterLimits::default() };
        let door = start(&store, limits);
        assert_eq!(door.refusal(), None);
        let refused = error.clone();
        store.on_commit(move |_| CommitFault::RefuseBefore(refused.clone()));
        assert_eq!(door.append(append(0).into()).await, Err(error.clone()));
        assert_eq!((door.refusal(), door.is_full()), (Some(error.clone()), error == StoreError::Full));
        store.heal();
        assert!(door.append(append(0).into()).await.is_ok(), "what runs asks for itself");
        assert!(door.write(StoreWrite::HistoryExported { cursor: 0 }).await.is_ok());
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(door.write(StoreWrite::HistoryExported { cursor: 0 }).await.is_ok());
        assert_eq!(door.refusal(), Some(error), "neither an append nor a change clears it");
        tokio::time::sleep(Duration::from_secs(2)).await; // allow-sleep: on paused time
        assert_eq!(door.refusal(), None);
    }
}
