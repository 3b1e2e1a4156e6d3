//! The one store: an adapter of [`fleet_actors::ports::Store`] over one SQLite file.
//!
//! Everything that must become durable together is one transaction, made by the one thread that writes; a few more read. The
//! history file and the lock of the data directory live beside it.
//!
//! Invariant: what was answered survives `kill -9`, and with `durability: power` a power cut.
//! Absent on purpose: any word of HTTP or of what a record means. Records are bytes with a checksum here.

mod append;
mod change;
mod columns;
mod commits;
mod export;
mod fault;
mod history;
mod journal;
mod kept;
mod lists;
mod lock;
mod mover;
mod options;
mod readers;
mod record;
mod redo;
mod remove;
mod reserve;
mod schema;
mod settling;
mod wal;
mod wal_file;
mod writer;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use fleet_actors::ids::{ConversationId, Position, RequestId, Seq, Timestamp, WorkflowId};
use fleet_actors::ports::{
    Append, Clock, Command, ConversationRow, ExportEntry, HistoryRow, MessageRow, Outcome, PageFrom, QuestionFilter,
    QuestionRow, RecordRow, RequestRow, SendFuture, Store, StoreError, StoreWrite, WorkflowFilter, WorkflowRow,
    Written,
};
use fleet_actors::watch::Watch;
use tokio::sync::oneshot;

pub use export::{ExportError, HistoryFile, JsonlExport};
pub use lock::{DataDirLock, LockError};
pub use options::SqliteOptions;

use self::commits::Commits;
use self::fault::Fault;
use self::journal::Page;
use self::mover::Mover;
use self::readers::Readers;
use self::reserve::Reserve;
use self::settling::{Settling, Subject, Turn};
use self::wal::{Gate, Wal};
use self::wal_file::WalFile;
use self::writer::{Job, Reply, Writer};

/// Jobs that wait for the writer, more than its door hands on at once. A full queue is an answer: [`StoreError::Unavailable`].
const WRITE_QUEUE: usize = 2_048;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A newer binary wrote it.
    #[error("{path} has data version {found}, this binary knows up to {known}: use the newer binary")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// It must be migrated first, by a command that writes.
    #[error("{path} has data version {found}, this binary needs {known}: start the server once")]
    Older {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// It is a database of somebody else.
    #[error("{path} is a database, but not one of agentic-fleet")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// SQLite cannot use it: damaged, not a database, full.
    #[error("{path}: {error}{}", cure(.error))]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        error: StoreError,
    },
    /// The file system refuses one of the database's files.
    #[error("{path}: {why}, or name another directory with --data-dir")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and what to do about it.
        why: String,
    },
    /// SQLite must write beside the database, to read it too.
    #[error(
        "{path}: {error}; SQLite makes files beside it: let this user write there, or copy the data directory to where it can"
    )]
    Alone {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        error: StoreError,
    },
    /// The system said no.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// What to do about a store that cannot be opened, where that is known.
fn cure(error: &StoreError) -> &'static str {
    match error {
        StoreError::Full => "; free space there, or name another directory with --data-dir",
        StoreError::Unwritable(_) | StoreError::Damaged(_) | StoreError::Failed(_) | StoreError::Unavailable(_) => "",
    }
}

/// The store. Dropping it waits for what is under way and leaves one file behind.
pub struct SqliteStore {
    /// Both are there until the store is dropped.
    readers: Option<Readers>,
    /// None when it was opened to read.
    writer: Option<WriterHandle>,
    /// Which opening of the store this is; 0 for one that only reads.
    opening: i64,
    /// A page of records ends after this long.
    read_timeout: Duration,
    read_patience: Duration,
}

struct WriterHandle {
    jobs: SyncSender<Job>,
    /// Gone once somebody has waited for its end.
    thread: Mutex<Option<JoinHandle<()>>>,
    settling: Arc<Settling>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("opening", &self.opening).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens a store, making or migrating it. The caller holds the data directory's [lock](DataDirLock).
    ///
    /// # Errors
    /// [`OpenError`]; nothing is changed then but by migrations that succeeded, and nothing that the last process acknowledged
    /// is lost.
    pub fn open(options: &SqliteOptions, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_watched(options, clock, &Watch::default())
    }

    /// Opens it as [`open`](Self::open) does, with somebody who is told if one of its threads panics.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_watched(options: &SqliteOptions, clock: Arc<dyn Clock>, watch: &Watch) -> Result<Self, OpenError> {
        let path = &options.database;
        let explain = |fault: Fault| schema::explain_fault(path, fault);
        let settling = Arc::new(Settling::default());
        let begin = || {
            let db = schema::open_writer(path, options.pages_max)?;
            let mut commits = Commits::open(db, path, options.durability, settling.clone())?;
            let opening = commits.transact(schema::next_opening).map_err(explain)?;
            Ok((commits, opening))
        };
        let mut reserve = Reserve::new(options.reserve.clone(), options.reserve_bytes);
        let begun = match begin() {
            Err(OpenError::Store { error: StoreError::Full, .. }) => {
                // The last process may have left no other room than that of its own files.
                WalFile::give_back(path);
                reserve.give_up();
                let again = begin();
                reserve.take_back();
                again
            }
            begun => begun,
        };
        let (mut commits, opening) = begun?;
        let gate = Arc::new(Gate::default());
        let wal = Wal::new(&mut commits.db, options, gate.clone(), Mover::start(path, watch)?)
            .map_err(|e| explain(e.into()))?;
        let readers = Readers::start(path, options.readers, &gate, watch)?;
        let writer = Writer::new(commits, wal, reserve, clock, opening, options.group);
        let (jobs, queue) = sync_channel(WRITE_QUEUE);
        let thread = std::thread::Builder::new().name("store-write".into()).spawn({
            let (watch, settles) = (watch.clone(), settling.clone().until_dropped());
            move || {
                let _settles = settles;
                let _alive = watch.alive("store writer");
                writer.run(&queue);
            }
        });
        let thread = thread.map_err(|error| OpenError::Io { path: path.clone(), error })?;
        let writer = Some(WriterHandle { jobs, thread: Mutex::new(Some(thread)), settling });
        let SqliteOptions { read_timeout, read_patience, .. } = *options;
        Ok(Self { readers: Some(readers), writer, opening, read_timeout, read_patience })
    }

    /// Opens a store that another process may be writing. Every write is refused.
    ///
    /// # Errors
    /// [`OpenError`], also when there is no store yet or it needs a migration.
    pub fn open_read_only(options: &SqliteOptions) -> Result<Self, OpenError> {
        let readers = Readers::start(&options.database, NonZeroUsize::MIN, &Arc::default(), &Watch::default())?;
        let SqliteOptions { read_timeout, read_patience, .. } = *options;
        Ok(Self { readers: Some(readers), writer: None, opening: 0, read_timeout, read_patience })
    }

    /// Whether the last process was killed and left something acknowledged that only an [`open`](Self::open) makes readable.
    ///
    /// Beside a process that writes it is so for moments, and means nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_behind(&self, options: &SqliteOptions) -> Result<bool, StoreError> {
        let database = options.database.clone();
        self.look(move |db| redo::is_behind(db, &database)).await
    }

    /// Ends writing: what waits is still written, then the log is moved into the database. Blocks until that is done.
    pub fn close(&self) {
        let Some(writer) = &self.writer else { return };
        // A writer that has ended takes no word.
        let _ = writer.jobs.send(Job::Close);
        let thread = writer.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of the store panicked");
        }
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        let Some(writer) = &self.writer else {
            return Err(StoreError::Unavailable("it was opened to read".into()));
        };
        let (reply, answer) = oneshot::channel();
        // It was closed, or ended by a panic, of which whoever watches was told.
        let gone = || StoreError::Unavailable("the writer of the store is gone".into());
        writer.jobs.try_send(job(reply)).map_err(|refused| match refused {
            TrySendError::Full(_) => StoreError::Unavailable(format!("{WRITE_QUEUE} writes wait already")),
            TrySendError::Disconnected(_) => gone(),
        })?;
        answer.await.map_err(|_| gone())?
    }

    /// Waits until what was acknowledged about this can be read.
    ///
    /// # Errors
    /// It cannot, for now. What is about anything is read as it stands.
    async fn settled(&self, subject: &Subject) -> Result<(), StoreError> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let settled = match writer.settling.turn(subject) {
            Turn::Now => true,
            Turn::Never => false,
            Turn::Later(settled, first) => {
                if first {
                    // A full queue needs no more words: the writer looks for readers behind every job.
                    let _ = writer.jobs.try_send(Job::Settle);
                }
                settled.await.unwrap_or(false)
            }
        };
        if settled || *subject == Subject::Anything {
            return Ok(());
        }
        Err(StoreError::Unavailable("what was acknowledged about it cannot be read yet".into()))
    }

    fn look<'a, T: Send + 'static>(
        &'a self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Fault> + Send + 'static,
    ) -> SendFuture<'a, Result<T, StoreError>> {
        self.look_at(Subject::Anything, work)
    }

    /// Reads what is about `subject` alone, and waits for nothing else.
    fn look_at<'a, T: Send + 'static>(
        &'a self,
        subject: Subject,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Fault> + Send + 'static,
    ) -> SendFuture<'a, Result<T, StoreError>> {
        Box::pin(self.in_time(self.read_about(subject, work)))
    }

    async fn read_about<T: Send + 'static>(
        &self,
        subject: Subject,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.settled(&subject).await?;
        match &self.readers {
            Some(readers) => readers.read(work).await,
            None => Err(StoreError::Unavailable("the store was closed".into())),
        }
    }

    /// As [`look`](Self::look), for as long as it takes: nobody outside waits for it, and it may be all there is.
    fn look_through<'a, T: Send + 'static>(
        &'a self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Fault> + Send + 'static,
    ) -> SendFuture<'a, Result<T, StoreError>> {
        Box::pin(self.read_about(Subject::Anything, work))
    }

    /// A disk that hangs keeps nobody waiting for ever.
    async fn in_time<T>(&self, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let late = |_| Err(StoreError::Unavailable("a read was not answered in time".into()));
        tokio::time::timeout(self.read_patience, read).await.unwrap_or_else(late)
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // Readers first: the last connection to close is the one that may tidy up.
        if let Some(readers) = self.readers.take() {
            readers.stop();
        }
        self.close();
    }
}

impl Store for SqliteStore {
    fn commit(&self, appends: Vec<Arc<Append>>) -> SendFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(self.ask(|reply| Job::Commit(appends, reply)))
    }

    fn write(&self, write: StoreWrite) -> SendFuture<'_, Result<Written, StoreError>> {
        Box::pin(self.ask(|reply| Job::Write(write, reply)))
    }

    fn workflow(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Option<WorkflowRow>, StoreError>> {
        let id = workflow.clone();
        self.look_at(Subject::Workflow(id.clone()), move |db| lists::workflow(db, &id))
    }

    fn workflows(&self, filter: WorkflowFilter) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>> {
        let subject = match &filter.conversation {
            // Of those that run, nothing else changes that a list shows.
            Some(conversation) if filter.unfinished => Subject::Conversation(conversation.clone()),
            Some(_) | None => Subject::Anything,
        };
        self.look_at(subject, move |db| lists::workflows(db, &filter))
    }

    fn read(
        &self,
        workflow: &WorkflowId,
        after: Position,
        max_bytes: usize,
    ) -> SendFuture<'_, Result<Vec<RecordRow>, StoreError>> {
        let id = workflow.clone();
        let page = Page::new(max_bytes, self.read_timeout);
        self.look_at(Subject::Workflow(id.clone()), move |db| journal::read(db, &id, after, page))
    }

    fn read_events(
        &self,
        workflow: &WorkflowId,
        after: Seq,
        max_bytes: usize,
    ) -> SendFuture<'_, Result<Vec<RecordRow>, StoreError>> {
        let id = workflow.clone();
        let page = Page::new(max_bytes, self.read_timeout);
        self.look_at(Subject::Workflow(id.clone()), move |db| journal::read_events(db, &id, after, page))
    }

    fn inbox(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Vec<Command>, StoreError>> {
        let id = workflow.clone();
        self.look_at(Subject::Workflow(id.clone()), move |db| lists::inbox(db, &id))
    }

    fn adopt(&self, now: Timestamp, max: u32) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>> {
        let opening = self.opening;
        self.look_through(move |db| lists::adoptable(db, opening, now, max))
    }

    fn adopt_children(&self, now: Timestamp, max: u32) -> SendFuture<'_, Result<Vec<WorkflowRow>, StoreError>> {
        let opening = self.opening;
        self.look_through(move |db| lists::adoptable_children(db, opening, now, max))
    }

    fn next_wake(&self) -> SendFuture<'_, Result<Option<Timestamp>, StoreError>> {
        self.look(lists::next_wake)
    }

    fn questions(&self, filter: QuestionFilter) -> SendFuture<'_, Result<Vec<QuestionRow>, StoreError>> {
        self.look(move |db| lists::questions(db, &filter))
    }

    fn askers(&self, request: &RequestId) -> SendFuture<'_, Result<Vec<WorkflowId>, StoreError>> {
        let request = request.clone();
        self.look(move |db| lists::askers(db, &request))
    }

    fn request(&self, key: &str) -> SendFuture<'_, Result<Option<RequestRow>, StoreError>> {
        let key = key.to_owned();
        self.look_at(Subject::Request(key.as_str().into()), move |db| lists::request(db, &key))
    }

    fn conversation(&self, id: &ConversationId) -> SendFuture<'_, Result<Option<ConversationRow>, StoreError>> {
        let id = id.clone();
        self.look_at(Subject::Conversation(id.clone()), move |db| lists::conversation(db, &id))
    }

    fn conversations(&self, limit: u32, offset: u64) -> SendFuture<'_, Result<Vec<ConversationRow>, StoreError>> {
        self.look(move |db| lists::conversations(db, limit, offset))
    }

    fn messages(
        &self,
        id: &ConversationId,
        limit: u32,
        except: Option<WorkflowId>,
    ) -> SendFuture<'_, Result<Vec<MessageRow>, StoreError>> {
        let id = id.clone();
        self.look_at(Subject::Conversation(id.clone()), move |db| lists::messages(db, &id, limit, except.as_ref()))
    }

    fn history(&self, from: PageFrom, limit: u32) -> SendFuture<'_, Result<Vec<HistoryRow>, StoreError>> {
        self.look(move |db| history::page(db, &from, limit))
    }

    fn history_entry(&self, workflow: &WorkflowId) -> SendFuture<'_, Result<Option<HistoryRow>, StoreError>> {
        let id = workflow.clone();
        Box::pin(self.in_time(async move {
            self.settled(&Subject::Workflow(id.clone())).await?;
            // A child's end changes its parent's entry.
            self.look(move |db| history::entry(db, &id)).await
        }))
    }

    fn history_count(&self) -> SendFuture<'_, Result<u64, StoreError>> {
        self.look(history::count)
    }

    fn export_queue(&self, limit: u32) -> SendFuture<'_, Result<(u64, Vec<ExportEntry>), StoreError>> {
        self.look(move |db| history::export_queue(db, limit))
    }

    fn history_scan(
        &self,
        after: Option<WorkflowId>,
        limit: u32,
    ) -> SendFuture<'_, Result<Vec<HistoryRow>, StoreError>> {
        self.look(move |db| history::scan(db, after.as_ref(), limit))
    }
}

/// Whether freeing space, a larger quota or a larger limit of files may help.
fn is_without_room(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The file beside a database whose name ends so.
fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Where a file lies.
fn dir_of(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes what was created or renamed in `dir` durable.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}
