//! Models as the runtime asks them: what is sent, what comes back, and who belongs to a session.
//!
//! Absent on purpose: how a vendor is spoken to, retries and prices.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::LocalFuture;
use crate::event::{Audience, Channel, Failure, Usage};
use crate::journal::Context;

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
        schema: Arc<Value>,
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
    pub tools: Arc<[Arc<ToolSpec>]>,
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
