//! Judging an append and writing it.

use std::sync::Arc;

use super::state::{Asked, Given, Held, State, Talk};
use crate::ids::{Epoch, Position, Timestamp, WorkflowId};
use crate::ports::{
    Append, Claim, Command, ConversationRow, HistoryRow, NewChild, NewWorkflow, Next, Outcome, Quality, RequestRow,
    Rest, WorkflowRow, WorkflowState,
};

impl State {
    pub fn append(&mut self, append: &Append, generation: u64, now: Timestamp) -> Outcome {
        match self.judge(append) {
            Ok(()) => self.apply(append.clone(), generation, now),
            Err(outcome) => outcome,
        }
    }

    /// Whether the append may be written; otherwise its outcome.
    fn judge(&self, append: &Append) -> Result<(), Outcome> {
        let Some(held) = self.workflows.get(&append.claim.workflow) else {
            return self.judge_first(append);
        };
        let (head, epoch) = (held.row.head, held.row.epoch);
        // The whole batch: two owners of one epoch may end alike, and only one of them was written.
        let asked_again = !append.records.is_empty() && held.records.ends_with(&append.records);
        if asked_again && append.claim.epoch == epoch {
            return Err(Outcome::Done { head });
        }
        if held.ended_at.is_some() || held.hidden || (self.checks_epochs && append.claim.epoch < epoch) {
            return Err(Outcome::Fenced { epoch });
        }
        if append.after != head || !is_dense(append) {
            return Err(Outcome::Gap { head });
        }
        let begins = append.records.first().is_some_and(|record| &*record.kind == "began");
        if append.claim.epoch > epoch && !begins {
            return Err(Outcome::Fenced { epoch });
        }
        Ok(())
    }

    fn judge_first(&self, append: &Append) -> Result<(), Outcome> {
        let Some(made) = &append.create else { return Err(Outcome::Unknown) };
        if append.after != Position(0) || !is_dense(append) {
            return Err(Outcome::Gap { head: Position(0) });
        }
        let given = made.request.as_ref().and_then(|asked| Some((asked, self.requests.get(&asked.key)?)));
        match given {
            Some((asked, given)) => Err(Outcome::Duplicate {
                workflow: given.row.workflow.clone(),
                same_body: given.row.digest == asked.digest,
            }),
            None => Ok(()),
        }
    }

    fn apply(&mut self, append: Append, generation: u64, now: Timestamp) -> Outcome {
        let id = append.claim.workflow.clone();
        if let Some(made) = append.create
            && !self.workflows.contains_key(&id)
        {
            self.create(&append.claim, *made, now);
        }
        for message in append.messages {
            let Some(talk) = self.conversations.get_mut(&message.conversation) else { continue };
            talk.title.get_or_insert_with(|| ConversationRow::title_from(&message.content));
            talk.updated_at = talk.updated_at.max(message.created_at);
            if talk.messages.iter().all(|known| known.id != message.id) {
                talk.messages.push(message);
            }
        }
        let Some(held) = self.workflows.get_mut(&id) else { return Outcome::Unknown };
        held.records.extend(append.records);
        held.generation = generation;
        held.row.epoch = append.claim.epoch;
        held.row.head = held.records.last().map_or(held.row.head, |record| record.position.max(held.row.head));
        held.row.runtime = append.runtime;
        held.row.updated_at = now;
        for opened in append.opened {
            let id = opened.question.request_id.clone();
            held.questions.entry(id).or_insert_with(|| Asked::Open(Box::new(opened)));
        }
        for question in append.closed {
            held.inbox
                .retain(|command| !matches!(command, Command::Answer { request_id, .. } if *request_id == question));
            held.questions.insert(question, Asked::Closed);
        }
        (held.row.state, held.row.wake_at) = match &append.next {
            Next::Running => (WorkflowState::Running, None),
            Next::Parked { wake_at } => (WorkflowState::Parked, *wake_at),
            Next::Resting(rest) => (WorkflowState::Resting(*rest), None),
            Next::Ended(row) => (WorkflowState::Ended(row.status), None),
        };
        let head = held.row.head;
        if let (Next::Resting(rest), Some(parent)) = (&append.next, held.row.made.child_of.clone()) {
            self.leave_parent(&parent, *rest);
        } else if let Next::Ended(row) = append.next {
            held.ended_at = Some(row.completed_at);
            held.inbox.clear();
            held.questions.values_mut().for_each(|asked| *asked = Asked::Closed);
            match held.row.made.child_of.clone() {
                Some(parent) => self.end_child(&parent, &row),
                None => {
                    self.history.insert(id.clone(), Arc::unwrap_or_clone(row));
                    self.queue_export(id);
                }
            }
        }
        for child in append.children {
            self.bear(child, generation, now);
        }
        Outcome::Done { head }
    }

    /// Changes the parent's message and entry; a parent that was deleted meanwhile has none.
    fn end_child(&mut self, parent: &WorkflowId, child: &HistoryRow) {
        for talk in self.conversations.values_mut() {
            let said = talk.messages.iter_mut().filter(|message| message.workflow.as_ref() == Some(parent));
            said.filter(|message| message.quality.is_some())
                .for_each(|message| message.quality = child.quality.clone());
        }
        if let Some(entry) = self.history.get_mut(parent) {
            entry.take_child(child);
            self.queue_export(parent.clone());
        }
    }

    /// What a child says of its parent by resting for good: nothing.
    pub(super) fn leave_parent(&mut self, parent: &WorkflowId, rest: Rest) {
        if !matches!(rest, Rest::Quarantined | Rest::VersionUnavailable) {
            return;
        }
        for talk in self.conversations.values_mut() {
            let said = talk.messages.iter_mut().filter(|message| message.workflow.as_ref() == Some(parent));
            said.filter(|message| message.quality.is_some())
                .for_each(|message| message.quality = Some(Quality::not_scored()));
        }
        if let Some(entry) = self.history.get_mut(parent) {
            entry.quality = Some(Quality::not_scored());
            self.queue_export(parent.clone());
        }
    }

    fn bear(&mut self, child: NewChild, generation: u64, now: Timestamp) {
        let claim = Claim { workflow: child.workflow, epoch: Epoch(0) };
        self.create(&claim, *child.made, now);
        let Some(held) = self.workflows.get_mut(&claim.workflow) else { return };
        held.generation = generation;
        held.row.state = WorkflowState::Parked;
        held.row.wake_at = Some(held.row.made.created_at);
        held.row.head = child.records.last().map_or(Position(0), |record| record.position);
        held.records = child.records;
    }

    fn create(&mut self, claim: &crate::ports::Claim, made: NewWorkflow, now: Timestamp) {
        if let Some(conversation) = &made.conversation {
            self.conversations.entry(conversation.clone()).or_insert_with(|| Talk::new(None, made.created_at));
        }
        if let Some(asked) = &made.request {
            let row = RequestRow { workflow: claim.workflow.clone(), digest: asked.digest.clone() };
            self.requests.insert(asked.key.clone(), Given { row, at: made.created_at });
        }
        let row = WorkflowRow {
            workflow: claim.workflow.clone(),
            made,
            state: WorkflowState::Running,
            epoch: claim.epoch,
            head: Position(0),
            runtime: std::time::Duration::ZERO,
            wake_at: None,
            updated_at: now,
            parent: None,
        };
        self.workflows.insert(claim.workflow.clone(), Held::new(row));
    }
}

/// Whether the records follow `after` without a hole and belong to the life that brings them.
fn is_dense(append: &Append) -> bool {
    let places = (append.after.0 + 1..).map(Position);
    append.records.iter().zip(places).all(|(record, at)| record.position == at && record.epoch == append.claim.epoch)
}
