//! Cancels that meet a run on its way, and waits for a permit that nobody needs any more. One workflow: it asks a human.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::json;

use super::{EventStream, Sessions, StartError, StartTurn, StreamItem};
use crate::admission::{Admission, Claimant};
use crate::cache::MemoryCache;
use crate::checkpoint::CheckpointActor;
use crate::event::RunOutcome;
use crate::ids::{Seq, Timestamp, WorkflowId};
use crate::limits::RunLimits;
use crate::ports::{
    AgentClients, Command, LocalFuture, ModelCall, ModelClient, ModelDelta, ModelError, ModelReply, OnDisconnect,
    Pinned, Posted, ReasoningEffort, Rest, RunOutput, Store as _, TaskInput, WorkflowFn, WorkflowState, Workflows,
};
use crate::recovery;
use crate::stream::Logs;
use crate::supervisor::Services;
use crate::testing::{ManualClock, MemoryStore, NoTools, plain};
use crate::turn::{HumanRequest, StepResult, Turn};

/// By the clock of the tests nothing takes longer, unless it is broken.
const DEADLINE: Duration = Duration::from_secs(60);

struct Asks;

impl Workflows for Asks {
    fn find(&self, _: &str, _: u32) -> Option<WorkflowFn> {
        Some(ask)
    }
}

fn ask<'a>(turn: &'a mut Turn, _: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let expires_in = Duration::from_secs(86_400);
        let (request_type, request) = ("user_input".into(), json!("which?"));
        let asked = HumanRequest { request_type, request, answer_schema: None, expires_in };
        turn.ask_human("ask", asked).await;
        Ok(RunOutput::default())
    })
}

struct Nobody;

impl AgentClients for Nobody {
    fn client(&self, _: Option<ReasoningEffort>) -> Rc<dyn ModelClient> {
        Rc::new(Self)
    }
}

impl ModelClient for Nobody {
    fn call<'a>(
        &'a self,
        _: &'a ModelCall,
        _: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>> {
        Box::pin(std::future::pending())
    }
}

/// A house for one run over this store, on paused time.
pub(crate) struct House {
    pub store: MemoryStore,
    pub sessions: Sessions,
    pub clock: Arc<ManualClock>,
}

impl House {
    pub fn over(store: MemoryStore) -> Self {
        let arbiter = actix::Arbiter::current();
        let shared: Arc<dyn crate::ports::Store> = Arc::new(store.clone());
        let clock = Arc::new(ManualClock::default());
        let services = Services {
            checkpoints: CheckpointActor::start_on(&arbiter, shared.clone(), Arc::new(|text| panic!("{text}"))),
            store: shared,
            cache: Arc::new(MemoryCache::new(clock.clone(), 1)),
            clock: clock.clone(),
            agents: Arc::new(Nobody),
            tools: Arc::new(NoTools),
            meter: Arc::default(),
            tracer: None,
            workflows: Arc::new(Asks),
            logs: Logs::new(1),
            limits: RunLimits::default(),
        };
        Self { store, sessions: Sessions::start_on(&arbiter, services, Admission::new(1)), clock }
    }

    pub fn new() -> Self {
        Self::over(MemoryStore::new(Arc::new(ManualClock::default())))
    }

    /// The next process over the same store.
    pub fn restarted(&self) -> Self {
        Self::over(self.store.restarted())
    }

    /// A run that has asked its question and waits, live.
    pub async fn asking(&self, on_disconnect: OnDisconnect) -> EventStream {
        let made = crate::ports::NewWorkflow { on_disconnect, ..plain::made("ask", "a task", Timestamp(0)) };
        let turn = StartTurn {
            workflow: WorkflowId::generate(),
            made,
            input: plain::task("a task"),
            config: "{}".parse::<Pinned>().expect("a config"),
            message: None,
            detached: false,
        };
        let permit = self.sessions.admit().expect("a place");
        self.sessions.start(turn, permit).await.expect("started")
    }

    /// A run that is parked with its question.
    pub async fn parked(&self) -> WorkflowId {
        let stream = self.asking(OnDisconnect::Continue).await;
        stream.parked().await;
        let workflow = stream.workflow().clone();
        until(async || !self.sessions.is_live(&workflow).await.expect("an answer")).await;
        workflow
    }

    pub async fn state(&self, workflow: &WorkflowId) -> WorkflowState {
        self.store.workflow(workflow).await.expect("a store").expect("a run").state
    }
}

/// Waits until something is so.
async fn until(mut so: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(1)).await; // allow-sleep: polls a condition under a deadline
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.expect("in time");
}

/// Lets everything else on this thread do what it can without a wait.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

const CANCELLED: WorkflowState = WorkflowState::Ended(RunOutcome::Cancelled);

#[actix::test]
async fn a_cancel_that_meets_a_run_on_its_way_awake_is_done() {
    tokio::time::pause();
    let house = House::new();
    let workflow = house.parked().await;
    let mut cancel = Box::pin(house.sessions.cancel(&workflow, "client"));
    // It learns that the run has no owner, and goes no further before the run has one whose inbox is read.
    assert!((&mut cancel).now_or_never().is_none());
    settle().await;
    house.sessions.resume(&workflow, None).await.expect("resumed");
    settle().await;
    assert!(house.sessions.is_live(&workflow).await.expect("an answer"));
    assert_eq!(cancel.await, Ok(Posted::Accepted));
    assert_eq!(house.state(&workflow).await, CANCELLED);
}

#[actix::test]
async fn a_cancel_during_the_drain_is_done_by_the_next_process() {
    tokio::time::pause();
    for on_disconnect in [OnDisconnect::Continue, OnDisconnect::Cancel] {
        let house = House::new();
        let stream = house.asking(on_disconnect).await;
        let workflow = stream.workflow().clone();
        settle().await;
        // The cancel reaches the owner behind the drain, when it takes no word any more.
        let (drained, cancelled) =
            futures_util::future::join(house.sessions.drain(true), house.sessions.cancel(&workflow, "client")).await;
        assert_eq!((drained, cancelled), (Ok(1), Ok(Posted::Accepted)));
        assert_eq!(house.state(&workflow).await, WorkflowState::Running, "it rests for the next process");
        assert!(matches!(&*house.store.inbox(&workflow).await.expect("an inbox"), [Command::Cancel { .. }]));
        let next = house.restarted();
        let waiting = recovery::adopt_at_start(&next.sessions).await.expect("adopted");
        recovery::rest_unclaimed(&next.sessions, waiting).await;
        until(async || next.state(&workflow).await == CANCELLED).await;
    }
}

#[actix::test]
async fn a_cancel_during_the_drain_of_a_run_that_nobody_takes_up_is_refused() {
    tokio::time::pause();
    let house = House::new();
    let parked = house.parked().await;
    let resting = house.sessions.fork(&parked, None).await.expect("a fork");
    house.sessions.drain(true).await.expect("drained");
    assert_eq!(house.sessions.cancel(&parked, "client").await, Ok(Posted::Accepted), "it is due in the next process");
    assert_eq!(house.sessions.cancel(&resting, "client").await, Err(StartError::Draining));
}

#[actix::test]
async fn a_run_with_all_the_watchers_it_may_have_is_cancelled() {
    tokio::time::pause();
    let house = House::new();
    let mut stream = house.asking(OnDisconnect::Continue).await;
    let workflow = stream.workflow().clone();
    assert!(matches!(house.sessions.watch(&workflow, Seq(0)).await, Err(StartError::Watchers(_))));
    assert_eq!(house.sessions.cancel(&workflow, "client").await, Ok(Posted::Accepted));
    assert_eq!(house.state(&workflow).await, CANCELLED);
    assert_eq!(stream.rested().await, Ok(Some(StreamItem::End)));
}

#[actix::test]
async fn a_stream_of_a_run_at_rest_is_that_of_its_next_life_in_the_one_place_there_is() {
    tokio::time::pause();
    let house = House::new();
    let parked = house.parked().await;
    let fork = house.sessions.fork(&parked, None).await.expect("a fork");
    let mut stream = house.sessions.watch(&fork, Seq(0)).await.expect("a place");
    let mut seen = Seq(0);
    let rests = loop {
        match stream.next().await.expect("an item") {
            StreamItem::Event(event) => seen = event.seq,
            item @ (StreamItem::Rests(..) | StreamItem::End) => break item,
        }
    };
    assert!(matches!(rests, StreamItem::Rests(Rest::Interrupted, _)));
    house.sessions.resume(&fork, None).await.expect("resumed");
    house.sessions.watch_anew(&mut stream, seen).await.expect("followed");
    assert_eq!(house.sessions.cancel(&fork, "client").await, Ok(Posted::Accepted));
    let mut after = Vec::new();
    while let StreamItem::Event(event) = stream.next().await.expect("an item") {
        after.push(event.seq);
    }
    assert!(after.is_sorted_by(|a, b| a < b) && after.first() > Some(&seen), "{after:?} behind {seen:?}");
}

#[actix::test]
async fn nobody_waits_for_a_permit_of_a_run_that_is_over() {
    tokio::time::pause();
    let house = House::new();
    let workflow = house.parked().await;
    let full = house.sessions.admission().take(Claimant::New).expect("a place");
    let resume = house.sessions.resume(&workflow, None);
    let cancel = async {
        settle().await;
        house.sessions.cancel(&workflow, "client").await
    };
    let both = futures_util::future::join(resume, cancel);
    let both = tokio::time::timeout(DEADLINE, both).await.expect("in time");
    assert_eq!(both, (Ok(()), Ok(Posted::Accepted)));
    drop(full);
}

#[actix::test]
async fn who_stops_waiting_for_a_permit_leaves_the_run_at_rest() {
    tokio::time::pause();
    let house = House::new();
    let parked = house.parked().await;
    let fork = house.sessions.fork(&parked, None).await.expect("a fork");
    let full = house.sessions.admission().take(Claimant::New).expect("a place");
    let waited = tokio::time::timeout(Duration::from_secs(5), house.sessions.resume(&fork, None)).await;
    assert!(waited.is_err());
    drop(full);
    tokio::time::advance(Duration::from_secs(5)).await;
    settle().await;
    assert_eq!(house.state(&fork).await, WorkflowState::Resting(Rest::Interrupted));
    assert_eq!(house.sessions.admission().live(), 0);
}
