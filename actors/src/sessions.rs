//! The door for everything above this crate: start, resume, watch, answer and cancel runs.
//!
//! A start takes a permit before any work, claims the run in the registry, and says "started" when the run's first batch
//! is durable. Whoever watches reads one [`EventStream`], whether the run is live, parked, resting or long over.

mod cancel;
mod events;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};

use crate::admission::{Admission, AdmitError, Claimant, SessionPermit};
use crate::event::Answer;
use crate::ids::{CheckpointId, Position, RequestId, Seq, WorkflowId};
use crate::journal::{Positioned, Record};
use crate::mailbox::AskError;
use crate::ports::{
    Command, MessageRow, NewWorkflow, Pinned, Posted, ReasoningEffort, Rest, Store, StoreError, StoreWrite, TaskInput,
    WorkflowState, Written,
};
use crate::session_manager::{
    DrainAll, FindSession, ListSessions, Manager, Registered, SessionInfo, SessionManager, TellOwner, Wake, preview,
};
use crate::stream::{Log, TailState, TooManyWatchers, Watcher};
use crate::supervisor::{Job, JobKind, New, Place, Services, Signal, StartFailure, SupervisorActor};
use crate::watch::Watch;

pub use self::events::{EventStream, StreamItem, stored_events};

/// A new run.
#[derive(Clone, Debug)]
pub struct StartTurn {
    /// Its id, fresh.
    pub workflow: WorkflowId,
    /// What it is made with.
    pub made: NewWorkflow,
    /// What it is given.
    pub input: TaskInput,
    /// The content of the config slice that workflows can see; pinned.
    pub config: Pinned,
    /// The user's message, for the conversation.
    pub message: Option<MessageRow>,
    /// It goes on whether or not anybody watches.
    pub detached: bool,
}

/// Why a run did not start, resume or show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The house is full.
    #[error(transparent)]
    Full(#[from] AdmitError),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The request key belongs to a run that was asked with other words.
    #[error("the request key was used with another request, workflow {0}")]
    KeyConflict(WorkflowId),
    /// There is no such workflow.
    #[error("there is no such workflow")]
    Unknown,
    /// It cannot run.
    #[error("{1}")]
    Rests(Rest, String),
    /// It has as many watchers as it may.
    #[error(transparent)]
    Watchers(#[from] TooManyWatchers),
    /// It has an owner already.
    #[error("the workflow has an owner already")]
    Owned,
    /// The process is stopping.
    #[error("the server is stopping")]
    Draining,
    /// The runtime did not answer.
    #[error("the runtime did not answer: {0}")]
    Busy(#[from] AskError),
}

impl From<StartFailure> for StartError {
    fn from(failure: StartFailure) -> Self {
        match failure {
            StartFailure::Duplicate { workflow, .. } => Self::KeyConflict(workflow),
            StartFailure::Store(error) => Self::Store(error),
            StartFailure::Rests(rest, text) => Self::Rests(rest, text),
            StartFailure::Fenced => Self::Owned,
        }
    }
}

/// The door. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    services: Arc<Services>,
    admission: Admission,
    manager: Manager,
    pub(crate) wake: Wake,
    /// Places for children.
    pub(crate) children: Arc<Semaphore>,
}

impl Sessions {
    /// Starts the SessionManager on `arbiter` and gives its door.
    #[must_use]
    pub fn start_on(arbiter: &actix::ArbiterHandle, services: Services, admission: Admission) -> Self {
        Self::start_watched(arbiter, services, admission, &Watch::default())
    }

    /// Starts it as [`start_on`](Self::start_on) does, with somebody who is told if the SessionManager panics.
    #[must_use]
    pub fn start_watched(
        arbiter: &actix::ArbiterHandle,
        services: Services,
        admission: Admission,
        watch: &Watch,
    ) -> Self {
        let wake = Wake::default();
        let children = Arc::new(Semaphore::new(services.limits.children_max));
        let recent_max = services.limits.recent_max;
        let manager = SessionManager::start_on(arbiter, services.clock.clone(), wake.clone(), recent_max, watch);
        Self { services: Arc::new(services), admission, manager, wake, children }
    }

    /// Who may run.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The store, for reads.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.services.store
    }

    /// What runs are made of.
    #[must_use]
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Takes a permit for a new run.
    ///
    /// # Errors
    /// [`AdmitError::CapReached`].
    pub fn admit(&self) -> Result<SessionPermit, AdmitError> {
        self.admission.take(Claimant::New)
    }

    /// Starts a run on this thread's arbiter and follows it. When it answers, the run's first batch is durable. A request
    /// key that has a run already gives that run's stream instead, and the permit goes back.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    ///
    /// # Cancel safety
    /// The run goes on without a watcher, and its grace begins.
    pub async fn start(&self, turn: StartTurn, permit: SessionPermit) -> Result<EventStream, StartError> {
        if let Some(error) = self.services.checkpoints.refusal() {
            return Err(error.into());
        }
        let StartTurn { workflow, made, input, config, message, detached } = turn;
        let watcher = Watcher::new(self.services.logs.open(&workflow), Seq(0))?;
        let info = self.info(&workflow, &made);
        let (started, answer) = oneshot::channel();
        let kind = JobKind::New(Box::new(New { made, input, config, message }));
        let job = Job {
            workflow: workflow.clone(),
            kind,
            permit: Some(Place::House(permit)),
            detached,
            started: Some(started),
        };
        self.spawn(job, info)?;
        match answer.await {
            Ok(Ok(())) => Ok(EventStream::live(watcher, self.services.store.clone())),
            Ok(Err(StartFailure::Duplicate { workflow, same_body: true })) => self.watch(&workflow, Seq(0)).await,
            Ok(Err(StartFailure::Duplicate { workflow, .. })) => Err(StartError::KeyConflict(workflow)),
            Ok(Err(failure)) => Err(failure.into()),
            Err(_) => Err(StartError::Busy(AskError::Closed)),
        }
    }

    /// Goes on with a run that is not over, on this thread's arbiter, and waits for a permit as a woken run does; a run
    /// that is live here is left as it is, and one that somebody else takes up or that ends meanwhile is waited for no
    /// longer.
    ///
    /// # Errors
    /// [`StartError`].
    ///
    /// # Cancel safety
    /// Whoever stops waiting gives up his turn: until the run is claimed nothing of it has begun, and the permit goes back
    /// if there was one. The claim and the start are one step without a wait; behind it the run goes on without a watcher,
    /// and its grace begins.
    pub async fn resume(&self, workflow: &WorkflowId, effort: Option<ReasoningEffort>) -> Result<(), StartError> {
        self.resume_as(workflow, effort, false).await
    }

    /// The same for a run that goes on whether or not anybody watches.
    ///
    /// # Errors
    /// [`StartError`].
    ///
    /// # Cancel safety
    /// As that of [`resume`](Self::resume).
    pub async fn resume_detached(
        &self,
        workflow: &WorkflowId,
        effort: Option<ReasoningEffort>,
    ) -> Result<(), StartError> {
        self.resume_as(workflow, effort, true).await
    }

    async fn resume_as(
        &self,
        workflow: &WorkflowId,
        effort: Option<ReasoningEffort>,
        detached: bool,
    ) -> Result<(), StartError> {
        // Held over the wait: an end is seen in it.
        let log = self.services.logs.open(workflow);
        let row = self.services.store.workflow(workflow).await?.ok_or(StartError::Unknown)?;
        // What is over needs no permit, and must not wait for one.
        if matches!(row.state, WorkflowState::Ended(_)) || self.is_live(workflow).await? {
            return Ok(());
        }
        match self.wait_for_permit(&log).await? {
            Some(permit) => self.resume_with(workflow, effort, Some(Place::House(permit)), detached).await,
            None => Ok(()),
        }
    }

    /// A permit; nothing when the run needs none any more.
    async fn wait_for_permit(&self, log: &Log) -> Result<Option<SessionPermit>, AskError> {
        let (mut kept, patience) = (None, self.services.limits.new_work_patience);
        loop {
            if let Ok(permit) = self.admission.take_woken(&mut kept, patience) {
                return Ok(Some(permit));
            }
            // The wake queue is the one that is told of releases; a client that waits here looks again shortly.
            tokio::time::sleep(Duration::from_millis(20)).await;
            match log.state() {
                TailState::Ended => return Ok(None),
                TailState::Live if self.is_live(log.workflow()).await? => return Ok(None),
                TailState::Live | TailState::Parked | TailState::Resting(..) => {}
            }
        }
    }

    /// Goes on with a run under `permit`; without one it can only be cancelled. A run that has an owner by then is live, which
    /// is what was asked.
    pub(crate) async fn resume_with(
        &self,
        workflow: &WorkflowId,
        effort: Option<ReasoningEffort>,
        permit: Option<Place>,
        detached: bool,
    ) -> Result<(), StartError> {
        match self.take_up(workflow, effort, permit, detached).await {
            Err(StartError::Owned) => Ok(()),
            other => other,
        }
    }

    /// Becomes the owner of a run and goes on with it.
    ///
    /// # Errors
    /// [`StartError::Owned`] when another caller was faster.
    async fn take_up(
        &self,
        workflow: &WorkflowId,
        effort: Option<ReasoningEffort>,
        permit: Option<Place>,
        detached: bool,
    ) -> Result<(), StartError> {
        let row = self.services.store.workflow(workflow).await?.ok_or(StartError::Unknown)?;
        // A child was found some time ago, and may rest since.
        let rests = matches!((&permit, row.state), (Some(Place::Child(_)), WorkflowState::Resting(_)));
        if rests || matches!(row.state, WorkflowState::Ended(_)) {
            return Ok(());
        }
        let info = self.info(workflow, &row.made);
        let kind = JobKind::Resume { effort };
        let (started, answer) = oneshot::channel();
        let job = Job { workflow: workflow.clone(), kind, permit, detached, started: Some(started) };
        self.spawn(job, info)?;
        match answer.await {
            Ok(Err(failure)) => Err(failure.into()),
            // A run that was over by the time it was read says nothing.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Claims the run and starts its supervisor in one breath: no claim is left behind that nobody owns.
    fn spawn(&self, job: Job, info: SessionInfo) -> Result<(), StartError> {
        let actor = SupervisorActor::new(job, self.services.clone(), self.manager.clone());
        let (context, supervisor) = SupervisorActor::prepare();
        match self.manager.register(info, supervisor) {
            Registered::Done => {
                drop(context.run(actor));
                Ok(())
            }
            Registered::Owned => Err(StartError::Owned),
            Registered::Draining => Err(StartError::Draining),
        }
    }

    fn info(&self, workflow: &WorkflowId, made: &NewWorkflow) -> SessionInfo {
        SessionInfo {
            workflow: workflow.clone(),
            conversation: made.conversation.clone(),
            task: preview(&made.task),
            state: WorkflowState::Running,
            created_at: made.created_at,
            started_at: self.services.clock.now(),
            completed_at: None,
            effort: made.effort,
            child: made.child_of.is_some(),
        }
    }

    /// Whether this process runs the workflow now.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn is_live(&self, workflow: &WorkflowId) -> Result<bool, AskError> {
        let session = self.manager.door.ask(FindSession(workflow.clone())).await?;
        Ok(session.is_some_and(|session| session.state == WorkflowState::Running))
    }

    /// The live sessions and the recent ones, newest first.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn list(&self) -> Result<Vec<SessionInfo>, AskError> {
        self.manager.door.ask(ListSessions).await
    }

    /// Lists nothing more of sessions that were deleted. Call it when the deletion is durable.
    pub fn forget(&self, gone: impl Fn(&SessionInfo) -> bool) {
        self.manager.forget(gone);
    }

    /// Follows a workflow from the event after `after`, wherever it stands.
    ///
    /// # Errors
    /// [`StartError::Unknown`], [`StartError::Watchers`], [`StartError::Store`], [`StartError::Busy`].
    pub async fn watch(&self, workflow: &WorkflowId, after: Seq) -> Result<EventStream, StartError> {
        // Before the look at the store, so that nothing can happen between the two unseen.
        let watcher = Watcher::new(self.services.logs.open(workflow), after)?;
        let state = self.standing(&watcher).await?;
        Ok(EventStream::of(watcher, self.services.store.clone(), state))
    }

    /// Follows the workflow of `stream` anew from the event after `after`, in the place that the stream has among the
    /// watchers: what it said of a run at rest is no longer so when the run goes on.
    ///
    /// # Errors
    /// [`StartError::Unknown`], [`StartError::Store`], [`StartError::Busy`]; the stream is as it was.
    ///
    /// # Cancel safety
    /// The stream is as it was when the caller stops waiting.
    pub async fn watch_anew(&self, stream: &mut EventStream, after: Seq) -> Result<(), StartError> {
        let state = match (self.standing(stream.watcher()).await, stream.entry()) {
            // It came to its end here, and was removed since. What it said last is in its tail.
            (Err(StartError::Unknown), Some(entry)) => WorkflowState::Ended(entry.status),
            (state, _) => state?,
        };
        stream.begin_anew(after, state);
        Ok(())
    }

    /// How a run stands, for somebody who watches it already.
    async fn standing(&self, watcher: &Watcher) -> Result<WorkflowState, StartError> {
        let workflow = watcher.workflow();
        let row = self.services.store.workflow(workflow).await?.ok_or(StartError::Unknown)?;
        if row.state != WorkflowState::Running || watcher.is_live() {
            return Ok(row.state);
        }
        // A store that took no more does not know that the run rests.
        let known = self.manager.door.ask(FindSession(workflow.clone())).await?;
        let rests = known.map(|session| session.state).filter(|state| matches!(state, WorkflowState::Resting(_)));
        Ok(rests.unwrap_or(row.state))
    }

    /// The run that a checkpoint id stands for: the workflow itself, or a new fork of it when results stand behind the
    /// position.
    ///
    /// # Errors
    /// [`StartError::Unknown`] when there is no such workflow or position.
    pub async fn at_checkpoint(&self, checkpoint: &CheckpointId) -> Result<WorkflowId, StartError> {
        let row = self.services.store.workflow(&checkpoint.workflow).await?.ok_or(StartError::Unknown)?;
        let Some(position) = checkpoint.position else { return Ok(row.workflow) };
        let records = crate::supervisor::read_records(self.services.store.as_ref(), &row.workflow).await?;
        if !can_run_from(&records, position) {
            return Err(StartError::Unknown);
        }
        let last_result = records.iter().rev().find(|entry| entry.record.is_result()).map(|entry| entry.position);
        if last_result.is_none_or(|last| position >= last) {
            return Ok(row.workflow);
        }
        self.fork(&row.workflow, Some(position)).await
    }

    /// A new workflow that shares this one's journal up to `position`; it rests until somebody resumes it.
    ///
    /// # Errors
    /// [`StartError::Unknown`] when there is no such workflow or position.
    pub async fn fork(&self, from: &WorkflowId, position: Option<Position>) -> Result<WorkflowId, StartError> {
        let records = crate::supervisor::read_records(self.services.store.as_ref(), from).await?;
        if position.is_some_and(|position| !can_run_from(&records, position)) {
            return Err(StartError::Unknown);
        }
        let position = before_the_end(&records, position);
        let fork = WorkflowId::generate();
        let at = self.services.clock.now();
        let write = StoreWrite::Fork { from: from.clone(), position, fork: fork.clone(), at };
        match self.services.checkpoints.write(write).await? {
            Written::Done => Ok(fork),
            Written::NotFound | Written::Conflict | Written::Posted(_) | Written::Removed(_) => {
                Err(StartError::Unknown)
            }
        }
    }

    /// Answers a question; the first committed answer wins. A parked run goes on by itself afterwards.
    ///
    /// # Errors
    /// [`StartError::Store`], [`StartError::Busy`].
    pub async fn answer(
        &self,
        workflow: &WorkflowId,
        request: &RequestId,
        answer: Value,
    ) -> Result<Posted, StartError> {
        let command = Command::Answer { request_id: request.clone(), answer: Answer::Given(answer) };
        let posted = self.post(workflow, command).await?;
        if posted == Posted::Accepted {
            let signal = Signal::Inbox;
            if !self.manager.door.ask(TellOwner { workflow: workflow.clone(), signal }).await? {
                self.wake.runs.notify_one();
                self.wake.children.notify_one();
            }
        }
        Ok(posted)
    }

    async fn post(&self, workflow: &WorkflowId, command: Command) -> Result<Posted, StartError> {
        let write = StoreWrite::Post { workflow: workflow.clone(), command };
        Ok(match self.services.checkpoints.write(write).await? {
            Written::Posted(posted) => posted,
            Written::Done | Written::Removed(_) => Posted::Accepted,
            Written::NotFound => Posted::Unknown,
            Written::Conflict => Posted::Closed,
        })
    }

    /// Refuses new runs from now on; with `rest`, also puts those at work to rest for the next process. Answers with how
    /// many there were.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn drain(&self, rest: bool) -> Result<usize, AskError> {
        self.manager.door.ask(DrainAll { rest }).await
    }
}

/// A fork that shared the end of a run would be over before it began, without an end of its own: it shares what is up to
/// the last result.
fn before_the_end(records: &[Positioned], position: Option<Position>) -> Option<Position> {
    let end = records.iter().find(|entry| matches!(entry.record, Record::Finished { .. }));
    match end {
        Some(end) if position.is_none_or(|position| position >= end.position) => {
            let last = records.iter().rev().find(|entry| entry.record.is_result());
            let input = records.iter().find(|entry| matches!(entry.record, Record::Input));
            last.or(input).map(|entry| entry.position)
        }
        Some(_) | None => position,
    }
}

/// What is before a run's input cannot run, and behind its last record is nothing: neither is a place to go on from.
fn can_run_from(records: &[Positioned], position: Position) -> bool {
    let input = records.iter().find(|entry| matches!(entry.record, Record::Input));
    let last = records.last();
    input.zip(last).is_some_and(|(input, last)| (input.position..=last.position).contains(&position))
}
