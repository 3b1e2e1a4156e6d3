//! What is acknowledged, through failures that no disk here makes by itself.

use std::fs::File;

use fleet_actors::ids::{Epoch, Position, Seq, Timestamp, WorkflowId};
use fleet_actors::ports::{Claim, RecordBody, RecordRow};
use fleet_actors::testing::plain;

use super::*;

/// The first append of a run, with a body of so many bytes.
fn first(name: &str, bytes: usize) -> Arc<Append> {
    let record = RecordRow {
        position: Position(1),
        epoch: Epoch(0),
        seq: Some(Seq(1)),
        kind: "began".into(),
        path: "".into(),
        head: b"{}".to_vec(),
        body: Some(RecordBody { bytes: vec![b'x'; bytes].into(), shared: false }),
    };
    let claim = Claim { workflow: WorkflowId::from_trusted(name), epoch: Epoch(0) };
    let create = Some(Box::new(plain::made("chat", "a task", Timestamp(1))));
    Arc::new(Append { create, ..plain::append(claim, Position(0), vec![record]) })
}

fn open(dir: &Path, pages_max: u32) -> Commits {
    let path = dir.join("fleet.db");
    let db = super::super::schema::open_writer(&path, Some(pages_max)).unwrap();
    Commits::open(db, &path, Durability::Power, Arc::default()).unwrap()
}

const AT: Moment = Moment { opening: 1, now: Timestamp(1) };

#[test]
fn a_group_that_was_refused_is_not_done_again_though_the_redo_log_may_hold_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut commits = open(dir.path(), 400);
    let seen = |commits: &Commits| super::super::schema::meta(&commits.db, "redo_seen").unwrap();
    commits.group(&[first("logged", 10)], AT).unwrap();
    commits.settle().unwrap();
    assert_eq!(seen(&commits), Some(1));
    // It is refused by the redo log, and too large for the database.
    let unwritable = File::open(dir.path().join("fleet.db-redo")).unwrap();
    let writable = commits.redo.as_mut().unwrap().swap(unwritable);
    let large = [first("refused", 1_500_000), first("too", 1_500_000)];
    let refused = commits.group(&large, AT);
    assert!(matches!(&refused, Err(fault) if fault.is_full()), "{refused:?}");
    assert_eq!(seen(&commits), Some(1), "the control: what has no room in the log has no number");
    let refused = commits.group(&[first("refused", 1_900_000)], AT);
    assert!(matches!(&refused, Err(fault) if fault.is_full()), "{refused:?}");
    assert_eq!(seen(&commits), Some(2), "the number that it has in the log, if it stands there");
    commits.redo.as_mut().unwrap().swap(writable);
    commits.group(&[first("behind", 10)], AT).unwrap();
    assert_eq!(commits.kept.len(), 1, "the log goes on");
}

#[test]
fn a_transaction_that_sqlite_ended_is_written_again_from_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let mut commits = open(dir.path(), 400);
    commits.group(&[first("first", 10)], AT).unwrap();
    commits.write_one().unwrap();
    commits.group(&[first("second", 10)], AT).unwrap();
    // As it does when a statement finds no memory, or an error of the disk.
    commits.db.execute_batch("ROLLBACK").unwrap();
    commits.settle().unwrap();
    let count = |db: &Connection| db.query_row("SELECT count(*) FROM workflows", [], |row| row.get::<_, i64>(0));
    assert_eq!(count(&commits.db), Ok(2));
}

/// Lets inserts fail as a damaged page does: no judgement meets it.
fn damage(commits: &mut Commits, inserts: &str) {
    let trigger = format!("CREATE TRIGGER damage BEFORE INSERT ON {inserts} BEGIN SELECT raise(ABORT, 'no'); END");
    commits.transact(|db| Ok(db.execute_batch(&trigger)?)).unwrap();
}

/// Files that were set aside.
fn aside(dir: &Path) -> usize {
    let files = std::fs::read_dir(dir).unwrap().flatten();
    files.filter(|file| file.file_name().to_string_lossy().contains("-redo-left-")).count()
}

#[test]
fn what_cannot_be_written_is_set_aside_and_the_rest_of_its_transaction_is_written_here_and_at_the_next_start() {
    let workflows = |db: &Connection| {
        let mut find = db.prepare("SELECT id FROM workflows ORDER BY id").unwrap();
        find.query_map([], |row| row.get(0)).unwrap().collect::<Result<Vec<String>, _>>().unwrap()
    };
    for is_killed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut commits = open(dir.path(), 400);
        // As a damaged page does: no judgement meets it.
        damage(&mut commits, "workflows WHEN new.id = 'bad'");
        let runs = ["a", "bad", "c"].map(|name| first(name, 10));
        assert_eq!(commits.group(&runs, AT).unwrap().len(), 3);
        if is_killed {
            drop(commits);
            commits = open(dir.path(), 400);
        }
        commits.settle().unwrap();
        assert_eq!(workflows(&commits.db), ["a", "c"], "{is_killed}");
        assert_eq!(aside(dir.path()), 1, "{is_killed}");
        commits.group(&[first("d", 10)], AT).unwrap();
        commits.settle().unwrap();
        assert_eq!(workflows(&commits.db), ["a", "c", "d"], "{is_killed}");
    }
}

#[test]
fn behind_damage_that_was_met_nothing_is_acknowledged_that_is_not_written() {
    for is_killed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut commits = open(dir.path(), 400);
        damage(&mut commits, "workflows WHEN new.id LIKE 'bad%'");
        commits.group(&[first("bad", 10)], AT).unwrap();
        if is_killed {
            drop(commits);
            commits = open(dir.path(), 400);
        }
        commits.settle().unwrap();
        for _ in 0..3 {
            let refused = commits.group(&[first("bad-too", 10)], AT);
            assert!(matches!(&refused, Err(fault) if fault.is_damaged()), "{is_killed}: {refused:?}");
            commits.settle().unwrap();
        }
        let done = commits.group(&[first("well", 10)], AT).unwrap();
        assert_eq!((done.len(), commits.kept.len()), (1, 0), "{is_killed}: it is written");
    }
}

#[test]
fn a_run_whose_next_life_cannot_be_written_rests() {
    let dir = tempfile::tempdir().unwrap();
    let mut commits = open(dir.path(), 400);
    commits.group(&[first("w", 10)], AT).unwrap();
    commits.settle().unwrap();
    damage(&mut commits, "journal WHEN new.epoch = 1");
    let mut next = Append { create: None, ..Append::clone(&first("w", 10)) };
    (next.claim.epoch, next.after) = (Epoch(1), Position(1));
    (next.records[0].epoch, next.records[0].position, next.records[0].seq) = (Epoch(1), Position(2), None);
    commits.group(&[next.into()], AT).unwrap();
    commits.settle().unwrap();
    let state =
        |db: &Connection| db.query_row("SELECT state, detail FROM lives", [], |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(state(&commits.db), Ok(("resting".to_owned(), Some("quarantined".to_owned()))));
}

#[test]
fn an_entry_whose_shared_body_is_gone_keeps_no_start_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut commits = open(dir.path(), 400);
    let body = RecordBody { bytes: vec![b's'; 20_000].into(), shared: true };
    let shares = |name: &str| {
        let mut append = Append::clone(&first(name, 10));
        append.records[0].body = Some(body.clone());
        Arc::new(append)
    };
    commits.group(&[shares("a")], AT).unwrap();
    commits.settle().unwrap();
    commits.group(&[shares("b")], AT).unwrap();
    commits.group(&[first("c", 10)], AT).unwrap();
    drop(commits);
    let db = Connection::open(dir.path().join("fleet.db")).unwrap();
    assert_eq!(db.execute("DELETE FROM shared_payloads", []), Ok(1));
    drop(db);
    let commits = open(dir.path(), 400);
    let count = commits.db.query_row("SELECT count(*) FROM workflows", [], |row| row.get::<_, i64>(0));
    assert_eq!((count, aside(dir.path())), (Ok(2), 1));
}

#[test]
fn a_sync_that_failed_behind_a_refusal_is_no_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let mut commits = open(dir.path(), 600);
    commits.group(&[first("acknowledged", 1_100_000)], AT).unwrap();
    assert_eq!(commits.kept.len(), 1);
    // What cannot be synced.
    std::os::unix::fs::symlink("/dev/null", dir.path().join("null-wal")).unwrap();
    commits.wal = Some(WalFile::open(&dir.path().join("null")).unwrap());
    let refused = commits.group(&[first("refused", 1_500_000)], AT);
    assert!(matches!(&refused, Err(fault) if fault.is_failed()), "{refused:?}");
}
