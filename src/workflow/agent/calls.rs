//! The tool calls of one round: each is judged by the rule of its offer, approved where the rule says so, made, and told of.
//!
//! Whatever goes wrong with a call is a text that its model reads; only a person's silence may end the agent's turn.

use std::time::Duration;

use fleet_actors::event::Failure;
use fleet_actors::meter;
use fleet_actors::ports::{Access, Approval, Artifact, EffectPolicy, ToolCall, ToolOffer, ToolOutput, ToolRequest};
use fleet_actors::turn::{StepResult, ToolAsk, Turn};
use serde_json::{Value, json};

use super::kit::Kit;
use super::people::{self, Word};
use crate::agents::Agent;
use crate::workflow::events::{AgentMoment, FleetEvent};
use crate::workflow::fleet::{Budget, Fleet, clip};
use crate::{arguments, security};

/// Characters of the arguments that an event shows.
const PREVIEW_CHARS: usize = 200;
/// Characters of a result that a model is shown.
const RESULT_CHARS: usize = 24_000;

/// Characters of a tool's name that is shown; a name that exists has at most 64.
const NAME_CHARS: usize = 100;
/// Bytes of the arguments that a person is asked about.
const ASKED_BYTES_MAX: usize = 1_048_576;

/// What became of a call.
pub(super) struct CallEnd {
    /// What the model is told.
    pub text: String,
    pub artifacts: Vec<Artifact>,
    outcome: &'static str,
    degraded: Option<String>,
    /// What it was called with, if a person changed that.
    changed: Option<Value>,
    /// The work of it, without waiting for people.
    took: Duration,
}

impl CallEnd {
    fn refused(outcome: &'static str, text: impl Into<String>) -> Self {
        Self { text: text.into(), artifacts: Vec::new(), outcome, degraded: None, changed: None, took: Duration::ZERO }
    }
}

/// Makes the calls at the same time; one end for each, in their order.
pub(super) async fn round(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    agent: &Agent,
    kit: &Kit<'_>,
    calls: &[ToolRequest],
    budget: &mut Budget,
) -> StepResult<Vec<CallEnd>> {
    let most = fleet.rules().tool_calls_per_round_max;
    let made: Vec<ToolRequest> = calls.iter().take(most).cloned().collect();
    let left = budget.left;
    let ends = turn
        .parallel("calls", most, made, async |turn, call| Box::pin(one(turn, fleet, agent, kit, &call, left)).await)
        .await;
    let mut ends = ends.into_iter().collect::<StepResult<Vec<_>>>()?;
    let took = ends.iter().map(|end| end.took).max().unwrap_or_default();
    budget.left = budget.left.saturating_sub(took);
    let text = format!("limit_reached: only the first {most} tool calls of a round are made; this one was left out");
    ends.resize_with(calls.len(), || CallEnd::refused("left_out", text.clone()));
    Ok(ends)
}

async fn one(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    agent: &Agent,
    kit: &Kit<'_>,
    call: &ToolRequest,
    left: Duration,
) -> StepResult<CallEnd> {
    let end = judged(turn, fleet, agent, kit, call, left).await?;
    let tool = clip(&call.name, NAME_CHARS);
    let mut data = json!({
        "kind": "tool_call",
        "tool": tool,
        "arguments_preview": clip(&end.changed.as_ref().unwrap_or(&call.arguments).to_string(), PREVIEW_CHARS),
        "duration_ms": u64::try_from(end.took.as_millis()).unwrap_or(u64::MAX),
        "outcome": end.outcome,
    });
    if let Some(degraded) = &end.degraded {
        data["degraded"] = degraded.as_str().into();
    }
    if !end.artifacts.is_empty() {
        data["artifacts"] = json!(end.artifacts);
    }
    turn.emit(&FleetEvent::Agent {
        moment: AgentMoment::Message,
        agent_id: agent.name.clone(),
        author: agent.name.clone(),
        message: format!("{tool}: {}", end.outcome),
        data: Some(data),
    });
    Ok(end)
}

async fn judged(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    agent: &Agent,
    kit: &Kit<'_>,
    call: &ToolRequest,
    left: Duration,
) -> StepResult<CallEnd> {
    let ToolRequest { name, arguments, .. } = call;
    let attempted = |turn: &mut Turn, event: &'static str, reason: &str| {
        let workflow = turn.workflow().clone();
        turn.note("refused", || security::refused(event, &workflow, &fleet.input.principal, name, reason));
    };
    if !arguments.is_object() {
        return Ok(CallEnd::refused("invalid", "the arguments are no JSON object; call it again with one"));
    }
    if kit.asks_user(name) {
        let text = people::ask_user(turn, fleet, agent, arguments).await?;
        return Ok(CallEnd::refused("ok", text));
    }
    if let Some(Err(misfit)) = kit.handoff(call) {
        let text = format!("handoff_invalid: the work was not passed on: {misfit}; call it again or go on yourself");
        return Ok(CallEnd::refused("invalid", text));
    }
    let Some(offer) = kit.offer(name) else {
        attempted(turn, "tool_unknown", "the agent has no such tool");
        let shown = clip(name, NAME_CHARS);
        let text = format!("tool_unknown: there is no tool `{shown}` for you; there is: {}", kit.names());
        return Ok(CallEnd::refused("unknown", text));
    };
    // Also of one that could not be made: that somebody tried is told.
    if offer.access == Access::Deny {
        attempted(turn, "tool_denied", "the rules do not allow it");
        turn.refused(call, &agent.name, meter::CallEnd::Denied);
        let text = format!("tool_denied: `{name}` may not be used here; go on without it");
        return Ok(CallEnd::refused("denied", text));
    }
    if let Some(why) = &offer.unavailable {
        return Ok(CallEnd::refused("unavailable", format!("tool_unavailable: `{name}` cannot be used: {why}")));
    }
    if offer.access == Access::Allow {
        return Ok(made(turn, fleet, agent, offer, call, None, left).await);
    }
    // Nobody is asked about a call that could not be made, nor shown more than a person can read.
    let validator = arguments::validator(&offer.spec.parameters);
    if let Err(misfit) = arguments::check(name, validator.as_ref(), arguments, ASKED_BYTES_MAX) {
        attempted(turn, "tool_arguments_invalid", "arguments do not fit");
        return Ok(CallEnd::refused("failed", format!("{}: {}", misfit.code, misfit.message)));
    }
    match people::approve(turn, fleet, agent, offer, call).await? {
        Word::Refused { outcome, text } => Ok(CallEnd::refused(outcome, text)),
        Word::Approved { request_id, arguments: approved } => {
            let arguments_digest = ToolCall::arguments_digest(name, &approved);
            let approval = Approval { request_id, arguments_digest };
            let approved = ToolRequest { arguments: approved, ..call.clone() };
            let mut end = made(turn, fleet, agent, offer, &approved, Some(approval), left).await;
            if approved.arguments != call.arguments {
                end.text = format!("(a person changed the arguments to {})\n{}", approved.arguments, end.text);
                end.changed = Some(approved.arguments);
            }
            Ok(end)
        }
    }
}

/// Makes the call, or finds what an equal one gave a moment ago.
async fn made(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    agent: &Agent,
    offer: &ToolOffer,
    call: &ToolRequest,
    approval: Option<Approval>,
    left: Duration,
) -> CallEnd {
    let (tool, arguments) = (&offer.spec.name, &call.arguments);
    let serves = agent.cache_ttl_s.filter(|_| offer.effect == EffectPolicy::SafeToRepeat && approval.is_none());
    let key = format!(
        "tool/{}/{}/{}",
        fleet.input.principal,
        offer.schema_digest,
        ToolCall::arguments_digest(tool, arguments)
    );
    if serves.is_some()
        && let Some(output) = turn.cached(&key).and_then(|output| serde_json::from_value(output).ok())
    {
        return end_of(output, "cached", Duration::ZERO);
    }
    let ask = ToolAsk {
        agent: Some(agent.name.as_str().into()),
        schema_digest: offer.schema_digest.clone(),
        approval,
        call_id: Some(call.id.as_str().into()),
        ..ToolAsk::new(tool.as_str(), arguments.clone())
    };
    let began = turn.lived();
    let result = turn.timeout("deadline", left, async |turn| turn.tool("tool", ask.clone()).await).await;
    let took = turn.lived().since(began);
    match result {
        Ok(output) => {
            let ttl = serves.filter(|_| output.degraded.is_none() && output.artifacts.is_empty());
            if let Some((ttl, value)) = ttl.zip(serde_json::to_value(&output).ok()) {
                turn.cache(&key, &value, Duration::from_secs(ttl));
            }
            end_of(output, "ok", took)
        }
        Err(Failure { code, message, .. }) => {
            let outcome = match &*code {
                "tool_denied" => "denied",
                "tool_unknown" => "unknown",
                "step_timeout" => "timed_out",
                _ => "failed",
            };
            CallEnd { took, ..CallEnd::refused(outcome, format!("{code}: {message}")) }
        }
    }
}

fn end_of(output: ToolOutput, outcome: &'static str, took: Duration) -> CallEnd {
    let ToolOutput { text, artifacts, degraded, .. } = output;
    let outcome = if degraded.is_some() { "degraded" } else { outcome };
    let mut text = clip(&text, RESULT_CHARS);
    if let Some(why) = &degraded {
        text.push_str(&format!("\n(less than was asked for: {why}; say so in your answer)"));
    }
    for Artifact { name, url, .. } in &artifacts {
        text.push_str(&format!("\n(file {name}: {url})"));
    }
    CallEnd { text, artifacts, outcome, degraded, changed: None, took }
}
