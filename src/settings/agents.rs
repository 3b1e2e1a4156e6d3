//! The roster: who answers, on which model, told what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::units::{Count, Millis, Name, Slug, Temperature};

/// The agents by name. Section `agents`.
pub type Roster = BTreeMap<Slug, AgentSettings>;

/// One agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSettings {
    /// One line for people and for routing.
    pub description: String,
    /// What the model is told before the conversation.
    pub instructions: String,
    /// The model; none means `llm.model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Name>,
    /// Sent where the model takes one; none leaves it to the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Temperature>,
    /// Its tools by name; `mcp:SERVER` stands for all of that server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Name>,
    /// One turn of this agent, its tools included, waiting for people left out; none means `pipeline.agent_timeout_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<Millis<1, 86_400_000>>,
    /// How long a result of its read-only tools serves an equal call; none means not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_ttl_s: Option<Count<1, 86_400>>,
}
