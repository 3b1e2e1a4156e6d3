//! The store: one journal a run, appended under a claim that is checked inside the transaction, and what is read of it.
//!
//! Absent on purpose: SQL, files and when a commit is synced. `testing::store_contract` is what every store must keep.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    ConversationRow, ExportEntry, HistoryRow, MessageRow, NewChild, NewWorkflow, OpenedQuestion, PageFrom,
    QuestionFilter, QuestionRow, RecordRow, RequestRow, SendFuture, WorkflowFilter, WorkflowRow,
};
use crate::event::Answer;
use crate::ids::{ConversationId, Epoch, Position, RequestId, Seq, Timestamp, WorkflowId};

/// Who writes: the life `epoch` of `workflow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The workflow.
    pub workflow: WorkflowId,
    /// The life. An older one than the store knows is fenced; a newer one takes over if the first record it brings is
    /// that life's `began`.
    pub epoch: Epoch,
}

/// Where a workflow stands between appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    /// Its client did not come back after a restart; it can be resumed.
    Interrupted,
    /// It died too often or its journal does not fit this binary's code.
    Quarantined,
    /// This binary does not know its workflow.
    VersionUnavailable,
    /// The store took no more.
    StorageUnavailable,
}

impl Rest {
    /// Those that nobody takes up as they are: clients are told that the run failed.
    pub const FAILURES: [Self; 3] = [Self::Quarantined, Self::VersionUnavailable, Self::StorageUnavailable];

    /// The public error code of this rest.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::Quarantined => "quarantined",
            Self::VersionUnavailable => "version_unavailable",
            Self::StorageUnavailable => "storage_unavailable",
        }
    }

    /// What people are told of it.
    #[must_use]
    pub fn text(self) -> String {
        format!("the workflow rests: {}", self.code())
    }
}

/// What becomes of a workflow after an append.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Its owner goes on.
    Running,
    /// It has no owner until an answer comes or this time passes.
    Parked {
        /// Its earliest timer or expiry.
        wake_at: Option<Timestamp>,
    },
    /// It has no owner until somebody resumes it.
    Resting(Rest),
    /// It is over. The row becomes its entry of history; a child's changes its parent's instead (see
    /// [`HistoryRow::take_child`]).
    Ended(Arc<HistoryRow>),
}

/// Everything of one workflow that must become durable together.
#[derive(Clone, Debug, PartialEq)]
pub struct Append {
    /// Who writes.
    pub claim: Claim,
    /// The position these records follow.
    pub after: Position,
    /// Makes the workflow; only in its first append.
    pub create: Option<Box<NewWorkflow>>,
    /// The records, dense from `after`.
    pub records: Vec<RecordRow>,
    /// Messages of its conversation.
    pub messages: Vec<MessageRow>,
    /// Questions that opened.
    pub opened: Vec<OpenedQuestion>,
    /// Questions that closed.
    pub closed: Vec<RequestId>,
    /// Runtime so far.
    pub runtime: Duration,
    /// Children it leaves behind; only in its last append.
    pub children: Vec<NewChild>,
    /// What becomes of the workflow.
    pub next: Next,
}

impl Append {
    /// Bytes of its records, about what a commit of it writes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|row| row.head.len() + row.body.as_ref().map_or(0, |body| body.bytes.len())).sum()
    }
}

/// What became of one [`Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is durable, or was already.
    Done {
        /// The journal's last position.
        head: Position,
    },
    /// `after` is not the last position; nothing was written.
    Gap {
        /// The journal's last position.
        head: Position,
    },
    /// Another life owns the workflow, or it is over; nothing was written.
    Fenced {
        /// The owner's epoch.
        epoch: Epoch,
    },
    /// No such workflow, and the append does not make one; nothing was written.
    Unknown,
    /// The request key has a run already; nothing was written.
    Duplicate {
        /// That run.
        workflow: WorkflowId,
        /// It was asked with the same digest.
        same_body: bool,
    },
}

/// Why the store did not answer. What was asked may or may not have been done: ask again with the same words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk is full. It heals when there is room again.
    #[error("storage is full")]
    Full,
    /// The system refuses to write, as a disk that can only be read does. It heals when it does not any more.
    #[error("storage cannot be written: {0}")]
    Unwritable(String),
    /// What is stored is damaged: {0}
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// The store cannot promise durability any more; the process must stop (exit 74).
    #[error("storage failed: {0}")]
    Failed(String),
    /// It cannot be reached or did not answer in time.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
}

impl StoreError {
    /// Whether it will be the same for every write, until something outside of the process changes.
    #[must_use]
    pub fn refuses_writes(&self) -> bool {
        matches!(self, Self::Full | Self::Unwritable(_))
    }
}

/// Something for the owner of a workflow, whoever that is, delivered through the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Command {
    /// The answer to a question; the first committed one wins.
    Answer {
        /// Which question.
        request_id: RequestId,
        /// How it ended.
        answer: Answer,
    },
    /// Stop.
    Cancel {
        /// Why.
        reason: Arc<str>,
    },
}

/// What became of a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It is durable; the owner will journal it.
    Accepted,
    /// The workflow is over, or the question is answered, expired or withdrawn.
    Closed,
    /// No such workflow or question.
    Unknown,
    /// The question cannot expire yet, by the store's clock.
    NotYet,
}

/// A change of the store that is not an append of a workflow's owner.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreWrite {
    /// For the owner of a workflow, whoever that is.
    Post {
        /// The workflow.
        workflow: WorkflowId,
        /// What for.
        command: Command,
    },
    /// A new workflow that shares `from`'s journal up to a position. Its state is [`Rest::Interrupted`] and its epoch
    /// that of the record at that position; its first life takes the next. It inherits no question: its first life opens
    /// those that its prefix leaves open. Asking twice for the same fork makes one.
    Fork {
        /// The position; `None` is the newest.
        from: WorkflowId,
        /// The last shared position.
        position: Option<Position>,
        /// The new workflow.
        fork: WorkflowId,
        /// When.
        at: Timestamp,
    },
    /// Makes a conversation.
    CreateConversation {
        /// Its id.
        conversation: ConversationId,
        /// Its title; otherwise the first message gives one.
        title: Option<String>,
        /// When.
        at: Timestamp,
    },
    /// Removes a conversation with its messages, workflows, forks, payloads, history and request keys. May take several
    /// transactions where there is no room for one, and is there with what is left of it until the last.
    DeleteConversation(ConversationId),
    /// Removes one execution from history, its journal included. Live ones are left alone: [`Written::Conflict`]. The
    /// records that a fork shares stay, out of sight, for as long as the fork.
    DeleteHistory(WorkflowId),
    /// Removes every execution that was over when this was asked from history, their journals included. May take several
    /// transactions; it answers after the last.
    ClearHistory,
    /// Removes ended workflows' journals and request keys older than this, at most `max_rows` of each. History and
    /// messages stay, and so does what a fork shares. Answers how many workflows went.
    Sweep {
        /// Journals of workflows that ended before this.
        ended_before: Timestamp,
        /// Request keys given before this.
        keys_before: Timestamp,
        /// At most this many.
        max_rows: u32,
    },
    /// Removes executions that completed before this from history, their journals included, those that ended first
    /// before others; at most `max_rows`. Answers how many went.
    SweepHistory {
        /// Executions that completed before this.
        completed_before: Timestamp,
        /// At most this many.
        max_rows: u32,
    },
    /// Puts a workflow that ran, and has no owner in any process, to rest.
    Rest {
        /// The workflow.
        workflow: WorkflowId,
        /// Only if it is still at this epoch.
        epoch: Epoch,
        /// How.
        rest: Rest,
    },
    /// Writes and removes a row, to learn whether a full disk has room again.
    Probe,
    /// Moves the cursor behind which history was exported.
    HistoryExported {
        /// The last exported entry of the export queue.
        cursor: u64,
    },
}

/// What became of a [`StoreWrite`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Done.
    Done,
    /// What became of a posted command.
    Posted(Posted),
    /// There was nothing by that name.
    NotFound,
    /// It cannot be done in the state it is in.
    Conflict,
    /// This many were removed.
    Removed(u64),
}

/// The one store. `commit` and `write` are called by the CheckpointActor alone; reads by anybody. Nothing here assumes a
/// local file or one process.
pub trait Store: Send + Sync {
    /// Commits each append whole or not at all, in one transaction if it can. Durable when it answers.
    fn commit(&self, appends: Vec<Arc<Append>>) -> SendFuture<'_, Result<Vec<Outcome>, StoreError>>;
    /// Makes one other change, durable when it answers.
    fn write(&self, write: StoreWrite) -> SendFuture<'_, Result<Written, StoreError>>;

    /// The workflow.
    fn workflow(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Option<WorkflowRow>, StoreError>>;
    /// Workflows, newest first.
    fn workflows(&self, filter: WorkflowFilter) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>>;
    /// Durable records after a position, in order, at most about `max_bytes` of them but at least one if there is one;
    /// those shared with a parent included.
    fn read(
        &self,
        workflow: &WorkflowId,
        after: Position,
        max_bytes: usize,
    ) -> SendFuture<'_, Result<Vec<RecordRow>, StoreError>>;
    /// Durable records that hold an event after a number, likewise. Numbers grow with positions.
    fn read_events(
        &self,
        workflow: &WorkflowId,
        after: Seq,
        max_bytes: usize,
    ) -> SendFuture<'_, Result<Vec<RecordRow>, StoreError>>;
    /// Posted commands that nothing has consumed yet, oldest first. An append that closes a question consumes its answer,
    /// one that ends the workflow consumes everything.
    fn inbox(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Vec<Command>, StoreError>>;
    /// Workflows that ran when an earlier process died, and parked ones that are due: their timer passed or their inbox
    /// is not empty. Never resting ones, nor those whose last append came through this very opening of the store. Oldest
    /// first. It claims nothing: a workflow is listed until a next life's first append is durable.
    fn adopt(&self, now: Timestamp, max: u32) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>>;
    /// Children that want an owner: new ones, parked ones that are due, and those that ran when an earlier process died.
    /// Those that are due longest are in it, the oldest of them first; [`adopt`](Self::adopt) and every list of workflows leave children
    /// out.
    fn adopt_children(&self, now: Timestamp, max: u32) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>>;
    /// When the next parked workflow, children left out, is due.
    fn next_wake(&self) -> SendFuture<'_, Result<Option<Timestamp>, StoreError>>;
    /// Open questions, the longest waiting first.
    fn questions(&self, filter: QuestionFilter) -> SendFuture<'_, Result<Vec<QuestionRow>, StoreError>>;
    /// The runs that have asked this question, which may be closed, newest first. A fork asks again what it shares.
    fn askers(&self, request: &RequestId) -> SendFuture<'_, Result<Vec<WorkflowId>, StoreError>>;
    /// The run a request key started.
    fn request(&self, key: &str) -> SendFuture<'_, Result<Option<RequestRow>, StoreError>>;

    /// The conversation, without its messages.
    fn conversation(&self, id: &ConversationId) -> SendFuture<'_, Result<Option<ConversationRow>, StoreError>>;
    /// Conversations, last changed first.
    fn conversations(&self, limit: u32, offset: u64) -> SendFuture<'_, Result<Vec<ConversationRow>, StoreError>>;
    /// The newest `limit` messages of a conversation in the order of their commits, oldest first, those of `except` left
    /// out.
    fn messages(
        &self,
        id: &ConversationId,
        limit: u32,
        except: Option<WorkflowId>,
    ) -> SendFuture<'_, Result<Vec<MessageRow>, StoreError>>;

    /// A page of history, newest first.
    fn history(&self, from: PageFrom, limit: u32) -> SendFuture<'_, Result<Vec<HistoryRow>, StoreError>>;
    /// One entry of history.
    fn history_entry(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Option<HistoryRow>, StoreError>>;
    /// How many entries history has.
    fn history_count(&self) -> SendFuture<'_, Result<u64, StoreError>>;
    /// Entries of the export queue behind a cursor, and the stored cursor.
    fn export_queue(&self, limit: u32) -> SendFuture<'_, Result<(u64, Vec<ExportEntry>), StoreError>>;
    /// Every history row in the order of their ids, for rebuilding the file: those behind `after`.
    fn history_scan(
        &self,
        after: Option<WorkflowId>,
        limit: u32,
    ) -> SendFuture<'_, Result<Vec<HistoryRow>, StoreError>>;
}
