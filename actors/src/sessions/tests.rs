//! Cancels that meet a run on its way, and waits for a permit that nobody needs any more. Two workflows: one asks a human,
//! one calls a model.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::json;
use tokio::sync::Notify;

use super::{EventStream, Sessions, StartError, StartTurn, StreamItem};
use crate::admission::{Admission, Claimant};
use crate::cache::MemoryCache;
use crate::checkpoint::CheckpointActor;
use crate::event::{Audience, RunOutcome};
use crate::ids::{Seq, Timestamp, WorkflowId};
use crate::journal::Context;
use crate::limits::RunLimits;
use crate::ports::{
    AgentClients, ChatMessage, Command, LocalFuture, ModelCall, ModelClient, ModelDelta, ModelError, ModelReply,
    ModelRequest, NewWorkflow, Next, OnDisconnect, OutputForm, Pinned, Posted, ReasoningEffort, Rest, Role, RunOutput,
    Store as _, StoreError, TaskInput, WorkflowFn, WorkflowState, Workflows,
};
use crate::recovery;
use crate::stream::Logs;
use crate::supervisor::Services;
use crate::testing::{CommitFault, ManualClock, MemoryStore, NoTools, plain};
use crate::turn::{HumanRequest, StepResult, Turn};

/// By the clock of the tests nothing takes longer, unless it is broken.
const DEADLINE: Duration = Duration::from_secs(60);

struct Asks;

impl Workflows for Asks {
    fn find(&self, name: &str, _: u32) -> Option<WorkflowFn> {
        Some(if name == "call" { call } else { ask })
    }
}

fn ask<'a>(turn: &'a mut Turn, _: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let expires_in = Duration::from_secs(86_400);
        let (request_type, request) = ("user_input".into(), json!("which?"));
        let asked = HumanRequest { request_type, request, answer_schema: None, expires_in };
        turn.emit(&json!("it asks"));
        turn.ask_human("ask", asked).await;
        Ok(RunOutput::default())
    })
}

fn call<'a>(turn: &'a mut Turn, _: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let request = ModelRequest {
            model: "m".into(),
            agent: None,
            audience: Audience::User,
            context: Context::of([ChatMessage::new(Role::User, "a prompt")]),
            tools: Arc::from([]),
            output: OutputForm::Text,
            temperature: None,
            max_output_tokens: None,
        };
        turn.model("call", request).await?;
        Ok(RunOutput::default())
    })
}

/// A model that answers when its gate opens.
struct Gated(Arc<Notify>);

impl AgentClients for Gated {
    fn client(&self, _: Option<ReasoningEffort>) -> Rc<dyn ModelClient> {
        Rc::new(Self(self.0.clone()))
    }
}

impl ModelClient for Gated {
    fn call<'a>(
        &'a self,
        _: &'a ModelCall,
        _: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>> {
        Box::pin(self.0.notified().map(|()| Ok(ModelReply::default())))
    }
}

/// A house for one run over this store, on paused time.
pub(crate) struct House {
    pub store: MemoryStore,
    pub sessions: Sessions,
    pub clock: Arc<ManualClock>,
    gate: Arc<Notify>,
}

impl House {
    pub fn over(store: MemoryStore) -> Self {
        let arbiter = actix::Arbiter::current();
        let shared: Arc<dyn crate::ports::Store> = Arc::new(store.clone());
        let (clock, gate) = (Arc::new(ManualClock::default()), Arc::new(Notify::new()));
        let services = Services {
            checkpoints: CheckpointActor::start_on(&arbiter, shared.clone(), Arc::new(|text| panic!("{text}"))),
            store: shared,
            cache: Arc::new(MemoryCache::new(clock.clone(), 1)),
            clock: clock.clone(),
            agents: Arc::new(Gated(gate.clone())),
            tools: Arc::new(NoTools),
            meter: Arc::default(),
            tracer: None,
            workflows: Arc::new(Asks),
            logs: Logs::new(1),
            limits: RunLimits::default(),
        };
        Self { store, sessions: Sessions::start_on(&arbiter, services, Admission::new(1)), clock, gate }
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
        self.start("ask", on_disconnect).await
    }

    async fn start(&self, name: &str, on_disconnect: OnDisconnect) -> EventStream {
        let made = NewWorkflow { on_disconnect, ..plain::made(name, "a task", Timestamp(0)) };
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

    /// From here on the store takes its time for an end.
    fn ends_slowly(&self) {
        let mut refusals = 3;
        self.store.on_commit(move |appends| {
            if refusals == 0 || appends.iter().all(|append| !matches!(append.next, Next::Ended(_))) {
                return CommitFault::Proceed;
            }
            refusals -= 1;
            CommitFault::RefuseBefore(StoreError::Unavailable("slow".into()))
        });
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
async fn a_parked_run_is_over_when_its_cancel_is_answered() {
    tokio::time::pause();
    let house = House::new();
    let workflow = house.parked().await;
    house.ends_slowly();
    assert_eq!(house.sessions.cancel(&workflow, "client").await, Ok(Posted::Accepted));
    assert_eq!(house.state(&workflow).await, CANCELLED);
}

#[actix::test]
async fn a_cancel_that_is_about_to_own_its_run_waits_for_whoever_was_faster() {
    tokio::time::pause();
    let house = House::new();
    let workflow = house.parked().await;
    house.ends_slowly();
    let mut cancel = Box::pin(house.sessions.cancel(&workflow, "client"));
    while house.store.inbox(&workflow).await.expect("an inbox").is_empty() {
        assert!((&mut cancel).now_or_never().is_none());
        settle().await;
    }
    // It has posted, and learns that there is no owner.
    assert!((&mut cancel).now_or_never().is_none());
    settle().await;
    assert!(!house.sessions.is_live(&workflow).await.expect("an answer"));
    house.sessions.resume(&workflow, None).await.expect("resumed");
    assert_eq!(cancel.await, Ok(Posted::Accepted));
    assert_eq!(house.state(&workflow).await, CANCELLED);
}

#[actix::test]
async fn a_cancel_that_another_end_overtook_says_so() {
    tokio::time::pause();
    let died = House::new();
    let workflow = died.start("call", OnDisconnect::Continue).await.workflow().clone();
    let house = died.restarted();
    let mut cancel = Box::pin(house.sessions.cancel(&workflow, "client"));
    assert!((&mut cancel).now_or_never().is_none());
    settle().await;
    house.sessions.resume(&workflow, None).await.expect("resumed");
    settle().await;
    // It has learnt that the run has no owner. It posts, and whoever came to be the owner meanwhile is not told yet.
    assert!((&mut cancel).now_or_never().is_none());
    settle().await;
    assert!(!house.store.inbox(&workflow).await.expect("an inbox").is_empty());
    house.gate.notify_one();
    until(async || house.state(&workflow).await == WorkflowState::Ended(RunOutcome::Completed)).await;
    assert_eq!(cancel.await, Ok(Posted::Closed));
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
async fn a_cancel_during_the_drain_of_a_run_that_nobody_takes_up_is_refused_and_done_when_somebody_does() {
    tokio::time::pause();
    let house = House::new();
    let parked = house.parked().await;
    let resting = house.sessions.fork(&parked, None).await.expect("a fork");
    house.sessions.drain(true).await.expect("drained");
    assert_eq!(house.sessions.cancel(&parked, "client").await, Ok(Posted::Accepted), "it is due in the next process");
    assert_eq!(house.sessions.cancel(&resting, "client").await, Err(StartError::Draining));
    let next = house.restarted();
    next.sessions.resume(&resting, None).await.expect("resumed");
    until(async || next.state(&resting).await == CANCELLED).await;
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
async fn a_stream_that_is_begun_anew_half_read_shows_nothing_twice() {
    tokio::time::pause();
    let house = House::new();
    let parked = house.parked().await;
    let fork = house.sessions.fork(&parked, None).await.expect("a fork");
    let mut stream = house.sessions.watch(&fork, Seq(0)).await.expect("a place");
    let StreamItem::Event(first) = stream.next().await.expect("an item") else { panic!("no event") };
    assert_eq!(
        crate::sessions::stored_events(&house.store, &fork, first.seq).await.expect("events").len(),
        1,
        "not read"
    );
    house.sessions.resume(&fork, None).await.expect("resumed");
    house.sessions.watch_anew(&mut stream, first.seq).await.expect("followed");
    assert_eq!(house.sessions.cancel(&fork, "client").await, Ok(Posted::Accepted));
    let mut seen = vec![first.seq];
    while let StreamItem::Event(event) = stream.next().await.expect("an item") {
        seen.push(event.seq);
    }
    assert!(seen.len() > 2 && seen.is_sorted_by(|a, b| a < b), "{seen:?}");
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
async fn nobody_waits_for_a_permit_of_a_run_that_somebody_else_lives() {
    tokio::time::pause();
    let house = House::new();
    let workflow = house.parked().await;
    let full = house.sessions.admission().take(Claimant::New).expect("a place");
    let resume = house.sessions.resume(&workflow, None);
    let other = async {
        settle().await;
        // A place that is none of the house's.
        house.sessions.resume_with(&workflow, None, None, true).await
    };
    let both = futures_util::future::join(resume, other);
    let both = tokio::time::timeout(Duration::from_secs(1), both).await.expect("in time");
    assert_eq!(both, (Ok(()), Ok(())));
    assert!(house.sessions.is_live(&workflow).await.expect("an answer"));
    drop(full);
}
