//! Requests of both protocols as the simulated model understands them. What it does not know it skips.

use std::borrow::Cow;

use fleet_actors::ports::{ReasoningEffort, Role};
use serde_json::Value;

use crate::llm::simulate::SimulatedRequest;

/// A call as it was asked, whichever protocol asked.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) stream: bool,
    /// Chat Completions sends usage in a stream only to who asks for it.
    pub(super) include_usage: bool,
    messages: Vec<(Role, String)>,
    tools: Vec<(String, Value)>,
    schema: Option<Value>,
    schema_name: String,
    effort: Option<ReasoningEffort>,
    max_tokens: Option<u32>,
}

impl Asked {
    /// A body of Chat Completions; `None` if it is none.
    pub(super) fn chat(body: &[u8]) -> Option<Self> {
        let mut body: Value = serde_json::from_slice(body).ok()?;
        let messages = body.get_mut("messages").map(Value::take);
        let Some(Value::Array(messages)) = messages else { return None };
        let effort = body.get("reasoning_effort").and_then(Value::as_str).and_then(effort);
        Some(Self {
            include_usage: body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true)),
            messages: messages.into_iter().map(|message| (role(&message), text(message))).collect(),
            tools: tools(&mut body, "/function"),
            schema_name: words(&body, "/response_format/json_schema/name"),
            schema: body.pointer_mut("/response_format/json_schema/schema").map(Value::take),
            effort,
            max_tokens: number(&body, "max_completion_tokens").or_else(|| number(&body, "max_tokens")),
            ..Self::head(&body)?
        })
    }

    /// A body of Responses; `None` if it is none.
    pub(super) fn responses(body: &[u8]) -> Option<Self> {
        let mut body: Value = serde_json::from_slice(body).ok()?;
        let mut messages = Vec::new();
        if let Some(instructions) = body.get("instructions").and_then(Value::as_str) {
            messages.push((Role::System, instructions.to_owned()));
        }
        match body.get_mut("input").map(Value::take) {
            Some(Value::String(text)) => messages.push((Role::User, text)),
            Some(Value::Array(items)) => messages.extend(items.into_iter().map(item)),
            _ => return None,
        }
        let effort = body.pointer("/reasoning/effort").and_then(Value::as_str).and_then(effort);
        Some(Self {
            messages,
            tools: tools(&mut body, ""),
            schema_name: words(&body, "/text/format/name"),
            schema: body.pointer_mut("/text/format/schema").map(Value::take),
            effort,
            max_tokens: number(&body, "max_output_tokens"),
            ..Self::head(&body)?
        })
    }

    fn head(body: &Value) -> Option<Self> {
        let model = body.get("model")?.as_str()?.to_owned();
        Some(Self { model, stream: body.get("stream") == Some(&Value::Bool(true)), ..Self::default() })
    }

    /// Whether a fault might ask how often the call was made.
    pub(super) fn counts_attempts(&self) -> bool {
        self.messages.iter().any(|(role, text)| *role == Role::User && text.contains("times="))
    }

    /// What the model is sent.
    pub(super) fn request(&self, attempt: u32) -> SimulatedRequest<'_> {
        SimulatedRequest {
            model: &self.model,
            messages: self.messages.iter().map(|(role, text)| (*role, Cow::Borrowed(text.as_str()))).collect(),
            tools: self.tools.iter().map(|(name, schema)| (name.as_str(), schema)).collect(),
            schema: self.schema.as_ref(),
            schema_name: &self.schema_name,
            effort: self.effort,
            max_tokens: self.max_tokens,
            attempt,
        }
    }
}

fn role(message: &Value) -> Role {
    match message.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => Role::System,
        Some("assistant") => Role::Assistant,
        Some("tool" | "function") => Role::Tool,
        _ => Role::User,
    }
}

/// A message's text: a string, or parts of which some hold text.
fn text(mut message: Value) -> String {
    match message.get_mut("content").map(Value::take) {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

fn item(mut item: Value) -> (Role, String) {
    match item.get("type").and_then(Value::as_str) {
        Some("function_call_output") => match item.get_mut("output").map(Value::take) {
            Some(Value::String(output)) => (Role::Tool, output),
            other => (Role::Tool, other.unwrap_or_default().to_string()),
        },
        Some("function_call" | "reasoning") => (Role::Assistant, String::new()),
        _ => (role(&item), text(item)),
    }
}

fn tools(body: &mut Value, inside: &str) -> Vec<(String, Value)> {
    let tools = body.get_mut("tools").and_then(Value::as_array_mut);
    let tools = tools.into_iter().flatten().filter_map(|tool| {
        let tool = tool.pointer_mut(inside)?;
        let name = tool.get("name")?.as_str()?.to_owned();
        Some((name, tool.get_mut("parameters").map(Value::take).unwrap_or_default()))
    });
    tools.collect()
}

fn effort(word: &str) -> Option<ReasoningEffort> {
    match word {
        "minimal" | "low" => Some(ReasoningEffort::Minimal),
        "medium" => Some(ReasoningEffort::Medium),
        "high" | "xhigh" => Some(ReasoningEffort::Maximal),
        _ => None,
    }
}

fn words(body: &Value, at: &str) -> String {
    body.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(body: &Value, name: &str) -> Option<u32> {
    body.get(name)?.as_u64().and_then(|n| u32::try_from(n).ok())
}
