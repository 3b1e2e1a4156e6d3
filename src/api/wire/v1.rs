//! Version 1: what existing clients know.
//!
//! They know no steps. Of a step whose attempt was voided after they saw text of it they get no further pieces, because
//! they could not tell which text the pieces follow; `response.completed` carries the whole text.

use std::collections::BTreeSet;
use std::sync::Arc;

use fleet_actors::event::{Audience, Channel, EventBody, Failure, LogEvent, Question};
use fleet_actors::ids::WorkflowId;
use serde_json::{Value, json};

use super::{Deltas, WireEvent};
use crate::workflow::events::{AgentMoment, FleetEvent, RunStatus};

/// Renders one run for one stream.
#[derive(Debug)]
pub struct Renderer {
    workflow: WorkflowId,
    deltas: Deltas,
    /// Steps that the client saw text of.
    shown: BTreeSet<Arc<str>>,
    /// Those of them that were voided.
    withheld: BTreeSet<Arc<str>>,
    /// Reasoning of a step that has no result yet; an error shows it.
    reasoning: String,
}

impl Renderer {
    pub(super) fn new(workflow: WorkflowId, deltas: Deltas) -> Self {
        let (shown, withheld) = (BTreeSet::new(), BTreeSet::new());
        Self { workflow, deltas, shown, withheld, reasoning: String::new() }
    }

    /// What the client is shown of an event, if anything.
    pub fn render(&mut self, event: &LogEvent) -> Option<WireEvent> {
        let mut wire = WireEvent::new("", event.at).of_workflow(&self.workflow);
        match &event.body {
            EventBody::Delta { step, channel, text, audience: Audience::User, agent, .. } => {
                if *channel == Channel::Reasoning {
                    self.reasoning.push_str(text);
                }
                if self.deltas == Deltas::Hidden || self.withheld.contains(step) {
                    return None;
                }
                self.shown.insert(step.clone());
                delta(&mut wire, *channel, text, agent.as_ref());
            }
            EventBody::StepCompleted { audience: Audience::User, reasoning, agent, step, .. } => {
                self.forget(step);
                let reasoning = reasoning.as_ref().filter(|reasoning| !reasoning.is_empty())?;
                wire.r#type = "reasoning.completed";
                wire.reasoning = Some(reasoning.clone());
                wire.agent_id = agent.as_ref().map(|agent| agent.to_string().into());
            }
            EventBody::StepVoided { step, .. } => {
                self.reasoning.clear();
                if self.shown.contains(step) {
                    self.withheld.insert(step.clone());
                }
                return None;
            }
            EventBody::Emitted { body, .. } => emitted(&mut wire, body)?,
            EventBody::Asked { question, .. } => asked(&mut wire, question),
            EventBody::Cancelled { reason } => cancelled(&mut wire, reason),
            EventBody::Error { error } => {
                failed(&mut wire, error);
                wire.reasoning_partial = Some(std::mem::take(&mut self.reasoning)).filter(|text| !text.is_empty());
            }
            EventBody::Finished { .. } => wire.r#type = "done",
            EventBody::Delta { audience: Audience::Workflow, .. }
            | EventBody::StepCompleted { audience: Audience::Workflow, .. }
            | EventBody::StepStarted { .. }
            | EventBody::StepFailed { .. }
            | EventBody::Answered { .. } => return None,
        }
        Some(wire)
    }

    fn forget(&mut self, step: &Arc<str>) {
        self.reasoning.clear();
        self.shown.remove(step);
        self.withheld.remove(step);
    }
}

pub(super) fn delta(wire: &mut WireEvent, channel: Channel, text: &Arc<str>, agent: Option<&Arc<str>>) {
    wire.agent_id = agent.map(|agent| agent.to_string().into());
    match channel {
        Channel::Text => {
            wire.r#type = "response.delta";
            wire.delta = Some(text.clone());
            wire.author = agent.map(|agent| agent.to_string());
        }
        Channel::Reasoning => {
            wire.r#type = "reasoning.delta";
            wire.reasoning = Some(text.clone());
        }
    }
}

pub(super) fn asked(wire: &mut WireEvent, question: &Question) {
    let Question { request_id, request_type, request, .. } = question;
    wire.r#type = "orchestrator.message";
    wire.kind = Some("request".into());
    wire.message = Some(format!("an answer is needed: {request_type}").into());
    wire.data = Some(json!({ "request_id": request_id, "request_type": request_type, "request": request }));
}

pub(super) fn cancelled(wire: &mut WireEvent, reason: &str) {
    wire.r#type = "cancelled";
    wire.message = Some(format!("the run was stopped: {reason}").into());
}

pub(super) fn failed(wire: &mut WireEvent, error: &Failure) {
    wire.r#type = "error";
    wire.error = Some(error.message.clone());
    let mut data = json!({ "code": error.code });
    if let Some(ms) = error.retry_after_ms {
        data["retry_after"] = ms.div_ceil(1_000).into();
    }
    wire.data = Some(data);
}

/// What the workflow published. An event that a later version of the workflow knows and this renderer does not is not
/// shown.
pub(super) fn emitted(wire: &mut WireEvent, body: &str) -> Option<()> {
    match serde_json::from_str(body).ok()? {
        FleetEvent::Status { status } => {
            wire.r#type = "workflow.status";
            wire.status = Some(status_name(status));
        }
        FleetEvent::Message { message, kind, data } => {
            wire.r#type = "orchestrator.message";
            wire.message = Some(message.into());
            wire.kind = kind.map(Into::into);
            wire.data = data;
        }
        FleetEvent::Thought { message, kind, data } => {
            wire.r#type = "orchestrator.thought";
            wire.message = Some(message.into());
            wire.kind = Some(kind.into());
            wire.agent_id = Some("orchestrator".into());
            wire.data = Some(data);
        }
        FleetEvent::Agent { moment, agent_id, author, message, data } => {
            wire.r#type = moment_type(moment);
            wire.agent_id = Some(agent_id.into());
            wire.author = Some(author);
            wire.role = Some("assistant");
            wire.message = Some(message.into());
            wire.data = data;
        }
        FleetEvent::Answer {
            message,
            author,
            agent_id,
            finish_reason,
            quality_pending,
            quality_score,
            quality_flag,
            spent,
        } => {
            wire.r#type = "response.completed";
            wire.message = Some(message.into());
            wire.author = author;
            wire.agent_id = agent_id.map(Into::into);
            (wire.quality_score, wire.quality_flag) = (quality_score, quality_flag);
            let mut data = serde_json::Map::new();
            if let Some(spent) = spent {
                data.insert("spent".to_owned(), spent);
            }
            if quality_pending {
                data.insert("quality_pending".to_owned(), true.into());
            }
            if finish_reason.truncates() {
                data.insert("finish_reason".to_owned(), json!(finish_reason));
                data.insert("truncated".to_owned(), true.into());
            }
            wire.data = (!data.is_empty()).then_some(Value::Object(data));
        }
    }
    Some(())
}

fn status_name(status: RunStatus) -> &'static str {
    match status {
        RunStatus::InProgress => "in_progress",
        RunStatus::Completed => "completed",
        RunStatus::Failed => "failed",
    }
}

fn moment_type(moment: AgentMoment) -> &'static str {
    match moment {
        AgentMoment::Start => "agent.start",
        AgentMoment::Message => "agent.message",
        AgentMoment::Output => "agent.output",
        AgentMoment::Complete => "agent.complete",
    }
}
