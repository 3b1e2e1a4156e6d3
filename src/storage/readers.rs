//! The threads that read.
//!
//! Each has a connection that cannot write; a read is one transaction, so it sees one moment of the store. Whoever finds
//! all of them busy waits in a bounded queue, without holding a thread, until its caller gives up.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};
use fleet_actors::ports::StoreError;
use fleet_actors::watch::Watch;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::fault::Fault;
use super::wal::Gate;
use super::{OpenError, schema};

/// Reads that wait for a thread, for each thread.
const QUEUE: usize = 64;

/// What is to be read, and its place in the queue.
type Read = (Box<dyn FnOnce(&Connection) + Send>, OwnedSemaphorePermit);

pub(super) struct Readers {
    /// Bounded by its places: who waits for one must not hold a thread.
    queue: Sender<Read>,
    places: Arc<Semaphore>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub fn start(path: &Path, threads: NonZeroUsize, gate: &Arc<Gate>, watch: &Watch) -> Result<Self, OpenError> {
        let (queue, reads) = unbounded::<Read>();
        let places = Arc::new(Semaphore::new(QUEUE * threads.get()));
        let start = |n: usize| {
            let db = schema::open_reader(path)?;
            let (reads, gate, watch) = (reads.clone(), gate.clone(), watch.clone());
            let thread = std::thread::Builder::new().name(format!("store-read-{n}"));
            let serve = move || {
                let _alive = watch.alive("store reader");
                for (read, place) in reads {
                    drop(place);
                    gate.pass();
                    read(&db);
                }
            };
            thread.spawn(serve).map_err(|error| OpenError::Io { path: path.into(), error })
        };
        let threads = (0..threads.get()).map(start).collect::<Result<_, _>>()?;
        Ok(Self { queue, places, threads })
    }

    /// Reads in one transaction.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let gone = || StoreError::Unavailable("the store was closed".into());
        let place = self.places.clone().acquire_owned().await.map_err(|_| gone())?;
        let read = Box::new(move |db: &Connection| {
            if !reply.is_closed() {
                drop(reply.send(at_one_moment(db, work).map_err(StoreError::from)));
            }
        });
        self.queue.send((read, place)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
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

fn at_one_moment<T>(db: &Connection, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
    let tx = db.unchecked_transaction()?;
    work(&tx)
}
