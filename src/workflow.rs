//! The workflows: async functions over a [`Turn`].
//!
//! [`SUPERVISOR_WORKFLOW`] is the one that a message starts: a short greeting takes the fast path, anything else goes
//! through the [pipeline](self::pipeline). [`QUALITY_WORKFLOW`] scores an answer after it was sent. What a workflow may see of
//! the settings is [`WorkflowConfig`]; its content is pinned in the journal's first batch, so a replay sees what the run saw.
//!
//! Absent on purpose: tokio, clocks, sockets, randomness, hash maps. They would make a replay another run.

mod agent;
pub mod events;
mod fast_path;
mod fleet;
mod language;
mod modes;
mod pipeline;
mod plan;
mod quality;
mod review;
mod routing;
mod rules;
mod v1;

use std::time::Duration;

use fleet_actors::ports::{LocalFuture, MessageRow, RunOutput, TaskInput, WorkflowFn, Workflows};
use fleet_actors::turn::{HumanRequest, StepResult, Turn};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use fast_path::FastPathRules;
pub use routing::ROUTING_CACHE;
pub use rules::{ApprovalRules, OnExpiry, PipelineRules};

use self::events::{FleetEvent, RunStatus};
use crate::agents::{Agent, Roster};
use crate::prompts::PromptConfig;

/// The name of the workflow that chat messages and submissions start, as `GET /api/v1/types` lists it.
pub const SUPERVISOR_WORKFLOW: &str = "SupervisorWorkflow";
/// Its version. It changes when a run of the old one could not be replayed by the new code.
pub const SUPERVISOR_VERSION: u32 = 2;
/// The name of the workflow that scores an answer after it was sent.
pub const QUALITY_WORKFLOW: &str = "QualityWorkflow";
/// Its version.
pub const QUALITY_VERSION: u32 = 1;
/// The name of the workflow that says what the author of a text wants.
pub const INTENT_WORKFLOW: &str = "IntentWorkflow";
/// The name of the workflow that lists what a text names.
pub const ENTITY_WORKFLOW: &str = "EntityWorkflow";
/// The version of both.
pub const LANGUAGE_VERSION: u32 = 1;
/// The modes a client may force.
pub const MODES: [&str; 8] =
    ["auto", "standard", "delegated", "sequential", "parallel", "handoff", "discussion", "fast_path"];

/// The workflows this binary knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct FleetWorkflows;

impl Workflows for FleetWorkflows {
    fn find(&self, name: &str, version: u32) -> Option<WorkflowFn> {
        match (name, version) {
            (SUPERVISOR_WORKFLOW, SUPERVISOR_VERSION) => Some(supervise),
            (SUPERVISOR_WORKFLOW, 1) => Some(v1::supervise),
            (QUALITY_WORKFLOW, QUALITY_VERSION) => Some(quality::assess),
            (INTENT_WORKFLOW, LANGUAGE_VERSION) => Some(language::classify_intent),
            (ENTITY_WORKFLOW, LANGUAGE_VERSION) => Some(language::extract_entities),
            _ => None,
        }
    }
}

/// What workflows can see of the settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkflowConfig {
    /// Who there is.
    pub roster: Roster,
    /// How phases ask their questions.
    pub prompts: PromptConfig,
    /// The phases and modes.
    pub pipeline: PipelineRules,
    /// People in the loop.
    pub approvals: ApprovalRules,
    /// Which messages need no agent.
    pub fast_path: FastPathRules,
    /// At most this many earlier messages are given to an agent.
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

    /// One agent, no phases around it, no fast path.
    #[must_use]
    pub fn of_one(agent: Agent) -> Self {
        Self {
            prompts: PromptConfig { model: agent.model.clone(), ..PromptConfig::default() },
            pipeline: PipelineRules::none(agent.name.clone()),
            roster: Roster::from_iter([agent]),
            approvals: ApprovalRules::default(),
            fast_path: FastPathRules::none(),
            context_messages_max: 10,
            context_chars_max: 10_000,
            output_tokens_max: None,
            question_expiry_ms: a_day(),
        }
    }
}

/// What an answer to a question approves although it was not asked for: the field that says so.
#[must_use]
pub fn approves_other(request_type: &str, request: &Value, answer: &Value) -> Option<&'static str> {
    let (field, asked) = match request_type {
        "tool_approval" => ("arguments", &request["arguments"]),
        "plan_review" => ("plan", request),
        _ => return None,
    };
    agent::approves_other(field, asked, answer).then_some(field)
}

fn supervise<'a>(turn: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let config = turn.pinned::<WorkflowConfig>()?;
        let history = turn.conversation(config.context_messages_max).await;
        turn.emit(&FleetEvent::Status { status: RunStatus::InProgress });
        let fast = match input.mode.as_deref() {
            Some("fast_path") => true,
            None | Some("auto") => history.is_empty() && config.fast_path.fits(&input.message),
            Some(_) => false,
        };
        let history = within(&history, config.context_chars_max);
        let result = if fast {
            fast_path::answer(turn, input, &config, history).await
        } else {
            Box::pin(pipeline::run(turn, input, &config, history)).await
        };
        let status = if result.is_ok() { RunStatus::Completed } else { RunStatus::Failed };
        turn.emit(&FleetEvent::Status { status });
        result
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
