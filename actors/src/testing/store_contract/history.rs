//! Pages of history, and its export.

use super::Harness;
use super::make::*;
use crate::ids::WorkflowId;
use crate::ports::{PageFrom, Store, StoreWrite, Written};

/// Ended runs in an order that is not that of their ids; 977 is prime to every count used here.
async fn fill(store: &dyn Store, count: u64) {
    let shuffled: Vec<_> = (0..count).map(|n| n * 977 % count).collect();
    for batch in shuffled.chunks(50) {
        let ended = batch.iter().map(|n| ending(first(&name(*n), None, 1), None, 3_000).into()).collect();
        store.commit(ended).await.expect("the store commits");
    }
}

fn name(n: u64) -> String {
    format!("run-{n:06}")
}

pub(super) async fn any_page_of_history_is_the_same_by_offset_and_by_cursor(harness: &mut dyn Harness) {
    const COUNT: u64 = 3_300;
    let store = harness.store();
    assert_eq!(store.history_count().await, Ok(0));
    assert_eq!(store.history(PageFrom::Offset(0), 10).await, Ok(vec![]));
    fill(&*store, COUNT).await;
    let mut model: Vec<_> = (0..COUNT).map(name).collect();
    // A hole of more than a block, and scattered ones.
    for n in (400..1_700).chain((2_000..COUNT).step_by(7)) {
        let deleted = write(&*store, StoreWrite::DeleteHistory(workflow(&name(n)))).await;
        assert_eq!(deleted, Written::Done);
        model.retain(|id| *id != name(n));
    }
    model.reverse();
    assert_eq!(store.history_count().await, Ok(model.len() as u64));
    for offset in (0..model.len()).step_by(61).chain([0, 1, model.len() - 1]) {
        let page = store.history(PageFrom::Offset(offset as u64), 20).await.expect("a page");
        let end = model.len().min(offset + 20);
        assert_eq!(ids(&page), model[offset..end], "at {offset}");
        let cursor = page.last().expect("a row").workflow_id.clone();
        let next = store.history(PageFrom::Before(cursor), 20).await.expect("a page");
        assert_eq!(ids(&next), model[end..model.len().min(end + 20)], "behind {offset}");
    }
    assert_eq!(store.history(PageFrom::Offset(model.len() as u64), 20).await, Ok(vec![]));
    assert_eq!(store.history(PageFrom::Offset(u64::MAX), 20).await, Ok(vec![]));
    // A deleted entry is still a place to go on from.
    let behind = store.history(PageFrom::Before(workflow(&name(400))), 1).await.expect("a page");
    assert_eq!(ids(&behind), [name(399)]);
    let row = store.history_entry(&workflow(&name(3))).await.expect("read");
    assert_eq!(row, Some(entry(&name(3), None, 3_000)));
    assert_eq!(store.history_entry(&workflow(&name(400))).await, Ok(None));
}

pub(super) async fn changes_of_history_are_queued_for_export(harness: &mut dyn Harness) {
    let store = harness.store();
    for id in ["a", "b", "d"] {
        done(&*store, ending(first(id, None, 1), None, 3_000)).await;
    }
    let queue = async |limit| {
        let (exported, entries) = store.export_queue(limit).await.expect("the queue");
        let lines = entries.iter().map(|entry| (entry.cursor, entry.workflow.to_string(), entry.row.is_some()));
        (exported, lines.collect::<Vec<_>>())
    };
    let line = |cursor: u64, id: &str, lives| (cursor, id.to_owned(), lives);
    assert_eq!(queue(10).await, (0, vec![line(1, "a", true), line(2, "b", true), line(3, "d", true)]));
    assert_eq!(queue(2).await.1.len(), 2);
    assert_eq!(store.export_queue(1).await.expect("the queue").1[0].row, Some(entry("a", None, 3_000)));
    assert_eq!(write(&*store, StoreWrite::HistoryExported { cursor: 2 }).await, Written::Done);
    assert_eq!(queue(10).await, (2, vec![line(3, "d", true)]));
    assert_eq!(write(&*store, StoreWrite::DeleteHistory(workflow("d"))).await, Written::Done);
    assert_eq!(queue(10).await, (2, vec![line(3, "d", false), line(4, "d", false)]), "what it is now");
    assert_eq!(write(&*store, StoreWrite::HistoryExported { cursor: 4 }).await, Written::Done);
    assert_eq!(write(&*store, StoreWrite::HistoryExported { cursor: 1 }).await, Written::Done);
    assert_eq!(queue(10).await, (4, vec![]), "a cursor never goes back");
    done(&*store, ending(first("e", None, 1), None, 3_000)).await;
    assert_eq!(queue(10).await, (4, vec![line(5, "e", true)]), "nor is one given twice");
}

pub(super) async fn history_is_scanned_in_the_order_of_ids(harness: &mut dyn Harness) {
    let store = harness.store();
    fill(&*store, 100).await;
    let mut scanned = Vec::new();
    let mut after: Option<WorkflowId> = None;
    loop {
        let page = store.history_scan(after.clone(), 30).await.expect("a page");
        let Some(last) = page.last() else { break };
        after = Some(last.workflow_id.clone());
        scanned.extend(ids(&page));
    }
    assert_eq!(scanned, (0..100).map(name).collect::<Vec<_>>());
}
