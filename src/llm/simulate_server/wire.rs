//! Requests of both protocols as the simulated model understands them. What it does not know it skips.

use std::borrow::Cow;
use std::sync::Arc;

use fleet_actors::ports::{ReasoningEffort, Role};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::llm::simulate::SimulatedRequest;
use crate::memo::Memo;

/// Room for the parts of bodies that are kept.
const KEPT_BYTES: usize = 4 << 20;
/// A part takes about so many times the bytes of its text.
const TREE: usize = 8;

/// The parts of bodies that come again with other messages, read once: callers ask for few forms and offer few tools.
#[derive(Debug)]
pub(super) struct Parts {
    forms: Memo<String, Arc<Form>>,
    tools: Memo<String, Arc<Vec<Tool>>>,
}

impl Default for Parts {
    fn default() -> Self {
        Self { forms: Memo::new(KEPT_BYTES), tools: Memo::new(KEPT_BYTES) }
    }
}

/// The form that an answer must have.
#[derive(Debug, Default)]
struct Form {
    name: String,
    schema: Option<Value>,
    /// The schema as text.
    text: String,
}

/// A tool's name and the schema of its arguments.
type Tool = (String, Value);

impl Parts {
    /// The form that `raw` holds, `at` says where.
    fn form(&self, raw: Option<&RawValue>, at: &str) -> Arc<Form> {
        kept(&self.forms, raw, |mut body| {
            let Some(form) = body.pointer_mut(at) else { return Form::default() };
            let schema = form.get_mut("schema").map(Value::take);
            let text = schema.as_ref().map(Value::to_string).unwrap_or_default();
            Form { name: words(form, "/name"), schema, text }
        })
    }

    /// The tools that `raw` lists, each `inside` a part of its own.
    fn tools(&self, raw: Option<&RawValue>, inside: &str) -> Arc<Vec<Tool>> {
        kept(&self.tools, raw, |mut listed| {
            let tools = listed.as_array_mut().into_iter().flatten().filter_map(|tool| {
                let tool = tool.pointer_mut(inside)?;
                let name = tool.get("name")?.as_str()?.to_owned();
                Some((name, tool.get_mut("parameters").map(Value::take).unwrap_or_default()))
            });
            tools.collect()
        })
    }
}

fn kept<T: Default>(memo: &Memo<String, Arc<T>>, raw: Option<&RawValue>, make: impl FnOnce(Value) -> T) -> Arc<T> {
    let Some(text) = raw.map(RawValue::get) else { return Arc::default() };
    memo.get(text.to_owned(), || (Arc::new(make(value(raw))), TREE * text.len()))
}

/// A call as it was asked, whichever protocol asked.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) stream: bool,
    /// Chat Completions sends usage in a stream only to who asks for it.
    pub(super) include_usage: bool,
    messages: Vec<(Role, String)>,
    tools: Arc<Vec<Tool>>,
    form: Arc<Form>,
    effort: Option<ReasoningEffort>,
    max_tokens: Option<u32>,
}

/// What is read of a body, of either protocol.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    stream_options: Option<&'a RawValue>,
    messages: Option<&'a RawValue>,
    instructions: Option<&'a RawValue>,
    input: Option<&'a RawValue>,
    tools: Option<&'a RawValue>,
    response_format: Option<&'a RawValue>,
    text: Option<&'a RawValue>,
    reasoning_effort: Option<&'a RawValue>,
    reasoning: Option<&'a RawValue>,
    max_completion_tokens: Option<&'a RawValue>,
    max_tokens: Option<&'a RawValue>,
    max_output_tokens: Option<&'a RawValue>,
}

impl Asked {
    /// A body of Chat Completions; `None` if it is none.
    pub(super) fn chat(body: &[u8], parts: &Parts) -> Option<Self> {
        let body: Body<'_> = serde_json::from_slice(body).ok()?;
        let Value::Array(messages) = value(body.messages) else { return None };
        Some(Self {
            include_usage: value(body.stream_options).get("include_usage") == Some(&Value::Bool(true)),
            messages: messages.into_iter().map(|message| (role(&message), text(message))).collect(),
            tools: parts.tools(body.tools, "/function"),
            form: parts.form(body.response_format, "/json_schema"),
            effort: value(body.reasoning_effort).as_str().and_then(effort),
            max_tokens: number(body.max_completion_tokens).or_else(|| number(body.max_tokens)),
            ..Self::head(&body)?
        })
    }

    /// A body of Responses; `None` if it is none.
    pub(super) fn responses(body: &[u8], parts: &Parts) -> Option<Self> {
        let body: Body<'_> = serde_json::from_slice(body).ok()?;
        let mut messages = Vec::new();
        if let Value::String(instructions) = value(body.instructions) {
            messages.push((Role::System, instructions));
        }
        match value(body.input) {
            Value::String(text) => messages.push((Role::User, text)),
            Value::Array(items) => messages.extend(items.into_iter().map(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
        }
        Some(Self {
            messages,
            tools: parts.tools(body.tools, ""),
            form: parts.form(body.text, "/format"),
            effort: value(body.reasoning).get("effort").and_then(Value::as_str).and_then(effort),
            max_tokens: number(body.max_output_tokens),
            ..Self::head(&body)?
        })
    }

    fn head(body: &Body<'_>) -> Option<Self> {
        let Value::String(model) = value(body.model) else { return None };
        Some(Self { model, stream: value(body.stream) == Value::Bool(true), ..Self::default() })
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
            schema: self.form.schema.as_ref(),
            schema_text: Some(&self.form.text),
            schema_name: &self.form.name,
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

/// What a part of a body says; what is not there says null.
fn value(raw: Option<&RawValue>) -> Value {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

fn number(raw: Option<&RawValue>) -> Option<u32> {
    value(raw).as_u64().and_then(|n| u32::try_from(n).ok())
}
