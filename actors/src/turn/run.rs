//! One life of a run: what its steps share.
//!
//! Steps put records in order here; the life's driver takes them in batches and says when they are durable. Every event
//! gets its number in the same breath as its record its position, so the two orders agree.
//!
//! Absent on purpose: any way to write to the store. The writer belongs to the driver, so that dropping a workflow's
//! future can never leave half an append behind.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use tokio::time::Instant;

use crate::event::{Answer, Audience, Channel, EventBody, Failure, LogEvent, Question, StepKind, Usage};
use crate::ids::{Epoch, Position, RequestId, Seq, Timestamp, WorkflowId};
use crate::journal::{DeltaMark, Divergence, Past, Positioned, Record};
use crate::limits::RunLimits;
use crate::mutant::{self, Mutant};
use crate::ports::{
    Cache, Clock, ModelClient, ModelDelta, ModelReply, OpenedQuestion, Pinned, Store, ToolOutput, ToolRunner,
};
use crate::spend::Spend;
use crate::stream::Log;

/// What a life is given.
pub(crate) struct RunPorts {
    pub clock: Arc<dyn Clock>,
    pub model: Rc<dyn ModelClient>,
    pub tools: Rc<dyn ToolRunner>,
    pub store: Arc<dyn Store>,
    pub cache: Arc<dyn Cache>,
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
        Rc::new(Self {
            head: Cell::new(past.head),
            durable: Cell::new(past.head),
            spend: RefCell::new(past.spend.clone()),
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

    /// Writes the intent of an attempt.
    pub fn start_attempt(&self, path: &Arc<str>, open: OpenStep, key: &Arc<str>) -> Position {
        let at = open.started_at;
        let record = Record::StepStarted {
            at,
            attempt: open.attempt,
            step: open.kind,
            audience: open.audience,
            agent: open.agent.clone(),
            key: key.clone(),
            input: open.input.clone(),
        };
        let event = EventBody::StepStarted {
            step: path.clone(),
            attempt: open.attempt,
            kind: open.kind,
            audience: open.audience,
            agent: open.agent.clone(),
        };
        self.open.borrow_mut().insert(path.clone(), open);
        self.progressed();
        self.push_event(path, at, record, None, event)
    }

    /// Streams a piece of a model's text.
    pub fn delta(&self, path: &Arc<str>, delta: ModelDelta) {
        let bytes = self.text_bytes.get() + delta.text.len() as u64;
        self.text_bytes.set(bytes);
        if bytes > self.limits.text_bytes_max {
            let max = self.limits.text_bytes_max;
            self.halt(Halt::Failed(Failure::new("limit_reached", format!("the run streamed more than {max} bytes"))));
        }
        self.progressed();
        if delta.text.is_empty() || self.halt.borrow().is_some() {
            return;
        }
        let seq = self.next_seq();
        let mut open = self.open.borrow_mut();
        let Some(step) = open.get_mut(path) else { return };
        let (kept, scalars) = match delta.channel {
            Channel::Text => (&mut step.text, &mut step.scalars[0]),
            Channel::Reasoning => (&mut step.reasoning, &mut step.scalars[1]),
        };
        kept.push_str(&delta.text);
        let length = u32::try_from(delta.text.chars().count()).unwrap_or(u32::MAX);
        let offset = *scalars;
        *scalars += u64::from(length);
        step.marks.push(DeltaMark(self.numbers.get(), delta.channel, length));
        let body = EventBody::Delta {
            step: path.clone(),
            attempt: step.attempt,
            channel: delta.channel,
            offset,
            text: delta.text.into(),
            audience: step.audience,
            agent: step.agent.clone(),
        };
        drop(open);
        let event = LogEvent { seq, at: self.now(), body };
        if mutant::is(Mutant::DeltasOvertake) {
            return self.log.overtake(event);
        }
        self.log.push(self.head.get(), event);
        // Nothing needs a commit for a delta, but it may be visible at once.
        self.log.reveal(self.durable.get());
    }

    /// The attempt has a reply. Its text is what was streamed, so that a log read again is the log that was seen.
    pub fn complete_model(&self, path: &Arc<str>, mut reply: ModelReply) -> ModelReply {
        let Some(open) = self.open.borrow_mut().remove(path) else { return reply };
        if !open.text.is_empty() {
            reply.text = open.text.clone();
        }
        if !open.reasoning.is_empty() {
            reply.reasoning = open.reasoning.clone();
        }
        if mutant::is(Mutant::CompletedWithoutText) {
            reply.text.clear();
        }
        self.spend.borrow_mut().add_model(open.agent.as_ref(), reply.usage.unwrap_or_default());
        let texts = (Some(Arc::from(reply.text.as_str())), Some(Arc::from(reply.reasoning.as_str())));
        self.complete(path, open, json(&reply), reply.usage, texts);
        reply
    }

    /// The attempt of a tool has a result.
    pub fn complete_tool(&self, path: &Arc<str>, result: &ToolOutput) {
        let Some(open) = self.open.borrow_mut().remove(path) else { return };
        self.spend.borrow_mut().add_tool(open.agent.as_ref());
        self.complete(path, open, json(result), None, (None, None));
    }

    fn complete(
        &self,
        path: &Arc<str>,
        open: OpenStep,
        body: Arc<str>,
        usage: Option<Usage>,
        (text, reasoning): (Option<Arc<str>>, Option<Arc<str>>),
    ) {
        let at = self.now();
        let record = Record::StepCompleted {
            at,
            attempt: open.attempt,
            step: open.kind,
            audience: open.audience,
            agent: open.agent.clone(),
            input: open.input,
            started_at: open.started_at,
            usage,
            deltas: open.marks,
        };
        let event = EventBody::StepCompleted {
            step: path.clone(),
            attempt: open.attempt,
            kind: open.kind,
            audience: open.audience,
            agent: open.agent,
            text,
            reasoning,
            usage,
            started_at: open.started_at,
        };
        self.progressed();
        self.push_event(path, at, record, Some(body), event);
    }

    /// The attempt failed for good.
    pub fn fail(&self, path: &Arc<str>, error: &Failure) {
        let Some(open) = self.open.borrow_mut().remove(path) else { return };
        let at = self.now();
        let record = Record::StepFailed {
            at,
            attempt: open.attempt,
            step: open.kind,
            audience: open.audience,
            input: open.input,
            started_at: open.started_at,
            error: error.clone(),
        };
        let event = EventBody::StepFailed {
            step: path.clone(),
            attempt: open.attempt,
            kind: open.kind,
            audience: open.audience,
            error: error.clone(),
            started_at: open.started_at,
        };
        self.progressed();
        self.push_event(path, at, record, None, event);
    }

    /// The attempt will have no result.
    pub fn void(&self, path: &Arc<str>, attempt: u32, reason: &str) {
        let reason: Arc<str> = reason.into();
        let at = self.now();
        let record = Record::StepVoided { at, attempt, reason: reason.clone() };
        let event = EventBody::StepVoided { step: path.clone(), attempt, reason };
        self.push_event(path, at, record, None, event);
    }

    /// Voids every open step under `prefix` and withdraws its questions.
    pub fn void_under(&self, prefix: &str, reason: &str) {
        let under: Vec<_> = self.open.borrow().keys().filter(|path| path.starts_with(prefix)).cloned().collect();
        for path in under {
            let Some(open) = self.open.borrow_mut().remove(&path) else { continue };
            if let Some(question) = open.question {
                self.closed.borrow_mut().push(question);
            }
            self.void(&path, open.attempt, reason);
        }
        self.waiting.borrow_mut().retain(|path, _| !path.starts_with(prefix));
    }

    /// Voids a branch that lost a race, what an earlier life left of it and this one never reached included.
    pub fn void_loser(&self, prefix: &str) {
        self.void_under(prefix, "lost_race");
        let mut asked: Vec<_> = self.past.unread_questions(prefix);
        asked.sort();
        for (path, question) in asked {
            self.closed.borrow_mut().push(question);
            self.void(&path, 1, "lost_race");
        }
        self.past.mark_read(prefix);
    }

    /// Voids one open attempt, to retry it.
    pub fn void_to_retry(&self, path: &Arc<str>) {
        let open = self.open.borrow_mut().remove(path);
        if let Some(open) = open {
            self.void(path, open.attempt, "retry");
        }
    }

    // ------------------------------------------------------------------------------------------ questions and timers

    pub fn ask(&self, path: &Arc<str>, question: &Question, input: &Arc<str>) {
        let at = self.now();
        let record = Record::Asked { at, input: input.clone() };
        let event = EventBody::Asked { step: path.clone(), question: question.clone() };
        self.push_event(path, at, record, Some(json(question)), event);
        self.wait_for_answer(path, question, input);
    }

    /// Registers an open question, asked now or in an earlier life.
    pub fn wait_for_answer(&self, path: &Arc<str>, question: &Question, input: &Arc<str>) {
        // Said again in every life: a fork's store knows nothing of the questions that its shared records leave open.
        self.opened.borrow_mut().push(OpenedQuestion { question: question.clone(), asked_at: self.now() });
        self.want_flush();
        let open = OpenStep::question(question.request_id.clone(), input.clone(), self.now());
        self.open.borrow_mut().insert(path.clone(), open);
        self.waiting.borrow_mut().insert(path.clone(), Waiting { until: question.expires_at });
    }

    /// The driver found an answer in the inbox.
    pub fn deliver(&self, request: &RequestId, answer: Answer) {
        self.answers.borrow_mut().entry(request.clone()).or_insert(answer);
        if let Some(waker) = self.answer_wakers.borrow_mut().remove(request) {
            waker.wake();
        }
    }

    /// Waits for the answer and journals it.
    pub async fn answer(&self, path: &Arc<str>, question: &Question) -> Answer {
        let request_id = &question.request_id;
        let answer = std::future::poll_fn(|cx| match self.answers.borrow_mut().remove(request_id) {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.answer_wakers.borrow_mut().insert(request_id.clone(), cx.waker().clone());
                Poll::Pending
            }
        })
        .await;
        self.open.borrow_mut().remove(path);
        self.waiting.borrow_mut().remove(path);
        self.closed.borrow_mut().push(request_id.clone());
        let at = self.now();
        let record = Record::Answered { at, request_id: request_id.clone() };
        let event = EventBody::Answered { step: path.clone(), request_id: request_id.clone(), answer: answer.clone() };
        self.progressed();
        self.push_event(path, at, record, Some(json(&answer)), event);
        answer
    }

    /// Open questions whose time is over.
    pub fn expired_questions(&self, now: Timestamp) -> Vec<RequestId> {
        let waiting = self.waiting.borrow();
        let open = self.open.borrow();
        let due = waiting.iter().filter(|(_, waits)| waits.until <= now);
        due.filter_map(|(path, _)| open.get(path)?.question.clone()).collect()
    }

    /// When the first open question expires.
    pub fn first_expiry(&self) -> Option<Timestamp> {
        let open = self.open.borrow();
        let asks = |path: &Arc<str>| open.get(path).is_some_and(|step| step.question.is_some());
        self.waiting.borrow().iter().filter(|(path, _)| asks(path)).map(|(_, waits)| waits.until).min()
    }

    pub fn set_waiting(&self, path: &Arc<str>, until: Option<Timestamp>) {
        let mut waiting = self.waiting.borrow_mut();
        match until {
            Some(until) => drop(waiting.insert(path.clone(), Waiting { until })),
            None => drop(waiting.remove(path)),
        }
    }

    /// When the first thing that waits ends by itself; `None` when nothing waits.
    pub fn first_wake(&self) -> Option<Timestamp> {
        self.waiting.borrow().values().map(|waits| waits.until).min()
    }

    // ---------------------------------------------------------------------------------------------------- the driver

    pub fn effect(self: &Rc<Self>) -> EffectGuard {
        self.effects.set(self.effects.get() + 1);
        EffectGuard(self.clone())
    }

    /// Whether a model, a tool or a read is going on.
    pub fn is_working(&self) -> bool {
        self.effects.get() > 0
    }

    /// Whether a question is open.
    pub fn asks(&self) -> bool {
        self.open.borrow().values().any(|step| step.question.is_some())
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
