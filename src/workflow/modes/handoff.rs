//! Handoff: whoever acts decides, by a tool call, whether somebody else should go on; the one who does not pass control on
//! gives the answer.
//!
//! Control passes at most `max_rounds` - 1 times: the last one who gets it has nobody to pass it to. If an agent fails, the
//! one before it finishes the work from what it handed over.

use fleet_actors::turn::{StepResult, Turn};
use serde_json::{Value, json};

use super::{Member, crew, lost};
use crate::agents::Agent;
use crate::prompts::signatures::Handoff;
use crate::workflow::agent::{Outcome, work};
use crate::workflow::events::FleetEvent;
use crate::workflow::fleet::{Draft, Fleet, Round, ends_the_run};
use crate::workflow::plan::Plan;

pub(super) async fn run(turn: &mut Turn, fleet: &Fleet<'_>, plan: &Plan, round: Round<'_>) -> StepResult<Draft> {
    let crew = crew(fleet, plan)?;
    // A plan that names one agent leaves open who follows.
    let team: Vec<&Agent> = match crew.as_slice() {
        [_] => fleet.config.roster.iter().collect(),
        several => several.iter().map(|member| member.agent).collect(),
    };
    let mut acting = crew[0].clone();
    let mut came: Option<(&Agent, Handoff)> = None;
    let mut artifacts = Vec::new();
    let (mut passes_left, mut handed_back) = (fleet.rules().max_rounds.saturating_sub(1), false);
    loop {
        let handed = came
            .as_ref()
            .map(|(from, pass)| (format!("Handed over by {} ({})", from.name, pass.reason), package(pass).to_string()));
        let handed: Vec<_> = handed.iter().map(|(title, text)| (title.clone(), text.as_str())).collect();
        let mut job = acting.job(fleet, round.audience(), acting.task, &handed, round);
        if passes_left > 0 {
            job.may_pass_to = team.iter().copied().filter(|agent| agent.name != acting.agent.name).collect();
        }
        match turn.scope("hand", async |turn| work(turn, fleet, job).await).await {
            Ok(Outcome::Answered(draft)) => {
                artifacts.extend(draft.artifacts.iter().cloned());
                return Ok(Draft { artifacts, ..draft });
            }
            Ok(Outcome::Passed(pass, made)) => {
                artifacts.extend(made);
                turn.emit(&FleetEvent::Thought {
                    message: format!("{} hands over to {}", acting.agent.name, pass.to_agent),
                    kind: "handoff".to_owned(),
                    data: json!({
                        "from_agent": acting.agent.name,
                        "to_agent": pass.to_agent,
                        "reason": pass.reason,
                        "package": package(&pass),
                    }),
                });
                passes_left -= 1;
                let next = fleet.agent(&pass.to_agent)?;
                // The part that the plan has for it, else what it was handed.
                let planned = crew.iter().find(|member| member.agent.name == next.name);
                let next = planned.cloned().unwrap_or_else(|| Member {
                    agent: next,
                    task: &fleet.input.message,
                    advice: plan.advice(fleet, next),
                });
                came = Some((acting.agent, pass));
                acting = next;
            }
            Err(failure) if handed_back || ends_the_run(&failure) => return Err(failure),
            Err(failure) => {
                let Some((before, _)) = &came else { return Err(failure) };
                lost(turn, fleet, &acting.agent.name, &failure);
                // It goes on from what it handed over, and nobody else gets control.
                acting = Member { agent: before, advice: plan.advice(fleet, before), ..acting };
                (passes_left, handed_back) = (0, true);
            }
        }
    }
}

/// What the next agent is shown of what it was handed.
fn package(pass: &Handoff) -> Value {
    json!({
        "work_completed": pass.work_completed,
        "remaining_objectives": pass.remaining_objectives,
        "success_criteria": pass.success_criteria,
    })
}
