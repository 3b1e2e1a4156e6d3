//! Changes that are not appends.

use std::collections::BTreeMap;
use std::time::Duration;

use super::state::{Asked, Held, State, Talk};
use crate::event::Answer;
use crate::ids::{ConversationId, Position, RequestId, Timestamp, WorkflowId};
use crate::ports::{CheckpointRef, Command, Posted, Rest, StoreWrite, WorkflowRow, WorkflowState, Written};

impl Held {
    pub fn new(row: WorkflowRow) -> Self {
        Self {
            row,
            records: Vec::new(),
            generation: 0,
            questions: BTreeMap::new(),
            inbox: Vec::new(),
            ended_at: None,
            hidden: false,
        }
    }
}

impl State {
    pub fn change(&mut self, write: StoreWrite, now: Timestamp) -> Written {
        match write {
            StoreWrite::Post { workflow, command } => Written::Posted(self.post(&workflow, command, now)),
            StoreWrite::Fork { from, position, fork, at } => self.fork(&from, position, fork, at),
            StoreWrite::CreateConversation { conversation, title, at } => {
                if self.conversations.contains_key(&conversation) {
                    return Written::Conflict;
                }
                self.conversations.insert(conversation, Talk::new(title, at));
                Written::Done
            }
            StoreWrite::DeleteConversation(id) => self.delete_conversation(&id),
            StoreWrite::DeleteHistory(id) => self.delete_history(&id),
            StoreWrite::ClearHistory => {
                let ids: Vec<_> = self.history.keys().cloned().collect();
                let removed = ids.iter().filter(|id| self.delete_history(id) == Written::Done).count();
                Written::Removed(removed as u64)
            }
            StoreWrite::SweepHistory { completed_before, max_rows } => {
                self.sweep_history(completed_before, max_rows as usize)
            }
            StoreWrite::Sweep { ended_before, keys_before, max_rows } => {
                self.sweep(ended_before, keys_before, max_rows as usize)
            }
            StoreWrite::Rest { workflow, epoch, rest } => match self.workflows.get_mut(&workflow) {
                None => Written::NotFound,
                Some(held) if held.hidden => Written::NotFound,
                Some(held) if held.ended_at.is_some() || held.row.epoch != epoch => Written::Conflict,
                Some(held) => {
                    held.row.state = WorkflowState::Resting(rest);
                    held.row.wake_at = None;
                    held.row.updated_at = now;
                    if let Some(parent) = held.row.made.child_of.clone() {
                        self.leave_parent(&parent, rest);
                    }
                    Written::Done
                }
            },
            StoreWrite::Probe => Written::Done,
            StoreWrite::HistoryExported { cursor } => {
                self.exported = self.exported.max(cursor);
                self.queue = self.queue.split_off(&(cursor + 1));
                Written::Done
            }
        }
    }

    fn post(&mut self, id: &WorkflowId, command: Command, now: Timestamp) -> Posted {
        let Some(held) = self.workflows.get_mut(id).filter(|held| !held.hidden) else { return Posted::Unknown };
        match &command {
            Command::Answer { request_id, answer } => match take(held, request_id, answer, now) {
                Posted::Accepted => {}
                refused @ (Posted::Closed | Posted::Unknown | Posted::NotYet) => return refused,
            },
            Command::Cancel { .. } if held.ended_at.is_some() => return Posted::Closed,
            Command::Cancel { .. } => {
                if held.inbox.iter().any(|known| matches!(known, Command::Cancel { .. })) {
                    return Posted::Accepted;
                }
            }
        }
        held.inbox.push(command);
        Posted::Accepted
    }

    fn fork(&mut self, from: &WorkflowId, position: Option<Position>, fork: WorkflowId, at: Timestamp) -> Written {
        let Some(parent) = self.visible(from) else { return Written::NotFound };
        let position = position.unwrap_or(parent.row.head);
        let Some(epoch) = self.record_at(from, position).map(|record| record.epoch) else { return Written::NotFound };
        let shared = Some(CheckpointRef { workflow: from.clone(), position });
        if let Some(known) = self.workflows.get(&fork) {
            return if known.row.parent == shared { Written::Done } else { Written::Conflict };
        }
        let mut made = parent.row.made.clone();
        made.request = None;
        made.created_at = at;
        made.child_of = None;
        let row = WorkflowRow {
            workflow: fork.clone(),
            made,
            state: WorkflowState::Resting(Rest::Interrupted),
            epoch,
            head: position,
            runtime: Duration::ZERO,
            wake_at: None,
            updated_at: at,
            parent: shared,
        };
        self.workflows.insert(fork, Held::new(row));
        Written::Done
    }

    fn delete_conversation(&mut self, id: &ConversationId) -> Written {
        if self.conversations.remove(id).is_none() {
            return Written::NotFound;
        }
        let of_it: Vec<_> =
            self.workflows.values().filter(|held| held.row.made.conversation.as_ref() == Some(id)).collect();
        let ids: Vec<_> = of_it.into_iter().map(|held| held.row.workflow.clone()).collect();
        for workflow in &ids {
            self.forget(workflow);
        }
        // History outlives a swept journal, so it is asked for the conversation by itself.
        let rows: Vec<_> = self.history.values().filter(|row| row.conversation_id.as_ref() == Some(id)).collect();
        let rows: Vec<_> = rows.into_iter().map(|row| row.workflow_id.clone()).collect();
        for workflow in rows {
            self.history.remove(&workflow);
            self.queue_export(workflow);
        }
        Written::Done
    }

    fn delete_history(&mut self, id: &WorkflowId) -> Written {
        match self.visible(id) {
            Some(held) if held.ended_at.is_none() => return Written::Conflict,
            Some(_) => {
                self.retire(id);
                self.workflows.retain(|_, held| held.row.made.child_of.as_ref() != Some(id));
            }
            None if self.history.contains_key(id) => {}
            None => return Written::NotFound,
        }
        if self.history.remove(id).is_some() {
            self.queue_export(id.clone());
        }
        Written::Done
    }

    fn sweep(&mut self, ended_before: Timestamp, keys_before: Timestamp, max: usize) -> Written {
        let old: Vec<_> = self.requests.iter().filter(|(_, given)| given.at < keys_before).take(max).collect();
        let keys: Vec<_> = old.into_iter().map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.requests.remove(&key);
        }
        let over = |held: &&Held| held.ended_at.is_some_and(|at| at < ended_before);
        let free = self.workflows.values().filter(over).filter(|held| !self.is_shared(&held.row.workflow));
        let ids: Vec<_> = free.take(max).map(|held| held.row.workflow.clone()).collect();
        for id in &ids {
            self.retire(id);
        }
        Written::Removed(ids.len() as u64)
    }

    fn sweep_history(&mut self, completed_before: Timestamp, max: usize) -> Written {
        let old = self.history.values().filter(|row| row.completed_at < completed_before);
        let mut old: Vec<_> = old.map(|row| (row.completed_at, row.workflow_id.clone())).collect();
        old.sort();
        old.truncate(max);
        for (_, id) in &old {
            self.delete_history(id);
        }
        Written::Removed(old.len() as u64)
    }

    fn is_shared(&self, id: &WorkflowId) -> bool {
        self.workflows.values().any(|held| held.row.parent.as_ref().is_some_and(|parent| parent.workflow == *id))
    }

    /// Removes a workflow; what a fork shares of it stays out of sight until the last fork has gone.
    fn retire(&mut self, id: &WorkflowId) {
        let mut next = Some(id.clone());
        while let Some(id) = next.take() {
            if self.is_shared(&id) {
                self.requests.retain(|_, given| given.row.workflow != id);
                if let Some(held) = self.workflows.get_mut(&id) {
                    held.hidden = true;
                }
                return;
            }
            let parent = self.workflows.get(&id).and_then(|held| held.row.parent.clone());
            self.forget(&id);
            next = parent
                .map(|parent| parent.workflow)
                .filter(|id| self.workflows.get(id).is_some_and(|held| held.hidden));
        }
    }

    fn forget(&mut self, id: &WorkflowId) {
        self.workflows.remove(id);
        self.requests.retain(|_, given| given.row.workflow != *id);
    }
}

/// Reserves a question for an answer, if it still wants one.
fn take(held: &mut Held, request_id: &RequestId, answer: &Answer, now: Timestamp) -> Posted {
    match held.questions.get_mut(request_id) {
        None => Posted::Unknown,
        Some(asked @ Asked::Open(_)) => {
            let over = matches!(asked, Asked::Open(opened) if opened.question.expires_at <= now);
            match answer {
                Answer::Given(_) if over => return Posted::Closed,
                Answer::Expired if !over => return Posted::NotYet,
                Answer::Given(_) | Answer::Expired => *asked = Asked::Taken,
            }
            Posted::Accepted
        }
        Some(Asked::Taken | Asked::Closed) => Posted::Closed,
    }
}
