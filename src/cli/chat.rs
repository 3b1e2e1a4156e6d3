//! `run`: one message through the same runtime, no server needed.

use std::io::Write as _;
use std::sync::Arc;

use fleet_actors::event::{Audience, Channel, EventBody, RunOutcome};
use fleet_actors::ids::ConversationId;
use fleet_actors::ports::ReasoningEffort;
use fleet_actors::sessions::StreamItem;
use serde_json::json;

use super::Run;
use crate::api::Api;
use crate::api::connections::Connections;
use crate::api::error::ApiError;
use crate::api::start::NewRun;
use crate::runtime::{EXIT_IN_USE, Runtime, RuntimeError};
use crate::settings::Effective;

pub(super) fn run(options: &Run, effective: Effective) -> i32 {
    let settings = Arc::new(effective.settings);
    crate::telemetry::start(&settings);
    let effort = match options.reasoning_effort.as_deref() {
        None => None,
        Some("minimal") => Some(ReasoningEffort::Minimal),
        Some("medium") => Some(ReasoningEffort::Medium),
        Some("maximal") => Some(ReasoningEffort::Maximal),
        Some(other) => {
            eprintln!("--reasoning-effort: `{other}` is not minimal, medium or maximal");
            return 2;
        }
    };
    let conversation = match options.conversation.as_deref().map(str::parse::<ConversationId>).transpose() {
        Ok(conversation) => conversation,
        Err(error) => {
            eprintln!("--conversation: {error}");
            return 2;
        }
    };
    actix_web::rt::System::new().block_on(async move {
        let runtime = match Runtime::start(&settings, "run") {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("{error}");
                return if matches!(error, RuntimeError::Lock(_)) { EXIT_IN_USE } else { 1 };
            }
        };
        if runtime.model.is_simulated() {
            eprintln!("note: the simulated model answers; set OPENAI_API_KEY or OPENAI_BASE_URL for a real one");
        }
        let (sessions, workflow_config) = (runtime.sessions.clone(), runtime.workflow_config.clone());
        let connections = Connections::new(1);
        let api = Api { sessions, settings, workflow_config, connections };
        let conversation = Some(conversation.unwrap_or_else(ConversationId::generate));
        let run = NewRun { message: options.message.clone(), conversation, effort, ..NewRun::default() };
        match stream(&api, run, options.json).await {
            Ok(outcome) => i32::from(outcome != RunOutcome::Completed),
            Err(error) => {
                eprintln!("{error}");
                1
            }
        }
    })
}

async fn stream(api: &Api, run: NewRun, as_json: bool) -> Result<RunOutcome, ApiError> {
    let turn = api.prepare(run)?;
    let conversation = turn.made.conversation.clone();
    let permit = api.sessions.admit().map_err(|error| api.refusal(error.into()))?;
    let mut events = api.sessions.start(turn, permit).await.map_err(|error| api.refusal(error))?;
    let workflow = events.workflow().clone();
    let mut out = std::io::stdout();
    let mut interrupted = false;
    loop {
        let item = tokio::select! {
            item = events.next() => item?,
            _ = tokio::signal::ctrl_c(), if !interrupted => {
                interrupted = true;
                let (sessions, workflow) = (api.sessions.clone(), workflow.clone());
                actix_web::rt::spawn(async move { sessions.cancel(&workflow, "client").await });
                continue;
            }
        };
        let event = match item {
            StreamItem::Event(event) => event,
            StreamItem::Rests(rest, text) => return Err(ApiError::rests(rest, text)),
            StreamItem::End => return Ok(RunOutcome::Failed),
        };
        match &event.body {
            EventBody::Delta { audience: Audience::User, channel: Channel::Text, text, .. } if !as_json => {
                let _ = write!(out, "{text}").and_then(|()| out.flush());
            }
            EventBody::StepVoided { .. } if !as_json => {
                let _ = writeln!(out, "\n[the text above is void]");
            }
            EventBody::Error { error } => eprintln!("error: {error}"),
            EventBody::Finished { outcome } => {
                if as_json {
                    let entry = api.sessions.store().history_entry(&workflow).await?;
                    let result = json!({
                        "execution_id": workflow,
                        "conversation_id": conversation,
                        "status": outcome,
                        "result": entry.as_ref().and_then(|entry| entry.result.as_ref()).map(|result| &result.text),
                        "metadata": entry.as_ref().and_then(|entry| entry.result.as_ref()).map(|result| &result.metadata),
                    });
                    let _ = writeln!(out, "{result}");
                } else {
                    let _ = writeln!(out);
                }
                return Ok(*outcome);
            }
            EventBody::Delta { .. }
            | EventBody::StepVoided { .. }
            | EventBody::StepStarted { .. }
            | EventBody::StepCompleted { .. }
            | EventBody::StepFailed { .. }
            | EventBody::Emitted { .. }
            | EventBody::Asked { .. }
            | EventBody::Answered { .. }
            | EventBody::Cancelled { .. } => {}
        }
    }
}
