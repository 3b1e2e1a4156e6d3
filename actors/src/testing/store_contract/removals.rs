//! What was removed is gone, and nothing else is.

use super::Harness;
use super::make::*;
use crate::ids::{Position, Timestamp};
use crate::ports::{Outcome, PageFrom, Posted, Store, StoreWrite, WorkflowFilter, Written};

fn sweep(ended_before: i64, keys_before: i64, max_rows: u32) -> StoreWrite {
    StoreWrite::Sweep { ended_before: Timestamp(ended_before), keys_before: Timestamp(keys_before), max_rows }
}

async fn exists(store: &dyn Store, id: &str) -> bool {
    store.workflow(&workflow(id)).await.expect("read").is_some()
}

pub(super) async fn a_deleted_conversation_leaves_nothing(harness: &mut dyn Harness) {
    let store = harness.store();
    let mut start = keyed(first("w", Some("c"), 2), "key", "digest");
    start.records[0].body = body(1, 4_000, false);
    start.messages.push(message("m", "c", Some("w"), 1_000, "hello"));
    done(&*store, ending(start, Some("c"), 3_000)).await;
    assert_eq!(fork(&*store, "w", Some(1), "f").await, Written::Done);
    done(&*store, first("live", Some("c"), 1)).await;
    let mut other = ending(first("other", Some("d"), 1), Some("d"), 3_000);
    other.messages.push(message("n", "d", Some("other"), 1_000, "stays"));
    done(&*store, other).await;

    let delete = || StoreWrite::DeleteConversation(talk("c"));
    assert_eq!(write(&*store, delete()).await, Written::Done);
    assert_eq!(write(&*store, delete()).await, Written::NotFound);
    assert_eq!(store.conversation(&talk("c")).await, Ok(None));
    assert!(store.messages(&talk("c"), 10, None).await.expect("read").is_empty());
    for id in ["w", "f", "live"] {
        assert!(!exists(&*store, id).await && read_all(&*store, id).await.is_empty(), "{id}");
    }
    assert_eq!(store.request("key").await, Ok(None));
    assert_eq!(ids(&store.history(PageFrom::Offset(0), 10).await.expect("a page")), ["other"]);
    assert_eq!(store.history_count().await, Ok(1));
    let queue = store.export_queue(10).await.expect("the queue").1;
    assert!(queue.iter().any(|entry| entry.workflow == workflow("w") && entry.row.is_none()), "a tombstone");
    assert_eq!(commit(&*store, more("live", 0, 1, 1)).await, Outcome::Unknown);
    assert_eq!(post(&*store, "live", answer("q", "yes")).await, Posted::Unknown);
    assert!(exists(&*store, "other").await);
    assert_eq!(store.messages(&talk("d"), 10, None).await.expect("read").len(), 1);
}

pub(super) async fn a_live_execution_is_not_deleted(harness: &mut dyn Harness) {
    let store = harness.store();
    done(&*store, first("w", None, 1)).await;
    let delete = |id: &str| StoreWrite::DeleteHistory(workflow(id));
    assert_eq!(write(&*store, delete("w")).await, Written::Conflict);
    assert_eq!(write(&*store, delete("nobody")).await, Written::NotFound);
    done(&*store, ending(more("w", 0, 1, 1), None, 3_000)).await;
    assert_eq!(write(&*store, delete("w")).await, Written::Done);
    assert_eq!(write(&*store, delete("w")).await, Written::NotFound);
    assert!(!exists(&*store, "w").await);
    assert_eq!(store.history_count().await, Ok(0));
}

pub(super) async fn all_of_history_is_cleared_but_what_lives(harness: &mut dyn Harness) {
    let store = harness.store();
    assert_eq!(write(&*store, StoreWrite::ClearHistory).await, Written::Removed(0));
    for n in 0..450 {
        done(&*store, ending(first(&format!("w{n:03}"), None, 1), None, 3_000)).await;
    }
    done(&*store, first("live", None, 2)).await;
    assert_eq!(fork(&*store, "w007", None, "fork").await, Written::Done);
    assert_eq!(write(&*store, StoreWrite::ClearHistory).await, Written::Removed(450));
    assert_eq!(store.history_count().await, Ok(0));
    assert_eq!(store.history(PageFrom::Offset(0), 10).await, Ok(vec![]));
    let left = store.workflows(WorkflowFilter { limit: 500, ..WorkflowFilter::default() }).await.expect("workflows");
    assert_eq!(left.iter().map(|row| row.workflow.as_str()).collect::<Vec<_>>(), ["live", "fork"]);
    assert_eq!(places(&*store, "live").await.len(), 2);
    assert_eq!(places(&*store, "fork").await.len(), 1);
}

pub(super) async fn old_journals_are_swept_and_history_stays(harness: &mut dyn Harness) {
    let store = harness.store();
    for (n, id) in ["a", "b", "d", "e"].into_iter().enumerate() {
        let at = 3_000 + n as i64;
        let mut append = keyed(ending(first(id, Some("c"), 1), Some("c"), at), &format!("key-{id}"), "digest");
        append.messages.push(message(&format!("m-{id}"), "c", Some(id), at, id));
        done(&*store, append).await;
    }
    done(&*store, keyed(first("live", None, 1), "key-live", "digest")).await;
    assert_eq!(write(&*store, sweep(3_003, 0, 2)).await, Written::Removed(2));
    assert_eq!(write(&*store, sweep(3_003, 0, 2)).await, Written::Removed(1));
    assert_eq!(write(&*store, sweep(3_003, 0, 2)).await, Written::Removed(0));
    for (id, stays) in [("a", false), ("b", false), ("d", false), ("e", true), ("live", true)] {
        assert_eq!(exists(&*store, id).await, stays, "{id}");
        assert_eq!(store.read(&workflow(id), Position(0), ALL).await.expect("read").is_empty(), !stays, "{id}");
    }
    assert_eq!(store.history_count().await, Ok(4));
    assert_eq!(store.messages(&talk("c"), 10, None).await.expect("read").len(), 4);
    assert!(store.request("key-live").await.expect("read").is_some());
    assert_eq!(write(&*store, sweep(0, 2_000, 10)).await, Written::Removed(0));
    assert_eq!(store.request("key-live").await, Ok(None));
    // An entry whose journal is swept can still be deleted.
    assert_eq!(write(&*store, StoreWrite::DeleteHistory(workflow("a"))).await, Written::Done);
    assert_eq!(store.history_count().await, Ok(3));
    assert_eq!(write(&*store, StoreWrite::DeleteConversation(talk("c"))).await, Written::Done);
    assert_eq!(store.history_count().await, Ok(0), "also those whose journal was swept");
}

pub(super) async fn old_history_is_swept_with_its_journals_and_nothing_else(harness: &mut dyn Harness) {
    let store = harness.store();
    let sweep = |before: i64, max_rows: u32| StoreWrite::SweepHistory { completed_before: Timestamp(before), max_rows };
    assert_eq!(write(&*store, sweep(i64::MAX, 10)).await, Written::Removed(0));
    // What ends first is no earlier id.
    for (id, at) in [("d", 3_000), ("b", 3_001), ("a", 3_002), ("e", 3_003)] {
        let mut append = ending(first(id, Some("c"), 1), Some("c"), at);
        append.messages.push(message(&format!("m-{id}"), "c", Some(id), at, id));
        done(&*store, append).await;
    }
    done(&*store, first("live", None, 1)).await;
    let left = async || ids(&store.history(PageFrom::Offset(0), 10).await.expect("a page")).join(" ");
    assert_eq!(write(&*store, sweep(3_000, 10)).await, Written::Removed(0));
    assert_eq!(write(&*store, sweep(3_003, 2)).await, Written::Removed(2));
    assert_eq!(left().await, "e a");
    assert_eq!(write(&*store, sweep(3_003, 2)).await, Written::Removed(1));
    assert_eq!(write(&*store, sweep(3_003, 2)).await, Written::Removed(0));
    assert_eq!((left().await.as_str(), store.history_count().await), ("e", Ok(1)));
    for (id, stays) in [("d", false), ("b", false), ("a", false), ("e", true), ("live", true)] {
        assert_eq!(exists(&*store, id).await, stays, "{id}");
    }
    assert_eq!(store.messages(&talk("c"), 10, None).await.expect("read").len(), 4, "messages stay");
    let queue = store.export_queue(20).await.expect("the queue").1;
    assert!(queue.iter().any(|entry| entry.workflow == workflow("a") && entry.row.is_none()), "a tombstone");
}

pub(super) async fn what_a_fork_shares_is_not_swept(harness: &mut dyn Harness) {
    let store = harness.store();
    done(&*store, ending(first("w", None, 3), None, 3_000)).await;
    assert_eq!(fork(&*store, "w", Some(2), "f").await, Written::Done);
    assert_eq!(write(&*store, sweep(9_000, 0, 10)).await, Written::Removed(0));
    assert_eq!(places(&*store, "f").await.len(), 2);
    done(&*store, ending(life("f", 1, 2, 1), None, 4_000)).await;
    assert_eq!(write(&*store, sweep(9_000, 0, 10)).await, Written::Removed(1), "the fork first");
    assert_eq!(write(&*store, sweep(9_000, 0, 10)).await, Written::Removed(1), "then what it shared");
    assert!(!exists(&*store, "w").await && !exists(&*store, "f").await);
}

pub(super) async fn a_probe_leaves_nothing(harness: &mut dyn Harness) {
    let store = harness.store();
    assert_eq!(write(&*store, StoreWrite::Probe).await, Written::Done);
    assert_eq!(write(&*store, StoreWrite::Probe).await, Written::Done);
    assert_eq!(store.workflows(WorkflowFilter { limit: 10, ..WorkflowFilter::default() }).await, Ok(vec![]));
}
