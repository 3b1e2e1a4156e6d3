//! Version 2: every event carries its number, and steps are events of their own.
//!
//! One log event is at most one wire event, so that a client that resumes after a number misses nothing: a step's
//! reasoning stands in `step.completed`. Text that only the workflow reads is not streamed; its step's end carries it.
//!
//! Absent on purpose: state. A stream may begin anywhere in the log and shows the same events from there on.

use std::sync::Arc;

use fleet_actors::event::{Answer, Audience, EventBody, Failure, LogEvent, Usage};
use fleet_actors::ids::{Timestamp, WorkflowId};
use serde_json::json;

use super::{Deltas, StepInfo, WireEvent, v1};

/// Renders one run for one stream.
#[derive(Debug)]
pub struct Renderer {
    workflow: WorkflowId,
    deltas: Deltas,
}

impl Renderer {
    pub(super) fn new(workflow: WorkflowId, deltas: Deltas) -> Self {
        Self { workflow, deltas }
    }

    /// What the client is shown of an event, if anything.
    #[must_use]
    pub fn render(&self, event: &LogEvent) -> Option<WireEvent> {
        let mut wire = WireEvent::new("", event.at).of_workflow(&self.workflow);
        wire.seq = Some(event.seq.0);
        match &event.body {
            EventBody::Delta { step, attempt, channel, offset, text, audience, agent } => {
                if self.deltas == Deltas::Hidden || *audience == Audience::Workflow {
                    return None;
                }
                v1::delta(&mut wire, *channel, text, agent.as_ref());
                belongs(&mut wire, step, Some(*attempt), StepInfo { agent: agent.clone(), ..StepInfo::of(step, None) });
                wire.offset = Some(*offset);
            }
            EventBody::Emitted { scope, body } => {
                v1::emitted(&mut wire, body)?;
                wire.step = Some(scope.clone()).filter(|scope| !scope.is_empty());
            }
            EventBody::Asked { step, question } => {
                v1::asked(&mut wire, question);
                belongs(&mut wire, step, None, StepInfo::of(step, None));
                if let Some(data) = &mut wire.data {
                    data["expires_at"] = question.expires_at.to_string().into();
                    if let Some(schema) = &question.answer_schema {
                        data["answer_schema"] = schema.clone();
                    }
                }
            }
            EventBody::Answered { step, request_id, answer } => {
                wire.r#type = "request.closed";
                belongs(&mut wire, step, None, StepInfo::of(step, None));
                let outcome = match answer {
                    Answer::Given(_) => "answered",
                    Answer::Expired => "expired",
                };
                wire.data = Some(json!({ "request_id": request_id, "outcome": outcome }));
            }
            EventBody::Cancelled { reason } => {
                v1::cancelled(&mut wire, reason);
                wire.reason = Some(reason.clone());
            }
            EventBody::Error { error } => v1::failed(&mut wire, error),
            EventBody::Finished { outcome } => {
                wire.r#type = "done";
                wire.status = Some(outcome.as_str());
            }
            EventBody::StepStarted { .. }
            | EventBody::StepCompleted { .. }
            | EventBody::StepFailed { .. }
            | EventBody::StepVoided { .. } => step_event(&mut wire, event.at, &event.body),
        }
        Some(wire)
    }
}

fn step_event(wire: &mut WireEvent, at: Timestamp, body: &EventBody) {
    match body {
        EventBody::StepStarted { step, attempt, kind, agent, .. } => {
            wire.r#type = "step.started";
            let started_at = Some(at.to_string());
            let info = StepInfo { agent: agent.clone(), started_at, ..StepInfo::of(step, Some(*kind)) };
            belongs(wire, step, Some(*attempt), info);
        }
        EventBody::StepCompleted { step, attempt, kind, agent, text, reasoning, usage, started_at, .. } => {
            wire.r#type = "step.completed";
            let info = StepInfo { agent: agent.clone(), ..StepInfo::of(step, Some(*kind)) };
            ended(wire, step, *attempt, info, *started_at, at);
            wire.text.clone_from(text);
            wire.reasoning = reasoning.clone().filter(|reasoning| !reasoning.is_empty());
            wire.usage = usage.map(|usage| Usage { cost_nanousd: None, ..usage });
            wire.cost = usage.and_then(|usage| usage.cost_usd());
        }
        EventBody::StepFailed { step, attempt, kind, error, started_at, .. } => {
            wire.r#type = "step.failed";
            let Failure { message, code, .. } = error;
            wire.error = Some(message.clone());
            wire.data = Some(json!({ "code": code }));
            ended(wire, step, *attempt, StepInfo::of(step, Some(*kind)), *started_at, at);
        }
        EventBody::StepVoided { step, attempt, reason } => {
            wire.r#type = "step.voided";
            wire.reason = Some(reason.clone());
            belongs(wire, step, Some(*attempt), StepInfo::of(step, None));
        }
        EventBody::Delta { .. }
        | EventBody::Emitted { .. }
        | EventBody::Asked { .. }
        | EventBody::Answered { .. }
        | EventBody::Cancelled { .. }
        | EventBody::Error { .. }
        | EventBody::Finished { .. } => {}
    }
}

fn ended(wire: &mut WireEvent, step: &Arc<str>, attempt: u32, info: StepInfo, started_at: Timestamp, at: Timestamp) {
    wire.duration_ms = Some(u64::try_from(at.since(started_at).as_millis()).unwrap_or(u64::MAX));
    let (started_at, ended_at) = (Some(started_at.to_string()), Some(at.to_string()));
    belongs(wire, step, Some(attempt), StepInfo { started_at, ended_at, ..info });
}

fn belongs(wire: &mut WireEvent, step: &Arc<str>, attempt: Option<u32>, info: StepInfo) {
    wire.step = Some(step.clone());
    wire.attempt = attempt;
    wire.step_info = Some(info);
}
