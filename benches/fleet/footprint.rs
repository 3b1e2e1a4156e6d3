//! What the server costs when it does nothing: memory after its start, memory of an idle socket, the time to be ready.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentic_fleet::storage::{SqliteOptions, SqliteStore};
use fleet_actors::ids::{Epoch, Position, Seq, Timestamp, WorkflowId};
use fleet_actors::ports::{Append, Claim, HistoryRow, Next, RecordRow, Store as _};
use fleet_actors::testing::{ManualClock, plain};

use super::chats_clients::open;
use super::figure::{Bar, Table, median, setting};
use super::http::Http;
use super::process::{Process, kernel_slab_bytes, tcp_buffer_bytes};

const MIB: f64 = 1_048_576.0;

pub fn run(table: &mut Table) {
    memory(table);
    start(table);
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

async fn ready(server: &Process) {
    let mut http = Http::connect(server.address).await.expect("a connection");
    let status = http.exchange(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("an answer");
    assert_eq!(status, 200, "ready");
}

fn memory(table: &mut Table) {
    let sockets = setting("BENCH_SOCKETS", 2_000);
    table.about(&format!("memory: after a start, and with {sockets} idle fleet.v2 sockets"));
    let dir = tempfile::tempdir().expect("a directory");
    let model = Process::simulate(dir.path(), 50);
    let server = Process::serve(dir.path(), model.address, 10);
    block_on(async {
        ready(&server).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = (server.usage().rss_bytes, tcp_buffer_bytes(), kernel_slab_bytes());
        table.alone("memory after start", "MiB", before.0 / MIB, Bar::AtMost(40.0));
        let mut idle = Vec::new();
        for _ in 0..sockets {
            idle.push(open(server.address, Some("fleet.v2")).await);
        }
        // A heartbeat leaves each of them in this time, so none is counted before it did anything.
        tokio::time::sleep(Duration::from_millis(5_500)).await;
        let kib = |now: f64, then: f64| (now - then) / 1024.0 / sockets as f64;
        let heap = kib(server.usage().rss_bytes, before.0);
        // The other end of each lives here, too, and costs the kernel the same; its frames wait in its buffer.
        let slab = kib(kernel_slab_bytes(), before.2) / 2.0;
        table.alone("idle socket, server process", "KiB", heap, Bar::AtMost(24.0));
        table.alone("idle socket, kernel objects beside it", "KiB", slab, Bar::None);
        println!("   kernel buffers of both ends: {:.2} KiB a socket", kib(tcp_buffer_bytes(), before.1));
        drop(idle);
    });
}

fn start(table: &mut Table) {
    let entries = setting("BENCH_HISTORY", 100_000);
    table.about(&format!("start to ready with {entries} history entries"));
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join(".var");
    fill(&data, entries);
    let model = Process::simulate(dir.path(), 50);
    // The first start exports them all.
    let first = Process::serve(dir.path(), model.address, 10);
    let wanted = Instant::now() + Duration::from_secs(120);
    let file = data.join("logs/execution_history.jsonl");
    let lines = || std::fs::read(&file).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count() as u64);
    while lines() < entries {
        assert!(Instant::now() < wanted, "the export has {} lines", lines());
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(first);
    for (how, clean) in [("after a kill -9", false), ("after a clean stop", true)] {
        let starts = (0..7).map(|_| {
            let began = Instant::now();
            let server = Process::serve(dir.path(), model.address, 10);
            block_on(ready(&server));
            let took = began.elapsed().as_secs_f64() * 1e3;
            if clean {
                server.terminate();
            }
            took
        });
        let times: Vec<f64> = starts.collect();
        // The first clean one still starts after a kill.
        table.alone(format!("start to ready {how}"), "ms", median(times[1..].iter().copied()), Bar::AtMost(300.0));
    }
}

fn fill(data: &Path, entries: u64) {
    let options = SqliteOptions::new(data);
    let store = SqliteStore::open(&options, Arc::new(ManualClock::default())).expect("the store opens");
    block_on(async {
        for from in (0..entries).step_by(500) {
            let batch = (from..entries.min(from + 500)).map(|n| finished(n).into()).collect();
            store.commit(batch).await.expect("written");
        }
    });
}

/// A run with its first and its last record in one append.
fn finished(n: u64) -> Append {
    let workflow = WorkflowId::from_trusted(format!("{n:032}"));
    let record = |at: u64, kind: &str| RecordRow {
        position: Position(at),
        epoch: Epoch(0),
        seq: Some(Seq(at)),
        kind: kind.into(),
        path: "".into(),
        head: format!(r#"{{"at":{at}}}"#).into_bytes(),
        body: None,
    };
    let made = plain::made("supervisor", &format!("what is the answer to question {n}"), Timestamp(1_000));
    let row = plain::entry(workflow.clone(), &made, Timestamp(2_000));
    let row = HistoryRow { runtime_ms: 1_000, model_calls: 1, ..row };
    let claim = Claim { workflow, epoch: Epoch(0) };
    let records = vec![record(1, "began"), record(2, "finished")];
    Append {
        create: Some(Box::new(made)),
        runtime: Duration::from_secs(1),
        next: Next::Ended(Arc::new(row)),
        ..plain::append(claim, Position(0), records)
    }
}
