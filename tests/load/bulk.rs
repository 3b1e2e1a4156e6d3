//! A hundred thousand runs, ended in every way: nothing of them is left.
//!
//! The runtime alone, over a store in memory, on paused time: what a run leaves behind does not depend on who asked for
//! it. Through the doors and onto a disk go fewer, in `ends`.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fleet_actors::event::{EventBody, RunOutcome};
use fleet_actors::ids::{Timestamp, WorkflowId};
use fleet_actors::limits::RunLimits;
use fleet_actors::ports::{NewWorkflow, Posted, Rest, Store, StoreError, StoreWrite, WorkflowState};
use fleet_actors::sessions::{EventStream, Sessions, StartTurn, StreamItem};
use fleet_actors::testing::{CommitFault, ManualClock, MemoryStore, plain};
use futures_util::FutureExt as _;
use serde_json::Value;

use crate::ALONE;
use crate::world::{DEADLINE, Recipe, descriptors, silence_panics_that_were_asked_for, until, workflow_config};

const RUNS: u32 = 100_000;
/// At once.
const CAP: u32 = 128;

/// The ways a run ends here, with what its message asks of the model, and how many of 30 end so.
const WAYS: [(&str, &str, usize); 9] = [
    ("finished", "go", 7),
    ("cancelled", "hang", 5),
    ("cancelled at its start", "go", 4),
    ("left", "hang", 4),
    ("stopped for its idleness", "hang", 2),
    ("stopped by its step's deadline", "drip", 1),
    ("failed by its provider", "fail", 4),
    ("rebuilt after a panic", "once", 2),
    // Four lives each.
    ("quarantined after panics", "panic", 1),
];

fn turn(message: &str, config: &Value) -> StartTurn {
    let made = plain::made("SupervisorWorkflow", message, Timestamp(1_700_000_000_000));
    let made = NewWorkflow { version: agentic_fleet::workflow::SUPERVISOR_VERSION, ..made };
    let input = plain::task(message);
    let config = config.clone().into();
    StartTurn { workflow: WorkflowId::generate(), made, input, config, message: None, detached: false }
}

/// How a stream ended.
#[derive(Debug, PartialEq)]
enum End {
    Over(RunOutcome),
    Failed(String),
    Rests(Rest),
}

async fn end(stream: &mut EventStream) -> End {
    let (mut why, mut over) = (None, None);
    loop {
        match stream.next().await.unwrap() {
            StreamItem::Event(event) => {
                if let EventBody::Error { error } = &event.body {
                    why = Some(error.code.to_string());
                }
                if let EventBody::Finished { outcome } = &event.body {
                    over = Some(*outcome);
                }
            }
            StreamItem::Rests(rest, _) => return End::Rests(rest),
            StreamItem::End => return why.map_or_else(|| End::Over(over.expect("done")), End::Failed),
        }
    }
}

/// Reads until a model is called.
async fn dispatched(stream: &mut EventStream) {
    loop {
        match stream.next().await.unwrap() {
            StreamItem::Event(event) if matches!(event.body, EventBody::StepStarted { .. }) => return,
            StreamItem::Event(_) => {}
            other @ (StreamItem::Rests(..) | StreamItem::End) => panic!("{other:?}"),
        }
    }
}

async fn one(sessions: &Sessions, way: usize, config: &Value) {
    let (name, message, _) = WAYS[way];
    let turn = turn(message, config);
    let workflow = turn.workflow.clone();
    let permit = sessions.admit().expect("a permit for each that runs");
    let mut stream = sessions.start(turn, permit).await.unwrap();
    match name {
        "finished" | "rebuilt after a panic" => {
            assert_eq!(end(&mut stream).await, End::Over(RunOutcome::Completed), "{name}");
        }
        "cancelled" => {
            dispatched(&mut stream).await;
            assert_eq!(sessions.cancel(&workflow, "client").await.unwrap(), Posted::Accepted);
            assert_eq!(end(&mut stream).await, End::Over(RunOutcome::Cancelled));
        }
        "cancelled at its start" => {
            let posted = sessions.cancel(&workflow, "client").await.unwrap();
            match end(&mut stream).await {
                End::Over(RunOutcome::Cancelled) => assert_eq!(posted, Posted::Accepted),
                // One that had ended by the time it was told says so, unless it is swept by then.
                End::Over(RunOutcome::Completed) if posted == Posted::Closed => {}
                other @ (End::Over(_) | End::Failed(_) | End::Rests(_)) => assert_eq!(
                    (other, sessions.store().workflow(&workflow).await.unwrap()),
                    (End::Over(RunOutcome::Completed), None)
                ),
            }
        }
        "left" => {
            drop(stream);
            gone(sessions, &workflow, RunOutcome::Cancelled).await;
        }
        "quarantined after panics" => {
            assert_eq!(end(&mut stream).await, End::Rests(Rest::Quarantined));
            // What rests holds nothing; an operator throws it away.
            assert_eq!(sessions.cancel(&workflow, "operator").await.unwrap(), Posted::Accepted);
            gone(sessions, &workflow, RunOutcome::Cancelled).await;
        }
        "stopped for its idleness" => assert_eq!(end(&mut stream).await, End::Failed("idle_timeout".to_owned())),
        "stopped by its step's deadline" => {
            assert_eq!(end(&mut stream).await, End::Failed("step_timeout".to_owned()));
        }
        _ => assert_eq!(end(&mut stream).await, End::Failed("provider_unavailable".to_owned())),
    }
}

/// Waits until a run that nobody watches has no owner, and looks how it ended, unless it was swept by then.
async fn gone(sessions: &Sessions, workflow: &WorkflowId, expected: RunOutcome) {
    let polls = async {
        while sessions.is_live(workflow).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(3)).await; // allow-sleep: polls a condition under a deadline
        }
    };
    tokio::time::timeout(Duration::from_secs(3_600), polls).await.expect("on paused time, in an hour");
    if let Some(row) = sessions.store().workflow(workflow).await.unwrap() {
        assert_eq!(row.state, WorkflowState::Ended(expected));
    }
}

#[actix_web::test]
async fn a_hundred_thousand_runs_ended_in_every_way_leave_no_permit_no_task_no_descriptor_and_no_entry() {
    let _alone = ALONE.lock().await;
    silence_panics_that_were_asked_for();
    let began = std::time::Instant::now();
    tokio::time::pause();
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let limits = RunLimits {
        disconnect_grace: Duration::from_millis(10),
        idle_timeout: Duration::from_millis(40),
        model_timeout: Duration::from_millis(60),
        ..RunLimits::default()
    };
    let recipe = Recipe { limits, cap: CAP, ..Recipe::over(store.clone(), clock) };
    let (sessions, script) = (recipe.sessions(), recipe.script.clone());
    let config = Rc::new(workflow_config());
    for way in 0..WAYS.len() {
        one(&sessions, way, &config).await;
    }
    let (holders, descriptors_before) = (Arc::strong_count(&store), descriptors());
    let tasks_before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let next = Rc::new(AtomicU32::new(0));
    let shares = WAYS.iter().enumerate().flat_map(|(way, (_, _, share))| std::iter::repeat_n(way, *share));
    let ways: Rc<[usize]> = shares.collect();
    let visitors: Vec<_> = (0..CAP)
        .map(|_| {
            let (sessions, config, next, ways) = (sessions.clone(), config.clone(), next.clone(), ways.clone());
            actix_web::rt::spawn(async move {
                let mut ended = BTreeMap::<&str, u32>::new();
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= RUNS {
                        return ended;
                    }
                    // A stride that shares no factor with their number, so that the ways meet in every order.
                    let way = ways[(n as usize * 7 + n as usize / 30) % ways.len()];
                    one(&sessions, way, &config).await;
                    *ended.entry(WAYS[way].0).or_default() += 1;
                    // Small and often: a sweep of the store in memory costs the square of what it finds.
                    if n % 200 == 199 {
                        let (ended_before, keys_before) = (Timestamp(i64::MAX), Timestamp(0));
                        let sweep = StoreWrite::Sweep { ended_before, keys_before, max_rows: 400 };
                        sessions.services().checkpoints.write(sweep).await.unwrap();
                    }
                }
            })
        })
        .collect();
    let mut ended = BTreeMap::<&str, u32>::new();
    for visitor in visitors {
        for (way, count) in visitor.await.unwrap() {
            *ended.entry(way).or_default() += count;
        }
    }
    println!("{RUNS} runs in {:?}: {ended:?}", began.elapsed());
    assert_eq!(ended.values().sum::<u32>(), RUNS);
    assert!(ended.len() == WAYS.len() && ended.values().all(|count| *count >= 3_000), "{ended:?}");
    while sessions.list().await.unwrap().iter().any(|session| session.state == WorkflowState::Running) {
        tokio::task::yield_now().await;
    }
    assert_eq!(sessions.admission().live(), 0, "permits");
    assert_eq!(script.clients.load(Ordering::SeqCst), 0, "lives, by the model client that each has");
    assert_eq!(script.inside(), 0, "model calls");
    assert_eq!(Arc::strong_count(&store), holders, "whoever serves a run holds the store");
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), tasks_before, "tasks");
    assert_eq!(sessions.services().logs.in_grace(), 0);
    assert_eq!(descriptors(), descriptors_before, "file descriptors");
}

#[actix_web::test]
async fn a_cancel_gives_the_place_back_without_waiting_for_the_store() {
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let store = MemoryStore::new(clock.clone());
    let recipe = Recipe::over(Arc::new(store.clone()), clock);
    let (sessions, script) = (recipe.sessions(), recipe.script.clone());
    let turn = turn("hang", &workflow_config());
    let workflow = turn.workflow.clone();
    let mut stream = sessions.start(turn, sessions.admit().unwrap()).await.unwrap();
    until("the call", || script.inside() == 1).await;
    store.on_commit(|_| CommitFault::RefuseBefore(StoreError::Unavailable("for now".into())));
    let canceller = sessions.clone();
    let cancelled = actix_web::rt::spawn(async move { canceller.cancel(&workflow, "client").await });
    let asked = std::time::Instant::now();
    until("the place", || sessions.admission().live() == 0).await;
    println!("the place was free after {:?}", asked.elapsed());
    assert_eq!(script.inside(), 0, "the call was dropped");
    assert!(!cancelled.is_finished(), "its end is not durable");
    store.heal();
    assert_eq!(cancelled.await.unwrap().unwrap(), Posted::Accepted);
    assert_eq!(end(&mut stream).await, End::Over(RunOutcome::Cancelled));
}

#[actix_web::test]
async fn a_caller_that_stops_waiting_for_a_start_at_any_moment_leaves_no_claim_behind() {
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let limits = RunLimits { disconnect_grace: Duration::from_millis(10), ..RunLimits::default() };
    let recipe = Recipe::over(Arc::new(MemoryStore::new(clock.clone())), clock);
    let recipe = Recipe { limits, ..recipe };
    let sessions = recipe.sessions();
    for polls in 0..20 {
        for message in ["hang", "go"] {
            let turn = turn(message, &workflow_config());
            let mut start = Box::pin(sessions.start(turn, sessions.admit().unwrap()));
            for _ in 0..polls {
                if (&mut start).now_or_never().is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(start);
        }
    }
    until("the places", || sessions.admission().live() == 0).await;
    let end = std::time::Instant::now() + DEADLINE;
    while sessions.list().await.unwrap().iter().any(|session| session.state == WorkflowState::Running) {
        assert!(std::time::Instant::now() < end, "a claim was left");
        tokio::time::sleep(Duration::from_millis(2)).await; // allow-sleep: polls a condition under a deadline
    }
}
