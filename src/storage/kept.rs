//! Appends that are acknowledged and to be written.
//!
//! Each was judged, so it fits; but no judgement reads all that is changed by it. Where something of that is damaged, its
//! workflow rests as `quarantined` instead, and the others are written: a damaged page keeps nobody else from working, and
//! no start out.
//! Absent on purpose: the transaction, which whoever writes them begins anew when one gives way, and the log that is set aside
//! before one does.

use std::sync::Arc;

use fleet_actors::ports::Append;
use rusqlite::Connection;

use super::append::{self, Moment};
use super::change;
use super::fault::Fault;

/// An append that is acknowledged, and when it was.
pub(super) struct Kept {
    append: Arc<Append>,
    at: Moment,
    written: Written,
}

/// What of an append is written. Each next one is less.
#[derive(Clone, Copy)]
enum Written {
    All,
    /// That its workflow rests.
    Rest,
    /// The same, of which its parent hears nothing.
    RestUntold,
    Nothing,
}

impl Kept {
    pub fn new(append: Arc<Append>, at: Moment) -> Self {
        Self { append, at, written: Written::All }
    }

    pub fn append(&self) -> &Append {
        &self.append
    }

    /// Writes what can be written of it, which may be there already.
    pub fn write(&self, db: &Connection) -> Result<(), Fault> {
        let rests = |tells| {
            let claim = &self.append.claim;
            change::quarantine(db, &claim.workflow, claim.epoch, self.at.now, tells)
        };
        match self.written {
            Written::All => append::again(db, &self.append, self.at),
            Written::Rest => rests(true),
            Written::RestUntold => rests(false),
            Written::Nothing => Ok(()),
        }
    }

    /// Less of it is written from here on, because of this damage. What was written in the same transaction is to be written
    /// again.
    pub fn give_way(&mut self, damage: &Fault) {
        self.written = match self.written {
            Written::All => {
                tracing::error!(
                    workflow = %self.append.claim.workflow, error = %damage.0,
                    "an append that was acknowledged cannot be written where the database is damaged: its workflow rests"
                );
                Written::Rest
            }
            Written::Rest => Written::RestUntold,
            Written::RestUntold | Written::Nothing => Written::Nothing,
        };
    }
}

/// Whether neither changes what the other stands on: they are of two workflows, neither of which the other leaves behind, and
/// not two first ones under one key.
pub(super) fn is_apart(one: &Append, other: &Append) -> bool {
    fn key(append: &Append) -> Option<&str> {
        Some(&append.create.as_ref()?.request.as_ref()?.key)
    }
    let bears = |one: &Append, other: &Append| one.children.iter().any(|child| child.workflow == other.claim.workflow);
    one.claim.workflow != other.claim.workflow
        && !bears(one, other)
        && !bears(other, one)
        && key(one).is_none_or(|one| key(other).is_none_or(|other| one != other))
}

/// Bytes of pages that any append of a transaction changes: the last ones of tables and of indexes whose keys grow, those above
/// them, and the new ones when they are split.
pub(super) const PAGES_OF_ALL: u64 = 64 * 4_096;
/// Bytes of pages that a small append changes beside those: where its key and its conversation stand in their indexes, and what it
/// fills.
const PAGES_OF_AN_APPEND: u64 = 4 * 4_096;

/// Bytes of pages that an append may fill.
pub(super) fn pages_bytes(append: &Append) -> u64 {
    PAGES_OF_AN_APPEND + 2 * append.bytes() as u64
}
