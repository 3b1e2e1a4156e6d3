//! What the writer tells of a trouble, and lends for it.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use fleet_actors::testing::ManualClock;
use fleet_actors::watch::Watch;

use super::super::mover::Mover;
use super::super::{SqliteOptions, schema};
use super::*;
use crate::settings::Durability;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap();
        text.lines().filter(|line| line.contains("write-ahead log")).map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn writer(dir: &std::path::Path, reserve_bytes: u64) -> Writer {
    let path = dir.join("log.db");
    let db = schema::open_writer(&path, None).unwrap();
    let mut commits = Commits::open(db, &path, Durability::Process, Arc::default()).unwrap();
    let options = SqliteOptions { reserve_bytes, ..SqliteOptions::new(dir) };
    let mover = Mover::start(&path, &Watch::default()).unwrap();
    let wal = Wal::new(&mut commits.db, &options, Arc::default(), mover).unwrap();
    let reserve = Reserve::new(options.reserve, reserve_bytes);
    Writer::new(commits, wal, reserve, Arc::new(ManualClock::default()), 1, options.group)
}

#[test]
fn a_log_that_cannot_be_moved_is_told_of_once_when_it_begins_and_once_when_it_is_over() {
    let log = Log::default();
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || sink.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), 0);
    let full = |_: &mut Wal, _: &Connection| Err(Fault(StoreError::Full));
    let broken = |_: &mut Wal, _: &Connection| Err(Fault(StoreError::Unavailable("disk I/O error".into())));
    // What the opening asks for.
    writer.housekeep(Wal::when_idle);
    writer.commits.db.execute_batch("CREATE TABLE t (x)").unwrap();
    for _ in 0..50 {
        writer.housekeep(full);
        // It has nothing to do yet, and that is no end of the trouble.
        writer.housekeep(Wal::after_commit);
    }
    assert!(log.lines().len() == 1 && log.lines()[0].contains("WARN"), "{:?}", log.lines());
    assert!(log.lines()[0].contains("storage is full"), "{:?}", log.lines());
    (0..50).for_each(|_| writer.housekeep(broken));
    assert_eq!(log.lines().len(), 2, "another reason is news: {:?}", log.lines());
    while writer.wal.is_behind() {
        writer.housekeep(Wal::when_idle);
        std::thread::yield_now();
    }
    assert!(log.lines().len() == 3 && log.lines()[2].contains("INFO"), "{:?}", log.lines());
    writer.housekeep(full);
    assert_eq!(log.lines().len(), 4, "and it may begin again");
}

/// Bytes that the log needs for one thing.
const THING: u32 = 1 << 20;

/// A removal on a disk that has this much room for it: it writes what it needs, and fails as the disk would.
fn needs(db: &Connection, things: u32, room: u64) -> Result<u32, Fault> {
    db.execute("INSERT INTO probe (filler) VALUES (randomblob(?1))", [things.saturating_mul(THING).min(12 << 20)])?;
    if u64::from(things) * u64::from(THING) > room { Err(Fault(StoreError::Full)) } else { Ok(things) }
}

#[test]
fn a_removal_takes_as_much_at_once_as_there_is_room_for_and_gives_the_reserve_up_for_a_single_thing_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, log) = (dir.path().join("reserve"), dir.path().join("log.db-wal"));
    let bytes = 4 * u64::from(THING);
    let mut writer = writer(dir.path(), bytes);
    writer.reserve.restore();
    let file = || path.metadata().map(|file| (file.modified().unwrap(), file.len())).unwrap();
    let made = file();
    assert_eq!(made.1, bytes, "the control");
    // Room for three things, beside the reserve.
    let mut at_once = 200;
    let removed = writer.remove(&mut at_once, |db, max| needs(db, max, 3 * u64::from(THING)));
    assert_eq!((removed, at_once), (Ok(3), 3));
    assert_eq!(file(), made, "it was not touched");
    // No room but that of the reserve.
    let room = || if path.exists() { 0 } else { bytes };
    let removed = writer.remove(&mut at_once, |db, max| needs(db, max, room()));
    assert_eq!((removed, at_once), (Ok(3), 3));
    assert_eq!(file().1, bytes / 4 * 3, "given up, and most of it taken back at once");
    assert_eq!(log.metadata().unwrap().len(), 0, "from the room of the log");
    // Too large for that.
    let removed = writer.remove(&mut at_once, |db, max| needs(db, 9 * max, room()));
    assert_eq!(removed, Err(StoreError::Full));
    assert_eq!(file().1, bytes / 4 * 3, "nothing is lost by it");
    assert_eq!(log.metadata().unwrap().len(), 0, "and nothing of it stays in the log");
}

#[test]
fn a_reserve_that_did_not_help_the_log_is_not_written_anew_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), 1 << 20);
    writer.reserve.restore();
    writer.commits.db.execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(writer.lend(), Some(Ok(()))), "the control: it is lent");
    assert!(matches!(writer.lend(), Some(Ok(()))), "and again");
    // As where no file may grow, whatever room there is: the log is not moved.
    writer.commits.db.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(writer.lend(), Some(Err(_))));
    assert_eq!(dir.path().join("reserve").metadata().unwrap().len(), 1 << 20, "it is back");
    assert!(writer.lend().is_none(), "for a while");
}
