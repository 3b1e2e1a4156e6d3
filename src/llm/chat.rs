//! OpenAI's Chat Completions, as OpenAI and everybody else speak it.
//!
//! The terminator of a stream is a `finish_reason` or `[DONE]`. After a `finish_reason` the usage may still come.
//! Fields are read by name from plain JSON, so what is unknown, missing or of another type is skipped.

use std::borrow::Cow;
use std::sync::Arc;

use fleet_actors::event::Channel;
use fleet_actors::ports::{ChatMessage, FinishReason, ModelRequest, OutputForm, Role, ToolSpec};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer::{Answer, Flow, parse, usage};
use super::client::Terms;
use super::config::{Temperature, TokenLimitField};
use super::failure::Fault;

/// How deep a [`Piece`] is nested: the event, its choices, a choice, its delta.
const PIECE_DEPTH: u32 = 4;

#[derive(Serialize)]
pub(super) struct ChatBody<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    stream: bool,
    stream_options: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
}

/// Schemas are most of a request, and are not copied into it.
#[derive(Serialize)]
struct Tool<'a> {
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
}

#[derive(Serialize)]
struct ResponseFormat<'a> {
    r#type: &'static str,
    json_schema: JsonSchema<'a>,
}

#[derive(Serialize)]
struct JsonSchema<'a> {
    name: &'a str,
    schema: Arc<RawValue>,
    strict: bool,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

/// The word for a role in both protocols.
pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

/// The request's body.
pub(super) fn body<'a>(request: &'a ModelRequest, terms: Terms<'a>) -> Result<ChatBody<'a>, Fault> {
    let limit = |field| terms.output_tokens.filter(|_| terms.rule.limit == field);
    Ok(ChatBody {
        model: &request.model,
        messages: request.context.messages().into_iter().map(message).collect(),
        stream: true,
        stream_options: json!({ "include_usage": true }),
        tools: request
            .tools
            .iter()
            .map(|tool| &**tool)
            .map(|ToolSpec { name, description, parameters }| Tool {
                r#type: "function",
                function: Function { name, description, parameters },
            })
            .collect(),
        response_format: match &request.output {
            OutputForm::Text => None,
            OutputForm::Json { name, schema } => {
                let schema = terms.forms.of(schema).map_err(|error| Fault::schema(error.to_string()))?;
                Some(ResponseFormat { r#type: "json_schema", json_schema: JsonSchema { name, schema, strict: true } })
            }
        },
        reasoning_effort: terms.effort,
        temperature: request.temperature.filter(|_| terms.rule.temperature == Temperature::Taken),
        max_tokens: limit(TokenLimitField::MaxTokens),
        max_completion_tokens: limit(TokenLimitField::MaxCompletionTokens),
    })
}

fn message(message: &ChatMessage) -> Message<'_> {
    let tool_calls: Vec<Value> = message
        .tool_calls
        .iter()
        .map(|call| {
            json!({ "id": call.id, "type": "function", "function": {
                "name": call.name, "arguments": arguments_text(&call.arguments) } })
        })
        .collect();
    Message {
        role: role(message.role),
        content: (tool_calls.is_empty() || !message.content.is_empty()).then_some(&message.content),
        tool_calls,
        tool_call_id: message.tool_call_id.as_deref(),
    }
}

/// A call's arguments as the text the model wrote.
pub(super) fn arguments_text(arguments: &Value) -> String {
    arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned)
}

/// An event that holds a piece of text or ends the answer, as nearly all do: it is read without making a tree of it.
/// Whatever has another field or another type is no such event, and is read in full; an `Option<()>` takes a null alone.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "a field that stands here is one that need not be read in full")]
struct Piece<'a> {
    #[serde(borrow)]
    choices: [PieceChoice<'a>; 1],
    #[serde(borrow, default)]
    model: Cow<'a, str>,
    usage: Option<()>,
    id: Option<&'a str>,
    object: Option<&'a str>,
    created: Option<u64>,
    system_fingerprint: Option<&'a str>,
    service_tier: Option<&'a str>,
    obfuscation: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "as above")]
struct PieceChoice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    delta: PieceDelta<'a>,
    finish_reason: Option<&'a str>,
    logprobs: Option<()>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "as above")]
struct PieceDelta<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    role: Option<&'a str>,
    refusal: Option<()>,
}

/// Bytes of an event that is remembered, at most.
const AROUND_BYTES_MAX: usize = 4 << 10;

/// What stands before and behind the text in the last event, if that was a piece. The next one, as a rule, differs from it in its text
/// alone; then the text is all that is read.
#[derive(Debug, Default)]
pub(super) struct Around {
    before: Vec<u8>,
    behind: Vec<u8>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn text(json: &[u8]) -> Option<Cow<'_, str>> {
    serde_json::from_slice(json).ok().map(|Text(text)| text)
}

impl Around {
    /// The text of an event that is the last one but for it.
    fn text<'a>(&self, data: &'a [u8]) -> Option<Cow<'a, str>> {
        if self.before.is_empty() {
            return None;
        }
        text(data.strip_prefix(&*self.before)?.strip_suffix(&*self.behind)?)
    }

    /// The last event was none.
    fn forget(&mut self) {
        self.before.clear();
        self.behind.clear();
    }

    /// Remembers an event with this text in it.
    fn learn(&mut self, data: &[u8], text: &RawValue) {
        if data.len() > AROUND_BYTES_MAX {
            return;
        }
        let Some(begin) = text.get().as_ptr().addr().checked_sub(data.as_ptr().addr()) else { return };
        let (Some(before), Some(behind)) = (data.get(..begin), data.get(begin + text.get().len()..)) else { return };
        self.before.extend_from_slice(before);
        self.behind.extend_from_slice(behind);
    }
}

/// An event that can be read the short way, and its text.
fn piece(data: &[u8]) -> Option<(Piece<'_>, Cow<'_, str>)> {
    let piece: Piece<'_> = serde_json::from_slice(data).ok()?;
    let text = piece.choices[0].delta.content.map_or(Some(Cow::Borrowed("")), |json| text(json.get().as_bytes()))?;
    (piece.choices[0].index == 0).then_some((piece, text))
}

/// Takes one event of a stream.
pub(super) fn event(
    data: &[u8],
    around: &mut Around,
    answer: &mut Answer<'_>,
    depth_max: u32,
    key: Option<&SecretString>,
) -> Result<Flow, Fault> {
    if let Some(text) = around.text(data) {
        answer.push(Channel::Text, &text);
        return Ok(Flow::More);
    }
    around.forget();
    if data.trim_ascii() == b"[DONE]" {
        answer.finish(FinishReason::Stop);
        return Ok(Flow::Done);
    }
    if let Some((Piece { choices: [choice], model, .. }, text)) = piece(data).filter(|_| depth_max >= PIECE_DEPTH) {
        answer.model(&model);
        answer.push(Channel::Text, &text);
        match (choice.finish_reason, choice.delta.content) {
            (Some(reason), _) => answer.finish(finish_reason(reason)),
            (None, Some(text)) => around.learn(data, text),
            (None, None) => {}
        }
        return Ok(Flow::More);
    }
    in_full(data, answer, depth_max, key)
}

/// Takes an event whatever it holds.
fn in_full(data: &[u8], answer: &mut Answer<'_>, depth_max: u32, key: Option<&SecretString>) -> Result<Flow, Fault> {
    let chunk = parse(data, depth_max)?;
    Fault::refuse_reported(&chunk, key)?;
    head(&chunk, answer);
    let choices = chunk.get("choices").and_then(Value::as_array).into_iter().flatten();
    for choice in choices.filter(|choice| choice.get("index").and_then(Value::as_u64).unwrap_or(0) == 0) {
        if let Some(delta) = choice.get("delta") {
            content(delta, answer);
        }
        if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
            answer.finish(finish_reason(reason));
        }
    }
    Ok(Flow::More)
}

/// Takes the answer of a provider that does not stream.
pub(super) fn whole(
    body: &[u8],
    answer: &mut Answer<'_>,
    depth_max: u32,
    key: Option<&SecretString>,
) -> Result<(), Fault> {
    let body = parse(body, depth_max)?;
    Fault::refuse_reported(&body, key)?;
    head(&body, answer);
    let Some(choice) = body.pointer("/choices/0") else {
        return Err(Fault::malformed("the provider's answer holds no choice"));
    };
    if let Some(message) = choice.get("message") {
        content(message, answer);
    }
    answer.finish(choice.get("finish_reason").and_then(Value::as_str).map_or(FinishReason::Stop, finish_reason));
    Ok(())
}

fn head(body: &Value, answer: &mut Answer<'_>) {
    if let Some(usage) = body.get("usage").and_then(usage) {
        answer.usage(usage);
    }
    answer.model(body.get("model").and_then(Value::as_str).unwrap_or_default());
}

/// A delta of a stream or the message of a whole answer: they have the same fields.
fn content(delta: &Value, answer: &mut Answer<'_>) {
    // Reasoning has no field of OpenAI's; these are the two that others use, some both at once.
    let reasoning = ["reasoning_content", "reasoning"].iter().find_map(|name| delta.get(name)?.as_str());
    answer.push(Channel::Reasoning, reasoning.unwrap_or_default());
    match delta.get("content") {
        Some(Value::String(text)) => answer.push(Channel::Text, text),
        Some(Value::Array(parts)) => {
            for text in parts.iter().filter_map(|part| part.get("text")?.as_str()) {
                answer.push(Channel::Text, text);
            }
        }
        _ => {}
    }
    // A refusal is the model's answer in its own words.
    answer.push(Channel::Text, delta.get("refusal").and_then(Value::as_str).unwrap_or_default());
    for call in delta.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
        let text = |path| call.pointer(path).and_then(Value::as_str);
        let id = text("/id").filter(|id| !id.is_empty());
        let (last, next) = answer.call_places();
        // Some providers number no calls: one with an id is a new one.
        let index = call.get("index").and_then(Value::as_u64).unwrap_or(if id.is_some() { next } else { last });
        answer.call(index, id, text("/function/name"), text("/function/arguments").unwrap_or_default());
    }
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "length" | "max_tokens" => FinishReason::Length,
        "content_filter" => FinishReason::ContentFilter,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        _ => FinishReason::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an event does, read by `read`: the deltas, the model's name, and whether it was taken at all.
    fn told(
        read: impl FnOnce(&[u8], &mut Answer<'_>, u32, Option<&SecretString>) -> Result<Flow, Fault>,
        data: &str,
    ) -> (Vec<String>, String, bool) {
        let mut pieces = Vec::new();
        let mut push =
            |delta: fleet_actors::ports::ModelDelta| pieces.push(format!("{:?} {}", delta.channel, delta.text));
        let mut answer = Answer::new("asked", &mut push);
        let taken = read(data.as_bytes(), &mut answer, 64, None).is_ok();
        answer.finish(FinishReason::Stop);
        let reply = answer.into_reply(64).expect("a reply");
        (pieces, format!("{reply:?}"), taken)
    }

    #[test]
    fn an_event_that_is_read_the_short_way_says_what_it_says_in_full() {
        let short = [
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"length"}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"tool_calls","logprobs":null,"index":0}]}"#,
            r#"{"choices":[{"delta":{"content":null},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}}]}"#,
            r#"{"id":"x","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[{"index":0,"delta":{"role":"assistant","content":"\u00e9 \"q\" \n"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
            r#" {"model":"m","service_tier":"default","system_fingerprint":null,"obfuscation":"zz","choices":[{"delta":{"content":"","refusal":null}}]} "#,
        ];
        let full = [
            r#"{"choices":[{"index":1,"delta":{"content":"of another choice"}}]}"#,
            r#"{"choices":[{"delta":{"content":null,"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{}"}}]}}]}"#,
            r#"{"choices":[{"delta":{"content":"a","reasoning":"r"}}]}"#,
            r#"{"choices":[{"delta":{"content":["not","text"]}}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            r#"{"choices":[{"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}}],"error":{"message":"no"}}"#,
            r#"{"choices":[{"delta":{"content":"a","content":"b"}}]}"#,
            r#"{"choices":[{"delta":{"refusal":"I will not"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}}],"created":1.5}"#,
            "{oops",
        ];
        for data in short {
            assert!(piece(data.as_bytes()).is_some(), "{data}");
            assert_eq!(told(first, data), told(in_full, data), "{data}");
        }
        for data in full {
            assert!(piece(data.as_bytes()).is_none(), "{data}");
            assert_eq!(told(first, data), told(in_full, data), "{data}");
        }
    }

    /// An event that none was before.
    fn first(data: &[u8], answer: &mut Answer<'_>, depth_max: u32, key: Option<&SecretString>) -> Result<Flow, Fault> {
        event(data, &mut Around::default(), answer, depth_max, key)
    }

    #[test]
    fn an_event_like_the_last_one_says_what_it_says_in_full_and_one_that_only_looks_like_it_too() {
        let like = |text: &str| format!(r#"{{"model":"m","choices":[{{"delta":{{"content":{text}}},"index":0}}]}}"#);
        let learnt = || {
            let mut around = Around::default();
            assert!(around.text(like(r#""a""#).as_bytes()).is_none(), "nothing is known yet");
            told(|data, answer, depth, key| event(data, &mut around, answer, depth, key), &like(r#""a""#));
            around
        };
        let texts = ["\"b\"", r#""""#, r#""é \" \n \\""#, r#""\u00e9""#, r#""},\"index\":0}]}""#, " \"c\" "];
        for text in texts {
            let (data, mut around) = (like(text), learnt());
            assert!(around.text(data.as_bytes()).is_some(), "{data}");
            let short = told(|data, answer, depth, key| event(data, &mut around, answer, depth, key), &data);
            // The model's name came with the event before.
            assert_eq!((short.0, short.2), (told(in_full, &data).0, true), "{data}");
        }
        let others = [
            "null",
            "17",
            r#""cut"#,
            r#""two","content":"times""#,
            r#""a","tool_calls":[{"index":0,"id":"c","function":{"name":"f"}}]"#,
            r#""a"},"finish_reason":"length","x":{"y":"b""#,
            "[\"not\"]",
            "\"\u{1}\"",
        ];
        for text in others {
            let (data, mut around) = (like(text), learnt());
            assert!(around.text(data.as_bytes()).is_none(), "{data}");
            let long = told(|data, answer, depth, key| event(data, &mut around, answer, depth, key), &data);
            assert_eq!(long, told(in_full, &data), "{data}");
            assert!(
                around.text(like(r#""b""#).as_bytes()).is_none(),
                "the last event was none, whose name of the model counts"
            );
        }
    }
}
