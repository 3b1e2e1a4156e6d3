//! The roster: who answers, on which model, told what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::units::{Millis, Name, Slug, Temperature};

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
    #[serde(default)]
    pub model: Option<Name>,
    /// Sent where the model takes one; none leaves it to the provider.
    #[serde(default)]
    pub temperature: Option<Temperature>,
    /// One turn of this agent, its tools included; none means `llm.request_timeout_ms`.
    #[serde(default)]
    pub timeout_ms: Option<Millis<1, 86_400_000>>,
}
