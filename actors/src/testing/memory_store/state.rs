//! What the store holds, and what it answers about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{ConversationId, Position, RequestId, Timestamp, WorkflowId};
use crate::ports::{
    Command, ConversationRow, ExportEntry, HistoryRow, MessageRow, OpenedQuestion, PageFrom, QuestionFilter,
    QuestionRow, RecordRow, RequestRow, WorkflowFilter, WorkflowRow, WorkflowState,
};

#[derive(Clone)]
pub(super) struct State {
    /// Off only in the negative control.
    pub checks_epochs: bool,
    /// Processes that opened this store so far, the first not counted.
    pub generations: u64,
    pub workflows: BTreeMap<WorkflowId, Held>,
    pub requests: BTreeMap<Arc<str>, Given>,
    pub conversations: BTreeMap<ConversationId, Talk>,
    pub history: BTreeMap<WorkflowId, HistoryRow>,
    /// Which entry of history changed, under which cursor. What it is now stands in `history`.
    pub queue: BTreeMap<u64, WorkflowId>,
    /// The last cursor given.
    pub cursor: u64,
    /// The last cursor exported.
    pub exported: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            checks_epochs: true,
            generations: 0,
            workflows: BTreeMap::new(),
            requests: BTreeMap::new(),
            conversations: BTreeMap::new(),
            history: BTreeMap::new(),
            queue: BTreeMap::new(),
            cursor: 0,
            exported: 0,
        }
    }
}

#[derive(Clone)]
pub(super) struct Held {
    pub row: WorkflowRow,
    /// Its own records; those before `row.parent`'s position are its parent's.
    pub records: Vec<RecordRow>,
    /// The process whose append was the last.
    pub generation: u64,
    pub questions: BTreeMap<RequestId, Asked>,
    pub inbox: Vec<Command>,
    pub ended_at: Option<Timestamp>,
    /// Deleted, but a fork shares its records.
    pub hidden: bool,
}

#[derive(Clone, PartialEq)]
pub(super) enum Asked {
    Open(Box<OpenedQuestion>),
    /// An answer waits in the inbox.
    Taken,
    Closed,
}

#[derive(Clone)]
pub(super) struct Given {
    pub row: RequestRow,
    pub at: Timestamp,
}

#[derive(Clone)]
pub(super) struct Talk {
    pub title: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub messages: Vec<MessageRow>,
}

impl Talk {
    pub fn new(title: Option<String>, at: Timestamp) -> Self {
        Self { title, created_at: at, updated_at: at, messages: Vec::new() }
    }

    pub fn row(&self, id: &ConversationId) -> ConversationRow {
        ConversationRow {
            conversation: id.clone(),
            title: self.title.clone().unwrap_or_default(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            last: self.messages.last().cloned(),
        }
    }
}

impl State {
    pub fn visible(&self, id: &WorkflowId) -> Option<&Held> {
        self.workflows.get(id).filter(|held| !held.hidden)
    }

    pub fn list(&self, filter: &WorkflowFilter) -> Vec<WorkflowRow> {
        let fits = |held: &&Held| {
            !held.hidden
                && held.row.made.child_of.is_none()
                && (filter.conversation.is_none() || held.row.made.conversation == filter.conversation)
                && !(filter.unfinished && held.ended_at.is_some())
        };
        let newest_first = self.workflows.values().rev().filter(fits);
        newest_first.take(filter.limit as usize).map(|held| held.row.clone()).collect()
    }

    /// The journal of `id` with what it shares, oldest first.
    fn journal(&self, id: &WorkflowId) -> Vec<&RecordRow> {
        let mut chain = Vec::new();
        let mut at = (self.workflows.get(id), Position(u64::MAX));
        while let (Some(held), upto) = at {
            chain.extend(held.records.iter().rev().skip_while(move |record| record.position > upto));
            at = match &held.row.parent {
                Some(parent) => (self.workflows.get(&parent.workflow), parent.position.min(upto)),
                None => (None, upto),
            };
        }
        chain.reverse();
        chain
    }

    pub fn records(&self, id: &WorkflowId, max_bytes: usize, wanted: impl Fn(&RecordRow) -> bool) -> Vec<RecordRow> {
        if self.visible(id).is_none() {
            return Vec::new();
        }
        let mut bytes = 0;
        let fits = |record: &&RecordRow| {
            let first = bytes == 0;
            bytes += 1 + record.head.len() + record.body.as_ref().map_or(0, |body| body.bytes.len());
            first || bytes <= max_bytes
        };
        self.journal(id).into_iter().filter(|record| wanted(record)).take_while(fits).cloned().collect()
    }

    pub fn record_at(&self, id: &WorkflowId, position: Position) -> Option<&RecordRow> {
        self.journal(id).into_iter().find(|record| record.position == position)
    }

    pub fn adoptable(&self, generation: u64, children: bool, now: Timestamp, max: u32) -> Vec<WorkflowRow> {
        let wanted = |held: &&Held| held.row.made.child_of.is_some() == children;
        let due = |held: &&Held| match held.row.state {
            WorkflowState::Running => held.generation != generation,
            WorkflowState::Parked => held.row.wake_at.is_some_and(|at| at <= now) || !held.inbox.is_empty(),
            WorkflowState::Resting(_) | WorkflowState::Ended(_) => false,
        };
        let mut rows: Vec<_> =
            self.workflows.values().filter(wanted).filter(due).map(|held| held.row.clone()).collect();
        rows.sort_by(|a, b| (a.made.created_at, &a.workflow).cmp(&(b.made.created_at, &b.workflow)));
        rows.truncate(max as usize);
        rows
    }

    pub fn next_wake(&self) -> Option<Timestamp> {
        let parked = self.workflows.values().filter(|held| held.row.state == WorkflowState::Parked);
        let parked = parked.filter(|held| held.row.made.child_of.is_none());
        parked.filter_map(|held| held.row.wake_at).min()
    }

    pub fn questions(&self, filter: &QuestionFilter) -> Vec<QuestionRow> {
        let mut rows = Vec::new();
        for held in self.workflows.values().filter(|held| !held.hidden && held.ended_at.is_none()) {
            let made = &held.row.made;
            for asked in held.questions.values() {
                let Asked::Open(opened) = asked else { continue };
                rows.push(QuestionRow {
                    workflow: held.row.workflow.clone(),
                    conversation: made.conversation.clone(),
                    task: made.task.clone(),
                    question: opened.question.clone(),
                    asked_at: opened.asked_at,
                });
            }
        }
        rows.retain(|row| {
            filter.workflow.as_ref().is_none_or(|id| row.workflow == *id)
                && filter.conversation.as_ref().is_none_or(|id| row.conversation.as_ref() == Some(id))
                && filter.request.as_ref().is_none_or(|id| row.question.request_id == *id)
                && filter.request_type.as_ref().is_none_or(|kind| row.question.request_type == *kind)
        });
        rows.sort_by(|a, b| (a.asked_at, &a.question.request_id).cmp(&(b.asked_at, &b.question.request_id)));
        let skipped = usize::try_from(filter.offset).unwrap_or(usize::MAX);
        rows.into_iter().skip(skipped).take(filter.limit as usize).collect()
    }

    pub fn askers(&self, request: &RequestId) -> Vec<WorkflowId> {
        let held = self.workflows.iter().rev().filter(|(_, held)| !held.hidden && held.questions.contains_key(request));
        held.map(|(id, _)| id.clone()).collect()
    }

    pub fn talks(&self, limit: u32, offset: u64) -> Vec<ConversationRow> {
        let mut rows: Vec<_> = self.conversations.iter().map(|(id, talk)| talk.row(id)).collect();
        rows.sort_by(|a, b| (b.updated_at, &b.conversation).cmp(&(a.updated_at, &a.conversation)));
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        rows.into_iter().skip(skipped).take(limit as usize).collect()
    }

    pub fn messages(&self, id: &ConversationId, limit: u32, except: Option<&WorkflowId>) -> Vec<MessageRow> {
        let Some(talk) = self.conversations.get(id) else { return Vec::new() };
        let wanted =
            talk.messages.iter().rev().filter(|message| except.is_none() || message.workflow.as_ref() != except);
        let mut newest: Vec<_> = wanted.take(limit as usize).cloned().collect();
        newest.reverse();
        newest
    }

    pub fn history_page(&self, from: &PageFrom, limit: u32) -> Vec<HistoryRow> {
        let newest_first = self.history.iter().rev();
        let page: Vec<_> = match from {
            PageFrom::Offset(skip) => newest_first.skip(usize::try_from(*skip).unwrap_or(usize::MAX)).collect(),
            PageFrom::Before(id) => newest_first.skip_while(|(row, _)| *row >= id).collect(),
        };
        page.into_iter().take(limit as usize).map(|(_, row)| row.clone()).collect()
    }

    pub fn export_entries(&self, limit: u32) -> Vec<ExportEntry> {
        let waiting = self.queue.iter().take(limit as usize);
        waiting
            .map(|(cursor, id)| ExportEntry {
                cursor: *cursor,
                workflow: id.clone(),
                row: self.history.get(id).cloned(),
            })
            .collect()
    }

    pub fn queue_export(&mut self, id: WorkflowId) {
        self.cursor += 1;
        self.queue.insert(self.cursor, id);
    }
}
