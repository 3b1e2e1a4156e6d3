//! Analysis and routing: what a task needs, who does it, and how.
//!
//! What a model answers is a proposal, of which [`Plan::of`] makes something that can be carried out. Without one the default
//! agent works.

use fleet_actors::journal::digest;
use fleet_actors::turn::{StepResult, Turn};
use serde_json::json;

use super::events::FleetEvent;
use super::fleet::{Fleet, clip};
use super::plan::{Plan, Repair};
use super::review::reviewed;
use crate::prompts::signatures::{
    Analysis, AnalysisAndRouting, AnalysisAndRoutingInputs, ExecutionMode, Routing, TaskAnalysis, TaskAnalysisInputs,
    TaskRouting, TaskRoutingInputs,
};

/// Everything under this prefix of the shared cache is a routing.
pub const ROUTING_CACHE: &str = "routing/";

/// Characters of an intent that an event shows; it is to be two words.
const INTENT_CHARS: usize = 60;

/// The mode that the client demands, if it is one of working together.
pub(super) fn demanded(mode: Option<&str>) -> Option<ExecutionMode> {
    match mode? {
        "delegated" => Some(ExecutionMode::Delegated),
        "sequential" => Some(ExecutionMode::Sequential),
        "parallel" => Some(ExecutionMode::Parallel),
        "handoff" => Some(ExecutionMode::Handoff),
        "discussion" => Some(ExecutionMode::Discussion),
        _ => None,
    }
}

/// Analyses the task and decides who does it. A phase that fails is done without.
///
/// # Errors
/// `plan_rejected` or `approval_expired`, when a person is to see the plan first.
pub(super) async fn plan(turn: &mut Turn, fleet: &Fleet<'_>, told: Option<&str>) -> StepResult<Plan> {
    let rules = fleet.rules();
    let demanded = demanded(fleet.input.mode.as_deref());
    let key = cache_key(fleet);
    // A plan that did not work is not asked for again.
    let cached = match told {
        None if rules.routing && rules.routing_cache_ttl_seconds > 0 => turn.cached(&key),
        None | Some(_) => None,
    };
    if let Some((analysis, plan)) =
        cached.and_then(|value| serde_json::from_value::<(Option<Analysis>, Plan)>(value).ok())
    {
        analysis.iter().for_each(|analysis| turn.emit(&analysed(analysis, true)));
        turn.emit(&plan.thought(true));
        return reviewed(turn, fleet, plan).await;
    }
    let (analysis, routing) = proposed(turn, fleet, demanded, told).await;
    let plan = match routing {
        None if rules.routing || demanded.is_some() => fallback(fleet, demanded),
        None => Plan::alone(&rules.default_agent, &fleet.input.message),
        Some(routing) => {
            let plan = repaired(turn, fleet, &routing, demanded, "routing");
            if let Ok(value) = serde_json::to_value((&analysis, &plan))
                && !rules.routing_cache_ttl().is_zero()
            {
                turn.cache(&key, &value, rules.routing_cache_ttl());
            }
            plan
        }
    };
    if rules.routing || demanded.is_some() {
        turn.emit(&plan.thought(false));
    }
    reviewed(turn, fleet, plan).await
}

/// What a proposal comes to, and what had to be repaired for it is told.
pub(super) fn repaired(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    routing: &Routing,
    demanded: Option<ExecutionMode>,
    phase: &str,
) -> Plan {
    let (plan, repairs) = Plan::of(routing, fleet, demanded);
    for Repair { warning, message } in repairs {
        fleet.warn(turn, warning, message, json!({ "phase": phase }));
    }
    plan
}

/// What the models propose, as far as they are asked and answer.
async fn proposed(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    demanded_mode: Option<ExecutionMode>,
    told: Option<&str>,
) -> (Option<Analysis>, Option<Routing>) {
    let rules = fleet.rules();
    let mut context = fleet.conversation();
    if let Some(told) = told {
        context.push_str(&format!("An earlier plan for this task did not work: {told}\n"));
    }
    let (task, tools) = (fleet.input.message.clone(), fleet.tool_cards());
    let agents = fleet.agent_cards(fleet.config.roster.iter());
    if rules.analysis && rules.routing && rules.merge_analysis_and_routing {
        let inputs = AnalysisAndRoutingInputs { task, context, agents, tools, demanded_mode };
        return match fleet.phase::<AnalysisAndRouting>(turn, "analysis_and_routing", &inputs).await {
            Ok(both) => {
                turn.emit(&analysed(&both.analysis, false));
                (Some(both.analysis), Some(both.routing))
            }
            Err(failure) => {
                fleet.degrade(turn, "analysis_and_routing", &failure);
                (None, None)
            }
        };
    }
    let mut analysis = None;
    if rules.analysis {
        let inputs = TaskAnalysisInputs { task: task.clone(), context: context.clone(), tools };
        match fleet.phase::<TaskAnalysis>(turn, "analysis", &inputs).await {
            Ok(found) => {
                turn.emit(&analysed(&found, false));
                analysis = Some(found);
            }
            Err(failure) => fleet.degrade(turn, "analysis", &failure),
        }
    }
    if !rules.routing {
        return (analysis, None);
    }
    let inputs =
        TaskRoutingInputs { task, context, analysis: analysis.clone().unwrap_or_default(), agents, demanded_mode };
    match fleet.phase::<TaskRouting>(turn, "routing", &inputs).await {
        Ok(routing) => (analysis, Some(routing)),
        Err(failure) => {
            fleet.degrade(turn, "routing", &failure);
            (analysis, None)
        }
    }
}

/// Who works when routing said nothing: the default agent, and in a mode that needs two the one who writes answers.
fn fallback(fleet: &Fleet<'_>, demanded: Option<ExecutionMode>) -> Plan {
    let rules = fleet.rules();
    let roster = &fleet.config.roster;
    let mut assigned_to = vec![rules.default_agent.clone()];
    if demanded.is_some_and(|mode| mode != ExecutionMode::Delegated) {
        let others = std::iter::once(&rules.synthesis_agent).chain(roster.iter().map(|agent| &agent.name));
        assigned_to.extend(others.into_iter().find(|name| **name != rules.default_agent).cloned());
    }
    let routing = Routing { assigned_to, ..Routing::default() };
    Plan::of(&routing, fleet, demanded).0
}

fn analysed(analysis: &Analysis, cached: bool) -> FleetEvent {
    let mut data = json!({
        "complexity": analysis.complexity,
        "capabilities": analysis.required_capabilities,
        "steps": analysis.estimated_steps,
        "reasoning": analysis.reasoning,
    });
    if let Some(intent) = analysis.intent.as_deref().map(str::trim).filter(|intent| !intent.is_empty()) {
        data["intent"] = clip(intent, INTENT_CHARS).into();
        if let Some(confidence) = analysis.intent_confidence {
            data["intent_confidence"] = confidence.into();
        }
    }
    if cached {
        data["cached"] = true.into();
    }
    let complexity = data["complexity"].as_str().unwrap_or_default();
    let message = format!("{complexity} complexity, about {} steps", analysis.estimated_steps);
    FleetEvent::Thought { message, kind: "analysis".to_owned(), data }
}

/// Equal for equal tasks of one principal under equal settings and conversations.
fn cache_key(fleet: &Fleet<'_>) -> String {
    let Fleet { config, input, offers, .. } = fleet;
    let tools: Vec<&str> = offers.iter().map(|offer| offer.spec.name.as_str()).collect();
    let what =
        (&config.roster, &config.prompts, &config.pipeline, &input.message, &input.mode, fleet.conversation(), tools);
    let what = serde_json::to_vec(&what).unwrap_or_default();
    format!("{ROUTING_CACHE}{}/{}", input.principal, digest(&what))
}
