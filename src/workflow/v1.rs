//! Version 1 of the supervisor, for runs that rest under it: a short greeting takes the fast path, anything else goes to
//! the one agent, with the conversation before it.
//!
//! Nothing here changes any more: each step's name, order and input is part of journals that were written by it. New runs
//! never come here.

use std::sync::Arc;
use std::time::Duration;

use fleet_actors::event::Audience;
use fleet_actors::journal::Context;
use fleet_actors::ports::{
    ChatMessage, LocalFuture, MessageRow, ModelReply, ModelRequest, OutputForm, Role, RunOutput, TaskInput,
};
use fleet_actors::turn::{StepResult, Turn};
use serde::{Deserialize, Serialize};

use super::events::{AgentMoment, FleetEvent, RunStatus};
use super::{FastPathRules, within};

/// What runs of version 1 pinned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Config {
    agent: Profile,
    fast_path: FastPathRules,
    context_messages_max: u32,
    context_chars_max: usize,
    output_tokens_max: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Profile {
    name: String,
    model: String,
    instructions: String,
    temperature: Option<f32>,
    timeout_ms: Option<u64>,
}

pub(super) fn supervise<'a>(turn: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let config = turn.pinned::<Config>()?;
        let history = turn.conversation(config.context_messages_max).await;
        turn.emit(&FleetEvent::Status { status: RunStatus::InProgress });
        let fast = match input.mode.as_deref() {
            Some("fast_path") => true,
            Some("standard") => false,
            _ => history.is_empty() && config.fast_path.fits(&input.message),
        };
        let output =
            if fast { direct(turn, input, &config).await? } else { single(turn, input, &config, &history).await? };
        turn.emit(&FleetEvent::Status { status: RunStatus::Completed });
        Ok(output)
    })
}

async fn direct(turn: &mut Turn, input: &TaskInput, config: &Config) -> StepResult<RunOutput> {
    let context = Context::of([
        ChatMessage::new(Role::System, "Answer the message directly, kindly and briefly."),
        ChatMessage::new(Role::User, input.message.clone()),
    ]);
    let reply = turn.model("answer", request(config, None, context)).await?;
    turn.emit(&answered(&reply, None));
    Ok(output("fast_path", reply, None))
}

async fn single(turn: &mut Turn, input: &TaskInput, config: &Config, history: &[MessageRow]) -> StepResult<RunOutput> {
    let agent = &config.agent;
    let moment = |moment, message: &str| FleetEvent::Agent {
        moment,
        agent_id: agent.name.clone(),
        author: agent.name.clone(),
        message: message.to_owned(),
        data: None,
    };
    turn.emit(&moment(AgentMoment::Start, "started"));
    let mut context = Context::default().with(ChatMessage::new(Role::System, agent.instructions.clone()));
    for message in within(history, config.context_chars_max) {
        context = context.with(ChatMessage::new(message.role, message.content.clone()));
    }
    if let Some(more) = &input.additional_context {
        context = context.with(ChatMessage::new(Role::System, format!("Additional context from the client: {more}")));
    }
    let context = context.with(ChatMessage::new(Role::User, input.message.clone()));
    let request = request(config, Some(agent.name.as_str().into()), context);
    let reply = match agent.timeout_ms {
        None => turn.model(&agent.name, request).await?,
        Some(limit) => {
            let limit = Duration::from_millis(limit);
            turn.timeout("agent", limit, async |turn| turn.model(&agent.name, request.clone()).await).await?
        }
    };
    turn.emit(&moment(AgentMoment::Output, &reply.text));
    turn.emit(&moment(AgentMoment::Complete, "completed"));
    turn.emit(&answered(&reply, Some(&agent.name)));
    Ok(output("standard", reply, Some(&agent.name)))
}

fn request(config: &Config, agent: Option<Arc<str>>, context: Context) -> ModelRequest {
    ModelRequest {
        model: config.agent.model.as_str().into(),
        agent,
        audience: Audience::User,
        context,
        tools: Arc::from([]),
        output: OutputForm::Text,
        temperature: config.agent.temperature,
        max_output_tokens: config.output_tokens_max,
    }
}

fn answered(reply: &ModelReply, agent: Option<&String>) -> FleetEvent {
    FleetEvent::Answer {
        message: reply.text.clone(),
        author: agent.cloned(),
        agent_id: agent.cloned(),
        finish_reason: reply.finish_reason,
        quality_pending: false,
        quality_score: None,
        quality_flag: None,
        spent: None,
    }
}

fn output(mode: &str, reply: ModelReply, agent: Option<&String>) -> RunOutput {
    let metadata = serde_json::json!({
        "mode": mode,
        "model": reply.model,
        "simulated": reply.simulated,
        "model_calls": 1,
        "usage": reply.usage.unwrap_or_default(),
        "finish_reason": reply.finish_reason,
        "truncated": reply.finish_reason.truncates(),
    });
    let (author, agent_id) = (agent.cloned(), agent.cloned());
    let finish_reason = reply.finish_reason;
    RunOutput { text: reply.text, author, agent_id, finish_reason, metadata, ..RunOutput::default() }
}
