//! Moves the write-ahead log into the database beside the writer.
//!
//! A checkpoint of thousands of pages takes tens of milliseconds, most of them the disk's. Here it holds up nobody: SQLite
//! lets one connection append to the log while another moves what is in it.
//! Absent on purpose: a judgement. What went wrong is told to the writer, who decides what it means.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use fleet_actors::watch::Watch;
use rusqlite::Connection;

use super::fault::Fault;
use super::{OpenError, schema};

/// What a checkpoint did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    /// Somebody stood in the way.
    pub busy: bool,
    /// Pages in the log.
    pub pages: u32,
    /// Those of them that are in the database, too.
    pub moved: u32,
}

/// A thread with a connection of its own that does nothing but move. Ended when it is dropped.
pub(super) struct Mover {
    /// Both are there until it is dropped.
    asks: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    answers: Receiver<Result<Moved, Fault>>,
    under_way: bool,
}

impl Mover {
    pub fn start(path: &Path, watch: &Watch) -> Result<Self, OpenError> {
        let db = schema::open_mover(path)?;
        let (asks, jobs) = sync_channel(1);
        let (reply, answers) = sync_channel(1);
        let watch = watch.clone();
        let serve = move || {
            let _alive = watch.alive("store mover");
            while jobs.recv().is_ok() && reply.send(checkpoint(&db, "PASSIVE")).is_ok() {}
        };
        let thread = std::thread::Builder::new().name("store-move".into()).spawn(serve);
        let thread = thread.map_err(|error| OpenError::Io { path: path.into(), error })?;
        Ok(Self { asks: Some(asks), thread: Some(thread), answers, under_way: false })
    }

    /// Begins to move what is in the log now; nothing if it is at it.
    pub fn begin(&mut self) {
        if let (false, Some(asks)) = (self.under_way, &self.asks) {
            self.under_way = asks.send(()).is_ok();
        }
    }

    /// What it did, once it has ended.
    pub fn ended(&mut self) -> Option<Result<Moved, Fault>> {
        match self.answers.try_recv() {
            Ok(answer) => {
                self.under_way = false;
                Some(answer)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }

    /// Waits until it is not at it: two checkpoints stand in each other's way.
    pub fn wait(&mut self) -> Result<(), Fault> {
        if !std::mem::take(&mut self.under_way) {
            return Ok(());
        }
        // It is gone only by a panic, of which whoever watches was told.
        self.answers.recv().map_or(Ok(()), |answer| answer.map(drop))
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        drop(self.asks.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the mover of the store panicked");
        }
    }
}

/// Makes a checkpoint of SQLite's kind `mode`.
pub(super) fn checkpoint(db: &Connection, mode: &str) -> Result<Moved, Fault> {
    // Both counts are -1 when it did not get as far as to look.
    let count = |pages: i64| u32::try_from(pages).unwrap_or(0);
    let said = db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        Ok(Moved { busy: row.get(0)?, pages: count(row.get(1)?), moved: count(row.get(2)?) })
    });
    Ok(said?)
}
