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
use fleet_actors::ports::{
    NewWorkflow, OnDisconnect, Posted, Rest, Store, StoreWrite, TaskInput, WorkflowState,
};
use fleet_actors::sessions::{EventStream, Sessions, StartTurn, StreamItem};
use fleet_actors::testing::{ManualClock, MemoryStore};
use serde_json::Value;

use crate::ALONE;
use crate::world::{Recipe, descriptors, silence_panics_that_were_asked_for, workflow_config};

const RUNS: u32 = 100_000;
/// At once.
const CAP: u32 = 128;

/// The ways a run ends here, with what its message asks of the model.
const WAYS: [(&str, &str); 9] = [
    ("finished", "go"),
    ("cancelled", "hang"),
    ("cancelled at its start", "go"),
    ("left", "hang"),
    ("stopped for its idleness", "hang"),
    ("stopped by its step's deadline", "drip"),
    ("failed by its provider", "fail"),
    ("rebuilt after a panic", "once"),
    ("quarantined after panics", "panic"),
];

fn turn(message: &str, config: &Value) -> StartTurn {
    let made = NewWorkflow {
        name: "SupervisorWorkflow".into(),
        version: 1,
        conversation: None,
        task: message.into(),
        effort: None,
        request: None,
        on_disconnect: OnDisconnect::Cancel,
        created_at: Timestamp(1_700_000_000_000),
    };
    let input = TaskInput { message: message.to_owned(), conversation: None, mode: None, additional_context: None };
    let config = config.clone();
    StartTurn { workflow: WorkflowId::generate(), made, input, config, message: None, detached: false }
}

/// Reads to the end and says why it failed, if it did.
async fn end(stream: &mut EventStream) -> Option<String> {
    let mut why = None;
    loop {
        match stream.next().await.unwrap() {
            StreamItem::Event(event) => {
                if let EventBody::Error { error } = &event.body {
                    why = Some(error.code.to_string());
                }
            }
            StreamItem::Rests(rest, _) => return Some(rest.code().to_owned()),
            StreamItem::End => return why,
        }
    }
}

/// Reads until a model is called.
async fn dispatched(stream: &mut EventStream) {
    loop {
        match stream.next().await.unwrap() {
            StreamItem::Event(event) if matches!(event.body, EventBody::StepStarted { .. }) => return,
            StreamItem::Event(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn one(sessions: &Sessions, way: usize, config: &Value) {
    let (name, message) = WAYS[way];
    let turn = turn(message, config);
    let workflow = turn.workflow.clone();
    let permit = sessions.admit().expect("a permit for each that runs");
    let mut stream = sessions.start(turn, permit).await.unwrap();
    let expected = match name {
        "finished" | "rebuilt after a panic" => {
            assert_eq!(end(&mut stream).await, None);
            RunOutcome::Completed
        }
        "cancelled" | "cancelled at its start" => {
            if name == "cancelled" {
                dispatched(&mut stream).await;
            }
            let posted = sessions.cancel(&workflow, "client").await.unwrap();
            assert_eq!(end(&mut stream).await, None);
            // One that had ended by the time it was told says so.
            match sessions.store().workflow(&workflow).await.unwrap().unwrap().state {
                WorkflowState::Ended(RunOutcome::Completed) if posted == Posted::Closed => RunOutcome::Completed,
                _ => RunOutcome::Cancelled,
            }
        }
        "left" => {
            drop(stream);
            while sessions.is_live(&workflow).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(3)).await; // allow-sleep: polls a condition, on paused time
            }
            RunOutcome::Cancelled
        }
        "quarantined after panics" => {
            assert_eq!(end(&mut stream).await.as_deref(), Some("quarantined"));
            let row = sessions.store().workflow(&workflow).await.unwrap().unwrap();
            assert_eq!(row.state, WorkflowState::Resting(Rest::Quarantined));
            // What rests holds nothing; an operator throws it away.
            assert_eq!(sessions.cancel(&workflow, "operator").await.unwrap(), Posted::Accepted);
            while sessions.is_live(&workflow).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(3)).await; // allow-sleep: polls a condition, on paused time
            }
            RunOutcome::Cancelled
        }
        why => {
            let code = match why {
                "stopped for its idleness" => "idle_timeout",
                "stopped by its step's deadline" => "step_timeout",
                _ => "provider_unavailable",
            };
            assert_eq!(end(&mut stream).await.as_deref(), Some(code));
            RunOutcome::Failed
        }
    };
    let row = sessions.store().workflow(&workflow).await.unwrap().unwrap();
    assert_eq!(row.state, WorkflowState::Ended(expected), "{name}");
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
    let visitors: Vec<_> = (0..CAP)
        .map(|_| {
            let (sessions, config, next) = (sessions.clone(), config.clone(), next.clone());
            actix_web::rt::spawn(async move {
                let mut ended = BTreeMap::<&str, u32>::new();
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= RUNS {
                        return ended;
                    }
                    // Coprime strides, so that the ways meet in every order.
                    let way = (n as usize * 7 + n as usize / 9) % WAYS.len();
                    one(&sessions, way, &config).await;
                    *ended.entry(WAYS[way].0).or_default() += 1;
                    if n % 5_000 == 4_999 {
                        let (ended_before, keys_before) = (Timestamp(i64::MAX), Timestamp(0));
                        let sweep = StoreWrite::Sweep { ended_before, keys_before, max_rows: 4_000 };
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
    assert!(ended.len() == WAYS.len() && ended.values().all(|count| *count >= 10_000), "{ended:?}");
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
