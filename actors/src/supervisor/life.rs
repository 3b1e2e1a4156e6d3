//! One life of a run: drives the workflow's future, writes what it put in order, and ends it.
//!
//! The driver owns the writer. One append is in flight at a time; what one poll of the function pushed goes out as one
//! batch when the poll returns, or next. The epoch record heads the first batch, and a takeover makes it and the voids
//! of what was left open durable before the function is polled.
//!
//! Absent on purpose: a retry of a lost append under other words. The same batch is asked again until the store says
//! what became of it.
//!
//! Here is the loop. `terms` is what comes in and goes out, `writing` the append in flight, `inbox` what was committed for
//! the run, `times` what happens by the clock, and `ending` the last append.

mod ending;
mod inbox;
mod spans;
mod terms;
mod times;
mod writing;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::ids::{Position, RequestId};
use crate::journal::{RESTARTED, Record};
use crate::mutant::{self, Mutant};
use crate::ports::{Command, MessageRow, NewWorkflow, Outcome, Pinned, Rest, RunOutput, StoreError, TaskInput};
use crate::stream::{Grace, Log};
use crate::trace::OpenSpan;
use crate::turn::{Halt, Run, StepResult, Turn, json};

use self::ending::Closing;
use self::inbox::Commands;
pub use self::terms::StartFailure;
pub(crate) use self::terms::{Fresh, LifeEnd, LifeInputs, Signal, Started, WhoStarted, Writer};
use self::writing::InFlight;

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
    /// A read of the inbox that is going on.
    inbox: Option<Commands>,
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
    expiring: Rc<RefCell<Vec<RequestId>>>,
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
            inbox: None,
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
        self.inbox = self.takeover.then(|| self.read_inbox());
        loop {
            self.account(*watchers.borrow_and_update());
            if self.in_flight.is_none() {
                self.flush_if_due();
            }
            match self.wake(signals, &mut watchers).await {
                Wake::Appended(result) => {
                    if let Some(end) = self.appended(result) {
                        return end;
                    }
                }
                Wake::Inbox(commands) => self.take_inbox(commands),
                Wake::Signal(Signal::Inbox) => self.inbox = Some(self.read_inbox()),
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

    /// Whether the function may run: a takeover is durable, and its inbox read, before it does.
    fn may_run(&self) -> bool {
        self.closing.is_none() && (!self.takeover || (self.after > self.run.past.head && self.inbox.is_none()))
    }

    /// Waits for whatever comes first, and lets the function run meanwhile.
    async fn wake(&mut self, signals: &mut mpsc::Receiver<Signal>, watchers: &mut watch::Receiver<usize>) -> Wake {
        let (may_run, tick, worked) = (self.may_run(), self.next_tick(), self.working_since.is_some());
        let Self { run, function, in_flight, inbox, closing, .. } = self;
        let idle_writer = in_flight.is_none();
        let append = async {
            match in_flight {
                Some(in_flight) => in_flight.future.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let commands = async {
            match inbox {
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
                // The limits hold by the books, which know nothing yet of what began or ended in this poll.
                Poll::Pending if run.is_working() != worked => Poll::Ready(Wake::Changed),
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
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}
