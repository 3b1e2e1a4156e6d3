//! What may be opened, and by whom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentic_fleet::storage::{DataDirLock, LockError, OpenError, SqliteOptions, SqliteStore};
use fleet_actors::ids::{Position, Timestamp};
use fleet_actors::ports::{Store, StoreError, StoreWrite, WorkflowFilter, Written};
use fleet_actors::testing::ManualClock;
use fleet_actors::testing::store_contract::Harness;

use crate::support::{DATABASE, OnDisk, block_on, make};

fn open(dir: &std::path::Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(&SqliteOptions::new(dir), Arc::new(ManualClock::default()))
}

#[test]
fn data_of_a_newer_binary_is_refused_with_both_numbers_and_left_alone() {
    let mut disk = OnDisk::new(|_| {});
    disk.close();
    let db = rusqlite::Connection::open(disk.file(DATABASE)).expect("the file opens");
    db.pragma_update(None, "user_version", 99).expect("changed");
    drop(db);
    let before = std::fs::read(disk.file(DATABASE)).expect("the file");
    for error in [open(disk.dir.path()).err(), SqliteStore::open_read_only(&disk.options).err()] {
        let error = error.expect("refused");
        assert!(matches!(error, OpenError::Newer { found: 99, known: 4, .. }), "{error}");
        assert!(error.to_string().contains("99") && error.to_string().contains("up to 4"), "{error}");
    }
    assert_eq!(std::fs::read(disk.file(DATABASE)).expect("the file"), before);
}

#[test]
fn data_of_an_older_binary_is_migrated_and_its_run_is_found_again() {
    let mut disk = OnDisk::new(|_| {});
    disk.close();
    std::fs::remove_file(disk.file(DATABASE)).expect("removed");
    let db = rusqlite::Connection::open(disk.file(DATABASE)).expect("the file opens");
    for migration in
        [include_str!("../../src/storage/schema/0001.sql"), include_str!("../../src/storage/schema/0002.sql")]
    {
        db.execute_batch(migration).expect("a migration");
    }
    db.execute_batch(
        "PRAGMA application_id = 0x664c4574; PRAGMA user_version = 2; INSERT INTO meta (key, value) VALUES ('openings', 1); \
         INSERT INTO workflows (num, id, root, name, version, conversation, task, on_disconnect, created_at) \
         VALUES (7, 'old', 7, 'chat', 1, 'c-old', 'a task', 'continue', 1); \
         INSERT INTO lives (num, epoch, head, runtime_ms, state, opening, updated_at) VALUES (7, 0, 0, 0, 'running', 1, 1); \
         INSERT INTO shared_payloads (hash, bytes) VALUES (x'aa', x'01'); \
         INSERT INTO shared_refs (workflow, hash) VALUES (7, x'aa');",
    )
    .expect("rows");
    drop(db);
    disk.open();
    let adopted = block_on(disk.store().adopt(Timestamp(1), 10)).expect("a list");
    assert_eq!(adopted.iter().map(|row| row.workflow.as_str()).collect::<Vec<_>>(), ["old"]);
    let unfinished = WorkflowFilter { unfinished: true, conversation: Some(make::talk("c-old")), limit: 10 };
    assert_eq!(block_on(disk.store().workflows(unfinished)).expect("a list").len(), 1);
    // Its conversation takes its reference and the payload along.
    let db = rusqlite::Connection::open(disk.file(DATABASE)).expect("the file opens");
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("a count");
    assert_eq!(count("SELECT count(*) FROM shared_refs WHERE workflow = 7 AND hash = x'aa'"), 1);
    db.execute("INSERT INTO conversations (id, created_at, updated_at) VALUES ('c-old', 1, 1)", []).expect("a row");
    let deleted = block_on(disk.store().write(StoreWrite::DeleteConversation(make::talk("c-old"))));
    assert_eq!(deleted, Ok(Written::Done));
    assert_eq!(count("SELECT count(*) FROM shared_refs") + count("SELECT count(*) FROM shared_payloads"), 0);
}

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join(DATABASE);
    for bytes in [&b"this is a text file, and not a short one. "[..], &[0x5a; 10_000]] {
        std::fs::write(&file, bytes.repeat(10)).expect("written");
        let error = open(dir.path()).expect_err("refused");
        assert!(matches!(&error, OpenError::Store { error: StoreError::Damaged(_), .. }), "{error}");
        assert!(error.to_string().contains("not a database"), "{error}");
        assert_eq!(std::fs::read(&file).expect("the file"), bytes.repeat(10));
    }
    std::fs::remove_file(&file).expect("removed");
    let db = rusqlite::Connection::open(&file).expect("the file opens");
    db.execute_batch("CREATE TABLE theirs (x)").expect("a table");
    drop(db);
    assert!(matches!(open(dir.path()), Err(OpenError::Foreign { .. })));
}

#[test]
fn a_reading_command_sees_what_is_committed_and_writes_nothing() {
    let disk = OnDisk::new(|_| {});
    block_on(disk.store().commit(vec![make::first("w", 3).into()])).expect("written");
    let reader = SqliteStore::open_read_only(&disk.options).expect("it opens beside the server");
    let read = |store: &SqliteStore| block_on(store.read(&make::id("w"), Position(0), 1 << 20)).map(|rows| rows.len());
    // Another process sees what was acknowledged when the writer has a moment; the store itself sees it at once.
    let soon = |records| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while read(&reader) != Ok(records) {
            assert!(Instant::now() < deadline, "{:?}", read(&reader));
            std::thread::yield_now();
        }
    };
    soon(3);
    block_on(disk.store().commit(vec![make::more("w", 3, 1).into()])).expect("written");
    assert_eq!(block_on(disk.store().read(&make::id("w"), Position(0), 1 << 20)).map(|rows| rows.len()), Ok(4));
    soon(4);
    assert!(matches!(block_on(reader.write(StoreWrite::Probe)), Err(StoreError::Unavailable(_))));
    drop(reader);
    let mut disk = disk;
    disk.close();
    assert_eq!(read(&SqliteStore::open_read_only(&disk.options).expect("and without one")), Ok(4));
    let empty = tempfile::tempdir().expect("a directory");
    assert!(SqliteStore::open_read_only(&SqliteOptions::new(empty.path())).is_err());
    assert!(!empty.path().join(DATABASE).exists());
}

#[test]
fn a_closed_store_is_one_file() {
    let mut disk = OnDisk::new(|_| {});
    block_on(disk.store().commit(vec![make::first("w", 3).into()])).expect("written");
    disk.close();
    assert!(!disk.file("fleet.db-wal").exists() && !disk.file("fleet.db-shm").exists());
}

#[cfg(unix)]
#[test]
fn the_database_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let disk = OnDisk::new(|_| {});
    for name in [DATABASE, "fleet.db-wal"] {
        let mode = disk.file(name).metadata().expect("the file").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
}

#[test]
fn one_process_holds_a_data_directory_and_says_where_it_listens() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("made");
    let mut lock = DataDirLock::acquire(&dir, "127.0.0.1:8000").expect("the lock");
    let held = |address: &str| match DataDirLock::acquire(&dir, "127.0.0.1:1") {
        Err(LockError::Held { pid, address: said, .. }) => {
            assert_eq!((pid, said.as_str()), (std::process::id().to_string(), address));
        }
        other => panic!("{other:?}"),
    };
    held("127.0.0.1:8000");
    lock.say("[::1]:9").expect("said");
    held("[::1]:9");
    drop(lock);
    drop(DataDirLock::acquire(&dir, "127.0.0.1:1").expect("free again"));
}
