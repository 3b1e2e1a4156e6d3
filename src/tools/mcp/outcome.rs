//! What a server's answer becomes: text for the model, data for programs, or a failure; capped, and without what it must
//! not repeat.
//!
//! Absent on purpose: following links. A resource that a server names is a note; nothing is fetched for it.

use fleet_actors::event::Failure;
use fleet_actors::ports::ToolOutput;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, ResourceContents};
use serde_json::Value;

/// Characters of a failure's text.
const FAILURE_CHARS_MAX: usize = 2_000;
/// A shorter value is more likely a word than a secret.
const SECRET_CHARS_MIN: usize = 6;

/// Values that must not come back: those of the variables a server was given.
#[derive(Clone, Default)]
pub(super) struct Redactor(Vec<String>);

impl Redactor {
    pub(super) fn new(values: impl IntoIterator<Item = String>) -> Self {
        let mut values: Vec<String> = values.into_iter().filter(|value| value.len() >= SECRET_CHARS_MIN).collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Self(values)
    }

    pub(super) fn text(&self, text: String) -> String {
        self.0.iter().fold(text, |text, secret| {
            if text.contains(secret.as_str()) { text.replace(secret.as_str(), "[redacted]") } else { text }
        })
    }

    /// Whether there is anything to take out.
    pub(super) fn finds(&self, text: &str) -> bool {
        self.0.iter().any(|secret| text.contains(secret.as_str()))
    }

    fn value(&self, value: Value) -> Value {
        if self.0.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.value(item)).collect()),
            Value::Object(entries) => {
                Value::Object(entries.into_iter().map(|(key, value)| (self.text(key), self.value(value))).collect())
            }
            plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
        }
    }
}

/// The outcome of a call that was answered.
pub(super) fn outcome(
    response: CallToolResponse,
    bytes_max: usize,
    redactor: &Redactor,
) -> Result<ToolOutput, Failure> {
    match response {
        CallToolResponse::Complete(result) => complete(result, bytes_max, redactor),
        CallToolResponse::InputRequired(_) => Err(failed("the tool asks for input in the middle of a call".to_owned())),
        CallToolResponse::Task(_) => Err(failed("the tool answers with a task to wait for".to_owned())),
        _ => Err(failed("the tool answers in a form that is not known".to_owned())),
    }
}

fn complete(result: CallToolResult, bytes_max: usize, redactor: &Redactor) -> Result<ToolOutput, Failure> {
    let mut text = String::new();
    let mut full = false;
    for block in result.content {
        let part = part(block);
        // One block above the cap is enough; what follows would be cut anyway.
        if full {
            break;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&part);
        full = text.len() > bytes_max;
    }
    let data = result.structured_content.unwrap_or_default();
    if text.is_empty() && !data.is_null() {
        text = data.to_string();
    }
    let mut text = redactor.text(text);
    let cut = truncate(&mut text, bytes_max);
    if result.is_error == Some(true) {
        return Err(failed(if text.is_empty() { "the tool failed without a word".to_owned() } else { text }));
    }
    let large = !data.is_null() && data.to_string().len() > bytes_max;
    let data = if large { Value::Null } else { redactor.value(data) };
    let degraded = (cut || large).then(|| format!("the result has more than {bytes_max} bytes and was cut"));
    Ok(ToolOutput { text, data, degraded, ..ToolOutput::default() })
}

fn part(block: ContentBlock) -> String {
    let note = |what: &str, mime: &str, size: usize| format!("[{what} {mime}, {} bytes, not shown]", size * 3 / 4);
    match block {
        ContentBlock::Text(content) => content.text,
        ContentBlock::Image(content) => note("image", &content.mime_type, content.data.len()),
        ContentBlock::Audio(content) => note("audio", &content.mime_type, content.data.len()),
        ContentBlock::Resource(content) => match content.resource {
            ResourceContents::TextResourceContents { uri, text, .. } => format!("[resource {uri}]\n{text}"),
            ResourceContents::BlobResourceContents { uri, mime_type, blob, .. } => {
                note(&format!("resource {uri}"), mime_type.as_deref().unwrap_or("of unknown type"), blob.len())
            }
            _ => "[resource of unknown form]".to_owned(),
        },
        ContentBlock::ResourceLink(link) => format!("[link to {}: {}]", link.name, link.uri),
        _ => "[content of unknown form]".to_owned(),
    }
}

/// A failure that the tool itself reports.
pub(super) fn failed(mut text: String) -> Failure {
    if let Some((end, _)) = text.char_indices().nth(FAILURE_CHARS_MAX) {
        truncate(&mut text, end);
    }
    Failure::new("tool_failed", text)
}

/// Cuts at a character's end; whether anything was cut.
fn truncate(text: &mut String, bytes_max: usize) -> bool {
    if text.len() <= bytes_max {
        return false;
    }
    let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    true
}
