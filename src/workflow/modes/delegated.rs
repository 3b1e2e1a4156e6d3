//! Delegated: one agent does it all, and its own words are the answer.

use fleet_actors::turn::{StepResult, Turn};

use super::crew;
use crate::workflow::agent::answer;
use crate::workflow::fleet::{Draft, Fleet, Round};
use crate::workflow::plan::Plan;

pub(super) async fn run(turn: &mut Turn, fleet: &Fleet<'_>, plan: &Plan, round: Round<'_>) -> StepResult<Draft> {
    let member = crew(fleet, plan)?.swap_remove(0);
    answer(turn, fleet, member.job(fleet, round.audience(), member.task, &[], round)).await
}
