//! The cap under a crowd at every door.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use fleet_actors::ids::Timestamp;
use fleet_actors::ports::StoreWrite;
use fleet_actors::testing::{ManualClock, MemoryStore};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::ALONE;
use crate::client::{self, Answer, Ws};
use crate::world::{Recipe, World, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Door {
    Run,
    Background,
    Sse,
    Tool,
    Browser,
    V2,
}

const DOORS: [Door; 6] = [Door::Run, Door::Sse, Door::Tool, Door::V2, Door::Browser, Door::Background];
/// Where those of sockets stand in it.
const SOCKETS: [usize; 3] = [2, 3, 4];

/// What became of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Admitted,
    /// In the door's own form; `early` is a version 1 handshake that was answered 429.
    Refused {
        early: bool,
    },
}

const REFUSED: Fate = Fate::Refused { early: false };

fn problem(answer: &Answer) -> Fate {
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert!(answer.header("ratelimit").is_some() && answer.header("ratelimit-policy").is_some());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["code"], "session_cap_reached");
    REFUSED
}

fn told(event: &Value) {
    assert_eq!((&event["type"], &event["data"]["code"]), (&json!("error"), &json!("session_cap_reached")));
    assert!(event["data"]["retry_after"].as_u64() >= Some(1), "{event}");
}

/// A version 1 socket to its end.
async fn v1(opened: Result<Ws, Error>) -> Fate {
    let mut socket = match opened {
        Ok(socket) => socket,
        Err(Error::Http(response)) => {
            assert_eq!(response.status(), 429);
            assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
            return Fate::Refused { early: true };
        }
        Err(other) => panic!("{other}"),
    };
    // A socket that was accepted in order to be told "full" may be closed by now.
    let _ = futures_util::SinkExt::send(
        &mut socket.0,
        tokio_tungstenite::tungstenite::Message::text(r#"{"message":"gate"}"#),
    )
    .await;
    let (events, code) = socket.rest().await;
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    if code == 1013 {
        assert_eq!(kinds, ["error", "done"]);
        told(&events[0]);
        return REFUSED;
    }
    assert_eq!((kinds.first(), kinds.last(), code), (Some(&"connected"), Some(&"done"), 1000), "{events:#?}");
    Fate::Admitted
}

async fn visit(world: &World, door: Door, name: String) -> Fate {
    let address = world.address;
    match door {
        Door::Run | Door::Background => {
            let (path, good) = if door == Door::Run { ("/api/v1/run", 201) } else { ("/api/v1/runs", 202) };
            let answer = client::ask(address, "POST", path, r#"{"task":"gate"}"#).await;
            if answer.status == good { Fate::Admitted } else { problem(&answer) }
        }
        Door::Sse => {
            let answer = client::ask(address, "GET", &format!("/api/chat/{name}/stream?message=gate"), "").await;
            if answer.status != 200 {
                return problem(&answer);
            }
            assert_eq!(client::events(&answer).last().unwrap()["type"], "done");
            Fate::Admitted
        }
        Door::Tool => v1(client::ws(address, &[]).await).await,
        Door::Browser => {
            let fate = v1(client::ws(address, &[("origin", "http://localhost:3000")]).await).await;
            assert_ne!(fate, Fate::Refused { early: true }, "a browser cannot read the status of a handshake");
            fate
        }
        Door::V2 => {
            let mut socket = client::v2(address).await;
            socket.send(json!({ "type": "chat.send", "message": "gate" })).await;
            let first = socket.next().await.unwrap();
            if first["type"] == "connected" {
                socket.find(|event| event["type"] == "done").await;
                assert!(socket.serves().await);
                return Fate::Admitted;
            }
            told(&first);
            assert!(socket.serves().await, "the socket stays");
            REFUSED
        }
    }
}

#[actix_web::test]
async fn of_up_to_ten_times_as_many_clients_at_every_door_exactly_the_cap_is_admitted_in_each_of_1000_rounds() {
    const ROUNDS: u32 = 1_000;
    let _alone = ALONE.lock().await;
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    // Two threads of doors, so that they really compete for the word.
    let world = Rc::new(Recipe { workers: 2, ..Recipe::over(store, clock) }.serve());
    let began = Instant::now();
    let (mut admitted_at, mut refused_at, mut early) = ([0_u32; 6], [0_u32; 6], 0);
    for round in 0..ROUNDS {
        let cap = 1 + round % 8;
        let extra = 1 + round.wrapping_mul(2_654_435_761) % (9 * cap);
        world.sessions.admission().resize(cap);
        let calls = world.script.calls();
        world.script.most.store(0, Ordering::SeqCst);
        let refused = Rc::new(AtomicU32::new(0));
        let tasks: Vec<_> = (0..cap + extra)
            .map(|n| {
                let (world, refused) = (world.clone(), refused.clone());
                // A socket needs two turns on the wire and would seldom be first: every third round is theirs alone.
                let door = if round % 3 == 0 { SOCKETS[n as usize % 3] } else { (n + round) as usize % DOORS.len() };
                actix_web::rt::spawn(async move {
                    let fate = visit(&world, DOORS[door], format!("r{round}-{n}")).await;
                    if matches!(fate, Fate::Refused { .. }) {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                    (door, fate)
                })
            })
            .collect();
        until("the refusals", || refused.load(Ordering::SeqCst) == extra).await;
        until("the model calls", || world.script.inside() == cap).await;
        assert_eq!(world.sessions.admission().live(), cap, "round {round}");
        // One more into a house that is known to be full.
        let door = DOORS[round as usize % DOORS.len()];
        let fate = visit(&world, door, format!("r{round}-late")).await;
        assert_eq!(fate, Fate::Refused { early: door == Door::Tool }, "{door:?} in round {round}");
        world.script.gate.add_permits(cap as usize);
        let mut admitted = 0;
        for task in tasks {
            let (door, fate) = task.await.unwrap();
            early += u32::from(fate == Fate::Refused { early: true });
            match fate {
                Fate::Admitted => admitted_at[door] += 1,
                Fate::Refused { .. } => refused_at[door] += 1,
            }
            admitted += u32::from(fate == Fate::Admitted);
        }
        assert_eq!(admitted, cap, "round {round}");
        until("the places", || world.sessions.admission().live() == 0).await;
        assert_eq!(world.script.calls(), calls + cap, "round {round}");
        assert_eq!(world.script.most.load(Ordering::SeqCst), cap, "round {round}");
        if round % 100 == 99 {
            let sweep =
                StoreWrite::Sweep { ended_before: Timestamp(i64::MAX), keys_before: Timestamp(0), max_rows: u32::MAX };
            world.api.write(sweep).await.unwrap();
        }
    }
    until("the connections", || world.api.connections.open() == 0).await;
    let page = client::ask(world.address, "GET", "/metrics", "").await.body;
    for (outcome, counts) in [("admitted", admitted_at), ("refused", refused_at)] {
        // Those that came late were refused too, one a round.
        let total = counts.iter().sum::<u32>() + if outcome == "refused" { ROUNDS } else { 0 };
        let line = format!("fleet_admissions_total{{outcome=\"{outcome}\"}} {total}\n");
        assert!(page.contains(&line), "{line} in {page}");
    }
    println!("{ROUNDS} rounds in {:?}: doors {DOORS:?}", began.elapsed());
    println!("admitted {admitted_at:?}, refused {refused_at:?}, {early} of them by the handshake");
    assert!(admitted_at.iter().chain(&refused_at).all(|count| *count >= 100), "every door was admitted and refused");
}
