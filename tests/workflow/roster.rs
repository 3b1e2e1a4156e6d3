//! The agents that are shipped.

use std::collections::BTreeSet;

use agentic_fleet::settings::{Settings, Sources};
use serde_json::{Value, json};

const SHIPPED: [&str; 12] = [
    "analyst",
    "assistant",
    "coder",
    "copilot_researcher",
    "documentation",
    "executor",
    "generator",
    "planner",
    "researcher",
    "reviewer",
    "verifier",
    "writer",
];
const TOOLS: [&str; 4] = ["tavily_search", "fetch_page", "python", "javascript"];

#[test]
fn each_shipped_agent_has_words_of_its_own_and_every_tool_that_they_speak_of_and_no_other() {
    let agents = json!(Settings::load(&Sources::default()).unwrap().settings.agents);
    let agents = agents.as_object().unwrap();
    assert_eq!(agents.keys().collect::<Vec<_>>(), SHIPPED);
    let mut words = BTreeSet::new();
    for (name, agent) in agents {
        let text = |field: &str| agent[field].as_str().unwrap_or_default().to_owned();
        assert!(!text("description").is_empty() && words.insert(text("description")), "{name}");
        assert!(text("instructions").len() > 100 && words.insert(text("instructions")), "{name}");
        let has: BTreeSet<&str> = agent["tools"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let told = text("instructions");
        let told: BTreeSet<&str> = TOOLS.into_iter().filter(|tool| told.contains(tool)).collect();
        assert_eq!(told, has, "{name} is told of other tools than it has");
    }
}
