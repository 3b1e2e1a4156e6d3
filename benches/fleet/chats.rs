//! Fast chats through every door beside the same calls made directly to the simulated model.
//!
//! The direct client is the cheapest there is, and simulator, server and client share the machine's cores. So each
//! measurement also says what CPU it took; where the direct calls alone take half of the machine or more, the ratio is
//! shown and holds to no bar. 500 clients are measured at longer model latencies, too: where the server has time for them.
//!
//! Clients begin spread over one latency. If the model took exactly as long for every call, those that meet would stay together
//! for ever, and all of them wait for each other's turns at the processor, each millisecond a few more. So 50 clients are measured
//! with a model that takes a tenth more or less, as models do, and once more in step.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use super::chats_clients::{self as clients, Load};
use super::figure::{Bar, Table, cores, median, quantile, setting};
use super::process::{Process, Usage, sync_p50_ms};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Direct,
    V1,
    V2,
    Sse,
    Http,
}

const DOORS: [(Door, &str); 4] =
    [(Door::V1, "ws"), (Door::V2, "ws fleet.v2"), (Door::Sse, "sse"), (Door::Http, "http")];

/// What the model does, and for how many.
#[derive(Clone, Copy)]
struct Case {
    clients: usize,
    latency_ms: u64,
    /// The share by which latencies vary.
    jitter: f64,
}

const CASES: [Case; 6] = [
    Case { clients: 1, latency_ms: 50, jitter: 0.0 },
    Case { clients: 50, latency_ms: 50, jitter: 0.1 },
    Case { clients: 50, latency_ms: 50, jitter: 0.0 },
    Case { clients: 500, latency_ms: 50, jitter: 0.0 },
    Case { clients: 500, latency_ms: 150, jitter: 0.0 },
    Case { clients: 500, latency_ms: 1_000, jitter: 0.0 },
];
/// What the server writes before a sync with 50 clients, two appends in pages of their own, and about how long after the one before it.
const APPENDS: (usize, Duration) = (2 * 4_096, Duration::from_micros(600));
/// A `fleet.v2` socket may send 100 frames a second.
const CHATS_PER_SOCKET: usize = 4;

/// What one round of one door gave.
struct Round {
    per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// CPU milliseconds a chat: client, simulator, server.
    cpu_ms: [f64; 3],
    /// Of the whole machine, 0 to 1.
    busy: f64,
}

pub fn run(table: &mut Table) {
    let only = setting("BENCH_CLIENTS", 0) as usize;
    for one in CASES {
        if only == 0 || only == one.clients {
            case(table, one);
        }
    }
}

fn case(table: &mut Table, case: Case) {
    let dir = tempfile::tempdir().expect("a directory");
    let Case { clients: count, latency_ms: latency, jitter } = case;
    let varies = if jitter > 0.0 { format!("~{}%", jitter * 100.0) } else { String::new() };
    table.about(&format!("chats: {count} clients, model latency {latency} ms{varies}"));
    let model = Process::simulate_varied(dir.path(), latency, jitter);
    let server = Process::serve(dir.path(), model.address, 4_000);
    let (mut syncs, mut direct) = (Vec::new(), Vec::new());
    let mut through: Vec<Vec<Round>> = DOORS.iter().map(|_| Vec::new()).collect();
    for round in 0..setting("BENCH_ROUNDS", 3) {
        syncs.push(sync_p50_ms(dir.path(), APPENDS.0, APPENDS.1));
        direct.push(measure(Door::Direct, case, round, &model, &server));
        for (rounds, (door, _)) in through.iter_mut().zip(DOORS) {
            rounds.push(measure(door, case, round, &model, &server));
        }
    }
    let name = |what: &str, who: &str| format!("chats {count}x{latency}ms{varies} {who} {what}");
    let of = |rounds: &[Round], pick: fn(&Round) -> f64| median(rounds.iter().map(pick));
    let sync_ms = median(syncs);
    let saturated = of(&direct, |round| round.busy) >= 0.5;
    table.alone(name("sync p50", ""), "ms", sync_ms, Bar::None);
    table.alone(name("machine busy", "direct"), "", of(&direct, |round| round.busy), Bar::None);
    if saturated {
        println!("   the direct calls alone take half of {} cores or more: no bar for this case", cores());
    }
    for (rounds, (_, who)) in through.iter().zip(DOORS) {
        let bar = if saturated { Bar::None } else { Bar::RatioAtLeast(0.9) };
        table.beside(name("rate", who), "/s", of(rounds, |r| r.per_s), of(&direct, |r| r.per_s), bar);
        let added = of(rounds, |r| r.p50_ms) - of(&direct, |r| r.p50_ms);
        let bar = if count == 50 { Bar::AtMost(3.0 * sync_ms + 1.0) } else { Bar::None };
        table.alone(name("added p50", who), "ms", added, bar);
        table.beside(name("p99", who), "ms", of(rounds, |r| r.p99_ms), of(&direct, |r| r.p99_ms), Bar::None);
        let cpu = |at: usize| median(rounds.iter().map(|round| round.cpu_ms[at]));
        let busy = of(rounds, |round| round.busy);
        println!(
            "   cpu ms a chat: client {:.3}, model {:.3}, server {:.3}; machine {busy:.2} busy",
            cpu(0),
            cpu(1),
            cpu(2)
        );
    }
}

fn measure(door: Door, case: Case, round: u64, model: &Process, server: &Process) -> Round {
    let Case { clients: count, latency_ms: latency, .. } = case;
    let address = if door == Door::Direct { model.address } else { server.address };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (spread, warm_up) = (Duration::from_millis(latency), Duration::from_millis(700 + latency));
    let length = Duration::from_secs(setting("BENCH_SECONDS", 3));
    let from = Instant::now() + warm_up;
    let run = round * 10 + door as u64;
    let (took, sent) = (RefCell::default(), Cell::new(0));
    let load = Rc::new(Load { address, from, until: from + length, took, run, count: sent });
    let used = || [Usage::own(), model.usage(), server.usage()].map(|usage| usage.cpu_s);
    let local = LocalSet::new();
    let (before, after) = local.block_on(&runtime, async {
        let (of_socket, last) = (CHATS_PER_SOCKET, count.div_ceil(CHATS_PER_SOCKET) - 1);
        let sockets = if door == Door::V2 { last + 1 } else { count };
        let client = |at: usize| {
            let load = load.clone();
            async move {
                // The messages of a socket begin spread over a latency, too.
                let own = if door == Door::V2 { spread.div_f64(of_socket as f64) } else { spread };
                tokio::time::sleep(own.mul_f64(at as f64 / sockets as f64)).await;
                match door {
                    Door::Direct => clients::direct(load).await,
                    Door::V1 => clients::v1(load).await,
                    Door::V2 => {
                        let chats = if at == last { count - last * of_socket } else { of_socket };
                        clients::v2(load, chats, spread).await;
                    }
                    Door::Sse => clients::sse(load).await,
                    Door::Http => clients::http(load).await,
                }
            }
        };
        let clients: Vec<_> = (0..sockets).map(|at| tokio::task::spawn_local(client(at))).collect();
        tokio::time::sleep_until(load.from.into()).await;
        let before = used();
        tokio::time::sleep_until(load.until.into()).await;
        let after = used();
        for client in clients {
            client.await.expect("a client");
        }
        (before, after)
    });
    let mut took = load.took.take();
    assert!(took.len() >= 20, "only {} answers", took.len());
    let answers = took.len() as f64;
    let spent: [f64; 3] = std::array::from_fn(|at| after[at] - before[at]);
    Round {
        per_s: answers / length.as_secs_f64(),
        p50_ms: quantile(&mut took, 0.5),
        p99_ms: quantile(&mut took, 0.99),
        cpu_ms: spent.map(|cpu_s| cpu_s * 1e3 / answers),
        busy: spent.iter().sum::<f64>() / length.as_secs_f64() / cores() as f64,
    }
}
