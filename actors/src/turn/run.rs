//! One life of a run: what its steps share.
//!
//! Steps put records in order here; the life's driver takes them in batches and says when they are durable. Every event
//! gets its number in the same breath as its record its position, so the two orders agree.
//!
//! Absent on purpose: any way to write to the store. The writer belongs to the driver, so that dropping a workflow's
//! future can never leave half an append behind.

mod attempts;
mod waits;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::event::{Answer, Audience, EventBody, Failure, LogEvent, StepKind};
use crate::ids::{Epoch, Position, RequestId, Seq, Timestamp, WorkflowId};
use crate::journal::{DeltaMark, Divergence, Past, Positioned, Record};
use crate::limits::RunLimits;
use crate::meter::Meter;
use crate::mutant::{self, Mutant};
use crate::ports::{Cache, Clock, ModelClient, OpenedQuestion, Pinned, Store, ToolRunner};
use crate::spend::Spend;
use crate::stream::Log;
use crate::trace::Tracer;

/// What a life is given.
pub(crate) struct RunPorts {
    pub clock: Arc<dyn Clock>,
    pub model: Rc<dyn ModelClient>,
    pub tools: Rc<dyn ToolRunner>,
    pub store: Arc<dyn Store>,
    pub cache: Arc<dyn Cache>,
    pub meter: Arc<Meter>,
    pub tracer: Option<Arc<dyn Tracer>>,
}

/// Why the driver must stop the function; never shown to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The code does not fit the journal.
    Diverged(Divergence),
    /// The run is over one of its limits.
    Failed(Failure),
}

/// A step with an attempt or a question that has no end yet.
#[derive(Clone, Debug)]
pub(crate) struct OpenStep {
    pub attempt: u32,
    pub kind: StepKind,
    pub audience: Audience,
    pub agent: Option<Arc<str>>,
    pub input: Arc<str>,
    pub started_at: Timestamp,
    pub question: Option<RequestId>,
    text: String,
    reasoning: String,
    scalars: [u64; 2],
    marks: Vec<DeltaMark>,
}

/// What waits without costing runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// When it ends by itself.
    pub until: Timestamp,
}

pub(crate) struct Run {
    pub workflow: WorkflowId,
    pub epoch: Epoch,
    /// When this life began.
    pub began_at: Timestamp,
    /// The time that the lives before it lost.
    pub lost: Duration,
    pub ports: RunPorts,
    pub limits: RunLimits,
    pub past: Past,
    log: Arc<Log>,
    head: Cell<Position>,
    numbers: Cell<u64>,
    text_bytes: Cell<u64>,
    durable: Cell<Position>,
    wants_flush: Cell<bool>,
    pending: RefCell<Vec<Positioned>>,
    opened: RefCell<Vec<OpenedQuestion>>,
    closed: RefCell<Vec<RequestId>>,
    waiters: RefCell<Vec<(Position, Waker)>>,
    /// For the mutant that shows storage errors to the function.
    append_failed: Cell<bool>,
    open: RefCell<BTreeMap<Arc<str>, OpenStep>>,
    /// What it is pinned to.
    pub pinned: Pinned,
    waiting: RefCell<BTreeMap<Arc<str>, Waiting>>,
    answers: RefCell<HashMap<RequestId, Answer>>,
    answer_wakers: RefCell<HashMap<RequestId, Waker>>,
    halt: RefCell<Option<Halt>>,
    /// Model and tool attempts and reads that are going on.
    effects: Cell<u32>,
    last_progress: Cell<Instant>,
    replayed: Cell<u32>,
    spend: RefCell<Spend>,
}

impl Run {
    pub fn new(
        workflow: WorkflowId,
        epoch: Epoch,
        ports: RunPorts,
        limits: RunLimits,
        past: Past,
        log: Arc<Log>,
        pinned: Pinned,
    ) -> Rc<Self> {
        log.begin(past.last_seq, past.head);
        let began_at = ports.clock.now();
        Rc::new(Self {
            head: Cell::new(past.head),
            durable: Cell::new(past.head),
            spend: RefCell::new(past.spend.clone()),
            began_at,
            lost: past.lost_until(began_at),
            workflow,
            epoch,
            ports,
            limits,
            past,
            log,
            pinned,
            numbers: Cell::new(0),
            text_bytes: Cell::new(0),
            wants_flush: Cell::new(false),
            pending: RefCell::default(),
            opened: RefCell::default(),
            closed: RefCell::default(),
            waiters: RefCell::default(),
            append_failed: Cell::new(false),
            open: RefCell::default(),
            waiting: RefCell::default(),
            answers: RefCell::default(),
            answer_wakers: RefCell::default(),
            halt: RefCell::default(),
            effects: Cell::new(0),
            last_progress: Cell::new(Instant::now()),
            replayed: Cell::new(0),
        })
    }

    pub fn now(&self) -> Timestamp {
        self.ports.clock.now()
    }

    // ------------------------------------------------------------------------------------------------ putting in order

    fn next_seq(&self) -> Seq {
        let n = self.numbers.get() + 1;
        self.numbers.set(n);
        if n == self.limits.events_max {
            self.halt(Halt::Failed(Failure::new(
                "limit_reached",
                format!("the run made {n} events, as many as a run may"),
            )));
        }
        if mutant::is(Mutant::SeqFollowsDurable) {
            return Seq(self.past.last_seq.0 + n);
        }
        Seq::new(self.epoch, n)
    }

    /// Puts a record without an event in order.
    pub fn push(&self, path: &Arc<str>, record: Record, body: Option<Arc<str>>) -> Position {
        self.place(None, path, record, body)
    }

    /// Puts a record in order together with the event that clients see of it.
    pub fn push_event(
        &self,
        path: &Arc<str>,
        at: Timestamp,
        record: Record,
        body: Option<Arc<str>>,
        event: EventBody,
    ) -> Position {
        let seq = self.next_seq();
        let position = self.place(Some(seq), path, record, body);
        let shows_at = if mutant::is(Mutant::VisibleBeforeDurable) { self.durable.get() } else { position };
        self.log.push(shows_at, LogEvent { seq, at, body: event });
        self.wants_flush.set(true);
        position
    }

    fn place(&self, seq: Option<Seq>, path: &Arc<str>, record: Record, body: Option<Arc<str>>) -> Position {
        let position = Position(self.head.get().0 + 1);
        self.head.set(position);
        let entry = Positioned { position, epoch: self.epoch, seq, path: path.clone(), record, body };
        self.pending.borrow_mut().push(entry);
        position
    }

    /// Asks the driver to make what is in order durable.
    pub fn want_flush(&self) {
        self.wants_flush.set(true);
    }

    /// Waits until the journal is durable up to `position`.
    pub async fn durable(&self, position: Position) {
        self.wants_flush.set(self.wants_flush.get() || self.durable.get() < position);
        std::future::poll_fn(|cx| {
            if self.durable.get() >= position {
                return Poll::Ready(());
            }
            self.waiters.borrow_mut().push((position, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    // ------------------------------------------------------------------------------------------------------- stepping

    pub fn halt(&self, halt: Halt) {
        self.halt.borrow_mut().get_or_insert(halt);
    }

    pub fn halted(&self) -> Option<Halt> {
        self.halt.borrow().clone()
    }

    pub fn diverge(&self, path: &Arc<str>, detail: impl Into<String>) {
        self.halt(Halt::Diverged(Divergence { path: path.clone(), detail: detail.into() }));
    }

    /// True once every 64 replayed steps: time to let neighbours run.
    pub fn replayed_enough(&self) -> bool {
        self.replayed.set(self.replayed.get().wrapping_add(1));
        self.replayed.get().is_multiple_of(64)
    }

    // ------------------------------------------------------------------------------------------ questions and timers

    // ---------------------------------------------------------------------------------------------------- the driver

    pub fn effect(self: &Rc<Self>) -> EffectGuard {
        self.effects.set(self.effects.get() + 1);
        EffectGuard(self.clone())
    }

    /// Whether a model, a tool or a read is going on.
    pub fn is_working(&self) -> bool {
        self.effects.get() > 0
    }

    pub fn progressed(&self) {
        self.last_progress.set(Instant::now());
    }

    pub fn last_progress(&self) -> Instant {
        self.last_progress.get()
    }

    pub fn wants_flush(&self) -> bool {
        self.wants_flush.get() && (!self.pending.borrow().is_empty() || !self.opened.borrow().is_empty())
    }

    /// Takes what is in order and not yet on its way.
    pub fn take_batch(&self) -> Batch {
        self.wants_flush.set(false);
        let records = std::mem::take(&mut *self.pending.borrow_mut());
        let opened = std::mem::take(&mut *self.opened.borrow_mut());
        let closed = std::mem::take(&mut *self.closed.borrow_mut());
        Batch { records, opened, closed }
    }

    /// The journal is durable up to `position`.
    pub fn set_durable(&self, position: Position) {
        self.durable.set(position);
        self.log.reveal(position);
        let mut waiters = self.waiters.borrow_mut();
        let (due, rest): (Vec<_>, Vec<_>) = waiters.drain(..).partition(|(needs, _)| *needs <= position);
        *waiters = rest;
        drop(waiters);
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// For the mutant that shows storage errors to the function.
    pub fn show_failed_append(&self) {
        if mutant::is(Mutant::StorageErrorShown) {
            self.append_failed.set(true);
        }
    }

    pub fn shows_failed_append(&self) -> bool {
        mutant::is(Mutant::StorageErrorShown) && self.append_failed.take()
    }

    pub fn spend(&self) -> Spend {
        self.spend.borrow().clone()
    }
}

/// What goes to the store together.
pub(crate) struct Batch {
    pub records: Vec<Positioned>,
    pub opened: Vec<OpenedQuestion>,
    pub closed: Vec<RequestId>,
}

/// Counts as work while it lives.
pub(crate) struct EffectGuard(Rc<Run>);

impl Drop for EffectGuard {
    fn drop(&mut self) {
        self.0.effects.set(self.0.effects.get() - 1);
    }
}

impl OpenStep {
    pub fn attempt(
        attempt: u32,
        kind: StepKind,
        (audience, agent): (Audience, Option<Arc<str>>),
        input: Arc<str>,
        started_at: Timestamp,
    ) -> Self {
        Self {
            attempt,
            kind,
            audience,
            agent,
            input,
            started_at,
            question: None,
            text: String::new(),
            reasoning: String::new(),
            scalars: [0; 2],
            marks: Vec::new(),
        }
    }

    fn question(id: RequestId, input: Arc<str>, at: Timestamp) -> Self {
        let mut open = Self::attempt(1, StepKind::Question, (Audience::Workflow, None), input, at);
        open.question = Some(id);
        open
    }
}

/// A value as JSON text. What we store ourselves always serialises; a map with keys that are no strings would not, and
/// no type of ours has one.
pub(crate) fn json(value: &impl serde::Serialize) -> Arc<str> {
    serde_json::to_string(value).unwrap_or_else(|error| format!("\"unserialisable: {error}\"")).into()
}
