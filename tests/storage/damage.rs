//! Bytes that are not what was written.

use std::path::Path;
use std::sync::Arc;

use agentic_fleet::settings::Durability;
use agentic_fleet::storage::{SqliteOptions, SqliteStore};
use fleet_actors::ids::{Position, Seq};
use fleet_actors::ports::{Outcome, RecordBody, RecordRow, Rest, Store, StoreError, WorkflowState};
use fleet_actors::testing::store_contract::Harness;

use crate::support::{DATABASE, OnDisk, block_on, make, records_of};

const ALL: usize = usize::MAX;

/// Two workflows, each with bodies in the row, beside it and shared.
fn written(disk: &OnDisk) -> Vec<(&'static str, Vec<RecordRow>)> {
    let mut appends: Vec<_> = ["bad", "good"].map(|name| make::with_bodies(make::first(name, 6), 3_000)).into();
    for append in &mut appends {
        append.records[0].body = Some(RecordBody { bytes: vec![b'p'; 2_000].into(), shared: true });
        append.records[1].body = Some(RecordBody { bytes: b"small"[..].into(), shared: false });
        append.records[2].body = None;
    }
    // What is shared is shared by the two of them, so the good one gets another.
    appends[1].records[0].body = Some(RecordBody { bytes: vec![b'q'; 2_000].into(), shared: true });
    let records = appends.iter().map(|append| append.records.clone());
    let written = ["bad", "good"].into_iter().zip(records).collect();
    block_on(disk.store().commit(make::all(appends))).expect("written");
    written
}

#[test]
fn a_damaged_record_is_named_never_served_and_harms_no_other_workflow() {
    let bad = "workflow = (SELECT num FROM workflows WHERE id = 'bad')";
    let at = |position: u64, change: &str| {
        (position, format!("UPDATE journal SET {change} WHERE {bad} AND position = {position}"))
    };
    let payload = |position: u64, rest: &str| {
        (position, format!("{rest} (SELECT body_hash FROM journal WHERE {bad} AND position = {position})"))
    };
    let damages = [
        at(1, "head = x'7b7d'"),
        at(2, "head = CAST(replace(head, '2', '3') AS BLOB)"),
        at(2, "body = x'00'"),
        at(2, "body = NULL"),
        at(3, "body = x'00', scope = 1"),
        at(2, "scope = 0"),
        at(2, "scope = 2"),
        at(3, "kind = 'began'"),
        at(3, "path = 'step#4'"),
        at(3, "seq = 9"),
        at(3, "seq = -1"),
        at(3, "epoch = 1"),
        at(3, "epoch = 'x'"),
        at(3, "format = 2"),
        at(3, "checksum = checksum + 1"),
        at(3, "head = 7"),
        (4, format!("UPDATE journal SET position = 40 WHERE {bad} AND position = 4")),
        (4, format!("DELETE FROM journal WHERE {bad} AND position = 4")),
        (6, format!("DELETE FROM journal WHERE {bad} AND position = 6")),
        payload(5, "UPDATE payloads SET bytes = x'00' WHERE hash ="),
        payload(5, "DELETE FROM payloads WHERE hash ="),
        payload(1, "UPDATE shared_payloads SET bytes = x'00' WHERE hash ="),
        payload(1, "DELETE FROM shared_payloads WHERE hash ="),
    ];
    for (position, sql) in &damages {
        let position = *position;
        let mut disk = OnDisk::new(|_| {});
        let written = written(&disk);
        disk.close();
        let db = rusqlite::Connection::open(disk.file(DATABASE)).expect("the file opens");
        assert!(db.execute(sql, []).expect(sql) > 0, "{sql} changed nothing");
        drop(db);
        disk.open();
        let store = disk.store();
        let read = |name: &str, after| block_on(store.read(&make::id(name), Position(after), ALL));
        let events = block_on(store.read_events(&make::id("bad"), Seq(0), ALL));
        for answer in [read("bad", 0), read("bad", position - 1), events] {
            let Err(StoreError::Damaged(what)) = answer else {
                panic!("{sql}: served {:?}", answer.map(|records| records.len()));
            };
            assert!(what.contains("workflow bad") && what.contains(&format!("position {position}:")), "{sql}: {what}");
        }
        assert!(read("good", 0).as_ref() == Ok(&written[1].1), "{sql}");
        let next = block_on(store.commit(vec![make::more("good", 6, 1).into()]));
        assert!(next.is_ok(), "{sql}: {next:?}");
    }
    println!("{} damages, each found, named and isolated", damages.len());
}

/// Spoils the first byte of the page on which a table or an index begins.
fn spoil_page(disk: &OnDisk, name: &str) {
    let db = rusqlite::Connection::open(disk.file(DATABASE)).expect("the file opens");
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let page: usize = db.query_row(root, [name], |row| row.get(0)).expect("its page");
    drop(db);
    let mut bytes = std::fs::read(disk.file(DATABASE)).expect("the file");
    bytes[(page - 1) * 4_096] = 0xff;
    std::fs::write(disk.file(DATABASE), bytes).expect("written");
}

#[test]
fn a_damaged_page_that_an_end_writes_lets_its_run_rest_and_keeps_nobody_else_from_working_and_no_start_out() {
    for durability in [Durability::Power, Durability::Process] {
        let mut disk = OnDisk::new(|options| options.durability = durability);
        block_on(disk.store().commit(make::all([make::first("a", 1), make::first("b", 1)]))).expect("written");
        disk.close();
        spoil_page(&disk, "history_by_conversation");
        disk.open();
        let store = disk.store();
        let ended = block_on(store.commit(vec![make::ended(make::more("a", 1, 1)).into()]));
        // No judgement reads that page; behind the redo log it is acknowledged before it is written.
        assert_eq!(ended.is_ok(), durability == Durability::Power, "{ended:?}");
        // Another process finds what this one left, once as a kill leaves it, and once behind its last word.
        let killed = tempfile::tempdir().expect("a directory");
        for file in [DATABASE, "fleet.db-wal", "fleet.db-redo"] {
            let _ = std::fs::copy(disk.file(file), killed.path().join(file));
        }
        let after_kill =
            SqliteStore::open(&SqliteOptions::new(killed.path()), Arc::new(disk.clock.clone())).expect("it opens");
        let other = block_on(store.commit(vec![make::more("b", 1, 1).into()]));
        assert_eq!(other, Ok(vec![Outcome::Done { head: Position(2) }]));
        for store in [&after_kill as &dyn Store, &*store] {
            let row = block_on(store.workflow(&make::id("a"))).expect("a row").expect("it is there");
            let rests = WorkflowState::Resting(Rest::Quarantined);
            let expected = if durability == Durability::Power { rests } else { WorkflowState::Running };
            assert_eq!((row.state, row.head), (expected, Position(1)));
            assert_eq!(records_of(store, &make::id("b")).first().map(|record| record.position), Some(Position(1)));
        }
        let aside = |dir: &Path| {
            let files = std::fs::read_dir(dir).expect("a directory").flatten();
            files.filter(|file| file.file_name().to_string_lossy().starts_with("fleet.db-redo-left-")).count()
        };
        let expected = usize::from(durability == Durability::Power);
        assert_eq!(aside(disk.dir.path()), expected, "what could not be written is kept");
    }
}

#[test]
fn a_damaged_row_is_told_to_its_own_asker_and_the_others_of_its_group_are_written() {
    let mut disk = OnDisk::new(|_| {});
    let runs = 40;
    let all = || (0..runs).map(|n| format!("w{n}"));
    block_on(disk.store().commit(make::all(all().map(|name| make::first(&name, 1))))).expect("written");
    disk.close();
    let db = rusqlite::Connection::open(disk.file(DATABASE)).expect("the file opens");
    let spoiled = "UPDATE lives SET epoch = 'x' WHERE num = (SELECT num FROM workflows WHERE id = 'w20')";
    assert_eq!(db.execute(spoiled, []), Ok(1));
    drop(db);
    disk.open();
    let store = disk.store();
    let asks = all().map(|name| store.commit(vec![make::more(&name, 1, 1).into()]));
    let outcomes = block_on(futures_util::future::join_all(asks));
    for (name, outcome) in all().zip(outcomes) {
        match name.as_str() {
            "w20" => assert!(matches!(outcome, Err(StoreError::Damaged(_))), "{outcome:?}"),
            _ => assert_eq!(outcome, Ok(vec![Outcome::Done { head: Position(2) }]), "{name}"),
        }
    }
}

/// What is read back of a damaged file: the truth, or no record at all.
fn judge(disk: &OnDisk, written: &[(&str, Vec<RecordRow>)], what: &str) -> &'static str {
    let store = match SqliteStore::open(&disk.options, std::sync::Arc::new(disk.clock.clone())) {
        Ok(store) => store,
        Err(error) => {
            assert!(error.to_string().contains(DATABASE), "{what}: {error}");
            return "refused at the start";
        }
    };
    let mut intact = 0;
    for (name, records) in written {
        match block_on(store.read(&make::id(name), Position(0), ALL)) {
            Ok(read) if read == *records => intact += 1,
            Ok(read) if read.is_empty() => assert_ne!(
                block_on(store.workflow(&make::id(name))).map(|row| row.is_some()),
                Ok(true),
                "{what}: {name} is there without its records"
            ),
            Ok(read) => panic!("{what}: {name} was served {} wrong records", read.len()),
            Err(_) => {}
        }
    }
    if intact == written.len() { "unharmed" } else { "refused when read" }
}

#[test]
fn a_flipped_or_truncated_file_never_yields_a_record_that_was_not_written() {
    let mut disk = OnDisk::new(|_| {});
    let written = written(&disk);
    disk.close();
    let file = disk.file(DATABASE);
    let whole = std::fs::read(&file).expect("the file");
    let mut verdicts = std::collections::BTreeMap::<_, u32>::new();
    let mut damaged = |bytes: &[u8], what: &str| {
        for name in ["fleet.db-wal", "fleet.db-shm"] {
            let gone = std::fs::remove_file(disk.file(name));
            assert!(gone.is_ok() || !disk.file(name).exists());
        }
        std::fs::write(&file, bytes).expect("the file is written");
        *verdicts.entry(judge(&disk, &written, what)).or_default() += 1;
    };
    for at in (0..whole.len()).step_by(509) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        damaged(&flipped, &format!("bit flipped in byte {at}"));
    }
    for len in (512..whole.len()).step_by(4_096) {
        damaged(&whole[..len], &format!("cut to {len}"));
    }
    println!("{} bytes: {verdicts:?}", whole.len());
    let found = |verdict| verdicts.get(verdict).copied().unwrap_or(0);
    assert!(found("refused at the start") > 10 && found("refused when read") > 10 && found("unharmed") > 10);
}
