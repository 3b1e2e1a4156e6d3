//! When the write-ahead log moves into the database.
//!
//! SQLite's own checkpoints swallow their errors, so we make them ourselves. When the writer is idle or the log has many new
//! pages, the [`Mover`] makes a PASSIVE one beside the writer; the few pages that came meanwhile are moved by the writer, after
//! which SQLite begins the log anew. The writer makes a TRUNCATE when the log is too large, when a disk that is nearly full might
//! soon not take what is in it, and after a removal; with new reads held back, because overlapping readers would let the log grow
//! without end.
//! Absent on purpose: a checkpoint that waits for readers. A TRUNCATE has the connection's busy timeout to find a moment
//! without any, else it comes again later.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::SqliteOptions;
use super::fault::Fault;
use super::mover::{Moved, Mover, checkpoint};

/// SQLite's, which we leave as it is.
const PAGE_BYTES: u64 = 4_096;
/// How long a wanted TRUNCATE waits for an idle moment, and how long one that found readers waits for its next try.
const TRUNCATE_PATIENCE: Duration = Duration::from_secs(1);
/// How long one waits for reads that are under way when the reserve was lent: until it is back, others could take its room.
const LOAN_PATIENCE: Duration = Duration::from_secs(1);
/// Pages that the writer moves itself: about as many as a large commit writes.
const REST_PAGES: u32 = 128;
/// Moves one behind the other that left more than that; then the writer moves the rest, however much it is.
const MOVES: u8 = 3;

/// Holds new reads back while the log is truncated.
#[derive(Default)]
pub(super) struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Waits until reads may begin.
    pub fn pass(&self) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(closed, |closed| *closed).unwrap_or_else(PoisonError::into_inner));
    }

    fn set(&self, closed: bool) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.opened.notify_all();
    }
}

/// The log as the writer knows it.
pub(super) struct Wal {
    /// Pages in the log, as SQLite said after the last commit.
    pages: Arc<AtomicU32>,
    /// As they were when the writer last looked.
    seen: u32,
    /// A PASSIVE is due at this many pages.
    passive_at: u32,
    /// New pages that make the writer checkpoint even under load.
    passive_pages: u32,
    /// Pages above which it truncates.
    truncate_pages: u32,
    /// What can be lent for moving it, bytes.
    reserve: u64,
    /// Commits since the last checkpoint that moved everything.
    behind: bool,
    /// A TRUNCATE is wanted, at the latest at this time.
    truncate_by: Option<Instant>,
    gate: Arc<Gate>,
    mover: Mover,
    /// Moves that left more than the writer would move itself.
    moves: u8,
}

impl Wal {
    pub fn new(db: &mut Connection, options: &SqliteOptions, gate: Arc<Gate>, mover: Mover) -> rusqlite::Result<Self> {
        let pages = Arc::new(AtomicU32::new(0));
        let told = pages.clone();
        db.wal_hook(Some(move |_: &mut _, pages: std::ffi::c_int| {
            told.store(pages.unsigned_abs(), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self {
            pages,
            seen: 0,
            passive_at: options.wal_pages_max,
            passive_pages: options.wal_pages_max,
            truncate_pages: u32::try_from(options.wal_bytes_max / PAGE_BYTES).unwrap_or(u32::MAX),
            reserve: options.reserve_bytes,
            behind: true,
            // What the last process removed may stand in it.
            truncate_by: Some(Instant::now()),
            gate,
            mover,
            moves: 0,
        })
    }

    /// What was removed must leave the log, too.
    pub fn want_truncate(&mut self) {
        self.truncate_by.get_or_insert(Instant::now() + TRUNCATE_PATIENCE);
    }

    /// Whether an idle moment would be used.
    pub fn is_behind(&self) -> bool {
        self.behind || self.truncate_by.is_some()
    }

    /// After a transaction: whatever cannot wait for an idle moment.
    pub fn after_commit(&mut self, db: &Connection) -> Result<(), Fault> {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.seen {
            self.passive_at = self.passive_pages;
        }
        self.behind |= pages != self.seen;
        self.seen = pages;
        let overdue = self.truncate_by.is_some_and(|by| by <= Instant::now());
        if overdue || (self.truncate_by.is_none() && (pages >= self.truncate_pages || self.is_pressed(db))) {
            self.truncate(db)
        } else if let Some(moved) = self.mover.ended() {
            self.moved(db, moved?)
        } else {
            if pages >= self.passive_at {
                self.mover.begin();
            }
            Ok(())
        }
    }

    /// In an idle moment.
    pub fn when_idle(&mut self, db: &Connection) -> Result<(), Fault> {
        if self.truncate_by.is_some() {
            return self.truncate(db);
        }
        match self.mover.ended() {
            Some(moved) => self.moved(db, moved?),
            None => {
                self.mover.begin();
                Ok(())
            }
        }
    }

    /// Whether it must be moved while the reserve is enough for that: the disk has no other room for it.
    fn is_pressed(&self, db: &Connection) -> bool {
        // What is asked of SQLite and of the system is left out as long as it cannot matter.
        let most = u64::from(self.seen) * PAGE_BYTES;
        if self.reserve == 0 || most <= self.reserve / 2 {
            return false;
        }
        let free = |path: &str| rustix::fs::statvfs(path).map_or(u64::MAX, |disk| disk.f_bavail * disk.f_frsize);
        let growth = Self::growth(db).unwrap_or(0);
        growth > self.reserve / 2 && growth > db.path().map_or(u64::MAX, free)
    }

    /// Bytes that the database's file must grow by before all of the log is in it.
    pub fn growth(db: &Connection) -> Result<u64, Fault> {
        let pages: u64 = db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        let has = db.path().and_then(|path| std::fs::metadata(path).ok()).map_or(0, |file| file.len());
        Ok((pages * PAGE_BYTES).saturating_sub(has))
    }

    fn moved(&mut self, db: &Connection, done: Moved) -> Result<(), Fault> {
        let rest = self.seen.saturating_sub(done.moved);
        self.moves += 1;
        if rest > REST_PAGES && self.moves < MOVES {
            self.mover.begin();
            return Ok(());
        }
        let done = if rest > 0 { checkpoint(db, "PASSIVE")? } else { done };
        // Other pages than were seen: the log began anew meanwhile.
        self.behind = done.moved < done.pages || (self.seen > 0 && self.seen != done.pages);
        self.passive_at = self.seen + self.passive_pages;
        self.moves = 0;
        Ok(())
    }

    /// Moves all of it now, and frees its room.
    pub fn truncate(&mut self, db: &Connection) -> Result<(), Fault> {
        self.truncate_within(db, Duration::ZERO)
    }

    /// Moves all of it into room that was lent for it, which finds its way back when the log is cut.
    pub fn truncate_for_the_reserve(&mut self, db: &Connection) -> Result<(), Fault> {
        self.truncate_within(db, LOAN_PATIENCE)
    }

    fn truncate_within(&mut self, db: &Connection, patience: Duration) -> Result<(), Fault> {
        self.mover.wait()?;
        let end = Instant::now() + patience;
        self.gate.set(true);
        let mut done = checkpoint(db, "TRUNCATE");
        while done.as_ref().is_ok_and(|done| done.busy) && Instant::now() < end {
            done = checkpoint(db, "TRUNCATE");
        }
        self.gate.set(false);
        (self.truncate_by, self.moves) = (None, 0);
        let busy = done.inspect_err(|_| self.want_truncate())?.busy;
        self.behind = busy;
        if busy {
            self.want_truncate();
        } else {
            self.pages.store(0, Ordering::Relaxed);
            (self.seen, self.passive_at) = (0, self.passive_pages);
        }
        Ok(())
    }
}
