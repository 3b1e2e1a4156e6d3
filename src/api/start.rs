//! From what a client asks to a [`StartTurn`]: the one place where every door's new runs are made alike.

use std::sync::Arc;

use actix_web::HttpRequest;
use fleet_actors::ids::{ConversationId, WorkflowId};
use fleet_actors::ports::{MessageRow, NewWorkflow, OnDisconnect, ReasoningEffort, RequestKey, Role, TaskInput};
use fleet_actors::sessions::StartTurn;
use fleet_actors::trace::TraceParent;
use serde_json::Value;

use super::Api;
use super::error::ApiError;
use crate::workflow::{MODES, SUPERVISOR_VERSION, SUPERVISOR_WORKFLOW};

/// A new run, as a door understood it.
#[derive(Clone, Debug, Default)]
pub struct NewRun {
    /// The message or task.
    pub message: String,
    /// The conversation it belongs to; made when nobody has seen it.
    pub conversation: Option<ConversationId>,
    /// A forced mode.
    pub mode: Option<String>,
    /// More for the workflow to consider.
    pub additional_context: Option<Value>,
    /// The effort that overrides the config's, for this session alone.
    pub effort: Option<ReasoningEffort>,
    /// `client_message_id` or `Idempotency-Key`.
    pub key: Option<String>,
    /// What becomes of it when nobody watches; `None` is what the config says.
    pub on_disconnect: Option<OnDisconnect>,
    /// Whether its positions are listed as checkpoints; `None` is what the config says.
    pub checkpointing: Option<bool>,
    /// A background run: nobody needs to watch it.
    pub background: bool,
    /// Where the client's own trace stands.
    pub traceparent: Option<TraceParent>,
    /// Another workflow than the one that messages start: its name and version.
    pub workflow: Option<(&'static str, u32)>,
}

/// Where the client's own trace stands. What is no `traceparent` is none, as the W3C's Trace Context wants it.
pub(super) fn traceparent(request: &HttpRequest) -> Option<TraceParent> {
    request.headers().get("traceparent")?.to_str().ok()?.parse().ok()
}

impl Api {
    /// Checks a new run and makes it what the runtime takes.
    ///
    /// # Errors
    /// [`ApiError`] 422 that names the field.
    pub fn prepare(&self, run: NewRun) -> Result<StartTurn, ApiError> {
        let sessions = &self.settings.sessions;
        let characters = run.message.chars().count();
        let max = sessions.max_task_length.as_usize();
        if run.message.trim().is_empty() {
            return Err(ApiError::invalid("message", "must not be empty or blank"));
        }
        if characters > max {
            return Err(ApiError::invalid(
                "message",
                format!("has {characters} characters, at most {max} are allowed"),
            ));
        }
        if let Some(mode) = run.mode.as_deref().filter(|mode| !MODES.contains(mode)) {
            return Err(ApiError::invalid("mode", format!("`{mode}` is not one of {}", MODES.join(", "))));
        }
        if run.key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
            return Err(ApiError::invalid("client_message_id", "must have 1 to 255 bytes"));
        }
        let workflow = WorkflowId::generate();
        let at = self.sessions.services().clock.now();
        let effort = run.effort.map(ReasoningEffort::as_str);
        let digest = serde_json::json!([run.message, run.conversation, run.mode, run.additional_context, effort]);
        let digest = fleet_actors::journal::digest(digest.to_string().as_bytes());
        let request = run.key.map(|key| RequestKey { key: key.into(), digest });
        let message = run.conversation.clone().map(|conversation| MessageRow {
            id: WorkflowId::generate().as_str().into(),
            conversation,
            role: Role::User,
            content: run.message.clone(),
            created_at: at,
            author: None,
            agent_id: None,
            workflow: Some(workflow.clone()),
            finish_reason: None,
            quality: None,
        });
        let configured = match sessions.on_disconnect {
            crate::settings::OnDisconnect::Cancel => OnDisconnect::Cancel,
            crate::settings::OnDisconnect::Continue => OnDisconnect::Continue,
        };
        let on_disconnect =
            if run.background { OnDisconnect::Continue } else { run.on_disconnect.unwrap_or(configured) };
        let (name, version) = run.workflow.unwrap_or((SUPERVISOR_WORKFLOW, SUPERVISOR_VERSION));
        let made = NewWorkflow {
            name: name.into(),
            version,
            conversation: run.conversation.clone(),
            task: Arc::from(run.message.as_str()),
            effort: run.effort,
            request,
            on_disconnect,
            created_at: at,
            child_of: None,
        };
        let input = TaskInput {
            message: run.message,
            conversation: run.conversation,
            mode: run.mode,
            additional_context: run.additional_context,
            principal: TaskInput::local(),
            checkpoints_listed: run.checkpointing.unwrap_or(sessions.enable_checkpointing),
            traceparent: run.traceparent,
        };
        let config = self.workflow_config.clone();
        Ok(StartTurn { workflow, made, input, config, message, detached: run.background })
    }
}
