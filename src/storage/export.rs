//! The file of finished executions: one JSON object a line, for people and their tools.
//!
//! `{"workflow_id": .., .., "cursor": N}` is an execution; the last line of an id wins. `cursor` is the entry of the export queue that a line came from, so the file itself tells how
//! far it got. Times are RFC 3339.
//!
//! A file that has grown large becomes `<name>.000001.jsonl`, the next `.000002`, and the file begins anew: read in that
//! order they are one. A rewrite makes one file of all of them, whose first line, `{"rewritten": true, "cursor": N}`, says
//! that it stands for everything before it.
//! Invariant: a line that [`HistoryFile::append`] has answered for is whole and on the disk; only what comes after it can
//! be torn.
//! Absent on purpose: a source of truth. The table is; this file can be made anew from it at any time.

mod line;
mod port;

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fleet_actors::ports::{ExportEntry, HistoryRow, StoreError};

use super::is_without_room;
use crate::settings::{history_number, history_rewrite};

pub use port::JsonlExport;

/// The file, used by one thread at a time.
#[derive(Debug)]
pub struct HistoryFile {
    path: PathBuf,
    /// It is rotated when it has as many bytes.
    bytes_max: u64,
    /// The file, open for appending once it was repaired or appended to.
    current: Option<Tail>,
    /// A new file that is to take the place of all.
    next: Option<Rewrite>,
}

/// A file whose first `len` bytes are whole lines.
#[derive(Debug)]
struct Tail {
    file: File,
    len: u64,
}

#[derive(Debug)]
struct Rewrite {
    file: BufWriter<File>,
    cursor: u64,
}

/// Why the file did not take what it was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A sync failed: what was written may be lost, and asking again would not tell.
    #[error("sync of {path} failed: {error}")]
    Sync {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file of somebody else stands there; it was left as it is.
    #[error(
        "{path}: it is no history file of agentic-fleet; move it away, or name another one as storage.history_path"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file system said no; nothing was added.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl From<ExportError> for StoreError {
    fn from(error: ExportError) -> Self {
        match &error {
            ExportError::Sync { .. } => Self::Failed(error.to_string()),
            ExportError::Io { error: io, .. } if is_without_room(io) => Self::Full,
            ExportError::Foreign { .. } | ExportError::Io { .. } => Self::Unavailable(error.to_string()),
        }
    }
}

impl HistoryFile {
    /// The file at `path`, to be rotated at `bytes_max` bytes; nothing is opened yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, bytes_max: u64) -> Self {
        Self { path: path.into(), bytes_max, current: None, next: None }
    }

    /// Whether everything that would be written to is missing or ours. What cannot be read is told of when it is used.
    ///
    /// # Errors
    /// [`ExportError::Foreign`].
    pub fn check(&self) -> Result<(), ExportError> {
        for path in [self.path.clone(), self.next_path()] {
            // Never opened otherwise: a pipe would wait for its other end.
            let there = path.metadata().is_ok_and(|there| there.is_file());
            if there && File::open(&path).and_then(line::is_own).is_ok_and(|own| !own) {
                return Err(ExportError::Foreign { path });
            }
        }
        Ok(())
    }

    /// Cuts what a crash left half written off the end, and removes what a rewrite made obsolete; the cursor of the last
    /// whole line.
    ///
    /// # Errors
    /// [`ExportError`]; the file is as it was, or already repaired.
    pub fn repair(&mut self) -> Result<Option<u64>, ExportError> {
        let Some(cursor) = self.repair_current()? else { return Ok(None) };
        self.remove_obsolete()?;
        if cursor.is_some() {
            return Ok(cursor);
        }
        // Rotated, and nothing appended since.
        let Some(newest) = self.rotated()?.pop() else { return Ok(None) };
        let last = File::open(newest).and_then(|mut file| line::last_whole(&mut file));
        Ok(last.map_err(|e| self.io(e))?.1)
    }

    /// Appends entries, all of them by one sync. What was deleted adds nothing: a rewrite is its trace.
    ///
    /// # Errors
    /// [`ExportError`]; after [`ExportError::Io`] the file ends where it ended before.
    pub fn append(&mut self, entries: &[ExportEntry]) -> Result<(), ExportError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for entry in entries {
            if let Some(row) = &entry.row {
                line::write_row(&mut lines, row, entry.cursor).map_err(|e| self.io(e))?;
            }
        }
        if self.current.as_ref().is_some_and(|tail| tail.len >= self.bytes_max) {
            self.rotate()?;
        }
        let mut tail = match self.current.take() {
            Some(tail) => tail,
            None => self.open()?,
        };
        if let Err(error) = tail.file.write_all(&lines) {
            // A torn line would hide the next one.
            let cut = tail.file.set_len(tail.len).and_then(|()| tail.file.seek(SeekFrom::Start(tail.len)));
            if cut.is_ok() {
                self.current = Some(tail);
            }
            return Err(self.io(error));
        }
        tail.file.sync_data().map_err(|e| self.unsynced(&self.path, e))?;
        tail.len += lines.len() as u64;
        self.current = Some(tail);
        Ok(())
    }

    /// Begins a new file, as of `cursor`, beside this one.
    ///
    /// # Errors
    /// [`ExportError::Foreign`], [`ExportError::Io`].
    pub fn begin_rewrite(&mut self, cursor: u64) -> Result<(), ExportError> {
        self.next = None;
        self.check()?;
        self.make_dir()?;
        let mut file =
            BufWriter::new(private().truncate(true).create(true).open(self.next_path()).map_err(|e| self.io(e))?);
        line::write_rewritten(&mut file, cursor).map_err(|e| self.io(e))?;
        self.next = Some(Rewrite { file, cursor });
        Ok(())
    }

    /// Adds rows to the new file.
    ///
    /// # Errors
    /// [`ExportError::Io`], also when no rewrite was begun. The rewrite is over then.
    pub fn rewrite_rows(&mut self, rows: &[HistoryRow]) -> Result<(), ExportError> {
        let mut next = self.take_next()?;
        for row in rows {
            line::write_row(&mut next.file, row, next.cursor).map_err(|e| self.io(e))?;
        }
        self.next = Some(next);
        Ok(())
    }

    /// Makes the new file durable and puts it in the place of this one and of all that were rotated.
    ///
    /// # Errors
    /// [`ExportError`]; what is read is the old or the new, never a mixture.
    pub fn finish_rewrite(&mut self) -> Result<(), ExportError> {
        let next = self.take_next()?;
        let mut file = next.file.into_inner().map_err(|e| self.io(e.into_error()))?;
        file.sync_all().map_err(|e| self.unsynced(&self.next_path(), e))?;
        std::fs::rename(self.next_path(), &self.path).map_err(|e| self.io(e))?;
        self.sync_dir()?;
        let len = file.stream_position().map_err(|e| self.io(e))?;
        self.current = Some(Tail { file, len });
        self.remove_obsolete()
    }

    /// `None` if there is no file.
    fn repair_current(&mut self) -> Result<Option<Option<u64>>, ExportError> {
        self.current = None;
        self.check()?;
        let mut file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let len = file.metadata().map_err(|e| self.io(e))?.len();
        let (end, cursor) = line::last_whole(&mut file).map_err(|e| self.io(e))?;
        if end < len {
            tracing::warn!(path = %self.path.display(), bytes = len - end, "cut a torn end off the history file");
            file.set_len(end).map_err(|e| self.io(e))?;
            file.sync_all().map_err(|e| self.unsynced(&self.path, e))?;
        }
        file.seek(SeekFrom::Start(end)).map_err(|e| self.io(e))?;
        self.current = Some(Tail { file, len: end });
        Ok(Some(cursor))
    }

    fn open(&mut self) -> Result<Tail, ExportError> {
        if !self.path.exists() {
            self.make_dir()?;
            private().create_new(true).open(&self.path).map_err(|e| self.io(e))?;
            self.sync_dir()?;
        }
        self.repair_current()?;
        self.current.take().ok_or_else(|| self.io(ErrorKind::NotFound.into()))
    }

    /// Puts the file aside under the next number; `open` makes a new one.
    fn rotate(&mut self) -> Result<(), ExportError> {
        let newest = self.rotated()?.pop().and_then(|path| history_number(&self.path, &path)).unwrap_or(0);
        let aside = self.path.with_extension(format!("{:06}.jsonl", newest + 1));
        self.current = None;
        std::fs::rename(&self.path, aside).map_err(|e| self.io(e))?;
        self.sync_dir()
    }

    /// What was put aside, oldest first.
    fn rotated(&self) -> Result<Vec<PathBuf>, ExportError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.dir()).map_err(|e| self.io(e))? {
            let path = entry.map_err(|e| self.io(e))?.path();
            found.extend(history_number(&self.path, &path).map(|number| (number, path)));
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Removes every file before the newest one that was rewritten.
    fn remove_obsolete(&self) -> Result<(), ExportError> {
        let mut files = self.rotated()?;
        if files.is_empty() {
            return Ok(());
        }
        files.push(self.path.clone());
        let mut newest = 0;
        for (at, path) in files.iter().enumerate() {
            if File::open(path).and_then(line::is_rewritten).map_err(|e| self.io(e))? {
                newest = at;
            }
        }
        for path in &files[..newest] {
            if !File::open(path).and_then(line::is_own).map_err(|e| self.io(e))? {
                tracing::warn!(path = %path.display(), "it is called as a history file and is none: it stays");
                continue;
            }
            std::fs::remove_file(path).map_err(|e| self.io(e))?;
        }
        self.sync_dir()
    }

    fn take_next(&mut self) -> Result<Rewrite, ExportError> {
        self.next.take().ok_or_else(|| self.io(std::io::Error::other("no rewrite was begun")))
    }

    fn next_path(&self) -> PathBuf {
        history_rewrite(&self.path)
    }

    fn dir(&self) -> &Path {
        self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    fn make_dir(&self) -> Result<(), ExportError> {
        std::fs::create_dir_all(self.dir()).map_err(|e| self.io(e))
    }

    fn sync_dir(&self) -> Result<(), ExportError> {
        super::sync_dir(self.dir()).map_err(|e| self.unsynced(self.dir(), e))
    }

    fn io(&self, error: std::io::Error) -> ExportError {
        ExportError::Io { path: self.path.clone(), error }
    }

    fn unsynced(&self, path: &Path, error: std::io::Error) -> ExportError {
        ExportError::Sync { path: path.into(), error }
    }
}

/// For a new file that its owner alone reads: like the database, it holds what people asked and were answered.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
