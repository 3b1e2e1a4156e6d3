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
mod tests;
