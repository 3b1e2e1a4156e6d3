//! Sequential: each agent works on what the one before it made; the last one's words are the answer.
//!
//! An agent that fails is left out: the next one gets what the last one that answered made.

use fleet_actors::event::Audience;
use fleet_actors::turn::{StepResult, Turn};
use serde_json::{Value, json};

use super::{Member, crew, lost};
use crate::agents::Agent;
use crate::prompts::signatures::{HandoffProtocol, HandoffProtocolInputs};
use crate::workflow::agent::answer;
use crate::workflow::events::FleetEvent;
use crate::workflow::fleet::{Draft, Fleet, Round, clip, ends_the_run, nobody};
use crate::workflow::plan::Plan;

pub(super) async fn run(turn: &mut Turn, fleet: &Fleet<'_>, plan: &Plan, round: Round<'_>) -> StepResult<Draft> {
    let crew = crew(fleet, plan)?;
    let mut last: Option<Draft> = None;
    let (mut failures, mut artifacts) = (Vec::new(), Vec::new());
    for (at, member) in crew.iter().enumerate() {
        let Member { agent, task, .. } = *member;
        let material = match &last {
            None => None,
            Some(before) => Some(handed_over(turn, fleet, before, agent, task).await),
        };
        let material: Vec<_> = material.iter().map(|(title, text)| (title.clone(), text.as_str())).collect();
        let is_last = at + 1 == crew.len();
        let audience = if is_last { round.audience() } else { Audience::Workflow };
        let job = member.job(fleet, audience, task, &material, round);
        match turn.scope("stage", async |turn| answer(turn, fleet, job).await).await {
            Ok(draft) => {
                artifacts.extend(draft.artifacts.iter().cloned());
                last = Some(draft);
            }
            Err(failure) if ends_the_run(&failure) => return Err(failure),
            Err(failure) => {
                lost(turn, fleet, &agent.name, &failure);
                failures.push((agent.name.clone(), failure));
            }
        }
    }
    let last = last.ok_or_else(|| nobody(failures))?;
    Ok(Draft { artifacts, ..last })
}

/// What the next agent is told of the work so far: a package if the settings ask for one, else the text as it is.
async fn handed_over(turn: &mut Turn, fleet: &Fleet<'_>, before: &Draft, next: &Agent, task: &str) -> (String, String) {
    let mut package = json!({ "work_completed": clip(&before.text, 500), "artifacts": before.artifacts, "remaining_objectives": [task] });
    let mut material = (format!("What {} made", before.agent), before.text.clone());
    if fleet.rules().handoff_packages {
        let inputs = HandoffProtocolInputs {
            task: fleet.input.message.clone(),
            from_agent: before.agent.clone(),
            to_agent: next.name.clone(),
            next_task: task.to_owned(),
            work: before.text.clone(),
        };
        match fleet.phase::<HandoffProtocol>(turn, "handoff_package", &inputs).await {
            Ok(made) => {
                let text = serde_json::to_string_pretty(&made).unwrap_or_default();
                material = (format!("The handoff package of {}", before.agent), text);
                package = serde_json::to_value(&made).unwrap_or(Value::Null);
            }
            Err(failure) => fleet.degrade(turn, "handoff_package", &failure),
        }
    }
    turn.emit(&FleetEvent::Thought {
        message: format!("{} hands over to {}", before.agent, next.name),
        kind: "handoff".to_owned(),
        data: json!({
            "from_agent": before.agent,
            "to_agent": next.name,
            "reason": "next in the sequence",
            "package": package,
        }),
    });
    material
}
