//! Forks share a prefix by reference.

use super::Harness;
use super::make::*;
use crate::ids::{Epoch, Position, Seq, Timestamp};
use crate::ports::{CheckpointRef, Rest, StoreWrite, WorkflowState, Written};

pub(super) async fn a_fork_begins_with_its_parents_records(harness: &mut dyn Harness) {
    let store = harness.store();
    let mut start = first("w", Some("c"), 3);
    start.records[1].body = body(5, 4_000, false);
    start.records[2].body = body(6, 4_000, true);
    let prefix = start.records.clone();
    done(&*store, start).await;
    done(&*store, life("w", 1, 3, 2)).await;
    assert_eq!(fork(&*store, "w", Some(3), "fork").await, Written::Done);
    let row = store.workflow(&workflow("fork")).await.expect("read").expect("there");
    assert_eq!((row.state, row.epoch), (WorkflowState::Resting(Rest::Interrupted), Epoch(0)));
    assert_eq!((row.head, row.made.conversation, row.made.request), (Position(3), Some(talk("c")), None));
    assert_eq!(row.parent, Some(CheckpointRef { workflow: workflow("w"), position: Position(3) }));
    assert_eq!(read_all(&*store, "fork").await, prefix);

    let mut own = life("fork", 1, 3, 2);
    own.records[1].body = body(5, 4_000, false);
    done(&*store, own.clone()).await;
    done(&*store, more("w", 1, 5, 1)).await;
    let expected: Vec<_> = prefix.into_iter().chain(own.records).collect();
    assert_eq!(read_all(&*store, "fork").await, expected);
    assert_eq!(store.read(&workflow("fork"), Position(2), ALL).await.as_deref(), Ok(&expected[2..]));
    assert_eq!(store.read(&workflow("fork"), Position(4), ALL).await.as_deref(), Ok(&expected[4..]));
    assert_eq!(store.read_events(&workflow("fork"), Seq(1), ALL).await.as_deref(), Ok(&expected[1..]));
    assert_eq!(places(&*store, "w").await, [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1)]);
}

pub(super) async fn a_fork_of_a_fork_reads_through_the_whole_chain(harness: &mut dyn Harness) {
    let store = harness.store();
    done(&*store, first("w", None, 4)).await;
    assert_eq!(fork(&*store, "w", Some(3), "f").await, Written::Done);
    done(&*store, life("f", 1, 3, 3)).await;
    assert_eq!(fork(&*store, "f", Some(5), "g").await, Written::Done);
    done(&*store, life("g", 2, 5, 1)).await;
    assert_eq!(places(&*store, "g").await, [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 2)]);
    // From a position that the fork itself only shares.
    assert_eq!(fork(&*store, "g", Some(2), "h").await, Written::Done);
    done(&*store, life("h", 1, 2, 1)).await;
    assert_eq!(places(&*store, "h").await, [(1, 0), (2, 0), (3, 1)]);
    // From the newest.
    assert_eq!(fork(&*store, "g", None, "i").await, Written::Done);
    assert_eq!(places(&*store, "i").await, places(&*store, "g").await);
    assert_eq!(store.workflow(&workflow("i")).await.expect("read").expect("there").epoch, Epoch(2));
    assert_eq!(store.read_events(&workflow("g"), Seq(2), ALL).await.expect("events").len(), 4);
}

pub(super) async fn a_fork_asked_for_twice_is_one(harness: &mut dyn Harness) {
    let store = harness.store();
    done(&*store, first("w", None, 4)).await;
    assert_eq!(fork(&*store, "w", Some(3), "f").await, Written::Done);
    done(&*store, life("f", 1, 3, 1)).await;
    assert_eq!(fork(&*store, "w", Some(3), "f").await, Written::Done);
    assert_eq!(places(&*store, "f").await.len(), 4);
    assert_eq!(fork(&*store, "w", Some(2), "f").await, Written::Conflict);
    assert_eq!(fork(&*store, "f", Some(2), "w").await, Written::Conflict);
}

pub(super) async fn a_fork_of_what_is_not_there_is_not_found(harness: &mut dyn Harness) {
    let store = harness.store();
    done(&*store, first("w", None, 4)).await;
    assert_eq!(fork(&*store, "nobody", None, "f").await, Written::NotFound);
    assert_eq!(fork(&*store, "w", Some(5), "f").await, Written::NotFound);
    assert_eq!(fork(&*store, "w", Some(0), "f").await, Written::NotFound);
    assert_eq!(store.workflow(&workflow("f")).await, Ok(None));
}

pub(super) async fn shared_records_outlive_a_deleted_parent(harness: &mut dyn Harness) {
    let store = harness.store();
    let mut start = keyed(first("w", None, 3), "key", "digest");
    start.records[1].body = body(5, 4_000, false);
    start.records[2].body = body(6, 4_000, true);
    let prefix = start.records.clone();
    done(&*store, ending(start, None, 3_000)).await;
    assert_eq!(fork(&*store, "w", Some(3), "f").await, Written::Done);
    done(&*store, life("f", 1, 3, 1)).await;
    assert_eq!(fork(&*store, "f", Some(4), "g").await, Written::Done);
    assert_eq!(write(&*store, StoreWrite::DeleteHistory(workflow("w"))).await, Written::Done);
    assert_eq!(store.workflow(&workflow("w")).await, Ok(None), "out of sight");
    assert!(places(&*store, "w").await.is_empty());
    assert_eq!(store.request("key").await, Ok(None));
    assert_eq!(&read_all(&*store, "g").await[..3], prefix);
    assert_eq!(write(&*store, StoreWrite::DeleteHistory(workflow("w"))).await, Written::NotFound);
    let sweep = || StoreWrite::Sweep { ended_before: Timestamp(i64::MAX), keys_before: Timestamp(0), max_rows: 10 };
    assert_eq!(write(&*store, sweep()).await, Written::Removed(0));

    done(&*store, ending(more("f", 1, 4, 1), None, 4_000)).await;
    assert_eq!(write(&*store, StoreWrite::DeleteHistory(workflow("f"))).await, Written::Done);
    assert_eq!(&read_all(&*store, "g").await[..3], prefix);
    done(&*store, ending(life("g", 2, 4, 1), None, 5_000)).await;
    assert_eq!(write(&*store, StoreWrite::DeleteHistory(workflow("g"))).await, Written::Done);
    assert_eq!(write(&*store, sweep()).await, Written::Removed(0), "the last fork took its ancestors along");
    // The name is free: nothing of the old one is left.
    done(&*store, first("w", None, 1)).await;
    assert_eq!(places(&*store, "w").await, [(1, 0)]);
}
