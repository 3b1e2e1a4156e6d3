//! The time of scripted runs: paused, and the same in each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::Timestamp;
use crate::ports::Clock;

/// When scripted runs begin.
pub(super) const BEGINNING: Timestamp = Timestamp(1_800_000_000_000);

/// Paused time as wall time, and repeatable chance.
pub(super) struct PausedClock {
    began: Instant,
    at: Timestamp,
    chance: AtomicU64,
}

impl PausedClock {
    pub fn at(at: Timestamp, chance: u64) -> Self {
        Self { began: Instant::now(), at, chance: AtomicU64::new(chance) }
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        self.at.after(self.began.elapsed())
    }

    fn random(&self) -> u64 {
        let n = self.chance.fetch_add(1, Ordering::Relaxed);
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Does `work` on a runtime of its own whose time is paused.
pub(super) fn paused<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let limit = Duration::from_secs(30 * 86_400);
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("the run did not end"))
    })
}
