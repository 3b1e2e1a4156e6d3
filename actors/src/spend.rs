//! What a run has spent: calls, tokens and money, whole and by agent.
//!
//! Counted from completed steps, so a replay counts the same. Prices are the model client's: it says what a call cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::Usage;

/// What a run has spent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spend {
    /// Model calls that have a result.
    pub model_calls: u32,
    /// Tool calls that have a result.
    pub tool_calls: u32,
    /// Tokens and cost of all model calls.
    pub usage: Usage,
    /// The same by agent; calls on nobody's behalf count under `orchestrator`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_agent: BTreeMap<Arc<str>, AgentSpend>,
}

/// One agent's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpend {
    /// Model calls that have a result.
    pub model_calls: u32,
    /// Tool calls that have a result.
    pub tool_calls: u32,
    /// Tokens and cost of its model calls.
    pub usage: Usage,
}

/// Who calls on nobody's behalf.
pub const ORCHESTRATOR: &str = "orchestrator";

impl Spend {
    /// Counts a model call.
    pub fn add_model(&mut self, agent: Option<&Arc<str>>, usage: Usage) {
        self.model_calls += 1;
        self.usage += usage;
        let part = self.part(agent);
        part.model_calls += 1;
        part.usage += usage;
    }

    /// Counts a tool call.
    pub fn add_tool(&mut self, agent: Option<&Arc<str>>) {
        self.tool_calls += 1;
        self.part(agent).tool_calls += 1;
    }

    fn part(&mut self, agent: Option<&Arc<str>>) -> &mut AgentSpend {
        let name = agent.cloned().unwrap_or_else(|| Arc::from(ORCHESTRATOR));
        self.by_agent.entry(name).or_default()
    }
}
