//! The lock of a data directory: one process writes.
//!
//! Held by the operating system, so it ends with the process however that dies. The file stays; what it says is only who
//! holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The lock. Dropping it lets the next process in.
#[derive(Debug)]
pub struct DataDirLock {
    file: File,
}

/// Why a data directory cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process holds it.
    #[error("{dir} is in use by process {pid}, which answers on {address}")]
    Held {
        /// The data directory.
        dir: PathBuf,
        /// That process, or `?` if it has not said yet.
        pid: String,
        /// Where it listens, or `?`.
        address: String,
    },
    /// The file system said no.
    #[error("{dir}: cannot lock: {error}")]
    Io {
        /// The data directory.
        dir: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl DataDirLock {
    /// Takes the lock of `dir`, making the directory if there is none, and says who holds it: this process, which
    /// listens on `address`.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process has it.
    pub fn acquire(dir: &Path, address: &str) -> Result<Self, LockError> {
        let failed = |error| LockError::Io { dir: dir.into(), error };
        std::fs::create_dir_all(dir).map_err(failed)?;
        // Not truncated: until the lock is ours, what stands there is the owner's.
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join("lock"));
        let mut file = open.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(dir, &mut file)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut lock = Self { file };
        lock.say(address).map_err(failed)?;
        Ok(lock)
    }

    /// Says where this process listens, once it knows.
    ///
    /// # Errors
    /// The file system's.
    pub fn say(&mut self, address: &str) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        write!(self.file, "{}\n{address}\n", std::process::id())
    }
}

fn held(dir: &Path, file: &mut File) -> LockError {
    let mut said = String::new();
    if let Err(error) = file.read_to_string(&mut said) {
        return LockError::Io { dir: dir.into(), error };
    }
    let mut lines = said.lines().map(str::to_owned);
    let mut line = || lines.next().unwrap_or_else(|| "?".to_owned());
    LockError::Held { dir: dir.into(), pid: line(), address: line() }
}
