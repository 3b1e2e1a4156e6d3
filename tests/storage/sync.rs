//! What reaches the disk before an answer, as the kernel sees it.
//!
//! The tests run themselves again as a child under strace; without strace they say so.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use agentic_fleet::settings::Durability;
use agentic_fleet::storage::{SqliteOptions, SqliteStore};
use fleet_actors::ids::Position;
use fleet_actors::ports::{Store, StoreError};
use fleet_actors::testing::ManualClock;
use std::sync::Arc;

use crate::support::{block_on, make};

const CHILD: &str = "FLEET_TEST_STORE_CHILD";

/// Runs `child` under strace; `None` if there is no strace here.
fn traced(child: &str, dir: &Path, trace: &[impl AsRef<OsStr>]) -> Option<(Output, String)> {
    let log = dir.join("strace");
    let run = Command::new("strace")
        .args(["-f", "-y", "-qq", "-o"])
        .arg(&log)
        .args(trace)
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "--nocapture", child])
        .env(CHILD, dir.join("data"))
        .output();
    let Ok(output) = run else {
        println!("NOT RUN: strace is not installed");
        return None;
    };
    Some((output, std::fs::read_to_string(log).unwrap_or_default()))
}

/// Has a call on one of the store's files go wrong like this.
fn fault(file: &Path, call: &str, how: &str) -> [String; 6] {
    let path = file.to_str().expect("a path in UTF-8").to_owned();
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{how}"));
    ["-P".to_owned(), path, "-e".to_owned(), trace, "-e".to_owned(), inject]
}

/// The next write, or all there are, of one of the store's files finds no room.
fn without_room(file: &Path, error: &str, when: &str) -> [String; 6] {
    fault(file, "pwrite64", &format!("error={error}{when}"))
}

/// Where the child of a test works; `None` in an ordinary run of the tests.
fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Refusals after which a child has seen enough.
const REFUSED_ENOUGH: usize = 10;

/// Commits batches of 16 appends and says of each what became of it, until enough of them are refused.
fn commit_and_tell(durability: Durability, batches: u64, bytes: usize) {
    let Some(dir) = child_dir() else { return };
    let options = SqliteOptions { durability, ..SqliteOptions::new(&dir) };
    let store = SqliteStore::open(&options, Arc::new(ManualClock::default())).expect("it opens");
    println!();
    let mut refused = 0;
    for batch in 0..batches {
        if refused == REFUSED_ENOUGH {
            break;
        }
        let appends = (0..16).map(|n| match batch {
            0 => make::first(&format!("w{n}"), 1),
            at => make::with_bodies(make::more(&format!("w{n}"), at, 1), bytes),
        });
        match block_on(store.commit(make::all(appends))) {
            Ok(outcomes) => println!("ACKNOWLEDGED {batch} {}", outcomes.len()),
            Err(StoreError::Failed(_)) => {
                println!("FAILED {batch}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    // As the process does: at once, without closing anything.
    std::process::exit(74);
}

#[test]
fn child_with_power() {
    commit_and_tell(Durability::Power, 50, 100);
}

#[test]
fn child_with_process() {
    commit_and_tell(Durability::Process, 50, 100);
}

/// More than is ever written: how often the database is synced for it is up to the pace of the disk.
#[test]
fn child_with_much_to_write() {
    commit_and_tell(Durability::Power, 2_000, 40_000);
}

/// Opens and dies.
#[test]
fn child_that_opens() {
    let Some(dir) = child_dir() else { return };
    let _store = SqliteStore::open(&SqliteOptions::new(&dir), Arc::new(ManualClock::default())).expect("it opens");
    std::process::exit(0);
}

/// Begins runs until one that was acknowledged is not read, and says why.
#[test]
fn child_that_reads_what_was_acknowledged() {
    let Some(dir) = child_dir() else { return };
    let store = SqliteStore::open(&SqliteOptions::new(&dir), Arc::new(ManualClock::default())).expect("it opens");
    for name in (0..1_000).map(|n| format!("w{n}")) {
        if block_on(store.commit(vec![make::first(&name, 1).into()])).is_err() {
            continue;
        }
        match (block_on(store.workflow(&make::id(&name))), block_on(store.read(&make::id(&name), Position(0), 1_000))) {
            (Ok(Some(_)), Ok(records)) if records.len() == 1 => {}
            (Err(StoreError::Unavailable(_)), Err(StoreError::Unavailable(_))) => {
                println!("\nTOLD that it cannot be read");
                break;
            }
            (row, records) => panic!("{name} was acknowledged: {row:?}, {records:?}"),
        }
    }
    std::process::exit(74);
}

#[test]
fn what_is_acknowledged_and_cannot_be_written_is_not_said_to_be_missing() {
    if child_dir().is_some() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let wal = dir.path().join("data").join("fleet.db-wal");
    let inject = fault(&wal, "pwrite64", "error=EROFS:when=200+");
    let Some((output, trace)) = traced("sync::child_that_reads_what_was_acknowledged", dir.path(), &inject) else {
        return;
    };
    assert!(trace.contains("INJECTED"), "no write failed: {trace}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("TOLD"), "{output:?}");
}

/// Reads what was acknowledged while a write of it hangs.
#[test]
fn child_that_reads_behind_a_disk_that_hangs() {
    let Some(dir) = child_dir() else { return };
    let read_patience = Duration::from_millis(100);
    let options = SqliteOptions { read_patience, ..SqliteOptions::new(&dir) };
    let store = SqliteStore::open(&options, Arc::new(ManualClock::default())).expect("it opens");
    let commit = |name: &str| block_on(store.commit(vec![make::first(name, 1).into()])).expect("acknowledged");
    let is_there = |name: &str| block_on(store.workflow(&make::id(name))).map(|row| row.is_some());
    for name in (0..1_000).map(|n| format!("w{n}")) {
        commit(&name);
        match is_there(&name) {
            Ok(is_there) => assert!(is_there, "{name} was acknowledged"),
            Err(error) => {
                println!("\nTOLD {error}");
                assert_eq!(is_there("nobody"), Ok(false), "a read that is about nothing of it goes on");
                break;
            }
        }
    }
    std::process::exit(74);
}

#[test]
fn a_read_behind_a_disk_that_hangs_is_refused_in_time() {
    if child_dir().is_some() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let wal = dir.path().join("data").join("fleet.db-wal");
    let inject = fault(&wal, "pwrite64", "delay_enter=1500000:when=200");
    let child = "sync::child_that_reads_behind_a_disk_that_hangs";
    let Some((output, _)) = traced(child, dir.path(), &inject) else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("TOLD") && said.contains("in time"), "{output:?}");
}

const SYNCS: &[&str] = &["-e", "trace=fsync,fdatasync,write"];

fn is_log_sync(line: &str) -> bool {
    let log = line.contains("fleet.db-redo") || line.contains("fleet.db-wal");
    log && (line.contains("fsync(") || line.contains("fdatasync("))
}

#[test]
fn every_acknowledged_batch_is_preceded_by_one_sync_of_the_log() {
    if child_dir().is_some() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let Some((_, trace)) = traced("sync::child_with_power", dir.path(), SYNCS) else { return };
    let (mut acknowledged, mut syncs, mut since) = (0, 0, 0);
    for line in trace.lines() {
        if is_log_sync(line) {
            syncs += 1;
            since += 1;
        } else if line.contains("ACKNOWLEDGED") {
            assert!(since > 0, "batch {acknowledged} was acknowledged before it was synced");
            acknowledged += 1;
            since = 0;
        }
    }
    assert_eq!(acknowledged, 50, "{trace}");
    assert!((50..=60).contains(&syncs), "{syncs} syncs");
    println!("durability power: {acknowledged} batches of 16 appends, {syncs} syncs of the log");

    let dir = tempfile::tempdir().expect("a directory");
    let Some((_, trace)) = traced("sync::child_with_process", dir.path(), SYNCS) else { return };
    let acknowledged = trace.lines().filter(|line| line.contains("ACKNOWLEDGED")).count();
    let syncs = trace.lines().filter(|line| is_log_sync(line)).count();
    assert_eq!(acknowledged, 50);
    assert!(syncs < 10, "{syncs} syncs");
    println!("durability process: {acknowledged} batches, {syncs} syncs of the log");
}

/// What the child said, in order.
fn told(output: &Output) -> Vec<bool> {
    let text = String::from_utf8_lossy(&output.stdout);
    let told = text.lines().filter_map(|line| match line {
        line if line.starts_with("ACKNOWLEDGED") => Some(true),
        line if line.starts_with("FAILED") => Some(false),
        _ => None,
    });
    told.collect()
}

#[test]
fn nothing_is_acknowledged_after_a_sync_that_failed() {
    if child_dir().is_some() {
        return;
    }
    // The redo log before an acknowledgement; the database's log when the redo log begins anew; the database in a checkpoint,
    // whose errors SQLite would swallow by itself.
    for (file, child, when) in [
        ("fleet.db-redo", "sync::child_with_power", "when=20"),
        ("fleet.db-wal", "sync::child_with_much_to_write", "when=20"),
        ("fleet.db", "sync::child_with_much_to_write", "when=3"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let inject = fault(&dir.path().join("data").join(file), "fsync,fdatasync", &format!("error=EIO:{when}"));
        let Some((output, trace)) = traced(child, dir.path(), &inject) else { return };
        assert!(trace.contains("INJECTED"), "{file}: no sync failed: {trace}");
        let told = told(&output);
        let acknowledged = told.iter().take_while(|acknowledged| **acknowledged).count();
        let refused = told[acknowledged..].iter().filter(|acknowledged| !**acknowledged).count();
        assert!(acknowledged >= 5 && refused >= 5, "{file}: {told:?}");
        assert_eq!(acknowledged + refused, told.len(), "{file}: acknowledged after the failure: {told:?}");
        println!("{file}: {acknowledged} batches acknowledged, one sync failed, {refused} refused");
    }
}

/// Of what the last process left, the memory of the system may have what the disk has not.
#[test]
fn a_store_that_cannot_be_synced_once_does_not_open_and_neither_of_its_logs_is_moved_or_removed() {
    if child_dir().is_some() {
        return;
    }
    for file in ["fleet.db", "fleet.db-wal"] {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let Some(_) = traced("sync::child_with_power", dir.path(), &["-e", "trace=none"]) else { return };
        let left = || ["fleet.db-redo", "fleet.db-wal"].map(|log| std::fs::read(data.join(log)).expect("a log"));
        let before = left();
        assert!(before[0].iter().any(|byte| *byte != 0), "the control: the child ended without a word");
        // Only once: the next sync would claim that nothing is lost.
        let inject = fault(&data.join(file), "fsync,fdatasync", "error=EIO:when=1");
        let Some((output, trace)) = traced("sync::child_with_power", dir.path(), &inject) else { return };
        assert!(trace.contains("INJECTED"), "{file}: no sync failed: {trace}");
        assert!(!output.status.success() && told(&output).is_empty(), "{file}: {output:?}");
        let (lines, failed) = (trace.lines().count(), trace.lines().position(|line| line.contains("INJECTED")));
        assert_eq!(failed.map(|at| at + 1), Some(lines), "{file}: it was synced again: {trace}");
        let after = left();
        assert!(after[0] == before[0], "{file}: the redo log");
        assert!(after[1].len() >= before[1].len(), "{file}: {} bytes of {}", after[1].len(), before[1].len());
    }
}

#[test]
fn a_redo_log_that_finds_no_room_is_done_without() {
    if child_dir().is_some() {
        return;
    }
    for error in ["ENOSPC", "EDQUOT", "EFBIG"] {
        let dir = tempfile::tempdir().expect("a directory");
        let redo = dir.path().join("data").join("fleet.db-redo");
        let inject = without_room(&redo, error, "");
        let Some((output, trace)) = traced("sync::child_with_power", dir.path(), &inject) else { return };
        assert!(trace.contains("INJECTED"), "{error}: no write failed: {trace}");
        assert_eq!(told(&output), [true; 50], "{error}");
        assert!(!redo.exists(), "{error}");
    }
}

/// As a file system says that copies what is written over.
#[test]
fn a_redo_log_that_finds_no_room_to_be_erased_is_removed() {
    if child_dir().is_some() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let redo = dir.path().join("data").join("fleet.db-redo");
    for (when, stays) in [(":when=9999", true), ("", false)] {
        let inject = without_room(&redo, "ENOSPC", when);
        let Some((output, _)) = traced("sync::child_that_opens", dir.path(), &inject) else { return };
        assert!(output.status.success(), "{output:?}");
        assert_eq!(redo.exists(), stays, "{when}");
    }
}

#[test]
fn a_store_that_cannot_be_opened_for_want_of_room_is_opened_with_the_room_of_the_reserve() {
    if child_dir().is_some() {
        return;
    }
    for (error, when, held, gives) in [
        ("ENOSPC", ":when=9999", 16 << 20, false),
        ("ENOSPC", ":when=1", 16 << 20, true),
        ("EDQUOT", ":when=1", 16 << 20, true),
        ("EFBIG", ":when=1", 16 << 20, true),
        // A process that was killed had not made more of it.
        ("ENOSPC", ":when=1", 1_000, true),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a directory");
        let reserve = data.join("reserve");
        std::fs::write(&reserve, vec![0; held]).expect("a reserve");
        let mut inject = without_room(&data.join("fleet.db-wal"), error, when).to_vec();
        inject[3] = "trace=pwrite64,?unlink,?unlinkat".to_owned();
        inject.extend(["-P".to_owned(), reserve.to_str().expect("a path in UTF-8").to_owned()]);
        let Some((opened, trace)) = traced("sync::child_that_opens", dir.path(), &inject) else { return };
        assert!(opened.status.success(), "{error}{when}, {held}: {opened:?}");
        assert_eq!((trace.contains("INJECTED"), trace.contains("unlink")), (gives, gives), "{error}{when}: {trace}");
        assert_eq!(reserve.metadata().expect("it is back").len(), held as u64, "{error}{when}");
    }
}

#[test]
fn a_log_that_finds_no_room_in_the_database_is_no_reason_not_to_open_whatever_the_want_of_room_is_called() {
    if child_dir().is_some() {
        return;
    }
    for error in ["ENOSPC", "EDQUOT", "EFBIG"] {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("data").join("fleet.db");
        let Some(_) = traced("sync::child_with_power", dir.path(), &["-e", "trace=none"]) else { return };
        let inject = without_room(&database, error, "");
        let (opened, trace) = traced("sync::child_that_opens", dir.path(), &inject).expect("strace");
        assert!(trace.contains("INJECTED") && opened.status.success(), "{error}: {opened:?} {trace}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let database = dir.path().join("data").join("fleet.db");
    traced("sync::child_with_power", dir.path(), &["-e", "trace=none"]).expect("strace");
    let inject = fault(&database, "pwrite64", "error=EIO");
    let (refused, _) = traced("sync::child_that_opens", dir.path(), &inject).expect("strace");
    assert!(!refused.status.success(), "the control: a disk with errors is no want of room");
}

/// Opens, and reads what was acknowledged.
#[test]
fn child_that_finds_what_is_done_again() {
    let Some(dir) = child_dir() else { return };
    let options = SqliteOptions { reserve_bytes: 0, ..SqliteOptions::new(&dir) };
    let store = SqliteStore::open(&options, Arc::new(ManualClock::default())).expect("it opens");
    let read = block_on(store.read(&make::id("w15"), Position(0), usize::MAX)).expect("a journal");
    println!("\nREAD {}", read.len());
    std::process::exit(0);
}

/// No file may grow beyond the end of the log: what is done again finds room where that was.
#[test]
fn what_is_done_again_at_the_start_has_the_room_of_the_log() {
    if child_dir().is_some() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let Some(_) = traced("sync::child_with_power", dir.path(), &["-e", "trace=none"]) else { return };
    // A log that is longer than what is in it will be in the database, and that nobody has moved.
    let database = rusqlite::Connection::open(data.join("fleet.db")).expect("it opens");
    let keep = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    database.set_db_config(keep, true).expect("set");
    database.execute_batch("PRAGMA wal_autocheckpoint = 0").expect("set");
    for _ in 0..3 {
        let write = "DELETE FROM probe; INSERT INTO probe (filler) VALUES (randomblob(2000000))";
        database.execute_batch(write).expect("written");
    }
    drop(database);
    let end = data.join("fleet.db-wal").metadata().expect("a log").len();
    let open = |limit: u64| {
        // A file that is too large is an error then, and no signal.
        let script = format!("trap '' XFSZ; exec prlimit --fsize={limit} \"$@\"");
        let run = Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(std::env::current_exe().expect("this test"))
            .args(["--exact", "--nocapture", "sync::child_that_finds_what_is_done_again"])
            .env(CHILD, &data)
            .output();
        run.expect("a shell")
    };
    let opened = open(end);
    let said = String::from_utf8_lossy(&opened.stdout);
    assert!(opened.status.success() && said.contains("READ 50"), "{opened:?}");
}

#[test]
fn what_the_last_process_left_is_written_and_synced_anew_before_the_redo_log_is_erased() {
    if child_dir().is_some() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let Some(_) = traced("sync::child_with_power", dir.path(), &["-e", "trace=none"]) else { return };
    let calls = ["-e", "trace=pwrite64,fsync,fdatasync"];
    let Some((output, trace)) = traced("sync::child_that_opens", dir.path(), &calls) else { return };
    assert!(output.status.success(), "{output:?}");
    let (before, _) = trace.split_once("fleet.db-redo").expect("it is erased");
    // SQLite writes a page at a time, at most.
    let is_again = |line: &str| {
        let written = line.rsplit(" = ").next().and_then(|bytes| bytes.trim().parse::<u64>().ok());
        line.contains("fleet.db-wal") && line.contains("pwrite64") && written.is_some_and(|bytes| bytes > 4_096)
    };
    let mut behind = before.lines().skip_while(|line| !is_again(line)).filter(|line| line.contains("sync("));
    assert!(behind.any(|line| line.contains("fleet.db-wal>")), "written again, and synced: {before}");
    assert!(behind.any(|line| line.contains("fleet.db>")), "moved into the database: {before}");
}
