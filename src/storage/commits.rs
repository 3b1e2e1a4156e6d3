//! How what is written becomes durable, and when it can be read.
//!
//! A group of appends is judged, put in the [redo log](Redo) and acknowledged, and then written in a transaction that stays
//! open. The transaction is *settled*, which is committed, when somebody wants to read, when nothing more comes, or when it is large; what was
//! acknowledged is in memory until then, so that a transaction that failed can be done again. The database's own log is
//! synced when the redo log begins anew, and behind every change that is no append.
//!
//! Without a redo log (durability `process`, or no room for one) a group is a transaction of its own.
//! Invariant: nothing is acknowledged that is neither in a synced redo log nor in a synced database.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_actors::ports::{Append, Outcome, StoreError};
use rusqlite::Connection;

use super::OpenError;
use super::append::{self, Foreseen, Moment};
use super::fault::Fault;
use super::kept::{Kept, PAGES_OF_ALL, is_apart, pages_bytes};
use super::mover::checkpoint;
use super::redo::{self, Logged, Redo};
use super::settling::Settling;
use super::wal_file::WalFile;
use crate::settings::Durability;

/// Appends that may be durable and not yet written; each next one is held against all of them.
const UNWRITTEN_MAX: usize = 128;
/// Appends in one transaction, which are in memory until it is committed.
const KEPT_MAX: usize = 1_024;
/// A transaction that is older than this is settled when nobody waits, and one of twice that age in any case.
const SETTLE_AFTER: Duration = Duration::from_millis(20);

/// The connection that writes, and what is not settled.
pub(super) struct Commits {
    pub db: Connection,
    redo: Option<Redo>,
    /// The database's log; none if nothing is synced.
    wal: Option<WalFile>,
    settling: Arc<Settling>,
    /// Acknowledged appends of the open transaction, and when it began.
    kept: Vec<Kept>,
    since: Instant,
    /// Bytes of pages that they may fill.
    kept_bytes: u64,
    /// As many of them are written.
    written: usize,
    /// The last try to write or commit them failed.
    given_up: bool,
    /// Commits that the database's log was not synced behind.
    unsynced: bool,
    /// Something that was acknowledged could not be written since the opening, or at it, and the redo log was set aside. From
    /// then on nothing is acknowledged that is not written: what meets the damage is refused to whoever asks for it.
    is_set_aside: bool,
}

impl Commits {
    /// Takes the connection that writes and does again what the last process left in the redo log.
    pub fn open(
        mut db: Connection,
        database: &Path,
        durability: Durability,
        settling: Arc<Settling>,
    ) -> Result<Self, OpenError> {
        let wal = WalFile::open(database)?;
        let explain = |fault| super::schema::explain_fault(database, fault);
        // What a process with `durability: power` left is done again in any case.
        let done = match redo::do_again(&mut db, database) {
            Err(OpenError::Store { error: StoreError::Full, .. }) => {
                // The log that is moved gives its room to what is done again.
                make_durable(&db, &wal).map_err(explain)?;
                redo::do_again(&mut db, database)?
            }
            done => done?,
        };
        make_durable(&db, &wal).map_err(explain)?;
        let (kept, since) = (Vec::new(), Instant::now());
        let mut commits = Self {
            db,
            redo: None,
            wal: Some(wal),
            settling,
            kept,
            since,
            kept_bytes: 0,
            written: 0,
            given_up: false,
            unsynced: false,
            is_set_aside: done.gave_way(),
        };
        match durability {
            Durability::Power => commits.redo = Redo::open(done)?,
            Durability::Process => {
                done.remove();
                commits.wal = None;
            }
        }
        Ok(commits)
    }

    /// Makes a group durable. It is written when there is time for that: by [`write_one`](Self::write_one), else before the next
    /// read, or append that stands on it.
    pub fn group(&mut self, appends: &[Arc<Append>], at: Moment) -> Result<Vec<Outcome>, Fault> {
        if self.redo.is_none() {
            return self.transact(|db| appends.iter().map(|one| append::append(db, one, at)).collect());
        }
        if self.given_up {
            // Nothing more is acknowledged until what is kept can be read.
            self.settle()?;
        }
        if self.is_set_aside
            || !appends.iter().enumerate().all(|(at, one)| appends[..at].iter().all(|other| is_apart(one, other)))
        {
            // Judged and written one behind the other, all or none.
            return self.directly(appends, at);
        }
        let unwritten = &self.kept[self.written..];
        let apart = appends.iter().all(|next| unwritten.iter().all(|one| is_apart(one.append(), next)));
        if !apart || unwritten.len() >= UNWRITTEN_MAX {
            self.catch_up()?;
        }
        let (mut outcomes, mut written) = (Vec::with_capacity(appends.len()), Vec::with_capacity(appends.len()));
        for one in appends {
            // SQLite ends the open transaction when a read fails for want of memory or with the disk.
            let foreseen = append::foresee(&self.db, one, at).inspect_err(|_| self.give_up())?;
            match foreseen {
                Foreseen::Refused(outcome) => outcomes.push(outcome),
                Foreseen::Written(outcome) => {
                    outcomes.push(outcome);
                    written.push(one.clone());
                }
            }
        }
        if written.is_empty() {
            return Ok(outcomes);
        }
        let pages: u64 = written.iter().map(|one| pages_bytes(one)).sum();
        let has_room = self.wal.as_ref().is_none_or(|wal| wal.has_room(PAGES_OF_ALL + self.kept_bytes + pages));
        let logged = match &mut self.redo {
            Some(redo) if has_room => redo.log(&written, at)?,
            Some(_) | None => Logged::NotLogged,
        };
        if logged == Logged::NotLogged {
            self.directly(&written, at)?;
            return Ok(outcomes);
        }
        if self.kept.is_empty() {
            self.since = Instant::now();
        }
        self.settling.touch(&written);
        self.kept.extend(written.into_iter().map(|one| Kept::new(one, at)));
        self.kept_bytes += pages;
        Ok(outcomes)
    }

    /// Makes appends durable by the database's own log, all or none.
    fn directly(&mut self, appends: &[Arc<Append>], at: Moment) -> Result<Vec<Outcome>, Fault> {
        let done = self.catch_up().and_then(|()| appends.iter().map(|one| append::append(&self.db, one, at)).collect());
        let durable = done.and_then(|done| {
            self.settle()?;
            self.sync()?;
            Ok(done)
        });
        durable.map_err(|fault| {
            self.give_up();
            if fault.is_failed() {
                return fault;
            }
            let is_broken = self.redo.as_ref().is_some_and(Redo::is_broken);
            // The others were acknowledged, and may fit without these; and these must not be done again.
            let cleaned = if is_broken { self.transact(|_| Ok(())) } else { self.settle() };
            cleaned.err().filter(Fault::is_failed).unwrap_or(fault)
        })
    }

    /// Makes another change, durable when it answers.
    pub fn transact<T>(&mut self, work: impl Fn(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        self.settle()?;
        let tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let value = work(&tx)?;
        if let Some(redo) = &self.redo {
            redo.note(&tx)?;
        }
        tx.commit()?;
        self.unsynced = true;
        if let Some(redo) = &mut self.redo {
            redo.noted();
            redo.forget_known();
        }
        self.sync()?;
        Ok(value)
    }

    /// Whether a transaction is open, or should be.
    pub fn is_open(&self) -> bool {
        !self.kept.is_empty() || !self.db.is_autocommit()
    }

    /// Whether readers wait, or the transaction is large.
    pub fn is_due(&self) -> bool {
        self.is_older_than(2 * SETTLE_AFTER)
            || self.kept.len() >= KEPT_MAX
            || self.settling.is_wanted()
            || self.redo.as_ref().is_some_and(Redo::is_spent)
    }

    /// Whether a moment in which nobody waits should be used to settle.
    pub fn is_ripe(&self) -> bool {
        self.is_older_than(SETTLE_AFTER)
    }

    fn is_older_than(&self, age: Duration) -> bool {
        !self.kept.is_empty() && self.since.elapsed() >= age
    }

    /// Commits what is open, so that it can be read. If that fails, what was acknowledged waits in memory and in the redo log,
    /// and reads that are about it are refused.
    pub fn settle(&mut self) -> Result<(), Fault> {
        let settled = self.commit();
        self.settling.let_go(settled.is_err());
        settled?;
        if self.redo.as_ref().is_some_and(Redo::is_spent) { self.sync() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<(), Fault> {
        if !self.is_open() {
            return Ok(());
        }
        self.catch_up()?;
        let seen = self.redo.as_ref().map_or(Ok(()), |redo| redo.note(&self.db));
        let committed = seen.and_then(|()| Ok(self.db.execute_batch("COMMIT")?));
        match committed {
            Ok(()) => {
                self.kept.clear();
                (self.kept_bytes, self.written, self.given_up, self.unsynced) = (0, 0, false, true);
                self.redo.iter_mut().for_each(Redo::noted);
            }
            Err(_) => self.give_up(),
        }
        committed
    }

    /// Syncs the database's log, if anything needs it; the redo log begins anew.
    fn sync(&mut self) -> Result<(), Fault> {
        if let (true, Some(wal)) = (self.unsynced, &self.wal) {
            wal.sync()?;
        }
        self.unsynced = false;
        if let (true, Some(redo)) = (self.kept.is_empty(), &mut self.redo) {
            redo.begin_anew();
        }
        Ok(())
    }

    /// Writes over what the redo log may hold of what was removed.
    ///
    /// # Errors
    /// A sync that failed.
    pub fn scrub(&mut self) -> Result<(), Fault> {
        self.redo.as_mut().map_or(Ok(()), Redo::scrub)
    }

    /// Settles, syncs, and leaves no redo log behind.
    ///
    /// # Errors
    /// What is acknowledged stays in the redo log; the next start does it again.
    pub fn finish(&mut self) -> Result<(), Fault> {
        self.settle()?;
        self.sync()?;
        self.redo.take().into_iter().for_each(Redo::remove);
        Ok(())
    }

    /// Lets readers go on with what is there.
    pub fn let_go(&self) {
        self.settling.let_go(self.is_open());
    }

    /// Whether something is durable and not yet written, and can be.
    pub fn has_work(&self) -> bool {
        self.written < self.kept.len() && !self.given_up
    }

    /// Whether the open transaction could not be settled.
    pub fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// Writes what is durable and not yet written, in the open transaction or a new one.
    fn catch_up(&mut self) -> Result<(), Fault> {
        self.write(usize::MAX)
    }

    /// Writes the next of what is durable and not yet written.
    pub fn write_one(&mut self) -> Result<(), Fault> {
        self.write(1)
    }

    fn write(&mut self, appends: usize) -> Result<(), Fault> {
        let written = self.try_write(appends);
        if written.is_err() {
            self.give_up();
        }
        written
    }

    fn try_write(&mut self, appends: usize) -> Result<(), Fault> {
        let until = self.kept.len().min(self.written.saturating_add(appends));
        loop {
            if self.db.is_autocommit() {
                self.written = 0;
                self.db.execute_batch("BEGIN IMMEDIATE")?;
            }
            let Some(next) = self.kept[..until].get(self.written) else { return Ok(()) };
            match next.write(&self.db) {
                Ok(()) => self.written += 1,
                Err(damage) if damage.is_damaged() => {
                    self.set_aside()?;
                    self.kept[self.written].give_way(&damage);
                    // From the beginning: that is rare, and there are at most `KEPT_MAX` of them.
                    self.give_up();
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Something of the redo log cannot be written: it is kept for whoever mends the database.
    ///
    /// # Errors
    /// It cannot be kept either, for now.
    fn set_aside(&mut self) -> Result<(), Fault> {
        if let (Some(redo), false) = (&self.redo, self.is_set_aside) {
            redo.set_aside()?;
        }
        self.is_set_aside = true;
        Ok(())
    }

    fn give_up(&mut self) {
        if !self.db.is_autocommit() {
            // It fails when SQLite has done so itself.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        self.written = 0;
        self.given_up = !self.kept.is_empty();
        if let Some(redo) = &mut self.redo {
            redo.forget_known();
        }
    }
}

/// Makes everything that can be read durable, and moves it into the database if neither readers nor want of room keep it
/// from that.
fn make_durable(db: &Connection, wal: &WalFile) -> Result<(), Fault> {
    // Nobody begins the log anew meanwhile.
    db.execute_batch("BEGIN IMMEDIATE")?;
    let again = wal.sync_again();
    db.execute_batch("ROLLBACK")?;
    again?;
    match checkpoint(db, "TRUNCATE") {
        Err(fault) if !fault.is_full() => Err(fault),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests;
