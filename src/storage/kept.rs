//! Appends that are acknowledged and to be written.
//!
//! Each was judged, so it fits; but no judgement reads all that is changed by it. Where something of that is damaged, its
//! workflow rests as `quarantined` instead, and the others are written: a damaged page keeps nobody else from working, and
//! no start out.
//! Absent on purpose: the transaction, which whoever writes them begins anew when one gives way.

use std::sync::Arc;

use fleet_actors::ports::{Append, Rest};
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

/// What of an append is written.
#[derive(Clone, Copy)]
enum Written {
    All,
    /// That its workflow rests.
    Rest,
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
        let claim = &self.append.claim;
        match self.written {
            Written::All => append::again(db, &self.append, self.at),
            Written::Rest => change::rest(db, &claim.workflow, claim.epoch, Rest::Quarantined, self.at.now).map(drop),
            Written::Nothing => Ok(()),
        }
    }

    /// Whether less of it will be written from here on, because of this. What was written in the same transaction is to be
    /// written again.
    pub fn gives_way(&mut self, fault: &Fault) -> bool {
        if !fault.is_damaged() {
            return false;
        }
        self.written = match self.written {
            Written::All => {
                tracing::error!(
                    workflow = %self.append.claim.workflow, error = %fault.0,
                    "an append that was acknowledged cannot be written where the database is damaged: its workflow rests"
                );
                Written::Rest
            }
            Written::Rest => Written::Nothing,
            Written::Nothing => return false,
        };
        true
    }
}
