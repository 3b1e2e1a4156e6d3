//! The store's only writer: hands on what arrives at once, in groups when the store is behind.
//!
//! The store makes one transaction of the commits that came while its last one ran, so the disk is never idle while this
//! actor's thread is on its way to say what comes next. As long as nobody waits and the store has room for more, its door
//! hands an append on without a change of thread; what comes beyond waits in the actor. Once a write finds the store full or
//! not to be written, new work is refused ([`Checkpoints::refusal`]) until a probe gets through; what runs, and what deletes,
//! still asks for itself.
//!
//! Invariant: asks reach the store in the order they were asked.
//! Absent on purpose: a delay to make groups larger. The disk's own time is the window.

mod actor;
mod door;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use crate::ports::StoreError;

pub use self::actor::CheckpointActor;
pub use self::door::Checkpoints;

/// What bounds the writer. The binary fills it from its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterLimits {
    /// At most this many asks wait; one more is answered [`StoreError::Unavailable`]. Default 4,096.
    pub queue_max: usize,
    /// At most this many asks are one commit, of this actor and of a store's transaction. Default 64.
    pub group_max: usize,
    /// Nor more bytes than this, one ask excepted. Default 1 MiB.
    pub group_bytes_max: usize,
    /// Between two looks whether a store that is full, or cannot be written, takes writes again. Default 1 s.
    pub probe_interval: Duration,
}

impl Default for WriterLimits {
    fn default() -> Self {
        let probe_interval = Duration::from_secs(1);
        Self { queue_max: 4_096, group_max: 64, group_bytes_max: 1 << 20, probe_interval }
    }
}

/// What to do when the store can promise nothing any more.
pub type OnStorageFailed = Arc<dyn Fn(&str) + Send + Sync>;

/// As the log knows it.
const NAME: &str = "CheckpointActor";
/// An ask waits this long; a slow disk is not a lost one, so the asker asks again.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

fn gone() -> StoreError {
    StoreError::Unavailable("the writer stopped".to_owned())
}

#[cfg(test)]
mod tests;
