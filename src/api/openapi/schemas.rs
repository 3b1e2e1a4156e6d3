//! The bodies that the specification names.
//!
//! They describe and are never built: the doors write their JSON themselves, and a test holds real answers against these
//! schemas. Nothing but what is written here may stand in an answer, except in `metadata`, `data` and the like.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::{OpenApi, ToSchema};

/// All of them.
#[derive(Debug, OpenApi)]
#[openapi(components(schemas(
    Accepted,
    Agent,
    Alive,
    Approval,
    Checkpoint,
    CheckpointWithSteps,
    Conversation,
    Entities,
    EntityQuestion,
    Event,
    EventPage,
    Execution,
    Fork,
    Health,
    Intent,
    IntentQuestion,
    NewConversation,
    Problem,
    Ready,
    Responded,
    Resume,
    Response,
    RunResult,
    Session,
    Stopped,
    Task,
)))]
pub struct Schemas;

/// Why a request was refused, by RFC 9457.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// A URI of the kind of problem, or `about:blank`.
    pub r#type: String,
    /// The status as text.
    pub title: String,
    /// The status.
    pub status: u16,
    /// For people.
    pub detail: String,
    /// Stable, snake case; a heading of the runbook.
    pub code: String,
    /// Which fields are wrong.
    #[schema(nullable = false)]
    pub errors: Option<Vec<WrongField>>,
    /// The run it is about.
    #[schema(nullable = false)]
    pub execution_id: Option<String>,
}

/// A field that is wrong.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WrongField {
    /// As the client wrote it.
    pub field: String,
    /// What was expected.
    pub message: String,
}

/// A text, and what its author may want.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IntentQuestion {
    /// At least one character that is no blank.
    #[schema(min_length = 1)]
    pub text: String,
    /// At most 100; the model names one itself when there are none.
    pub possible_intents: Option<Vec<String>>,
}

/// What the author of a text wants.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// One of the possible ones, where some were given.
    pub intent: String,
    /// 0 to 1.
    pub confidence: f64,
    /// For people.
    pub reasoning: String,
}

/// A text, and what it may name.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntityQuestion {
    /// At least one character that is no blank.
    #[schema(min_length = 1)]
    pub text: String,
    /// At most 100; the usual ones when there are none.
    pub entity_types: Option<Vec<String>>,
}

/// What a text names.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Entities {
    /// As often as each means something different.
    pub entities: Vec<Entity>,
    /// For people.
    pub reasoning: String,
}

/// One thing that a text names.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Entity {
    /// The words as they stand there.
    pub text: String,
    /// One of the entity types.
    pub r#type: String,
    /// 0 to 1.
    pub confidence: f64,
}

/// How to go on from a checkpoint; may be left out.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// minimal, medium or maximal, from here on.
    #[schema(nullable = false)]
    pub reasoning_effort: Option<String>,
}

/// What to run.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// At least one character that is no blank, at most `sessions.max_task_length`.
    #[schema(min_length = 1)]
    pub task: String,
    /// How to run it; chosen when left out.
    pub mode: Option<String>,
    /// More to consider: any JSON.
    #[schema(value_type = Value, required = false)]
    pub additional_context: Option<Value>,
    /// Whose messages it belongs to; made when nobody has seen it.
    pub conversation_id: Option<String>,
    /// minimal, medium or maximal, for this run alone.
    pub reasoning_effort: Option<String>,
    /// Whether its positions are listed as checkpoints; `sessions.enable_checkpointing` when left out.
    pub enable_checkpointing: Option<bool>,
}

/// A result.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunResult {
    /// The answer.
    pub result: String,
    /// Always `completed`.
    pub status: RunStatus,
    /// The run.
    pub execution_id: String,
    /// How it was made: mode, model, calls, usage, ...
    pub metadata: BTreeMap<String, Value>,
}

/// A run that goes on by itself.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// The run.
    pub workflow_id: String,
    /// The same.
    pub execution_id: String,
    /// Where to look.
    pub links: Links,
}

/// Where to look for a run.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// Its session.
    #[serde(rename = "self")]
    pub this: String,
    /// Its events.
    pub events: String,
    /// Its result, once it has one.
    pub result: String,
    /// Where its questions are answered.
    pub respond: String,
}

/// The answer to a question.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// The question.
    pub request_id: String,
    /// Any JSON.
    #[schema(value_type = Value)]
    pub response: Value,
}

/// An answer was taken.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Responded {
    /// Always `ok`.
    pub status: String,
    /// The question.
    pub request_id: String,
}

/// A run was stopped.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stopped {
    /// Always `cancelled`.
    pub status: String,
    /// The run.
    pub workflow_id: String,
}

/// An agent of the roster.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its id.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Always `agent`.
    pub r#type: String,
}

/// A new conversation.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewConversation {
    /// At most 200 characters.
    #[schema(max_length = 200)]
    pub title: Option<String>,
}

/// A conversation.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Conversation {
    /// Its id.
    pub conversation_id: String,
    /// The same.
    pub id: String,
    /// For people.
    pub title: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// The newest, oldest first; only the last one in lists.
    pub messages: Vec<ConversationMessage>,
}

/// A message of a conversation.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConversationMessage {
    /// Its id.
    pub id: String,
    /// Who said it: user or assistant.
    pub role: String,
    /// The text.
    pub content: String,
    /// RFC 3339.
    pub created_at: String,
    /// A score is still being made.
    pub quality_pending: bool,
    /// The agent's name for people.
    #[schema(nullable = false)]
    pub author: Option<String>,
    /// The agent.
    #[schema(nullable = false)]
    pub agent_id: Option<String>,
    /// The run it came from.
    #[schema(nullable = false)]
    pub workflow_id: Option<String>,
    /// Why its text ended: stop, length, content_filter or tool_calls.
    #[schema(nullable = false)]
    pub finish_reason: Option<String>,
    /// The text ends before the model was done.
    #[schema(nullable = false)]
    pub truncated: Option<bool>,
    /// How good it is.
    #[schema(nullable = false)]
    pub quality_score: Option<f64>,
    /// What is wrong with it.
    #[schema(nullable = false)]
    pub quality_flag: Option<String>,
    /// Why.
    #[schema(nullable = false)]
    pub quality_details: Option<BTreeMap<String, Value>>,
}

/// How a run stands.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Not yet begun.
    Created,
    /// It works, or waits.
    Running,
    /// It has its result.
    Completed,
    /// It has an error.
    Failed,
    /// It was stopped.
    Cancelled,
}

/// A run that goes on, waits or ended lately.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The run.
    pub workflow_id: String,
    /// The first 200 characters of what was asked.
    pub task: String,
    /// How it stands.
    pub status: RunStatus,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339, once it is over.
    #[schema(required)]
    pub completed_at: Option<String>,
    /// minimal, medium or maximal, when its client asked for one.
    #[schema(required)]
    pub reasoning_effort: Option<String>,
}

/// A finished execution.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Execution {
    /// The run.
    pub workflow_id: String,
    /// Its conversation.
    #[schema(required)]
    pub conversation_id: Option<String>,
    /// What was asked.
    pub task: String,
    /// How it ended.
    pub status: RunStatus,
    /// The answer.
    #[schema(required)]
    pub result: Option<String>,
    /// How it was made.
    #[schema(required)]
    pub metadata: Option<BTreeMap<String, Value>>,
    /// Why it failed or was stopped.
    #[schema(required)]
    pub error: Option<ExecutionError>,
    /// minimal, medium or maximal, when its client asked for one.
    #[schema(required)]
    pub reasoning_effort: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub completed_at: String,
    /// Time in which it worked.
    pub runtime_ms: u64,
    /// Model calls that were made.
    pub model_calls: u32,
    /// Tool calls that were made.
    pub tool_calls: u32,
    /// Tokens of all model calls.
    pub usage: TokenUsage,
    /// What they cost, in US dollars; null where the settings have no price.
    #[schema(required)]
    pub cost: Option<f64>,
    /// The same by agent.
    pub by_agent: BTreeMap<String, AgentSpend>,
    /// How good the answer is; null where nobody judges.
    #[schema(required)]
    pub quality: Option<Quality>,
}

/// One agent's part of an execution.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentSpend {
    /// Model calls.
    pub model_calls: u32,
    /// Tool calls.
    pub tool_calls: u32,
    /// Tokens of its model calls.
    pub usage: TokenUsage,
    /// What they cost, in US dollars.
    #[schema(required)]
    pub cost: Option<f64>,
}

/// How good an answer is.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// Somebody is finding out.
    pub pending: bool,
    /// 0 to 10.
    #[schema(nullable = false)]
    pub score: Option<f64>,
    /// A word for it, as `low` or `not_scored`.
    #[schema(nullable = false)]
    pub flag: Option<String>,
    /// What is missing and what would improve it.
    #[schema(value_type = Value, required = false)]
    pub details: Option<Value>,
}

/// An open question to a human.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Names it in an answer.
    pub request_id: String,
    /// `tool_approval`, `user_input`, `plan_review`, ...
    pub request_type: String,
    /// What is asked, exactly.
    #[schema(value_type = Value)]
    pub request: Value,
    /// The run that asks.
    pub workflow_id: String,
    /// Its conversation.
    #[schema(required)]
    pub conversation_id: Option<String>,
    /// The first characters of the run's task.
    pub task: String,
    /// RFC 3339.
    pub asked_at: String,
    /// RFC 3339.
    pub expires_at: String,
    /// JSON schema that an answer must fit.
    #[schema(value_type = Value, required = false)]
    pub answer_schema: Option<Value>,
    /// Where to answer.
    pub links: ApprovalLinks,
}

/// Where to answer.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalLinks {
    /// Takes `{request_id, response}`.
    pub respond: String,
}

/// Why an execution failed.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecutionError {
    /// Stable, snake case; a heading of the runbook.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Tokens.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenUsage {
    /// Of prompts.
    pub input_tokens: u64,
    /// Of completions, reasoning included.
    pub output_tokens: u64,
    /// Of reasoning.
    pub reasoning_tokens: u64,
    /// Of prompts that the provider had cached.
    pub cached_tokens: u64,
}

/// A position of a run's journal behind which a result stands.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// `{workflow_id}:{position}`.
    pub checkpoint_id: String,
    /// The run.
    pub workflow_id: String,
    /// Its conversation.
    #[schema(required)]
    pub conversation_id: Option<String>,
    /// From 1.
    pub position: u64,
    /// The step's path.
    pub step: String,
    /// RFC 3339.
    #[schema(required)]
    pub created_at: Option<String>,
    /// Something is left to do behind it.
    pub resumable: bool,
}

/// A checkpoint with the steps up to it.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointWithSteps {
    /// `{workflow_id}:{position}`.
    pub checkpoint_id: String,
    /// The run.
    pub workflow_id: String,
    /// Its conversation.
    #[schema(required)]
    pub conversation_id: Option<String>,
    /// From 1.
    pub position: u64,
    /// The step's path.
    pub step: String,
    /// RFC 3339.
    #[schema(required)]
    pub created_at: Option<String>,
    /// Something is left to do behind it.
    pub resumable: bool,
    /// Oldest first.
    pub steps: Vec<CheckpointStep>,
}

/// A step that has a result.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointStep {
    /// From 1.
    pub position: u64,
    /// Its path.
    pub step: String,
    /// What stands there.
    pub kind: String,
    /// RFC 3339.
    #[schema(required)]
    pub at: Option<String>,
}

/// A new workflow that shares another's journal.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// Its id.
    pub workflow_id: String,
    /// Its newest checkpoint.
    pub checkpoint_id: String,
}

/// An event of a run, version 1 or 2. Fields that do not apply are absent.
#[derive(Debug, ToSchema)]
pub struct Event {
    /// What it is.
    pub r#type: String,
    /// RFC 3339.
    pub timestamp: String,
    /// The run.
    #[schema(nullable = false)]
    pub workflow_id: Option<String>,
    /// Version 2: its number in the run's log.
    #[schema(nullable = false)]
    pub seq: Option<u64>,
    /// For people.
    #[schema(nullable = false)]
    pub message: Option<String>,
    /// What kind of message or thought.
    #[schema(nullable = false)]
    pub kind: Option<String>,
    /// Where the run stands.
    #[schema(nullable = false)]
    pub status: Option<String>,
    /// A piece of the answer.
    #[schema(nullable = false)]
    pub delta: Option<String>,
    /// A piece of the reasoning, or all of it.
    #[schema(nullable = false)]
    pub reasoning: Option<String>,
    /// The agent.
    #[schema(nullable = false)]
    pub agent_id: Option<String>,
    /// Its name for people.
    #[schema(nullable = false)]
    pub author: Option<String>,
    /// An error's text.
    #[schema(nullable = false)]
    pub error: Option<String>,
    /// Version 2: the step's path.
    #[schema(nullable = false)]
    pub step: Option<String>,
    /// Version 2: the attempt, from 1.
    #[schema(nullable = false)]
    pub attempt: Option<u32>,
    /// For programs; by type and kind.
    #[schema(value_type = Value, required = false)]
    pub data: Option<Value>,
    /// How user interfaces group it.
    #[schema(nullable = false)]
    pub category: Option<String>,
    /// How user interfaces show it.
    #[schema(nullable = false)]
    pub ui_hint: Option<BTreeMap<String, Value>>,
}

/// Events of a run's log.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventPage {
    /// In order.
    pub events: Vec<Event>,
    /// The run is over and this is its end.
    pub done: bool,
    /// For `after`; absent on the last page.
    #[schema(nullable = false)]
    pub next_after: Option<u64>,
}

/// How the parts are.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// ok, degraded or draining.
    pub status: String,
    /// By part.
    pub checks: BTreeMap<String, String>,
    /// Of the server.
    pub version: String,
}

/// Whether work is taken, for existing clients.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// ready or not_ready.
    pub status: String,
    /// The same.
    pub workflow: bool,
}

/// A sign of life.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Alive {
    /// Always `ok`.
    pub status: String,
}
