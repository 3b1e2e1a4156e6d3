//! The threads that read.
//!
//! Each has a connection that cannot write; a read is one transaction, so it sees one moment of the store. Whoever finds
//! all of them busy waits in a bounded queue, without holding a thread, until its caller gives up.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use fleet_actors::ports::StoreError;
use fleet_actors::watch::Watch;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::fault::Fault;
use super::wal::Gate;
use super::{OpenError, schema};

/// Reads that wait for a thread, for each thread.
const QUEUE: usize = 64;

type Read = Box<dyn FnOnce(&Connection) + Send>;

pub(super) struct Readers {
    queue: mpsc::Sender<Read>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub fn start(path: &Path, threads: NonZeroUsize, gate: &Arc<Gate>, watch: &Watch) -> Result<Self, OpenError> {
        let (queue, reads) = mpsc::channel(QUEUE * threads.get());
        let reads = Arc::new(Mutex::new(reads));
        let start = |n: usize| {
            let db = schema::open_reader(path)?;
            let (reads, gate, watch) = (reads.clone(), gate.clone(), watch.clone());
            let thread = std::thread::Builder::new().name(format!("store-read-{n}"));
            let serve = move || {
                let _alive = watch.alive("store reader");
                while let Some(read) = next(&reads) {
                    gate.pass();
                    read(&db);
                }
            };
            thread.spawn(serve).map_err(|error| OpenError::Io { path: path.into(), error })
        };
        let threads = (0..threads.get()).map(start).collect::<Result<_, _>>()?;
        Ok(Self { queue, threads })
    }

    /// Reads in one transaction.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |db| {
            if !reply.is_closed() {
                drop(reply.send(at_one_moment(db, work).map_err(StoreError::from)));
            }
        });
        let gone = |()| StoreError::Unavailable("the store was closed".into());
        self.queue.send(read).await.map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?
    }

    /// Ends the threads once they have answered what waits.
    pub fn stop(self) {
        drop(self.queue);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a reader of the store panicked");
            }
        }
    }
}

fn next(reads: &Mutex<mpsc::Receiver<Read>>) -> Option<Read> {
    reads.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv()
}

fn at_one_moment<T>(db: &Connection, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
    let tx = db.unchecked_transaction()?;
    work(&tx)
}
