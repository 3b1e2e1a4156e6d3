//! What a workflow tells of itself, in its own terms; each protocol renders it.

use fleet_actors::event::Usage;
use fleet_actors::ports::{FinishReason, ModelReply};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    },
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// It works.
    InProgress,
    /// It has its result.
    Completed,
    /// It has an error.
    Failed,
    /// It waits.
    Idle,
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

/// What the result of a run tells programs about how it was made.
pub(super) fn metadata(mode: &str, reply: &ModelReply, calls: u32) -> Value {
    let usage: Usage = reply.usage.unwrap_or_default();
    serde_json::json!({
        "mode": mode,
        "model": reply.model,
        "simulated": reply.simulated,
        "model_calls": calls,
        "usage": usage,
        "finish_reason": reply.finish_reason,
        "truncated": reply.finish_reason.truncates(),
    })
}
