//! One agent answers, with the conversation before it.

use std::sync::Arc;
use std::time::Duration;

use fleet_actors::event::Audience;
use fleet_actors::journal::Context;
use fleet_actors::ports::{ChatMessage, MessageRow, ModelRequest, OutputForm, Role, RunOutput, TaskInput};
use fleet_actors::turn::{StepResult, Turn};

use super::events::{AgentMoment, FleetEvent, metadata};
use super::{WorkflowConfig, within};

pub(super) async fn answer(
    turn: &mut Turn,
    input: &TaskInput,
    config: &WorkflowConfig,
    history: &[MessageRow],
) -> StepResult<RunOutput> {
    let agent = &config.agent;
    let moment = |moment, message: &str| FleetEvent::Agent {
        moment,
        agent_id: agent.name.clone(),
        author: agent.name.clone(),
        message: message.to_owned(),
        data: None,
    };
    turn.emit(&moment(AgentMoment::Start, "started"));
    let request = ModelRequest {
        model: agent.model.as_str().into(),
        agent: Some(agent.name.as_str().into()),
        audience: Audience::User,
        context: context(input, config, history),
        tools: Arc::from([]),
        output: OutputForm::Text,
        temperature: agent.temperature,
        max_output_tokens: config.output_tokens_max,
    };
    let reply = match agent.timeout_ms {
        None => turn.model(&agent.name, request).await?,
        Some(limit) => {
            let limit = Duration::from_millis(limit);
            turn.timeout("agent", limit, async |turn| turn.model(&agent.name, request.clone()).await).await?
        }
    };
    turn.emit(&moment(AgentMoment::Output, &reply.text));
    turn.emit(&moment(AgentMoment::Complete, "completed"));
    turn.emit(&FleetEvent::Answer {
        message: reply.text.clone(),
        author: Some(agent.name.clone()),
        agent_id: Some(agent.name.clone()),
        finish_reason: reply.finish_reason,
        quality_pending: false,
    });
    let metadata = metadata("standard", &reply, 1);
    let (author, agent_id) = (Some(agent.name.clone()), Some(agent.name.clone()));
    Ok(RunOutput {
        text: reply.text,
        author,
        agent_id,
        finish_reason: reply.finish_reason,
        metadata,
        ..RunOutput::default()
    })
}

/// Instructions, the conversation as far as it fits, what the client added, the message.
fn context(input: &TaskInput, config: &WorkflowConfig, history: &[MessageRow]) -> Context {
    let mut context = Context::default().with(ChatMessage::new(Role::System, config.agent.instructions.clone()));
    for message in within(history, config.context_chars_max) {
        context = context.with(ChatMessage::new(message.role, message.content.clone()));
    }
    if let Some(more) = &input.additional_context {
        context = context.with(ChatMessage::new(Role::System, format!("Additional context from the client: {more}")));
    }
    context.with(ChatMessage::new(Role::User, input.message.clone()))
}
