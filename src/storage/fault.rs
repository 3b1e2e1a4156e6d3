//! What goes wrong inside the store, in the words of its port.
//!
//! Absent on purpose: a retry. SQLite's errors are told apart by what the runtime must do about them, nothing else.

use fleet_actors::ports::StoreError;
use rusqlite::ErrorCode;

use super::is_without_room;

/// A [`StoreError`] on its way out; `?` makes one of an SQLite error.
#[derive(Debug)]
pub(super) struct Fault(pub StoreError);

impl Fault {
    pub fn damaged(what: impl Into<String>) -> Self {
        Self(StoreError::Damaged(what.into()))
    }

    pub fn failed(what: impl Into<String>) -> Self {
        Self(StoreError::Failed(what.into()))
    }

    /// Whether a sync failed, so that nothing may be written any more.
    pub fn is_failed(&self) -> bool {
        matches!(self.0, StoreError::Failed(_))
    }

    /// Whether something that is stored is not what was stored.
    pub fn is_damaged(&self) -> bool {
        matches!(self.0, StoreError::Damaged(_))
    }

    /// Whether freeing space may help.
    pub fn is_full(&self) -> bool {
        self.0 == StoreError::Full
    }
}

/// `fsync` of the write-ahead log or of the database failed, or of the directory. The kernel may have dropped the pages,
/// and SQLite's next commit would succeed.
const SYNC_FAILURES: [i32; 2] = [rusqlite::ffi::SQLITE_IOERR_FSYNC, rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC];

/// A write was refused, and its transaction is rolled back: a disk with errors, one that became readable alone, or want of
/// room that is no full disk.
const WRITE_FAILURES: [i32; 2] = [rusqlite::ffi::SQLITE_IOERR_WRITE, rusqlite::ffi::SQLITE_IOERR_TRUNCATE];

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        // SQLite tells a full disk from other refusals, and not a quota or the largest file. The system's reason is left where
        // its own `sqlite3_system_errno` finds it.
        let system = std::io::Error::last_os_error();
        let said = error.to_string();
        let Some(failure) = error.sqlite_error() else {
            return Self(if is_unreadable(&error) { StoreError::Damaged(said) } else { StoreError::Unavailable(said) });
        };
        let (code, extended) = (failure.code, failure.extended_code);
        Self(if SYNC_FAILURES.contains(&extended) {
            StoreError::Failed(said)
        } else if code == ErrorCode::DiskFull
            || extended == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
            || (WRITE_FAILURES.contains(&extended) && is_without_room(&system))
        {
            StoreError::Full
        } else if code == ErrorCode::ReadOnly || WRITE_FAILURES.contains(&extended) {
            StoreError::Unwritable(said)
        } else if matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation)
        {
            StoreError::Damaged(said)
        } else {
            StoreError::Unavailable(said)
        })
    }
}

/// A column holds what we never write there.
fn is_unreadable(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::InvalidColumnType(..)
    )
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        fault.0
    }
}
