//! A person looks at the plan before anybody works: approves, changes or rejects it.

use fleet_actors::event::{Answer, Failure};
use fleet_actors::turn::{HumanRequest, StepResult, Turn};
use serde_json::{Value, json};

use super::agent::{approves_other, decision, expired, reason, word_schema};
use super::fleet::Fleet;
use super::plan::Plan;
use super::routing::repaired;
use super::rules::OnExpiry;
use crate::prompts::signatures::Routing;

/// The code of a plan that a person does not want.
pub(super) const PLAN_REJECTED: &str = "plan_rejected";

/// The plan as a person wants it, if one is to see it first.
pub(super) async fn reviewed(turn: &mut Turn, fleet: &Fleet<'_>, plan: Plan) -> StepResult<Plan> {
    if !fleet.rules().plan_review {
        return Ok(plan);
    }
    let edited = json!({
        "type": "object",
        "properties": {
            "mode": { "enum": ["delegated", "sequential", "parallel", "handoff", "discussion"] },
            "assigned_to": { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            "subtasks": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": { "agent": { "type": "string" }, "task": { "type": "string" } },
                    "required": ["agent", "task"]
                }
            }
        },
        "minProperties": 1
    });
    let request = json!({
        "task": fleet.input.message,
        "mode": plan.mode,
        "assigned_to": plan.agents(),
        "subtasks": plan.parts,
        "reasoning": plan.reasoning,
    });
    let answer_schema = Some(word_schema("plan", &edited));
    let ask = HumanRequest { answer_schema, ..fleet.config.question("plan_review", request.clone()) };
    let answer = match turn.ask_human("plan_review", ask).await.answer {
        Answer::Given(answer) => answer,
        Answer::Expired => {
            let text = expired(fleet, "the review of the plan")?;
            return match fleet.config.approvals.on_expiry {
                OnExpiry::Continue => Ok(plan),
                OnExpiry::Reject | OnExpiry::Fail => Err(Failure::new(PLAN_REJECTED, text)),
            };
        }
    };
    match decision(&answer) {
        Some("approve") if approves_other("plan", &request, &answer) => {
            Err(Failure::new(PLAN_REJECTED, "what a person approved is not the plan that was shown"))
        }
        Some("approve") => Ok(plan),
        Some("edit") => match answer.get("plan") {
            Some(changes) => Ok(changed(turn, fleet, &plan, changes)),
            None => Err(Failure::new(PLAN_REJECTED, "a person wanted another plan and gave none")),
        },
        Some(_) => Err(Failure::new(PLAN_REJECTED, format!("a person rejected the plan{}", reason(&answer)))),
        None => Err(Failure::new(PLAN_REJECTED, "the answer to the plan could not be read as a yes")),
    }
}

/// The plan with a person's changes; what they left out stays, and what they wrote is repaired as a model's words are.
fn changed(turn: &mut Turn, fleet: &Fleet<'_>, plan: &Plan, changes: &Value) -> Plan {
    let read = |key: &str| changes.get(key).cloned();
    let assigned = read("assigned_to").and_then(|names| serde_json::from_value(names).ok());
    let subtasks = read("subtasks").and_then(|parts| serde_json::from_value(parts).ok());
    let mode = read("mode").and_then(|mode| serde_json::from_value(mode).ok());
    let routing = Routing {
        assigned_to: assigned.unwrap_or_else(|| plan.agents().into_iter().map(str::to_owned).collect()),
        execution_mode: mode.unwrap_or(plan.mode),
        subtasks: subtasks.unwrap_or_else(|| plan.parts.clone()),
        tool_requirements: Vec::new(),
        tool_plan: plan.tool_plan.clone(),
        tool_goals: plan.tool_goals.clone(),
        latency_budget: plan.latency_budget,
        handoff_strategy: plan.handoff_strategy.clone(),
        reasoning: plan.reasoning.clone(),
    };
    let plan = repaired(turn, fleet, &routing, None, "plan_review");
    turn.emit(&plan.thought(false));
    plan
}
