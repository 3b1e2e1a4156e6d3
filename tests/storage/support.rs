//! A store in a directory of its own.

use std::path::PathBuf;
use std::sync::Arc;

use agentic_fleet::settings::Durability;
use agentic_fleet::storage::{SqliteOptions, SqliteStore};
use fleet_actors::ids::{Position, WorkflowId};
use fleet_actors::ports::{RecordRow, Store};
use fleet_actors::testing::ManualClock;
use fleet_actors::testing::store_contract::Harness;
use tempfile::TempDir;

pub const DATABASE: &str = "fleet.db";

/// For tests in which syncs prove nothing and cost much.
pub fn without_syncs(options: &mut SqliteOptions) {
    options.durability = Durability::Process;
}

pub struct OnDisk {
    pub dir: TempDir,
    pub clock: ManualClock,
    pub options: SqliteOptions,
    store: Option<Arc<SqliteStore>>,
}

impl OnDisk {
    pub fn new(change: impl FnOnce(&mut SqliteOptions)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut options = SqliteOptions::new(dir.path());
        change(&mut options);
        let mut made = Self { dir, clock: ManualClock::default(), options, store: None };
        made.open();
        made
    }

    pub fn open(&mut self) {
        self.close();
        let store = SqliteStore::open(&self.options, Arc::new(self.clock.clone()));
        self.store = Some(Arc::new(store.expect("the store opens")));
    }

    /// Closes the store: its file is whole then, and nothing else is left.
    pub fn close(&mut self) {
        if let Some(store) = self.store.take() {
            drop(Arc::try_unwrap(store).expect("nobody else holds the store"));
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// All records of a workflow, page after page: a slow machine makes pages short.
pub fn records_of(store: &dyn Store, workflow: &WorkflowId) -> Vec<RecordRow> {
    let mut records: Vec<RecordRow> = Vec::new();
    loop {
        let after = records.last().map_or(Position(0), |last| last.position);
        let page = block_on(store.read(workflow, after, usize::MAX)).expect("a journal");
        if page.is_empty() {
            return records;
        }
        records.extend(page);
    }
}

/// Something to store.
pub mod make {
    use std::sync::Arc;

    use fleet_actors::ids::{ConversationId, Epoch, Position, Seq, Timestamp, WorkflowId};
    use fleet_actors::ports::{Append, Claim, HistoryRow, NewWorkflow, Next, RecordBody, RecordRow};
    use fleet_actors::testing::plain;

    pub fn id(name: &str) -> WorkflowId {
        WorkflowId::from_trusted(name)
    }

    pub fn talk(name: &str) -> ConversationId {
        ConversationId::from_trusted(name)
    }

    /// A group as a store takes it.
    pub fn all(appends: impl IntoIterator<Item = Append>) -> Vec<Arc<Append>> {
        appends.into_iter().map(Arc::new).collect()
    }

    /// A workflow of the conversation `c-<name>` with so many records.
    pub fn first(name: &str, records: u64) -> Append {
        Append { create: Some(Box::new(made(name, "a task"))), ..more(name, 0, records) }
    }

    fn made(name: &str, task: &str) -> NewWorkflow {
        let made = plain::made("chat", task, Timestamp(1_000));
        NewWorkflow { conversation: Some(talk(&format!("c-{name}"))), ..made }
    }

    pub fn more(name: &str, after: u64, records: u64) -> Append {
        let record = |at: u64| RecordRow {
            position: Position(at),
            epoch: Epoch(0),
            seq: Some(Seq(at)),
            kind: "step_completed".into(),
            path: format!("step#{at}").into(),
            head: format!(r#"{{"at":{at}}}"#).into_bytes(),
            body: None,
        };
        let claim = Claim { workflow: id(name), epoch: Epoch(0) };
        plain::append(claim, Position(after), (after + 1..=after + records).map(record).collect())
    }

    /// The same append, each record with a body of its own.
    pub fn with_bodies(mut append: Append, bytes: usize) -> Append {
        for record in &mut append.records {
            let mut body = vec![b'x'; bytes];
            let mark = format!("{}:{}", append.claim.workflow, record.position.0);
            body[..mark.len()].copy_from_slice(mark.as_bytes());
            record.body = Some(RecordBody { bytes: body.into(), shared: false });
        }
        append
    }

    pub fn ended(append: Append) -> Append {
        let row = entry(append.claim.workflow.as_str());
        Append { next: Next::Ended(Arc::new(row)), ..append }
    }

    pub fn entry(name: &str) -> HistoryRow {
        let row = plain::entry(id(name), &made(name, "a task\nof two lines"), Timestamp(2_500));
        HistoryRow { runtime_ms: 7, model_calls: 1, ..row }
    }
}

impl Harness for OnDisk {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().expect("the store is open")
    }

    fn restart(&mut self) {
        // A case may still hold the old store, as a process that does not know it is dead.
        self.store = None;
        let store = SqliteStore::open(&self.options, Arc::new(self.clock.clone()));
        self.store = Some(Arc::new(store.expect("the store opens")));
    }

    fn clock(&self) -> ManualClock {
        self.clock.clone()
    }
}
