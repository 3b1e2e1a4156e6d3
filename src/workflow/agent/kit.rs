//! What an agent may reach for: its own tools, a question to the user, passing control on.

use std::sync::Arc;

use fleet_actors::ports::{Access, ToolOffer, ToolRequest, ToolSpec};
use serde_json::{Value, json};

use super::Job;
use crate::agents::Agent;
use crate::workflow::fleet::Fleet;

/// The tool with which an agent asks the user.
pub(super) const ASK_USER: &str = "ask_user";
/// The tool with which it passes control on.
const HANDOFF: &str = "handoff";

/// What an agent may reach for.
pub(super) struct Kit<'a> {
    offers: Vec<&'a ToolOffer>,
    may_pass_to: Vec<&'a Agent>,
    ask_user: bool,
}

/// Control passed from one agent to another.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::workflow) struct Pass {
    pub to: String,
    pub reason: String,
    /// What the next agent needs to know.
    pub package: Value,
}

/// A tool that the settings name and that cannot be used.
pub(super) struct Missing<'a> {
    pub tool: &'a str,
    pub why: &'a str,
}

impl<'a> Kit<'a> {
    pub fn of(fleet: &'a Fleet<'_>, job: &Job<'a>) -> Self {
        if !job.tools {
            return Self::empty();
        }
        let may_pass_to = job.may_pass_to.clone();
        Self { offers: fleet.offers_of(job.agent), may_pass_to, ask_user: fleet.config.approvals.ask_user }
    }

    pub fn empty() -> Self {
        Self { offers: Vec::new(), may_pass_to: Vec::new(), ask_user: false }
    }

    pub fn missing(&self) -> impl Iterator<Item = Missing<'_>> {
        let missing = |offer: &&'a ToolOffer| {
            let why = offer.unavailable.as_deref()?;
            Some(Missing { tool: &offer.spec.name, why })
        };
        self.offers.iter().filter_map(missing)
    }

    /// What the model is told of. A tool that may never be called is not among them.
    pub fn specs(&self) -> Arc<[ToolSpec]> {
        let usable = |offer: &&&ToolOffer| offer.unavailable.is_none() && offer.access != Access::Deny;
        let mut specs: Vec<ToolSpec> = self.offers.iter().filter(usable).map(|offer| offer.spec.clone()).collect();
        if self.ask_user {
            specs.push(ask_user_spec());
        }
        if !self.may_pass_to.is_empty() {
            specs.push(handoff_spec(&self.may_pass_to));
        }
        specs.into()
    }

    pub fn offer(&self, tool: &str) -> Option<&'a ToolOffer> {
        self.offers.iter().copied().find(|offer| offer.spec.name == tool)
    }

    pub fn asks_user(&self, tool: &str) -> bool {
        self.ask_user && tool == ASK_USER
    }

    /// Names for a model that asked for what there is not.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.specs().iter().map(|spec| spec.name.clone()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// The first of the calls that passes control to somebody who may have it. The other calls of the round fall away:
    /// whoever goes on decides anew.
    pub fn pass(&self, calls: &[ToolRequest]) -> Option<Pass> {
        calls.iter().filter(|call| call.name == HANDOFF).find_map(|call| {
            let said = |key: &str| call.arguments.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let wanted = said("to_agent");
            let to = self.may_pass_to.iter().find(|agent| agent.name == wanted)?.name.clone();
            let list =
                |key: &str| call.arguments.get(key).filter(|value| value.is_array()).cloned().unwrap_or(json!([]));
            let package = json!({
                "work_completed": said("work_completed"),
                "remaining_objectives": list("remaining_objectives"),
                "success_criteria": list("success_criteria"),
            });
            Some(Pass { to, reason: said("reason"), package })
        })
    }
}

fn ask_user_spec() -> ToolSpec {
    ToolSpec {
        name: ASK_USER.to_owned(),
        description: "Ask the user one question and wait for the answer. Only for what you cannot find out or decide \
                      yourself, and what changes the result."
            .to_owned(),
        parameters: json!({
            "type": "object",
            "properties": {
                "question": { "type": "string", "description": "The question, understandable by itself." },
                "options": {
                    "type": "array",
                    "items": { "type": "string" },
                    "description": "Answers to choose from, if there are only a few."
                }
            },
            "required": ["question"],
            "additionalProperties": false
        }),
    }
}

fn handoff_spec(agents: &[&Agent]) -> ToolSpec {
    let names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
    let who: Vec<String> = agents.iter().map(|agent| format!("{}: {}", agent.name, agent.description)).collect();
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    ToolSpec {
        name: HANDOFF.to_owned(),
        description: format!(
            "Pass the work on to another agent when what is left needs a skill or a tool that you do not have. Your own \
             part ends with it. The agents: {}",
            who.join("; ")
        ),
        parameters: json!({
            "type": "object",
            "properties": {
                "to_agent": { "type": "string", "enum": names },
                "reason": { "type": "string", "description": "Why this agent, in one sentence." },
                "work_completed": { "type": "string", "description": "What is done, with its results and sources in full." },
                "remaining_objectives": texts,
                "success_criteria": texts
            },
            "required": ["to_agent", "reason", "work_completed"],
            "additionalProperties": false
        }),
    }
}
