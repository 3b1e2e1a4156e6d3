//! What an append costs beside the bare database.

use std::time::{Duration, Instant};

use fleet_actors::testing::store_contract::Harness;

use crate::support::{OnDisk, block_on, make};

const BATCHES: u64 = 200;
const APPENDS: u64 = 64;
const HEAD: usize = 300;

/// Batches in the order in which they are committed: each appends one record to each of 64 workflows.
fn batches() -> Vec<Vec<fleet_actors::ports::Append>> {
    let name = |n: u64| format!("{n:032}");
    let batch = |at: u64| {
        let appends = (0..APPENDS).map(|n| match at {
            0 => make::first(&name(n), 1),
            _ => make::more(&name(n), at, 1),
        });
        appends
            .map(|mut append| {
                append.records[0].head = vec![b'h'; HEAD];
                append
            })
            .collect()
    };
    (0..=BATCHES).map(batch).collect()
}

fn ours() -> Duration {
    let disk = OnDisk::new(|_| {});
    let store = disk.store();
    let mut batches = batches().into_iter();
    block_on(async {
        store.commit(make::all(batches.next().expect("the workflows"))).await.expect("written");
        let began = Instant::now();
        for batch in batches {
            store.commit(make::all(batch)).await.expect("written");
        }
        began.elapsed()
    })
}

/// The same bytes in one table with the same key, in the same groups, synced as often.
fn bare() -> Duration {
    let dir = tempfile::tempdir().expect("a directory");
    let mut db = rusqlite::Connection::open(dir.path().join("bare.db")).expect("a database");
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE journal (workflow TEXT, position INTEGER, head BLOB, PRIMARY KEY (workflow, position))",
    )
    .expect("a table");
    let batches = batches();
    let began = Instant::now();
    for batch in &batches[1..] {
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

#[test]
fn durable_appends_keep_pace_with_the_bare_database() {
    let rate = |took: Duration| (BATCHES * APPENDS) as f64 / took.as_secs_f64();
    // In turns, so that what else the machine does meets both; the best of each is what the code costs.
    let (mut bares, mut owns) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        bares.push(bare());
        owns.push(ours());
    }
    let best = |runs: &[Duration]| rate(*runs.iter().min().expect("runs"));
    let (bare, ours) = (best(&bares), best(&owns));
    println!(
        "durable appends a second, {APPENDS} a sync: {ours:.0}; bare SQLite {bare:.0}; {:.0} % (optimised: {})",
        100.0 * ours / bare,
        !cfg!(debug_assertions)
    );
    // The promise is 60 % for the optimised binary; the bench holds it to that. This only finds what got slow.
    assert!(ours > 0.2 * bare, "{ours:.0} beside {bare:.0}");
}
