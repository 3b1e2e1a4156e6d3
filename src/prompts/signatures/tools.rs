//! Which tools to use, and what for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::roster::{self, ToolCard};
use crate::prompts::Signature;
use crate::prompts::render::only;

/// Which tools, in which order?
pub struct ToolPlan;

/// What a tool plan looks at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct ToolPlanInputs {
    /// What is to be done.
    pub task: String,
    /// What is known already.
    pub context: String,
    /// The agent that will call the tools.
    pub agent: String,
    /// The tools it may call.
    pub tools: Vec<ToolCard>,
}

/// One use of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolGoal {
    /// The tool's name.
    pub tool: String,
    /// What this use of it is to bring.
    pub goal: String,
}

/// Tools in the order of their use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolPlanning {
    /// Uses in their order; empty when no tool helps.
    #[schemars(length(max = 12))]
    pub steps: Vec<ToolGoal>,
    /// Why, in at most two sentences.
    pub reasoning: String,
}

impl Signature for ToolPlan {
    const NAME: &'static str = "ToolPlan";
    const INSTRUCTION: &'static str = "\
Plan which tools to use for the task, in which order. Do not do the task and do not write the tools' arguments.

Use only tools from the tools input. Each step brings something that is not known yet and that the answer needs; say it so \
exactly that one can tell afterwards whether it was brought. Prefer one good search to three similar ones, reading a source to \
trusting its summary, and calculation by code to calculation by heart. Tools that change something outside come last, and only \
when the task asks for the change. An empty plan is right when the task needs no tool.";
    type Inputs = ToolPlanInputs;
    type Output = ToolPlanning;

    fn narrow(schema: &mut Value, inputs: &Self::Inputs) {
        only(schema, "/properties/steps/items/properties/tool", roster::tool_names(&inputs.tools));
    }

    fn check(output: &Self::Output, inputs: &Self::Inputs) -> Result<(), String> {
        let known = |name: &str| roster::tool_names(&inputs.tools).any(|tool| tool == name);
        match output.steps.iter().find(|step| !known(&step.tool)) {
            None => Ok(()),
            Some(step) if inputs.tools.is_empty() => Err(format!("there is no tool `{}`; there are none", step.tool)),
            Some(step) => {
                let tools = roster::tool_names(&inputs.tools).collect::<Vec<_>>().join(", ");
                Err(format!("there is no tool `{}`; the tools are {tools}", step.tool))
            }
        }
    }
}
