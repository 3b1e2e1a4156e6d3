//! The workflows: async functions over a [`Turn`].
//!
//! [`supervise`] is the one that a chat message starts: a short greeting takes the fast path, anything else goes to the
//! agent with the conversation before it. What a workflow may see of the settings is [`WorkflowConfig`]; its content is
//! pinned in the journal's first batch, so a replay sees what the run saw.
//!
//! Absent on purpose: tokio, clocks, sockets, randomness, hash maps. They would make a replay another run.

pub mod events;
mod fast_path;
mod single_agent;

use std::time::Duration;

use fleet_actors::event::Failure;
use fleet_actors::ports::{LocalFuture, MessageRow, RunOutput, TaskInput, WorkflowFn, Workflows};
use fleet_actors::turn::{HumanRequest, StepResult, Turn};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use fast_path::FastPathRules;

use self::events::{FleetEvent, RunStatus};

/// The name of the workflow that chat messages and submissions start, as `GET /api/v1/types` lists it.
pub const SUPERVISOR_WORKFLOW: &str = "SupervisorWorkflow";
/// Its version. It changes when a run of the old one could not be replayed by the new code.
pub const SUPERVISOR_VERSION: u32 = 1;
/// The modes a client may force.
pub const MODES: [&str; 3] = ["auto", "standard", "fast_path"];

/// The workflows this binary knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct FleetWorkflows;

impl Workflows for FleetWorkflows {
    fn find(&self, name: &str, version: u32) -> Option<WorkflowFn> {
        (name == SUPERVISOR_WORKFLOW && version == SUPERVISOR_VERSION).then_some(supervise as WorkflowFn)
    }
}

/// What workflows can see of the settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkflowConfig {
    /// The agent that answers.
    pub agent: AgentProfile,
    /// Which messages need no agent.
    pub fast_path: FastPathRules,
    /// At most this many earlier messages are given to the agent.
    pub context_messages_max: u32,
    /// Nor more characters than this, the newest first.
    pub context_chars_max: usize,
    /// At most this many tokens of answer.
    pub output_tokens_max: Option<u32>,
    /// Milliseconds until a question to a human counts as unanswered.
    #[serde(default = "a_day")]
    pub question_expiry_ms: u64,
}

/// What held for runs whose pinned configuration does not say.
fn a_day() -> u64 {
    86_400_000
}

impl WorkflowConfig {
    /// A question to a human that stays open as long as the settings say.
    #[must_use]
    pub fn question(&self, request_type: &str, request: Value) -> HumanRequest {
        let expires_in = Duration::from_millis(self.question_expiry_ms);
        HumanRequest { request_type: request_type.into(), request, answer_schema: None, expires_in }
    }
}

/// An agent, as its model is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentProfile {
    /// Its id, also the author shown to people.
    pub name: String,
    /// Which model.
    pub model: String,
    /// The system message.
    pub instructions: String,
    /// Sampling temperature, where the model takes one.
    pub temperature: Option<f32>,
    /// Milliseconds for its whole work.
    pub timeout_ms: Option<u64>,
}

fn supervise<'a>(
    turn: &'a mut Turn,
    input: &'a TaskInput,
    config: &'a Value,
) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let config: WorkflowConfig = serde_json::from_value(config.clone())
            .map_err(|error| Failure::new("internal", format!("the pinned configuration does not parse: {error}")))?;
        let history = turn.conversation(config.context_messages_max).await;
        turn.emit(&FleetEvent::Status { status: RunStatus::InProgress });
        let fast = match input.mode.as_deref() {
            Some("fast_path") => true,
            Some("standard") => false,
            _ => history.is_empty() && config.fast_path.fits(&input.message),
        };
        let output = if fast {
            fast_path::answer(turn, input, &config).await?
        } else {
            single_agent::answer(turn, input, &config, &history).await?
        };
        turn.emit(&FleetEvent::Status { status: RunStatus::Completed });
        Ok(output)
    })
}

/// The newest messages that fit into `chars_max`, oldest first.
fn within(history: &[MessageRow], chars_max: usize) -> &[MessageRow] {
    let mut left = chars_max;
    let fits = |message: &&MessageRow| {
        let chars = message.content.chars().count();
        let fits = chars <= left;
        left = left.saturating_sub(chars);
        fits
    };
    let kept = history.iter().rev().take_while(fits).count();
    &history[history.len() - kept..]
}
