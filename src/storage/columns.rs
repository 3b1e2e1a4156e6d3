//! Rows of the tables as values of the port.
//!
//! Small enums stand in their columns under the names they have in JSON.

use std::sync::Arc;
use std::time::Duration;

use fleet_actors::ids::{ConversationId, Epoch, Position, Timestamp, WorkflowId};
use fleet_actors::ports::{
    CheckpointRef, ConversationRow, MessageRow, NewWorkflow, QuestionRow, RequestKey, WorkflowRow, WorkflowState,
};
use rusqlite::types::Type;
use rusqlite::{Error, Result, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The name of a unit variant.
pub(super) fn to_text<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        // Only our own types come here, and all of them are enums of unit variants.
        Ok(_) | Err(_) => unreachable!("not an enum of unit variants"),
    }
}

fn from_text<T: DeserializeOwned>(column: usize, text: String) -> Result<T> {
    serde_json::from_value(Value::String(text))
        .map_err(|e| Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

fn named<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T> {
    from_text(column, row.get(column)?)
}

fn named_maybe<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<Option<T>> {
    row.get::<_, Option<String>>(column)?.map(|text| from_text(column, text)).transpose()
}

fn shared_text(row: &Row<'_>, column: usize) -> Result<Arc<str>> {
    row.get::<_, String>(column).map(Arc::from)
}

/// What [`workflow`] reads.
pub(super) const WORKFLOW: &str = "SELECT w.id, w.name, w.version, w.conversation, w.task, w.effort, w.request_key, \
     w.request_digest, w.on_disconnect, w.created_at, l.state, l.detail, l.epoch, l.head, l.runtime_ms, l.wake_at, \
     l.updated_at, w.parent_position, p.id, w.child_of \
     FROM workflows w JOIN lives l ON l.num = w.num LEFT JOIN workflows p ON p.num = w.parent";

pub(super) fn workflow(row: &Row<'_>) -> Result<WorkflowRow> {
    let request = match (row.get::<_, Option<String>>(6)?, row.get::<_, Option<String>>(7)?) {
        (Some(key), Some(digest)) => Some(RequestKey { key: key.into(), digest: digest.into() }),
        _ => None,
    };
    let made = NewWorkflow {
        name: shared_text(row, 1)?,
        version: row.get(2)?,
        conversation: row.get::<_, Option<String>>(3)?.map(ConversationId::from_trusted),
        task: shared_text(row, 4)?,
        effort: named_maybe(row, 5)?,
        request,
        on_disconnect: named(row, 8)?,
        created_at: Timestamp(row.get(9)?),
        child_of: row.get::<_, Option<String>>(19)?.map(WorkflowId::from_trusted),
    };
    let parent = match (row.get::<_, Option<String>>(18)?, row.get::<_, Option<u64>>(17)?) {
        (Some(id), Some(at)) => Some(CheckpointRef { workflow: WorkflowId::from_trusted(id), position: Position(at) }),
        _ => None,
    };
    Ok(WorkflowRow {
        workflow: WorkflowId::from_trusted(row.get::<_, String>(0)?),
        made,
        state: state(row, 10)?,
        epoch: Epoch(row.get(12)?),
        head: Position(row.get(13)?),
        runtime: Duration::from_millis(row.get(14)?),
        wake_at: row.get::<_, Option<i64>>(15)?.map(Timestamp),
        updated_at: Timestamp(row.get(16)?),
        parent,
    })
}

fn state(row: &Row<'_>, column: usize) -> Result<WorkflowState> {
    let name: String = row.get(column)?;
    match name.as_str() {
        "running" => Ok(WorkflowState::Running),
        "parked" => Ok(WorkflowState::Parked),
        "resting" => Ok(WorkflowState::Resting(named(row, column + 1)?)),
        "ended" => Ok(WorkflowState::Ended(named(row, column + 1)?)),
        _ => from_text(column, name),
    }
}

/// What [`message`] reads, of a message `m` of a conversation `c`.
pub(super) const MESSAGE: &str =
    "m.id, c.id, m.role, m.content, m.created_at, m.author, m.agent_id, m.workflow, m.finish_reason, m.quality";

/// The message that begins at column `at`.
pub(super) fn message(row: &Row<'_>, at: usize) -> Result<MessageRow> {
    Ok(MessageRow {
        id: shared_text(row, at)?,
        conversation: ConversationId::from_trusted(row.get::<_, String>(at + 1)?),
        role: named(row, at + 2)?,
        content: row.get(at + 3)?,
        created_at: Timestamp(row.get(at + 4)?),
        author: row.get(at + 5)?,
        agent_id: row.get(at + 6)?,
        workflow: row.get::<_, Option<String>>(at + 7)?.map(WorkflowId::from_trusted),
        finish_reason: named_maybe(row, at + 8)?,
        quality: row.get::<_, Option<String>>(at + 9)?.map(|text| json(at + 9, &text)).transpose()?,
    })
}

fn json<T: DeserializeOwned>(column: usize, text: &str) -> Result<T> {
    from_json(text.as_bytes()).map_err(|e| Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

/// What [`question`] reads, of an open question `q` of a workflow `w`.
pub(super) const QUESTION: &str = "SELECT w.id, w.conversation, w.task, q.question, q.asked_at \
     FROM questions q JOIN workflows w ON w.num = q.workflow";

pub(super) fn question(row: &Row<'_>) -> Result<QuestionRow> {
    Ok(QuestionRow {
        workflow: WorkflowId::from_trusted(row.get::<_, String>(0)?),
        conversation: row.get::<_, Option<String>>(1)?.map(ConversationId::from_trusted),
        task: shared_text(row, 2)?,
        question: json(3, &row.get::<_, String>(3)?)?,
        asked_at: Timestamp(row.get(4)?),
    })
}

/// A conversation `c` in its first four columns, its last message behind them.
pub(super) fn conversation(row: &Row<'_>) -> Result<ConversationRow> {
    Ok(ConversationRow {
        conversation: ConversationId::from_trusted(row.get::<_, String>(0)?),
        title: row.get::<_, Option<String>>(1)?.unwrap_or_default(),
        created_at: Timestamp(row.get(2)?),
        updated_at: Timestamp(row.get(3)?),
        last: if row.get::<_, Option<String>>(4)?.is_some() { Some(message(row, 4)?) } else { None },
    })
}

/// Reads JSON of ours: as deep as somebody's that was parsed within the limit, and what we put around it.
pub(super) fn from_json<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    let mut json = serde_json::Deserializer::from_slice(json);
    json.disable_recursion_limit();
    let value = T::deserialize(&mut json)?;
    json.end().map(|()| value)
}
