//! Text for the user.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::prompts::{Signature, Spoken};

/// What is a short, direct answer? Asked as a [conversation](crate::prompts::render_spoken), so that it is streamed as it is
/// written.
pub struct SimpleResponse;

impl Spoken for SimpleResponse {
    const SAID: &'static str = "task";
    const ANSWER: &'static str = "answer";
}

/// What a direct answer looks at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct SimpleResponseInputs {
    /// What the user said.
    pub task: String,
    /// The conversation before it, oldest first; empty in a first turn.
    pub context: String,
}

/// A direct answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SimpleAnswer {
    /// What to say to the user.
    pub answer: String,
}

impl Signature for SimpleResponse {
    const NAME: &'static str = "SimpleResponse";
    const INSTRUCTION: &'static str = "\
Answer the user directly, kindly and briefly, in the language they wrote in. Give the answer first and stop when it is given: \
no preamble, no summary, no offer of more help. If a calculation or a fact was asked for, give it with its unit. If you do not \
know, say so in one sentence and do not guess; if it depends on something recent, say that too.";
    type Inputs = SimpleResponseInputs;
    type Output = SimpleAnswer;

    fn check(output: &Self::Output, _inputs: &Self::Inputs) -> Result<(), String> {
        said("answer", &output.answer)
    }
}

/// What happened in this run?
pub struct WorkflowNarration;

/// What a narration tells of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct WorkflowNarrationInputs {
    /// What the user asked for.
    pub task: String,
    /// What happened, one line each, in order.
    pub events: Vec<String>,
    /// How it ended.
    pub outcome: String,
}

/// What happened in a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Narration {
    /// Two to five sentences for the user.
    pub narrative: String,
}

impl Signature for WorkflowNarration {
    const NAME: &'static str = "WorkflowNarration";
    const INSTRUCTION: &'static str = "\
Tell the user what their fleet of agents did, in two to five plain sentences, in the language of the task. Say who worked on \
what, in which order, which tools brought what, and what was difficult or failed. Only what the events say: nothing is \
invented, nothing is praised, no internal identifier appears, and the answer itself is not repeated.";
    type Inputs = WorkflowNarrationInputs;
    type Output = Narration;

    fn check(output: &Self::Output, _inputs: &Self::Inputs) -> Result<(), String> {
        said("narrative", &output.narrative)
    }
}

fn said(field: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() { Err(format!("{field} is empty")) } else { Ok(()) }
}
