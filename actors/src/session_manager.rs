//! The registry of live sessions: who runs, who ran lately, and whom to tell to stop.
//!
//! Admission itself is decided at its door, [`Admission`](crate::admission::Admission), without waiting for this mailbox.
//! So are a turn's claim and its end, at `Manager`: a look at a map under a lock that is held for no longer. Whatever asks
//! other actors, or makes a list, is a message.
//!
//! Invariant: a workflow has at most one owner in this process; who registers second is refused.
//! Absent on purpose: the address of a session anywhere else.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use tokio::sync::Notify;

use crate::event::RunOutcome;
use crate::failpoint::{FailPoint, reach};
use crate::ids::{ConversationId, Timestamp, WorkflowId};
use crate::mailbox::Mailbox;
use crate::ports::{Clock, ReasoningEffort, WorkflowState};
use crate::supervisor::{LifeEnd, Signal, SupervisorActor, TellTurn};
use crate::watch::{Alive, Watch};

/// At most this many asks wait.
const MAILBOX: usize = 65_536;
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// A session as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The run.
    pub workflow: WorkflowId,
    /// Whose messages it belongs to.
    pub conversation: Option<ConversationId>,
    /// The first characters of the task.
    pub task: Arc<str>,
    /// Where it stands.
    pub state: WorkflowState,
    /// When it was admitted, first.
    pub created_at: Timestamp,
    /// When this life began.
    pub started_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// The effort it runs with.
    pub effort: Option<ReasoningEffort>,
    /// It is the child of a run that ended, and in no list.
    pub child: bool,
}

/// Characters of a task that lists show.
pub const PREVIEW_CHARS: usize = 200;

/// The first characters of a task.
#[must_use]
pub fn preview(task: &str) -> Arc<str> {
    match task.char_indices().nth(PREVIEW_CHARS) {
        Some((end, _)) => format!("{}…", &task[..end]).into(),
        None => task.into(),
    }
}

/// Wakes the queues of what waits to go on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wake {
    pub runs: Arc<Notify>,
    pub children: Arc<Notify>,
}

struct Owner {
    info: SessionInfo,
    supervisor: Mailbox<SupervisorActor>,
    /// It was deleted while its turn was about to end: nothing of it is remembered.
    forgotten: bool,
}

/// Who runs and who ran.
struct Registry {
    live: HashMap<WorkflowId, Owner>,
    recent: VecDeque<SessionInfo>,
    /// Runs that came to rest here, until they go on: a store that took no more could not be told.
    resting: HashMap<WorkflowId, SessionInfo>,
    /// At most this many ended sessions are remembered, and as many that rest.
    recent_max: usize,
    draining: bool,
}

/// The registry's actor.
pub struct SessionManager {
    registry: Arc<Mutex<Registry>>,
    _alive: Alive,
}

/// As the log knows it.
const NAME: &str = "SessionManager";

impl SessionManager {
    pub(crate) fn start_on(
        arbiter: &actix::ArbiterHandle,
        clock: Arc<dyn Clock>,
        wake: Wake,
        recent_max: usize,
        watch: &Watch,
    ) -> Manager {
        let (live, recent, resting) = (HashMap::new(), VecDeque::new(), HashMap::new());
        let registry = Registry { live, recent, resting, recent_max, draining: false };
        let registry = Arc::new(Mutex::new(registry));
        let manager = Self { registry: registry.clone(), _alive: watch.alive(NAME) };
        let door = Mailbox::new(Self::start_in_arbiter(arbiter, |_| manager), MAILBOX, ASK_TIMEOUT);
        Manager { door, registry, clock, wake, watch: watch.clone() }
    }
}

impl Actor for SessionManager {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

fn lock(registry: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    // A panic under the lock ends the process, and what comes after it is not believed.
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The SessionManager's door.
#[derive(Clone)]
pub(crate) struct Manager {
    /// For what is a message.
    pub door: Mailbox<SessionManager>,
    registry: Arc<Mutex<Registry>>,
    clock: Arc<dyn Clock>,
    /// Wakes the queues of runs and of children that wait to go on.
    wake: Wake,
    watch: Watch,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registered {
    Done,
    /// It has an owner here already.
    Owned,
    /// The process is stopping.
    Draining,
}

/// A supervisor's turn is over.
pub(crate) struct TurnEnded {
    workflow: WorkflowId,
    state: WorkflowState,
    /// It left children behind.
    bore: bool,
}

impl TurnEnded {
    pub(crate) fn new(workflow: WorkflowId, end: &LifeEnd, bore: bool) -> Self {
        let state = match end {
            LifeEnd::Ended(outcome) => WorkflowState::Ended(*outcome),
            LifeEnd::Parked => WorkflowState::Parked,
            LifeEnd::Rested(rest, _) => WorkflowState::Resting(*rest),
            LifeEnd::Fenced | LifeEnd::Panicked(_) | LifeEnd::Drained | LifeEnd::Duplicate => WorkflowState::Running,
        };
        Self { workflow, state, bore }
    }
}

impl Manager {
    /// Claims a workflow for a supervisor that is about to start.
    pub fn register(&self, info: SessionInfo, supervisor: Mailbox<SupervisorActor>) -> Registered {
        let _alive = self.watch.alive(NAME);
        reach(FailPoint::Register);
        let mut registry = lock(&self.registry);
        if registry.draining {
            return Registered::Draining;
        }
        if registry.live.get(&info.workflow).is_some_and(|owner| owner.supervisor.is_open()) {
            return Registered::Owned;
        }
        registry.resting.remove(&info.workflow);
        registry.live.insert(info.workflow.clone(), Owner { info, supervisor, forgotten: false });
        Registered::Done
    }

    /// Remembers nothing more of what was deleted.
    pub fn forget(&self, gone: impl Fn(&SessionInfo) -> bool) {
        let mut registry = lock(&self.registry);
        registry.recent.retain(|info| !gone(info));
        registry.resting.retain(|_, info| !gone(info));
        for owner in registry.live.values_mut().filter(|owner| gone(&owner.info)) {
            owner.forgotten = true;
        }
    }

    /// Takes note of a turn's end.
    pub fn ended(&self, TurnEnded { workflow, state, bore }: TurnEnded) {
        let _alive = self.watch.alive(NAME);
        let mut registry = lock(&self.registry);
        let Some(Owner { mut info, forgotten, .. }) = registry.live.remove(&workflow) else { return };
        info.state = state;
        if !info.child
            && !forgotten
            && matches!(state, WorkflowState::Ended(RunOutcome::Completed | RunOutcome::Failed | RunOutcome::Cancelled))
        {
            info.completed_at = Some(self.clock.now());
            registry.recent.push_front(info);
            let max = registry.recent_max;
            registry.recent.truncate(max);
        } else if matches!(state, WorkflowState::Resting(_)) && registry.resting.len() < registry.recent_max {
            registry.resting.insert(workflow, info);
        }
        drop(registry);
        // A command may have been committed while the turn was on its way to rest. A run that is over has nothing to wake
        // for, and a look at the store for each of them was a quarter of the processor's time under load.
        if !matches!(state, WorkflowState::Ended(_)) {
            self.wake.runs.notify_one();
        }
        if bore {
            self.wake.children.notify_one();
        }
    }
}

/// Tells the owner of a workflow something; false when it has none here.
#[derive(Message)]
#[rtype(result = "bool")]
pub(crate) struct TellOwner {
    pub workflow: WorkflowId,
    pub signal: Signal,
}

impl Handler<TellOwner> for SessionManager {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, TellOwner { workflow, signal }: TellOwner, _: &mut Self::Context) -> Self::Result {
        let supervisor = lock(&self.registry).live.get(&workflow).map(|owner| owner.supervisor.clone());
        Box::pin(async move {
            match supervisor {
                Some(supervisor) => supervisor.ask(TellTurn(signal)).await.is_ok(),
                None => false,
            }
        })
    }
}

/// Tells every owner to rest, and registers nobody from now on. Answers with how many there were.
#[derive(Message)]
#[rtype(result = "usize")]
pub(crate) struct DrainAll {
    /// Also stop those that are at work; else only new ones are refused.
    pub rest: bool,
}

impl Handler<DrainAll> for SessionManager {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, DrainAll { rest }: DrainAll, _: &mut Self::Context) -> Self::Result {
        let mut registry = lock(&self.registry);
        registry.draining = true;
        let supervisors: Vec<_> = registry.live.values().map(|owner| owner.supervisor.clone()).collect();
        drop(registry);
        Box::pin(async move {
            if rest {
                let asks = supervisors.iter().map(|supervisor| supervisor.ask(TellTurn(Signal::Drain)));
                futures_util::future::join_all(asks).await;
            }
            supervisors.len()
        })
    }
}

/// The live sessions and the recent ones, newest first.
#[derive(Message)]
#[rtype(result = "Vec<SessionInfo>")]
pub(crate) struct ListSessions;

impl Handler<ListSessions> for SessionManager {
    type Result = Vec<SessionInfo>;

    fn handle(&mut self, ListSessions: ListSessions, _: &mut Self::Context) -> Self::Result {
        let mut registry = lock(&self.registry);
        // A supervisor that died without a word is no owner.
        registry.live.retain(|_, owner| owner.supervisor.is_open());
        let listed = registry.live.values().map(|owner| &owner.info).chain(registry.resting.values());
        let mut live: Vec<_> = listed.filter(|info| !info.child).cloned().collect();
        live.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.workflow.cmp(&a.workflow)));
        live.extend(registry.recent.iter().cloned());
        live
    }
}

/// One session, live or recent.
#[derive(Message)]
#[rtype(result = "Option<SessionInfo>")]
pub(crate) struct FindSession(pub WorkflowId);

impl Handler<FindSession> for SessionManager {
    type Result = Option<SessionInfo>;

    fn handle(&mut self, FindSession(workflow): FindSession, _: &mut Self::Context) -> Self::Result {
        let registry = lock(&self.registry);
        let live =
            registry.live.get(&workflow).filter(|owner| owner.supervisor.is_open()).map(|owner| owner.info.clone());
        let live = live.or_else(|| registry.resting.get(&workflow).cloned());
        live.or_else(|| registry.recent.iter().find(|info| info.workflow == workflow).cloned())
    }
}
