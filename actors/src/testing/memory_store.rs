//! A [`Store`] in memory, for simulations.
//!
//! One mutex, no threads: every future does its work when it is first polled and is ready at once. Two handles of one
//! store see the same data; [`MemoryStore::restarted`] is the handle of the next process, while the old one stays usable
//! for a process that does not know it is dead.
//!
//! Absent on purpose: checksums and formats. What a read is to suffer a test says.

mod append;
mod change;
mod state;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::state::State;
use crate::ids::{ConversationId, Position, RequestId, Seq, Timestamp, WorkflowId};
use crate::ports::{
    Append, Clock, Command, ConversationRow, ExportEntry, HistoryRow, MessageRow, Outcome, PageFrom, QuestionFilter,
    QuestionRow, RecordRow, RequestRow, SendFuture, Store, StoreError, StoreWrite, WorkflowFilter, WorkflowRow,
    Written,
};

/// What a commit is to suffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// Nothing.
    Proceed,
    /// Nothing is written and the error is the answer.
    RefuseBefore(StoreError),
    /// Everything is written and the answer is lost: [`StoreError::Unavailable`].
    LoseAck,
}

type FaultHook = Box<dyn FnMut(&[Arc<Append>]) -> CommitFault + Send>;

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A run's records.
    Journal(WorkflowId),
    /// A run's commands.
    Inbox(WorkflowId),
    /// What is due.
    Due,
}

type ReadHook = Box<dyn FnMut(Reading) -> Result<(), StoreError> + Send>;

/// The store. Clones are further handles of the same data, in the same process.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    /// Which process this handle belongs to; `adopt` lists what an earlier one left running.
    generation: u64,
}

struct Shared {
    state: Mutex<State>,
    fault: Mutex<Option<FaultHook>>,
    read: Mutex<Option<ReadHook>>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// An empty store that judges expiry by `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::over(State::default(), clock, 0)
    }

    /// A negative control: a store that lets any life write. Whatever claims to prove fencing must fail on it.
    #[must_use]
    pub fn without_epoch_check(clock: Arc<dyn Clock>) -> Self {
        Self::over(State { checks_epochs: false, ..State::default() }, clock, 0)
    }

    /// A deep copy: what is written to one is not seen in the other. The hooks are not copied.
    #[must_use]
    pub fn fork_state(&self) -> Self {
        Self::over(self.state().clone(), self.shared.clock.clone(), self.generation)
    }

    /// The same data as the process after this one sees it.
    #[must_use]
    pub fn restarted(&self) -> Self {
        let mut state = self.state();
        state.generations += 1;
        Self { shared: self.shared.clone(), generation: state.generations }
    }

    /// Asks `hook` about every commit from here on, through whatever handle it comes.
    pub fn on_commit(&self, hook: impl FnMut(&[Arc<Append>]) -> CommitFault + Send + 'static) {
        *self.fault() = Some(Box::new(hook));
    }

    /// Asks `hook` about every reading from here on, through whatever handle it comes.
    pub fn on_read(&self, hook: impl FnMut(Reading) -> Result<(), StoreError> + Send + 'static) {
        *self.read_hook() = Some(Box::new(hook));
    }

    /// Commits and reads without faults from here on.
    pub fn heal(&self) {
        *self.fault() = None;
        *self.read_hook() = None;
    }

    fn over(state: State, clock: Arc<dyn Clock>, generation: u64) -> Self {
        let shared = Shared { state: Mutex::new(state), fault: Mutex::new(None), read: Mutex::new(None), clock };
        Self { shared: Arc::new(shared), generation }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> MutexGuard<'_, Option<FaultHook>> {
        self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_hook(&self) -> MutexGuard<'_, Option<ReadHook>> {
        self.shared.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_for<'a, T: Send + 'a>(
        &'a self,
        reading: Reading,
        read: impl FnOnce(&State) -> T + Send + 'a,
    ) -> SendFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            self.read_hook().as_mut().map_or(Ok(()), |hook| hook(reading))?;
            Ok(read(&self.state()))
        })
    }

    fn look<'a, T: Send + 'a>(
        &'a self,
        read: impl FnOnce(&State) -> T + Send + 'a,
    ) -> SendFuture<'a, Result<T, StoreError>> {
        Box::pin(async move { Ok(read(&self.state())) })
    }
}

impl Store for MemoryStore {
    fn commit(&self, appends: Vec<Arc<Append>>) -> SendFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(async move {
            let fault = self.fault().as_mut().map_or(CommitFault::Proceed, |hook| hook(&appends));
            if let CommitFault::RefuseBefore(error) = fault {
                return Err(error);
            }
            let now = self.shared.clock.now();
            let mut state = self.state();
            let outcomes = appends.iter().map(|append| state.append(append, self.generation, now)).collect();
            match fault {
                CommitFault::LoseAck => Err(StoreError::Unavailable("the acknowledgement was lost".into())),
                CommitFault::Proceed | CommitFault::RefuseBefore(_) => Ok(outcomes),
            }
        })
    }

    fn write(&self, write: StoreWrite) -> SendFuture<'_, Result<Written, StoreError>> {
        Box::pin(async move { Ok(self.state().change(write, self.shared.clock.now())) })
    }

    fn workflow(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Option<WorkflowRow>, StoreError>> {
        let id = workflow.clone();
        self.look(move |state| state.visible(&id).map(|held| held.row.clone()))
    }

    fn workflows(&self, filter: WorkflowFilter) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>> {
        self.look(move |state| state.list(&filter))
    }

    fn read(
        &self,
        workflow: &WorkflowId,
        after: Position,
        max_bytes: usize,
    ) -> SendFuture<'_, Result<Vec<RecordRow>, StoreError>> {
        let id = workflow.clone();
        self.look_for(Reading::Journal(id.clone()), move |state| {
            state.records(&id, max_bytes, |record| record.position > after)
        })
    }

    fn read_events(
        &self,
        workflow: &WorkflowId,
        after: Seq,
        max_bytes: usize,
    ) -> SendFuture<'_, Result<Vec<RecordRow>, StoreError>> {
        let id = workflow.clone();
        self.look_for(Reading::Journal(id.clone()), move |state| {
            state.records(&id, max_bytes, |record| record.seq.is_some_and(|seq| seq > after))
        })
    }

    fn inbox(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Vec<Command>, StoreError>> {
        let id = workflow.clone();
        self.look_for(Reading::Inbox(id.clone()), move |state| {
            state.visible(&id).map(|held| held.inbox.clone()).unwrap_or_default()
        })
    }

    fn adopt(&self, now: Timestamp, max: u32) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>> {
        self.look_for(Reading::Due, move |state| state.adoptable(self.generation, false, now, max))
    }

    fn adopt_children(&self, now: Timestamp, max: u32) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>> {
        self.look(move |state| state.adoptable(self.generation, true, now, max))
    }

    fn next_wake(&self) -> SendFuture<'_, Result<Option<Timestamp>, StoreError>> {
        self.look(State::next_wake)
    }

    fn questions(&self, filter: QuestionFilter) -> SendFuture<'_, Result<Vec<QuestionRow>, StoreError>> {
        self.look(move |state| state.questions(&filter))
    }

    fn askers(&self, request: &RequestId) -> SendFuture<'_, Result<Vec<WorkflowId>, StoreError>> {
        let request = request.clone();
        self.look(move |state| state.askers(&request))
    }

    fn request(&self, key: &str) -> SendFuture<'_, Result<Option<RequestRow>, StoreError>> {
        let key: Arc<str> = key.into();
        self.look(move |state| state.requests.get(&key).map(|given| given.row.clone()))
    }

    fn conversation(&self, id: &ConversationId) -> SendFuture<'_, Result<Option<ConversationRow>, StoreError>> {
        let id = id.clone();
        self.look(move |state| state.conversations.get(&id).map(|talk| talk.row(&id)))
    }

    fn conversations(&self, limit: u32, offset: u64) -> SendFuture<'_, Result<Vec<ConversationRow>, StoreError>> {
        self.look(move |state| state.talks(limit, offset))
    }

    fn messages(
        &self,
        id: &ConversationId,
        limit: u32,
        except: Option<WorkflowId>,
    ) -> SendFuture<'_, Result<Vec<MessageRow>, StoreError>> {
        let id = id.clone();
        self.look(move |state| state.messages(&id, limit, except.as_ref()))
    }

    fn history(&self, from: PageFrom, limit: u32) -> SendFuture<'_, Result<Vec<HistoryRow>, StoreError>> {
        self.look(move |state| state.history_page(&from, limit))
    }

    fn history_entry(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Option<HistoryRow>, StoreError>> {
        let id = workflow.clone();
        self.look(move |state| state.history.get(&id).cloned())
    }

    fn history_count(&self) -> SendFuture<'_, Result<u64, StoreError>> {
        self.look(|state| state.history.len() as u64)
    }

    fn export_queue(&self, limit: u32) -> SendFuture<'_, Result<(u64, Vec<ExportEntry>), StoreError>> {
        self.look(move |state| (state.exported, state.export_entries(limit)))
    }

    fn history_scan(
        &self,
        after: Option<WorkflowId>,
        limit: u32,
    ) -> SendFuture<'_, Result<Vec<HistoryRow>, StoreError>> {
        self.look(move |state| {
            let behind = state.history.iter().filter(|(id, _)| after.as_ref().is_none_or(|after| *id > after));
            behind.take(limit as usize).map(|(_, row)| row.clone()).collect()
        })
    }
}
