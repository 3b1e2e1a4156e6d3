//! OpenAI's Responses.
//!
//! The terminator of a stream is `response.completed`, `.incomplete` or `.failed`; all else may be missing or unknown.
//! `.done` events and the final response repeat what was streamed: they are used only for what was not.
//! Nothing is stored at the provider (`store: false`): the conversation is ours and is sent whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_actors::event::Channel;
use fleet_actors::ports::{ChatMessage, FinishReason, ModelRequest, OutputForm, Role, ToolSpec};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer::{Answer, Flow, parse, usage};
use super::chat::{arguments_text, role};
use super::client::Terms;
use super::config::{ReasoningSummary, Temperature};
use super::failure::Fault;

#[derive(Serialize)]
pub(super) struct ResponsesBody<'a> {
    model: &'a str,
    input: Vec<Item<'a>>,
    stream: bool,
    store: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<TextFormat<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u32>,
}

/// Schemas are most of a request, and are not copied into it.
#[derive(Serialize)]
struct Tool<'a> {
    r#type: &'static str,
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
    strict: bool,
}

#[derive(Serialize)]
struct TextFormat<'a> {
    format: JsonSchema<'a>,
}

#[derive(Serialize)]
struct JsonSchema<'a> {
    r#type: &'static str,
    name: &'a str,
    schema: Arc<RawValue>,
    strict: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Message { role: &'static str, content: &'a str },
    Other(Value),
}

/// The request's body.
pub(super) fn body<'a>(request: &'a ModelRequest, terms: Terms<'a>) -> Result<ResponsesBody<'a>, Fault> {
    Ok(ResponsesBody {
        model: &request.model,
        input: request.context.messages().into_iter().flat_map(items).collect(),
        stream: true,
        store: false,
        // Strict is the default here, and it demands more of a schema than a tool's author knows of.
        tools: request
            .tools
            .iter()
            .map(|tool| &**tool)
            .map(|ToolSpec { name, description, parameters }| Tool {
                r#type: "function",
                name,
                description,
                parameters,
                strict: false,
            })
            .collect(),
        text: match &request.output {
            OutputForm::Text => None,
            OutputForm::Json { name, schema } => {
                let schema = terms.forms.of(schema).map_err(|error| Fault::schema(error.to_string()))?;
                Some(TextFormat { format: JsonSchema { r#type: "json_schema", name, schema, strict: true } })
            }
        },
        reasoning: terms.effort.map(|effort| match terms.rule.summary {
            ReasoningSummary::Omitted => json!({ "effort": effort }),
            ReasoningSummary::Auto => json!({ "effort": effort, "summary": "auto" }),
        }),
        temperature: request.temperature.filter(|_| terms.rule.temperature == Temperature::Taken),
        max_output_tokens: terms.output_tokens,
    })
}

/// A message as items: its text, then each call as an item of its own.
fn items(message: &ChatMessage) -> Vec<Item<'_>> {
    if let (Role::Tool, Some(id)) = (message.role, &message.tool_call_id) {
        return vec![Item::Other(json!({ "type": "function_call_output", "call_id": id, "output": message.content }))];
    }
    let text = (!message.content.is_empty() || message.tool_calls.is_empty()).then(|| match message.role {
        // As it was given: OpenAI takes a plain text here too, llama.cpp only this.
        Role::Assistant => Item::Other(json!({ "type": "message", "role": "assistant",
            "content": [{ "type": "output_text", "text": message.content }] })),
        Role::System | Role::User | Role::Tool => Item::Message { role: role(message.role), content: &message.content },
    });
    let calls = message.tool_calls.iter().map(|call| {
        Item::Other(json!({ "type": "function_call", "call_id": call.id, "name": call.name,
            "arguments": arguments_text(&call.arguments) }))
    });
    text.into_iter().chain(calls).collect()
}

/// What of an answer was streamed already.
#[derive(Debug, Default)]
pub(super) struct ResponsesDecoder {
    /// Parts of text, by item and part.
    texts: BTreeSet<(u64, u64)>,
    /// Items of servers that do not number them (llama.cpp), by id, in the order in which they were first seen.
    unnumbered: BTreeMap<String, u64>,
    /// Whether a tool call came before the final response.
    streamed_calls: bool,
    /// Reasoning comes raw or summarised, sometimes both; the first kind seen is the one taken.
    reasoning: Option<ReasoningKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReasoningKind {
    Raw,
    Summary,
}

impl ResponsesDecoder {
    /// Takes one event of a stream.
    pub(super) fn event(
        &mut self,
        data: &[u8],
        answer: &mut Answer<'_>,
        depth_max: u32,
        key: Option<&SecretString>,
    ) -> Result<Flow, Fault> {
        if data.trim_ascii() == b"[DONE]" {
            return Ok(Flow::Done);
        }
        let event = parse(data, depth_max)?;
        let text = |name| event.get(name).and_then(Value::as_str).unwrap_or_default();
        let number = |name| event.get(name).and_then(Value::as_u64).unwrap_or(0);
        let part = (self.place(&event), number("content_index"));
        match text("type") {
            "response.output_text.delta" | "response.refusal.delta" => {
                self.texts.insert(part);
                answer.push(Channel::Text, text("delta"));
            }
            "response.output_text.done" if self.texts.insert(part) => answer.push(Channel::Text, text("text")),
            "response.refusal.done" if self.texts.insert(part) => answer.push(Channel::Text, text("refusal")),
            "response.reasoning_text.delta" => self.reasoning(ReasoningKind::Raw, text("delta"), answer),
            "response.reasoning_summary_text.delta" => self.reasoning(ReasoningKind::Summary, text("delta"), answer),
            "response.reasoning_summary_part.added" if answer.reasoned() => {
                self.reasoning(ReasoningKind::Summary, "\n\n", answer);
            }
            "response.output_item.added" | "response.output_item.done" => {
                self.tool_call(part.0, event.get("item"), answer);
            }
            "response.function_call_arguments.delta" => answer.call(part.0, None, None, text("delta")),
            "response.function_call_arguments.done" => answer.call_arguments(part.0, text("arguments")),
            "response.completed" | "response.incomplete" | "response.failed" => {
                self.response(event.get("response").unwrap_or(&Value::Null), text("type"), answer, key)?;
                return Ok(Flow::Done);
            }
            "error" => return Err(Fault::reported(event.get("error").unwrap_or(&event), key)),
            _ => {}
        }
        Ok(Flow::More)
    }

    /// Which item of the answer an event is about: its number, else that of its id.
    fn place(&mut self, event: &Value) -> u64 {
        if let Some(index) = event.get("output_index").and_then(Value::as_u64) {
            return index;
        }
        let Some(id) = event.get("item_id").or_else(|| event.pointer("/item/id")).and_then(Value::as_str) else {
            return 0;
        };
        let next = u64::try_from(self.unnumbered.len()).unwrap_or(u64::MAX);
        *self.unnumbered.entry(id.to_owned()).or_insert(next)
    }

    /// Takes the answer of a provider that does not stream.
    pub(super) fn whole(
        &mut self,
        body: &[u8],
        answer: &mut Answer<'_>,
        depth_max: u32,
        key: Option<&SecretString>,
    ) -> Result<(), Fault> {
        let body = parse(body, depth_max)?;
        Fault::refuse_reported(&body, key)?;
        if !body.get("output").is_some_and(Value::is_array) {
            return Err(Fault::malformed("the provider's answer holds no output"));
        }
        let status = body.get("status").and_then(Value::as_str).unwrap_or("completed");
        self.response(&body, &format!("response.{status}"), answer, key)
    }

    fn reasoning(&mut self, kind: ReasoningKind, piece: &str, answer: &mut Answer<'_>) {
        if *self.reasoning.get_or_insert(kind) == kind {
            answer.push(Channel::Reasoning, piece);
        }
    }

    fn tool_call(&mut self, index: u64, item: Option<&Value>, answer: &mut Answer<'_>) {
        let Some(item) = item else { return };
        let text = |name| item.get(name).and_then(Value::as_str);
        if text("type") != Some("function_call") {
            return;
        }
        self.streamed_calls = true;
        answer.call(index, text("call_id"), text("name"), "");
        if let Some(arguments) = text("arguments").filter(|arguments| !arguments.is_empty()) {
            answer.call_arguments(index, arguments);
        }
    }

    /// The response at its end: what it holds and was not streamed, its usage, and how it ended.
    fn response(
        &mut self,
        response: &Value,
        end: &str,
        answer: &mut Answer<'_>,
        key: Option<&SecretString>,
    ) -> Result<(), Fault> {
        if end == "response.failed" {
            return Err(Fault::reported(response.get("error").unwrap_or(&Value::Null), key));
        }
        answer.model(response.get("model").and_then(Value::as_str).unwrap_or_default());
        if let Some(usage) = response.get("usage").and_then(usage) {
            answer.usage(usage);
        }
        let streamed_text = !self.texts.is_empty();
        let streamed_reasoning = answer.reasoned();
        let streamed_calls = self.streamed_calls;
        for (index, item) in (0u64..).zip(response.get("output").and_then(Value::as_array).into_iter().flatten()) {
            let parts = |name| item.get(name).and_then(Value::as_array).into_iter().flatten();
            match item.get("type").and_then(Value::as_str) {
                Some("message") if !streamed_text => {
                    for part in parts("content") {
                        let text = part.get("text").or_else(|| part.get("refusal")).and_then(Value::as_str);
                        answer.push(Channel::Text, text.unwrap_or_default());
                    }
                }
                Some("reasoning") if !streamed_reasoning => {
                    for part in parts("content").chain(parts("summary")) {
                        let kind = if part.get("type").is_some_and(|kind| kind == "summary_text") {
                            ReasoningKind::Summary
                        } else {
                            ReasoningKind::Raw
                        };
                        self.reasoning(kind, part.get("text").and_then(Value::as_str).unwrap_or_default(), answer);
                    }
                }
                Some("function_call") if !streamed_calls => self.tool_call(index, Some(item), answer),
                _ => {}
            }
        }
        match end {
            "response.completed" => answer.finish(FinishReason::Stop),
            "response.incomplete" => {
                let reason = response.pointer("/incomplete_details/reason").and_then(Value::as_str);
                answer.finish(match reason {
                    Some("content_filter") => FinishReason::ContentFilter,
                    _ => FinishReason::Length,
                });
            }
            // `cancelled`, `queued`, `in_progress`: there is no answer, and no terminator either.
            _ => {}
        }
        Ok(())
    }
}
