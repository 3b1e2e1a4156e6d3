//! Scripts as the bytes of either protocol.
//!
//! A delta is a constant beginning, one JSON string and a constant end: load benches send hundreds of thousands a second.

use std::io::Write;

use fleet_actors::event::{Channel, Usage};
use fleet_actors::ports::FinishReason;
use serde_json::{Value, json};

use super::wire::Asked;
use crate::llm::simulate::{Piece, Script};

/// Writes one answer.
#[derive(Debug)]
pub(super) enum Renderer {
    Chat(Chat),
    Responses(Responses),
}

impl Renderer {
    pub(super) fn chat(asked: &Asked, script: &Script) -> Self {
        let id = format!("chatcmpl-sim-{:016x}", script.digest);
        let model = Value::from(asked.model.as_str());
        let begin = format!(
            "data: {{\"id\":\"{id}\",\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":{model},\"choices\":"
        );
        Self::Chat(Chat { id, model, begin, include_usage: asked.include_usage })
    }

    pub(super) fn responses(asked: &Asked, script: &Script) -> Self {
        let id = format!("resp_sim_{:016x}", script.digest);
        Self::Responses(Responses { id, model: asked.model.as_str().into(), sequence: 0, item: 0, open: None })
    }

    /// What comes before the first piece.
    pub(super) fn head(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Chat(chat) => chat.delta(&json!({ "role": "assistant", "content": "" }), &Value::Null, out),
            Self::Responses(responses) => {
                let response = responses.response("in_progress", Vec::new());
                responses.event(json!({ "type": "response.created", "response": response }), out);
                responses.event(json!({ "type": "response.in_progress", "response": response }), out);
            }
        }
    }

    pub(super) fn piece(&mut self, piece: &Piece, out: &mut Vec<u8>) {
        match self {
            Self::Chat(chat) => chat.piece(piece, out),
            Self::Responses(responses) => responses.piece(piece, out),
        }
    }

    /// What comes after the last piece, the terminator included.
    pub(super) fn tail(&mut self, script: &Script, out: &mut Vec<u8>) {
        match self {
            Self::Chat(chat) => chat.tail(script, out),
            Self::Responses(responses) => responses.tail(script, out),
        }
    }

    /// The answer as one JSON document.
    pub(super) fn whole(&self, script: &Script) -> Vec<u8> {
        match self {
            Self::Chat(chat) => chat.whole(script).to_string().into_bytes(),
            Self::Responses(responses) => responses.finished(script).1.to_string().into_bytes(),
        }
    }
}

/// JSON onto a buffer, which never fails.
fn write_json(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok());
}

#[derive(Debug)]
pub(super) struct Chat {
    id: String,
    model: Value,
    /// Of every chunk, up to its choices.
    begin: String,
    include_usage: bool,
}

impl Chat {
    fn delta(&self, delta: &Value, finish: &Value, out: &mut Vec<u8>) {
        out.extend_from_slice(self.begin.as_bytes());
        let _ = write!(out, "[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n");
    }

    fn piece(&self, piece: &Piece, out: &mut Vec<u8>) {
        out.extend_from_slice(self.begin.as_bytes());
        out.extend_from_slice(b"[{\"index\":0,\"delta\":{\"");
        out.extend_from_slice(match piece.channel {
            Channel::Text => b"content",
            Channel::Reasoning => b"reasoning_content",
        });
        out.extend_from_slice(b"\":");
        write_json(out, &piece.text);
        out.extend_from_slice(b"},\"finish_reason\":null}]}\n\n");
    }

    fn tail(&self, script: &Script, out: &mut Vec<u8>) {
        for (index, call) in script.tool_calls.iter().enumerate() {
            let arguments = call.arguments.to_string();
            let middle = arguments.floor_char_boundary(arguments.len() / 2);
            let head = json!({ "tool_calls": [{ "index": index, "id": call.id, "type": "function",
                "function": { "name": call.name, "arguments": "" } }] });
            self.delta(&head, &Value::Null, out);
            for part in [&arguments[..middle], &arguments[middle..]] {
                let part = json!({ "tool_calls": [{ "index": index, "function": { "arguments": part } }] });
                self.delta(&part, &Value::Null, out);
            }
        }
        self.delta(&json!({}), &chat_finish(script.finish).into(), out);
        if self.include_usage {
            out.extend_from_slice(self.begin.as_bytes());
            let _ = write!(out, "[],\"usage\":{}}}\n\n", chat_usage(script.usage));
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn whole(&self, script: &Script) -> Value {
        let mut message = json!({ "role": "assistant", "content": script.whole(Channel::Text) });
        let reasoning = script.whole(Channel::Reasoning);
        if !reasoning.is_empty() {
            message["reasoning_content"] = reasoning.into();
        }
        if !script.tool_calls.is_empty() {
            let calls = script.tool_calls.iter().map(|call| {
                json!({ "id": call.id, "type": "function",
                    "function": { "name": call.name, "arguments": call.arguments.to_string() } })
            });
            message["content"] = Value::Null;
            message["tool_calls"] = calls.collect();
        }
        json!({ "id": self.id, "object": "chat.completion", "created": 0, "model": self.model,
            "choices": [{ "index": 0, "message": message, "finish_reason": chat_finish(script.finish) }],
            "usage": chat_usage(script.usage) })
    }
}

fn chat_finish(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content_filter",
        FinishReason::ToolCalls => "tool_calls",
    }
}

fn chat_usage(usage: Usage) -> Value {
    json!({ "prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "completion_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
        "prompt_tokens_details": { "cached_tokens": usage.cached_tokens } })
}

#[derive(Debug)]
pub(super) struct Responses {
    id: String,
    model: Value,
    sequence: u64,
    /// The place of the next item.
    item: u64,
    /// The item being written: its kind and what it holds so far.
    open: Option<(Channel, String)>,
}

impl Responses {
    fn event(&mut self, mut event: Value, out: &mut Vec<u8>) {
        event["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        let name = event["type"].as_str().unwrap_or_default();
        let _ = write!(out, "event: {name}\ndata: {event}\n\n");
    }

    fn response(&self, status: &str, output: Vec<Value>) -> Value {
        json!({ "id": self.id, "object": "response", "created_at": 0, "status": status, "model": self.model,
            "output": output, "error": null, "incomplete_details": null, "usage": null })
    }

    fn piece(&mut self, piece: &Piece, out: &mut Vec<u8>) {
        if self.open.as_ref().is_none_or(|(channel, _)| *channel != piece.channel) {
            self.close(out);
            self.open(piece.channel, out);
        }
        let (name, part) = match piece.channel {
            Channel::Text => ("response.output_text.delta", "content_index"),
            Channel::Reasoning => ("response.reasoning_summary_text.delta", "summary_index"),
        };
        let (item, sequence) = (self.item, self.sequence);
        self.sequence += 1;
        let _ = write!(
            out,
            "event: {name}\ndata: {{\"type\":\"{name}\",\"sequence_number\":{sequence},\"item_id\":\"item_{item}\",\
             \"output_index\":{item},\"{part}\":0,\"delta\":"
        );
        write_json(out, &piece.text);
        out.extend_from_slice(b"}\n\n");
        if let Some((_, text)) = &mut self.open {
            text.push_str(&piece.text);
        }
    }

    fn open(&mut self, channel: Channel, out: &mut Vec<u8>) {
        let at = self.item;
        let item = text_item(at, channel, None);
        self.event(json!({ "type": "response.output_item.added", "output_index": at, "item": item }), out);
        let part = match channel {
            Channel::Text => json!({ "type": "response.content_part.added", "item_id": format!("item_{at}"),
                "output_index": at, "content_index": 0, "part": text_part("") }),
            Channel::Reasoning => json!({ "type": "response.reasoning_summary_part.added",
                "item_id": format!("item_{at}"), "output_index": at, "summary_index": 0,
                "part": { "type": "summary_text", "text": "" } }),
        };
        self.event(part, out);
        self.open = Some((channel, String::new()));
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        let Some((channel, text)) = self.open.take() else { return };
        let at = self.item;
        let id = format!("item_{at}");
        match channel {
            Channel::Text => {
                self.event(
                    json!({ "type": "response.output_text.done", "item_id": id, "output_index": at,
                    "content_index": 0, "text": text }),
                    out,
                );
                self.event(
                    json!({ "type": "response.content_part.done", "item_id": id, "output_index": at,
                    "content_index": 0, "part": text_part(&text) }),
                    out,
                );
            }
            Channel::Reasoning => self.event(
                json!({ "type": "response.reasoning_summary_text.done", "item_id": id,
                "output_index": at, "summary_index": 0, "text": text }),
                out,
            ),
        }
        let item = text_item(at, channel, Some(&text));
        self.event(json!({ "type": "response.output_item.done", "output_index": at, "item": item }), out);
        self.item += 1;
    }

    fn tail(&mut self, script: &Script, out: &mut Vec<u8>) {
        self.close(out);
        for call in &script.tool_calls {
            let (at, arguments) = (self.item, call.arguments.to_string());
            let mut item = json!({ "type": "function_call", "id": format!("item_{at}"), "call_id": call.id,
                "name": call.name, "arguments": "", "status": "in_progress" });
            self.event(json!({ "type": "response.output_item.added", "output_index": at, "item": item }), out);
            let middle = arguments.floor_char_boundary(arguments.len() / 2);
            for part in [&arguments[..middle], &arguments[middle..]] {
                self.event(
                    json!({ "type": "response.function_call_arguments.delta", "output_index": at,
                    "item_id": format!("item_{at}"), "delta": part }),
                    out,
                );
            }
            self.event(
                json!({ "type": "response.function_call_arguments.done", "output_index": at,
                "item_id": format!("item_{at}"), "arguments": arguments }),
                out,
            );
            item["arguments"] = arguments.into();
            item["status"] = "completed".into();
            self.event(json!({ "type": "response.output_item.done", "output_index": at, "item": item }), out);
            self.item += 1;
        }
        let (name, response) = self.finished(script);
        self.event(json!({ "type": name, "response": response }), out);
    }

    /// The terminator's name and the whole response.
    fn finished(&self, script: &Script) -> (&'static str, Value) {
        let texts = [Channel::Reasoning, Channel::Text].into_iter().map(|channel| (channel, script.whole(channel)));
        let texts = texts.filter(|(_, text)| !text.is_empty());
        let mut output: Vec<Value> =
            (0u64..).zip(texts).map(|(at, (channel, text))| text_item(at, channel, Some(&text))).collect();
        for call in &script.tool_calls {
            let at = output.len();
            output.push(json!({ "type": "function_call", "id": format!("item_{at}"), "call_id": call.id,
                "name": call.name, "arguments": call.arguments.to_string(), "status": "completed" }));
        }
        let truncated = script.finish == FinishReason::Length;
        let mut response = self.response(if truncated { "incomplete" } else { "completed" }, output);
        if truncated {
            response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        let usage = script.usage;
        response["usage"] = json!({ "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            "input_tokens_details": { "cached_tokens": usage.cached_tokens },
            "output_tokens_details": { "reasoning_tokens": usage.reasoning_tokens } });
        (if truncated { "response.incomplete" } else { "response.completed" }, response)
    }
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

/// An item that holds text: open when it has none yet, else complete.
fn text_item(at: u64, channel: Channel, text: Option<&str>) -> Value {
    let id = format!("item_{at}");
    match channel {
        Channel::Text => {
            let status = if text.is_some() { "completed" } else { "in_progress" };
            let content: Vec<Value> = text.into_iter().map(text_part).collect();
            json!({ "type": "message", "id": id, "role": "assistant", "status": status, "content": content })
        }
        Channel::Reasoning => {
            let parts = text.into_iter().map(|text| json!({ "type": "summary_text", "text": text }));
            json!({ "type": "reasoning", "id": id, "summary": parts.collect::<Vec<_>>() })
        }
    }
}
