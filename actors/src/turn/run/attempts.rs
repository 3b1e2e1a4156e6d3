//! Attempts of steps: started, streamed, completed, failed or void, each as a record and the event that shows it.

use std::sync::Arc;

use super::{Halt, OpenStep, Run, json};
use crate::event::{Channel, EventBody, Failure, LogEvent, Usage};
use crate::ids::Position;
use crate::journal::{DeltaMark, Record};
use crate::mutant::{self, Mutant};
use crate::ports::{ModelDelta, ModelReply, ToolOutput};

impl Run {
    /// Writes the intent of an attempt.
    pub fn start_attempt(&self, path: &Arc<str>, open: OpenStep, key: &Arc<str>) -> Position {
        let at = open.started_at;
        let record = Record::StepStarted {
            at,
            attempt: open.attempt,
            step: open.kind,
            audience: open.audience,
            agent: open.agent.clone(),
            key: key.clone(),
            input: open.input.clone(),
        };
        let event = EventBody::StepStarted {
            step: path.clone(),
            attempt: open.attempt,
            kind: open.kind,
            audience: open.audience,
            agent: open.agent.clone(),
        };
        self.open.borrow_mut().insert(path.clone(), open);
        self.progressed();
        self.push_event(path, at, record, None, event)
    }

    /// Streams a piece of a model's text.
    pub fn delta(&self, path: &Arc<str>, delta: ModelDelta) {
        let bytes = self.text_bytes.get() + delta.text.len() as u64;
        self.text_bytes.set(bytes);
        if bytes > self.limits.text_bytes_max {
            let max = self.limits.text_bytes_max;
            self.halt(Halt::Failed(Failure::new("limit_reached", format!("the run streamed more than {max} bytes"))));
        }
        self.progressed();
        if delta.text.is_empty() || self.halt.borrow().is_some() {
            return;
        }
        let seq = self.next_seq();
        let mut open = self.open.borrow_mut();
        let Some(step) = open.get_mut(path) else { return };
        let (kept, scalars) = match delta.channel {
            Channel::Text => (&mut step.text, &mut step.scalars[0]),
            Channel::Reasoning => (&mut step.reasoning, &mut step.scalars[1]),
        };
        kept.push_str(&delta.text);
        let length = u32::try_from(delta.text.chars().count()).unwrap_or(u32::MAX);
        let offset = *scalars;
        *scalars += u64::from(length);
        step.marks.push(DeltaMark(self.numbers.get(), delta.channel, length));
        let body = EventBody::Delta {
            step: path.clone(),
            attempt: step.attempt,
            channel: delta.channel,
            offset,
            text: delta.text.into(),
            audience: step.audience,
            agent: step.agent.clone(),
        };
        drop(open);
        let event = LogEvent { seq, at: self.now(), body };
        if mutant::is(Mutant::DeltasOvertake) {
            return self.log.overtake(event);
        }
        self.log.push(self.head.get(), event);
        // Nothing needs a commit for a delta, but it may be visible at once.
        self.log.reveal(self.durable.get());
    }

    /// The attempt has a reply. Its text is what was streamed, so that a log read again is the log that was seen.
    pub fn complete_model(&self, path: &Arc<str>, mut reply: ModelReply) -> ModelReply {
        let Some(open) = self.open.borrow_mut().remove(path) else { return reply };
        if !open.text.is_empty() {
            reply.text = open.text.clone();
        }
        if !open.reasoning.is_empty() {
            reply.reasoning = open.reasoning.clone();
        }
        if mutant::is(Mutant::CompletedWithoutText) {
            reply.text.clear();
        }
        self.spend.borrow_mut().add_model(open.agent.as_ref(), reply.usage.unwrap_or_default());
        let texts = (Some(Arc::from(reply.text.as_str())), Some(Arc::from(reply.reasoning.as_str())));
        self.complete(path, open, json(&reply), reply.usage, texts);
        reply
    }

    /// The attempt of a tool has a result.
    pub fn complete_tool(&self, path: &Arc<str>, result: &ToolOutput) {
        let Some(open) = self.open.borrow_mut().remove(path) else { return };
        self.spend.borrow_mut().add_tool(open.agent.as_ref());
        self.complete(path, open, json(result), None, (None, None));
    }

    pub(super) fn complete(
        &self,
        path: &Arc<str>,
        open: OpenStep,
        body: Arc<str>,
        usage: Option<Usage>,
        (text, reasoning): (Option<Arc<str>>, Option<Arc<str>>),
    ) {
        let at = self.now();
        let record = Record::StepCompleted {
            at,
            attempt: open.attempt,
            step: open.kind,
            audience: open.audience,
            agent: open.agent.clone(),
            input: open.input,
            started_at: open.started_at,
            usage,
            deltas: open.marks,
        };
        let event = EventBody::StepCompleted {
            step: path.clone(),
            attempt: open.attempt,
            kind: open.kind,
            audience: open.audience,
            agent: open.agent,
            text,
            reasoning,
            usage,
            started_at: open.started_at,
        };
        self.progressed();
        self.push_event(path, at, record, Some(body), event);
    }

    /// The attempt failed for good.
    pub fn fail(&self, path: &Arc<str>, error: &Failure) {
        let Some(open) = self.open.borrow_mut().remove(path) else { return };
        let at = self.now();
        let record = Record::StepFailed {
            at,
            attempt: open.attempt,
            step: open.kind,
            audience: open.audience,
            input: open.input,
            started_at: open.started_at,
            error: error.clone(),
        };
        let event = EventBody::StepFailed {
            step: path.clone(),
            attempt: open.attempt,
            kind: open.kind,
            audience: open.audience,
            error: error.clone(),
            started_at: open.started_at,
        };
        self.progressed();
        self.push_event(path, at, record, None, event);
    }

    /// The attempt will have no result.
    pub fn void(&self, path: &Arc<str>, attempt: u32, reason: &str) {
        let reason: Arc<str> = reason.into();
        let at = self.now();
        let record = Record::StepVoided { at, attempt, reason: reason.clone() };
        let event = EventBody::StepVoided { step: path.clone(), attempt, reason };
        self.push_event(path, at, record, None, event);
    }

    /// Voids every open step under `prefix` and withdraws its questions.
    pub fn void_under(&self, prefix: &str, reason: &str) {
        let under: Vec<_> = self.open.borrow().keys().filter(|path| path.starts_with(prefix)).cloned().collect();
        for path in under {
            let Some(open) = self.open.borrow_mut().remove(&path) else { continue };
            if let Some(question) = open.question {
                self.closed.borrow_mut().push(question);
            }
            self.void(&path, open.attempt, reason);
        }
        self.waiting.borrow_mut().retain(|path, _| !path.starts_with(prefix));
    }

    /// Voids a branch that lost a race, what an earlier life left of it and this one never reached included.
    pub fn void_loser(&self, prefix: &str) {
        self.void_under(prefix, "lost_race");
        let mut asked: Vec<_> = self.past.unread_questions(prefix);
        asked.sort();
        for (path, question) in asked {
            self.closed.borrow_mut().push(question);
            self.void(&path, 1, "lost_race");
        }
        self.past.mark_read(prefix);
    }

    /// Voids one open attempt, to retry it.
    pub fn void_to_retry(&self, path: &Arc<str>) {
        let open = self.open.borrow_mut().remove(path);
        if let Some(open) = open {
            self.void(path, open.attempt, "retry");
        }
    }
}
