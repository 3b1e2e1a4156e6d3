//! One life of a run: drives the workflow's future, writes what it put in order, and ends it.
//!
//! The driver owns the writer. One append is in flight at a time; what one poll of the function pushed goes out as one
//! batch when the poll returns, or next. The epoch record heads the first batch, and a takeover makes it and the voids
//! of what was left open durable before the function is polled.
//!
//! Absent on purpose: a retry of a lost append under other words. The same batch is asked again until the store says
//! what became of it.

mod ending;
mod spans;
mod times;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::event::RunOutcome;
use crate::failpoint::{FailPoint, reach};
use crate::ids::{Epoch, Position, WorkflowId};
use crate::journal::{Past, RESTARTED, Record, encode};
use crate::limits::RunLimits;
use crate::mutant::{self, Mutant};
use crate::ports::{
    Append, Claim, Command, LocalFuture, MessageRow, NewChild, NewWorkflow, Next, Outcome, Pinned, Rest, RunOutput,
    StoreError, StoreWrite, TaskInput, WorkflowFn, Written,
};
use crate::stream::{Grace, Log};
use crate::trace::OpenSpan;
use crate::turn::{Batch, Halt, Run, RunPorts, StepResult, Turn, json};

/// The door to the store's one writer.
pub(crate) trait Writer {
    /// Appends; the same words may be asked again.
    fn append(&self, append: Append) -> LocalFuture<'static, Result<Outcome, StoreError>>;
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
    /// Gives the permit back; called once, before the end shows.
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

type Function = Pin<Box<dyn Future<Output = std::thread::Result<StepResult<RunOutput>>>>>;

/// Drives one life to its end. Dropping the future drops the workflow's future and everything it does.
pub(crate) async fn live(inputs: LifeInputs, signals: &mut mpsc::Receiver<Signal>) -> LifeEnd {
    let input = inputs.fresh.as_ref().map(|fresh| fresh.input.clone()).or_else(|| inputs.past.input.clone());
    let config = match &inputs.fresh {
        Some(fresh) => Some(fresh.config.clone()),
        None => inputs.past.config.as_deref().and_then(|config| config.parse().ok()),
    };
    let (Some(input), Some(config)) = (input, config) else {
        return LifeEnd::Rested(Rest::Quarantined, "its journal does not say what it was given".to_owned());
    };
    let function = inputs.function;
    let mut life = Life::begin(inputs, &input, config);
    let (run, span) = (life.run.clone(), life.span.clone());
    let mut turn = Turn::root(run, span.clone());
    life.function = Some(Box::pin(AssertUnwindSafe(async move { function(&mut turn, &input).await }).catch_unwind()));
    let end = life.drive(signals).await;
    span.iter().for_each(|span| spans::end(span, &end, None));
    end
}

struct InFlight {
    append: Append,
    /// It is this life's last.
    last: bool,
    since: Instant,
    tries: u32,
    future: LocalFuture<'static, Result<Outcome, StoreError>>,
}

struct Life {
    run: Rc<Run>,
    /// Absent when nobody traces.
    span: Option<Rc<OpenSpan>>,
    made: NewWorkflow,
    writer: Rc<dyn Writer>,
    log: Arc<Log>,
    bore: Rc<Cell<bool>>,
    release: Rc<dyn Fn()>,
    started: WhoStarted,
    function: Option<Function>,
    in_flight: Option<InFlight>,
    first: Option<(NewWorkflow, Option<MessageRow>)>,
    after: Position,
    runtime: Duration,
    working_since: Option<Instant>,
    quiet_since: Option<Instant>,
    /// Since when nobody watches, and the run's place among those in their grace.
    unwatched_since: Option<(Instant, Grace)>,
    detached: bool,
    takeover: bool,
    /// The last append of this life, once it is known.
    closing: Option<Closing>,
    /// Expired questions whose expiry is being committed.
    expiring: Rc<RefCell<Vec<crate::ids::RequestId>>>,
}

/// A life's last append, beside its records.
struct Closing {
    next: Next,
    said: Vec<MessageRow>,
    children: Vec<NewChild>,
    end: LifeEnd,
}

impl Closing {
    fn plain(next: Next, end: LifeEnd) -> Self {
        Self { next, said: Vec::new(), children: Vec::new(), end }
    }
}

enum Wake {
    Appended(Result<Outcome, StoreError>),
    Signal(Signal),
    Returned(std::thread::Result<StepResult<RunOutput>>),
    Halted(Halt),
    Flush,
    Inbox(Result<Vec<Command>, StoreError>),
    Changed,
}

impl Life {
    fn begin(inputs: LifeInputs, input: &TaskInput, config: Pinned) -> Self {
        let LifeInputs { workflow, made, epoch, mut past, runtime, fresh, detached, .. } = inputs;
        // What the first life reads is what every later one must find: the conversation is read by the input in the journal,
        // which a new run does not have yet.
        past.input.get_or_insert_with(|| input.clone());
        let takeover = fresh.is_none();
        let span = spans::begin(&inputs.ports, &workflow, &made, epoch, input);
        let after = past.head;
        let open = past.open_attempts();
        let run = Run::new(workflow, epoch, inputs.ports, inputs.limits, past, inputs.log.clone(), config);
        let root: Arc<str> = Arc::from("");
        run.push(&root, Record::Began { at: run.began_at, owner: run.ports.clock.random() }, None);
        let first = fresh.map(|fresh| {
            let pinned = Record::Pinned { workflow: made.name.clone(), version: made.version };
            run.push(&root, pinned, Some(fresh.config.text()));
            run.push(&root, Record::Input, Some(json(input)));
            if let Some(effort) = made.effort {
                run.push(&root, Record::Effort { effort: Some(effort) }, None);
            }
            (made.clone(), fresh.message)
        });
        if takeover {
            for (path, attempt) in open.into_iter().filter(|_| !mutant::is(Mutant::NoVoidsAtTakeover)) {
                run.void(&path, attempt, RESTARTED);
            }
            if run.past.effort != made.effort {
                run.push(&root, Record::Effort { effort: made.effort }, None);
            }
            run.want_flush();
        }
        Self {
            run,
            span,
            made,
            writer: inputs.writer,
            log: inputs.log,
            bore: inputs.bore,
            release: inputs.release,
            started: inputs.started,
            function: None,
            in_flight: None,
            first,
            after,
            runtime,
            working_since: None,
            quiet_since: None,
            unwatched_since: None,
            detached,
            takeover,
            closing: None,
            expiring: Rc::default(),
        }
    }

    async fn drive(mut self, signals: &mut mpsc::Receiver<Signal>) -> LifeEnd {
        let mut watchers = self.log.watchers();
        let mut inbox: Option<LocalFuture<'static, Result<Vec<Command>, StoreError>>> =
            self.takeover.then(|| self.read_inbox());
        loop {
            self.account(*watchers.borrow_and_update());
            if self.in_flight.is_none() {
                self.flush_if_due();
            }
            // A takeover is durable, and its inbox read, before the function runs.
            let may_run =
                self.closing.is_none() && (!self.takeover || (self.after > self.run.past.head && inbox.is_none()));
            let tick = self.next_tick();
            let wake = {
                let Self { run, function, in_flight, closing, .. } = &mut self;
                let idle_writer = in_flight.is_none();
                let append = async {
                    match in_flight {
                        Some(in_flight) => in_flight.future.as_mut().await,
                        None => std::future::pending().await,
                    }
                };
                let commands = async {
                    match &mut inbox {
                        Some(read) => read.as_mut().await,
                        None => std::future::pending().await,
                    }
                };
                let step = std::future::poll_fn(|cx| {
                    let Some(function) = function.as_mut().filter(|_| may_run) else { return Poll::Pending };
                    let polled = function.as_mut().poll(cx);
                    if let Some(halt) = run.halted() {
                        return Poll::Ready(Wake::Halted(halt));
                    }
                    match polled {
                        Poll::Ready(result) => Poll::Ready(Wake::Returned(result)),
                        Poll::Pending if run.wants_flush() && idle_writer => Poll::Ready(Wake::Flush),
                        Poll::Pending => Poll::Pending,
                    }
                });
                tokio::select! {
                    biased;
                    Some(signal) = signals.recv(), if closing.is_none() => Wake::Signal(signal),
                    result = append => Wake::Appended(result),
                    commands = commands => Wake::Inbox(commands),
                    wake = step => wake,
                    Ok(()) = watchers.changed() => Wake::Changed,
                    () = tokio::time::sleep_until(tick) => Wake::Changed,
                }
            };
            match wake {
                Wake::Appended(result) => {
                    if let Some(end) = self.appended(result) {
                        return end;
                    }
                }
                Wake::Signal(Signal::Inbox) => inbox = Some(self.read_inbox()),
                Wake::Inbox(commands) => {
                    inbox = None;
                    match commands {
                        Ok(commands) => self.take_commands(commands),
                        Err(error) => {
                            tracing::warn!(workflow = %self.run.workflow, %error, "reading the inbox failed");
                            inbox = Some(self.read_inbox_later());
                        }
                    }
                }
                Wake::Signal(Signal::Cancel(reason)) => self.cancel(reason),
                Wake::Signal(Signal::Drain) => self.drain(),
                Wake::Returned(Err(panic)) => {
                    self.function = None;
                    self.settle().await;
                    return LifeEnd::Panicked(panic_text(panic.as_ref()));
                }
                Wake::Returned(Ok(result)) => self.returned(result).await,
                Wake::Halted(halt) => self.halted(halt).await,
                Wake::Flush | Wake::Changed => self.check_limits(),
            }
        }
    }

    // ----------------------------------------------------------------------------------------------------- writing

    /// Starts the next append if there is something to write.
    fn flush_if_due(&mut self) {
        let last = self.closing.is_some();
        if !last && !self.run.wants_flush() {
            return;
        }
        let Batch { records, opened, closed } = self.run.take_batch();
        let mut children = Vec::new();
        let (create, mut messages) = match self.first.take() {
            Some((create, message)) => (Some(Box::new(create)), message.into_iter().collect()),
            None => (None, Vec::new()),
        };
        let next = match &mut self.closing {
            Some(closing) => {
                messages.append(&mut closing.said);
                children.append(&mut closing.children);
                closing.next.clone()
            }
            None => Next::Running,
        };
        let append = Append {
            claim: Claim { workflow: self.run.workflow.clone(), epoch: self.run.epoch },
            after: self.after,
            create,
            records: records.iter().map(encode).collect(),
            messages,
            opened,
            closed,
            runtime: self.spent(),
            children,
            next,
        };
        if last {
            reach(FailPoint::BeforeFinal);
        }
        if self.takeover && self.after == self.run.past.head {
            reach(FailPoint::BeforeTakeover);
        }
        let future = self.writer.append(append.clone());
        self.in_flight = Some(InFlight { append, last, since: Instant::now(), tries: 1, future });
    }

    /// Judges what became of the append in flight.
    fn appended(&mut self, result: Result<Outcome, StoreError>) -> Option<LifeEnd> {
        let in_flight = self.in_flight.take()?;
        match result {
            Ok(Outcome::Done { head }) => {
                let last = in_flight.append.records.last().map_or(in_flight.append.after, |row| row.position);
                debug_assert!(head >= last);
                reach(if in_flight.last { FailPoint::AfterFinal } else { FailPoint::AfterAck });
                if self.takeover && self.after == self.run.past.head {
                    reach(FailPoint::AfterTakeover);
                }
                if in_flight.tries > 1 {
                    tracing::info!(workflow = %self.run.workflow, tries = in_flight.tries, "append done after all");
                }
                self.after = last;
                let is_last = in_flight.last;
                if is_last {
                    self.end_span();
                    (self.release)();
                }
                if let Next::Ended(entry) = in_flight.append.next {
                    self.log.ended_with(entry);
                }
                self.run.set_durable(last);
                if let Some(started) = self.started.borrow_mut().take() {
                    let _ = started.send(Ok(()));
                }
                is_last.then(|| self.over())
            }
            Ok(Outcome::Duplicate { workflow, same_body }) => {
                self.refuse(StartFailure::Duplicate { workflow, same_body });
                Some(LifeEnd::Duplicate)
            }
            Ok(Outcome::Gap { .. } | Outcome::Fenced { .. } | Outcome::Unknown) => {
                self.refuse(StartFailure::Fenced);
                Some(LifeEnd::Fenced)
            }
            Err(error @ (StoreError::Failed(_) | StoreError::Damaged(_))) => self.give_up(error),
            // A start that nobody has been told of is refused at once: a full disk may stay full for long.
            Err(error) if error.refuses_writes() && self.started.borrow().is_some() => self.give_up(error),
            Err(error) if in_flight.since.elapsed() >= self.run.limits.storage_patience => self.give_up(error),
            Err(error) => {
                if in_flight.tries == 1 {
                    tracing::warn!(workflow = %self.run.workflow, %error, "append failed, asking again");
                }
                self.run.show_failed_append();
                let wait = Duration::from_millis(20 << in_flight.tries.min(5));
                let (writer, append) = (self.writer.clone(), in_flight.append.clone());
                let future = async move {
                    tokio::time::sleep(wait).await;
                    writer.append(append).await
                };
                self.in_flight = Some(InFlight { tries: in_flight.tries + 1, future: Box::pin(future), ..in_flight });
                None
            }
        }
    }

    fn refuse(&mut self, failure: StartFailure) {
        if let Some(started) = self.started.borrow_mut().take() {
            let _ = started.send(Err(failure));
        }
    }

    fn give_up(&mut self, error: StoreError) -> Option<LifeEnd> {
        self.function = None;
        (self.release)();
        let rest = if matches!(error, StoreError::Damaged(_)) { Rest::Quarantined } else { Rest::StorageUnavailable };
        let text = error.to_string();
        self.refuse(StartFailure::Store(error));
        Some(LifeEnd::Rested(rest, text))
    }

    /// Waits until no append is in flight: a new life must find what this one wrote.
    async fn settle(&mut self) {
        while let Some(in_flight) = &mut self.in_flight {
            let result = in_flight.future.as_mut().await;
            if self.appended(result).is_some() {
                return;
            }
        }
    }

    // ------------------------------------------------------------------------------------------------------ ending

    // ------------------------------------------------------------------------------------------------------ the inbox

    fn read_inbox(&self) -> LocalFuture<'static, Result<Vec<Command>, StoreError>> {
        let (store, workflow) = (self.run.ports.store.clone(), self.run.workflow.clone());
        Box::pin(async move { store.inbox(&workflow).await })
    }

    fn read_inbox_later(&self) -> LocalFuture<'static, Result<Vec<Command>, StoreError>> {
        let read = self.read_inbox();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            read.await
        })
    }

    fn take_commands(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Answer { request_id, answer } => self.run.deliver(&request_id, answer),
                Command::Cancel { reason } => self.cancel(reason),
            }
        }
    }

    // ------------------------------------------------------------------------------------------------------ limits
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}
