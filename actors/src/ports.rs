//! What the runtime asks of the world, as traits. Adapters live above this crate; `testing` has
//! in-memory ones.
//!
//! Absent on purpose: any word of HTTP, of a model vendor, of SQL or of a file.

mod child;
mod model;
mod pinned;
mod question;
mod rows;
mod store;
mod tool;
mod workflow;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::event::Question;
use crate::ids::{ConversationId, RequestId, Timestamp, WorkflowId};

pub use child::{ChildRun, NewChild, Quality};
pub use model::{
    AgentClients, ChatMessage, FinishReason, ModelCall, ModelClient, ModelDelta, ModelError, ModelReply, ModelRequest,
    OutputForm, ReasoningEffort, Role, ToolRequest, ToolSpec,
};
pub use pinned::Pinned;
pub use question::{OpenedQuestion, QuestionFilter, QuestionRow};
pub use rows::{
    CheckpointRef, ConversationRow, ExportEntry, HistoryRow, MessageRow, NewWorkflow, OnDisconnect, PageFrom,
    RecordBody, RecordRow, RequestKey, RequestRow, WorkflowFilter, WorkflowRow, WorkflowState,
};
pub use store::{Append, Claim, Command, Next, Outcome, Posted, Rest, Store, StoreError, StoreWrite, Written};
pub use tool::{Access, Approval, Artifact, EffectPolicy, ToolCall, ToolOffer, ToolOutput, ToolRunner, Tools};
pub use workflow::{RunOutput, TaskInput, WorkflowFn, Workflows};

/// A future that stays on the thread that made it.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
/// A future that may move between threads.
pub type SendFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Wall time and chance. Waiting is always done on tokio's clock, which tests can pause.
pub trait Clock: Send + Sync {
    /// Now, in milliseconds since the Unix epoch.
    fn now(&self) -> Timestamp;
    /// A random number, uniform over all of them.
    fn random(&self) -> u64;
}

/// Small values that runs share for a while, as a routing that was made before. Losing one costs a call, never a result:
/// what a run takes from here is recorded in its journal.
pub trait Cache: Send + Sync {
    /// What stands under `key`, unless its time is over.
    fn get(&self, key: &str) -> Option<Value>;
    /// Puts `value` under `key` for at most `ttl`.
    fn put(&self, key: &str, value: Value, ttl: Duration);
    /// Forgets every key that begins with `prefix` and answers how many there were.
    fn forget(&self, prefix: &str) -> usize;
}

/// The file of finished executions that people read: one line an entry, the last line of an id wins. Driven by the
/// HistoryActor alone, one call at a time.
///
/// Every line carries the cursor of the queue entry it came from, so the file itself tells how far it got.
///
/// # Cancel safety
/// A call whose future is dropped may still be done. Appending an entry again, or beginning a rewrite again, is harmless.
pub trait HistoryExport: Send + Sync {
    /// Cuts what a crash left half written off the end and answers the cursor of the last whole line: `None` when the
    /// file is missing or has no line. Less than the stored cursor means that lines are lost: rewrite.
    fn repair(&self) -> SendFuture<'_, Result<Option<u64>, StoreError>>;
    /// Appends entries, in order. Durable when it answers, all of them by one sync.
    fn append(&self, entries: Vec<ExportEntry>) -> SendFuture<'_, Result<(), StoreError>>;
    /// Begins a new file, as of `cursor`, beside the old one, which stays in place until [`finish`](Self::finish). Forgets
    /// an unfinished one.
    fn rewrite(&self, cursor: u64) -> SendFuture<'_, Result<(), StoreError>>;
    /// Adds a page of rows to the new file.
    fn rows(&self, rows: Vec<HistoryRow>) -> SendFuture<'_, Result<(), StoreError>>;
    /// Makes the new file durable and puts it in the place of everything before it.
    fn finish(&self) -> SendFuture<'_, Result<(), StoreError>>;
}
