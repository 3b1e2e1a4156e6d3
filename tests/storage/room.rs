//! A disk that is full.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentic_fleet::storage::{SqliteOptions, SqliteStore};
use fleet_actors::checkpoint::{CheckpointActor, WriterLimits};
use fleet_actors::ids::Position;
use fleet_actors::ports::{Outcome, Store, StoreError, StoreWrite, Written};
use fleet_actors::testing::ManualClock;
use fleet_actors::testing::store_contract::Harness;

use crate::support::{OnDisk, block_on, make, records_of, without_syncs};

/// Commits workflows `w0`, `w1`, ... of 40 KiB until there is no room; how many were acknowledged.
fn fill(store: &dyn Store) -> usize {
    for n in 0..100_000 {
        match block_on(store.commit(vec![make::with_bodies(make::first(&format!("w{n}"), 4), 10_000).into()])) {
            Ok(outcomes) => assert_eq!(outcomes, [Outcome::Done { head: Position(4) }]),
            Err(StoreError::Full) => return n,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it never filled up");
}

fn assert_whole(store: &dyn Store, acknowledged: std::ops::Range<usize>) {
    for n in acknowledged {
        let read = records_of(store, &make::id(&format!("w{n}")));
        assert_eq!(read, make::with_bodies(make::first(&format!("w{n}"), 4), 10_000).records, "w{n}");
    }
}

fn delete(store: &dyn Store, n: usize) {
    let deleted = block_on(store.write(StoreWrite::DeleteConversation(make::talk(&format!("c-w{n}")))));
    assert_eq!(deleted, Ok(Written::Done), "w{n}");
}

#[test]
fn a_full_store_refuses_whole_batches_reads_on_and_heals_when_something_is_deleted() {
    let mut disk = OnDisk::new(|options| {
        without_syncs(options);
        options.pages_max = Some(400);
    });
    let store = disk.store();
    let acknowledged = fill(&*store);
    assert!(acknowledged > 10, "{acknowledged}");
    let refused = make::with_bodies(make::first("w-refused", 30), 20_000);
    let batch = [make::more("w0", 4, 1), refused.clone()];
    assert_eq!(block_on(store.commit(make::all(batch))), Err(StoreError::Full));
    assert_eq!(block_on(store.workflow(&make::id("w-refused"))), Ok(None));
    assert_eq!(block_on(store.write(StoreWrite::Probe)), Err(StoreError::Full));
    assert_whole(&*store, 0..acknowledged);
    (0..20).for_each(|n| delete(&*store, n));
    assert_eq!(block_on(store.write(StoreWrite::Probe)), Ok(Written::Done), "healed");
    assert_eq!(block_on(store.commit(vec![refused.into()])), Ok(vec![Outcome::Done { head: Position(30) }]));
    drop(store);
    disk.close();
    disk.open();
    assert_whole(&*disk.store(), 20..acknowledged);
}

#[test]
fn the_writer_says_full_until_there_is_room_for_a_probe() {
    let disk = OnDisk::new(|options| {
        without_syncs(options);
        options.pages_max = Some(400);
    });
    let store = disk.store();
    let until = async |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what}: never");
            tokio::time::sleep(Duration::from_millis(5)).await; // allow-sleep: polls a condition under a deadline
        }
    };
    actix_web::rt::System::new().block_on(async {
        let arbiter = actix::Arbiter::current();
        let start = |probe_interval| {
            let limits = WriterLimits { probe_interval, ..WriterLimits::default() };
            CheckpointActor::start_watched(
                &arbiter,
                store.clone(),
                Arc::new(|_| {}),
                limits,
                &fleet_actors::watch::Watch::default(),
            )
        };
        let (eager, patient) = (start(Duration::from_millis(10)), start(Duration::from_secs(3_600)));
        let mut acknowledged = 0;
        while let Ok(outcome) =
            eager.append(make::with_bodies(make::first(&format!("w{acknowledged}"), 4), 10_000).into()).await
        {
            assert_eq!(outcome, Outcome::Done { head: Position(4) });
            acknowledged += 1;
        }
        assert!(acknowledged > 10 && eager.is_full() && !patient.is_full(), "{acknowledged}");
        // What does not fit for the one does not for the other.
        let large = || make::with_bodies(make::first("w-large", 4), 20_000).into();
        assert_eq!(patient.append(large()).await, Err(StoreError::Full));
        // Whatever a probe may find free is taken: it stays full however often it looks.
        let mut filler = 0;
        while patient.append(make::with_bodies(make::first(&format!("s{filler}"), 1), 2_000).into()).await.is_ok() {
            filler += 1;
        }
        assert_eq!(eager.write(StoreWrite::Probe).await, Err(StoreError::Full));
        assert!(eager.is_full() && patient.is_full());
        for n in 0..acknowledged / 2 {
            let gone = eager.write(StoreWrite::DeleteConversation(make::talk(&format!("c-w{n}")))).await;
            assert_eq!(gone, Ok(Written::Done));
        }
        until("a probe finds the room", &|| !eager.is_full()).await;
        assert!(patient.append(large()).await.is_ok());
        assert!(patient.is_full(), "its next look is an hour away");
        println!("{acknowledged} appends until full, {filler} small ones more");
    });
}

/// A file system of its own, unmounted when dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let size = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_gives_up_its_reserve_for_a_deletion_and_takes_it_back() {
    let Some(disk) = Tmpfs::mount("40m") else {
        println!("NOT RUN: a file system with a size needs root; the cap on pages stands in for it above");
        return;
    };
    let reserve = disk.path().join("reserve");
    let len = || reserve.metadata().map(|file| file.len()).unwrap_or(0);
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    };
    let store =
        SqliteStore::open(&SqliteOptions::new(disk.path()), Arc::new(ManualClock::default())).expect("it opens");
    until("the reserve is never made", &|| len() == 16 << 20);
    let acknowledged = fill(&store);
    assert!(acknowledged > 100, "{acknowledged}");
    assert_whole(&store, 0..acknowledged);
    // Whatever a checkpoint frees is taken, too, until nothing at all is left; but not what is lent to it meanwhile.
    let rest = std::fs::File::create(disk.path().join("rest")).expect("a file");
    let wal = disk.path().join("fleet.db-wal");
    until("there is always room", &|| {
        let is_back = || until("a reserve that was lent never comes back", &|| len() == 16 << 20);
        while std::io::Write::write(&mut &rest, &[1; 4_096]).is_ok_and(|n| n > 0) {
            is_back();
        }
        is_back();
        let moved = wal.metadata().is_ok_and(|file| file.len() == 0);
        moved && block_on(store.write(StoreWrite::Probe)) == Err(StoreError::Full)
    });
    delete(&store, 0);
    assert!(len() == 12 << 20, "the reserve was given up, and most of it taken back: {}", len());
    (1..acknowledged / 2).for_each(|n| delete(&store, n));
    assert_whole(&store, acknowledged / 2..acknowledged);
    assert_eq!(block_on(store.write(StoreWrite::Probe)), Ok(Written::Done), "healed");
    drop(rest);
    std::fs::remove_file(disk.path().join("rest")).expect("removed");
    until("the reserve never comes back", &|| len() == 16 << 20);
    println!("{acknowledged} workflows until full; half of them deleted from a disk without a free byte");
}

/// What the database has yet to grow by is never more than the reserve can give, and so the log can be moved and cut.
#[test]
fn a_disk_that_large_runs_filled_is_emptied_run_by_run_and_conversation_by_conversation() {
    let Some(disk) = Tmpfs::mount("96m") else {
        println!("NOT RUN: a file system with a size needs root");
        return;
    };
    let reserve = disk.path().join("reserve");
    let deadline = Instant::now() + Duration::from_secs(20);
    let store =
        SqliteStore::open(&SqliteOptions::new(disk.path()), Arc::new(ManualClock::default())).expect("it opens");
    while reserve.metadata().map_or(0, |file| file.len()) < 16 << 20 {
        assert!(Instant::now() < deadline, "the reserve is never made");
        std::thread::yield_now();
    }
    let run = |n: usize| make::with_bodies(make::ended(make::first(&format!("w{n}"), 30)), 40_000);
    let mut acknowledged = 0;
    while block_on(store.commit(vec![run(acknowledged).into()])).is_ok() {
        acknowledged += 1;
    }
    // Somebody else takes the rest of the disk.
    let rest = std::fs::File::create(disk.path().join("rest")).expect("a file");
    while std::io::Write::write(&mut &rest, &[1; 4_096]).is_ok_and(|written| written > 0) {}
    let remove = |write| block_on(store.write(write));
    assert_eq!(remove(StoreWrite::DeleteHistory(make::id("w0"))), Ok(Written::Done));
    delete(&store, 1);
    assert_eq!(remove(StoreWrite::ClearHistory), Ok(Written::Removed(acknowledged as u64 - 2)));
    assert_eq!(reserve.metadata().expect("a reserve").len(), 12 << 20, "the rest is left to the log");
    println!("{acknowledged} runs of 1.2 MB removed from a disk without a free byte");
}

/// SQLite's index of the log must grow with that, too.
#[test]
fn what_was_acknowledged_while_the_disk_became_full_can_be_read() {
    let Some(disk) = Tmpfs::mount("96m") else {
        println!("NOT RUN: a file system with a size needs root");
        return;
    };
    let options = SqliteOptions { reserve_bytes: 0, ..SqliteOptions::new(disk.path()) };
    let store = SqliteStore::open(&options, Arc::new(ManualClock::default())).expect("it opens");
    let log = disk.path().join("fleet.db-wal");
    let run = |n: usize| make::with_bodies(make::first(&format!("w{n}"), 4), 10_000);
    let mut acknowledged = 0;
    while log.metadata().expect("a log").len() < 12 << 20 {
        block_on(store.commit(vec![run(acknowledged).into()])).expect("written");
        acknowledged += 1;
    }
    // Somebody else takes the rest of the disk.
    let rest = std::fs::File::create(disk.path().join("rest")).expect("a file");
    for piece in [64 << 10, 4 << 10] {
        while std::io::Write::write(&mut &rest, &vec![1; piece]).is_ok_and(|written| written > 0) {}
    }
    let refused = loop {
        match block_on(store.commit(vec![run(acknowledged).into()])) {
            Ok(_) => acknowledged += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, StoreError::Full);
    assert_whole(&store, 0..acknowledged);
}
