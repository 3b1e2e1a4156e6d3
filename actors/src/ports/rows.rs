//! What the store keeps, as rows: records of journals, runs, messages, entries of history, and how they are asked for.
//!
//! Absent on purpose: what a record means (the journal's), and how a row lies on a disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FinishReason, Quality, ReasoningEffort, Rest, Role, RunOutput};
use crate::event::{Failure, RunOutcome, Usage};
use crate::ids::{ConversationId, Epoch, Position, Seq, Timestamp, WorkflowId};
use crate::spend::AgentSpend;

/// A journal record as the store keeps it. `head` and `body` are JSON; the store adds its format version and checksum
/// and keeps large bodies once, by content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRow {
    /// Its place.
    pub position: Position,
    /// The life that wrote it.
    pub epoch: Epoch,
    /// The number of the event it holds, if any.
    pub seq: Option<Seq>,
    /// `began`, `step_completed`, ...
    pub kind: Arc<str>,
    /// The step's path, empty for records of the run itself.
    pub path: Arc<str>,
    /// The small part.
    pub head: Vec<u8>,
    /// The part that may be large.
    pub body: Option<RecordBody>,
}

/// The part of a record that may be large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBody {
    /// JSON.
    pub bytes: Arc<[u8]>,
    /// Holds no user data, so that runs of any conversation may share one copy.
    pub shared: bool,
}

/// A workflow that does not exist yet; comes with its first append.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewWorkflow {
    /// The workflow function's name.
    pub name: Arc<str>,
    /// And version.
    pub version: u32,
    /// Whose messages it belongs to; created if nobody has seen it.
    pub conversation: Option<ConversationId>,
    /// The whole task; lists show a preview of it.
    pub task: Arc<str>,
    /// The effort the client asked for.
    pub effort: Option<ReasoningEffort>,
    /// The request key it is the first run of.
    pub request: Option<RequestKey>,
    /// What becomes of it when nobody watches.
    pub on_disconnect: OnDisconnect,
    /// When it was admitted.
    pub created_at: Timestamp,
    /// The run that left it behind.
    pub child_of: Option<WorkflowId>,
}

/// A key that a client gave so that asking twice starts one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    /// `client_message_id` or `Idempotency-Key`.
    pub key: Arc<str>,
    /// Digest of what was asked with it: another body under the same key is a conflict.
    pub digest: Arc<str>,
}

/// What becomes of a run that nobody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// After the grace it is cancelled.
    Cancel,
    /// It goes on.
    Continue,
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageRow {
    /// Unique.
    pub id: Arc<str>,
    /// Its conversation.
    pub conversation: ConversationId,
    /// Who said it.
    pub role: Role,
    /// The text.
    pub content: String,
    /// When.
    pub created_at: Timestamp,
    /// For people.
    pub author: Option<String>,
    /// For programs.
    pub agent_id: Option<String>,
    /// The run it came from.
    pub workflow: Option<WorkflowId>,
    /// Why its text ended; absent for what people wrote.
    pub finish_reason: Option<FinishReason>,
    /// How good it is; absent where nobody judges.
    pub quality: Option<Quality>,
}

/// A finished execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// The run.
    pub workflow_id: WorkflowId,
    /// Its conversation.
    pub conversation_id: Option<ConversationId>,
    /// The whole task.
    pub task: String,
    /// How it ended.
    pub status: RunOutcome,
    /// The result, when there is one.
    pub result: Option<RunOutput>,
    /// Why it failed or was cancelled.
    pub error: Option<Failure>,
    /// The effort the client asked for.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// When it was admitted.
    pub created_at: Timestamp,
    /// When it ended.
    pub completed_at: Timestamp,
    /// Time in which a step was open, questions and timers left out.
    pub runtime_ms: u64,
    /// Model calls that were made.
    pub model_calls: u32,
    /// Tool calls that were made.
    #[serde(default)]
    pub tool_calls: u32,
    /// Tokens and cost of all model calls.
    pub usage: Usage,
    /// The same by agent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_agent: BTreeMap<Arc<str>, AgentSpend>,
    /// How good the answer is; absent where nobody judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

impl HistoryRow {
    /// A child of this run has ended: what it found out and what it spent.
    pub fn take_child(&mut self, child: &HistoryRow) {
        self.quality.clone_from(&child.quality);
        self.model_calls += child.model_calls;
        self.tool_calls += child.tool_calls;
        self.usage += child.usage;
        for (agent, part) in &child.by_agent {
            let mine = self.by_agent.entry(agent.clone()).or_default();
            mine.model_calls += part.model_calls;
            mine.tool_calls += part.tool_calls;
            mine.usage += part.usage;
        }
    }
}

/// State of a workflow as lists show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkflowState {
    /// An owner runs it, or ran it when the process died.
    Running,
    /// It waits for an answer or a timer.
    Parked,
    /// It rests until somebody resumes it.
    Resting(Rest),
    /// It is over.
    Ended(RunOutcome),
}

/// A workflow as the store knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowRow {
    /// Its id.
    pub workflow: WorkflowId,
    /// What it was made with.
    pub made: NewWorkflow,
    /// Where it stands.
    pub state: WorkflowState,
    /// Its owner's epoch.
    pub epoch: Epoch,
    /// The journal's last position.
    pub head: Position,
    /// Runtime so far.
    pub runtime: Duration,
    /// When a parked one wakes by itself.
    pub wake_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The workflow this is a fork of.
    pub parent: Option<CheckpointRef>,
}

/// A position of another workflow that this one shares the journal of up to there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRef {
    /// The workflow forked from.
    pub workflow: WorkflowId,
    /// The last shared position.
    pub position: Position,
}

/// A conversation without its messages.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationRow {
    /// Its id.
    pub conversation: ConversationId,
    /// Its title.
    pub title: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last got a message.
    pub updated_at: Timestamp,
    /// Its last message.
    pub last: Option<MessageRow>,
}

impl ConversationRow {
    /// Characters of a title that is made from a message.
    const TITLE_CHARS: usize = 80;

    /// The title that a first message gives: its first line with anything on it, cut.
    #[must_use]
    pub fn title_from(message: &str) -> String {
        let line = message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        match line.char_indices().nth(Self::TITLE_CHARS) {
            Some((cut, _)) => format!("{}…", line[..cut].trim_end()),
            None => line.to_owned(),
        }
    }
}

/// What a request key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRow {
    /// The run it started.
    pub workflow: WorkflowId,
    /// Digest of what was asked.
    pub digest: Arc<str>,
}

/// A page of history starts here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageFrom {
    /// This many entries from the newest.
    Offset(u64),
    /// Behind the entry this cursor names (the id of the last row of the page before).
    Before(WorkflowId),
}

/// An entry of the history export queue: a line of the JSONL file.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportEntry {
    /// Its place in the queue, from 1.
    pub cursor: u64,
    /// The execution.
    pub workflow: WorkflowId,
    /// The row as it is now; `None` is a tombstone.
    pub row: Option<HistoryRow>,
}

/// Which workflows a list holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WorkflowFilter {
    /// Only this conversation's.
    pub conversation: Option<ConversationId>,
    /// Only those that are not over.
    pub unfinished: bool,
    /// At most this many, newest first.
    pub limit: u32,
}
