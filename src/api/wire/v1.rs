//! Version 1: what existing AgenticFleet clients speak.
//!
//! A [`Renderer`] belongs to one socket. Steps are not shown; a step that was voided streams no more, because these
//! clients know no void, and the completed response carries the whole text.

use std::collections::BTreeSet;
use std::sync::Arc;

use fleet_actors::event::{Audience, Channel, EventBody, LogEvent};
use fleet_actors::ids::Timestamp;
use fleet_actors::ports::ReasoningEffort;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api::error::ApiError;
use crate::settings::Settings;
use crate::workflow::events::{AgentMoment, FleetEvent, RunStatus};

/// A client's first frame.
#[derive(Clone, Debug)]
pub enum FirstFrame {
    /// A new run.
    Start(StartFrame),
    /// Going on from a checkpoint.
    Resume(ResumeFrame),
}

/// `{"message": "...", ...}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartFrame {
    /// What the user says.
    pub message: String,
    /// The conversation; a new one is made without it.
    pub conversation_id: Option<String>,
    /// Whether deltas are wanted; default yes.
    pub stream: Option<bool>,
    /// The effort, for this session alone.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Whether positions are listed as checkpoints.
    pub enable_checkpointing: Option<bool>,
    /// Ignored with a warning beside a message; turns checkpointing on.
    pub checkpoint_id: Option<String>,
}

/// `{"type": "workflow.resume", ...}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeFrame {
    #[serde(rename = "type")]
    _kind: String,
    /// Where to go on.
    pub checkpoint_id: String,
    /// Must be the run's own.
    pub conversation_id: Option<String>,
    /// Whether deltas are wanted; default yes.
    pub stream: Option<bool>,
    /// The effort from here on.
    pub reasoning_effort: Option<ReasoningEffort>,
}

/// A later frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Stop the run.
    Cancel,
    /// The answer to a question.
    Respond {
        /// Which question.
        request_id: String,
        /// What was answered.
        response: Value,
    },
}

fn object(text: &str) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ApiError::invalid("frame", "must be a JSON object")),
        Err(error) => Err(ApiError::invalid("frame", format!("is not JSON: {error}"))),
    }
}

/// The field that serde's message names between backticks, if any.
fn field_of(message: &str) -> String {
    message.split('`').nth(1).unwrap_or("frame").to_owned()
}

fn typed<T: serde::de::DeserializeOwned>(object: Map<String, Value>) -> Result<T, ApiError> {
    for (field, value) in &object {
        let wrong = match field.as_str() {
            "message" | "conversation_id" | "checkpoint_id" | "reasoning_effort" => {
                !value.is_string() && !value.is_null()
            }
            "stream" | "enable_checkpointing" => !value.is_boolean() && !value.is_null(),
            _ => false,
        };
        if wrong {
            return Err(ApiError::invalid(field.clone(), "has the wrong type"));
        }
    }
    if let Some(Value::String(effort)) = object.get("reasoning_effort")
        && !["minimal", "medium", "maximal"].contains(&effort.as_str())
    {
        return Err(ApiError::invalid("reasoning_effort", "must be minimal, medium or maximal"));
    }
    serde_json::from_value(Value::Object(object)).map_err(|error| {
        let message = error.to_string();
        ApiError::invalid(field_of(&message), message)
    })
}

/// Reads a client's first frame.
///
/// # Errors
/// 422 that names the field.
pub fn first_frame(text: &str) -> Result<FirstFrame, ApiError> {
    let object = object(text)?;
    match object.get("type").map(|kind| kind.as_str().unwrap_or_default().to_owned()) {
        None => Ok(FirstFrame::Start(typed(object)?)),
        Some(kind) if kind == "workflow.resume" => {
            if object.contains_key("message") {
                return Err(ApiError::invalid("message", "is not allowed beside workflow.resume"));
            }
            Ok(FirstFrame::Resume(typed(object)?))
        }
        Some(kind) => Err(ApiError::invalid("type", format!("`{kind}` cannot be the first frame"))),
    }
}

/// Reads a later frame.
///
/// # Errors
/// 422 that names the field.
pub fn later_frame(text: &str) -> Result<Frame, ApiError> {
    let mut object = object(text)?;
    match object.get("type").and_then(Value::as_str) {
        Some("cancel") => Ok(Frame::Cancel),
        Some("workflow.response" | "workflow_response" | "response") => {
            let Some(Value::String(request_id)) = object.remove("request_id") else {
                return Err(ApiError::invalid("request_id", "must be a string"));
            };
            let response = object.remove("response").ok_or_else(|| ApiError::invalid("response", "is missing"))?;
            Ok(Frame::Respond { request_id, response })
        }
        Some(kind) => Err(ApiError::invalid("type", format!("`{kind}` is not a frame of this protocol"))),
        None => Err(ApiError::invalid("type", "is missing")),
    }
}

/// Renders one run for one socket.
#[derive(Debug)]
pub struct Renderer {
    settings: Arc<Settings>,
    workflow: String,
    deltas: bool,
    voided: BTreeSet<Arc<str>>,
}

impl Renderer {
    /// For a run; `deltas` as the client wants them.
    #[must_use]
    pub fn new(settings: Arc<Settings>, workflow: String, deltas: bool) -> Self {
        Self { settings, workflow, deltas, voided: BTreeSet::new() }
    }

    fn event(&self, kind: &str, at: Timestamp, fields: Value) -> Value {
        let sub = fields.get("kind").and_then(Value::as_str).map(str::to_owned);
        let mut event = json!({ "type": kind, "timestamp": at.to_string(), "workflow_id": self.workflow });
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
            if let Some(route) = self.settings.ui_routing.route(kind, sub.as_deref()) {
                let mut route = serde_json::to_value(route).unwrap_or_default();
                if let Some(hint) = route.as_object_mut() {
                    let category = hint.remove("category").unwrap_or_default();
                    hint.retain(|_, value| !value.is_null());
                    event.insert("category".to_owned(), category);
                    event.insert("ui_hint".to_owned(), route);
                }
            }
        }
        event
    }

    /// The socket's first event.
    #[must_use]
    pub fn connected(&self, at: Timestamp, conversation: Option<&str>, is_resume: bool, checkpointing: bool) -> Value {
        let data = json!({
            "conversation_id": conversation,
            "checkpoint_id": self.workflow,
            "is_resume": is_resume,
            "checkpointing_enabled": checkpointing,
            "workflow_id": self.workflow,
        });
        self.event("connected", at, json!({ "message": "Connected", "data": data }))
    }

    /// A sign of life; belongs to the socket.
    #[must_use]
    pub fn heartbeat(&self, at: Timestamp) -> Value {
        self.event("heartbeat", at, json!({ "message": "heartbeat" }))
    }

    /// A failure of the socket's own, not in the log.
    #[must_use]
    pub fn error(&self, at: Timestamp, error: &ApiError) -> Value {
        let data = json!({ "code": error.code, "retry_after": error.retry_after_s });
        let mut event = self.event("error", at, json!({ "error": error.detail, "data": without_nulls(data) }));
        if self.workflow.is_empty() {
            event.as_object_mut().map(|event| event.remove("workflow_id"));
        }
        event
    }

    /// The end, of the socket's own.
    #[must_use]
    pub fn done(&self, at: Timestamp) -> Value {
        let mut event = self.event("done", at, json!({}));
        if self.workflow.is_empty() {
            event.as_object_mut().map(|event| event.remove("workflow_id"));
        }
        event
    }

    /// What this client sees of an event of the log, if anything.
    pub fn render(&mut self, event: &LogEvent) -> Option<Value> {
        let at = event.at;
        let (kind, fields) = match &event.body {
            EventBody::Delta { audience: Audience::User, step, channel, text, agent, .. } => {
                if !self.deltas || self.voided.contains(step) {
                    return None;
                }
                match channel {
                    Channel::Text => ("response.delta", json!({ "delta": text, "agent_id": agent, "author": agent })),
                    Channel::Reasoning => ("reasoning.delta", json!({ "reasoning": text, "agent_id": agent })),
                }
            }
            EventBody::StepCompleted { audience: Audience::User, reasoning: Some(reasoning), agent, .. }
                if !reasoning.is_empty() =>
            {
                ("reasoning.completed", json!({ "reasoning": reasoning, "agent_id": agent }))
            }
            EventBody::StepVoided { step, .. } => {
                self.voided.insert(step.clone());
                return None;
            }
            EventBody::Delta { .. }
            | EventBody::StepStarted { .. }
            | EventBody::StepCompleted { .. }
            | EventBody::StepFailed { .. }
            | EventBody::Answered { .. } => return None,
            EventBody::Emitted { body, .. } => emitted(body)?,
            EventBody::Asked { question, .. } => {
                let data = json!({
                    "request_id": question.request_id,
                    "request_type": question.request_type,
                    "request": question.request,
                });
                let message = format!("waiting for an answer: {}", question.request_type);
                ("orchestrator.message", json!({ "message": message, "kind": "request", "data": data }))
            }
            EventBody::Cancelled { reason } => ("cancelled", json!({ "message": format!("cancelled: {reason}") })),
            EventBody::Error { error } => {
                let retry_after = error.retry_after_ms.map(|ms| ms.div_ceil(1_000));
                let data = without_nulls(json!({ "code": error.code, "retry_after": retry_after }));
                ("error", json!({ "error": error.message, "data": data }))
            }
            EventBody::Finished { .. } => ("done", json!({})),
        };
        Some(self.event(kind, at, fields))
    }
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    value
}

/// What a workflow published, in version 1's terms.
fn emitted(body: &Value) -> Option<(&'static str, Value)> {
    Some(match serde_json::from_value(body.clone()).ok()? {
        FleetEvent::Status { status } => {
            let status: &RunStatus = &status;
            ("workflow.status", json!({ "status": status }))
        }
        FleetEvent::Message { message, kind, data } => {
            ("orchestrator.message", json!({ "message": message, "kind": kind, "data": data }))
        }
        FleetEvent::Thought { message, kind, data } => (
            "orchestrator.thought",
            json!({ "message": message, "kind": kind, "agent_id": "orchestrator", "data": data }),
        ),
        FleetEvent::Agent { moment, agent_id, author, message, data } => {
            let kind = match moment {
                AgentMoment::Start => "agent.start",
                AgentMoment::Message => "agent.message",
                AgentMoment::Output => "agent.output",
                AgentMoment::Complete => "agent.complete",
            };
            let fields = json!({
                "agent_id": agent_id, "author": author, "role": "assistant", "message": message, "data": data,
            });
            (kind, fields)
        }
        FleetEvent::Answer { message, author, agent_id, finish_reason, quality_pending } => {
            let truncated = finish_reason.truncates().then_some(true);
            let pending = quality_pending.then_some(true);
            let data = without_nulls(json!({
                "quality_pending": pending, "finish_reason": finish_reason, "truncated": truncated,
            }));
            ("response.completed", json!({ "message": message, "author": author, "agent_id": agent_id, "data": data }))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_first_frame_is_refused_and_names_its_field() {
        let table = [
            ("nonsense", "frame"),
            ("[]", "frame"),
            (r#"{"massage":"hi"}"#, "massage"),
            (r#"{"message":7}"#, "message"),
            (r#"{"message":"hi","reasoning_effort":"huge"}"#, "reasoning_effort"),
            (r#"{"message":"hi","stream":"yes"}"#, "stream"),
            (r#"{"stream":true}"#, "message"),
            (r#"{"type":"cancel"}"#, "type"),
            (r#"{"type":"workflow.resume"}"#, "checkpoint_id"),
            (r#"{"type":"workflow.resume","checkpoint_id":"a","message":"hi"}"#, "message"),
        ];
        for (text, field) in table {
            let error = first_frame(text).expect_err(text);
            assert_eq!(error.errors[0].field, field, "{text}: {error}");
        }
        assert!(matches!(first_frame(r#"{"message":"hi","stream":false}"#), Ok(FirstFrame::Start(_))));
    }

    #[test]
    fn an_answer_has_three_names_and_an_unknown_frame_is_refused() {
        for kind in ["workflow.response", "workflow_response", "response"] {
            let text = format!(r#"{{"type":"{kind}","request_id":"r","response":true}}"#);
            let expected = Frame::Respond { request_id: "r".into(), response: Value::Bool(true) };
            assert_eq!(later_frame(&text), Ok(expected));
        }
        assert!(later_frame(r#"{"type":"dance"}"#).is_err());
        assert!(later_frame(r#"{"message":"again"}"#).is_err());
    }
}
