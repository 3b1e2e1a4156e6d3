//! The file of finished executions: one JSON object a line, for people and their tools.
//!
//! `{"workflow_id": .., .., "cursor": N}` is an execution, `{"deleted": id, "cursor": N}` says that one was deleted; the
//! last line of an id wins. `cursor` is the entry of the export queue that a line came from, so the file itself tells how
//! far it got. Times are RFC 3339.
//! Invariant: a line that [`HistoryFile::append`] has answered for is whole and on the disk; only what comes after it can
//! be torn.
//! Absent on purpose: a source of truth. The table is; this file can be made anew from it at any time.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fleet_actors::event::{Failure, RunOutcome, Usage};
use fleet_actors::ports::{ExportEntry, HistoryExport, HistoryRow, ReasoningEffort, RunOutput, SendFuture, StoreError};
use serde::{Deserialize, Serialize};

/// The file, used by one thread at a time.
#[derive(Debug)]
pub struct HistoryFile {
    path: PathBuf,
    /// The file, open for appending once it was repaired or appended to.
    current: Option<Tail>,
    /// A new file that is to take its place.
    next: Option<BufWriter<File>>,
}

/// A file whose first `len` bytes are whole lines.
#[derive(Debug)]
struct Tail {
    file: File,
    len: u64,
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
            ExportError::Io { error: io, .. } if io.kind() == ErrorKind::StorageFull => Self::Full,
            ExportError::Io { .. } => Self::Unavailable(error.to_string()),
        }
    }
}

#[derive(Serialize)]
struct ExecutionLine<'a> {
    workflow_id: &'a str,
    conversation_id: Option<&'a str>,
    task: &'a str,
    status: RunOutcome,
    result: Option<&'a RunOutput>,
    error: Option<&'a Failure>,
    reasoning_effort: Option<ReasoningEffort>,
    created_at: String,
    completed_at: String,
    runtime_ms: u64,
    model_calls: u32,
    usage: Usage,
    cursor: u64,
}

#[derive(Serialize)]
struct DeletedLine<'a> {
    deleted: &'a str,
    cursor: u64,
}

/// What every line has.
#[derive(Deserialize)]
struct AnyLine {
    cursor: u64,
}

impl HistoryFile {
    /// The file at `path`; nothing is opened yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), current: None, next: None }
    }

    /// Cuts what a crash left half written off the end; the cursor of the last whole line.
    ///
    /// # Errors
    /// [`ExportError`]; the file is as it was, or already cut.
    pub fn repair(&mut self) -> Result<Option<u64>, ExportError> {
        self.current = None;
        let mut file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let len = file.metadata().map_err(|e| self.io(e))?.len();
        let mut end = len;
        let mut found = None;
        while found.is_none() && end > 0 {
            let (start, line) = last_line(&mut file, end).map_err(|e| self.io(e))?;
            match line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<AnyLine>(line).ok()) {
                Some(line) => found = Some(line.cursor),
                None => end = start,
            }
        }
        if end < len {
            tracing::warn!(path = %self.path.display(), bytes = len - end, "cut a torn end off the history file");
            file.set_len(end).map_err(|e| self.io(e))?;
            file.sync_all().map_err(|e| self.unsynced(&self.path, e))?;
        }
        file.seek(SeekFrom::Start(end)).map_err(|e| self.io(e))?;
        self.current = Some(Tail { file, len: end });
        Ok(found)
    }

    /// Appends entries, all of them by one sync.
    ///
    /// # Errors
    /// [`ExportError`]; after [`ExportError::Io`] the file ends where it ended before.
    pub fn append(&mut self, entries: &[ExportEntry]) -> Result<(), ExportError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for entry in entries {
            let written = match &entry.row {
                Some(row) => write_row(&mut lines, row, entry.cursor),
                None => write_line(&mut lines, &DeletedLine { deleted: entry.workflow.as_str(), cursor: entry.cursor }),
            };
            written.map_err(|e| self.io(e))?;
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

    /// Begins a new file beside this one.
    ///
    /// # Errors
    /// [`ExportError::Io`].
    pub fn begin_rewrite(&mut self) -> Result<(), ExportError> {
        self.next = None;
        self.make_dir()?;
        let file = File::create(self.next_path()).map_err(|e| self.io(e))?;
        self.next = Some(BufWriter::new(file));
        Ok(())
    }

    /// Adds rows, as of `cursor`, to the new file.
    ///
    /// # Errors
    /// [`ExportError::Io`], also when no rewrite was begun. The rewrite is over then.
    pub fn rewrite_rows(&mut self, cursor: u64, rows: &[HistoryRow]) -> Result<(), ExportError> {
        let mut next = self.take_next()?;
        for row in rows {
            write_row(&mut next, row, cursor).map_err(|e| self.io(e))?;
        }
        self.next = Some(next);
        Ok(())
    }

    /// Makes the new file durable and puts it in this one's place.
    ///
    /// # Errors
    /// [`ExportError`]; this file is the old one or the new one, never a mixture.
    pub fn finish_rewrite(&mut self) -> Result<(), ExportError> {
        let next = self.take_next()?;
        let mut file = next.into_inner().map_err(|e| self.io(e.into_error()))?;
        file.sync_all().map_err(|e| self.unsynced(&self.next_path(), e))?;
        std::fs::rename(self.next_path(), &self.path).map_err(|e| self.io(e))?;
        self.sync_dir()?;
        let len = file.stream_position().map_err(|e| self.io(e))?;
        self.current = Some(Tail { file, len });
        Ok(())
    }

    fn open(&mut self) -> Result<Tail, ExportError> {
        if !self.path.exists() {
            self.make_dir()?;
            File::create_new(&self.path).map_err(|e| self.io(e))?;
            self.sync_dir()?;
        }
        self.repair()?;
        self.current.take().ok_or_else(|| self.io(ErrorKind::NotFound.into()))
    }

    fn take_next(&mut self) -> Result<BufWriter<File>, ExportError> {
        self.next.take().ok_or_else(|| self.io(std::io::Error::other("no rewrite was begun")))
    }

    fn next_path(&self) -> PathBuf {
        self.path.with_extension("jsonl.new")
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

fn write_row(out: &mut impl Write, row: &HistoryRow, cursor: u64) -> std::io::Result<()> {
    write_line(
        out,
        &ExecutionLine {
            workflow_id: row.workflow_id.as_str(),
            conversation_id: row.conversation_id.as_ref().map(|id| id.as_str()),
            task: &row.task,
            status: row.status,
            result: row.result.as_ref(),
            error: row.error.as_ref(),
            reasoning_effort: row.reasoning_effort,
            created_at: row.created_at.to_string(),
            completed_at: row.completed_at.to_string(),
            runtime_ms: row.runtime_ms,
            model_calls: row.model_calls,
            usage: row.usage,
            cursor,
        },
    )
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Where the last line before `end` begins, and its bytes, its line feed included if it has one.
fn last_line(file: &mut File, end: u64) -> std::io::Result<(u64, Vec<u8>)> {
    const STEP: u64 = 64 * 1024;
    let mut start = end;
    let mut bytes = Vec::new();
    while start > 0 {
        let from = start.saturating_sub(STEP);
        let mut block = vec![0; usize::try_from(start - from).unwrap_or_default()];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block)?;
        // The line's own line feed is the last byte before `end` and begins nothing.
        let own = usize::from(start == end);
        let feed = block[..block.len() - own].iter().rposition(|byte| *byte == b'\n');
        let begins = feed.map_or(0, |at| at + 1);
        let mut line = block.split_off(begins);
        line.append(&mut bytes);
        bytes = line;
        start = from + begins as u64;
        if feed.is_some() {
            break;
        }
    }
    Ok((start, bytes))
}

/// The file behind its port: each call runs on a thread that may block, one after the other.
#[derive(Clone, Debug)]
pub struct JsonlExport {
    file: Arc<Mutex<HistoryFile>>,
}

impl JsonlExport {
    /// The export to the file at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { file: Arc::new(Mutex::new(HistoryFile::new(path))) }
    }

    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut HistoryFile) -> Result<T, ExportError> + Send + 'static,
    ) -> SendFuture<'_, Result<T, StoreError>> {
        let file = self.file.clone();
        Box::pin(async move {
            let work = move || work(&mut file.lock().unwrap_or_else(PoisonError::into_inner));
            match tokio::task::spawn_blocking(work).await {
                Ok(done) => Ok(done?),
                Err(stopped) => Err(StoreError::Unavailable(stopped.to_string())),
            }
        })
    }
}

impl HistoryExport for JsonlExport {
    fn repair(&self) -> SendFuture<'_, Result<Option<u64>, StoreError>> {
        self.with(HistoryFile::repair)
    }

    fn append(&self, entries: Vec<ExportEntry>) -> SendFuture<'_, Result<(), StoreError>> {
        self.with(move |file| file.append(&entries))
    }

    fn rewrite(&self) -> SendFuture<'_, Result<(), StoreError>> {
        self.with(HistoryFile::begin_rewrite)
    }

    fn rows(&self, cursor: u64, rows: Vec<HistoryRow>) -> SendFuture<'_, Result<(), StoreError>> {
        self.with(move |file| file.rewrite_rows(cursor, &rows))
    }

    fn finish(&self) -> SendFuture<'_, Result<(), StoreError>> {
        self.with(HistoryFile::finish_rewrite)
    }
}
