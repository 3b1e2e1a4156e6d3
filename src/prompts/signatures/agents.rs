//! Which agents can do it, and what they are told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::roster::{self, AgentCard};
use crate::prompts::Signature;
use crate::prompts::render::only;

/// Who can do what is needed?
pub struct CapabilityMatching;

/// What a matching looks at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct CapabilityMatchingInputs {
    /// What is to be done.
    pub task: String,
    /// Skills it takes.
    pub required_capabilities: Vec<String>,
    /// The agents to choose from.
    pub agents: Vec<AgentCard>,
}

/// How well an agent fits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CapabilityMatch {
    /// The agent's name.
    pub agent: String,
    /// Which of the required capabilities it covers.
    pub covers: Vec<String>,
    /// How well it fits the task, 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub confidence: f64,
}

/// Who can do what is needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CapabilityMatches {
    /// Agents that cover something, the best first.
    #[schemars(length(max = 12))]
    pub matches: Vec<CapabilityMatch>,
    /// Required capabilities that nobody covers.
    #[schemars(length(max = 12))]
    pub missing_capabilities: Vec<String>,
    /// Why, in at most two sentences.
    pub reasoning: String,
}

impl Signature for CapabilityMatching {
    const NAME: &'static str = "CapabilityMatching";
    const INSTRUCTION: &'static str = "\
Match the required capabilities with the agents. An agent covers a capability when its description or one of its tools says so, \
not because any language model could try. List only agents that cover something, the best first; confidence is how sure you are \
that its part would be done well. What nobody covers goes to missing_capabilities, in the words of the input: a gap that is named \
can be filled, one that is hidden cannot.";
    type Inputs = CapabilityMatchingInputs;
    type Output = CapabilityMatches;

    fn narrow(schema: &mut Value, inputs: &Self::Inputs) {
        only(schema, "/properties/matches/items/properties/agent", roster::names(&inputs.agents));
    }

    fn check(output: &Self::Output, inputs: &Self::Inputs) -> Result<(), String> {
        for found in &output.matches {
            if !roster::known(&inputs.agents, &found.agent) {
                return Err(roster::unknown(&inputs.agents, &found.agent));
            }
            super::language::check_confidence(found.confidence)?;
        }
        Ok(())
    }
}

/// What is an agent told for this task?
pub struct AgentInstruction;

/// What instructions for an agent are made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct AgentInstructionInputs {
    /// What the user asked for.
    pub task: String,
    /// The agent that is told.
    pub agent: AgentCard,
    /// Its part.
    pub subtask: String,
    /// What others have made that it needs; may be empty.
    pub material: String,
}

/// What an agent is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentInstructions {
    /// The instructions, addressed to the agent.
    pub instructions: String,
}

impl Signature for AgentInstruction {
    const NAME: &'static str = "AgentInstruction";
    const INSTRUCTION: &'static str = "\
Write the instructions with which this agent does its part, addressed to it as \"you\".

Say in this order: what to make and for whom; what it has to work with and what it must find out; when to use which of its tools, \
if it has any that help; the form and length of what it hands in; what it must not do. Be concrete to this task: the agent knows \
its trade. Do not repeat the material, do not do the work, and ask for nothing that its tools cannot do.";
    type Inputs = AgentInstructionInputs;
    type Output = AgentInstructions;

    fn check(output: &Self::Output, _inputs: &Self::Inputs) -> Result<(), String> {
        told(&output.instructions)
    }
}

/// What is the planner of the team told?
pub struct PlannerInstruction;

/// What instructions for the planner are made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct PlannerInstructionInputs {
    /// What the user asked for.
    pub task: String,
    /// The agents of the team.
    pub agents: Vec<AgentCard>,
    /// What the whole is to achieve, if it is known.
    pub goal: String,
}

/// What the planner of a team is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannerInstructions {
    /// The instructions, addressed to the planner.
    pub instructions: String,
}

impl Signature for PlannerInstruction {
    const NAME: &'static str = "PlannerInstruction";
    const INSTRUCTION: &'static str = "\
Write the instructions with which a planner leads these agents through the task, addressed to it as \"you\".

Name the goal and how to tell that it is reached, which agent is for which kind of work, what must happen before what and what \
can happen at the same time, when to stop, and what to do when an agent fails or returns nothing of use. The planner splits \
work, passes results on and checks them against the goal; it does none of the work itself. Only agents from the agents input \
exist.";
    type Inputs = PlannerInstructionInputs;
    type Output = PlannerInstructions;

    fn check(output: &Self::Output, _inputs: &Self::Inputs) -> Result<(), String> {
        told(&output.instructions)
    }
}

fn told(text: &str) -> Result<(), String> {
    if text.trim().is_empty() { Err("instructions is empty".to_owned()) } else { Ok(()) }
}
