//! An agent's turn: its model is asked, the tools it wants are called, and again, until it answers.
//!
//! Bounded three ways: rounds of tool calls, calls of a round, and time, in which waiting for people does not count. Past
//! the rounds it is told so and answers with what it has.
//! Absent on purpose: a second try of an agent that failed. The mode decides what its failure means.

mod calls;
mod kit;
mod people;

use fleet_actors::event::{Audience, Failure};
use fleet_actors::journal::Context;
use fleet_actors::ports::{ChatMessage, FinishReason, ModelReply, ModelRequest, OutputForm, Role};
use fleet_actors::turn::{StepResult, Turn};
use serde_json::{Value, json};

use self::kit::Kit;
pub(super) use self::people::{approves_other, decision, expired, reason, word_schema};
use super::events::{AgentMoment, FleetEvent};
use super::fleet::{Budget, Draft, Fleet};
use crate::agents::Agent;
use crate::prompts::signatures::Handoff;

/// What an agent is to do.
pub(super) struct Job<'a> {
    pub agent: &'a Agent,
    pub context: Context,
    /// Who reads its text as it is written.
    pub audience: Audience,
    /// Whether it may use its tools.
    pub tools: bool,
    /// Whom it may pass control to.
    pub may_pass_to: Vec<&'a Agent>,
}

impl<'a> Job<'a> {
    pub fn new(fleet: &Fleet<'_>, agent: &'a Agent, audience: Audience, part: String) -> Self {
        Self { agent, context: fleet.context(agent, false, part), audience, tools: true, may_pass_to: Vec::new() }
    }
}

/// How an agent's turn ended.
pub(super) enum Outcome {
    Answered(Draft),
    /// To somebody else, with the names of files that were made before.
    Passed(Handoff, Vec<String>),
}

/// Lets an agent that may not pass control work, and gives its answer.
pub(super) async fn answer(turn: &mut Turn, fleet: &Fleet<'_>, job: Job<'_>) -> StepResult<Draft> {
    match work(turn, fleet, job).await? {
        Outcome::Answered(draft) => Ok(draft),
        Outcome::Passed(pass, _) => Err(Failure::new("internal", format!("control was passed to {}", pass.to_agent))),
    }
}

/// Lets an agent work, and tells of it.
pub(super) async fn work(turn: &mut Turn, fleet: &Fleet<'_>, job: Job<'_>) -> StepResult<Outcome> {
    let agent = job.agent;
    tell(turn, agent, AgentMoment::Start, "started", None);
    let result = turn.agent(&agent.name, async |turn| Box::pin(converse(turn, fleet, &job)).await).await;
    match &result {
        Ok(Outcome::Answered(draft)) => {
            let files = (!draft.artifacts.is_empty()).then(|| json!({ "artifacts": draft.artifacts }));
            tell(turn, agent, AgentMoment::Output, &draft.text, files);
            tell(turn, agent, AgentMoment::Complete, "completed", None);
        }
        Ok(Outcome::Passed(pass, _)) => {
            let data = json!({ "outcome": "handed_off", "to_agent": pass.to_agent });
            tell(turn, agent, AgentMoment::Complete, "handed off", Some(data));
        }
        Err(failure) => {
            let data = json!({ "outcome": "failed", "code": failure.code });
            tell(turn, agent, AgentMoment::Complete, &format!("failed: {}", failure.message), Some(data));
        }
    }
    result
}

fn tell(turn: &mut Turn, agent: &Agent, moment: AgentMoment, message: &str, data: Option<Value>) {
    let (agent_id, author) = (agent.name.clone(), agent.name.clone());
    turn.emit(&FleetEvent::Agent { moment, agent_id, author, message: message.to_owned(), data });
}

async fn converse(turn: &mut Turn, fleet: &Fleet<'_>, job: &Job<'_>) -> StepResult<Outcome> {
    let Job { agent, audience, .. } = job;
    let kit = Kit::of(fleet, job);
    let mut budget = Budget { left: agent.timeout() };
    let mut context = job.context.clone();
    for missing in kit.missing() {
        let data = json!({ "kind": "tool_unavailable", "tool": missing.tool, "degraded": missing.why });
        tell(
            turn,
            agent,
            AgentMoment::Message,
            &format!("works without {}: {}", missing.tool, missing.why),
            Some(data),
        );
        let note = format!(
            "The tool {} is not available ({}). Do without it and say so in the first line of your answer.",
            missing.tool, missing.why
        );
        context = context.with(ChatMessage::new(Role::System, note));
    }
    let mut artifacts = Vec::new();
    for _ in 0..fleet.rules().tool_rounds_max {
        let request = request(fleet, agent, *audience, context.clone(), &kit);
        let reply = budget.spend(turn, async |turn| turn.model("model", request.clone()).await).await;
        let reply = reply.map_err(|failure| late(agent, &budget, failure))?;
        if reply.tool_calls.is_empty() {
            return answered(agent, reply, artifacts).map(Outcome::Answered);
        }
        if let Some(pass) = kit.pass(&reply.tool_calls) {
            return Ok(Outcome::Passed(pass, artifacts));
        }
        context = context.with(wanted(&reply));
        let ends = calls::round(turn, fleet, agent, &kit, &reply.tool_calls, &mut budget).await?;
        for (call, end) in reply.tool_calls.iter().zip(ends) {
            artifacts.extend(end.artifacts.iter().map(|artifact| artifact.name.clone()));
            let answer = ChatMessage { tool_call_id: Some(call.id.clone()), ..ChatMessage::new(Role::Tool, end.text) };
            context = context.with(answer);
        }
    }
    let rounds = fleet.rules().tool_rounds_max;
    let note =
        format!("limit_reached: you have used all {rounds} rounds of tool calls. Answer now with what you have.");
    context = context.with(ChatMessage::new(Role::System, note));
    let request = request(fleet, agent, *audience, context, &Kit::empty());
    let reply = budget.spend(turn, async |turn| turn.model("model", request.clone()).await).await;
    answered(agent, reply.map_err(|failure| late(agent, &budget, failure))?, artifacts).map(Outcome::Answered)
}

fn request(fleet: &Fleet<'_>, agent: &Agent, audience: Audience, context: Context, kit: &Kit<'_>) -> ModelRequest {
    ModelRequest {
        model: agent.model.as_str().into(),
        agent: Some(agent.name.as_str().into()),
        audience,
        context,
        tools: kit.specs(),
        output: OutputForm::Text,
        temperature: agent.temperature,
        max_output_tokens: fleet.config.output_tokens_max,
    }
}

/// What the model said when it asked for tools, as its next call sees it.
fn wanted(reply: &ModelReply) -> ChatMessage {
    let mut message = ChatMessage::new(Role::Assistant, reply.text.clone());
    message.tool_calls.clone_from(&reply.tool_calls);
    message
}

fn answered(agent: &Agent, reply: ModelReply, artifacts: Vec<String>) -> StepResult<Draft> {
    let ModelReply { text, finish_reason, model, simulated, .. } = reply;
    if text.trim().is_empty() && !finish_reason.truncates() {
        return Err(Failure::new("no_agent_answered", format!("{} gave an empty answer", agent.name)));
    }
    // Tools that were asked for when there were none left to ask for change nothing about the text.
    let finish_reason = if finish_reason == FinishReason::ToolCalls { FinishReason::Stop } else { finish_reason };
    Ok(Draft { text, agent: agent.name.clone(), finish_reason, model, simulated, artifacts })
}

/// A deadline, said with the agent's name: the agent's own, or that of the call, which may end before it.
fn late(agent: &Agent, budget: &Budget, failure: Failure) -> Failure {
    match &*failure.code {
        "step_timeout" if budget.left.is_zero() => {
            Failure::new("step_timeout", format!("{} took longer than {} ms", agent.name, agent.timeout_ms))
        }
        "step_timeout" => {
            Failure::new("step_timeout", format!("{} got no whole answer: {}", agent.name, failure.message))
        }
        _ => failure,
    }
}
