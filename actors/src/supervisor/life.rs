//! One life of a run: drives the workflow's future, writes what it put in order, and ends it.
//!
//! The driver owns the writer. One append is in flight at a time; what one poll of the function pushed goes out as one
//! batch when the poll returns, or next. The epoch record heads the first batch, and a takeover makes it and the voids
//! of what was left open durable before the function is polled.
//!
//! Absent on purpose: a retry of a lost append under other words. The same batch is asked again until the store says
//! what became of it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::event::{Answer, EventBody, Failure, RunOutcome};
use crate::failpoint::{FailPoint, reach};
use crate::ids::{Epoch, Position, Timestamp, WorkflowId};
use crate::journal::{Past, Positioned, RESTARTED, Record, encode};
use crate::limits::RunLimits;
use crate::mutant::{self, Mutant};
use crate::ports::{
    Append, ChildRun, Claim, Command, HistoryRow, LocalFuture, MessageRow, NewChild, NewWorkflow, Next, OnDisconnect,
    Outcome, Pinned, Posted, Quality, Rest, Role, RunOutput, StoreError, StoreWrite, TaskInput, WorkflowFn, Written,
};
use crate::stream::{Grace, Log};
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
pub(crate) async fn live(mut inputs: LifeInputs, signals: &mut mpsc::Receiver<Signal>) -> LifeEnd {
    let input = inputs.fresh.as_ref().map(|fresh| fresh.input.clone()).or_else(|| inputs.past.input.clone());
    let config = match &inputs.fresh {
        Some(fresh) => Some(fresh.config.clone()),
        None => inputs
            .past
            .config
            .as_deref()
            .and_then(|config| serde_json::from_str::<Value>(config).ok())
            .map(Pinned::from),
    };
    let (Some(input), Some(config)) = (input, config) else {
        return LifeEnd::Rested(Rest::Quarantined, "its journal does not say what it was given".to_owned());
    };
    // What the first life reads is what every later one must find: the conversation is read by the input in the journal,
    // which a new run does not have yet.
    inputs.past.input.get_or_insert_with(|| input.clone());
    let function = inputs.function;
    let mut life = Life::begin(inputs, &input, config.clone());
    let run = life.run.clone();
    life.function = Some(Box::pin(
        AssertUnwindSafe(async move { function(&mut Turn::root(run), &input, &config).await }).catch_unwind(),
    ));
    life.drive(signals).await
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
    made: NewWorkflow,
    writer: Rc<dyn Writer>,
    log: Arc<Log>,
    /// What the run is pinned to; its children are pinned to the same.
    config: Pinned,
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
        // A new run's steps look for its conversation here, as those of a run taken over do.
        past.input.get_or_insert_with(|| input.clone());
        let takeover = fresh.is_none();
        let after = past.head;
        let open = past.open_attempts();
        let run = Run::new(workflow, epoch, inputs.ports, inputs.limits, past, inputs.log.clone(), config.clone());
        let root: Arc<str> = Arc::from("");
        run.push(&root, Record::Began { at: run.now(), owner: run.ports.clock.random() }, None);
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
            made,
            writer: inputs.writer,
            log: inputs.log,
            config,
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
                self.after = last;
                let is_last = in_flight.last;
                if is_last {
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
            Err(StoreError::Full) if self.started.borrow().is_some() => self.give_up(StoreError::Full),
            Err(error) if in_flight.since.elapsed() >= self.run.limits.storage_patience => self.give_up(error),
            Err(error) => {
                tracing::warn!(workflow = %self.run.workflow, %error, tries = in_flight.tries, "append failed, asking again");
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

    fn over(&mut self) -> LifeEnd {
        match self.closing.take() {
            Some(closing) => closing.end,
            None => LifeEnd::Fenced,
        }
    }

    // ------------------------------------------------------------------------------------------------------ ending

    async fn returned(&mut self, result: StepResult<RunOutput>) {
        self.function = None;
        match result {
            Ok(output) => {
                if let Some(divergence) = self.run.past.unread() {
                    return self.halted(Halt::Diverged(divergence)).await;
                }
                self.close(RunOutcome::Completed, Some(output), None);
            }
            Err(failure) => self.fail(failure),
        }
    }

    async fn halted(&mut self, halt: Halt) {
        self.function = None;
        match halt {
            Halt::Failed(failure) => self.fail(failure),
            Halt::Diverged(divergence) => {
                // What this life put in order is not written; what is in flight is.
                self.settle().await;
                drop(self.run.take_batch());
                let text = format!("replay_diverged: {divergence}");
                tracing::error!(workflow = %self.run.workflow, path = %divergence.path, "replay diverged: {}", divergence.detail);
                self.refuse(StartFailure::Rests(Rest::Quarantined, text.clone()));
                let end = LifeEnd::Rested(Rest::Quarantined, text);
                self.closing = Some(Closing::plain(Next::Resting(Rest::Quarantined), end));
            }
        }
    }

    fn fail(&mut self, error: Failure) {
        self.function = None;
        self.run.void_under("", "failed");
        let at = self.run.now();
        let record = Record::Error { at, error: error.clone() };
        self.run.push_event(&Arc::from(""), at, record, None, EventBody::Error { error: error.clone() });
        self.close(RunOutcome::Failed, None, Some(error));
    }

    fn cancel(&mut self, reason: Arc<str>) {
        if self.closing.is_some() {
            return;
        }
        // Stopping the work and freeing the place waits for nothing; the event is one commit later.
        self.function = None;
        (self.release)();
        self.run.void_under("", "cancelled");
        let at = self.run.now();
        let record = Record::Cancelled { at, reason: reason.clone() };
        let error = Failure::new("cancelled", format!("cancelled: {reason}"));
        self.run.push_event(&Arc::from(""), at, record, None, EventBody::Cancelled { reason });
        self.close(RunOutcome::Cancelled, None, Some(error));
    }

    fn close(&mut self, outcome: RunOutcome, mut output: Option<RunOutput>, error: Option<Failure>) {
        let at = self.run.now();
        self.run.push_event(
            &Arc::from(""),
            at,
            Record::Finished { at, outcome },
            None,
            EventBody::Finished { outcome },
        );
        let said = self.made.conversation.clone().zip(output.as_ref()).map(|(conversation, output)| MessageRow {
            id: WorkflowId::generate().as_str().into(),
            conversation,
            role: Role::Assistant,
            content: output.text.clone(),
            created_at: at,
            author: output.author.clone(),
            agent_id: output.agent_id.clone(),
            workflow: Some(self.run.workflow.clone()),
            finish_reason: Some(output.finish_reason),
            quality: output.quality.clone(),
        });
        let is_child = self.made.child_of.is_some();
        let said = said.filter(|_| !is_child);
        let children = output.as_mut().map(|output| std::mem::take(&mut output.children)).unwrap_or_default();
        let children: Vec<_> = children.into_iter().map(|child| self.bear(child, at)).collect();
        self.bore.set(!children.is_empty());
        // A child that could not tell says so, or its parent's message would stay pending for ever.
        let quality = output.as_ref().and_then(|output| output.quality.clone());
        let quality = quality.or_else(|| is_child.then(Quality::not_scored));
        let spend = self.run.spend();
        let history = HistoryRow {
            workflow_id: self.run.workflow.clone(),
            conversation_id: self.made.conversation.clone(),
            task: self.made.task.to_string(),
            status: outcome,
            result: output,
            error,
            reasoning_effort: self.made.effort,
            created_at: self.made.created_at,
            completed_at: at,
            runtime_ms: u64::try_from(self.spent().as_millis()).unwrap_or(u64::MAX),
            model_calls: spend.model_calls,
            tool_calls: spend.tool_calls,
            usage: spend.usage,
            by_agent: spend.by_agent,
            quality,
        };
        let (next, said) = (Next::Ended(Box::new(history)), said.into_iter().collect());
        self.closing = Some(Closing { next, said, children, end: LifeEnd::Ended(outcome) });
    }

    /// Makes a child: a parked workflow that is due at once, pinned to what this run is pinned to.
    fn bear(&self, child: ChildRun, at: Timestamp) -> NewChild {
        let made = NewWorkflow {
            name: child.name.clone(),
            version: child.version,
            conversation: self.made.conversation.clone(),
            task: self.made.task.clone(),
            effort: None,
            request: None,
            on_disconnect: OnDisconnect::Continue,
            created_at: at,
            child_of: Some(self.run.workflow.clone()),
        };
        let pinned = Record::Pinned { workflow: child.name, version: child.version };
        let bodies = [(pinned, self.config.text()), (Record::Input, json(&child.input))];
        let records = (1..).zip(bodies).map(|(position, (record, body))| {
            let (position, epoch, body) = (Position(position), Epoch(0), Some(body));
            encode(&Positioned { position, epoch, seq: None, path: Arc::from(""), record, body })
        });
        NewChild { workflow: WorkflowId::generate(), made: Box::new(made), records: records.collect() }
    }

    fn park(&mut self) {
        let wake_at = self.run.first_wake();
        self.function = None;
        self.run.push(&Arc::from(""), Record::Parked { at: self.run.now() }, None);
        self.closing = Some(Closing::plain(Next::Parked { wake_at }, LifeEnd::Parked));
    }

    /// Rests for the next process: the record says that this life ended on purpose, so it counts as no failed start.
    fn drain(&mut self) {
        self.function = None;
        self.run.push(&Arc::from(""), Record::Parked { at: self.run.now() }, None);
        self.closing = Some(Closing::plain(Next::Running, LifeEnd::Drained));
    }

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

    /// Commits the expiry of questions whose time is over. It competes with answers: the first committed wins.
    fn expire_questions(&mut self) {
        for request_id in self.run.expired_questions(self.run.now()) {
            if self.expiring.borrow().contains(&request_id) {
                continue;
            }
            self.expiring.borrow_mut().push(request_id.clone());
            let command = Command::Answer { request_id: request_id.clone(), answer: Answer::Expired };
            let workflow = self.run.workflow.clone();
            let (run, store) = (self.run.clone(), self.run.ports.store.clone());
            let write = self.writer.write(StoreWrite::Post { workflow: workflow.clone(), command });
            let expiring = self.expiring.clone();
            // A task of its own: if the life ends meanwhile, the row is there for the next one.
            tokio::task::spawn_local(async move {
                match write.await {
                    Ok(Written::Posted(Posted::Accepted)) => run.deliver(&request_id, Answer::Expired),
                    // The store's clock judges, and it is behind ours.
                    Ok(Written::Posted(Posted::NotYet)) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        expiring.borrow_mut().retain(|id| *id != request_id);
                    }
                    Ok(_) => {
                        for command in store.inbox(&workflow).await.unwrap_or_default() {
                            if let Command::Answer { request_id, answer } = command {
                                run.deliver(&request_id, answer);
                            }
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%workflow, %error, "the expiry of a question was not committed");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        expiring.borrow_mut().retain(|id| *id != request_id);
                    }
                }
            });
        }
    }

    // ------------------------------------------------------------------------------------------------------ limits

    /// Keeps the books of time: runtime while something works, quiet while nothing does, unwatched while nobody looks.
    fn account(&mut self, watchers: usize) {
        let now = Instant::now();
        let working = self.function.is_some() && self.run.is_working();
        if let Some(since) = self.working_since.take() {
            self.runtime += now - since;
        }
        self.working_since = working.then_some(now);
        let quiet = !working && self.function.is_some() && self.run.first_wake().is_some();
        self.quiet_since = quiet.then(|| self.quiet_since.unwrap_or(now));
        let alone = watchers == 0 && !self.detached && self.made.on_disconnect == OnDisconnect::Cancel;
        self.unwatched_since =
            alone.then(|| self.unwatched_since.take().unwrap_or_else(|| (now, self.log.begin_grace())));
    }

    /// What the run worked until now: the books, and what has been done since they were kept.
    fn spent(&self) -> Duration {
        self.runtime + self.working_since.map_or(Duration::ZERO, |since| Instant::now() - since)
    }

    fn next_tick(&self) -> Instant {
        let limits = &self.run.limits;
        let now = Instant::now();
        let far = now + Duration::from_secs(3_600);
        if self.closing.is_some() {
            return far;
        }
        let mut tick = far;
        if let Some(since) = self.working_since {
            tick = tick.min(since + limits.runtime_max.saturating_sub(self.runtime));
            tick = tick.min(self.run.last_progress() + limits.idle_timeout);
        }
        if let Some(since) = self.quiet_since {
            tick = tick.min(since + limits.park_after);
        }
        if let Some((since, _)) = &self.unwatched_since {
            tick = tick.min(*since + limits.disconnect_grace);
        }
        // Timers wake the function by themselves; an expired question must be committed first.
        if let Some(until) = self.run.first_expiry() {
            let again = if self.expiring.borrow().is_empty() { 1 } else { 100 };
            tick = tick.min(now + until.since(self.run.now()).max(Duration::from_millis(again)));
        }
        // A limit that has passed and cannot be acted on yet must not make this a loop without a wait.
        tick.max(now + Duration::from_millis(1))
    }

    fn check_limits(&mut self) {
        if self.closing.is_some() {
            return;
        }
        let limits = self.run.limits.clone();
        let now = Instant::now();
        if self.working_since.is_some() && self.spent() >= limits.runtime_max {
            let ms = limits.runtime_max.as_millis();
            return self
                .fail(Failure::new("runtime_exceeded", format!("the run worked for {ms} ms, as long as a run may")));
        }
        if self.working_since.is_some() && now >= self.run.last_progress() + limits.idle_timeout {
            let ms = limits.idle_timeout.as_millis();
            return self.fail(Failure::new("idle_timeout", format!("no step made progress for {ms} ms")));
        }
        self.expire_questions();
        // What is in order and not yet written goes out with the park.
        // The books were kept before the last poll of the function, which may have moved on since.
        let settled = self.in_flight.is_none() && !self.run.is_working() && self.run.first_wake().is_some();
        let waits_long = self.quiet_since.is_some_and(|since| now >= since + limits.park_after);
        let left = self.unwatched_since.as_ref().is_some_and(|(since, _)| now >= *since + limits.disconnect_grace);
        let asks = self.run.asks();
        if settled && self.quiet_since.is_some() && (waits_long || (left && asks)) {
            self.park();
        } else if left && !asks {
            self.cancel("disconnected".into());
        }
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}
