//! The ways agents work together. Each takes a plan and gives one draft.
//!
//! Only the text that becomes the answer is streamed to the user, and only in the first round: a later round's text comes
//! whole, because a client that saw a first one could not tell where the second begins.

mod delegated;
mod discussion;
mod handoff;
mod parallel;
mod sequential;

use fleet_actors::event::{Audience, Failure};
use fleet_actors::turn::{StepResult, Turn};
use serde_json::json;

use super::agent::{Job, answer};
use super::fleet::{Draft, Fleet, Round};
use super::plan::{Advice, Plan};
use crate::agents::Agent;
use crate::prompts::signatures::{ExecutionMode, Subtask};

/// Carries out a plan.
///
/// # Errors
/// The failure of the only agent, `no_agent_answered`, or what a person's silence means.
pub(super) async fn execute(turn: &mut Turn, fleet: &Fleet<'_>, plan: &Plan, round: Round<'_>) -> StepResult<Draft> {
    turn.scope("execution", async |turn| match plan.mode {
        ExecutionMode::Delegated => Box::pin(delegated::run(turn, fleet, plan, round)).await,
        ExecutionMode::Sequential => Box::pin(sequential::run(turn, fleet, plan, round)).await,
        ExecutionMode::Parallel => Box::pin(parallel::run(turn, fleet, plan, round)).await,
        ExecutionMode::Handoff => Box::pin(handoff::run(turn, fleet, plan, round)).await,
        ExecutionMode::Discussion => Box::pin(discussion::run(turn, fleet, plan, round)).await,
    })
    .await
}

impl Round<'_> {
    /// Who reads the text of the answer as it is written.
    fn audience(self) -> Audience {
        if self.before.is_none() { Audience::User } else { Audience::Workflow }
    }
}

/// Has one answer written of what several agents said. If that fails, what they said is the answer.
async fn synthesis(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    round: Round<'_>,
    material: &[(String, &str)],
) -> StepResult<Draft> {
    let writer = fleet.agent(&fleet.rules().synthesis_agent)?;
    let part = "Write the one answer to the user's task from the material below. Keep its sources. Where parts of it \
                disagree or are missing, say so.";
    let part = fleet.part("", Some(part), material, round);
    let job = Job { tools: false, ..Job::new(fleet, writer, round.audience(), part) };
    match turn.scope("synthesis", async |turn| answer(turn, fleet, job).await).await {
        Ok(draft) => Ok(draft),
        Err(failure) => {
            fleet.degrade(turn, "synthesis", &failure);
            let texts: Vec<String> = material.iter().map(|(title, text)| format!("## {title}\n\n{text}")).collect();
            let text = texts.join("\n\n");
            Ok(Draft { text, agent: writer.name.clone(), ..Draft::default() })
        }
    }
}

/// Tells that an agent failed and the others go on.
fn lost(turn: &mut Turn, fleet: &Fleet<'_>, agent: &str, failure: &Failure) {
    let message = format!("{agent} failed, the others go on: {}", failure.message);
    fleet.warn(turn, "agent_failed", message, json!({ "agent": agent, "code": failure.code }));
}

/// Somebody who works, with its part.
#[derive(Clone)]
struct Member<'a> {
    agent: &'a Agent,
    task: &'a str,
    /// What the plan says about how to go about it.
    advice: Advice,
}

impl<'a> Member<'a> {
    /// Its turn: `task`, with what others made.
    fn job(
        &self,
        fleet: &Fleet<'_>,
        audience: Audience,
        task: &str,
        material: &[(String, &str)],
        round: Round<'_>,
    ) -> Job<'a> {
        let Advice { lines, hurried } = &self.advice;
        let context = fleet.context(self.agent, *hurried, fleet.part(lines, Some(task), material, round));
        Job { agent: self.agent, context, audience, tools: true, may_pass_to: Vec::new() }
    }
}

/// The agents of a plan, each with its part.
fn crew<'a>(fleet: &Fleet<'a>, plan: &'a Plan) -> StepResult<Vec<Member<'a>>> {
    let member = |part: &'a Subtask| {
        let agent = fleet.agent(&part.agent)?;
        Ok(Member { agent, task: &part.task, advice: plan.advice(fleet, agent) })
    };
    plan.parts.iter().map(member).collect()
}
