//! Parallel: agents work on their parts at the same time, then one answer is written of what they found.
//!
//! An agent that fails or is late takes nothing from the others; the one who writes is told what is missing.

use fleet_actors::event::Audience;
use fleet_actors::turn::{StepResult, Turn};

use super::{Member, crew, lost, synthesis};
use crate::workflow::agent::answer;
use crate::workflow::fleet::{Draft, Fleet, Round, ends_the_run, nobody};
use crate::workflow::plan::Plan;

pub(super) async fn run(turn: &mut Turn, fleet: &Fleet<'_>, plan: &Plan, round: Round<'_>) -> StepResult<Draft> {
    let crew = crew(fleet, plan)?;
    let limit = fleet.rules().max_parallel_agents;
    let results = turn
        .parallel("agents", limit, crew.clone(), async |turn, member| {
            let job = member.job(fleet, Audience::Workflow, member.task, &[], round);
            Box::pin(answer(turn, fleet, job)).await
        })
        .await;
    let (mut reports, mut failures) = (Vec::new(), Vec::new());
    for (Member { agent, task, .. }, result) in crew.iter().zip(results) {
        match result {
            Ok(draft) => reports.push(draft),
            Err(failure) if ends_the_run(&failure) => return Err(failure),
            Err(failure) => {
                lost(turn, fleet, &agent.name, &failure);
                failures.push((agent.name.clone(), failure, *task));
            }
        }
    }
    if reports.is_empty() {
        return Err(nobody(failures.into_iter().map(|(agent, failure, _)| (agent, failure)).collect()));
    }
    let artifacts = reports.iter().flat_map(|report| report.artifacts.clone()).collect();
    let mut material: Vec<_> =
        reports.iter().map(|report| (format!("Report of {}", report.agent), report.text.as_str())).collect();
    material.extend(failures.iter().map(|(agent, _, task)| (format!("Missing: {agent} gave no report on"), *task)));
    let draft = synthesis(turn, fleet, round, &material).await?;
    Ok(Draft { artifacts, ..draft })
}
