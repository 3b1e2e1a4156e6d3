//! Passing work from one agent to another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::roster::{self, AgentCard};
use crate::prompts::Signature;
use crate::prompts::render::only;

/// Should somebody else go on?
pub struct HandoffDecision;

/// What the decision looks at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct HandoffDecisionInputs {
    /// What the user asked for.
    pub task: String,
    /// The agent that works on it now.
    pub acting_agent: String,
    /// What was done so far.
    pub work: String,
    /// The other agents.
    pub agents: Vec<AgentCard>,
    /// How many more times the work may be passed on.
    pub handoffs_left: u32,
}

/// Whether somebody else should go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Handoff {
    /// Whether the work is passed on.
    pub should_handoff: bool,
    /// To whom, if it is.
    pub next_agent: Option<String>,
    /// What the next agent is to do, as an instruction; empty if nobody is next.
    pub next_task: String,
    /// Why, in at most two sentences.
    pub reasoning: String,
}

impl Signature for HandoffDecision {
    const NAME: &'static str = "HandoffDecision";
    const INSTRUCTION: &'static str = "\
Decide whether the acting agent should pass the work on to one of the other agents.

Pass it on when what is left needs a skill or a tool that the acting agent does not have and another has, or when the work is \
ready for the check that the task asks for. Keep it when the task is answered, when the acting agent can finish it, or when \
nobody is better placed: a handoff costs time and loses context. Never pass work back to an agent for something it has already \
done or said it cannot do. next_task says what is left, not what was done.";
    type Inputs = HandoffDecisionInputs;
    type Output = Handoff;

    fn narrow(schema: &mut Value, inputs: &Self::Inputs) {
        let mut names = roster::names(&inputs.agents).peekable();
        if names.peek().is_none() {
            return;
        }
        let place = "/properties/next_agent";
        only(schema, place, names);
        // Still optional: nobody may be next.
        if let Some(Value::Object(field)) = schema.pointer_mut(place) {
            field.insert("type".to_owned(), serde_json::json!(["string", "null"]));
            if let Some(Value::Array(names)) = field.get_mut("enum") {
                names.push(Value::Null);
            }
        }
    }

    fn check(output: &Self::Output, inputs: &Self::Inputs) -> Result<(), String> {
        match (output.should_handoff, output.next_agent.as_deref()) {
            (false, _) => Ok(()),
            (true, None) => Err("should_handoff is true, but next_agent names nobody".to_owned()),
            (true, Some(name)) if roster::known(&inputs.agents, name) => Ok(()),
            (true, Some(name)) => Err(roster::unknown(&inputs.agents, name)),
        }
    }
}

/// What does the next agent need to know?
pub struct HandoffProtocol;

/// What a handoff package is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct HandoffProtocolInputs {
    /// What the user asked for.
    pub task: String,
    /// The agent that hands over.
    pub from_agent: String,
    /// The agent that goes on.
    pub to_agent: String,
    /// What the next agent is to do.
    pub next_task: String,
    /// What was done so far.
    pub work: String,
}

/// What the next agent needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandoffPackage {
    /// What is done, with its results, so that nothing is done twice.
    pub work_completed: String,
    /// Things to work with: sources with their URLs, data, drafts, file names; quoted exactly.
    #[schemars(length(max = 30))]
    pub artifacts: Vec<String>,
    /// What is still to be done, in order.
    #[schemars(length(max = 20))]
    pub remaining_objectives: Vec<String>,
    /// How to tell that it is done.
    #[schemars(length(max = 20))]
    pub success_criteria: Vec<String>,
    /// What the next agent should check before it hands in.
    #[schemars(length(max = 20))]
    pub checklist: Vec<String>,
}

impl Signature for HandoffProtocol {
    const NAME: &'static str = "HandoffProtocol";
    const INSTRUCTION: &'static str = "\
Write the handoff package: what the next agent must know to go on without asking and without seeing the conversation.

Say what is established and what is only assumed. Quote figures, names, URLs and code exactly and in full; summarise everything \
else. Leave out how the work was done, unless the next agent must go on in the same way. remaining_objectives are what the next \
agent itself has to do. success_criteria can be tested by reading the result. checklist holds the mistakes that are likely here, \
not general advice. Nothing goes in that the work and the task do not say.";
    type Inputs = HandoffProtocolInputs;
    type Output = HandoffPackage;
}
