//! Every end through the real doors, onto a real disk.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agentic_fleet::runtime::SystemClock;
use agentic_fleet::storage::{SqliteOptions, SqliteStore};
use fleet_actors::limits::RunLimits;
use fleet_actors::ports::{Store, WorkflowState};
use fleet_actors::session_manager::SessionInfo;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::ALONE;
use crate::client::{self, Ws, ask, events, receive, send};
use crate::world::{DEADLINE, Recipe, World, descriptors, silence_panics_that_were_asked_for, until};

const RUNS: usize = 4_000;
const VISITORS: usize = 32;

/// Where a client comes in, how it ends, and what it asks for.
const WAYS: [(&str, &str, &str); 18] = [
    ("http", "finished", "go"),
    ("http", "left", "hang"),
    ("http", "failed", "fail"),
    ("http", "timed out", "hang"),
    ("http", "panicked", "panic"),
    ("sse", "finished", "go"),
    ("sse", "cancelled", "hang"),
    ("sse", "left", "hang"),
    ("sse", "failed", "fail"),
    ("sse", "panicked", "once"),
    ("v1", "finished", "go"),
    ("v1", "cancelled", "hang"),
    ("v1", "left", "hang"),
    ("v1", "closed", "hang"),
    ("v1", "failed", "fail"),
    ("v2", "finished", "go"),
    ("v2", "cancelled", "hang"),
    ("v2", "left", "hang"),
];

async fn http(world: &World, end: &str, message: &str) {
    let body = json!({ "task": message }).to_string();
    let connection = send(world.address, "POST", "/api/v1/run", &body).await;
    if end == "left" {
        return drop(connection);
    }
    let answer = receive(connection).await;
    let expected = match end {
        "finished" => (201, None),
        "failed" => (502, Some("provider_unavailable")),
        "timed out" => (504, Some("idle_timeout")),
        _ => (500, Some("quarantined")),
    };
    assert_eq!((answer.status, answer.json()["code"].as_str()), expected, "{answer:?}");
}

/// Reads until this stands in the stream.
async fn seen(stream: &mut TcpStream, what: &str) -> String {
    let mut text = String::new();
    while !text.contains(what) {
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(DEADLINE, stream.read(&mut bytes)).await.expect("in time").unwrap();
        assert!(read > 0, "the stream ended before {what}: {text}");
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    text
}

async fn sse(world: &World, end: &str, message: &str, name: &str) {
    let path = format!("/api/chat/{name}/stream?message={message}");
    let mut connection = send(world.address, "GET", &path, "").await;
    match end {
        "left" => drop(seen(&mut connection, "agent.start").await),
        "cancelled" => {
            let text = seen(&mut connection, "agent.start").await;
            let at = text.find(r#""workflow_id":""#).unwrap() + 15;
            let path = format!("/api/chat/{name}/cancel?workflow_id={}", &text[at..at + 36]);
            let answer = ask(world.address, "POST", &path, "").await;
            assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("cancelled")));
            let rest = seen(&mut connection, r#""type":"done""#).await;
            assert!(rest.contains(r#""type":"cancelled""#), "{rest}");
        }
        _ => {
            let events = events(&receive(connection).await);
            assert_eq!(events.last().unwrap()["type"], "done", "{end}: {events:#?}");
            let failed = events.iter().any(|event| event["data"]["code"] == "provider_unavailable");
            assert_eq!(failed, end == "failed", "{events:#?}");
        }
    }
}

async fn v1(world: &World, end: &str, message: &str) {
    let mut socket = client::ws(world.address, &[]).await.unwrap();
    socket.send(json!({ "message": message })).await;
    match end {
        "finished" | "failed" => {
            let (events, code) = socket.rest().await;
            let failed = events.iter().any(|event| event["data"]["code"] == "provider_unavailable");
            assert_eq!((failed, code), (end == "failed", 1000));
        }
        _ => {
            socket.find(|event| event["type"] == "agent.start").await;
            match end {
                "cancelled" => {
                    socket.send(json!({ "type": "cancel" })).await;
                    let (events, code) = socket.rest().await;
                    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
                    assert_eq!((kinds.as_slice(), code), (["cancelled", "done"].as_slice(), 1000));
                }
                "closed" => {
                    let reason = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                    socket.0.close(Some(reason)).await.unwrap();
                }
                _ => drop(socket),
            }
        }
    }
}

async fn v2(socket: &mut Ws, end: &str, message: &str) {
    socket.send(json!({ "type": "chat.send", "message": message })).await;
    if end != "finished" {
        let id = socket.find(|event| event["type"] == "agent.start").await["workflow_id"].clone();
        if end == "left" {
            return;
        }
        socket.send(json!({ "type": "chat.cancel", "workflow_id": id })).await;
        socket.find(|event| event["type"] == "cancelled").await;
    }
    socket.find(|event| event["type"] == "done").await;
}

async fn one(world: &World, n: usize) -> (&'static str, &'static str) {
    let (door, end, message) = WAYS[n % WAYS.len()];
    match door {
        "http" => http(world, end, message).await,
        "sse" => sse(world, end, message, &format!("c{n}")).await,
        "v1" => v1(world, end, message).await,
        _ => v2(&mut client::v2(world.address).await, end, message).await,
    }
    (door, end)
}

async fn settled(world: &World) {
    until("the places", || world.sessions.admission().live() == 0).await;
    until("the lives", || world.script.clients.load(Ordering::SeqCst) == 0).await;
    until("the sockets", || world.api.connections.open() == 0).await;
}

async fn running(world: &World) -> Option<SessionInfo> {
    let sessions = world.sessions.list().await.unwrap();
    sessions.into_iter().find(|session| session.state == WorkflowState::Running)
}

#[actix_web::test]
async fn runs_that_end_in_every_way_at_every_door_leave_nothing_of_the_process_behind() {
    let _alone = ALONE.lock().await;
    silence_panics_that_were_asked_for();
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock);
    let mut options = SqliteOptions::new(dir.path());
    options.durability = agentic_fleet::settings::Durability::Process;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&options, clock.clone()).unwrap());
    let limits = RunLimits {
        disconnect_grace: Duration::from_millis(50),
        idle_timeout: Duration::from_millis(1_500),
        ..RunLimits::default()
    };
    let recipe = Recipe { limits, cap: VISITORS as u32 * 8, ..Recipe::over(store.clone(), clock) };
    let world = Rc::new(recipe.serve());
    // Readers of the store and the like open once.
    for n in 0..WAYS.len() {
        one(&world, n).await;
    }
    settled(&world).await;
    let (before, holders) = (descriptors(), Arc::strong_count(&store));
    let began = Instant::now();
    let next = Rc::new(AtomicU32::new(0));
    let visitors: Vec<_> = (0..VISITORS)
        .map(|_| {
            let (world, next) = (world.clone(), next.clone());
            actix_web::rt::spawn(async move {
                let mut ended = BTreeMap::new();
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst) as usize;
                    if n >= RUNS {
                        return ended;
                    }
                    *ended.entry(one(&world, n).await).or_insert(0_u32) += 1;
                }
            })
        })
        .collect();
    let mut ended = BTreeMap::new();
    for visitor in visitors {
        for (way, count) in visitor.await.unwrap() {
            *ended.entry(way).or_insert(0) += count;
        }
    }
    settled(&world).await;
    println!("{RUNS} runs through the doors in {:?}: {ended:?}", began.elapsed());
    assert!(ended.len() == WAYS.len() && ended.values().all(|count| *count >= 200), "{ended:?}");
    let end = Instant::now() + DEADLINE;
    // The registry is told of an end behind everything else.
    while let Some(left) = running(&world).await {
        assert!(Instant::now() < end, "still registered: {left:?}");
        tokio::time::sleep(Duration::from_millis(1)).await; // allow-sleep: polls a condition under a deadline
    }
    let unfinished = fleet_actors::ports::WorkflowFilter { unfinished: true, limit: 1_000, ..Default::default() };
    let rows = store.workflows(unfinished).await.unwrap();
    assert!(rows.iter().all(|row| matches!(row.state, WorkflowState::Resting(_))), "only the quarantined are left");
    until("the descriptors", || descriptors() <= before).await;
    until("whoever serves a run holds the store", || Arc::strong_count(&store) <= holders).await;
    world.server.stop(true).await;
}
