//! Which workflows want an owner.

use super::Harness;
use super::make::*;
use crate::ids::{Epoch, Timestamp};
use crate::ports::{Append, Next, Posted, Rest, Store, StoreWrite, WorkflowFilter, WorkflowState, Written};

async fn adopted(store: &dyn Store, now: i64, max: u32) -> Vec<String> {
    let rows = store.adopt(Timestamp(now), max).await.expect("adoptable workflows");
    rows.iter().map(|row| row.workflow.to_string()).collect()
}

fn made_at(mut append: Append, at: i64) -> Append {
    if let Some(made) = &mut append.create {
        made.created_at = Timestamp(at);
    }
    append
}

fn then(append: Append, next: Next) -> Append {
    Append { next, ..append }
}

async fn state(store: &dyn Store, id: &str) -> WorkflowState {
    store.workflow(&workflow(id)).await.expect("read").expect("there").state
}

pub(super) async fn what_ran_in_an_earlier_process_is_adopted_oldest_first(harness: &mut dyn Harness) {
    let store = harness.store();
    for (id, at) in [("c", 30), ("a", 20), ("b", 10)] {
        done(&*store, made_at(first(id, None, 1), at)).await;
    }
    done(&*store, ending(first("over", None, 1), None, 3_000)).await;
    assert!(adopted(&*store, 0, 10).await.is_empty(), "they run in this process");
    harness.restart();
    let store = harness.store();
    assert_eq!(adopted(&*store, 0, 10).await, ["b", "a", "c"]);
    assert_eq!(adopted(&*store, 0, 2).await, ["b", "a"]);
    done(&*store, life("a", 1, 1, 1)).await;
    assert_eq!(adopted(&*store, 0, 10).await, ["b", "c"], "a has an owner again");
    harness.restart();
    assert_eq!(adopted(&*harness.store(), 0, 10).await, ["b", "a", "c"]);
}

pub(super) async fn a_parked_workflow_is_due_by_its_timer_or_its_inbox(harness: &mut dyn Harness) {
    let store = harness.store();
    assert_eq!(store.next_wake().await, Ok(None));
    let parked = |wake_at: Option<i64>| Next::Parked { wake_at: wake_at.map(Timestamp) };
    done(&*store, then(first("late", None, 1), parked(Some(9_000)))).await;
    done(&*store, then(first("soon", None, 1), parked(Some(5_000)))).await;
    let mut asks = then(first("asks", None, 1), parked(None));
    asks.opened = vec![opened("q", "user_input", 1_000, 60_000)];
    done(&*store, asks).await;
    assert_eq!(state(&*store, "late").await, WorkflowState::Parked);
    assert_eq!(store.next_wake().await, Ok(Some(Timestamp(5_000))));
    assert!(adopted(&*store, 4_999, 10).await.is_empty());
    assert_eq!(adopted(&*store, 5_000, 10).await, ["soon"]);
    assert_eq!(post(&*store, "asks", answer("q", "yes")).await, Posted::Accepted);
    assert_eq!(adopted(&*store, 9_000, 10).await, ["asks", "late", "soon"]);
    done(&*store, life("soon", 1, 1, 1)).await;
    done(&*store, life("asks", 1, 1, 1)).await;
    assert_eq!(adopted(&*store, 9_000, 10).await, ["late"], "the others run");
    assert_eq!(store.next_wake().await, Ok(Some(Timestamp(9_000))));
}

pub(super) async fn resting_workflows_are_never_adopted(harness: &mut dyn Harness) {
    let store = harness.store();
    done(&*store, then(first("w", None, 1), Next::Resting(Rest::Quarantined))).await;
    assert_eq!(state(&*store, "w").await, WorkflowState::Resting(Rest::Quarantined));
    harness.restart();
    let store = harness.store();
    assert!(adopted(&*store, i64::MAX, 10).await.is_empty());
    done(&*store, life("w", 1, 1, 1)).await;
    assert_eq!(state(&*store, "w").await, WorkflowState::Running);
}

pub(super) async fn a_workflow_is_put_to_rest_only_at_its_epoch(harness: &mut dyn Harness) {
    let store = harness.store();
    let rest =
        |id: &str, epoch| StoreWrite::Rest { workflow: workflow(id), epoch: Epoch(epoch), rest: Rest::Interrupted };
    done(&*store, first("w", None, 1)).await;
    done(&*store, life("w", 1, 1, 1)).await;
    assert_eq!(write(&*store, rest("nobody", 0)).await, Written::NotFound);
    assert_eq!(write(&*store, rest("w", 0)).await, Written::Conflict);
    assert_eq!(state(&*store, "w").await, WorkflowState::Running);
    assert_eq!(write(&*store, rest("w", 1)).await, Written::Done);
    assert_eq!(state(&*store, "w").await, WorkflowState::Resting(Rest::Interrupted));
    done(&*store, ending(life("w", 2, 2, 1), None, 3_000)).await;
    assert_eq!(write(&*store, rest("w", 2)).await, Written::Conflict);
}

pub(super) async fn workflows_are_listed_newest_first(harness: &mut dyn Harness) {
    let store = harness.store();
    for (id, conversation) in [("a", Some("c")), ("b", None), ("d", Some("c")), ("e", Some("other"))] {
        done(&*store, first(id, conversation, 1)).await;
    }
    done(&*store, ending(more("a", 0, 1, 1), Some("c"), 3_000)).await;
    let list = async |conversation: Option<&str>, unfinished, limit| {
        let filter = WorkflowFilter { conversation: conversation.map(talk), unfinished, limit };
        let rows = store.workflows(filter).await.expect("workflows");
        rows.iter().map(|row| row.workflow.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list(None, false, 10).await, ["e", "d", "b", "a"]);
    assert_eq!(list(None, true, 10).await, ["e", "d", "b"]);
    assert_eq!(list(None, false, 2).await, ["e", "d"]);
    assert_eq!(list(Some("c"), false, 10).await, ["d", "a"]);
    assert_eq!(list(Some("c"), true, 10).await, ["d"]);
    assert!(list(Some("nowhere"), false, 10).await.is_empty());
}
