//! What stands in the redo log alone: after a kill, after a power cut, and when it is damaged or does not belong.

use std::path::Path;
use std::sync::Arc;

use agentic_fleet::storage::{SqliteOptions, SqliteStore};
use fleet_actors::event::{Answer, Question, RunOutcome};
use fleet_actors::ids::{Epoch, Position, RequestId, Timestamp};
use fleet_actors::ports::{
    Append, Command, NewChild, Next, OpenedQuestion, Outcome, PageFrom, Quality, QuestionFilter, RecordBody, RunOutput,
    Store, StoreError, StoreWrite, WorkflowFilter, WorkflowState,
};
use fleet_actors::testing::ManualClock;
use fleet_actors::testing::store_contract::Harness;

use crate::support::{DATABASE, OnDisk, block_on, make, records_of};

const WAL: &str = "fleet.db-wal";
const REDO: &str = "fleet.db-redo";

/// A body that every run has, larger than what stands in a record's row.
fn pinned() -> RecordBody {
    RecordBody { bytes: vec![b'p'; 20_000].into(), shared: true }
}

/// Runs of three appends each, a group after the other; the first two and the middle ones meet in one group.
fn groups() -> Vec<Vec<Append>> {
    let pinned = pinned();
    let first = |n: u64| {
        let mut first = make::with_bodies(make::first(&format!("w{n}"), 2), 2_000);
        first.records[0].body = Some(pinned.clone());
        first
    };
    let mut groups = vec![vec![first(0), first(1)]];
    groups.extend((2..8).map(|n| vec![first(n)]));
    groups.push((0..8).map(|n| make::more(&format!("w{n}"), 2, 3)).collect());
    groups.extend((0..8).map(|n| vec![make::ended(make::more(&format!("w{n}"), 5, 1))]));
    groups
}

fn commit(store: &dyn Store, groups: &[Vec<Append>]) {
    for group in groups {
        let outcomes = block_on(store.commit(make::all(group.clone()))).expect("written");
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done { .. })), "{outcomes:?}");
    }
}

/// How many groups a store has; panics unless these are the first ones, whole.
fn groups_in(store: &dyn Store, groups: &[Vec<Append>]) -> usize {
    let has = |append: &Append| {
        let records = records_of(store, &append.claim.workflow);
        let from = append.after.0 as usize;
        let to = from + append.records.len();
        assert!(records.len() <= from || records[from..to] == append.records[..], "{}", append.claim.workflow);
        records.len() >= to
    };
    let whole = groups.iter().take_while(|group| group.iter().all(has)).count();
    for group in &groups[whole..] {
        assert!(!group.iter().any(has), "a part of group {whole} or one behind it");
    }
    whole
}

fn open(dir: &Path) -> Result<SqliteStore, agentic_fleet::storage::OpenError> {
    SqliteStore::open(&SqliteOptions::new(dir), Arc::new(ManualClock::default()))
}

/// The files of a power cut: the database and its log as they were last synced, and the redo log as it is.
struct Cut {
    database: Vec<u8>,
    wal: Vec<u8>,
    redo: Vec<u8>,
}

impl Cut {
    /// Commits these behind the opening.
    fn behind_the_opening(groups: &[Vec<Append>]) -> Self {
        Self::behind(|_| {}, |store| commit(store, groups))
    }

    /// Works behind the opening, which is synced; nothing is synced but the redo log then.
    fn behind(options: impl FnOnce(&mut SqliteOptions), work: impl FnOnce(&dyn Store)) -> Self {
        let mut disk = OnDisk::new(options);
        let cut = Self::of(disk.dir.path(), &*disk.store(), work);
        disk.close();
        cut
    }

    /// Works in a store that was just opened.
    fn of(dir: &Path, store: &dyn Store, work: impl FnOnce(&dyn Store)) -> Self {
        let bytes = |name: &str| std::fs::read(dir.join(name)).expect("the file");
        let (database, wal) = (bytes(DATABASE), bytes(WAL));
        work(store);
        Self { database, wal, redo: bytes(REDO) }
    }

    fn store(&self, redo: &[u8]) -> (tempfile::TempDir, SqliteStore) {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, bytes) in [(DATABASE, &self.database[..]), (WAL, &self.wal), (REDO, redo)] {
            std::fs::write(dir.path().join(name), bytes).expect("written");
        }
        let store = open(dir.path()).expect("it opens");
        (dir, store)
    }
}

#[test]
fn a_power_cut_that_takes_everything_but_the_redo_log_takes_nothing_that_was_acknowledged() {
    let groups = groups();
    let cut = Cut::behind_the_opening(&groups);
    let (_dir, store) = cut.store(&vec![0; cut.redo.len()]);
    assert_eq!(groups_in(&store, &groups), 0, "the control: without the log there is nothing");
    let (dir, store) = cut.store(&cut.redo);
    assert_eq!(groups_in(&store, &groups), groups.len());
    assert_eq!(block_on(store.history_count()), Ok(8));
    // The same again: what was done is not done twice, and more follows it.
    drop(store);
    let store = open(dir.path()).expect("it opens again");
    assert_eq!(groups_in(&store, &groups), groups.len());
    assert_eq!(block_on(store.history(PageFrom::Offset(0), 100)).expect("a page").len(), 8);
    commit(&store, &[vec![make::first("w8", 1)]]);
    assert_eq!(records_of(&store, &make::id("w8")).len(), 1);
}

#[test]
fn a_redo_log_that_is_cut_or_flipped_anywhere_gives_the_groups_before_that_and_nothing_else() {
    let groups = groups();
    let cut = Cut::behind_the_opening(&groups);
    let used = cut.redo.iter().rposition(|byte| *byte != 0).expect("entries") + 1;
    let mut seen = std::collections::BTreeSet::new();
    for at in (0..used).step_by(used / 97) {
        let (mut torn, mut flipped) = (cut.redo.clone(), cut.redo.clone());
        torn[at..].fill(0);
        flipped[at] ^= 1 << (at % 8);
        for redo in [torn, flipped] {
            let (_dir, store) = cut.store(&redo);
            seen.insert(groups_in(&store, &groups));
        }
    }
    let (_dir, store) = cut.store(&cut.redo[..used / 2]);
    assert!(groups_in(&store, &groups) > 0, "a file that was cut short");
    assert!(seen.len() > 10 && seen.contains(&0), "{seen:?}");
}

#[test]
fn a_redo_log_that_does_not_follow_the_database_is_left_out() {
    let groups = groups();
    let (first, other) = (Cut::behind_the_opening(&groups), Cut::behind_the_opening(&groups));
    let (_dir, store) = first.store(&other.redo);
    assert_eq!(groups_in(&store, &groups), 0, "it is another database's");

    // The log begins anew when it is half full; an older database cannot be made to follow it.
    let large = |n: u64| vec![make::with_bodies(make::first(&format!("large{n}"), 2), 200_000)];
    let older = Cut::behind(
        |_| {},
        |store| {
            commit(store, &(0..5).map(large).collect::<Vec<_>>());
            assert_eq!(records_of(store, &make::id("large4")).len(), 2);
        },
    );
    let first_number = u64::from_le_bytes(older.redo[16..24].try_into().expect("eight bytes"));
    assert!(older.redo.starts_with(b"FLTREDO1") && first_number > 1, "the control: it begins with {first_number}");
    let (_dir, store) = older.store(&older.redo);
    let there = (0..5).filter(|n| !records_of(&store, &make::id(&format!("large{n}"))).is_empty()).count();
    assert_eq!(there, 0, "all of it or nothing");
}

/// Groups of one run each, with bodies of so many bytes.
fn runs(name: &str, runs: u64, bytes: usize) -> Vec<Vec<Append>> {
    (0..runs).map(|n| vec![make::with_bodies(make::first(&format!("{name}{n}"), 1), bytes)]).collect()
}

/// The numbers of entries are given again, and what stands behind a new one may follow it by its number.
#[test]
fn what_was_left_out_of_a_redo_log_is_never_done_again_behind_what_came_later() {
    const PAGE: usize = 4_096;
    let old = runs("old", 6, 5_000);
    let cut = Cut::behind_the_opening(&old);
    // Each of two pages. The first is not there, so none follows the database; or the second is damaged, so one does.
    let mut shifted = cut.redo[2 * PAGE..].to_vec();
    shifted.resize(cut.redo.len(), 0);
    let mut flipped = cut.redo.clone();
    flipped[2 * PAGE + 100] ^= 1;
    for (left, follow) in [(shifted, 0), (flipped, 1)] {
        for (bytes, count) in [(100, 1), (100, 2), (100, 3), (5_000, 1), (5_000, 2), (9_000, 1), (13_000, 1)] {
            let new = runs("new", count, bytes);
            let (dir, store) = cut.store(&left);
            assert_eq!(groups_in(&store, &old), follow, "the control");
            let second = Cut::of(dir.path(), &store, |store| commit(store, &new));
            let (_dir, store) = second.store(&second.redo);
            let case = format!("{count} of {bytes} bytes behind {follow}");
            assert_eq!((groups_in(&store, &old), groups_in(&store, &new)), (follow, new.len()), "{case}");
        }
    }
}

#[test]
fn an_opening_leaves_everything_in_the_synced_database_and_nothing_in_the_redo_log() {
    let groups = groups();
    let cut = Cut::behind_the_opening(&groups);
    let (dir, store) = cut.store(&cut.redo);
    assert!(std::fs::read(dir.path().join(REDO)).expect("the redo log").iter().all(|byte| *byte == 0));
    let alone = tempfile::tempdir().expect("a directory");
    std::fs::copy(dir.path().join(DATABASE), alone.path().join(DATABASE)).expect("copied");
    drop(store);
    assert_eq!(groups_in(&open(alone.path()).expect("it opens"), &groups), groups.len());
}

/// More than the store below has room for, and than the redo log has.
fn too_large(append: Append) -> Append {
    make::with_bodies(append, 2_500_000)
}

#[test]
fn what_is_acknowledged_behind_an_append_that_was_refused_survives_a_power_cut() {
    let groups: Vec<_> = (0..4).map(|n| vec![make::first(&format!("w{n}"), 1)]).collect();
    let cut = Cut::behind(
        |options| options.pages_max = Some(300),
        |store| {
            for group in &groups {
                let large = vec![too_large(make::first("large", 1)).into()];
                assert_eq!(block_on(store.commit(large)), Err(StoreError::Full));
                commit(store, std::slice::from_ref(group));
            }
        },
    );
    let (_dir, store) = cut.store(&cut.redo);
    assert_eq!(groups_in(&store, &groups), groups.len());
    assert_eq!(records_of(&store, &make::id("large")), []);
}

#[test]
fn of_a_group_that_is_refused_nothing_is_written() {
    let mut disk = OnDisk::new(|options| options.pages_max = Some(300));
    commit(&*disk.store(), &[vec![make::first("before", 1)]]);
    let group = [make::first("other", 1), make::first("w", 1), too_large(make::more("w", 1, 1))];
    assert_eq!(block_on(disk.store().commit(make::all(group))), Err(StoreError::Full));
    for _ in 0..2 {
        let count = |name: &str| records_of(&*disk.store(), &make::id(name)).len();
        assert_eq!((count("before"), count("other"), count("w")), (1, 0, 0));
        disk.open();
    }
}

/// What was parsed may be nested as deeply as the parser allows, and stands in something of ours then.
#[test]
fn values_of_any_depth_come_back_from_the_redo_log_and_from_the_database() {
    let depth = 126;
    let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let mut row = make::entry("deep");
    let value: serde_json::Value = serde_json::from_str(&deep).expect("within the limit");
    row.result = Some(RunOutput { metadata: value.clone(), ..RunOutput::default() });
    let ended = Append { next: Next::Ended(Arc::new(row)), ..make::more("deep", 1, 1) };
    let question = Question {
        request_id: RequestId::from_trusted("r"),
        request_type: "question".into(),
        request: value.clone(),
        answer_schema: None,
        expires_at: Timestamp(i64::MAX),
    };
    let opened = vec![OpenedQuestion { question, asked_at: Timestamp(1) }];
    let asks = Append { opened, ..make::first("asks", 1) };
    let groups = [vec![make::first("deep", 1)], vec![ended], vec![make::first("w", 1)], vec![asks]];
    let cut = Cut::behind_the_opening(&groups);
    let (_dir, store) = cut.store(&cut.redo);
    assert_eq!(groups_in(&store, &groups), groups.len());
    let entry = block_on(store.history_entry(&make::id("deep"))).expect("it can be read").expect("an entry");
    assert_eq!(entry.result.expect("a result").metadata.to_string(), deep);
    let asked = block_on(store.questions(QuestionFilter { limit: 10, ..QuestionFilter::default() }));
    assert_eq!(asked.expect("a list").first().map(|asked| &asked.question.request), Some(&value));
    let answer = Command::Answer { request_id: RequestId::from_trusted("r"), answer: Answer::Given(value) };
    let post = StoreWrite::Post { workflow: make::id("asks"), command: answer.clone() };
    block_on(store.write(post)).expect("posted");
    assert_eq!(block_on(store.inbox(&make::id("asks"))), Ok(vec![answer]));
}

/// The end of a run that leaves another behind.
fn bears(parent: &str, child: &str) -> Append {
    let mut append = make::ended(make::first(parent, 2));
    let Append { create, mut records, .. } = make::first(child, 2);
    records.iter_mut().for_each(|record| record.seq = None);
    let mut made = create.expect("a first append makes a workflow");
    made.child_of = Some(make::id(parent));
    append.children.push(NewChild { workflow: make::id(child), made, records });
    let Next::Ended(row) = &mut append.next else { unreachable!("it is over") };
    Arc::make_mut(row).quality = Some(Quality::pending());
    append
}

fn end_of_child(child: &str) -> Append {
    let mut append = make::ended(make::more(child, 2, 1));
    append.claim.epoch = Epoch(1);
    for record in &mut append.records {
        (record.epoch, record.kind) = (Epoch(1), "began".into());
    }
    append
}

#[test]
fn a_child_is_known_to_whoever_comes_behind_the_append_that_bears_it() {
    let disk = OnDisk::new(|_| {});
    let store = disk.store();
    for n in 0..50 {
        let (parent, child) = (format!("p{n}"), format!("k{n}"));
        let (born, ended) = block_on(async {
            tokio::join!(
                store.commit(vec![bears(&parent, &child).into()]),
                store.commit(vec![end_of_child(&child).into()])
            )
        });
        assert_eq!((born, ended), (Ok(vec![done(2)]), Ok(vec![done(3)])), "{n}");
    }
}

fn done(head: u64) -> Outcome {
    Outcome::Done { head: Position(head) }
}

#[test]
fn an_entry_of_history_that_cannot_be_read_keeps_nothing_else_from_being_written() {
    let mut disk = OnDisk::new(|_| {});
    commit(&*disk.store(), &[vec![bears("parent", "child")], vec![make::first("other", 1)]]);
    disk.close();
    let db = rusqlite::Connection::open(disk.file(DATABASE)).expect("the file opens");
    let damaged = db.execute("UPDATE history SET entry = substr(entry, 2) WHERE workflow = 'parent'", []);
    assert_eq!(damaged, Ok(1));
    drop(db);
    disk.open();
    commit(&*disk.store(), &[vec![end_of_child("child")], vec![make::more("other", 1, 1)]]);
    for _ in 0..2 {
        let child = block_on(disk.store().workflow(&make::id("child"))).expect("it can be read").expect("a row");
        assert_eq!(child.state, WorkflowState::Ended(RunOutcome::Completed));
        assert_eq!(records_of(&*disk.store(), &make::id("other")).len(), 2);
        disk.open();
    }
}

#[test]
fn a_run_that_goes_on_is_seen_by_its_conversation_at_once() {
    let disk = OnDisk::new(|_| {});
    let parked = Append { next: Next::Parked { wake_at: None }, ..make::first("w", 1) };
    let mut again = make::more("w", 1, 1);
    again.claim.epoch = Epoch(1);
    for record in &mut again.records {
        (record.epoch, record.kind) = (Epoch(1), "began".into());
    }
    let filter = WorkflowFilter { conversation: Some(make::talk("c-w")), unfinished: true, limit: 8 };
    for (append, state) in [(parked, WorkflowState::Parked), (again, WorkflowState::Running)] {
        commit(&*disk.store(), &[vec![append]]);
        let rows = block_on(disk.store().workflows(filter.clone())).expect("rows");
        assert_eq!(rows.iter().map(|row| row.state).collect::<Vec<_>>(), [state]);
    }
}

#[test]
fn what_was_removed_is_not_left_in_the_redo_log() {
    let disk = OnDisk::new(|_| {});
    let secret = b"nobody may find this";
    let mut append = make::with_bodies(make::first("w", 1), 500);
    append.records[0].body = Some(RecordBody { bytes: secret.repeat(20).into(), shared: false });
    commit(&*disk.store(), &[vec![append], vec![make::ended(make::more("w", 1, 1))]]);
    let holds = || {
        let redo = std::fs::read(disk.file(REDO)).expect("the redo log");
        redo.windows(secret.len()).any(|window| window == secret)
    };
    assert!(holds(), "the control: it was there");
    block_on(disk.store().write(StoreWrite::DeleteHistory(make::id("w")))).expect("removed");
    assert!(!holds());
}

/// What was removed stands in the database's log until that is cut, which a reader may keep the next start from.
#[test]
fn what_was_removed_before_a_kill_leaves_the_log_of_the_database_when_nobody_reads_it() {
    let secret = b"nobody may find this";
    let mut append = make::with_bodies(make::first("w", 1), 500);
    append.records[0].body = Some(RecordBody { bytes: secret.repeat(20).into(), shared: false });
    let disk = OnDisk::new(|_| {});
    // Somebody reads, so the log is not cut before the kill either.
    let read = |database: &Path| {
        let reader = rusqlite::Connection::open(database).expect("a reader");
        reader.execute_batch("BEGIN; SELECT count(*) FROM meta").expect("it reads");
        reader
    };
    let reader = read(&disk.file(DATABASE));
    commit(&*disk.store(), &[vec![append], vec![make::ended(make::more("w", 1, 1))]]);
    block_on(disk.store().write(StoreWrite::DeleteHistory(make::id("w")))).expect("removed");
    let killed = Cut::of(disk.dir.path(), &*disk.store(), |_| {});
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    assert!(holds(&killed.wal), "the control: it was there");

    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name);
    for (name, bytes) in [(DATABASE, &killed.database), (WAL, &killed.wal), (REDO, &killed.redo)] {
        std::fs::write(file(name), bytes).expect("written");
    }
    drop(reader);
    let reader = read(&file(DATABASE));
    let _store = open(dir.path()).expect("it opens");
    let stands = || holds(&std::fs::read(file(WAL)).expect("the log"));
    assert!(stands(), "the control: the reader needs it");
    drop(reader);
    let late = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while stands() {
        assert!(std::time::Instant::now() < late, "it is still there");
        std::thread::yield_now();
    }
}

/// Everything that an append may hold comes back as it was: a database that has seen the log and one that was written directly
/// are the same.
#[test]
fn an_append_is_the_same_behind_the_redo_log() {
    let groups = groups();
    let direct = OnDisk::new(crate::support::without_syncs);
    commit(&*direct.store(), &groups);
    let cut = Cut::behind_the_opening(&groups);
    let (_dir, again) = cut.store(&cut.redo);
    for n in 0..8 {
        let id = make::id(&format!("w{n}"));
        assert_eq!(block_on(again.workflow(&id)), block_on(direct.store().workflow(&id)));
        assert_eq!(block_on(again.history_entry(&id)), block_on(direct.store().history_entry(&id)));
        assert_eq!(records_of(&again, &id), records_of(&*direct.store(), &id));
    }
}
