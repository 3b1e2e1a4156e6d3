//! The one thread that writes.
//!
//! Commits that stand one behind the other in the queue are one group: they came while the last one ran. Any other
//! job is a transaction of its own, in the order of the queue; removing all of history is many, with other jobs between
//! them.
//! Invariant: after a failed sync nothing is written, checkpointed or closed any more. Whatever SQLite holds in memory may
//! not be on the disk, and its next commit would claim otherwise.
//! Absent on purpose: a retry of anything but a removal that found the disk full, which then takes less at once.

mod removal;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use fleet_actors::failpoint::{FailPoint, reach};
use fleet_actors::ports::{Append, Clock, Outcome, StoreError, StoreWrite, Written};
use fleet_actors::trouble::Trouble;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio::sync::oneshot;

use self::removal::Clearing;
use super::append::Moment;
use super::change;
use super::commits::Commits;
use super::fault::Fault;
use super::history;
use super::remove;
use super::reserve::Reserve;
use super::wal::Wal;

/// Without a job for this long, the writer is idle.
const IDLE: Duration = Duration::from_millis(100);
/// Without a job for this long, what was acknowledged is settled.
const SETTLE_IDLE: Duration = Duration::from_millis(2);

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Something to write, and who waits for it.
pub(super) enum Job {
    Commit(Vec<Arc<Append>>, Reply<Vec<Outcome>>),
    Write(StoreWrite, Reply<Written>),
    /// A reader waits.
    Settle,
    /// The last job.
    Close,
}

pub(super) struct Writer {
    pub commits: Commits,
    pub wal: Wal,
    pub reserve: Reserve,
    pub clock: Arc<dyn Clock>,
    pub opening: i64,
    /// Appends and bytes of one transaction.
    group: (usize, usize),
    /// Set by a failed sync, for ever.
    failed: Option<StoreError>,
    /// Why the log cannot be moved into the database.
    stuck: Trouble,
    /// Why what was acknowledged cannot be read.
    unsettled: Trouble,
    clearing: VecDeque<Clearing>,
    /// Taken from the queue behind a commit that it could not join.
    next: Option<Job>,
}

impl Writer {
    pub fn new(
        commits: Commits,
        wal: Wal,
        reserve: Reserve,
        clock: Arc<dyn Clock>,
        opening: i64,
        group: (usize, usize),
    ) -> Self {
        let (stuck, clearing) = (Trouble::default(), VecDeque::new());
        Self {
            commits,
            wal,
            reserve,
            clock,
            opening,
            group,
            failed: None,
            stuck,
            unsettled: Trouble::default(),
            clearing,
            next: None,
        }
    }

    /// Works until it is told to close or nobody can ask any more, then leaves the database behind in one file.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            match self.next(jobs) {
                Ok(Job::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(job) => self.handle(job, jobs),
                Err(RecvTimeoutError::Timeout) if self.commits.is_open() => self.use_moment(),
                Err(RecvTimeoutError::Timeout) if self.clearing.is_empty() => self.idle(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.commits.is_due() {
                self.settle();
            }
            self.clear_some();
            self.housekeep(Wal::after_commit);
        }
        self.close();
    }

    fn next(&mut self, jobs: &Receiver<Job>) -> Result<Job, RecvTimeoutError> {
        if let Some(job) = self.next.take() {
            return Ok(job);
        }
        if !self.clearing.is_empty() {
            return now(jobs);
        }
        if self.failed.is_none() && self.commits.has_work() {
            return now(jobs);
        }
        if self.failed.is_none() && self.commits.is_open() {
            return jobs.recv_timeout(if self.commits.is_given_up() { IDLE } else { SETTLE_IDLE });
        }
        let chores = self.wal.is_behind() || self.reserve.is_missing();
        if self.failed.is_none() && chores {
            jobs.recv_timeout(IDLE)
        } else {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
    }

    fn handle(&mut self, job: Job, jobs: &Receiver<Job>) {
        // Nobody waiting for an answer is no reason to leave a job undone: it may be asked again with the same words.
        match job {
            Job::Commit(appends, reply) => self.commit_group(appends, reply, jobs),
            Job::Write(StoreWrite::ClearHistory, reply) => match self.last_entry() {
                Ok(last) => self.clearing.push_back(Clearing::new(last, reply)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Job::Write(write, reply) => drop(reply.send(self.write(&write))),
            // Looked at by `run`.
            Job::Settle | Job::Close => {}
        }
    }

    /// Commits these appends together with those that wait directly behind them, as many as make one transaction.
    fn commit_group(&mut self, mut appends: Vec<Arc<Append>>, reply: Reply<Vec<Outcome>>, jobs: &Receiver<Job>) {
        let mut replies = vec![(reply, appends.len())];
        let mut bytes = bytes_of(&appends);
        let (group_max, group_bytes_max) = self.group;
        while self.next.is_none() && appends.len() < group_max && bytes < group_bytes_max {
            match jobs.try_recv() {
                Ok(Job::Commit(more, reply)) => {
                    let size = bytes_of(&more);
                    if appends.len() + more.len() > group_max || bytes + size > group_bytes_max {
                        self.next = Some(Job::Commit(more, reply));
                    } else {
                        replies.push((reply, more.len()));
                        bytes += size;
                        appends.extend(more);
                    }
                }
                Ok(other) => self.next = Some(other),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        reach(FailPoint::BeforeCommit);
        let committed = self.commit(&appends);
        reach(FailPoint::AfterCommit);
        match committed {
            Ok(outcomes) => {
                let mut outcomes = outcomes.into_iter();
                for (reply, count) in replies {
                    drop(reply.send(Ok(outcomes.by_ref().take(count).collect())));
                }
            }
            // What is damaged is one asker's, and nothing is written: each for himself.
            Err(StoreError::Damaged(_)) if replies.len() > 1 => {
                let mut appends = &*appends;
                for (reply, count) in replies {
                    let (own, others) = appends.split_at(count);
                    appends = others;
                    drop(reply.send(self.commit(own)));
                }
            }
            Err(error) => replies.into_iter().for_each(|(reply, _)| drop(reply.send(Err(error.clone())))),
        }
    }

    fn commit(&mut self, appends: &[Arc<Append>]) -> Result<Vec<Outcome>, StoreError> {
        let at = self.moment();
        self.attempt(|commits| commits.group(appends, at))
    }

    /// Nobody waits: writes some of what was acknowledged, and settles when that is done and it is time, or nothing comes.
    fn use_moment(&mut self) {
        if !self.commits.has_work() {
            self.settle();
        } else if let Err(error) = self.attempt(Commits::write_one) {
            self.tell_unsettled(&error);
        } else if !self.commits.has_work() && self.commits.is_ripe() {
            self.settle();
        }
    }

    /// Makes what was acknowledged readable.
    fn settle(&mut self) {
        match self.attempt(Commits::settle) {
            Ok(()) => {
                if self.unsettled.is_over() {
                    tracing::info!("what was acknowledged can be read again");
                }
            }
            Err(error) => {
                self.commits.let_go();
                self.tell_unsettled(&error);
            }
        }
    }

    fn tell_unsettled(&mut self, error: &StoreError) {
        if self.unsettled.shows(error) {
            tracing::warn!(%error, "what was acknowledged last is durable and cannot be read yet");
        }
    }

    fn write(&mut self, write: &StoreWrite) -> Result<Written, StoreError> {
        let at = self.moment();
        match write {
            StoreWrite::Post { workflow, command } => {
                self.transact(|db| change::post(db, workflow, command, at.now).map(Written::Posted))
            }
            StoreWrite::Fork { from, position, fork, at: made_at } => {
                self.transact(|db| change::fork(db, from, *position, fork, *made_at, at))
            }
            StoreWrite::CreateConversation { conversation, title, at } => {
                self.transact(|db| change::create_conversation(db, conversation, title.as_deref(), *at))
            }
            StoreWrite::DeleteConversation(id) => self.remove_conversation(id),
            StoreWrite::DeleteHistory(id) => self.remove(&mut 1, |db, _| remove::execution(db, id)),
            // Taken over by `clear_some`; nothing else is left of it here.
            StoreWrite::ClearHistory => Ok(Written::Removed(0)),
            StoreWrite::Sweep { ended_before, keys_before, max_rows } => {
                let mut at_once = *max_rows;
                self.remove(&mut at_once, |db, max| remove::old(db, *ended_before, *keys_before, max))
            }
            StoreWrite::SweepHistory { completed_before, max_rows } => {
                let mut at_once = *max_rows;
                self.remove(&mut at_once, |db, max| remove::old_executions(db, *completed_before, max))
            }
            StoreWrite::Rest { workflow, epoch, rest } => {
                self.transact(|db| change::rest(db, workflow, *epoch, *rest, at.now))
            }
            StoreWrite::Probe => {
                self.transact(|db| change::probe(db, true))?;
                self.transact(|db| change::probe(db, false))
            }
            StoreWrite::HistoryExported { cursor } => {
                self.transact(|db| history::exported(db, *cursor)).map(|()| Written::Done)
            }
        }
    }

    fn transact<T>(&mut self, work: impl Fn(&Connection) -> Result<T, Fault>) -> Result<T, StoreError> {
        self.attempt(|commits| commits.transact(work))
    }

    fn attempt<T>(&mut self, work: impl FnOnce(&mut Commits) -> Result<T, Fault>) -> Result<T, StoreError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        work(&mut self.commits).map_err(|fault| self.judge(fault))
    }

    fn idle(&mut self) {
        if self.wal.is_behind() {
            self.housekeep(Wal::when_idle);
        }
        if self.failed.is_none() {
            self.reserve.restore();
        }
    }

    fn housekeep(&mut self, chore: impl Fn(&mut Wal, &Connection) -> Result<(), Fault>) {
        // A checkpoint of ours cannot be made within a transaction; one that was given up may need the room that this gives.
        if self.failed.is_some() || (self.commits.is_open() && !self.commits.is_given_up()) {
            return;
        }
        let done = chore(&mut self.wal, &self.commits.db);
        let done = match done {
            Err(fault) if fault.is_full() => self.lend().unwrap_or(Err(fault)),
            done => done,
        };
        match done {
            Err(fault) => {
                let full = fault.is_full();
                let error = self.judge(fault);
                if self.stuck.shows(&error) {
                    tracing::warn!(%error, full, "the write-ahead log cannot be moved into the database; it grows until it can");
                }
            }
            // A chore that had nothing to do has mended nothing.
            Ok(()) if !self.wal.is_behind() && self.stuck.is_over() => {
                tracing::info!("the write-ahead log is moved into the database again");
            }
            Ok(()) => {}
        }
    }

    /// The log cannot be moved for want of room: moves it into the room of the reserve, if that is enough. Whatever the database
    /// grows by, the log that is cut gives back, so the reserve finds its room again.
    fn lend(&mut self) -> Option<Result<(), Fault>> {
        let db = &self.commits.db;
        let held = self.reserve.held();
        let lent = Wal::growth(db).is_ok_and(|bytes| self.reserve.lend(bytes));
        lent.then(|| {
            let mut moved = self.wal.truncate_for_the_reserve(db);
            if moved.as_ref().is_err_and(Fault::is_full) && self.reserve.give_up() {
                // Others on the disk took a part of what was lent.
                moved = self.wal.truncate_for_the_reserve(db);
            }
            self.reserve.take_back();
            if moved.is_err() && self.reserve.held() == held {
                self.reserve.was_no_help();
            }
            moved
        })
    }

    fn judge(&mut self, fault: Fault) -> StoreError {
        if let StoreError::Failed(_) = &fault.0 {
            self.failed = Some(fault.0.clone());
        }
        fault.0
    }

    fn moment(&self) -> Moment {
        Moment { opening: self.opening, now: self.clock.now() }
    }

    fn close(mut self) {
        self.wal.want_truncate();
        if let Err(error) = self.attempt(Commits::finish) {
            tracing::warn!(%error, "the redo log stays: the next start does again what is in it");
        }
        self.housekeep(Wal::when_idle);
        self.commits.let_go();
        let Self { commits: Commits { db, .. }, wal, failed, .. } = self;
        drop(wal);
        // The last connection to close moves the log and removes it; behind a failed sync it may not.
        if failed.is_none()
            && let Err(error) = db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        {
            tracing::warn!(%error, "the write-ahead log stays: the next start moves it into the database");
        }
    }
}

/// A job that waits already; a timeout at once if there is none.
fn now(jobs: &Receiver<Job>) -> Result<Job, RecvTimeoutError> {
    jobs.try_recv().map_err(|empty| match empty {
        TryRecvError::Empty => RecvTimeoutError::Timeout,
        TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
    })
}

fn bytes_of(appends: &[Arc<Append>]) -> usize {
    appends.iter().map(|append| append.bytes()).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
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
}
