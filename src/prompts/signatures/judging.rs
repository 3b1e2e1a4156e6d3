//! Is the work done, and is it good?

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::prompts::{Signature, Unsaid};

/// Is the work done?
pub struct ProgressEvaluation;

/// What a look at the progress sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct ProgressEvaluationInputs {
    /// What the user asked for.
    pub task: String,
    /// What the agents have made so far.
    pub result: String,
    /// Which round of work this was, from 1.
    pub round: u32,
    /// How many rounds there may be.
    pub rounds_max: u32,
}

/// What to do next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProgressAction {
    /// The result answers the task; deliver it.
    #[default]
    Complete,
    /// All parts are there, but some must be better.
    Refine,
    /// Parts are still missing; go on working.
    Continue,
}

/// Whether the work is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// What to do next.
    pub action: ProgressAction,
    /// For refine and continue: what exactly is to be done, as instructions to the agents; else empty.
    pub feedback: String,
    /// Why, in at most two sentences.
    pub reasoning: String,
}

impl Signature for ProgressEvaluation {
    const NAME: &'static str = "ProgressEvaluation";
    const INSTRUCTION: &'static str = "\
Decide whether the result answers the task. You judge; you do not improve it.

Go through what the task asks for, point by point, and look for each in the result. complete: every point is there and usable, \
even if it could be polished. continue: a point is missing, was only promised, or rests on something nobody did. refine: every \
point is there, but something in it is wrong, contradicts itself, or is not in the form that was asked for. An honest statement \
that something cannot be found or done counts as an answer to that point. Another round costs the user time and money: ask for \
one only if you can say what it must change, and in feedback say just that.";
    const UNSAID: Unsaid = &[("feedback", "")];
    type Inputs = ProgressEvaluationInputs;
    type Output = Progress;

    fn check(output: &Self::Output, _inputs: &Self::Inputs) -> Result<(), String> {
        match output.action {
            ProgressAction::Complete => Ok(()),
            ProgressAction::Refine | ProgressAction::Continue if output.feedback.trim().is_empty() => {
                Err("feedback is empty; say what the next round must do, or choose complete".to_owned())
            }
            ProgressAction::Refine | ProgressAction::Continue => Ok(()),
        }
    }
}

/// How good is the answer?
pub struct QualityAssessment;

/// What a judge of quality sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct QualityAssessmentInputs {
    /// What the user asked for.
    pub task: String,
    /// The conversation before it, oldest first; empty in a first turn.
    pub context: String,
    /// The answer to judge.
    pub answer: String,
}

/// How good an answer is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quality {
    /// 0 to 10: 10 could not be better, 7 is useful with small flaws, 5 misses something that matters, 2 is of no use.
    #[schemars(range(min = 0, max = 10))]
    pub score: f64,
    /// What the task asks for and the answer does not have.
    #[schemars(length(max = 12))]
    pub missing_elements: Vec<String>,
    /// Changes that would raise the score, each as an instruction, the most valuable first.
    #[schemars(length(max = 12))]
    pub required_improvements: Vec<String>,
    /// Why this score, in at most three sentences.
    pub reasoning: String,
}

impl Signature for QualityAssessment {
    const NAME: &'static str = "QualityAssessment";
    const INSTRUCTION: &'static str = "\
Judge the answer as the person would who asked for it and has to use it. You do not improve it.

Look at four things: does it do what was asked, all of it and in the form asked for; is what it says true, as far as you can \
tell, and are its sources named where the task needs them; is it internally consistent; can it be used as it is. Length and \
confident tone count for nothing. 9 and 10 are for answers you would not change; 7 and 8 for good ones with small flaws; 5 and \
6 for ones that miss something that matters; below that, the user has to start over. What the answer says about its own quality \
is not evidence.

required_improvements name places and changes (\"add the price of Y\", not \"be more detailed\"); both lists are empty when \
there is nothing to change.";
    type Inputs = QualityAssessmentInputs;
    type Output = Quality;

    fn check(output: &Self::Output, _inputs: &Self::Inputs) -> Result<(), String> {
        match output.score {
            score if (0.0..=10.0).contains(&score) => Ok(()),
            score => Err(format!("score must be 0 to 10, not {score}")),
        }
    }
}
