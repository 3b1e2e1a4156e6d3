//! What a workflow tells of itself, in its own terms; each protocol renders it.

use fleet_actors::event::Usage;
use fleet_actors::ports::FinishReason;
use fleet_actors::spend::Spend;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// An event that a workflow publishes with [`Turn::emit`](fleet_actors::turn::Turn::emit).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FleetEvent {
    /// Where the run stands.
    Status {
        /// Where.
        status: RunStatus,
    },
    /// The orchestrator says something.
    Message {
        /// For people.
        message: String,
        /// `progress` or `narrative`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
        /// For programs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Value>,
    },
    /// The orchestrator decided something.
    Thought {
        /// For people.
        message: String,
        /// `analysis`, `routing`, `quality`, `progress` or `handoff`.
        kind: String,
        /// For programs.
        data: Value,
    },
    /// An agent begins, says or finishes something.
    Agent {
        /// Which moment.
        moment: AgentMoment,
        /// Its id.
        agent_id: String,
        /// Its name for people.
        author: String,
        /// For people.
        message: String,
        /// For programs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Value>,
    },
    /// The final answer.
    Answer {
        /// The text.
        message: String,
        /// The agent's name for people.
        author: Option<String>,
        /// Its id.
        agent_id: Option<String>,
        /// Why the text ended.
        finish_reason: FinishReason,
        /// A score is still being made and will be there later.
        #[serde(default)]
        quality_pending: bool,
        /// How good it is, 0 to 10.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quality_score: Option<f64>,
        /// A word about it: `refined` or `below_threshold`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quality_flag: Option<String>,
        /// What the run spent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spent: Option<Value>,
    },
}

impl FleetEvent {
    /// The final answer of a run that is one call, by no agent and without a score.
    pub(super) fn plain_answer(message: String, finish_reason: FinishReason, spend: &Spend) -> Self {
        Self::Answer {
            message,
            author: None,
            agent_id: None,
            finish_reason,
            quality_pending: false,
            quality_score: None,
            quality_flag: None,
            spent: Some(told_spend(spend)),
        }
    }
}

/// Where a run stands. That it waits for a person is told by the question: `docs/decisions/0054`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// It works.
    InProgress,
    /// It has its result.
    Completed,
    /// It has an error.
    Failed,
}

/// A moment of an agent's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentMoment {
    /// It begins.
    Start,
    /// It says something on the way.
    Message,
    /// It has a result.
    Output,
    /// It is done.
    Complete,
}

/// What a run spent, as its final event tells it: calls, tokens and, where a price is known, US dollars, whole and by agent.
pub(super) fn told_spend(spend: &Spend) -> Value {
    let parts = spend.by_agent.iter();
    let parts = parts.map(|(agent, part)| (agent.to_string(), told(part.model_calls, part.tool_calls, part.usage)));
    let by_agent: Map<String, Value> = parts.collect();
    let mut whole = told(spend.model_calls, spend.tool_calls, spend.usage);
    whole["by_agent"] = Value::Object(by_agent);
    whole
}

fn told(model_calls: u32, tool_calls: u32, usage: Usage) -> Value {
    let tokens = Usage { cost_nanousd: None, ..usage };
    let mut told = json!({ "model_calls": model_calls, "tool_calls": tool_calls, "usage": tokens });
    if let Some(cost) = usage.cost_usd() {
        told["cost"] = cost.into();
    }
    told
}
