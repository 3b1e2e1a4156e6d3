//! Analysis and routing: what a task needs, who does it, and how.
//!
//! What a model answers is a proposal. [`Plan::of`] makes of it something that can be carried out: agents that exist, one
//! part for each, a mode that fits how many there are. Every repair is told.

use std::collections::{BTreeMap, BTreeSet};

use fleet_actors::event::Answer;
use fleet_actors::event::Failure;
use fleet_actors::journal::digest;
use fleet_actors::turn::{HumanRequest, StepResult, Turn};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::agent::{decision, expired, reason, word_schema};
use super::events::FleetEvent;
use super::fleet::{Fleet, clip};
use super::rules::OnExpiry;
use crate::agents::Roster;
use crate::prompts::signatures::{
    Analysis, AnalysisAndRouting, AnalysisAndRoutingInputs, ExecutionMode, Routing, Subtask, TaskAnalysis,
    TaskAnalysisInputs, TaskRouting, TaskRoutingInputs,
};

/// Everything under this prefix of the shared cache is a routing.
pub const ROUTING_CACHE: &str = "routing/";

/// Agents that do not exist, as a warning names them.
const UNKNOWN_SHOWN: usize = 5;
/// Characters of such a name.
const NAME_CHARS: usize = 60;

/// Who does a task, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub mode: ExecutionMode,
    /// Agents that exist, at least one, in the order they act, each with its part.
    pub parts: Vec<Subtask>,
    pub reasoning: String,
}

/// Something about a routing that could not stay as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repair {
    pub warning: &'static str,
    pub message: String,
}

impl Plan {
    /// One agent with the whole task.
    pub fn alone(agent: &str, task: &str) -> Self {
        let parts = vec![Subtask { agent: agent.to_owned(), task: task.to_owned() }];
        Self { mode: ExecutionMode::Delegated, parts, reasoning: String::new() }
    }

    pub fn agents(&self) -> Vec<&str> {
        self.parts.iter().map(|part| part.agent.as_str()).collect()
    }

    /// What a routing comes to in this roster.
    pub fn of(
        routing: &Routing,
        roster: &Roster,
        task: &str,
        demanded: Option<ExecutionMode>,
        default_agent: &str,
    ) -> (Self, Vec<Repair>) {
        let mut repairs = Vec::new();
        let mut repair = |warning, message: String| repairs.push(Repair { warning, message });
        let mut agents: Vec<&str> = Vec::new();
        let mut unknown = BTreeSet::new();
        for name in &routing.assigned_to {
            match roster.meant(name) {
                Some(agent) if agents.contains(&agent.name.as_str()) => {}
                Some(agent) => agents.push(&agent.name),
                None => drop(unknown.insert(name.as_str())),
            }
        }
        if !unknown.is_empty() {
            repair("unknown_agent", format!("routing named who does not exist: {}", some_of(&unknown)));
        }
        if agents.is_empty() {
            repair("empty_assignment", format!("routing named nobody, so {default_agent} does it"));
            agents.push(default_agent);
        }
        let mut mode = demanded.unwrap_or(routing.execution_mode);
        match mode {
            ExecutionMode::Parallel if agents.len() == 1 => {
                repair("one_agent_in_parallel", format!("{} works alone, so the task is delegated", agents[0]));
                mode = ExecutionMode::Delegated;
            }
            ExecutionMode::Sequential if agents.len() == 1 => mode = ExecutionMode::Delegated,
            ExecutionMode::Discussion if agents.len() == 1 => {
                let others = std::iter::once(default_agent).chain(roster.iter().map(|agent| agent.name.as_str()));
                match others.into_iter().find(|name| *name != agents[0]) {
                    Some(other) => {
                        repair("one_agent_in_discussion", format!("{other} joins, nobody discusses alone"));
                        agents.push(other);
                    }
                    None => mode = ExecutionMode::Delegated,
                }
            }
            ExecutionMode::Delegated if agents.len() > 1 => {
                let rest = agents.split_off(1).join(", ");
                repair("one_agent_in_delegated", format!("{} does it alone, without {rest}", agents[0]));
            }
            ExecutionMode::Delegated
            | ExecutionMode::Sequential
            | ExecutionMode::Parallel
            | ExecutionMode::Handoff
            | ExecutionMode::Discussion => {}
        }
        let (parts, missing) = parts(&agents, &routing.subtasks, roster, task);
        if mode == ExecutionMode::Parallel && !missing.is_empty() {
            repair("subtasks_repaired", format!("routing had no subtask for {}", missing.join(", ")));
        }
        (Self { mode, parts, reasoning: routing.reasoning.clone() }, repairs)
    }

    fn thought(&self, cached: bool) -> FleetEvent {
        let mut data = json!({
            "mode": self.mode,
            "assigned_to": self.agents(),
            "subtasks": self.parts,
            "reasoning": self.reasoning,
        });
        if cached {
            data["cached"] = true.into();
        }
        let mode = data["mode"].as_str().unwrap_or_default();
        let message = format!("{} ({mode})", self.agents().join(", "));
        FleetEvent::Thought { message, kind: "routing".to_owned(), data }
    }
}

/// The first few of the names, none of them long, and how many more there are.
fn some_of(names: &BTreeSet<&str>) -> String {
    let mut shown: Vec<String> = names.iter().take(UNKNOWN_SHOWN).map(|name| clip(name, NAME_CHARS)).collect();
    if let Some(more) = names.len().checked_sub(UNKNOWN_SHOWN).filter(|more| *more > 0) {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

/// A part for each agent, and who had none: those take what stands under no assigned name, then the whole task.
fn parts<'a>(agents: &[&'a str], subtasks: &[Subtask], roster: &Roster, task: &str) -> (Vec<Subtask>, Vec<&'a str>) {
    let mut own: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut loose = Vec::new();
    for subtask in subtasks.iter().filter(|subtask| !subtask.task.trim().is_empty()) {
        match roster.meant(&subtask.agent).filter(|agent| agents.contains(&agent.name.as_str())) {
            Some(agent) => own.entry(&agent.name).or_default().push(&subtask.task),
            None => loose.push(subtask.task.as_str()),
        }
    }
    let mut loose = loose.into_iter();
    let mut missing = Vec::new();
    let mut part = |agent: &&'a str| {
        let task = match own.get(agent) {
            Some(tasks) => tasks.join("\n"),
            None if agents.len() == 1 => task.to_owned(),
            None => {
                missing.push(*agent);
                loose.next().unwrap_or(task).to_owned()
            }
        };
        Subtask { agent: (*agent).to_owned(), task }
    };
    let parts = agents.iter().map(&mut part).collect();
    (parts, missing)
}

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
            let task = &fleet.input.message;
            let (plan, repairs) = Plan::of(&routing, &fleet.config.roster, task, demanded, &rules.default_agent);
            for Repair { warning, message } in repairs {
                fleet.warn(turn, warning, message, json!({ "phase": "routing" }));
            }
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
    Plan::of(&routing, roster, &fleet.input.message, demanded, &rules.default_agent).0
}

fn analysed(analysis: &Analysis, cached: bool) -> FleetEvent {
    let mut data = json!({
        "complexity": analysis.complexity,
        "capabilities": analysis.required_capabilities,
        "steps": analysis.estimated_steps,
        "reasoning": analysis.reasoning,
    });
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

/// The plan as a person wants it, if one is to see it first.
async fn reviewed(turn: &mut Turn, fleet: &Fleet<'_>, plan: Plan) -> StepResult<Plan> {
    if !fleet.rules().plan_review {
        return Ok(plan);
    }
    let edited = json!({
        "type": "object",
        "properties": {
            "mode": { "enum": ["delegated", "sequential", "parallel", "handoff", "discussion"] },
            "assigned_to": { "type": "array", "items": { "type": "string" } },
            "subtasks": { "type": "array" }
        }
    });
    let request = json!({
        "task": fleet.input.message,
        "mode": plan.mode,
        "assigned_to": plan.agents(),
        "subtasks": plan.parts,
        "reasoning": plan.reasoning,
    });
    let answer_schema = Some(word_schema("plan", &edited));
    let ask = HumanRequest { answer_schema, ..fleet.config.question("plan_review", request) };
    let answer = match turn.ask_human("plan_review", ask).await.answer {
        Answer::Given(answer) => answer,
        Answer::Expired => {
            let text = expired(fleet, "the review of the plan")?;
            return match fleet.config.approvals.on_expiry {
                OnExpiry::Continue => Ok(plan),
                OnExpiry::Reject | OnExpiry::Fail => Err(Failure::new("plan_rejected", text)),
            };
        }
    };
    match decision(&answer) {
        Some("approve" | "edit") => match answer.get("plan") {
            Some(changes) => Ok(changed(turn, fleet, &plan, changes)),
            None => Ok(plan),
        },
        Some(_) => Err(Failure::new("plan_rejected", format!("a person rejected the plan{}", reason(&answer)))),
        None => Err(Failure::new("plan_rejected", "the answer to the plan could not be read as a yes")),
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
        reasoning: plan.reasoning.clone(),
        ..Routing::default()
    };
    let (roster, task) = (&fleet.config.roster, &fleet.input.message);
    let (plan, repairs) = Plan::of(&routing, roster, task, None, &fleet.rules().default_agent);
    for Repair { warning, message } in repairs {
        fleet.warn(turn, warning, message, json!({ "phase": "plan_review" }));
    }
    turn.emit(&plan.thought(false));
    plan
}
