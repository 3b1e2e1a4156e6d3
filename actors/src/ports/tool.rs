//! Tools as a run sees them: what is offered, under which rule, and what a call gives.
//!
//! The rule ([`Access`]) is decided outside of the model, for each principal and tool, and kept twice: a workflow reads it from the
//! recorded [`ToolOffer`], and the runner checks it again at the call. A tool that no config names does not exist.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{LocalFuture, ToolSpec};
use crate::event::Failure;
use crate::ids::{RequestId, WorkflowId};

/// What may be done about a tool call whose outcome a crash has hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectPolicy {
    /// Calling twice does no harm.
    SafeToRepeat,
    /// The other side knows the idempotency key.
    SameKey,
    /// Nobody knows: the step fails with `ambiguous_effect`.
    Ambiguous,
}

/// Whether a call needs somebody's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It is made.
    Allow,
    /// A human approves these very arguments first.
    Ask,
    /// It is never made.
    Deny,
}

/// A tool as a run is offered it. Recorded, so that a replay sees the tools that the run saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolOffer {
    /// What its model is told.
    pub spec: Arc<ToolSpec>,
    /// What a crash in the middle of a call means.
    pub effect: EffectPolicy,
    /// The rule for this run's principal.
    pub access: Access,
    /// `builtin`, or the MCP server it comes from.
    pub source: Arc<str>,
    /// Digest of its name, description and parameters; a call names it, and one that has changed since is refused.
    pub schema_digest: Arc<str>,
    /// Why it cannot be called although the config names it, as a missing key; its model is not told of it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

/// A human's word for one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The question that was answered.
    pub request_id: RequestId,
    /// Digest of the arguments that the answer is about; see [`ToolCall::arguments_digest`].
    pub arguments_digest: Arc<str>,
}

/// One tool call to dispatch.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// The run it belongs to.
    pub workflow: WorkflowId,
    /// The agent on whose behalf.
    pub agent: Option<Arc<str>>,
    /// The tool.
    pub name: Arc<str>,
    /// Its arguments.
    pub arguments: Value,
    /// The digest of the offer the run saw.
    pub schema_digest: Arc<str>,
    /// A human's word for it, where the rule asks for one.
    pub approval: Option<Approval>,
    /// Belongs to the step: the same in every attempt.
    pub idempotency_key: Arc<str>,
    /// From 1.
    pub attempt: u32,
}

impl ToolCall {
    /// The digest that binds an [`Approval`] to a tool and its arguments.
    #[must_use]
    pub fn arguments_digest(tool: &str, arguments: &Value) -> Arc<str> {
        crate::journal::digest(format!("{tool}\0{arguments}").as_bytes())
    }
}

/// A file that a tool made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its name, without a path.
    pub name: String,
    /// Its media type.
    pub media_type: String,
    /// Its size.
    pub bytes: u64,
    /// Where clients fetch it, as a path of this server.
    pub url: String,
}

/// What a tool gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolOutput {
    /// What the model is shown.
    pub text: String,
    /// The same for programs.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// Files it made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// Why the result is less than was asked for, as a missing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// How long it took.
    #[serde(default)]
    pub duration: Duration,
}

impl ToolOutput {
    /// A plain text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// Runs tools. What no config names does not exist.
pub trait ToolRunner {
    /// The tools of these names that exist, in the order of the names; `mcp:SERVER` stands for every tool of that
    /// server. Names that nobody knows are left out. Bounded in time: a server that does not answer offers nothing.
    fn offers<'a>(&'a self, names: &'a [String]) -> LocalFuture<'a, Vec<ToolOffer>>;

    /// What may be done about a call of `tool` whose outcome a crash has hidden.
    fn policy(&self, tool: &str) -> EffectPolicy;

    /// Runs the tool, if the rule allows it.
    ///
    /// # Errors
    /// The tool's [`Failure`], recorded as the step's result: `tool_unknown`, `tool_denied`, `mcp_tool_changed`, or its own.
    ///
    /// # Cancel safety
    /// Dropping the future stops the tool.
    fn call<'a>(&'a self, call: &'a ToolCall) -> LocalFuture<'a, Result<ToolOutput, Failure>>;
}

/// Makes each session its own tool runner.
pub trait Tools: Send + Sync {
    /// A fresh runner that acts for `principal`.
    fn runner(&self, principal: &str) -> std::rc::Rc<dyn ToolRunner>;
}
