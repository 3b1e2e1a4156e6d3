//! Handoff: whoever acts decides, by a tool call, whether somebody else should go on; the one who does not pass control on
//! gives the answer.
//!
//! Control passes at most `max_rounds` - 1 times: the last one who gets it has nobody to pass it to. If an agent fails, the
//! one before it finishes the work.

use fleet_actors::turn::{StepResult, Turn};
use serde_json::json;

use super::{crew, lost};
use crate::agents::Agent;
use crate::workflow::agent::{Job, Outcome, Pass, work};
use crate::workflow::events::FleetEvent;
use crate::workflow::fleet::{Draft, Fleet, Round, ends_the_run};
use crate::workflow::routing::Plan;

pub(super) async fn run(turn: &mut Turn, fleet: &Fleet<'_>, plan: &Plan, round: Round<'_>) -> StepResult<Draft> {
    let crew = crew(fleet, plan)?;
    // A plan that names one agent leaves open who follows.
    let team: Vec<&Agent> = match crew.as_slice() {
        [_] => fleet.config.roster.iter().collect(),
        several => several.iter().map(|(agent, _)| *agent).collect(),
    };
    let (mut acting, mut task) = (crew[0].0, crew[0].1);
    let mut came: Option<(&Agent, Pass)> = None;
    let mut artifacts = Vec::new();
    let mut passes_left = fleet.rules().max_rounds.saturating_sub(1);
    loop {
        let material = came
            .as_ref()
            .map(|(from, pass)| (format!("Handed over by {} ({})", from.name, pass.reason), pass.package.to_string()));
        let material: Vec<_> = material.iter().map(|(title, text)| (title.clone(), text.as_str())).collect();
        let part = fleet.part(Some(task), &material, round);
        let mut job = Job::new(fleet, acting, round.audience(), part);
        if passes_left > 0 {
            job.may_pass_to = team.iter().copied().filter(|agent| agent.name != acting.name).collect();
        }
        match turn.scope("hand", async |turn| work(turn, fleet, job).await).await {
            Ok(Outcome::Answered(draft)) => {
                artifacts.extend(draft.artifacts.iter().cloned());
                return Ok(Draft { artifacts, ..draft });
            }
            Ok(Outcome::Passed(pass, made)) => {
                artifacts.extend(made);
                turn.emit(&FleetEvent::Thought {
                    message: format!("{} hands over to {}", acting.name, pass.to),
                    kind: "handoff".to_owned(),
                    data: json!({
                        "from_agent": acting.name,
                        "to_agent": pass.to,
                        "reason": pass.reason,
                        "package": pass.package,
                    }),
                });
                passes_left -= 1;
                let next = fleet.agent(&pass.to)?;
                // The part that the plan has for it, else what it was handed.
                task = crew
                    .iter()
                    .find(|(agent, _)| agent.name == next.name)
                    .map_or(&fleet.input.message, |(_, task)| task);
                came = Some((acting, pass));
                acting = next;
            }
            Err(failure) => match came.take_if(|_| !ends_the_run(&failure)) {
                None => return Err(failure),
                Some((before, _)) => {
                    lost(turn, fleet, &acting.name, &failure);
                    (acting, passes_left) = (before, 0);
                }
            },
        }
    }
}
