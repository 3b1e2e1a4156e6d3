//! Quality: how good is the answer, and is another try better?
//!
//! A refined answer is kept only if its score is better by `refinement_min_improvement`; else the earlier one stays and no
//! further try is made. In the background the score is made by a run of its own, which delays nobody.

use fleet_actors::event::{Audience, Failure};
use fleet_actors::ports::{ChildRun, LocalFuture, Quality as Verdict, RunOutput, TaskInput};
use fleet_actors::turn::{StepResult, Turn};
use serde_json::{Value, json};

use super::agent::{Job, answer};
use super::events::FleetEvent;
use super::fleet::{Draft, Fleet, Round, ends_the_run};
use super::{QUALITY_VERSION, QUALITY_WORKFLOW, WorkflowConfig};
use crate::prompts::signatures::{Quality, QualityAssessment, QualityAssessmentInputs};

/// An answer and what is thought of it.
pub(super) struct Judged {
    pub draft: Draft,
    /// Absent when it could not be judged.
    pub quality: Option<Quality>,
    /// It was made better, or is still below the threshold.
    pub flag: Option<&'static str>,
}

/// Scores the answer, and has it worked on again while it is not good enough and gets better, if more work is wanted.
pub(super) async fn judged(turn: &mut Turn, fleet: &Fleet<'_>, draft: Draft, more: bool) -> StepResult<Judged> {
    let rules = fleet.rules();
    let Some(mut quality) = score(turn, fleet, &draft).await else {
        return Ok(Judged { draft, quality: None, flag: None });
    };
    let mut best = draft;
    let mut refined = false;
    let tries = if rules.refinement && more { rules.max_refinement_rounds } else { 0 };
    for _ in 0..tries {
        if quality.score >= rules.refinement_threshold {
            break;
        }
        let tried = turn.scope("refinement", async |turn| Box::pin(again(turn, fleet, &best, &quality)).await).await;
        let better = match tried {
            Ok(Some(better)) => better,
            Ok(None) => break,
            Err(failure) if ends_the_run(&failure) => return Err(failure),
            Err(failure) => {
                fleet.degrade(turn, "refinement", &failure);
                break;
            }
        };
        if better.1.score < quality.score + rules.refinement_min_improvement {
            let data = json!({ "before": quality.score, "after": better.1.score });
            fleet.warn(turn, "refinement_dropped", "the new answer is no better, so the earlier one stays", data);
            break;
        }
        (best, quality) = (better.0.after(&best), better.1);
        refined = true;
    }
    let flag =
        if quality.score < rules.refinement_threshold { Some("below_threshold") } else { refined.then_some("refined") };
    Ok(Judged { draft: best, quality: Some(quality), flag })
}

/// One more try by whoever made the answer, and its score; nothing if it could not be scored.
async fn again(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    draft: &Draft,
    quality: &Quality,
) -> StepResult<Option<(Draft, Quality)>> {
    let mut wishes: Vec<String> = quality.required_improvements.clone();
    wishes.extend(quality.missing_elements.iter().map(|element| format!("add what is missing: {element}")));
    let feedback = if wishes.is_empty() { quality.reasoning.clone() } else { wishes.join("\n") };
    let agent = fleet.agent(&draft.agent)?;
    let part = fleet.part("", None, &[], Round { before: Some((draft, &feedback)) });
    let better = answer(turn, fleet, Job::new(fleet, agent, Audience::Workflow, part)).await?;
    Ok(score(turn, fleet, &better).await.map(|quality| (better, quality)))
}

async fn score(turn: &mut Turn, fleet: &Fleet<'_>, draft: &Draft) -> Option<Quality> {
    let inputs = QualityAssessmentInputs {
        task: fleet.input.message.clone(),
        context: fleet.conversation(),
        answer: draft.text.clone(),
    };
    match fleet.phase::<QualityAssessment>(turn, "quality", &inputs).await {
        Ok(quality) => {
            turn.emit(&FleetEvent::Thought {
                message: format!("score {:.1} of 10", quality.score),
                kind: "quality".to_owned(),
                data: json!({
                    "score": quality.score,
                    "missing": quality.missing_elements,
                    "improvements": quality.required_improvements,
                }),
            });
            Some(quality)
        }
        Err(failure) => {
            fleet.degrade(turn, "quality", &failure);
            None
        }
    }
}

/// The run that scores an answer after it was sent. Its input has all it needs: it reads no conversation.
pub(super) fn in_background(turn: &Turn, fleet: &Fleet<'_>, draft: &Draft) -> ChildRun {
    let more = json!({
        "answer": draft.text,
        "context": fleet.conversation(),
        "workflow_id": turn.workflow(),
    });
    let input = TaskInput {
        message: fleet.input.message.clone(),
        conversation: None,
        mode: None,
        additional_context: Some(more),
        principal: fleet.input.principal.clone(),
        checkpoints_listed: fleet.input.checkpoints_listed,
        traceparent: fleet.input.traceparent,
    };
    ChildRun { name: QUALITY_WORKFLOW.into(), version: QUALITY_VERSION, input }
}

/// Scores the answer of another run. Its result's metadata holds `quality` and the `workflow_id` that it belongs to.
pub(super) fn assess<'a>(turn: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let config = turn.pinned::<WorkflowConfig>()?;
        let said = |key: &str| {
            let more = input.additional_context.as_ref();
            more.and_then(|more| more.get(key)).and_then(Value::as_str).map(str::to_owned)
        };
        let answer =
            said("answer").ok_or_else(|| Failure::new("internal", "a run that scores an answer was given none"))?;
        let inputs = QualityAssessmentInputs {
            task: input.message.clone(),
            context: said("context").unwrap_or_default(),
            answer,
        };
        let fleet = Fleet { config: &config, input, history: &[], offers: Vec::new() };
        let quality = fleet.phase::<QualityAssessment>(turn, "quality", &inputs).await?;
        let flag = (quality.score < config.pipeline.refinement_threshold).then_some("below_threshold");
        let metadata = json!({ "quality": quality, "quality_flag": flag, "workflow_id": said("workflow_id") });
        let text = format!("score {:.1} of 10", quality.score);
        let quality = Some(verdict(&quality, flag));
        Ok(RunOutput { text, metadata, quality, ..RunOutput::default() })
    })
}

/// What is thought of an answer, as messages and history keep it.
pub(super) fn verdict(quality: &Quality, flag: Option<&str>) -> Verdict {
    Verdict {
        pending: false,
        score: Some(quality.score),
        flag: flag.map(str::to_owned),
        details: json!({
            "missing": quality.missing_elements,
            "improvements": quality.required_improvements,
            "reasoning": quality.reasoning,
        }),
    }
}
