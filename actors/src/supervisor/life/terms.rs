//! The terms of a life: what it is given, what it may be told, and how it ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::event::RunOutcome;
use crate::ids::{Epoch, WorkflowId};
use crate::journal::Past;
use crate::limits::RunLimits;
use crate::ports::{
    Append, LocalFuture, MessageRow, NewWorkflow, Outcome, Pinned, Rest, StoreError, StoreWrite, TaskInput, WorkflowFn,
    Written,
};
use crate::stream::Log;
use crate::turn::RunPorts;

/// The door to the store's one writer.
pub(crate) trait Writer {
    /// Appends; the same words may be asked again.
    fn append(&self, append: Arc<Append>) -> LocalFuture<'static, Result<Outcome, StoreError>>;
    /// Makes another change.
    fn write(&self, write: StoreWrite) -> LocalFuture<'static, Result<Written, StoreError>>;
}

/// What somebody tells a life.
#[derive(Debug, Clone)]
pub(crate) enum Signal {
    /// Stop, and why.
    Cancel(Arc<str>),
    /// A command for this run was committed: read the inbox.
    Inbox,
    /// The process goes: rest as soon as the journal is durable.
    Drain,
}

/// A run that has no journal yet.
pub(crate) struct Fresh {
    pub input: TaskInput,
    pub config: Pinned,
    pub message: Option<MessageRow>,
}

/// What became of a start.
pub(crate) type Started = Result<(), StartFailure>;

/// Who waits for a start. A life that panics before it told them leaves them to the next one.
pub(crate) type WhoStarted = Rc<RefCell<Option<oneshot::Sender<Started>>>>;

/// Why a run did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartFailure {
    /// The request key has a run.
    #[error("the request key belongs to workflow {workflow}")]
    Duplicate {
        /// That run.
        workflow: WorkflowId,
        /// It was asked with the same words.
        same_body: bool,
    },
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot run here.
    #[error("{1}")]
    Rests(Rest, String),
    /// Another owner has it.
    #[error("another owner has the workflow")]
    Fenced,
}

pub(crate) struct LifeInputs {
    pub workflow: WorkflowId,
    pub made: NewWorkflow,
    pub epoch: Epoch,
    pub past: Past,
    pub runtime: Duration,
    pub fresh: Option<Fresh>,
    /// Nobody needs to watch it.
    pub detached: bool,
    pub function: WorkflowFn,
    pub ports: RunPorts,
    pub limits: RunLimits,
    pub log: Arc<Log>,
    pub writer: Rc<dyn Writer>,
    /// Gives the permit back, before the end shows; a second call does nothing.
    pub release: Rc<dyn Fn()>,
    /// Set when it leaves children behind.
    pub bore: Rc<Cell<bool>>,
    pub started: WhoStarted,
}

/// How a life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LifeEnd {
    Ended(RunOutcome),
    Parked,
    Rested(Rest, String),
    /// Another owner has it, or it was removed.
    Fenced,
    /// What the panic said. Rebuild it.
    Panicked(String),
    /// The process goes; the next one takes the run up as it is.
    Drained,
    /// The request key has a run.
    Duplicate,
}
