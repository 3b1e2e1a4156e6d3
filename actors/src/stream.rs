//! The live tail of a workflow's log: what is visible when, and who watches.
//!
//! A [`Log`] holds the events of the current life. It is visible as a prefix only: an event shows when it and all before
//! it are durable, a delta when the records before it are. What came before this life stands in the store, so whoever
//! resumes after N reads the store up to [`Log::floor`] and the tail from there.
//!
//! Invariant: numbers in the tail increase strictly, and nothing at or below the visible number is ever added.
//! Absent on purpose: a queue per watcher. Each holds a number, so a slow one costs nothing and can lose nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::watch;

use crate::event::LogEvent;
use crate::ids::{Position, Seq, WorkflowId};
use crate::ports::{HistoryRow, Rest};

/// How a life's tail stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailState {
    /// A life owns it.
    Live,
    /// The run waits for an answer or a timer; another life will go on with the same tail.
    Parked,
    /// The run rests; what it says to people. Another life goes on when somebody resumes it.
    Resting(Rest, String),
    /// `Finished` is the last event.
    Ended,
}

/// What watchers wake up for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tip {
    visible: Seq,
    state: TailState,
}

/// One workflow's tail. Shared by its owner and every watcher; lives as long as one of them.
#[derive(Debug)]
pub struct Log {
    workflow: WorkflowId,
    tail: Mutex<Tail>,
    tip: watch::Sender<Tip>,
    /// The state of the tip alone: who waits for an end is not woken by each event.
    state: watch::Sender<TailState>,
    /// The entry that the run ended with, once a life of this process ended it.
    entry: OnceLock<Arc<HistoryRow>>,
    watchers: watch::Sender<usize>,
    watchers_max: usize,
    /// Runs of this process that are in their grace, shared with [`Logs`].
    in_grace: Arc<AtomicUsize>,
}

/// Counts a run whose last watcher left and that waits for one to come back. Held by its life for that long.
#[derive(Debug)]
pub(crate) struct Grace(Arc<AtomicUsize>);

impl Drop for Grace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Tail {
    /// Everything at or below this stands in the store.
    floor: Seq,
    /// The journal's head before this life, until the life's first append is durable. Before that the store may still get
    /// more of an earlier owner: a reader would miss deltas whose attempt ends later.
    sealed: Option<Position>,
    /// Events with the position that must be durable before each may show.
    events: Vec<(Position, Arc<LogEvent>)>,
    /// How many of them are visible.
    visible: usize,
}

/// The workflow has as many watchers as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the workflow has {max} watchers, as many as it may")]
pub struct TooManyWatchers {
    /// The limit.
    pub max: usize,
}

impl Log {
    fn new(workflow: WorkflowId, watchers_max: usize, in_grace: Arc<AtomicUsize>) -> Self {
        let state = TailState::Parked;
        let (tip, _) = watch::channel(Tip { visible: Seq(0), state: state.clone() });
        let ((state, _), (watchers, _)) = (watch::channel(state), watch::channel(0));
        let (tail, entry) = (Mutex::default(), OnceLock::new());
        Self { workflow, tail, tip, state, entry, watchers, watchers_max, in_grace }
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        // A panic cannot leave the tail half changed: every change below is one push or one assignment.
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The workflow it is the log of.
    #[must_use]
    pub fn workflow(&self) -> &WorkflowId {
        &self.workflow
    }

    /// A new life goes on behind `head` and `floor`, the number of the last durable event: what an earlier life left
    /// undurable goes. Nobody is sent to the store for what was before until this life owns the run.
    pub(crate) fn begin(&self, floor: Seq, head: Position) {
        let mut tail = self.tail();
        *tail = Tail { floor, sealed: Some(head), ..Tail::default() };
        drop(tail);
        self.tip.send_modify(|tip| {
            tip.visible = floor;
            self.turn_to(tip, TailState::Live);
        });
    }

    /// Adds an event that may show once the journal is durable up to `position`.
    pub(crate) fn push(&self, position: Position, event: LogEvent) {
        let mut tail = self.tail();
        debug_assert!(tail.events.last().is_none_or(|(_, last)| last.seq < event.seq));
        tail.events.push((position, Arc::new(event)));
    }

    /// For the mutant whose deltas overtake.
    pub(crate) fn overtake(&self, event: LogEvent) {
        let mut tail = self.tail();
        let at = tail.visible;
        let seq = event.seq;
        tail.events.insert(at, (Position(0), Arc::new(event)));
        tail.visible += 1;
        drop(tail);
        self.tip.send_modify(|tip| tip.visible = seq);
    }

    /// The journal is durable up to `position`: shows what may show.
    pub(crate) fn reveal(&self, position: Position) {
        let mut tail = self.tail();
        let unsealed = tail.sealed.take_if(|head| position > *head).is_some();
        let from = tail.visible;
        tail.visible += tail.events[from..].iter().take_while(|(needs, _)| *needs <= position).count();
        let visible = tail.visible.checked_sub(1).map(|last| tail.events[last].1.seq);
        let grew = tail.visible > from;
        drop(tail);
        if let (true, Some(visible)) = (grew, visible) {
            self.tip.send_modify(|tip| tip.visible = visible);
        } else if unsealed {
            self.tip.send_modify(|_| {});
        }
    }

    /// The run ended, durably, with this entry; said before its last events show.
    pub(crate) fn ended_with(&self, entry: Arc<HistoryRow>) {
        // A run ends once.
        drop(self.entry.set(entry));
    }

    /// The life ended.
    pub(crate) fn rest(&self, state: TailState) {
        self.tip.send_modify(|tip| self.turn_to(tip, state));
    }

    /// A run that no life owns was put to rest. A life that began meanwhile says itself how it stands.
    pub(crate) fn put_to_rest(&self, rest: Rest) {
        self.tip.send_if_modified(|tip| {
            let unowned = tip.state == TailState::Parked;
            if unowned {
                self.turn_to(tip, TailState::Resting(rest, rest.text()));
            }
            unowned
        });
    }

    /// Both channels change under the lock of the tip, so that the last word is the same in both.
    fn turn_to(&self, tip: &mut Tip, state: TailState) {
        tip.state = state.clone();
        self.state.send_replace(state);
    }

    /// The run's grace begins.
    pub(crate) fn begin_grace(&self) -> Grace {
        self.in_grace.fetch_add(1, Ordering::Relaxed);
        Grace(self.in_grace.clone())
    }

    /// How many watch.
    #[must_use]
    pub fn watchers(&self) -> watch::Receiver<usize> {
        self.watchers.subscribe()
    }

    /// Everything at or below this number stands in the store.
    #[must_use]
    pub fn floor(&self) -> Seq {
        self.tail().floor
    }

    /// How the run stands.
    pub(crate) fn state(&self) -> TailState {
        self.state.borrow().clone()
    }

    /// Waits until a life that owns the run, or is about to, has left it. Counts as no watcher.
    pub(crate) fn left(&self) -> impl Future<Output = ()> + use<> {
        let mut state = self.state.subscribe();
        // How the last life left is no news of the next one.
        let before = *state.borrow_and_update() != TailState::Live;
        async move {
            if before {
                drop(state.changed().await);
            }
            drop(state.wait_for(|state| *state != TailState::Live).await);
        }
    }
}

/// What a watcher sees next.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// Events, in order, at least one.
    Events(Vec<Arc<LogEvent>>),
    /// Events up to and including this number must be read from the store first.
    InStore(Seq),
    /// Nothing more for now: the run rests. A further call waits for it to go on.
    Rests(Rest, String),
    /// Nothing follows, ever.
    Ended,
}

/// Follows a log from a number on. Counted: the run's grace begins when the last one is dropped.
#[derive(Debug)]
pub struct Watcher {
    log: Arc<Log>,
    tip: watch::Receiver<Tip>,
    after: Seq,
    told_rest: bool,
}

/// At most this many events are handed out at once.
const CHUNK: usize = 256;

impl Watcher {
    /// Watches from the event after `after`.
    ///
    /// # Errors
    /// [`TooManyWatchers`] if the log has as many as it may.
    pub fn new(log: Arc<Log>, after: Seq) -> Result<Self, TooManyWatchers> {
        let max = log.watchers_max;
        let added = log.watchers.send_if_modified(|watchers| {
            let fits = *watchers < max;
            *watchers += usize::from(fits);
            fits
        });
        if !added {
            return Err(TooManyWatchers { max });
        }
        let tip = log.tip.subscribe();
        Ok(Self { log, tip, after, told_rest: false })
    }

    /// The number of the last event that was handed out.
    #[must_use]
    pub fn after(&self) -> Seq {
        self.after
    }

    /// The workflow that is watched.
    #[must_use]
    pub fn workflow(&self) -> &WorkflowId {
        &self.log.workflow
    }

    /// The entry of history that the run ended with, if a life of this process ended it.
    #[must_use]
    pub fn entry(&self) -> Option<&HistoryRow> {
        self.log.entry.get().map(|entry| &**entry)
    }

    /// Whether the run is owned by a life now.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.tip.borrow().state == TailState::Live
    }

    /// Waits until no life owns the run because it waits for an answer or a timer. Borrows nothing, so that a caller can
    /// wait for the next event at the same time.
    pub fn parked(&self) -> impl Future<Output = ()> + use<> {
        let mut state = self.log.state.subscribe();
        async move { drop(state.wait_for(|state| *state == TailState::Parked).await) }
    }

    /// Waits until no life owns the run; how it stands then.
    pub(crate) fn rested(&self) -> impl Future<Output = TailState> + use<> {
        let mut state = self.log.state.subscribe();
        async move {
            let rested = state.wait_for(|state| *state != TailState::Live).await;
            // Nobody changes the state of a log that nobody has.
            rested.map_or(TailState::Ended, |state| state.clone())
        }
    }

    /// Everything at or below this number stands in the store.
    #[must_use]
    pub fn floor(&self) -> Seq {
        self.log.floor()
    }

    /// Goes on after `seq`: what was before it was read from the store.
    pub fn skip_to(&mut self, seq: Seq) {
        self.after = self.after.max(seq);
    }

    /// Goes on after `seq` once more, and says again if the run rests.
    pub(crate) fn go_back_to(&mut self, seq: Seq) {
        (self.after, self.told_rest) = (seq, false);
    }

    /// What is next; waits while there is nothing to say.
    ///
    /// # Cancel safety
    /// Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> Seen {
        loop {
            let state = self.tip.borrow_and_update().state.clone();
            if let Some(seen) = self.ready() {
                self.told_rest = false;
                return seen;
            }
            match state {
                TailState::Ended => return Seen::Ended,
                TailState::Resting(rest, message) if !self.told_rest => {
                    self.told_rest = true;
                    return Seen::Rests(rest, message);
                }
                TailState::Live | TailState::Parked | TailState::Resting(..) => {}
            }
            // The sender lives in `self.log`, so this cannot fail.
            let _ = self.tip.changed().await;
        }
    }

    /// What there is without waiting: events, or where to read them.
    pub(crate) fn ready(&mut self) -> Option<Seen> {
        let tail = self.log.tail();
        if tail.sealed.is_some() {
            return None;
        }
        if self.after < tail.floor {
            return Some(Seen::InStore(tail.floor));
        }
        let visible = &tail.events[..tail.visible];
        let from = visible.partition_point(|(_, event)| event.seq <= self.after);
        let events: Vec<_> = visible[from..].iter().take(CHUNK).map(|(_, event)| event.clone()).collect();
        drop(tail);
        self.after = events.last()?.seq;
        Some(Seen::Events(events))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.log.watchers.send_modify(|watchers| *watchers -= 1);
    }
}

/// Every log that somebody holds, by workflow.
#[derive(Clone, Debug)]
pub struct Logs {
    by_workflow: Arc<Mutex<HashMap<WorkflowId, Weak<Log>>>>,
    watchers_max: usize,
    in_grace: Arc<AtomicUsize>,
}

impl Logs {
    /// No logs yet; each may have `watchers_max` watchers.
    #[must_use]
    pub fn new(watchers_max: usize) -> Self {
        Self { by_workflow: Arc::default(), watchers_max, in_grace: Arc::default() }
    }

    /// How many runs of this process are in their grace. One atomic read, for refusals that must cost no lock.
    #[must_use]
    pub fn in_grace(&self) -> usize {
        self.in_grace.load(Ordering::Relaxed)
    }

    /// The log of `workflow`, if somebody holds it.
    #[must_use]
    pub(crate) fn find(&self, workflow: &WorkflowId) -> Option<Arc<Log>> {
        self.by_workflow.lock().unwrap_or_else(PoisonError::into_inner).get(workflow).and_then(Weak::upgrade)
    }

    /// The log of `workflow`, made if nobody holds it.
    #[must_use]
    pub fn open(&self, workflow: &WorkflowId) -> Arc<Log> {
        let mut logs = self.by_workflow.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = logs.get(workflow).and_then(Weak::upgrade) {
            return log;
        }
        // Entries nobody holds go when the map would grow, so it stays within twice the live ones.
        if logs.len() == logs.capacity() {
            logs.retain(|_, log| log.strong_count() > 0);
        }
        let log = Arc::new(Log::new(workflow.clone(), self.watchers_max, self.in_grace.clone()));
        logs.insert(workflow.clone(), Arc::downgrade(&log));
        log
    }
}

#[cfg(test)]
mod tests;
