//! The roster as workflows see it: who there is, on which model, told what, with which tools.
//!
//! It is part of the configuration that a run pins at its start, so a changed roster changes new runs only.
//! Absent on purpose: who is best at what. Routing decides that from the descriptions.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An agent, as its model is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its id, also the author shown to people.
    pub name: String,
    /// One line for people and for routing.
    pub description: String,
    /// Which model.
    pub model: String,
    /// The system message.
    pub instructions: String,
    /// Sampling temperature, where the model takes one.
    pub temperature: Option<f32>,
    /// Its tools by name; `mcp:SERVER` stands for all of that server.
    pub tools: Vec<String>,
    /// Milliseconds for one turn of it, waiting for people left out.
    pub timeout_ms: u64,
    /// Seconds for which a result of a tool that changes nothing serves an equal call.
    pub cache_ttl_s: Option<u64>,
}

impl Agent {
    /// An agent without tools that has three minutes.
    #[must_use]
    pub fn new(name: impl Into<String>, model: impl Into<String>, instructions: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            description: name.clone(),
            name,
            model: model.into(),
            instructions: instructions.into(),
            temperature: None,
            tools: Vec::new(),
            timeout_ms: 180_000,
            cache_ttl_s: None,
        }
    }

    /// The time for one turn of it.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// The agents of a run, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Roster(BTreeMap<String, Agent>);

impl Roster {
    /// The agent of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Agent> {
        self.0.get(name)
    }

    /// The agent that `name` means although it is written in another way, as models do: case, spaces and dashes aside.
    #[must_use]
    pub fn meant(&self, name: &str) -> Option<&Agent> {
        let plain = |text: &str| text.trim().to_lowercase().replace([' ', '-'], "_");
        self.get(name).or_else(|| self.0.values().find(|agent| plain(&agent.name) == plain(name)))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Agent> {
        self.0.values()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Agent> for Roster {
    fn from_iter<I: IntoIterator<Item = Agent>>(agents: I) -> Self {
        Self(agents.into_iter().map(|agent| (agent.name.clone(), agent)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_however_a_model_writes_it() {
        let roster: Roster =
            ["copilot_researcher", "writer"].map(|name| Agent::new(name, "m", "i")).into_iter().collect();
        let found = |name| roster.meant(name).map(|agent| agent.name.as_str());
        assert_eq!(found("Copilot Researcher"), Some("copilot_researcher"));
        assert_eq!(found(" WRITER "), Some("writer"));
        assert_eq!(found("wizard"), None);
    }
}
