//! A task's way through the fleet: analysis, routing, execution, progress, quality.
//!
//! Only execution must succeed. Every other phase that fails is told and done without, so a model that answers nonsense
//! costs its call and nothing else.

use std::collections::BTreeSet;

use fleet_actors::ports::{MessageRow, Quality as Verdict, RunOutput, TaskInput};
use fleet_actors::turn::{StepResult, Turn};
use serde_json::{Value, json};

use super::WorkflowConfig;
use super::events::{FleetEvent, told_spend};
use super::fleet::{Draft, Fleet, Round, clip, ends_the_run};
use super::modes::execute;
use super::plan::Plan;
use super::quality::{self, Judged};
use super::review::PLAN_REJECTED;
use super::routing;
use crate::agents::Agent;
use crate::prompts::signatures::{
    Progress, ProgressAction, ProgressEvaluation, ProgressEvaluationInputs, WorkflowNarration, WorkflowNarrationInputs,
};

pub(super) async fn run(
    turn: &mut Turn,
    input: &TaskInput,
    config: &WorkflowConfig,
    history: &[MessageRow],
) -> StepResult<RunOutput> {
    let offers = match tools_of_interest(config, input) {
        names if names.is_empty() => Vec::new(),
        names => turn.tools(&names).await,
    };
    let fleet = Fleet { config, input, history, offers };
    let plan = Box::pin(routing::plan(turn, &fleet, None)).await?;
    let draft = Box::pin(execute(turn, &fleet, &plan, Round::default())).await?;
    let Done { plan, draft, rounds, ended_early } = Box::pin(worked_out(turn, &fleet, plan, draft)).await?;
    let Judged { draft, quality, flag } = match config.pipeline.scores_in_foreground() {
        // Who rejects a new plan wants no more work.
        true => Box::pin(quality::judged(turn, &fleet, draft, ended_early != Some(PLAN_REJECTED))).await?,
        false => Judged { draft, quality: None, flag: None },
    };
    if config.pipeline.narrative && plan.parts.len() > 1 {
        narrate(turn, &fleet, &plan, rounds).await;
    }

    let spend = turn.spent();
    let quality_pending = config.pipeline.scores_in_background();
    let score = quality.as_ref().map(|quality| quality.score);
    turn.emit(&FleetEvent::Answer {
        message: draft.text.clone(),
        author: Some(draft.agent.clone()),
        agent_id: Some(draft.agent.clone()),
        finish_reason: draft.finish_reason,
        quality_pending,
        quality_score: score,
        quality_flag: flag.map(str::to_owned),
        spent: Some(told_spend(&spend)),
    });
    let mut metadata = json!({
        "mode": mode_name(&fleet, &plan),
        "agents": plan.agents(),
        "rounds": rounds,
        "model": draft.model,
        "simulated": draft.simulated,
        "model_calls": spend.model_calls,
        "tool_calls": spend.tool_calls,
        "usage": spend.usage,
        "by_agent": spend.by_agent,
        "finish_reason": draft.finish_reason,
        "truncated": draft.finish_reason.truncates(),
    });
    if let Some(why) = ended_early {
        metadata["ended_early"] = why.into();
    }
    if let Some(quality) = &quality {
        metadata["quality"] = json!(quality);
        metadata["quality_flag"] = json!(flag);
    }
    if !draft.artifacts.is_empty() {
        metadata["artifacts"] = json!(draft.artifacts);
    }
    let children = quality_pending.then(|| quality::in_background(turn, &fleet, &draft)).into_iter().collect();
    let verdict = match &quality {
        Some(quality) => Some(quality::verdict(quality, flag)),
        None if quality_pending => Some(Verdict::pending()),
        None => config.pipeline.quality.then(Verdict::not_scored),
    };
    let Draft { text, agent, finish_reason, .. } = draft;
    let (author, agent_id) = (Some(agent.clone()), Some(agent));
    Ok(RunOutput { text, author, agent_id, finish_reason, metadata, quality: verdict, children })
}

/// Where no phase was asked and no mode demanded, the run was the one agent that it always was.
fn mode_name(fleet: &Fleet<'_>, plan: &Plan) -> Value {
    if !fleet.rules().routing && routing::demanded(fleet.input.mode.as_deref()).is_none() {
        return "standard".into();
    }
    json!(plan.mode)
}

/// The tools of everybody who may come to work, each once.
fn tools_of_interest(config: &WorkflowConfig, input: &TaskInput) -> Vec<String> {
    let everybody = config.pipeline.routing || routing::demanded(input.mode.as_deref()).is_some();
    let may_work = |agent: &&Agent| everybody || agent.name == config.pipeline.default_agent;
    let agents = config.roster.iter().filter(may_work);
    let names: BTreeSet<&String> = agents.flat_map(|agent| &agent.tools).collect();
    names.into_iter().cloned().collect()
}

struct Done {
    plan: Plan,
    draft: Draft,
    rounds: u32,
    /// Why no more was done although more was wanted.
    ended_early: Option<&'static str>,
}

impl Done {
    fn early(self, why: &'static str) -> Self {
        Self { ended_early: Some(why), ..self }
    }
}

/// Looks at what was made, and has more made, until it is enough or a bound is reached.
///
/// A round that gives what the one before it gave is a stall. After more than `max_stalls` of them in a row the plan is made
/// anew, at most `max_resets` times; then what there is counts as the answer. So it does when a person rejects the new plan:
/// the draft was made under one that they had approved.
async fn worked_out(turn: &mut Turn, fleet: &Fleet<'_>, plan: Plan, draft: Draft) -> StepResult<Done> {
    let rules = fleet.rules();
    let mut done = Done { plan, draft, rounds: 1, ended_early: None };
    let (mut stalls, mut resets) = (0, 0);
    if !rules.progress {
        return Ok(done);
    }
    loop {
        let Some(progress) = looked_at(turn, fleet, &done).await else { return Ok(done) };
        if progress.action == ProgressAction::Complete {
            return Ok(done);
        }
        if done.rounds >= rules.max_rounds {
            let message = format!("the work ends after {} rounds, as many as it may take", done.rounds);
            fleet.warn(turn, "rounds_exhausted", message, json!({ "rounds": done.rounds }));
            return Ok(done.early("rounds_exhausted"));
        }
        if stalls > rules.max_stalls {
            if resets >= rules.max_resets {
                let message = format!("the work ends: {stalls} rounds brought nothing new");
                fleet.warn(turn, "stalled", message, json!({ "stalls": stalls, "resets": resets }));
                return Ok(done.early("stalled"));
            }
            (stalls, resets) = (0, resets + 1);
            let message = "nothing new comes of it, so the plan is made anew";
            fleet.warn(turn, "plan_reset", message, json!({ "resets": resets }));
            let feedback = &progress.feedback;
            let anew =
                turn.scope("reset", async |turn| Box::pin(routing::plan(turn, fleet, Some(feedback))).await).await;
            done.plan = match anew {
                Ok(plan) => plan,
                Err(failure) if &*failure.code == PLAN_REJECTED => {
                    let message = format!("the work ends with what there is: {}", failure.message);
                    fleet.warn(turn, PLAN_REJECTED, message, json!({ "resets": resets }));
                    return Ok(done.early(PLAN_REJECTED));
                }
                Err(failure) => return Err(failure),
            };
        }
        let round = Round { before: Some((&done.draft, &progress.feedback)) };
        // What is only to be made better is the work of whoever made it; what is missing is everybody's.
        let alone = Plan::alone(&done.draft.agent, &fleet.input.message);
        let plan = if progress.action == ProgressAction::Refine { &alone } else { &done.plan };
        match Box::pin(execute(turn, fleet, plan, round)).await {
            Ok(draft) => {
                stalls = if draft.text.trim() == done.draft.text.trim() { stalls + 1 } else { 0 };
                done.draft = draft.after(&done.draft);
            }
            Err(failure) if ends_the_run(&failure) => return Err(failure),
            Err(failure) => {
                fleet.degrade(turn, "round", &failure);
                stalls += 1;
            }
        }
        done.rounds += 1;
    }
}

async fn looked_at(turn: &mut Turn, fleet: &Fleet<'_>, done: &Done) -> Option<Progress> {
    let inputs = ProgressEvaluationInputs {
        task: fleet.input.message.clone(),
        result: done.draft.text.clone(),
        round: done.rounds,
        rounds_max: fleet.rules().max_rounds,
    };
    match fleet.phase::<ProgressEvaluation>(turn, "progress", &inputs).await {
        Ok(progress) => {
            let data = json!({ "action": progress.action, "feedback": progress.feedback });
            let message = data["action"].as_str().unwrap_or_default().to_owned();
            turn.emit(&FleetEvent::Thought { message, kind: "progress".to_owned(), data });
            Some(progress)
        }
        Err(failure) => {
            fleet.degrade(turn, "progress", &failure);
            None
        }
    }
}

/// A short account of what was done, for people.
async fn narrate(turn: &mut Turn, fleet: &Fleet<'_>, plan: &Plan, rounds: u32) {
    let spend = turn.spent();
    let mut events: Vec<String> =
        plan.parts.iter().map(|part| format!("{} worked on: {}", part.agent, clip(&part.task, 300))).collect();
    let count = |agent: &str| spend.by_agent.get(agent).copied().unwrap_or_default();
    events.extend(plan.agents().into_iter().map(|agent| {
        let part = count(agent);
        format!("{agent} made {} model calls and {} tool calls", part.model_calls, part.tool_calls)
    }));
    let outcome = format!("answered after {rounds} round(s)");
    let inputs = WorkflowNarrationInputs { task: fleet.input.message.clone(), events, outcome };
    match fleet.phase::<WorkflowNarration>(turn, "narrative", &inputs).await {
        Ok(narration) => turn.emit(&FleetEvent::Message {
            message: narration.narrative,
            kind: Some("narrative".to_owned()),
            data: None,
        }),
        Err(failure) => fleet.degrade(turn, "narrative", &failure),
    }
}
