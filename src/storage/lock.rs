//! The lock of a data directory: one process writes.
//!
//! Held by the operating system, so it ends with the process however that dies. The file stays; what it says is only who
//! holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILE: &str = "lock";
/// Who only looks whether the lock is held holds it for less than this.
const GLANCE_MAX: Duration = Duration::from_millis(100);
/// Between two tries within that time.
const GLANCE: Duration = Duration::from_millis(5);

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
    #[error("the data directory {dir} {}", refusal(.dir, .file, .error))]
    Io {
        /// The data directory.
        dir: PathBuf,
        /// What it is about: the directory or the lock in it.
        file: PathBuf,
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
        std::fs::create_dir_all(dir).map_err(|error| LockError::Io { dir: dir.into(), file: dir.into(), error })?;
        let path = dir.join(FILE);
        let failed = |error| LockError::Io { dir: dir.into(), file: path.clone(), error };
        // Not truncated: until the lock is ours, what stands there is the owner's.
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(failed)?;
        let end = Instant::now() + GLANCE_MAX;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(GLANCE),
                Err(TryLockError::WouldBlock) => return Err(held(dir, &mut file)),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        let mut lock = Self { file };
        lock.say(address).map_err(failed)?;
        Ok(lock)
    }

    /// Whether a process holds the lock of `dir` now. Where that cannot be told, one does.
    #[must_use]
    pub fn is_held(dir: &Path) -> bool {
        match File::open(dir.join(FILE)) {
            // Shared, and given back at once: who comes for the whole lock meanwhile waits that long.
            Ok(file) => file.try_lock_shared().is_err(),
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
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

/// Why a directory cannot be used, and what to do about it. `file` is what the system refused.
fn refusal(dir: &Path, file: &Path, error: &std::io::Error) -> String {
    let dangling = |gone: &std::io::Error| {
        gone.kind() == ErrorKind::NotFound && dir.symlink_metadata().is_ok_and(|there| there.is_symlink())
    };
    let file = file.display();
    let (what, cure) = match (error.kind(), dir.metadata()) {
        (_, Ok(there)) if !there.is_dir() => ("is not a directory".to_owned(), "move what stands there"),
        (_, Err(gone)) if dangling(&gone) => ("is a link to what does not exist".to_owned(), "make that directory"),
        // What is there is no directory, and cannot be followed.
        (ErrorKind::AlreadyExists, Err(there)) => (format!("cannot be found: {there}"), "correct the path"),
        (ErrorKind::NotADirectory, _) => ("has a file in its path".to_owned(), "correct the path"),
        (ErrorKind::PermissionDenied, _) => {
            (format!("is not this user's to write: {file}: {error}"), "let this user write there")
        }
        (ErrorKind::ReadOnlyFilesystem, _) => {
            ("is on a file system that can only be read".to_owned(), "mount it for writing")
        }
        (ErrorKind::StorageFull | ErrorKind::QuotaExceeded, _) => {
            (format!("has no room: {file}: {error}"), "free space there")
        }
        _ => (format!("cannot be locked: {file}: {error}"), "mend that"),
    };
    format!("{what}; {cure}, or name another one with --data-dir or FLEET_DATA_DIR")
}

fn held(dir: &Path, file: &mut File) -> LockError {
    let mut said = String::new();
    if let Err(error) = file.read_to_string(&mut said) {
        return LockError::Io { dir: dir.into(), file: dir.join(FILE), error };
    }
    let mut lines = said.lines().map(str::to_owned);
    let mut line = || lines.next().unwrap_or_else(|| "?".to_owned());
    LockError::Held { dir: dir.into(), pid: line(), address: line() }
}
