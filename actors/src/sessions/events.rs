//! One workflow's events from a number on: first what the store has, then the live tail.
//!
//! Whoever reads sees each event once and in order, whether the run is live, parked, resting or long over.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::{LogEvent, RunOutcome};
use crate::ids::{Seq, WorkflowId};
use crate::journal::{Positioned, decode, events_of};
use crate::ports::{HistoryRow, Rest, Store, StoreError, WorkflowState};
use crate::stream::{Seen, TailState, Watcher};

/// What an [`EventStream`] gives.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamItem {
    /// The next event.
    Event(Arc<LogEvent>),
    /// The run rests; nothing follows until somebody resumes it.
    Rests(Rest, String),
    /// Nothing follows, ever.
    End,
}

/// One workflow's events from a number on: first what the store has, then the live tail.
#[derive(Debug)]
pub struct EventStream {
    watcher: Watcher,
    store: StoreHandle,
    queue: VecDeque<Arc<LogEvent>>,
    /// The store is read first: no life has said yet where its tail begins.
    catch_up: bool,
    /// How the run stood when nobody lived it.
    at_rest: Option<WorkflowState>,
}

struct StoreHandle(Arc<dyn Store>);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// Bytes of records read at once.
const READ_BYTES: usize = 1 << 20;

impl EventStream {
    pub(super) fn live(watcher: Watcher, store: Arc<dyn Store>) -> Self {
        Self { watcher, store: StoreHandle(store), queue: VecDeque::new(), catch_up: false, at_rest: None }
    }

    pub(super) fn of(watcher: Watcher, store: Arc<dyn Store>, state: WorkflowState) -> Self {
        let mut stream = Self::live(watcher, store);
        stream.stand(state);
        stream
    }

    /// What the stream begins with when its run stands so.
    fn stand(&mut self, state: WorkflowState) {
        let live = self.watcher.is_live();
        self.catch_up = !live;
        self.at_rest = match state {
            WorkflowState::Ended(_) | WorkflowState::Resting(_) if !live => Some(state),
            WorkflowState::Running | WorkflowState::Parked | WorkflowState::Ended(_) | WorkflowState::Resting(_) => {
                None
            }
        };
    }

    pub(super) fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// Begins behind `after` again, in the same place among the watchers.
    pub(super) fn begin_anew(&mut self, after: Seq, state: WorkflowState) {
        self.queue.clear();
        self.watcher.go_back_to(after);
        self.stand(state);
    }

    /// The workflow.
    #[must_use]
    pub fn workflow(&self) -> &WorkflowId {
        self.watcher.workflow()
    }

    /// The entry of history that the run ended with, if that is known without the store: a life of this process ended it.
    #[must_use]
    pub fn entry(&self) -> Option<&HistoryRow> {
        self.watcher.entry()
    }

    /// Waits until the run is parked: for callers that will not wait for a human. Sockets stay subscribed over a park, so it
    /// is no item of the stream. Says so at once for a run that no life of this process ever owned.
    pub fn parked(&self) -> impl Future<Output = ()> + use<> {
        self.watcher.parked()
    }

    /// What is next; waits while there is nothing to say.
    ///
    /// # Errors
    /// [`StoreError`] when what was before cannot be read.
    ///
    /// # Cancel safety
    /// Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> Result<StreamItem, StoreError> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(StreamItem::Event(event));
            }
            if self.catch_up {
                let events =
                    stored_events(self.store.0.as_ref(), self.watcher.workflow(), self.watcher.after()).await?;
                self.catch_up = false;
                self.take(events);
                continue;
            }
            // A run that ended here a moment ago has its last events in the tail, not among those taken from the store.
            match self.at_rest.and_then(|_| self.watcher.ready()) {
                Some(Seen::Events(events)) => {
                    self.queue.extend(events);
                    continue;
                }
                Some(Seen::InStore(_)) => {
                    self.catch_up = true;
                    continue;
                }
                Some(Seen::Rests(..) | Seen::Ended) | None => {}
            }
            match self.at_rest.take_if(|_| !self.watcher.is_live()) {
                Some(WorkflowState::Ended(RunOutcome::Completed | RunOutcome::Failed | RunOutcome::Cancelled)) => {
                    self.at_rest = Some(WorkflowState::Ended(RunOutcome::Completed));
                    return Ok(StreamItem::End);
                }
                Some(WorkflowState::Resting(rest)) => {
                    return Ok(StreamItem::Rests(rest, rest.text()));
                }
                Some(WorkflowState::Running | WorkflowState::Parked) | None => {}
            }
            match self.watcher.next().await {
                Seen::Events(events) => self.queue.extend(events),
                Seen::InStore(_) => self.catch_up = true,
                Seen::Rests(rest, text) => return Ok(StreamItem::Rests(rest, text)),
                Seen::Ended => return Ok(StreamItem::End),
            }
        }
    }

    /// How the run stands when no life owns it any more, without its events: what stands behind the last of them, or nothing when it
    /// is parked.
    ///
    /// # Errors
    /// [`StoreError`] when what was before cannot be read.
    ///
    /// # Cancel safety
    /// Nothing is lost when the caller stops waiting.
    pub async fn rested(&mut self) -> Result<Option<StreamItem>, StoreError> {
        if !self.catch_up && self.at_rest.is_none() {
            // A life of this process owns it, and says how it stands.
            return Ok(match self.watcher.rested().await {
                TailState::Ended => Some(StreamItem::End),
                TailState::Resting(rest, text) => Some(StreamItem::Rests(rest, text)),
                TailState::Parked | TailState::Live => None,
            });
        }
        let mut parked = std::pin::pin!(self.parked());
        loop {
            let item = tokio::select! {
                biased;
                item = self.next() => item?,
                () = &mut parked => return Ok(None),
            };
            if !matches!(item, StreamItem::Event(_)) {
                return Ok(Some(item));
            }
        }
    }

    fn take(&mut self, events: Vec<LogEvent>) {
        let floor = self.watcher.floor();
        // The tail has what is behind its floor; the store may have some of it too by now. Of a run that was at rest when
        // it was looked up the store has everything, and the tail of its last life is not waited for.
        let whole = floor == Seq(0) || self.at_rest.is_some();
        let events = events.into_iter().filter(|event| whole || event.seq <= floor);
        self.queue.extend(events.map(Arc::new));
        let last = self.queue.back().map_or(floor, |event| event.seq);
        self.watcher.skip_to(last.max(floor));
    }
}

/// The durable events of a workflow after a number, in order.
///
/// # Errors
/// [`StoreError`]; [`StoreError::Damaged`] when a record cannot be read.
pub async fn stored_events(store: &dyn Store, workflow: &WorkflowId, after: Seq) -> Result<Vec<LogEvent>, StoreError> {
    let damaged = |error: crate::journal::MalformedRecord| StoreError::Damaged(format!("{workflow}: {error}"));
    let mut records: Vec<Positioned> = Vec::new();
    let mut from = after;
    loop {
        let rows = store.read_events(workflow, from, READ_BYTES).await?;
        let Some(last) = rows.last().and_then(|row| row.seq) else { break };
        from = last;
        for row in &rows {
            records.push(decode(row).map_err(damaged)?);
        }
    }
    events_of(&records, after).map_err(damaged)
}
