//! The plainest of what a test must make and does not care about; what it cares about it changes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::{RunOutcome, Usage};
use crate::ids::{Position, Timestamp, WorkflowId};
use crate::ports::{Append, Claim, HistoryRow, NewWorkflow, Next, OnDisconnect, RecordRow, TaskInput};

/// A task that is nothing but its message.
#[must_use]
pub fn task(message: &str) -> TaskInput {
    TaskInput {
        message: message.to_owned(),
        conversation: None,
        mode: None,
        additional_context: None,
        principal: TaskInput::local(),
        checkpoints_listed: true,
        traceparent: None,
    }
}

/// A run of version 1 of this workflow, without a conversation, that is cancelled when nobody watches.
#[must_use]
pub fn made(name: &str, task: &str, at: Timestamp) -> NewWorkflow {
    NewWorkflow {
        name: name.into(),
        version: 1,
        conversation: None,
        task: task.into(),
        effort: None,
        request: None,
        on_disconnect: OnDisconnect::Cancel,
        created_at: at,
        child_of: None,
    }
}

/// Records and nothing else, of a run that goes on.
#[must_use]
pub fn append(claim: Claim, after: Position, records: Vec<RecordRow>) -> Append {
    Append {
        claim,
        after,
        create: None,
        records,
        messages: Vec::new(),
        opened: Vec::new(),
        closed: Vec::new(),
        runtime: Duration::ZERO,
        children: Vec::new(),
        next: Next::Running,
    }
}

/// The entry of a run that was made so and completed without a word at `at`.
#[must_use]
pub fn entry(workflow: WorkflowId, made: &NewWorkflow, at: Timestamp) -> HistoryRow {
    HistoryRow {
        workflow_id: workflow,
        conversation_id: made.conversation.clone(),
        task: made.task.to_string(),
        status: RunOutcome::Completed,
        result: None,
        error: None,
        reasoning_effort: None,
        created_at: made.created_at,
        completed_at: at,
        runtime_ms: 0,
        model_calls: 0,
        tool_calls: 0,
        usage: Usage::default(),
        by_agent: BTreeMap::new(),
        quality: None,
    }
}
