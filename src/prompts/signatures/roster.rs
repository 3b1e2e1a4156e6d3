//! Who and what there is to choose from, as inputs show it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An agent, as a prompt shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentCard {
    /// The name to use when it is chosen.
    pub name: String,
    /// What it is good at.
    pub description: String,
    /// The tools it may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
}

/// A tool, as a prompt shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCard {
    /// The name to use when it is chosen.
    pub name: String,
    /// What it does.
    pub description: String,
}

pub(super) fn names(agents: &[AgentCard]) -> impl Iterator<Item = &str> {
    agents.iter().map(|agent| agent.name.as_str())
}

pub(super) fn tool_names(tools: &[ToolCard]) -> impl Iterator<Item = &str> {
    tools.iter().map(|tool| tool.name.as_str())
}

/// Whether there is an agent of that name.
pub(super) fn known(agents: &[AgentCard], name: &str) -> bool {
    names(agents).any(|known| known == name)
}

/// A name that does not exist, and those that do, for a model to read.
pub(super) fn unknown(agents: &[AgentCard], name: &str) -> String {
    format!("there is no agent `{name}`; the agents are {}", names(agents).collect::<Vec<_>>().join(", "))
}
