//! The door for everything above this crate: start, resume, watch, answer and cancel runs.
//!
//! A start takes a permit before any work, claims the run in the registry, and says "started" when the run's first batch
//! is durable. Whoever watches reads one [`EventStream`], whether the run is live, parked, resting or long over.

mod events;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};

use crate::admission::{Admission, AdmitError, Claimant, SessionPermit};
use crate::event::{Answer, RunOutcome};
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
use crate::stream::{Seen, TooManyWatchers, Watcher};
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
    /// that is live here is left as it is.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn resume(&self, workflow: &WorkflowId, effort: Option<ReasoningEffort>) -> Result<(), StartError> {
        if self.is_live(workflow).await? {
            return Ok(());
        }
        let permit = self.wait_for_permit().await;
        self.resume_with(workflow, effort, Some(Place::House(permit)), false).await
    }

    /// The same for a run that goes on whether or not anybody watches.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn resume_detached(
        &self,
        workflow: &WorkflowId,
        effort: Option<ReasoningEffort>,
    ) -> Result<(), StartError> {
        let row = self.services.store.workflow(workflow).await?.ok_or(StartError::Unknown)?;
        // What is over needs no permit, and must not wait for one.
        if matches!(row.state, WorkflowState::Ended(_)) || self.is_live(workflow).await? {
            return Ok(());
        }
        let permit = self.wait_for_permit().await;
        self.resume_with(workflow, effort, Some(Place::House(permit)), true).await
    }

    async fn wait_for_permit(&self) -> SessionPermit {
        let (mut kept, patience) = (None, self.services.limits.new_work_patience);
        loop {
            if let Ok(permit) = self.admission.take_woken(&mut kept, patience) {
                return permit;
            }
            // The wake queue is the one that is told of releases; a client that waits here looks again shortly.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Goes on with a run under `permit`; without one it can only be cancelled.
    pub(crate) async fn resume_with(
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
        match self.spawn(job, info) {
            // Another caller was faster; the run is live, which is what was asked.
            Err(StartError::Owned) => return Ok(()),
            other => other?,
        }
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
        let row = self.services.store.workflow(workflow).await?.ok_or(StartError::Unknown)?;
        let mut state = row.state;
        if state == WorkflowState::Running && !watcher.is_live() {
            // A store that took no more does not know that the run rests.
            let known = self.manager.door.ask(FindSession(workflow.clone())).await?;
            state = known
                .map(|session| session.state)
                .filter(|state| matches!(state, WorkflowState::Resting(_)))
                .unwrap_or(state);
        }
        Ok(EventStream::of(watcher, self.services.store.clone(), state))
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

    /// Stops a workflow, live or not, and answers when its end is durable; [`Posted::Closed`] when it had ended otherwise.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn cancel(&self, workflow: &WorkflowId, reason: &str) -> Result<Posted, StartError> {
        let mut watcher = Watcher::new(self.services.logs.open(workflow), Seq(u64::MAX))?;
        let reason: Arc<str> = reason.into();
        let signal = Signal::Cancel(reason.clone());
        if self.manager.door.ask(TellOwner { workflow: workflow.clone(), signal }).await? {
            // The owner commits the end; a store that is slow is not a reason to say less than the truth.
            let ended = async { while !matches!(watcher.next().await, Seen::Ended | Seen::Rests(..)) {} };
            if tokio::time::timeout(Duration::from_secs(5), ended).await.is_ok() {
                let row = self.services.store.workflow(workflow).await?;
                // It may have come to another end while it was being told.
                return Ok(match row.map(|row| row.state) {
                    Some(WorkflowState::Ended(RunOutcome::Completed | RunOutcome::Failed)) => Posted::Closed,
                    Some(
                        WorkflowState::Ended(RunOutcome::Cancelled)
                        | WorkflowState::Running
                        | WorkflowState::Parked
                        | WorkflowState::Resting(_),
                    )
                    | None => Posted::Accepted,
                });
            }
        }
        let posted = self.post(workflow, Command::Cancel { reason }).await?;
        if posted == Posted::Accepted {
            self.resume_with(workflow, None, None, true).await?;
        }
        Ok(posted)
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
