//! Bodies of runs: what starts one, what it gives, its entry of history and its open questions.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

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
    /// Its server stopped, and it rests until it is resumed.
    Interrupted,
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
