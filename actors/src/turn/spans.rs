//! The spans of a turn: an agent's, and one for each attempt of a call that is really made or refused.
//!
//! Names and attributes are those of the OpenTelemetry conventions for generative AI, as of 2026; what they have no name for
//! begins with `fleet.`.

use std::rc::Rc;

use serde_json::{Value, json};

use super::{StepResult, Turn};
use crate::event::Failure;
use crate::meter::CallEnd;
use crate::ports::{ModelCall, ModelReply, OutputForm, Role, ToolOutput, ToolRequest};
use crate::trace::{OpenSpan, messages};

impl Turn {
    /// Runs `body` in a scope of its own, in which an agent works: what is in it is below a span of the agent's.
    ///
    /// # Errors
    /// What `body` returns.
    pub async fn agent<R>(&mut self, name: &str, body: impl AsyncFnOnce(&mut Turn) -> StepResult<R>) -> StepResult<R> {
        let path = self.path(name);
        let mut child = self.child(path, false);
        let span = self.span.as_ref().map(|above| {
            let span = above.below(format!("invoke_agent {name}"));
            span.set("gen_ai.operation.name", "invoke_agent");
            span.set("gen_ai.agent.name", name);
            span.set("gen_ai.agent.id", name);
            span
        });
        child.span.clone_from(&span);
        let result = body(&mut child).await;
        if let Some(span) = span {
            span.end_with(&result);
        }
        result
    }

    /// Counts a tool call that is refused and not made. Say it after the step that refused it: a replay of that step says
    /// nothing again.
    pub fn refused(&self, call: &ToolRequest, agent: &str, end: CallEnd) {
        if self.last_is_recorded.get() {
            return;
        }
        self.run.ports.meter.tool(&call.name, end);
        let Some(above) = &self.span else { return };
        let span = tool(above, &call.name, Some(&call.id), Some(agent), &call.arguments);
        let code = if end == CallEnd::Expired { "approval_expired" } else { "tool_denied" };
        span.end(end.as_str(), Some(&Failure::new(code, "")));
    }

    pub(super) fn model_span(&self, call: &ModelCall) -> Option<OpenSpan> {
        let request = &call.request;
        let span = self.span.as_ref()?.step(format!("chat {}", request.model), true);
        span.set("gen_ai.operation.name", "chat");
        span.set("gen_ai.request.model", &*request.model);
        span.set("gen_ai.agent.name", request.agent.as_deref());
        // An `f32` as it was written, not as the nearest `f64` reads.
        span.set("gen_ai.request.temperature", request.temperature.and_then(|t| t.to_string().parse::<f64>().ok()));
        span.set("gen_ai.request.max_tokens", request.max_output_tokens);
        let form = match request.output {
            OutputForm::Text => "text",
            OutputForm::Json { .. } => "json",
        };
        span.set("gen_ai.output.type", form);
        if call.attempt > 1 {
            span.set("fleet.attempt", call.attempt);
        }
        span.set_text("gen_ai.input.messages", || {
            messages(request.context.messages().iter().map(|said| (said.role, said.content.as_str())))
        });
        Some(span)
    }

    pub(super) fn tool_span(
        &self,
        name: &str,
        id: Option<&str>,
        agent: Option<&str>,
        arguments: &Value,
    ) -> Option<OpenSpan> {
        self.span.as_ref().map(|above| tool(above, name, id, agent, arguments))
    }
}

fn tool(above: &Rc<OpenSpan>, name: &str, id: Option<&str>, agent: Option<&str>, arguments: &Value) -> OpenSpan {
    let span = above.step(format!("execute_tool {name}"), false);
    span.set("gen_ai.operation.name", "execute_tool");
    span.set("gen_ai.tool.name", name);
    span.set("gen_ai.tool.call.id", id);
    span.set("gen_ai.tool.type", "function");
    span.set("gen_ai.agent.name", agent);
    span.set_text("gen_ai.tool.call.arguments", || arguments.to_string());
    span
}

/// Ends the span of a model's attempt.
pub(super) fn model_ended(span: Option<OpenSpan>, end: CallEnd, result: Result<&ModelReply, &Failure>) {
    let Some(span) = span else { return };
    if let Ok(reply) = result {
        if !reply.model.is_empty() {
            span.set("gen_ai.response.model", reply.model.as_str());
        }
        let reason = serde_json::to_value(reply.finish_reason).unwrap_or_default();
        span.set("gen_ai.response.finish_reasons", json!([reason]));
        if let Some(usage) = reply.usage {
            span.set("gen_ai.usage.input_tokens", usage.input_tokens);
            span.set("gen_ai.usage.output_tokens", usage.output_tokens);
            span.set("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens);
            span.set("gen_ai.usage.reasoning.output_tokens", usage.reasoning_tokens);
            span.set("fleet.usage.cost_usd", usage.cost_usd());
        }
        span.set_text("gen_ai.output.messages", || messages([(Role::Assistant, reply.text.as_str())]));
    }
    span.end(end.as_str(), result.err());
}

/// Ends the span of a tool's call.
pub(super) fn tool_ended(span: Option<OpenSpan>, end: CallEnd, result: Result<&ToolOutput, &Failure>) {
    let Some(span) = span else { return };
    if let Ok(output) = result {
        span.set_text("gen_ai.tool.call.result", || output.text.clone());
    }
    span.end(end.as_str(), result.err());
}
