//! The fast path: a short, simple first message gets one direct model call.
//!
//! A message with a conversation before it never takes it by itself. A client may force it then, and the call is given the
//! conversation.

use std::sync::Arc;

use fleet_actors::event::{Audience, Failure};
use fleet_actors::journal::Context;
use fleet_actors::ports::{ChatMessage, MessageRow, ModelRequest, OutputForm, RunOutput, TaskInput};
use fleet_actors::turn::{StepResult, Turn};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::WorkflowConfig;
use super::events::FleetEvent;
use super::fleet::asked;
use crate::prompts::render_spoken;
use crate::prompts::signatures::SimpleResponse;

/// Which messages need no agent. Phrases are lower case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FastPathRules {
    /// Whether there is a fast path at all.
    pub enabled: bool,
    /// Longer messages are not simple.
    pub max_chars: usize,
    /// A message must begin with one of these.
    pub patterns: Vec<String>,
    /// And must hold none of these: their answer changes with the day.
    pub time_sensitive: Vec<String>,
}

impl FastPathRules {
    /// No fast path.
    #[must_use]
    pub fn none() -> Self {
        Self { enabled: false, max_chars: 0, patterns: Vec::new(), time_sensitive: Vec::new() }
    }

    /// Whether `message`, the first of its conversation, needs no agent.
    #[must_use]
    pub fn fits(&self, message: &str) -> bool {
        let message = message.trim().to_lowercase();
        self.enabled
            && message.chars().count() <= self.max_chars
            && self.patterns.iter().any(|phrase| begins_with(&message, phrase))
            && !self.time_sensitive.iter().any(|phrase| holds(&message, phrase))
    }
}

/// Whether the text begins with the phrase and the phrase ends at the end of a word: "hi there" begins with "hi",
/// "history" does not.
fn begins_with(text: &str, phrase: &str) -> bool {
    text.strip_prefix(phrase).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric) || ends_open(phrase))
}

/// Scripts without spaces, and phrases that end in punctuation, have no word boundary to look for.
fn ends_open(phrase: &str) -> bool {
    phrase.chars().last().is_some_and(|last| !last.is_alphanumeric() || ('\u{2e80}'..='\u{9fff}').contains(&last))
}

fn holds(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(char::is_alphanumeric);
        (!before || ends_open(phrase)) && begins_with(&text[at..], phrase)
    })
}

pub(super) async fn answer(
    turn: &mut Turn,
    input: &TaskInput,
    config: &WorkflowConfig,
    history: &[MessageRow],
) -> StepResult<RunOutput> {
    let before = history.iter().map(|message| ChatMessage::new(message.role, message.content.clone()));
    let conversation = before.chain([asked(input, input.message.clone())]);
    let agent = config.roster.get(&config.pipeline.default_agent).or_else(|| config.roster.iter().next());
    let request = ModelRequest {
        model: agent.map_or(&config.prompts.model, |agent| &agent.model).as_str().into(),
        agent: None,
        audience: Audience::User,
        context: Context::of(render_spoken::<SimpleResponse>(&config.prompts, conversation)),
        tools: Arc::from([]),
        output: OutputForm::Text,
        temperature: agent.and_then(|agent| agent.temperature),
        max_output_tokens: config.output_tokens_max,
    };
    let reply = turn.model("answer", request).await?;
    if reply.text.trim().is_empty() && !reply.finish_reason.truncates() {
        return Err(Failure::new("no_agent_answered", "the fast path got an empty answer"));
    }
    let spend = turn.spent();
    turn.emit(&FleetEvent::plain_answer(reply.text.clone(), reply.finish_reason, &spend));
    let metadata = json!({
        "mode": "fast_path",
        "model": reply.model,
        "simulated": reply.simulated,
        "model_calls": spend.model_calls,
        "usage": spend.usage,
        "finish_reason": reply.finish_reason,
        "truncated": reply.finish_reason.truncates(),
    });
    Ok(RunOutput { text: reply.text, finish_reason: reply.finish_reason, metadata, ..RunOutput::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> FastPathRules {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        FastPathRules {
            enabled: true,
            max_chars: 60,
            patterns: words(&["hi", "hello", "thanks", "what is", "你好", "¿qué es"]),
            time_sensitive: words(&["today", "now", "今天"]),
        }
    }

    #[test]
    fn a_short_simple_message_takes_the_fast_path_and_others_do_not() {
        let table = [
            ("Hi!", true),
            ("  hello there", true),
            ("history of rome", false),
            ("what is rust?", true),
            ("what is knowledge", true),
            ("what is the weather today", false),
            ("what is it now?", false),
            ("你好吗", true),
            ("你好，今天怎么样", false),
            ("¿Qué es un perro?", true),
            ("", false),
            ("compare a and b", false),
            ("hi, please write a long report about everything there is to know", false),
        ];
        for (message, fast) in table {
            assert_eq!(rules().fits(message), fast, "{message}");
        }
        assert!(!FastPathRules { enabled: false, ..rules() }.fits("hi"));
    }
}
