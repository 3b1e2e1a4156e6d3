//! What the cases are made of.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::event::{Answer, Question};
use crate::ids::{ConversationId, Epoch, Position, RequestId, Seq, Timestamp, WorkflowId};
use crate::ports::{
    Append, Claim, Command, HistoryRow, MessageRow, NewWorkflow, Next, OpenedQuestion, Outcome, Posted, RecordBody,
    RecordRow, RequestKey, Role, Store, StoreWrite, Written,
};
use crate::testing::plain;

/// All of a journal in one page.
pub(super) const ALL: usize = 64 * 1024 * 1024;

pub(super) fn workflow(name: &str) -> WorkflowId {
    WorkflowId::from_trusted(name)
}

pub(super) fn talk(name: &str) -> ConversationId {
    ConversationId::from_trusted(name)
}

pub(super) fn question(name: &str) -> RequestId {
    RequestId::from_trusted(name)
}

pub(super) fn record(epoch: u32, position: u64, kind: &str) -> RecordRow {
    RecordRow {
        position: Position(position),
        epoch: Epoch(epoch),
        seq: Some(Seq::new(Epoch(epoch), position)),
        kind: kind.into(),
        path: format!("step#{position}").into(),
        head: format!(r#"{{"kind":"{kind}","position":{position}}}"#).into_bytes(),
        body: None,
    }
}

pub(super) fn body(fill: u8, bytes: usize, shared: bool) -> Option<RecordBody> {
    Some(RecordBody { bytes: vec![fill; bytes].into(), shared })
}

/// The first append of a workflow: `records` of them, made at the time 1000.
pub(super) fn first(id: &str, conversation: Option<&str>, records: u64) -> Append {
    Append { create: Some(Box::new(made(id, conversation))), ..life(id, 0, 0, records) }
}

fn made(id: &str, conversation: Option<&str>) -> NewWorkflow {
    let made = plain::made("chat", &format!("the task of {id}"), Timestamp(1_000));
    NewWorkflow { conversation: conversation.map(talk), ..made }
}

/// The first append of a later life.
pub(super) fn life(id: &str, epoch: u32, after: u64, records: u64) -> Append {
    let mut append = more(id, epoch, after, records);
    if let Some(first) = append.records.first_mut() {
        *first = record(epoch, after + 1, "began");
    }
    append
}

/// An append of a life that has begun.
pub(super) fn more(id: &str, epoch: u32, after: u64, records: u64) -> Append {
    let claim = Claim { workflow: workflow(id), epoch: Epoch(epoch) };
    let runtime = Duration::from_millis(after + records);
    let records = (after + 1..=after + records).map(|at| record(epoch, at, "step_completed"));
    Append { runtime, ..plain::append(claim, Position(after), records.collect()) }
}

/// The same append as the last of its workflow, which ends at `at`.
pub(super) fn ending(append: Append, conversation: Option<&str>, at: i64) -> Append {
    let row = entry(append.claim.workflow.as_str(), conversation, at);
    Append { next: Next::Ended(Arc::new(row)), ..append }
}

pub(super) fn keyed(mut append: Append, key: &str, digest: &str) -> Append {
    if let Some(made) = &mut append.create {
        made.request = Some(RequestKey { key: key.into(), digest: digest.into() });
    }
    append
}

pub(super) fn entry(id: &str, conversation: Option<&str>, at: i64) -> HistoryRow {
    let row = plain::entry(workflow(id), &made(id, conversation), Timestamp(at));
    HistoryRow { runtime_ms: 7, model_calls: 1, ..row }
}

/// An open question of a type.
pub(super) fn opened(name: &str, request_type: &str, asked_at: i64, expires_at: i64) -> OpenedQuestion {
    let question = Question {
        request_id: question(name),
        request_type: request_type.into(),
        request: json!({ "tool": name }),
        answer_schema: None,
        expires_at: Timestamp(expires_at),
    };
    OpenedQuestion { question, asked_at: Timestamp(asked_at) }
}

pub(super) fn message(id: &str, conversation: &str, from: Option<&str>, at: i64, content: &str) -> MessageRow {
    MessageRow {
        id: id.into(),
        conversation: talk(conversation),
        role: Role::User,
        content: content.into(),
        created_at: Timestamp(at),
        author: None,
        agent_id: None,
        workflow: from.map(workflow),
        finish_reason: None,
        quality: None,
    }
}

pub(super) fn answer(to: &str, text: &str) -> Command {
    Command::Answer { request_id: question(to), answer: Answer::Given(json!(text)) }
}

pub(super) async fn commit(store: &dyn Store, append: Append) -> Outcome {
    let outcomes = store.commit(vec![append.into()]).await.expect("the store commits");
    let [outcome] = <[Outcome; 1]>::try_from(outcomes).expect("an outcome for each append");
    outcome
}

/// Commits what must be taken.
pub(super) async fn done(store: &dyn Store, append: Append) {
    let head = append.records.last().map_or(append.after, |record| record.position);
    assert_eq!(commit(store, append).await, Outcome::Done { head });
}

pub(super) async fn write(store: &dyn Store, write: StoreWrite) -> Written {
    store.write(write).await.expect("the store writes")
}

pub(super) async fn post(store: &dyn Store, to: &str, command: Command) -> Posted {
    match write(store, StoreWrite::Post { workflow: workflow(to), command }).await {
        Written::Posted(posted) => posted,
        other @ (Written::Done | Written::NotFound | Written::Conflict | Written::Removed(_)) => {
            panic!("a post was answered with {other:?}")
        }
    }
}

pub(super) async fn fork(store: &dyn Store, from: &str, position: Option<u64>, name: &str) -> Written {
    let fork = StoreWrite::Fork {
        from: workflow(from),
        position: position.map(Position),
        fork: workflow(name),
        at: Timestamp(2_000),
    };
    write(store, fork).await
}

pub(super) async fn read_all(store: &dyn Store, id: &str) -> Vec<RecordRow> {
    store.read(&workflow(id), Position(0), ALL).await.expect("the journal is read")
}

/// Position and epoch of every record.
pub(super) async fn places(store: &dyn Store, id: &str) -> Vec<(u64, u32)> {
    read_all(store, id).await.iter().map(|record| (record.position.0, record.epoch.0)).collect()
}

pub(super) fn ids(rows: &[HistoryRow]) -> Vec<String> {
    rows.iter().map(|row| row.workflow_id.to_string()).collect()
}
