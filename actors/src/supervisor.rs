//! Owns one running turn: its permit, its own agent clients, its future. Starts it, tells it to stop, rebuilds it after a
//! panic, and says how it ended.
//!
//! Nothing in it is shared with another session, so what goes wrong in one stays there. Supervision is our own:
//! `actix::Supervisor` does not restart after a panic. A run that panics is rebuilt from its journal under a new epoch, at
//! most `rebuilds_max` times within `rebuild_window`, then it is quarantined. The journal counts the starts as well, so a
//! restart of the process does not forgive them.

mod life;
#[cfg(test)]
mod simulation;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, WrapFuture as _,
};
use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::admission::SessionPermit;
use crate::checkpoint::Checkpoints;
use crate::event::RunOutcome;
use crate::ids::{Epoch, Position, WorkflowId};
use crate::journal::{Past, decode};
use crate::limits::RunLimits;
use crate::mailbox::Mailbox;
use crate::meter::Meter;
use crate::ports::{
    AgentClients, Cache, Clock, Command, MessageRow, NewWorkflow, Pinned, ReasoningEffort, Rest, Store, StoreError,
    StoreWrite, TaskInput, Tools, WorkflowRow, Workflows,
};
use crate::session_manager::{Manager, TurnEnded};
use crate::stream::{Log, Logs, TailState};
use crate::trace::{Tracer, trace_of};
use crate::turn::RunPorts;
pub use life::StartFailure;
pub(crate) use life::{Fresh, LifeEnd, LifeInputs, Signal, Started, WhoStarted, Writer, live};

/// What every supervisor uses and none owns.
#[derive(Clone)]
pub struct Services {
    /// Reads.
    pub store: Arc<dyn Store>,
    /// Writes.
    pub checkpoints: Checkpoints,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
    /// Makes each session its own model clients.
    pub agents: Arc<dyn AgentClients>,
    /// Makes each session its own tool runner.
    pub tools: Arc<dyn Tools>,
    /// What runs share for a while.
    pub cache: Arc<dyn Cache>,
    /// What all runs have used.
    pub meter: Arc<Meter>,
    /// Takes spans of what runs do; absent when nobody traces.
    pub tracer: Option<Arc<dyn Tracer>>,
    /// The workflows this binary knows.
    pub workflows: Arc<dyn Workflows>,
    /// The live tails.
    pub logs: Logs,
    /// What one run may use.
    pub limits: RunLimits,
}

/// What a supervisor is to run.
pub(crate) struct Job {
    pub workflow: WorkflowId,
    pub kind: JobKind,
    /// Absent only for a run that is to be cancelled and nothing else.
    pub permit: Option<Place>,
    /// Nobody needs to watch it.
    pub detached: bool,
    pub started: Option<oneshot::Sender<Started>>,
}

/// The right to run, given back by dropping it.
#[derive(Debug)]
#[expect(dead_code, reason = "held, never read")]
pub(crate) enum Place {
    /// One of the house's.
    House(SessionPermit),
    /// One of the few for children.
    Child(OwnedSemaphorePermit),
}

/// A new run or one that has a journal.
pub(crate) enum JobKind {
    New(Box<New>),
    Resume { effort: Option<ReasoningEffort> },
}

/// A run that has no journal yet.
#[derive(Clone)]
pub(crate) struct New {
    pub made: NewWorkflow,
    pub input: TaskInput,
    pub config: Pinned,
    pub message: Option<MessageRow>,
}

/// At most this many signals wait for one turn.
const SIGNALS: usize = 16;

/// Owns one running turn.
pub struct SupervisorActor {
    signals: mpsc::Sender<Signal>,
    run: Option<(Job, Arc<Services>, Manager, mpsc::Receiver<Signal>)>,
}

impl SupervisorActor {
    pub(crate) fn new(job: Job, services: Arc<Services>, manager: Manager) -> Self {
        let (signals, receiver) = mpsc::channel(SIGNALS);
        Self { signals, run: Some((job, services, manager, receiver)) }
    }

    /// A context that does not run yet, and its door: a supervisor is registered before it starts.
    pub(crate) fn prepare() -> (Context<Self>, Mailbox<Self>) {
        let context = Context::new();
        let door = Mailbox::new(context.address(), SIGNALS, Duration::from_secs(5));
        (context, door)
    }
}

impl Actor for SupervisorActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some((job, services, manager, mut signals)) = self.run.take() else { return };
        let work = async move {
            let workflow = job.workflow.clone();
            let bore = Rc::new(Cell::new(false));
            // Held until the registry knows the end: whoever comes between the two finds it here.
            let _log = services.logs.open(&workflow);
            let end = supervise(job, &services, &mut signals, &bore).await;
            tracing::debug!(%workflow, ?end, "turn ended");
            manager.ended(TurnEnded::new(workflow, &end, bore.get()));
        };
        ctx.spawn(work.into_actor(self).map(|(), _, ctx| ctx.stop()));
    }
}

/// Tells the turn something.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct TellTurn(pub Signal);

impl Handler<TellTurn> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, TellTurn(signal): TellTurn, _: &mut Self::Context) {
        tell(&self.signals, signal);
    }
}

/// Tells a turn something, unless it will hear as much anyway. An inbox is read whole, so half of the places are enough for
/// those; what fills the others are cancels.
fn tell(signals: &mpsc::Sender<Signal>, signal: Signal) {
    if !matches!(signal, Signal::Inbox) || signals.capacity() > SIGNALS / 2 {
        let _ = signals.try_send(signal);
    }
}

/// A run as the store has it.
struct Loaded {
    row: WorkflowRow,
    past: Past,
}

async fn load(store: &dyn Store, workflow: &WorkflowId) -> Result<Option<Loaded>, StoreError> {
    let Some(row) = store.workflow(workflow).await? else { return Ok(None) };
    let records = read_records(store, workflow).await?;
    let mut past = Past::of(&records).map_err(|error| StoreError::Damaged(format!("{workflow}: {error}")))?;
    past.epoch = past.epoch.max(row.epoch);
    Ok(Some(Loaded { row, past }))
}

/// A run whose journal is damaged and that is cancelled: its end needs nothing of what cannot be read.
async fn load_to_end(store: &dyn Store, workflow: &WorkflowId) -> Option<Loaded> {
    if !is_cancelled(store, workflow).await.ok()? {
        return None;
    }
    let row = store.workflow(workflow).await.ok()??;
    let past = Past::of_row(&row);
    Some(Loaded { row, past })
}

/// Whether a cancel of the run is committed that nobody has done yet.
pub(crate) async fn is_cancelled(store: &dyn Store, workflow: &WorkflowId) -> Result<bool, StoreError> {
    let inbox = store.inbox(workflow).await?;
    Ok(inbox.iter().any(|command| matches!(command, Command::Cancel { .. })))
}

/// Every durable record of a workflow, in order.
///
/// # Errors
/// [`StoreError`]; [`StoreError::Damaged`] when one of them cannot be read.
pub async fn read_records(
    store: &dyn Store,
    workflow: &WorkflowId,
) -> Result<Vec<crate::journal::Positioned>, StoreError> {
    const PAGE_BYTES: usize = 4 << 20;
    let mut records = Vec::new();
    let mut after = Position(0);
    loop {
        let rows = store.read(workflow, after, PAGE_BYTES).await?;
        let Some(last) = rows.last() else { return Ok(records) };
        after = last.position;
        for row in &rows {
            records.push(decode(row).map_err(|error| StoreError::Damaged(format!("{workflow}: {error}")))?);
        }
    }
}

/// Runs life after life until the run is over, rests, or belongs to somebody else.
async fn supervise(
    job: Job,
    services: &Services,
    signals: &mut mpsc::Receiver<Signal>,
    bore: &Rc<Cell<bool>>,
) -> LifeEnd {
    let Job { workflow, kind, permit, detached, started } = job;
    let started: WhoStarted = Rc::new(RefCell::new(started));
    let log = services.logs.open(&workflow);
    let permit = Rc::new(RefCell::new(permit));
    let release: Rc<dyn Fn()> = {
        let permit = permit.clone();
        Rc::new(move || drop(permit.borrow_mut().take()))
    };
    let (mut fresh, effort) = match kind {
        JobKind::New(new) => (Some(*new), None),
        JobKind::Resume { effort } => (None, effort),
    };
    let mut panics = Panics::default();
    let end = loop {
        let inputs = match prepare(&workflow, &mut fresh, effort, services, &panics).await {
            Ok(prepared) => prepared,
            Err(end) => break end,
        };
        let Prepared { made, epoch, past, runtime, fresh: new, function } = inputs;
        let input = new.as_ref().map(|fresh| &fresh.input).or(past.input.as_ref());
        let principal = input.map_or_else(TaskInput::local, |input| input.principal.clone());
        // Log lines of a traced run carry the trace's id.
        let lines = services.tracer.as_ref().map_or_else(tracing::Span::none, |_| {
            let of = made.child_of.as_ref().unwrap_or(&workflow);
            let trace = trace_of(of, input.and_then(|input| input.traceparent.as_ref()));
            tracing::error_span!("run", trace_id = format_args!("{trace:032x}"))
        });
        let ports = RunPorts {
            clock: services.clock.clone(),
            model: services.agents.client(made.effort),
            tools: services.tools.runner(&principal),
            store: services.store.clone(),
            cache: services.cache.clone(),
            meter: services.meter.clone(),
            tracer: services.tracer.clone(),
        };
        let inputs = LifeInputs {
            workflow: workflow.clone(),
            made,
            epoch,
            past,
            runtime,
            fresh: new,
            detached,
            function,
            ports,
            limits: services.limits.clone(),
            log: log.clone(),
            writer: services.checkpoints.writer(),
            release: release.clone(),
            bore: bore.clone(),
            started: started.clone(),
        };
        // A panic of the life's own driver costs no more than one of the workflow: all of both is thrown away.
        let life = AssertUnwindSafe(live(inputs, signals)).catch_unwind().instrument(lines).await;
        match life.unwrap_or_else(|panic| LifeEnd::Panicked(life::panic_text(panic.as_ref()))) {
            LifeEnd::Panicked(text) => {
                let recent = panics.one_more(services.limits.rebuild_window);
                tracing::error!(%workflow, panic = %text, recent, "a turn panicked");
                let jitter = Duration::from_millis(10 + services.clock.random() % 40);
                tokio::time::sleep(jitter * recent).await;
            }
            end @ (LifeEnd::Ended(_)
            | LifeEnd::Parked
            | LifeEnd::Rested(..)
            | LifeEnd::Fenced
            | LifeEnd::Drained
            | LifeEnd::Duplicate) => break end,
        }
    };
    release();
    if let (Some(started), LifeEnd::Rested(rest, text)) = (started.borrow_mut().take(), &end) {
        let _ = started.send(Err(StartFailure::Rests(*rest, text.clone())));
    }
    show_end(&log, &end);
    end
}

/// The panics of one run in this process.
#[derive(Default)]
struct Panics {
    recent: VecDeque<Instant>,
    ever: u32,
}

impl Panics {
    /// Counts one, and says how many there were within `window`, this one included.
    fn one_more(&mut self, window: Duration) -> u32 {
        let now = Instant::now();
        self.ever += 1;
        self.recent.push_back(now);
        self.recent.retain(|at| now - *at < window);
        u32::try_from(self.recent.len()).unwrap_or(u32::MAX)
    }
}

/// What the next life needs.
struct Prepared {
    made: NewWorkflow,
    epoch: Epoch,
    past: Past,
    runtime: Duration,
    fresh: Option<Fresh>,
    function: crate::ports::WorkflowFn,
}

async fn prepare(
    workflow: &WorkflowId,
    new: &mut Option<New>,
    effort: Option<ReasoningEffort>,
    services: &Services,
    panics: &Panics,
) -> Result<Prepared, LifeEnd> {
    let broken = |error: StoreError| {
        let rest = if matches!(error, StoreError::Damaged(_)) { Rest::Quarantined } else { Rest::StorageUnavailable };
        LifeEnd::Rested(rest, error.to_string())
    };
    let unknown = |name: &str, version: u32| {
        LifeEnd::Rested(
            Rest::VersionUnavailable,
            format!("this binary does not know version {version} of workflow {name}"),
        )
    };
    let limits = &services.limits;
    let panicked = (panics.recent.len() > limits.rebuilds_max as usize)
        .then(|| format!("it panicked {} times within {} ms", panics.recent.len(), limits.rebuild_window.as_millis()));
    // A run whose first batch was never written is still new.
    let loaded = if new.is_some() && panics.ever == 0 {
        None
    } else {
        match load(services.store.as_ref(), workflow).await {
            Ok(loaded) => loaded,
            Err(error @ StoreError::Damaged(_)) => match load_to_end(services.store.as_ref(), workflow).await {
                Some(loaded) => Some(loaded),
                None => {
                    set_aside(services, workflow).await;
                    return Err(broken(error));
                }
            },
            Err(error) => return Err(broken(error)),
        }
    };
    let Some(Loaded { row, past }) = loaded else {
        let Some(New { made, input, config, message }) = new.clone() else { return Err(LifeEnd::Fenced) };
        // Nothing of it is durable, so no journal counts its starts.
        let unlucky = (panics.ever > limits.failed_starts_max)
            .then(|| format!("it panicked {} times before it was durable", panics.ever));
        if let Some(text) = panicked.or(unlucky) {
            return Err(LifeEnd::Rested(Rest::Quarantined, text));
        }
        let function =
            services.workflows.find(&made.name, made.version).ok_or_else(|| unknown(&made.name, made.version))?;
        let fresh = Some(Fresh { input, config, message });
        let (past, runtime) = (Past::default(), Duration::ZERO);
        return Ok(Prepared { made, epoch: Epoch(0), past, runtime, fresh, function });
    };
    *new = None;
    if let Some(outcome) = past.finished {
        return Err(LifeEnd::Ended(outcome));
    }
    let (name, version) = past.workflow.clone().unwrap_or((row.made.name.clone(), row.made.version));
    let cancelled = is_cancelled(services.store.as_ref(), workflow).await.map_err(broken)?;
    let rest = |rest: Rest, text: String| async move {
        let write = StoreWrite::Rest { workflow: workflow.clone(), epoch: row.epoch, rest };
        if let Err(error) = services.checkpoints.write(write).await {
            tracing::warn!(%workflow, %error, "a workflow was not put to rest");
        }
        LifeEnd::Rested(rest, text)
    };
    let function = match services.workflows.find(&name, version) {
        // A cancel needs no function: it is closed before one would run.
        _ if cancelled => never,
        Some(function) => function,
        None => {
            let LifeEnd::Rested(kind, text) = unknown(&name, version) else { return Err(LifeEnd::Fenced) };
            return Err(rest(kind, text).await);
        }
    };
    let unlucky = (past.failed_starts >= limits.failed_starts_max)
        .then(|| format!("it was started {} times without progress", past.failed_starts));
    if let Some(text) = panicked.or(unlucky).filter(|_| !cancelled) {
        tracing::error!(%workflow, reason = text, "a workflow is quarantined");
        return Err(rest(Rest::Quarantined, text).await);
    }
    let effort = effort.or(past.effort);
    let made = NewWorkflow { effort, ..row.made };
    Ok(Prepared { made, epoch: past.next_epoch(), runtime: row.runtime, past, fresh: None, function })
}

/// Puts a run whose journal cannot be read to rest, or the queues would take it up again and again, ahead of others.
async fn set_aside(services: &Services, workflow: &WorkflowId) {
    let Ok(Some(row)) = services.store.workflow(workflow).await else { return };
    let write = StoreWrite::Rest { workflow: workflow.clone(), epoch: row.epoch, rest: Rest::Quarantined };
    match services.checkpoints.write(write).await {
        Ok(_) => tracing::error!(%workflow, "a workflow is quarantined: its journal is damaged"),
        Err(error) => tracing::warn!(%workflow, %error, "a damaged workflow was not put to rest"),
    }
}

fn never<'a>(
    _: &'a mut crate::turn::Turn,
    _: &'a TaskInput,
) -> crate::ports::LocalFuture<'a, crate::turn::StepResult<crate::ports::RunOutput>> {
    Box::pin(std::future::pending())
}

fn show_end(log: &Log, end: &LifeEnd) {
    match end {
        LifeEnd::Ended(RunOutcome::Completed | RunOutcome::Failed | RunOutcome::Cancelled) => {
            log.rest(TailState::Ended)
        }
        LifeEnd::Parked => log.rest(TailState::Parked),
        LifeEnd::Rested(rest, text) => log.rest(TailState::Resting(*rest, text.clone())),
        LifeEnd::Drained => log.rest(TailState::Resting(Rest::Interrupted, "the server is stopping".to_owned())),
        LifeEnd::Fenced | LifeEnd::Panicked(_) => {
            log.rest(TailState::Resting(Rest::Interrupted, "another owner has the workflow".to_owned()));
        }
        LifeEnd::Duplicate => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_answers_wait_a_turn_hears_of_a_cancel_and_of_an_answer() {
        let (signals, mut heard) = mpsc::channel(SIGNALS);
        (0..100).for_each(|_| tell(&signals, Signal::Inbox));
        tell(&signals, Signal::Cancel("client".into()));
        let mut all: Vec<_> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
        assert!(matches!(all.pop(), Some(Signal::Cancel(_))));
        assert!(!all.is_empty() && all.iter().all(|signal| matches!(signal, Signal::Inbox)));
    }
}
