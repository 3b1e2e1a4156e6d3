//! The only client JSON of streams: what clients send ([`frames`]) and what they are shown ([`v1`], [`v2`]).
//!
//! A [`LogEvent`](fleet_actors::event::LogEvent) is a fact of a run; a [`WireEvent`] is what a protocol version makes of
//! it. Fields that do not apply are absent, never null. Events that belong to a socket and not to a run (`connected`,
//! `heartbeat`, errors about frames) are made here for both versions; they have no number.

pub mod frames;
pub mod v1;
pub mod v2;

use std::borrow::Cow;
use std::sync::Arc;

use fleet_actors::event::{LogEvent, StepKind, Usage};
use fleet_actors::ids::{ConversationId, Timestamp, WorkflowId};
use serde::Serialize;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::settings::{UiPriority, UiRouting};

/// The version of the contract that a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// What existing clients speak.
    #[default]
    V1,
    /// `fleet.v2`.
    V2,
}

/// One event as a client reads it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WireEvent {
    /// What it is.
    pub r#type: &'static str,
    /// RFC 3339.
    pub timestamp: String,
    /// The run, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<WorkflowId>,
    /// Version 2: its number in the run's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Version 2, on the socket's own events: the request it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_message_id: Option<String>,
    /// Version 2: the step's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<Arc<str>>,
    /// Version 2: the attempt, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Version 2: where the step stands in the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_info: Option<StepInfo>,
    /// Version 2: why a step was voided or a run stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Cow<'static, str>>,
    /// What kind of message or thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Cow<'static, str>>,
    /// Where the run stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'static str>,
    /// A piece of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Arc<str>>,
    /// Version 2: Unicode scalars of this channel before the piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Version 2: a step's whole text, which replaces what was streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Arc<str>>,
    /// A piece of the reasoning, or all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Arc<str>>,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<Cow<'static, str>>,
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Always `assistant`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// An error's text for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What had been reasoned when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_partial: Option<String>,
    /// Version 2: tokens of a call that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What it cost, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// Version 2: how long a step took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// How good the answer is, 0 to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_score: Option<f64>,
    /// A word about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_flag: Option<String>,
    /// For programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// How user interfaces group it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// How user interfaces show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ui_hint: Option<UiHint>,
}

/// Where a step stands in its run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StepInfo {
    /// The path of the scope it belongs to; empty at the top.
    pub parent: String,
    /// What effect it is, where the event says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// On whose behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Arc<str>>,
    /// When the attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
}

impl StepInfo {
    fn of(step: &str, kind: Option<StepKind>) -> Self {
        let parent = step.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
        Self { parent, kind: kind.map(StepKind::as_str), ..Self::default() }
    }
}

/// How a user interface shows an event.
#[derive(Clone, Debug, Serialize)]
pub struct UiHint {
    component: String,
    priority: UiPriority,
    collapsible: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    icon_hint: Option<String>,
}

impl WireEvent {
    fn new(r#type: &'static str, at: Timestamp) -> Self {
        Self { r#type, timestamp: at.to_string(), ..Self::default() }
    }

    /// The first frame of every stream.
    #[must_use]
    pub fn connected(at: Timestamp, stream: &Connected) -> Self {
        let Connected { workflow, conversation, is_resume, checkpointing_enabled } = stream;
        let data = json!({
            "conversation_id": conversation,
            "checkpoint_id": workflow,
            "is_resume": is_resume,
            "checkpointing_enabled": checkpointing_enabled,
            "workflow_id": workflow,
        });
        let workflow_id = Some(workflow.clone());
        Self { message: Some("Connected".into()), data: Some(data), workflow_id, ..Self::new("connected", at) }
    }

    /// A sign of life of the socket.
    #[must_use]
    pub fn heartbeat(at: Timestamp) -> Self {
        Self { message: Some("heartbeat".into()), ..Self::new("heartbeat", at) }
    }

    /// A failure that is the socket's own: it stands in no log.
    #[must_use]
    pub fn refusal(at: Timestamp, error: &ApiError) -> Self {
        let mut data = json!({ "code": error.code });
        if let Some(seconds) = error.retry_after_s {
            data["retry_after"] = seconds.into();
        }
        if !error.errors.is_empty() {
            data["errors"] = json!(error.errors);
        }
        if let Some(workflow) = &error.execution_id {
            data["workflow_id"] = workflow.as_str().into();
        }
        Self { error: Some(error.detail.clone()), data: Some(data), ..Self::new("error", at) }
    }

    /// The answer to a `ping` frame.
    #[must_use]
    pub fn pong(at: Timestamp) -> Self {
        Self::new("pong", at)
    }

    /// The end of a stream whose run did not end, or never began: the socket's own.
    #[must_use]
    pub fn done(at: Timestamp) -> Self {
        Self::new("done", at)
    }

    /// The same, for this run.
    #[must_use]
    pub fn of_workflow(mut self, workflow: &WorkflowId) -> Self {
        self.workflow_id = Some(workflow.clone());
        self
    }

    /// The same, for this request.
    #[must_use]
    pub fn of_request(mut self, client_message_id: Option<String>) -> Self {
        self.client_message_id = client_message_id;
        self
    }

    /// The same, with what user interfaces are told about it.
    #[must_use]
    pub fn routed(mut self, routes: &UiRouting) -> Self {
        if let Some(route) = routes.route(self.r#type, self.kind.as_deref()) {
            self.category = Some(route.category.clone());
            self.ui_hint = Some(UiHint {
                component: route.component.clone(),
                priority: route.priority,
                collapsible: route.collapsible,
                icon_hint: route.icon_hint.clone(),
            });
        }
        self
    }

    /// The JSON text, with what user interfaces are told about it.
    #[must_use]
    pub fn encode(self, routes: &UiRouting) -> String {
        // Strings, numbers and JSON values under string keys: it cannot fail.
        serde_json::to_string(&self.routed(routes)).unwrap_or_default()
    }
}

/// What `connected` tells.
#[derive(Clone, Debug)]
pub struct Connected {
    /// The run; also its newest checkpoint.
    pub workflow: WorkflowId,
    /// Its conversation.
    pub conversation: Option<ConversationId>,
    /// Whether the stream goes on with a run that was there.
    pub is_resume: bool,
    /// Whether positions of it are listed.
    pub checkpointing_enabled: bool,
}

/// Whether a client wants text as it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deltas {
    /// As it comes.
    #[default]
    Shown,
    /// Whole, at the end.
    Hidden,
}

/// Makes wire events of one run's log, in the version its client speaks.
#[derive(Debug)]
pub enum Renderer {
    /// Version 1.
    V1(v1::Renderer),
    /// Version 2.
    V2(v2::Renderer),
}

impl Renderer {
    /// A renderer for a stream that begins anywhere in the log of `workflow`.
    #[must_use]
    pub fn new(version: Version, workflow: &WorkflowId, deltas: Deltas) -> Self {
        match version {
            Version::V1 => Self::V1(v1::Renderer::new(workflow.clone(), deltas)),
            Version::V2 => Self::V2(v2::Renderer::new(workflow.clone(), deltas)),
        }
    }

    /// What the client is shown of an event, if anything.
    pub fn render(&mut self, event: &LogEvent) -> Option<WireEvent> {
        match self {
            Self::V1(renderer) => renderer.render(event),
            Self::V2(renderer) => renderer.render(event),
        }
    }
}
