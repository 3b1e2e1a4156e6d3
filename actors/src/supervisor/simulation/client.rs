//! What a client makes of the events it gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::{Channel, EventBody, LogEvent};
use crate::ids::Seq;

/// The text of every step and the ordered events that are no deltas.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Client {
    pub last: Seq,
    texts: BTreeMap<(String, u32), [String; 2]>,
    events: Vec<(Seq, EventBody)>,
}

impl Client {
    /// The first thing in which two clients differ.
    pub fn difference(&self, other: &Self) -> String {
        let events = self.events.iter().zip(&other.events).find(|(a, b)| a != b);
        let texts = self.texts.iter().find(|(step, text)| other.texts.get(*step) != Some(*text));
        let missing = other.texts.keys().find(|step| !self.texts.contains_key(*step));
        let counts = (self.events.len(), other.events.len());
        format!("events {events:?}, texts {texts:?}, missing {missing:?}, counts {counts:?}")
    }

    /// Applies one event; the error says how the stream broke its rules.
    pub fn apply(&mut self, event: &LogEvent) -> Result<(), String> {
        if event.seq <= self.last {
            return Err(format!("number {} came after {}", event.seq, self.last));
        }
        self.last = event.seq;
        match &event.body {
            EventBody::Delta { step, attempt, channel, offset, text, .. } => {
                let texts = self.texts.entry((step.to_string(), *attempt)).or_default();
                let known = &mut texts[usize::from(*channel == Channel::Reasoning)];
                if known.chars().count() as u64 != *offset {
                    return Err(format!("delta of {step} at {offset} follows {} scalars", known.chars().count()));
                }
                known.push_str(text);
                return Ok(());
            }
            EventBody::StepCompleted { step, attempt, text, reasoning, .. } => {
                let whole = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
                self.texts.insert((step.to_string(), *attempt), [whole(text), whole(reasoning)]);
            }
            EventBody::StepVoided { step, attempt, .. } | EventBody::StepFailed { step, attempt, .. } => {
                self.texts.remove(&(step.to_string(), *attempt));
            }
            EventBody::StepStarted { .. }
            | EventBody::Emitted { .. }
            | EventBody::Asked { .. }
            | EventBody::Answered { .. }
            | EventBody::Cancelled { .. }
            | EventBody::Error { .. }
            | EventBody::Finished { .. } => {}
        }
        self.events.push((event.seq, event.body.clone()));
        Ok(())
    }
}
