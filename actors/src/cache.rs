//! What runs share for a while, in memory and bounded.
//!
//! The entry whose time is over first makes room when the cache is full; a value too large is not kept.
//! Absent on purpose: anything durable. A cache that a restart empties costs calls, never results.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::ids::Timestamp;
use crate::ports::{Cache, Clock};

/// Bytes of one value; larger ones are not kept.
const VALUE_BYTES_MAX: usize = 256 << 10;

/// The cache of a process.
pub struct MemoryCache {
    clock: Arc<dyn Clock>,
    entries_max: usize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_key: BTreeMap<Arc<str>, (Timestamp, Value)>,
    /// The same keys by when their time is over.
    by_end: BTreeSet<(Timestamp, Arc<str>)>,
}

impl Entries {
    fn insert(&mut self, key: Arc<str>, until: Timestamp, value: Value) {
        self.by_end.insert((until, key.clone()));
        self.by_key.insert(key, (until, value));
    }

    fn remove(&mut self, key: &str) {
        if let Some((key, (until, _))) = self.by_key.remove_entry(key) {
            self.by_end.remove(&(until, key));
        }
    }
}

impl std::fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryCache").field("entries_max", &self.entries_max).finish_non_exhaustive()
    }
}

impl MemoryCache {
    /// An empty cache of at most `entries_max` entries, at least one, that judges age by `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, entries_max: usize) -> Self {
        Self { clock, entries_max: entries_max.max(1), entries: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache for MemoryCache {
    fn get(&self, key: &str) -> Option<Value> {
        let now = self.clock.now();
        let mut entries = self.entries();
        if entries.by_key.get(key).is_some_and(|(until, _)| *until <= now) {
            entries.remove(key);
        }
        entries.by_key.get(key).map(|(_, value)| value.clone())
    }

    fn put(&self, key: &str, value: Value, ttl: Duration) {
        if ttl.is_zero() || value.to_string().len() > VALUE_BYTES_MAX {
            return;
        }
        let until = self.clock.now().after(ttl);
        let mut entries = self.entries();
        entries.remove(key);
        if entries.by_key.len() >= self.entries_max
            && let Some((_, first)) = entries.by_end.pop_first()
        {
            entries.by_key.remove(&first);
        }
        entries.insert(key.into(), until, value);
    }

    fn forget(&self, prefix: &str) -> usize {
        let mut entries = self.entries();
        let before = entries.by_key.len();
        entries.by_key.retain(|key, _| !key.starts_with(prefix));
        entries.by_end.retain(|(_, key)| !key.starts_with(prefix));
        before - entries.by_key.len()
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::ManualClock;

    #[test]
    fn an_entry_lives_its_time_and_the_one_that_ends_first_makes_room() {
        let clock = Arc::new(ManualClock::default());
        let cache = MemoryCache::new(clock.clone(), 2);
        let seconds = Duration::from_secs;
        cache.put("a", 1.into(), seconds(10));
        cache.put("b", 2.into(), seconds(20));
        cache.put("c", 3.into(), seconds(30));
        assert_eq!([cache.get("a"), cache.get("b"), cache.get("c")], [None, Some(2.into()), Some(3.into())]);
        clock.advance(seconds(20));
        assert_eq!(cache.get("b"), None);
        cache.put("huge", "x".repeat(VALUE_BYTES_MAX).into(), seconds(30));
        assert_eq!(cache.get("huge"), None);
        assert_eq!((cache.forget("b"), cache.forget("c"), cache.get("c")), (0, 1, None));
    }
}
