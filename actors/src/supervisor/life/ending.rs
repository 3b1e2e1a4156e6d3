//! How a life ends: what the function returned, a cancel, a failure or a halt becomes the run's last append, and its children.

use std::sync::Arc;

use super::{Life, LifeEnd, StartFailure};
use crate::event::{EventBody, Failure, RunOutcome};
use crate::ids::{Epoch, Position, Timestamp, WorkflowId};
use crate::journal::{Positioned, Record, encode};
use crate::ports::{
    ChildRun, HistoryRow, MessageRow, NewChild, NewWorkflow, Next, OnDisconnect, Quality, Rest, Role, RunOutput,
};
use crate::turn::{Halt, StepResult, json};

/// A life's last append, beside its records.
pub(super) struct Closing {
    pub next: Next,
    pub said: Vec<MessageRow>,
    pub children: Vec<NewChild>,
    pub end: LifeEnd,
}

impl Closing {
    pub fn plain(next: Next, end: LifeEnd) -> Self {
        Self { next, said: Vec::new(), children: Vec::new(), end }
    }
}

impl Life {
    pub(super) fn over(&mut self) -> LifeEnd {
        match self.closing.take() {
            Some(closing) => closing.end,
            None => LifeEnd::Fenced,
        }
    }

    pub(super) async fn returned(&mut self, result: StepResult<RunOutput>) {
        self.function = None;
        match result {
            Ok(output) => {
                if let Some(divergence) = self.run.past.unread() {
                    return self.halted(Halt::Diverged(divergence)).await;
                }
                self.close(RunOutcome::Completed, Some(output), None);
            }
            Err(failure) => self.fail(failure),
        }
    }

    pub(super) async fn halted(&mut self, halt: Halt) {
        self.function = None;
        match halt {
            Halt::Failed(failure) => self.fail(failure),
            Halt::Diverged(divergence) => {
                // What this life put in order is not written; what is in flight is.
                self.settle().await;
                drop(self.run.take_batch());
                let text = format!("replay_diverged: {divergence}");
                tracing::error!(workflow = %self.run.workflow, path = %divergence.path, "replay diverged: {}", divergence.detail);
                self.refuse(StartFailure::Rests(Rest::Quarantined, text.clone()));
                let end = LifeEnd::Rested(Rest::Quarantined, text);
                self.closing = Some(Closing::plain(Next::Resting(Rest::Quarantined), end));
            }
        }
    }

    pub(super) fn fail(&mut self, error: Failure) {
        self.function = None;
        self.run.void_under("", "failed");
        let at = self.run.now();
        let record = Record::Error { at, error: error.clone() };
        self.run.push_event(&Arc::from(""), at, record, None, EventBody::Error { error: error.clone() });
        self.close(RunOutcome::Failed, None, Some(error));
    }

    pub(super) fn cancel(&mut self, reason: Arc<str>) {
        if self.closing.is_some() {
            return;
        }
        // Stopping the work and freeing the place waits for nothing; the event is one commit later.
        self.function = None;
        (self.release)();
        self.run.void_under("", "cancelled");
        let at = self.run.now();
        let record = Record::Cancelled { at, reason: reason.clone() };
        let error = Failure::new("cancelled", format!("cancelled: {reason}"));
        self.run.push_event(&Arc::from(""), at, record, None, EventBody::Cancelled { reason });
        self.close(RunOutcome::Cancelled, None, Some(error));
    }

    pub(super) fn close(&mut self, outcome: RunOutcome, mut output: Option<RunOutput>, error: Option<Failure>) {
        let at = self.run.now();
        self.run.push_event(
            &Arc::from(""),
            at,
            Record::Finished { at, outcome },
            None,
            EventBody::Finished { outcome },
        );
        let said = self.made.conversation.clone().zip(output.as_ref()).map(|(conversation, output)| MessageRow {
            id: WorkflowId::generate().as_str().into(),
            conversation,
            role: Role::Assistant,
            content: output.text.clone(),
            created_at: at,
            author: output.author.clone(),
            agent_id: output.agent_id.clone(),
            workflow: Some(self.run.workflow.clone()),
            finish_reason: Some(output.finish_reason),
            quality: output.quality.clone(),
        });
        self.say_output(output.as_ref());
        let is_child = self.made.child_of.is_some();
        let said = said.filter(|_| !is_child);
        let children = output.as_mut().map(|output| std::mem::take(&mut output.children)).unwrap_or_default();
        let children: Vec<_> = children.into_iter().map(|child| self.bear(child, at)).collect();
        self.bore.set(!children.is_empty());
        // A child that could not tell says so, or its parent's message would stay pending for ever.
        let quality = output.as_ref().and_then(|output| output.quality.clone());
        let quality = quality.or_else(|| is_child.then(Quality::not_scored));
        let spend = self.run.spend();
        let history = HistoryRow {
            workflow_id: self.run.workflow.clone(),
            conversation_id: self.made.conversation.clone(),
            task: self.made.task.to_string(),
            status: outcome,
            result: output,
            error,
            reasoning_effort: self.made.effort,
            created_at: self.made.created_at,
            completed_at: at,
            runtime_ms: u64::try_from(self.spent().as_millis()).unwrap_or(u64::MAX),
            model_calls: spend.model_calls,
            tool_calls: spend.tool_calls,
            usage: spend.usage,
            by_agent: spend.by_agent,
            quality,
        };
        let (next, said) = (Next::Ended(Arc::new(history)), said.into_iter().collect());
        self.closing = Some(Closing { next, said, children, end: LifeEnd::Ended(outcome) });
    }

    /// Makes a child: a parked workflow that is due at once, pinned to what this run is pinned to.
    pub(super) fn bear(&self, child: ChildRun, at: Timestamp) -> NewChild {
        let made = NewWorkflow {
            name: child.name.clone(),
            version: child.version,
            conversation: self.made.conversation.clone(),
            task: self.made.task.clone(),
            effort: None,
            request: None,
            on_disconnect: OnDisconnect::Continue,
            created_at: at,
            child_of: Some(self.run.workflow.clone()),
        };
        let pinned = Record::Pinned { workflow: child.name, version: child.version };
        // It is pinned to what its parent is.
        let bodies = [(pinned, self.run.pinned.text()), (Record::Input, json(&child.input))];
        let records = (1..).zip(bodies).map(|(position, (record, body))| {
            let (position, epoch, body) = (Position(position), Epoch(0), Some(body));
            encode(&Positioned { position, epoch, seq: None, path: Arc::from(""), record, body })
        });
        NewChild { workflow: WorkflowId::generate(), made: Box::new(made), records: records.collect() }
    }

    pub(super) fn park(&mut self) {
        let wake_at = self.run.first_wake();
        self.span.iter().for_each(|span| span.rests("parked"));
        self.function = None;
        self.run.push(&Arc::from(""), Record::Parked { at: self.run.now(), drained: false }, None);
        self.closing = Some(Closing::plain(Next::Parked { wake_at }, LifeEnd::Parked));
    }

    /// Rests for the next process: the record says that this life ended on purpose, so it counts as no failed start.
    pub(super) fn drain(&mut self) {
        self.span.iter().for_each(|span| span.rests("drained"));
        self.function = None;
        self.run.push(&Arc::from(""), Record::Parked { at: self.run.now(), drained: true }, None);
        self.closing = Some(Closing::plain(Next::Running, LifeEnd::Drained));
    }
}
