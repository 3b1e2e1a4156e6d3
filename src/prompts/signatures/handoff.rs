//! Passing work from one agent to another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::roster::{self, AgentCard};
use crate::prompts::{Choices, Signature, Unsaid};

/// Should somebody else go on? Asked as a [tool](crate::prompts::render_tool): the acting agent answers it by calling the
/// tool, and by not calling it.
pub struct HandoffDecision;

impl HandoffDecision {
    /// What the tool is called.
    pub const TOOL: &'static str = "handoff";
}

/// What the decision looks at; the rest is the acting agent's own conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct HandoffDecisionInputs {
    /// The agents that the work may be passed to.
    pub agents: Vec<AgentCard>,
}

/// The work, passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Handoff {
    /// The agent that goes on.
    pub to_agent: String,
    /// Why this agent, in one sentence.
    pub reason: String,
    /// What is done, with its results and sources in full.
    pub work_completed: String,
    /// What is left to do, in order.
    #[serde(default)]
    pub remaining_objectives: Vec<String>,
    /// How to tell that it is done.
    #[serde(default)]
    pub success_criteria: Vec<String>,
}

impl Signature for HandoffDecision {
    const NAME: &'static str = "HandoffDecision";
    const INSTRUCTION: &'static str = "\
Pass the work on to another agent. Your own part ends with it.

Do so when what is left needs a skill or a tool that you do not have and another has, or when the work is ready for the check \
that the task asks for. Keep it when the task is answered, when you can finish it, or when nobody is better placed: a handoff \
costs time and loses context. Never pass work back to an agent for something it has already done or said it cannot do.";
    const UNSAID: Unsaid = &[("reason", "")];
    type Inputs = HandoffDecisionInputs;
    type Output = Handoff;

    fn choices(inputs: &Self::Inputs) -> Choices<'_> {
        Choices::default().only("/properties/to_agent", roster::names(&inputs.agents))
    }

    fn check(output: &Self::Output, inputs: &Self::Inputs) -> Result<(), String> {
        if roster::known(&inputs.agents, &output.to_agent) {
            return Ok(());
        }
        Err(roster::unknown(&inputs.agents, &output.to_agent))
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

    fn check(output: &Self::Output, _inputs: &Self::Inputs) -> Result<(), String> {
        if output.work_completed.trim().is_empty() {
            return Err("work_completed is empty, so the work would be lost".to_owned());
        }
        Ok(())
    }
}
