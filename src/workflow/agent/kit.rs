//! What an agent may reach for: its own tools, a question to the user, passing control on.
//!
//! Passing control on is a typed question like those of the phases, asked as a tool: it costs no call of its own.

use std::sync::Arc;

use fleet_actors::ports::{ToolOffer, ToolRequest, ToolSpec};
use serde_json::json;

use super::Job;
use crate::prompts::signatures::{Handoff, HandoffDecision, HandoffDecisionInputs};
use crate::prompts::{ParseError, parse, render_tool};
use crate::workflow::fleet::{Fleet, usable};

/// The tool with which an agent asks the user.
pub(super) const ASK_USER: &str = "ask_user";

/// What an agent may reach for.
pub(super) struct Kit<'a> {
    offers: Vec<&'a ToolOffer>,
    /// To whom control may be passed, and the tool that does it; absent when there is nobody.
    passing: Option<HandoffDecisionInputs>,
    ask_user: bool,
    specs: Arc<[Arc<ToolSpec>]>,
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
        let agents = fleet.agent_cards(job.may_pass_to.iter().copied());
        let passing = (!agents.is_empty()).then_some(HandoffDecisionInputs { agents });
        let (offers, ask_user) = (fleet.offers_of(job.agent), fleet.config.approvals.ask_user);
        let own = offers.iter().filter(|offer| usable(offer)).map(|offer| offer.spec.clone());
        let pass = passing
            .as_ref()
            .map(|inputs| render_tool::<HandoffDecision>(HandoffDecision::TOOL, inputs, &fleet.config.prompts).into());
        let specs = own.chain(ask_user.then(|| ask_user_spec().into())).chain(pass).collect();
        Self { offers, passing, ask_user, specs }
    }

    pub fn empty() -> Self {
        Self { offers: Vec::new(), passing: None, ask_user: false, specs: Arc::from([]) }
    }

    pub fn missing(&self) -> impl Iterator<Item = Missing<'_>> {
        let missing = |offer: &&'a ToolOffer| {
            let why = offer.unavailable.as_deref()?;
            Some(Missing { tool: &offer.spec.name, why })
        };
        self.offers.iter().filter_map(missing)
    }

    /// What the model is told of. A tool that may never be called is not among them.
    pub fn specs(&self) -> Arc<[Arc<ToolSpec>]> {
        self.specs.clone()
    }

    pub fn offer(&self, tool: &str) -> Option<&'a ToolOffer> {
        self.offers.iter().copied().find(|offer| offer.spec.name == tool)
    }

    pub fn asks_user(&self, tool: &str) -> bool {
        self.ask_user && tool == ASK_USER
    }

    /// Names for a model that asked for what there is not.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.specs.iter().map(|spec| spec.name.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// The first of the calls that passes control to somebody who may have it. The other calls of the round fall away:
    /// whoever goes on decides anew.
    pub fn pass(&self, calls: &[ToolRequest]) -> Option<Handoff> {
        calls.iter().filter_map(|call| self.handoff(call)).find_map(Result::ok)
    }

    /// What a call that passes control says, if it is one and the agent may do that.
    ///
    /// # Errors
    /// What is wrong with it, for the model that made it.
    pub fn handoff(&self, call: &ToolRequest) -> Option<Result<Handoff, ParseError>> {
        let inputs = self.passing.as_ref().filter(|_| call.name == HandoffDecision::TOOL)?;
        Some(parse::<HandoffDecision>(&call.arguments.to_string(), inputs))
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
