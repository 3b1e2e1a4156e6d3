//! Children: made with their parent's end, in no list, and what their end changes.

use std::sync::Arc;

use super::Harness;
use super::make::*;
use crate::ids::{Epoch, Position, Timestamp};
use crate::ports::{
    Append, NewChild, NewWorkflow, Next, PageFrom, Quality, QuestionFilter, Rest, Store, StoreWrite, WorkflowFilter,
    Written,
};

fn child(id: &str, of: &str, conversation: Option<&str>) -> NewChild {
    let Append { create, mut records, .. } = first(id, conversation, 2);
    for record in &mut records {
        (record.epoch, record.seq) = (Epoch(0), None);
    }
    let made = create.map(|made| NewWorkflow { child_of: Some(workflow(of)), ..*made });
    NewChild { workflow: workflow(id), made: Box::new(made.expect("a first append makes a workflow")), records }
}

/// A parent with a judged message that has ended and left one child behind.
async fn bear(store: &dyn Store) {
    let mut append = ending(first("parent", Some("c"), 2), Some("c"), 3_000);
    let mut said = message("m", "c", Some("parent"), 2_000, "the answer");
    said.quality = Some(Quality::pending());
    append.messages.push(said);
    append.children.push(child("child", "parent", Some("c")));
    done(store, append.clone()).await;
    done(store, append).await;
}

async fn adopted(store: &dyn Store, now: i64) -> Vec<String> {
    let rows = store.adopt_children(Timestamp(now), 10).await.expect("children");
    rows.iter().map(|row| row.workflow.to_string()).collect()
}

pub(super) async fn a_child_is_made_with_its_parents_end_and_is_in_no_list(harness: &mut dyn Harness) {
    let store = harness.store();
    bear(&*store).await;
    assert_eq!(adopted(&*store, 5_000).await, ["child"]);
    let row = store.workflow(&workflow("child")).await.expect("read").expect("there");
    assert_eq!((row.head, row.epoch, row.made.child_of), (Position(2), Epoch(0), Some(workflow("parent"))));
    assert_eq!(read_all(&*store, "child").await.len(), 2);
    assert!(store.adopt(Timestamp(i64::MAX), 10).await.expect("adoptable").is_empty());
    assert_eq!(store.next_wake().await, Ok(None));
    let listed = store.workflows(WorkflowFilter { limit: 10, ..WorkflowFilter::default() }).await.expect("workflows");
    assert_eq!(listed.len(), 1);
    done(&*store, life("child", 1, 2, 1)).await;
    assert!(adopted(&*store, 5_000).await.is_empty(), "it runs in this process");
    harness.restart();
    assert_eq!(adopted(&*harness.store(), 5_000).await, ["child"]);
}

pub(super) async fn children_come_a_page_at_a_time_oldest_first_those_that_ran_before_among_them(
    harness: &mut dyn Harness,
) {
    let page = async |harness: &mut dyn Harness, max: u32| {
        let rows = harness.store().adopt_children(Timestamp(5_000), max).await.expect("children");
        rows.iter().map(|row| row.workflow.to_string()).collect::<Vec<_>>()
    };
    let store = harness.store();
    for n in 1..=5 {
        let (parent, born) = (format!("p{n}"), format!("c{n}"));
        let mut append = ending(first(&parent, None, 2), None, 3_000);
        append.children.push(child(&born, &parent, None));
        done(&*store, append).await;
    }
    assert_eq!(page(harness, 2).await, ["c1", "c2"]);
    done(&*store, life("c1", 1, 2, 1)).await;
    assert_eq!(page(harness, 2).await, ["c2", "c3"]);
    drop(store);
    harness.restart();
    assert_eq!(page(harness, 2).await, ["c1", "c2"], "it ran when the process died");
    assert_eq!(page(harness, 10).await, ["c1", "c2", "c3", "c4", "c5"]);
}

pub(super) async fn a_childs_end_changes_its_parents_message_and_entry(harness: &mut dyn Harness) {
    let store = harness.store();
    bear(&*store).await;
    let before = store.export_queue(10).await.expect("queue").1.len();
    let mut end = ending(life("child", 1, 2, 1), Some("c"), 4_000);
    let Next::Ended(row) = &mut end.next else { unreachable!("it ends") };
    let score = Quality { score: Some(8.5), ..Quality::default() };
    Arc::make_mut(row).quality = Some(score.clone());
    done(&*store, end.clone()).await;
    done(&*store, end).await;
    let messages = store.messages(&talk("c"), 10, None).await.expect("messages");
    assert_eq!(messages[0].quality, Some(score.clone()));
    let entry = store.history_entry(&workflow("parent")).await.expect("read").expect("there");
    assert_eq!((entry.quality, entry.model_calls), (Some(score), 2), "what it spent is its parent's");
    assert_eq!(store.history_entry(&workflow("child")).await, Ok(None));
    assert_eq!(store.history(PageFrom::Offset(0), 10).await.expect("page").len(), 1);
    assert_eq!(store.export_queue(10).await.expect("queue").1.len(), before + 1);
    assert!(adopted(&*store, 5_000).await.is_empty());
}

pub(super) async fn a_child_that_will_not_go_on_leaves_its_parent_not_scored(harness: &mut dyn Harness) {
    let store = harness.store();
    bear(&*store).await;
    let quality = || async {
        let messages = store.messages(&talk("c"), 10, None).await.expect("messages");
        let entry = store.history_entry(&workflow("parent")).await.expect("read").expect("there");
        (messages[0].quality.clone(), entry.quality)
    };
    let rest = |epoch, rest| StoreWrite::Rest { workflow: workflow("child"), epoch: Epoch(epoch), rest };
    assert_eq!(write(&*store, rest(0, Rest::StorageUnavailable)).await, Written::Done);
    assert_eq!(quality().await.0, Some(Quality::pending()), "it may go on");
    assert_eq!(write(&*store, rest(0, Rest::Quarantined)).await, Written::Done);
    assert_eq!(quality().await, (Some(Quality::not_scored()), Some(Quality::not_scored())));
    assert!(adopted(&*store, 5_000).await.is_empty(), "it is not taken up again");
    // A repaired one may end after all, and rest by its own append.
    let mut end = ending(life("child", 1, 2, 1), Some("c"), 4_000);
    let Next::Ended(row) = &mut end.next else { unreachable!("it ends") };
    Arc::make_mut(row).quality = Some(Quality { score: Some(8.5), ..Quality::default() });
    done(&*store, end).await;
    assert_eq!(quality().await.0.and_then(|quality| quality.score), Some(8.5));
}

pub(super) async fn a_childs_own_rest_leaves_its_parent_not_scored(harness: &mut dyn Harness) {
    let store = harness.store();
    bear(&*store).await;
    let mut rests = life("child", 1, 2, 1);
    rests.next = Next::Resting(Rest::Quarantined);
    done(&*store, rests).await;
    let messages = store.messages(&talk("c"), 10, None).await.expect("messages");
    assert_eq!(messages[0].quality, Some(Quality::not_scored()));
}

pub(super) async fn a_deleted_parent_takes_its_children_along(harness: &mut dyn Harness) {
    let store = harness.store();
    bear(&*store).await;
    assert_eq!(write(&*store, StoreWrite::DeleteHistory(workflow("parent"))).await, Written::Done);
    assert_eq!(store.workflow(&workflow("child")).await, Ok(None));
    assert!(adopted(&*store, 5_000).await.is_empty());
    assert_ne!(
        commit(&*store, ending(life("child", 1, 2, 1), Some("c"), 4_000)).await,
        crate::ports::Outcome::Done { head: Position(3) }
    );
}

pub(super) async fn open_questions_are_listed_over_all_workflows(harness: &mut dyn Harness) {
    let store = harness.store();
    let mut asks = first("a", Some("c"), 1);
    asks.opened = vec![opened("late", "tool_approval", 2_000, 90_000), opened("early", "user_input", 1_000, 90_000)];
    done(&*store, asks).await;
    let mut other = first("b", None, 1);
    other.opened = vec![opened("other", "tool_approval", 1_500, 90_000)];
    done(&*store, Append { next: Next::Parked { wake_at: None }, ..other }).await;
    let list = async |store: &dyn Store, filter: QuestionFilter| {
        let rows = store.questions(filter).await.expect("questions");
        rows.iter().map(|row| row.question.request_id.to_string()).collect::<Vec<_>>()
    };
    let all = QuestionFilter { limit: 10, ..QuestionFilter::default() };
    assert_eq!(list(&*store, all.clone()).await, ["early", "other", "late"]);
    assert_eq!(list(&*store, QuestionFilter { limit: 1, offset: 1, ..all.clone() }).await, ["other"]);
    let of_a = QuestionFilter { workflow: Some(workflow("a")), ..all.clone() };
    assert_eq!(list(&*store, of_a).await, ["early", "late"]);
    let of_c = QuestionFilter { conversation: Some(talk("c")), ..all.clone() };
    assert_eq!(list(&*store, of_c).await, ["early", "late"]);
    let tools = QuestionFilter { request_type: Some("tool_approval".into()), ..all.clone() };
    assert_eq!(list(&*store, tools).await, ["other", "late"]);
    let one = QuestionFilter { request: Some(question("late")), ..all.clone() };
    let rows = store.questions(one).await.expect("questions");
    let expected = opened("late", "tool_approval", 2_000, 90_000);
    assert_eq!((&rows[0].question, rows[0].asked_at), (&expected.question, expected.asked_at));
    harness.restart();
    let store = harness.store();
    assert_eq!(list(&*store, all.clone()).await.len(), 3, "they outlive the process");
    post(&*store, "b", answer("other", "yes")).await;
    assert_eq!(list(&*store, all.clone()).await, ["early", "late"], "an answered one is not open");
    let mut close = life("a", 1, 1, 1);
    close.closed = vec![question("early")];
    done(&*store, close).await;
    assert_eq!(list(&*store, all.clone()).await, ["late"]);
    done(&*store, ending(more("a", 1, 2, 1), Some("c"), 3_000)).await;
    assert!(list(&*store, all).await.is_empty(), "a run that is over asks nothing");
    for (request, asker) in [("late", "a"), ("early", "a"), ("other", "b")] {
        let askers = store.askers(&question(request)).await;
        assert_eq!(askers, Ok(vec![workflow(asker)]), "who asked {request} is known as long as the run is");
    }
    assert_eq!(store.askers(&question("nobody's")).await, Ok(Vec::new()));
    assert_eq!(write(&*store, StoreWrite::DeleteHistory(workflow("a"))).await, Written::Done);
    assert_eq!(store.askers(&question("late")).await, Ok(Vec::new()));
}
