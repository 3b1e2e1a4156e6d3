//! What the runtime asks of the world, as traits. Adapters live above this crate; [`testing`](crate::testing) has
//! in-memory ones.
//!
//! Absent on purpose: any word of HTTP, of a model vendor, of SQL or of a file.

mod child;
mod pinned;
mod question;
mod tool;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Answer, Audience, Channel, Failure, Question, RunOutcome, Usage};
use crate::ids::{ConversationId, Epoch, Position, RequestId, Seq, Timestamp, WorkflowId};
use crate::journal::Context;
use crate::spend::AgentSpend;

pub use child::{ChildRun, NewChild, Quality};
pub use pinned::Pinned;
pub use question::{OpenedQuestion, QuestionFilter, QuestionRow};
pub use tool::{Access, Approval, Artifact, EffectPolicy, ToolCall, ToolOffer, ToolOutput, ToolRunner, Tools};

/// A future that stays on the thread that made it.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
/// A future that may move between threads.
pub type SendFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

// ---------------------------------------------------------------------------------------------------------- clock

/// Wall time and chance. Waiting is always done on tokio's clock, which tests can pause.
pub trait Clock: Send + Sync {
    /// Now, in milliseconds since the Unix epoch.
    fn now(&self) -> Timestamp;
    /// A random number, uniform over all of them.
    fn random(&self) -> u64;
}

// ---------------------------------------------------------------------------------------------------------- cache

/// Small values that runs share for a while, as a routing that was made before. Losing one costs a call, never a result:
/// what a run takes from here is recorded in its journal.
pub trait Cache: Send + Sync {
    /// What stands under `key`, unless its time is over.
    fn get(&self, key: &str) -> Option<Value>;
    /// Puts `value` under `key` for at most `ttl`.
    fn put(&self, key: &str, value: Value, ttl: Duration);
    /// Forgets every key that begins with `prefix` and answers how many there were.
    fn forget(&self, prefix: &str) -> usize;
}

// --------------------------------------------------------------------------------------------------------- models

/// How much a model should think. Belongs to a session, never to a request: see [`AgentClients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningEffort {
    /// As little as the model allows.
    Minimal,
    /// The provider's middle.
    Medium,
    /// As much as the model allows.
    Maximal,
}

impl ReasoningEffort {
    /// The effort as clients write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Medium => "medium",
            Self::Maximal => "maximal",
        }
    }
}

/// Who said a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions of ours.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool the model called.
    Tool,
}

/// A tool call a model asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolRequest {
    /// The provider's id of the call; the tool's result names it.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, as JSON; a [`Value::String`] when the model's text was not JSON.
    pub arguments: Value,
}

/// One message of a model's context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who said it.
    pub role: Role,
    /// The text.
    pub content: String,
    /// Calls the assistant asked for in this message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolRequest>,
    /// For [`Role::Tool`]: which call this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A plain message.
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new(), tool_call_id: None }
    }
}

/// A tool as a model is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// What the model calls it.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// JSON schema of its arguments.
    pub parameters: Value,
}

/// What form the answer must have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputForm {
    /// Any text.
    #[default]
    Text,
    /// JSON that fits a schema.
    Json {
        /// A name for the schema, `[A-Za-z0-9_-]{1,64}`.
        name: String,
        /// The schema.
        schema: Value,
    },
}

/// One call of a model, as a workflow asks for it.
#[derive(Clone, Debug)]
pub struct ModelRequest {
    /// Which model, by the provider's name.
    pub model: Arc<str>,
    /// On whose behalf; names the author of what is streamed.
    pub agent: Option<Arc<str>>,
    /// Who reads the streamed text.
    pub audience: Audience,
    /// The messages.
    pub context: Context,
    /// Tools the model may call.
    pub tools: Arc<[ToolSpec]>,
    /// What form the answer must have.
    pub output: OutputForm,
    /// Sampling temperature, where the model takes one.
    pub temperature: Option<f32>,
    /// At most this many tokens of answer.
    pub max_output_tokens: Option<u32>,
}

/// A piece of a model's text.
#[derive(Clone, Debug)]
pub struct ModelDelta {
    /// Text or reasoning.
    pub channel: Channel,
    /// The piece; never empty.
    pub text: String,
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It was done.
    #[default]
    Stop,
    /// Its token limit; the text is truncated.
    Length,
    /// The provider's filter; the text is truncated.
    ContentFilter,
    /// It wants tools called.
    ToolCalls,
}

impl FinishReason {
    /// Whether the text ends before the model was done.
    #[must_use]
    pub fn truncates(self) -> bool {
        matches!(self, Self::Length | Self::ContentFilter)
    }
}

/// What a model answered, whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelReply {
    /// The answer: exactly the text deltas in order, or whole when none were sent.
    pub text: String,
    /// The reasoning, likewise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// Tools it wants called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolRequest>,
    /// Tokens; absent when the provider did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Why it stopped.
    #[serde(default)]
    pub finish_reason: FinishReason,
    /// Which model answered, by the provider's word.
    #[serde(default)]
    pub model: String,
    /// The built-in simulated model answered.
    #[serde(default)]
    pub simulated: bool,
}

/// Why a model call has no reply, and whether the caller's retry policy wants another attempt.
#[derive(Clone, Debug)]
pub struct ModelError {
    /// The failure as it is recorded and shown.
    pub failure: Failure,
    /// Try again after this long, as a new attempt of the same step. `None` is final.
    pub retry_in: Option<Duration>,
}

/// One call to dispatch. The future of [`ModelClient::call`] borrows it.
#[derive(Clone, Debug)]
pub struct ModelCall {
    /// What is asked.
    pub request: ModelRequest,
    /// Belongs to the step: the same in every attempt.
    pub idempotency_key: Arc<str>,
    /// From 1.
    pub attempt: u32,
}

/// A session's own client of a model provider.
pub trait ModelClient {
    /// Calls the model; every piece of text goes to `deltas` as it arrives.
    ///
    /// # Errors
    /// [`ModelError`]: the provider refused, failed, cut its stream or sent more than the caps allow.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection to the provider.
    fn call<'a>(
        &'a self,
        call: &'a ModelCall,
        deltas: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>>;
}

/// Makes each session its own clients. The effort lives in the client and dies with it, so that it cannot leak.
pub trait AgentClients: Send + Sync {
    /// A fresh client; `effort` overrides what the config says.
    fn client(&self, effort: Option<ReasoningEffort>) -> std::rc::Rc<dyn ModelClient>;
}

// ------------------------------------------------------------------------------------------------------ workflows

/// What a run is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskInput {
    /// The message or task.
    pub message: String,
    /// The conversation it belongs to.
    pub conversation: Option<ConversationId>,
    /// A forced mode; `None` lets the workflow choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// More for the workflow to consider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_context: Option<Value>,
    /// On whose behalf it runs; the rules for tools are by principal.
    #[serde(default = "TaskInput::local")]
    pub principal: String,
}

impl TaskInput {
    /// The principal of a server without authentication.
    #[must_use]
    pub fn local() -> String {
        "local".to_owned()
    }
}

/// What a run gives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunOutput {
    /// The answer.
    pub text: String,
    /// Who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// By what id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Why the text ended.
    #[serde(default)]
    pub finish_reason: FinishReason,
    /// What else a client of the whole result may want: mode, calls, usage, `simulated`, ...
    #[serde(default)]
    pub metadata: Value,
    /// How good it is, or that a child judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Runs that begin when this one has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ChildRun>,
}

/// A workflow: an async function over a [`Turn`](crate::turn::Turn).
pub type WorkflowFn = for<'a> fn(
    &'a mut crate::turn::Turn,
    &'a TaskInput,
    &'a Value,
) -> LocalFuture<'a, crate::turn::StepResult<RunOutput>>;

/// The workflows this binary knows. A version stays for as long as runs of it rest.
pub trait Workflows: Send + Sync {
    /// The function of `name` at `version`.
    fn find(&self, name: &str, version: u32) -> Option<WorkflowFn>;
}

// ---------------------------------------------------------------------------------------------------------- store

/// Who writes: the life `epoch` of `workflow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The workflow.
    pub workflow: WorkflowId,
    /// The life. An older one than the store knows is fenced; a newer one takes over if the first record it brings is
    /// that life's `began`.
    pub epoch: Epoch,
}

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
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Where a workflow stands between appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    /// Its client did not come back after a restart; it can be resumed.
    Interrupted,
    /// It died too often or its journal does not fit this binary's code.
    Quarantined,
    /// This binary does not know its workflow.
    VersionUnavailable,
    /// The store took no more.
    StorageUnavailable,
}

impl Rest {
    /// The public error code of this rest.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::Quarantined => "quarantined",
            Self::VersionUnavailable => "version_unavailable",
            Self::StorageUnavailable => "storage_unavailable",
        }
    }
}

/// What becomes of a workflow after an append.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Its owner goes on.
    Running,
    /// It has no owner until an answer comes or this time passes.
    Parked {
        /// Its earliest timer or expiry.
        wake_at: Option<Timestamp>,
    },
    /// It has no owner until somebody resumes it.
    Resting(Rest),
    /// It is over. The row becomes its entry of history; a child's changes its parent's instead (see
    /// [`HistoryRow::take_child`]).
    Ended(Box<HistoryRow>),
}

/// Everything of one workflow that must become durable together.
#[derive(Clone, Debug, PartialEq)]
pub struct Append {
    /// Who writes.
    pub claim: Claim,
    /// The position these records follow.
    pub after: Position,
    /// Makes the workflow; only in its first append.
    pub create: Option<Box<NewWorkflow>>,
    /// The records, dense from `after`.
    pub records: Vec<RecordRow>,
    /// Messages of its conversation.
    pub messages: Vec<MessageRow>,
    /// Questions that opened.
    pub opened: Vec<OpenedQuestion>,
    /// Questions that closed.
    pub closed: Vec<RequestId>,
    /// Runtime so far.
    pub runtime: Duration,
    /// Children it leaves behind; only in its last append.
    pub children: Vec<NewChild>,
    /// What becomes of the workflow.
    pub next: Next,
}

impl Append {
    /// Bytes of its records, about what a commit of it writes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|row| row.head.len() + row.body.as_ref().map_or(0, |body| body.bytes.len())).sum()
    }
}

/// What became of one [`Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is durable, or was already.
    Done {
        /// The journal's last position.
        head: Position,
    },
    /// `after` is not the last position; nothing was written.
    Gap {
        /// The journal's last position.
        head: Position,
    },
    /// Another life owns the workflow, or it is over; nothing was written.
    Fenced {
        /// The owner's epoch.
        epoch: Epoch,
    },
    /// No such workflow, and the append does not make one; nothing was written.
    Unknown,
    /// The request key has a run already; nothing was written.
    Duplicate {
        /// That run.
        workflow: WorkflowId,
        /// It was asked with the same digest.
        same_body: bool,
    },
}

/// Why the store did not answer. What was asked may or may not have been done: ask again with the same words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk is full. It heals when there is room again.
    #[error("storage is full")]
    Full,
    /// What is stored is damaged: {0}
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// The store cannot promise durability any more; the process must stop (exit 74).
    #[error("storage failed: {0}")]
    Failed(String),
    /// It cannot be reached or did not answer in time.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
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

/// Something for the owner of a workflow, whoever that is, delivered through the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Command {
    /// The answer to a question; the first committed one wins.
    Answer {
        /// Which question.
        request_id: RequestId,
        /// How it ended.
        answer: Answer,
    },
    /// Stop.
    Cancel {
        /// Why.
        reason: Arc<str>,
    },
}

/// What became of a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It is durable; the owner will journal it.
    Accepted,
    /// The workflow is over, or the question is answered, expired or withdrawn.
    Closed,
    /// No such workflow or question.
    Unknown,
    /// The question cannot expire yet, by the store's clock.
    NotYet,
}

/// A change of the store that is not an append of a workflow's owner.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreWrite {
    /// For the owner of a workflow, whoever that is.
    Post {
        /// The workflow.
        workflow: WorkflowId,
        /// What for.
        command: Command,
    },
    /// A new workflow that shares `from`'s journal up to a position. Its state is [`Rest::Interrupted`] and its epoch
    /// that of the record at that position; its first life takes the next. It inherits no question: its first life opens
    /// those that its prefix leaves open. Asking twice for the same fork makes one.
    Fork {
        /// The position; `None` is the newest.
        from: WorkflowId,
        /// The last shared position.
        position: Option<Position>,
        /// The new workflow.
        fork: WorkflowId,
        /// When.
        at: Timestamp,
    },
    /// Makes a conversation.
    CreateConversation {
        /// Its id.
        conversation: ConversationId,
        /// Its title; otherwise the first message gives one.
        title: Option<String>,
        /// When.
        at: Timestamp,
    },
    /// Removes a conversation with its messages, workflows, forks, payloads, history and request keys.
    DeleteConversation(ConversationId),
    /// Removes one execution from history, its journal included. Live ones are left alone: [`Written::Conflict`]. The
    /// records that a fork shares stay, out of sight, for as long as the fork.
    DeleteHistory(WorkflowId),
    /// Removes every execution that was over when this was asked from history, their journals included. May take several
    /// transactions; it answers after the last.
    ClearHistory,
    /// Removes ended workflows' journals and request keys older than this, at most `max_rows` of each. History and
    /// messages stay, and so does what a fork shares. Answers how many workflows went.
    Sweep {
        /// Journals of workflows that ended before this.
        ended_before: Timestamp,
        /// Request keys given before this.
        keys_before: Timestamp,
        /// At most this many.
        max_rows: u32,
    },
    /// Removes executions that completed before this from history, their journals included, those that ended first
    /// before others; at most `max_rows`. Answers how many went.
    SweepHistory {
        /// Executions that completed before this.
        completed_before: Timestamp,
        /// At most this many.
        max_rows: u32,
    },
    /// Puts a workflow that ran, and has no owner in any process, to rest.
    Rest {
        /// The workflow.
        workflow: WorkflowId,
        /// Only if it is still at this epoch.
        epoch: Epoch,
        /// How.
        rest: Rest,
    },
    /// Writes and removes a row, to learn whether a full disk has room again.
    Probe,
    /// Moves the cursor behind which history was exported.
    HistoryExported {
        /// The last exported entry of the export queue.
        cursor: u64,
    },
}

/// What became of a [`StoreWrite`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Done.
    Done,
    /// What became of a posted command.
    Posted(Posted),
    /// There was nothing by that name.
    NotFound,
    /// It cannot be done in the state it is in.
    Conflict,
    /// This many were removed.
    Removed(u64),
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

/// The one store. `commit` and `write` are called by the CheckpointActor alone; reads by anybody. Nothing here assumes a
/// local file or one process.
pub trait Store: Send + Sync {
    /// Commits each append whole or not at all, in one transaction if it can. Durable when it answers.
    fn commit(&self, appends: Vec<Append>) -> SendFuture<'_, Result<Vec<Outcome>, StoreError>>;
    /// Makes one other change, durable when it answers.
    fn write(&self, write: StoreWrite) -> SendFuture<'_, Result<Written, StoreError>>;

    /// The workflow.
    fn workflow(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Option<WorkflowRow>, StoreError>>;
    /// Workflows, newest first.
    fn workflows(&self, filter: WorkflowFilter) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>>;
    /// Durable records after a position, in order, at most about `max_bytes` of them but at least one if there is one;
    /// those shared with a parent included.
    fn read(
        &self,
        workflow: &WorkflowId,
        after: Position,
        max_bytes: usize,
    ) -> SendFuture<'_, Result<Vec<RecordRow>, StoreError>>;
    /// Durable records that hold an event after a number, likewise. Numbers grow with positions.
    fn read_events(
        &self,
        workflow: &WorkflowId,
        after: Seq,
        max_bytes: usize,
    ) -> SendFuture<'_, Result<Vec<RecordRow>, StoreError>>;
    /// Posted commands that nothing has consumed yet, oldest first. An append that closes a question consumes its answer,
    /// one that ends the workflow consumes everything.
    fn inbox(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Vec<Command>, StoreError>>;
    /// Workflows that ran when an earlier process died, and parked ones that are due: their timer passed or their inbox
    /// is not empty. Never resting ones, nor those whose last append came through this very opening of the store. Oldest
    /// first. It claims nothing: a workflow is listed until a next life's first append is durable.
    fn adopt(&self, now: Timestamp, max: u32) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>>;
    /// Children that want an owner: new ones, parked ones that are due, and those that ran when an earlier process died.
    /// Oldest first; [`adopt`](Self::adopt) and every list of workflows leave children out.
    fn adopt_children(&self, now: Timestamp, max: u32) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>>;
    /// When the next parked workflow, children left out, is due.
    fn next_wake(&self) -> SendFuture<'_, Result<Option<Timestamp>, StoreError>>;
    /// Open questions, the longest waiting first.
    fn questions(&self, filter: QuestionFilter) -> SendFuture<'_, Result<Vec<QuestionRow>, StoreError>>;
    /// The run a request key started.
    fn request(&self, key: &str) -> SendFuture<'_, Result<Option<RequestRow>, StoreError>>;

    /// The conversation, without its messages.
    fn conversation(&self, id: &ConversationId) -> SendFuture<'_, Result<Option<ConversationRow>, StoreError>>;
    /// Conversations, last changed first.
    fn conversations(&self, limit: u32, offset: u64) -> SendFuture<'_, Result<Vec<ConversationRow>, StoreError>>;
    /// The newest `limit` messages of a conversation in the order of their commits, oldest first, those of `except` left
    /// out.
    fn messages(
        &self,
        id: &ConversationId,
        limit: u32,
        except: Option<WorkflowId>,
    ) -> SendFuture<'_, Result<Vec<MessageRow>, StoreError>>;

    /// A page of history, newest first.
    fn history(&self, from: PageFrom, limit: u32) -> SendFuture<'_, Result<Vec<HistoryRow>, StoreError>>;
    /// One entry of history.
    fn history_entry(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Option<HistoryRow>, StoreError>>;
    /// How many entries history has.
    fn history_count(&self) -> SendFuture<'_, Result<u64, StoreError>>;
    /// Entries of the export queue behind a cursor, and the stored cursor.
    fn export_queue(&self, limit: u32) -> SendFuture<'_, Result<(u64, Vec<ExportEntry>), StoreError>>;
    /// Every history row in the order of their ids, for rebuilding the file: those behind `after`.
    fn history_scan(
        &self,
        after: Option<WorkflowId>,
        limit: u32,
    ) -> SendFuture<'_, Result<Vec<HistoryRow>, StoreError>>;
}

// --------------------------------------------------------------------------------------------------- history export

/// The file of finished executions that people read: one line an entry, the last line of an id wins. Driven by the
/// HistoryActor alone, one call at a time.
///
/// Every line carries the cursor of the queue entry it came from, so the file itself tells how far it got.
///
/// # Cancel safety
/// A call whose future is dropped may still be done. Appending an entry again, or beginning a rewrite again, is harmless.
pub trait HistoryExport: Send + Sync {
    /// Cuts what a crash left half written off the end and answers the cursor of the last whole line: `None` when the
    /// file is missing or has no line. Less than the stored cursor means that lines are lost: rewrite.
    fn repair(&self) -> SendFuture<'_, Result<Option<u64>, StoreError>>;
    /// Appends entries, in order. Durable when it answers, all of them by one sync.
    fn append(&self, entries: Vec<ExportEntry>) -> SendFuture<'_, Result<(), StoreError>>;
    /// Begins a new file, as of `cursor`, beside the old one, which stays in place until [`finish`](Self::finish). Forgets
    /// an unfinished one.
    fn rewrite(&self, cursor: u64) -> SendFuture<'_, Result<(), StoreError>>;
    /// Adds a page of rows to the new file.
    fn rows(&self, rows: Vec<HistoryRow>) -> SendFuture<'_, Result<(), StoreError>>;
    /// Makes the new file durable and puts it in the place of everything before it.
    fn finish(&self) -> SendFuture<'_, Result<(), StoreError>>;
}
