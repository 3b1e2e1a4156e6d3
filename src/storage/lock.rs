//! The lock of a data directory, and of a database outside of it: one process writes.
//!
//! Held by the operating system, so it ends with the process however that dies. The file stays; what it says is only who
//! holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::is_without_room;
use crate::settings::StorageSettings;
use crate::settings::data_dir::LOCK;

/// Who only looks whether the lock is held holds it for less than this.
const GLANCE_MAX: Duration = Duration::from_millis(100);
/// Between two tries within that time.
const GLANCE: Duration = Duration::from_millis(5);

/// The lock. Dropping it lets the next process in.
#[derive(Debug)]
pub struct DataDirLock {
    /// That of the data directory, and that of the database if it is another one.
    files: Vec<File>,
}

/// Why a data directory cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process holds it.
    #[error("{dir} is in use by process {pid}, which answers on {address}")]
    Held {
        /// The data directory, or the database outside of it.
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
    /// The file system said no to the lock of a database outside of the data directory.
    #[error("the database {database} cannot be locked: {file}: {error}; mend that, or correct storage.database_path")]
    Database {
        /// The database.
        database: PathBuf,
        /// What it is about: its directory or its lock.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Why one lock was not taken.
enum Refusal {
    Held(String, String),
    Io(PathBuf, std::io::Error),
}

impl DataDirLock {
    /// Takes the lock of `dir`, making the directory if there is none, and says who holds it: this process, which
    /// listens on `address`.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process has it.
    pub fn acquire(dir: &Path, address: &str) -> Result<Self, LockError> {
        let refused = |refusal| match refusal {
            Refusal::Held(pid, address) => LockError::Held { dir: dir.into(), pid, address },
            Refusal::Io(file, error) => LockError::Io { dir: dir.into(), file, error },
        };
        take(dir, &dir.join(LOCK), address).map(|file| Self { files: vec![file] }).map_err(refused)
    }

    /// Takes the lock of the data directory and, if it is another one, that of the database: processes with other data
    /// directories may name it, too.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process has one of them.
    pub fn acquire_with_database(storage: &StorageSettings, address: &str) -> Result<Self, LockError> {
        let mut lock = Self::acquire(&storage.data_dir, address)?;
        if let Some(path) = storage.own_database_lock() {
            let database = storage.database_file();
            let refused = |refusal| match refusal {
                Refusal::Held(pid, address) => LockError::Held { dir: database, pid, address },
                Refusal::Io(file, error) => LockError::Database { database, file, error },
            };
            lock.files.push(take(path.parent().unwrap_or(&path), &path, address).map_err(refused)?);
        }
        Ok(lock)
    }

    /// Whether a process holds the lock of `dir` now. Where that cannot be told, one does.
    #[must_use]
    pub fn is_held(dir: &Path) -> bool {
        is_held(&dir.join(LOCK))
    }

    /// Whether a process holds the lock of the database now. Where that cannot be told, one does.
    #[must_use]
    pub fn is_database_held(storage: &StorageSettings) -> bool {
        is_held(&storage.database_lock())
    }

    /// Says where this process listens, once it knows.
    ///
    /// # Errors
    /// The file system's.
    pub fn say(&mut self, address: &str) -> std::io::Result<()> {
        self.files.iter_mut().try_for_each(|file| say(file, address))
    }
}

fn is_held(path: &Path) -> bool {
    match File::open(path) {
        // Shared, and given back at once: who comes for the whole lock meanwhile waits that long.
        Ok(file) => file.try_lock_shared().is_err(),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// Takes the lock at `path` in `dir`, making both.
fn take(dir: &Path, path: &Path, address: &str) -> Result<File, Refusal> {
    std::fs::create_dir_all(dir).map_err(|error| Refusal::Io(dir.into(), error))?;
    let failed = |error| Refusal::Io(path.into(), error);
    // Not truncated: until the lock is ours, what stands there is the owner's.
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = open.map_err(failed)?;
    let end = Instant::now() + GLANCE_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(GLANCE),
            Err(TryLockError::WouldBlock) => {
                let (pid, address) = owner(&mut file).map_err(failed)?;
                return Err(Refusal::Held(pid, address));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    if !is_lock(&mut file).map_err(failed)? {
        return Err(failed(std::io::Error::other("a file that is no lock stands there")));
    }
    say(&mut file, address).map_err(failed)?;
    Ok(file)
}

/// Says who holds it. It holds without that, too, so a full disk is no reason to refuse it.
fn say(file: &mut File, address: &str) -> std::io::Result<()> {
    let said = format!("{}\n{address}\n", std::process::id());
    file.seek(SeekFrom::Start(0))?;
    // Written over: a file that is cut first gives its room away, which a full disk may not give back.
    match file.write_all(said.as_bytes()) {
        Ok(()) => file.set_len(said.len() as u64),
        Err(error) if is_without_room(&error) => {
            tracing::warn!(%error, "the lock has no room to say who holds it");
            // Nobody rather than whoever held it before.
            file.set_len(0)
        }
        Err(error) => Err(error),
    }
}

/// Whether it is new, or says what a lock says: a number first. A power cut may leave zeros.
fn is_lock(file: &mut File) -> std::io::Result<bool> {
    let mut first = Vec::new();
    file.take(11).read_to_end(&mut first)?;
    let number = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(number.iter().all(u8::is_ascii_digit) || first.iter().all(|byte| *byte == 0))
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
        _ if is_without_room(error) => (format!("has no room: {file}: {error}"), "free space there"),
        _ => (format!("cannot be locked: {file}: {error}"), "mend that"),
    };
    format!("{what}; {cure}, or name another one with --data-dir or FLEET_DATA_DIR")
}

/// The process that holds it and where that listens, each `?` if it has not said yet.
fn owner(file: &mut File) -> std::io::Result<(String, String)> {
    let mut said = String::new();
    file.read_to_string(&mut said)?;
    let mut lines = said.lines().map(str::to_owned);
    let mut line = || lines.next().unwrap_or_else(|| "?".to_owned());
    Ok((line(), line()))
}
