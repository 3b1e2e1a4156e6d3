//! Durable appends beside the same bytes in one table of a bare SQLite database, in the same groups, synced as often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentic_fleet::storage::{SqliteOptions, SqliteStore};
use fleet_actors::checkpoint::CheckpointActor;
use fleet_actors::ids::{Epoch, Position, Seq, Timestamp, WorkflowId};
use fleet_actors::ports::{Append, Claim, RecordRow, Store as _};
use fleet_actors::testing::{ManualClock, plain};

use super::figure::{Bar, Table, median, setting};
use super::process::sync_p50_ms;

const BATCHES: u64 = 300;
const APPENDS: u64 = 64;
const HEAD: usize = 300;

pub fn run(table: &mut Table) {
    table.about("appends: one record of 300 bytes each, 64 to a sync");
    let dir = tempfile::tempdir().expect("a directory");
    table.alone("appends sync p50", "ms", sync_p50_ms(dir.path(), 65_536, Duration::ZERO), Bar::None);
    let (mut bare_s, mut store_s, mut door_s) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setting("BENCH_ROUNDS", 3).max(5) {
        bare_s.push(rate(bare()));
        store_s.push(rate(store()));
        door_s.push(rate(door()));
    }
    let (bare, store, door) = (median(bare_s), median(store_s), median(door_s));
    table.beside("appends store", "/s", store, bare, Bar::RatioAtLeast(0.6));
    table.beside("appends store, one ask each", "/s", door, bare, Bar::RatioAtLeast(0.6));
}

fn rate(took: Duration) -> f64 {
    (BATCHES * APPENDS) as f64 / took.as_secs_f64()
}

/// One record for each of 64 workflows, as the batch at this position.
fn batch(at: u64) -> Vec<Arc<Append>> {
    (0..APPENDS).map(|n| append(n, at).into()).collect()
}

fn append(n: u64, after: u64) -> Append {
    let position = Position(after + 1);
    let record = RecordRow {
        position,
        epoch: Epoch(0),
        seq: Some(Seq(position.0)),
        kind: "step_completed".into(),
        path: format!("step#{after}").into(),
        head: vec![b'h'; HEAD],
        body: None,
    };
    let claim = Claim { workflow: WorkflowId::from_trusted(format!("{n:032}")), epoch: Epoch(0) };
    let create = (after == 0).then(|| Box::new(plain::made("bench", "a task", Timestamp(1_000))));
    Append { create, ..plain::append(claim, Position(after), vec![record]) }
}

fn open(dir: &std::path::Path) -> SqliteStore {
    SqliteStore::open(&SqliteOptions::new(dir), Arc::new(ManualClock::default())).expect("the store opens")
}

fn store() -> Duration {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let batches: Vec<_> = (1..=BATCHES).map(batch).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        store.commit(batch(0)).await.expect("written");
        let began = Instant::now();
        for batch in batches {
            store.commit(batch).await.expect("written");
        }
        began.elapsed()
    })
}

/// Through the actor that groups them: 64 askers, each with one append on its way.
fn door() -> Duration {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(open(dir.path()));
    actix::System::new().block_on(async {
        let arbiter = actix::Arbiter::new();
        let checkpoints =
            CheckpointActor::start_on(&arbiter.handle(), store.clone(), Arc::new(|reason| panic!("{reason}")));
        store.commit(batch(0)).await.expect("written");
        let appends: Vec<Vec<Append>> = (0..APPENDS).map(|n| (1..=BATCHES).map(|at| append(n, at)).collect()).collect();
        let began = Instant::now();
        let askers: Vec<_> = appends
            .into_iter()
            .map(|appends| {
                let checkpoints = checkpoints.clone();
                actix::spawn(async move {
                    for append in appends {
                        checkpoints.append(append.into()).await.expect("written");
                    }
                })
            })
            .collect();
        for asker in askers {
            asker.await.expect("an asker");
        }
        let took = began.elapsed();
        arbiter.stop();
        took
    })
}

fn bare() -> Duration {
    let dir = tempfile::tempdir().expect("a directory");
    let mut db = rusqlite::Connection::open(dir.path().join("bare.db")).expect("a database");
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE journal (workflow TEXT, position INTEGER, head BLOB, PRIMARY KEY (workflow, position))",
    )
    .expect("a table");
    let batches: Vec<_> = (1..=BATCHES).map(batch).collect();
    let began = Instant::now();
    for batch in &batches {
        let tx = db.transaction().expect("begun");
        for append in batch {
            let record = &append.records[0];
            let row = rusqlite::params![append.claim.workflow.as_str(), record.position.0, record.head];
            tx.prepare_cached("INSERT INTO journal VALUES (?1, ?2, ?3)").expect("SQL").execute(row).expect("written");
        }
        tx.commit().expect("durable");
    }
    began.elapsed()
}
