//! Two hundred runs of whole teams at once, beside what their model calls alone would take.
//!
//! A run of three agents in sequence is seven calls that follow one another (analysis, routing, the researcher's wish for a
//! search and its answer, two more agents, progress); in parallel it is six, for the three agents work at the same time and a
//! synthesis follows. Both are counted before anything is measured. Half of the clients ask for the one, half for the other, each
//! again as soon as it has its answer. So the arithmetic is 100 / (7 x latency) + 100 / (6 x latency) runs a second, the latency being
//! that of a call which is made directly, in the same run of the bench; a score in the background, one more call, delays none of them
//! and costs its part of the machine. Where the calls alone, made directly at that rate, would take half of the machine, no bar is held.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use super::chats_clients::{self as clients, Load};
use super::figure::{Bar, Table, cores, median, setting};
use super::http::{Http, find, post};
use super::process::{Process, Usage};

const TEAMS: usize = 200;
/// Model latencies in milliseconds.
const CASES: [u64; 3] = [50, 250, 1_000];
/// Calls on the critical path, and all calls, of a sequence and of a parallel run.
const SHAPES: [(&str, f64, f64); 2] = [("sequential", 7.0, 8.0), ("parallel", 6.0, 9.0)];
/// Long enough that what a run adds to its calls is less than one of them.
const COUNTED_AT_MS: u64 = 250;
/// The score in the background has been asked for by then.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

pub fn run(table: &mut Table) {
    count();
    for latency in CASES {
        case(table, latency);
    }
}

/// Counts the calls of a run of each shape that is alone, and tells by its time which of them follow one another.
fn count() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = Process::simulate(dir.path(), COUNTED_AT_MS);
    let server = Process::serve(dir.path(), model.address, 400);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut http = Http::connect(server.address).await.expect("a connection");
        // What a server finds out at its start, as whether it has a sandbox, is none of a run's time.
        assert_eq!(http.exchange(&request("sequential", "first")).await.expect("an answer"), 201);
        tokio::time::sleep(Duration::from_millis(4 * COUNTED_AT_MS)).await;
        for (n, (mode, critical, calls)) in SHAPES.into_iter().enumerate() {
            let (before, began) = (made(&model).await, Instant::now());
            assert_eq!(http.exchange(&request(mode, &format!("alone{n}"))).await.expect("an answer"), 201);
            let took = began.elapsed().as_secs_f64() * 1e3 / COUNTED_AT_MS as f64;
            assert!((critical..critical + 1.0).contains(&took), "{mode}: as long as {took:.2} calls, not {critical}");
            while made(&model).await < before + calls {
                assert!(began.elapsed() < COUNTED_WITHIN, "{mode}: {} calls, not {calls}", made(&model).await - before);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(made(&model).await, before + calls, "{mode}");
        }
    });
}

/// Calls that reached the model.
async fn made(model: &Process) -> f64 {
    let mut http = Http::connect(model.address).await.expect("a connection");
    let status = http.exchange(b"GET /admin/stats HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("an answer");
    assert_eq!(status, 200);
    let stats: serde_json::Value = serde_json::from_slice(body(http.answer())).expect("JSON");
    stats["calls"].as_f64().expect("a count")
}

fn body(answer: &[u8]) -> &[u8] {
    let at = find(answer, b"\r\n\r\n").expect("a head");
    &answer[at + 4..]
}

fn request(mode: &str, mark: &str) -> Vec<u8> {
    let task = format!("Compare {mark} and others and write a brief");
    post("/api/v1/run", &format!(r#"{{"task":"{task}","mode":"{mode}"}}"#))
}

fn case(table: &mut Table, latency: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    table.about(&format!("teams: {TEAMS} at once, model latency {latency} ms"));
    let model = Process::simulate(dir.path(), latency);
    let server = Process::serve(dir.path(), model.address, 400);
    let direct = Direct::of(&model, latency);
    let each = TEAMS as f64 / 2.0;
    let ideal = |latency_s: f64| SHAPES.iter().map(|(_, critical, _)| each / (critical * latency_s)).sum::<f64>();
    let calls: f64 = SHAPES.iter().map(|(_, critical, calls)| each / (critical * direct.latency_s) * calls).sum();
    let alone = calls * direct.cpu_s / cores() as f64;
    // Over the longest run, so that at any time as many end as begin; the same again to come into step, then three of it.
    let spread = Duration::from_millis(7 * latency);
    let from = Instant::now() + Duration::from_millis(14 * latency + 500);
    let length = Duration::from_millis(42 * latency)
        .min(Duration::from_secs(21))
        .max(Duration::from_secs(setting("BENCH_SECONDS", 3)));
    let (ended, next) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(0_u32)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let used = || [Usage::own(), model.usage(), server.usage()].map(|usage| usage.cpu_s);
    let (before, after) = LocalSet::new().block_on(&runtime, async {
        let client = |at: usize| {
            let (ended, next, address) = (ended.clone(), next.clone(), server.address);
            async move {
                tokio::time::sleep(spread.mul_f64(at as f64 / TEAMS as f64)).await;
                let mut http = Http::connect(address).await.expect("a connection");
                while Instant::now() < from + length {
                    let n = next.replace(next.get() + 1);
                    let mode = SHAPES[at % 2].0;
                    let mark = format!("zq{n}qz");
                    let status = http.exchange(&request(mode, &mark)).await.expect("an answer");
                    assert_eq!(status, 201, "{}", String::from_utf8_lossy(http.answer()));
                    assert!(find(http.answer(), mark.as_bytes()).is_some(), "another run's answer");
                    if (from..from + length).contains(&Instant::now()) {
                        ended.set(ended.get() + 1);
                    }
                }
            }
        };
        let clients: Vec<_> = (0..TEAMS).map(|at| tokio::task::spawn_local(client(at))).collect();
        tokio::time::sleep_until(from.into()).await;
        let before = used();
        tokio::time::sleep_until((from + length).into()).await;
        let after = used();
        for client in clients {
            client.await.expect("a client");
        }
        (before, after)
    });
    let spent: [f64; 3] = std::array::from_fn(|at| after[at] - before[at]);
    let runs = f64::from(ended.get());
    let bar = if alone >= 0.5 { Bar::None } else { Bar::RatioAtLeast(0.85) };
    let rate = runs / length.as_secs_f64();
    table.beside(format!("teams {TEAMS}x{latency}ms rate"), "/s", rate, ideal(direct.latency_s), bar);
    let told = ideal(latency as f64 / 1e3);
    println!(
        "   a direct call takes {:.1} ms; of {latency} ms: {told:.1} /s, {:.2}",
        direct.latency_s * 1e3,
        rate / told
    );
    let busy = spent.iter().sum::<f64>() / length.as_secs_f64() / cores() as f64;
    let cpu = spent.map(|cpu_s| cpu_s * 1e3 / runs);
    println!(
        "   the calls alone would take {alone:.2} of {} cores; cpu ms a run: client {:.2}, model {:.2}, server {:.2}; machine {busy:.2} busy",
        cores(),
        cpu[0],
        cpu[1],
        cpu[2]
    );
}

/// A call that is made directly, when as many are under way as runs will be.
struct Direct {
    latency_s: f64,
    /// Processor time, the model's and the client's.
    cpu_s: f64,
}

impl Direct {
    fn of(model: &Process, latency: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let spread = Duration::from_millis(latency);
        let from = Instant::now();
        let (took, count) = (RefCell::default(), Cell::new(0));
        let load = Rc::new(Load {
            address: model.address,
            from,
            until: from + 3 * spread.max(Duration::from_millis(500)),
            took,
            run: 0,
            count,
        });
        let used = || Usage::own().cpu_s + model.usage().cpu_s;
        let before = used();
        LocalSet::new().block_on(&runtime, async {
            let client = |at: usize| {
                let load = load.clone();
                async move {
                    tokio::time::sleep(spread.mul_f64(at as f64 / TEAMS as f64)).await;
                    clients::direct(load).await;
                }
            };
            let clients: Vec<_> = (0..TEAMS).map(|at| tokio::task::spawn_local(client(at))).collect();
            for client in clients {
                client.await.expect("a client");
            }
        });
        let calls = f64::from(u32::try_from(load.count.get()).expect("a count"));
        Self { latency_s: median(load.took.take()) / 1e3, cpu_s: (used() - before) / calls }
    }
}
