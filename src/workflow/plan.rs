//! A plan: what a routing comes to.
//!
//! What a model, or a person, proposes becomes something that can be carried out: agents that exist, one part for each, a
//! mode that fits how many there are, tools that they have. Every repair is told.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::events::FleetEvent;
use super::fleet::{Fleet, clip};
use crate::agents::{Agent, Roster};
use crate::prompts::signatures::{ExecutionMode, Level, Routing, Subtask};

/// Agents that do not exist, as a warning names them.
const UNKNOWN_SHOWN: usize = 5;
/// Characters of such a name.
const NAME_CHARS: usize = 60;
/// Characters of what a routing says about tools, and about handing on.
const ADVICE_CHARS: usize = 500;

/// Who does a task, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub mode: ExecutionMode,
    /// Agents that exist, at least one, in the order they act, each with its part.
    pub parts: Vec<Subtask>,
    pub reasoning: String,
    /// Tools in the order of their use, each one that somebody who works may call.
    #[serde(default)]
    pub tool_plan: Vec<String>,
    /// What they are to bring.
    #[serde(default)]
    pub tool_goals: String,
    /// What is handed from agent to agent, and when.
    #[serde(default)]
    pub handoff_strategy: String,
    /// How long the user will gladly wait.
    #[serde(default)]
    pub latency_budget: Level,
}

/// What a plan says to one who works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Advice {
    /// How to go about its part; empty when there is nothing to say.
    pub lines: String,
    /// Whether the user is waiting.
    pub hurried: bool,
}

/// Something about a routing that could not stay as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repair {
    pub warning: &'static str,
    pub message: String,
}

#[derive(Default)]
struct Repairs(Vec<Repair>);

impl Repairs {
    fn add(&mut self, warning: &'static str, message: String) {
        self.0.push(Repair { warning, message });
    }
}

impl Plan {
    /// One agent with the whole task.
    pub fn alone(agent: &str, task: &str) -> Self {
        let parts = vec![Subtask { agent: agent.to_owned(), task: task.to_owned() }];
        Self { parts, ..Self::default() }
    }

    pub fn agents(&self) -> Vec<&str> {
        self.parts.iter().map(|part| part.agent.as_str()).collect()
    }

    /// What a routing comes to in this fleet.
    pub fn of(routing: &Routing, fleet: &Fleet<'_>, demanded: Option<ExecutionMode>) -> (Self, Vec<Repair>) {
        let mut repairs = Repairs::default();
        let agents = existing(routing, fleet, &mut repairs);
        let (mode, agents) = fitting(demanded.unwrap_or(routing.execution_mode), agents, fleet, &mut repairs);
        let (parts, missing) = parts(&agents, &routing.subtasks, &fleet.config.roster, &fleet.input.message);
        if mode == ExecutionMode::Parallel && !missing.is_empty() {
            repairs.add("subtasks_repaired", format!("routing had no subtask for {}", missing.join(", ")));
        }
        let tools = at_hand(fleet, mode, &agents);
        let required = routing.tool_requirements.iter().map(String::as_str);
        let out_of_reach: BTreeSet<&str> = required.filter(|tool| !tools.contains(tool)).collect();
        if !out_of_reach.is_empty() {
            repairs.add("tool_out_of_reach", format!("nobody who works can use {}", some_of(&out_of_reach)));
        }
        let mut planned = BTreeSet::new();
        let tool_plan = routing.tool_plan.iter().filter(|tool| tools.contains(tool.as_str()) && planned.insert(*tool));
        let tool_plan: Vec<String> = tool_plan.cloned().collect();
        let said = |text: &str, applies: bool| if applies { clip(text.trim(), ADVICE_CHARS) } else { String::new() };
        let plan = Self {
            tool_goals: said(&routing.tool_goals, !tool_plan.is_empty()),
            handoff_strategy: said(&routing.handoff_strategy, parts.len() > 1 || mode == ExecutionMode::Handoff),
            mode,
            parts,
            reasoning: routing.reasoning.clone(),
            tool_plan,
            latency_budget: routing.latency_budget,
        };
        (plan, repairs.0)
    }

    /// What the plan says about how an agent is to go about its part.
    pub fn advice(&self, fleet: &Fleet<'_>, agent: &Agent) -> Advice {
        let own: Vec<&str> = fleet.usable_by(agent).map(|offer| offer.spec.name.as_str()).collect();
        let tools: Vec<&str> = self.tool_plan.iter().map(String::as_str).filter(|tool| own.contains(tool)).collect();
        let mut lines = Vec::new();
        if !tools.is_empty() {
            lines.push(format!("Tools to use, in this order: {}.", tools.join(", ")));
            if !self.tool_goals.is_empty() {
                lines.push(format!("What the tools are to bring: {}", self.tool_goals));
            }
        }
        if !self.handoff_strategy.is_empty() {
            lines.push(format!("How the work is handed on: {}", self.handoff_strategy));
        }
        Advice { lines: lines.join("\n"), hurried: self.latency_budget == Level::Low }
    }

    pub fn thought(&self, cached: bool) -> FleetEvent {
        let mut data = json!({
            "mode": self.mode,
            "assigned_to": self.agents(),
            "subtasks": self.parts,
            "reasoning": self.reasoning,
        });
        if !self.tool_plan.is_empty() {
            (data["tool_plan"], data["tool_goals"]) = (json!(self.tool_plan), self.tool_goals.as_str().into());
        }
        if !self.handoff_strategy.is_empty() {
            data["handoff_strategy"] = self.handoff_strategy.as_str().into();
        }
        if self.latency_budget != Level::Medium {
            data["latency_budget"] = json!(self.latency_budget);
        }
        if cached {
            data["cached"] = true.into();
        }
        let mode = data["mode"].as_str().unwrap_or_default();
        let message = format!("{} ({mode})", self.agents().join(", "));
        FleetEvent::Thought { message, kind: "routing".to_owned(), data }
    }
}

/// The agents that were named and exist, each once; the default agent, if there are none.
fn existing<'a>(routing: &Routing, fleet: &Fleet<'a>, repairs: &mut Repairs) -> Vec<&'a str> {
    let mut agents: Vec<&str> = Vec::new();
    let mut unknown = BTreeSet::new();
    for name in &routing.assigned_to {
        match fleet.config.roster.meant(name) {
            Some(agent) if agents.contains(&agent.name.as_str()) => {}
            Some(agent) => agents.push(&agent.name),
            None => drop(unknown.insert(name.as_str())),
        }
    }
    if !unknown.is_empty() {
        repairs.add("unknown_agent", format!("routing named who does not exist: {}", some_of(&unknown)));
    }
    if agents.is_empty() {
        let default = fleet.rules().default_agent.as_str();
        repairs.add("empty_assignment", format!("routing named nobody, so {default} does it"));
        agents.push(default);
    }
    agents
}

/// A mode for so many agents, or so many agents for the mode.
fn fitting<'a>(
    mode: ExecutionMode,
    mut agents: Vec<&'a str>,
    fleet: &Fleet<'a>,
    repairs: &mut Repairs,
) -> (ExecutionMode, Vec<&'a str>) {
    let first = agents[0];
    match mode {
        ExecutionMode::Parallel if agents.len() == 1 => {
            repairs.add("one_agent_in_parallel", format!("{first} works alone, so the task is delegated"));
            return (ExecutionMode::Delegated, agents);
        }
        ExecutionMode::Sequential if agents.len() == 1 => {
            repairs.add("one_agent_in_sequence", format!("nobody follows {first}, so the task is delegated"));
            return (ExecutionMode::Delegated, agents);
        }
        ExecutionMode::Discussion if agents.len() == 1 => {
            let all = fleet.config.roster.iter().map(|agent| agent.name.as_str());
            let other = std::iter::once(fleet.rules().default_agent.as_str()).chain(all).find(|name| *name != first);
            let Some(other) = other else {
                repairs.add("one_agent_in_discussion", format!("{first} is all there is, so the task is delegated"));
                return (ExecutionMode::Delegated, agents);
            };
            repairs.add("one_agent_in_discussion", format!("{other} joins, nobody discusses alone"));
            agents.push(other);
        }
        ExecutionMode::Delegated if agents.len() > 1 => {
            let rest = agents.split_off(1).join(", ");
            repairs.add("one_agent_in_delegated", format!("{first} does it alone, without {rest}"));
        }
        ExecutionMode::Delegated
        | ExecutionMode::Sequential
        | ExecutionMode::Parallel
        | ExecutionMode::Handoff
        | ExecutionMode::Discussion => {}
    }
    (mode, agents)
}

/// The tools that those who work may call; of a handoff that names one agent, everybody may come to work.
fn at_hand<'a>(fleet: &'a Fleet<'_>, mode: ExecutionMode, agents: &[&str]) -> BTreeSet<&'a str> {
    let everybody = mode == ExecutionMode::Handoff && agents.len() == 1;
    let works = |agent: &&Agent| everybody || agents.contains(&agent.name.as_str());
    let workers = fleet.config.roster.iter().filter(works);
    workers.flat_map(|agent| fleet.usable_by(agent)).map(|offer| offer.spec.name.as_str()).collect()
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
