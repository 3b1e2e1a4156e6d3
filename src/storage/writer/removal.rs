//! Removals on any disk, however full it is.
//!
//! Invariant: the reserve is back when a removal ends, but for what others took and what is left for the store to go on with.
//! Absent on purpose: what is removed. `remove.rs` knows that.

use fleet_actors::ids::ConversationId;
use fleet_actors::ports::{StoreError, Written};
use rusqlite::Connection;

use super::super::commits::Commits;
use super::super::fault::Fault;
use super::super::remove;
use super::super::wal::Wal;
use super::{Reply, Writer};

/// Executions that one transaction of a larger removal takes, at most.
const REMOVED_AT_ONCE: u32 = 200;

/// A removal of all of history that is under way.
pub(super) struct Clearing {
    after: i64,
    last: i64,
    /// As many as the disk last had room to remove in one transaction.
    at_once: u32,
    removed: u64,
    reply: Reply<Written>,
}

impl Clearing {
    /// Of everything up to this entry.
    pub fn new(last: i64, reply: Reply<Written>) -> Self {
        Self { after: 0, last, at_once: REMOVED_AT_ONCE, removed: 0, reply }
    }
}

impl Writer {
    /// Goes on with a removal of all of history.
    pub(super) fn clear_some(&mut self) {
        let Some(mut clearing) = self.clearing.pop_front() else { return };
        let (after, last) = (clearing.after, clearing.last);
        match self.remove(&mut clearing.at_once, |db, max| remove::executions(db, after, last, max)) {
            Ok((removed, at)) => {
                clearing.removed += removed;
                clearing.after = at;
                if at < last {
                    self.clearing.push_front(clearing);
                } else {
                    drop(clearing.reply.send(Ok(Written::Removed(clearing.removed))));
                }
            }
            Err(error) => drop(clearing.reply.send(Err(error))),
        }
    }

    /// The last entry of history. It is asked for without a transaction of its own, for which a full disk may have no room.
    pub(super) fn last_entry(&mut self) -> Result<i64, StoreError> {
        self.attempt(|commits| {
            commits.settle()?;
            remove::last_entry(&commits.db)
        })
    }

    /// Removes a conversation: in one transaction, or in as many as the disk has room for one behind the other.
    pub(super) fn remove_conversation(&mut self, id: &ConversationId) -> Result<Written, StoreError> {
        let mut at_once = u32::MAX;
        let removed = loop {
            match self.remove_some(&mut at_once, |db, max| remove::conversation(db, id, max)) {
                Ok(None) => {}
                Ok(Some(written)) => break Ok(written),
                Err(error) => break Err(error),
            }
        };
        self.end_removal(removed)
    }

    /// A transaction that frees space, by removing up to `at_once` things.
    pub(super) fn remove<T>(
        &mut self,
        at_once: &mut u32,
        work: impl Fn(&Connection, u32) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let removed = self.remove_some(at_once, work);
        self.end_removal(removed)
    }

    /// If there is no room to remove `at_once` things with, the log is cut for it, then fewer are removed, and at last the reserve is
    /// given up; [`end_removal`](Self::end_removal) takes it back.
    fn remove_some<T>(
        &mut self,
        at_once: &mut u32,
        work: impl Fn(&Connection, u32) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let asked = *at_once;
        let mut is_cut = false;
        let mut removed = self.transact(|db| work(db, *at_once));
        while matches!(removed, Err(StoreError::Full)) {
            if !is_cut {
                is_cut = true;
            } else if *at_once > 1 {
                *at_once = (*at_once / 2).min(REMOVED_AT_ONCE);
            } else if self.reserve.give_up() {
                *at_once = asked.min(REMOVED_AT_ONCE);
            } else {
                break;
            }
            // A part of what failed may stand there, too.
            self.housekeep(Wal::truncate);
            removed = self.transact(|db| work(db, *at_once));
        }
        if removed.is_ok() {
            self.wal.want_truncate();
            self.attempt(Commits::scrub)?;
        }
        removed
    }

    /// Takes back what a removal needed, before anybody else finds that room or the process is killed.
    fn end_removal<T>(&mut self, removed: Result<T, StoreError>) -> Result<T, StoreError> {
        let is_given = self.reserve.is_given();
        if is_given || matches!(removed, Err(StoreError::Full)) {
            self.housekeep(Wal::truncate_for_the_reserve);
        }
        match &removed {
            _ if !is_given || self.failed.is_some() => {}
            Ok(_) => self.reserve.take_most_back(),
            Err(_) => self.reserve.take_back(),
        }
        removed
    }
}
