//! What is written is what is read, once, by the one who may.

use std::sync::Arc;

use super::Harness;
use super::make::*;
use crate::ids::{Epoch, Position, Seq};
use crate::ports::{Next, Outcome, RequestRow, WorkflowState};

pub(super) async fn an_append_is_read_back_as_it_was_written(harness: &mut dyn Harness) {
    let store = harness.store();
    let mut append = first("w", Some("c"), 6);
    append.records[0].body = body(1, 10, false);
    append.records[1].body = body(2, 5_000, false);
    append.records[2].body = body(3, 5_000, true);
    append.records[3].body = body(2, 5_000, false);
    append.records[4].body = body(4, 0, true);
    append.records[5].seq = None;
    let (written, made) = (append.records.clone(), *append.create.clone().expect("made"));
    done(&*store, append).await;
    harness.restart();
    let store = harness.store();
    assert_eq!(read_all(&*store, "w").await, written);
    assert_eq!(store.read(&workflow("w"), Position(4), ALL).await.as_deref(), Ok(&written[4..]));
    assert_eq!(store.read(&workflow("w"), Position(6), ALL).await.as_deref(), Ok(&[][..]));
    let row = store.workflow(&workflow("w")).await.expect("read").expect("there");
    assert_eq!((row.made, row.state, row.epoch, row.head), (made, WorkflowState::Running, Epoch(0), Position(6)));
    assert_eq!((row.runtime.as_millis(), row.wake_at, row.parent), (6, None, None));
}

pub(super) async fn records_are_paged_by_bytes_and_a_page_holds_at_least_one(harness: &mut dyn Harness) {
    let store = harness.store();
    let mut append = first("w", None, 10);
    for record in &mut append.records {
        record.body = body(9, 3_000, false);
    }
    let written = append.records.clone();
    done(&*store, append).await;
    for max_bytes in [0, 1, 7_000, 1_000_000] {
        let mut read = Vec::new();
        let mut pages = 0;
        loop {
            let after = Position(read.len() as u64);
            let page = store.read(&workflow("w"), after, max_bytes).await.expect("a page");
            if page.is_empty() {
                break;
            }
            let bytes: usize = page.iter().filter_map(|record| record.body.as_ref()).map(|body| body.bytes.len()).sum();
            assert!(page.len() == 1 || bytes <= max_bytes, "{} records at {max_bytes}", page.len());
            read.extend(page);
            pages += 1;
        }
        assert_eq!(read, written);
        assert_eq!(pages == 1, max_bytes == 1_000_000, "{pages} pages at {max_bytes}");
    }
}

pub(super) async fn events_are_found_by_their_number(harness: &mut dyn Harness) {
    let store = harness.store();
    let mut append = first("w", None, 5);
    append.records[1].seq = None;
    append.records[3].seq = None;
    done(&*store, append).await;
    done(&*store, life("w", 1, 5, 2)).await;
    for (after, expected) in [
        (Seq(0), vec![1, 3, 5, 6, 7]),
        (Seq(1), vec![3, 5, 6, 7]),
        (Seq(5), vec![6, 7]),
        (Seq::new(Epoch(1), 6), vec![7]),
        (Seq::new(Epoch(1), 7), vec![]),
        (Seq(u64::MAX), vec![]),
    ] {
        let found = store.read_events(&workflow("w"), after, ALL).await.expect("events");
        assert_eq!(found.iter().map(|record| record.position.0).collect::<Vec<_>>(), expected, "after {after}");
    }
    assert_eq!(store.read_events(&workflow("w"), Seq(0), 1).await.expect("events").len(), 1);
}

pub(super) async fn an_append_asked_again_is_done_once(harness: &mut dyn Harness) {
    let store = harness.store();
    let mut start = keyed(first("w", Some("c"), 2), "key", "digest");
    start.messages.push(message("m", "c", Some("w"), 1_000, "hello"));
    let next = more("w", 0, 2, 3);
    let last = ending(more("w", 0, 5, 1), Some("c"), 3_000);
    for append in [&start, &start, &next, &next, &last, &last] {
        done(&*store, append.clone()).await;
    }
    assert_eq!(read_all(&*store, "w").await.len(), 6);
    assert_eq!(store.messages(&talk("c"), 10, None).await.expect("messages").len(), 1);
    assert_eq!(store.history_count().await, Ok(1));
    assert_eq!(store.export_queue(10).await.expect("queue").1.len(), 1);
}

/// The record that begins a life names its owner; everything behind it may be the same.
pub(super) async fn of_two_owners_of_one_epoch_that_end_alike_one_is_refused(harness: &mut dyn Harness) {
    let store = harness.store();
    let mine = first("w", None, 3);
    let mut theirs = mine.clone();
    theirs.records[0].head = br#"{"kind":"began","owner":2}"#.to_vec();
    done(&*store, mine.clone()).await;
    assert_eq!(commit(&*store, theirs).await, Outcome::Gap { head: Position(3) });
    done(&*store, mine).await;
    assert_eq!(read_all(&*store, "w").await.len(), 3);
}

pub(super) async fn an_append_that_does_not_follow_the_head_is_a_gap(harness: &mut dyn Harness) {
    let store = harness.store();
    let ahead = more("w", 0, 3, 1);
    let mut misplaced = first("w", None, 2);
    misplaced.after = Position(1);
    assert_eq!(commit(&*store, misplaced).await, Outcome::Gap { head: Position(0) });
    done(&*store, first("w", None, 2)).await;
    assert_eq!(commit(&*store, ahead).await, Outcome::Gap { head: Position(2) });
    let mut other = more("w", 0, 1, 1);
    other.records[0].head = b"{}".to_vec();
    assert_eq!(commit(&*store, other).await, Outcome::Gap { head: Position(2) });
    assert_eq!(places(&*store, "w").await, [(1, 0), (2, 0)]);
}

pub(super) async fn records_with_a_hole_are_a_gap(harness: &mut dyn Harness) {
    let store = harness.store();
    done(&*store, first("w", None, 1)).await;
    let mut holed = more("w", 0, 1, 3);
    holed.records.remove(1);
    assert_eq!(commit(&*store, holed).await, Outcome::Gap { head: Position(1) });
    assert_eq!(places(&*store, "w").await, [(1, 0)]);
}

pub(super) async fn a_workflow_that_nobody_made_is_unknown(harness: &mut dyn Harness) {
    let store = harness.store();
    assert_eq!(commit(&*store, more("w", 0, 0, 1)).await, Outcome::Unknown);
    assert_eq!(store.workflow(&workflow("w")).await, Ok(None));
    assert!(places(&*store, "w").await.is_empty());
}

pub(super) async fn a_stale_life_is_fenced(harness: &mut dyn Harness) {
    let store = harness.store();
    done(&*store, first("w", None, 2)).await;
    done(&*store, life("w", 1, 2, 1)).await;
    assert_eq!(commit(&*store, more("w", 0, 3, 1)).await, Outcome::Fenced { epoch: Epoch(1) });
    assert_eq!(commit(&*store, more("w", 0, 2, 1)).await, Outcome::Fenced { epoch: Epoch(1) });
    let end = ending(more("w", 0, 3, 1), None, 3_000);
    assert_eq!(commit(&*store, end).await, Outcome::Fenced { epoch: Epoch(1) });
    assert_eq!(places(&*store, "w").await, [(1, 0), (2, 0), (3, 1)]);
    assert_eq!(store.history_count().await, Ok(0));
    done(&*store, more("w", 1, 3, 1)).await;
}

pub(super) async fn a_newer_life_takes_over_only_by_beginning(harness: &mut dyn Harness) {
    let store = harness.store();
    done(&*store, first("w", None, 2)).await;
    assert_eq!(commit(&*store, more("w", 1, 2, 1)).await, Outcome::Fenced { epoch: Epoch(0) });
    assert_eq!(commit(&*store, life("w", 1, 1, 1)).await, Outcome::Gap { head: Position(2) });
    let empty = more("w", 1, 2, 0);
    assert_eq!(commit(&*store, empty).await, Outcome::Fenced { epoch: Epoch(0) });
    done(&*store, life("w", 3, 2, 2)).await;
    assert_eq!(places(&*store, "w").await, [(1, 0), (2, 0), (3, 3), (4, 3)]);
}

pub(super) async fn a_workflow_that_is_over_takes_no_more(harness: &mut dyn Harness) {
    let store = harness.store();
    done(&*store, ending(first("w", None, 2), None, 3_000)).await;
    assert_eq!(commit(&*store, more("w", 0, 2, 1)).await, Outcome::Fenced { epoch: Epoch(0) });
    assert_eq!(commit(&*store, life("w", 1, 2, 1)).await, Outcome::Fenced { epoch: Epoch(0) });
    assert_eq!(places(&*store, "w").await, [(1, 0), (2, 0)]);
}

pub(super) async fn a_refused_append_leaves_the_others_of_its_batch_alone(harness: &mut dyn Harness) {
    let store = harness.store();
    done(&*store, keyed(first("a", None, 1), "key", "digest")).await;
    let mut refused = keyed(first("d", Some("never"), 1), "key", "digest");
    refused.messages.push(message("m", "never", Some("d"), 1_000, "never"));
    let batch = [first("b", None, 1), more("nobody", 0, 0, 1), more("a", 0, 7, 1), refused, more("a", 0, 1, 1)];
    let done_at = |head| Outcome::Done { head: Position(head) };
    let duplicate = Outcome::Duplicate { workflow: workflow("a"), same_body: true };
    assert_eq!(
        store.commit(batch.map(Arc::new).into()).await,
        Ok(vec![done_at(1), Outcome::Unknown, Outcome::Gap { head: Position(1) }, duplicate, done_at(2)])
    );
    assert_eq!((places(&*store, "a").await.len(), places(&*store, "b").await.len()), (2, 1));
    assert_eq!(store.workflow(&workflow("d")).await, Ok(None));
    assert_eq!(store.conversation(&talk("never")).await, Ok(None));
}

pub(super) async fn appends_of_one_workflow_in_one_batch_see_each_other(harness: &mut dyn Harness) {
    let store = harness.store();
    let batch = [first("w", None, 1), more("w", 0, 1, 2), more("w", 0, 1, 1), life("w", 1, 3, 1)];
    let heads = [1, 3, 4].map(|head| Outcome::Done { head: Position(head) });
    let [one, three, four] = heads;
    assert_eq!(
        store.commit(batch.map(Arc::new).into()).await,
        Ok(vec![one, three, Outcome::Gap { head: Position(3) }, four])
    );
    assert_eq!(places(&*store, "w").await, [(1, 0), (2, 0), (3, 0), (4, 1)]);
}

pub(super) async fn a_request_key_starts_one_run(harness: &mut dyn Harness) {
    let store = harness.store();
    assert_eq!(store.request("key").await, Ok(None));
    done(&*store, keyed(first("a", None, 1), "key", "one")).await;
    let same = commit(&*store, keyed(first("b", None, 1), "key", "one")).await;
    assert_eq!(same, Outcome::Duplicate { workflow: workflow("a"), same_body: true });
    let other = commit(&*store, keyed(first("b", None, 1), "key", "two")).await;
    assert_eq!(other, Outcome::Duplicate { workflow: workflow("a"), same_body: false });
    assert_eq!(store.workflow(&workflow("b")).await, Ok(None));
    let row = RequestRow { workflow: workflow("a"), digest: "one".into() };
    assert_eq!(store.request("key").await, Ok(Some(row)));
    let mut parked = more("a", 0, 1, 0);
    parked.next = Next::Parked { wake_at: None };
    done(&*store, parked).await;
    let made = store.workflow(&workflow("a")).await.expect("read").expect("there").made;
    assert_eq!(made.request.map(|asked| asked.key.to_string()).as_deref(), Some("key"));
}
