//! What reached the simulated model, counted and remembered.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use serde::Serialize;

use super::wire::Parts;
use crate::llm::simulate::{FaultRates, SimulatedFault, Simulation};

/// Remembered requests hold at most so many bytes.
const REMEMBERED_BYTES: usize = 16 * 1024 * 1024;
/// Keys whose attempts are counted for `times=`.
const ATTEMPTS_MAX: usize = 10_000;

/// Counts since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Calls of a model, whatever became of them.
    pub calls: u64,
    /// Those on their way.
    pub live: u64,
    /// Those whose answer was handed over whole.
    pub completed: u64,
    /// Those whose client went away before.
    pub aborted: u64,
    /// Those that a fault ended: refused, failed, cut, garbled.
    pub faulted: u64,
    /// Requests that were no call of a model.
    pub refused: u64,
    /// Faults that struck, by name; a hang or a drip may still complete or be aborted.
    pub faults: BTreeMap<&'static str, u64>,
}

/// The shared state of the server.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) parts: Parts,
    simulation: RwLock<Arc<Simulation>>,
    requests_max: usize,
    counts: Mutex<Stats>,
    seen: Mutex<Seen>,
    attempts: Mutex<HashMap<String, u32>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Of the newest call. Never reset: rates strike by it, and `after` counts in it.
    number: u64,
    requests: VecDeque<SeenRequest>,
    bytes: usize,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct SeenRequest {
    pub(super) n: u64,
    pub(super) api: &'static str,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
}

impl Calls {
    pub(super) fn new(simulation: Simulation, requests_max: usize) -> Self {
        Self {
            parts: Parts::default(),
            simulation: RwLock::new(Arc::new(simulation)),
            requests_max,
            counts: Mutex::default(),
            seen: Mutex::default(),
            attempts: Mutex::default(),
        }
    }

    pub(super) fn simulation(&self) -> Arc<Simulation> {
        Arc::clone(&self.simulation.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_faults(&self, faults: FaultRates) {
        let mut simulation = self.simulation.write().unwrap_or_else(PoisonError::into_inner);
        *simulation = Arc::new(Simulation { faults, ..(**simulation).clone() });
    }

    pub(super) fn stats(&self) -> Stats {
        lock(&self.counts).clone()
    }

    /// Forgets counts and requests; calls on their way stay live.
    pub(super) fn reset(&self) {
        let mut counts = lock(&self.counts);
        *counts = Stats { live: counts.live, ..Stats::default() };
        let mut seen = lock(&self.seen);
        *seen = Seen { number: seen.number, ..Seen::default() };
        drop(seen);
        lock(&self.attempts).clear();
    }

    /// Counts a call and remembers its request.
    pub(super) fn begin(self: &Arc<Self>, api: &'static str, headers: &HeaderMap, body: Bytes) -> Call {
        {
            let mut counts = lock(&self.counts);
            counts.calls += 1;
            counts.live += 1;
        }
        // The number is given where the request takes its place: who pages by the last number would otherwise see one again
        // that was overtaken, and miss another.
        let mut seen = lock(&self.seen);
        seen.number += 1;
        let n = seen.number;
        if self.requests_max > 0 {
            seen.bytes += body.len();
            let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            seen.requests.push_back(SeenRequest { n, api, headers, body });
            while seen.requests.len() > self.requests_max || seen.bytes > REMEMBERED_BYTES {
                let Some(oldest) = seen.requests.pop_front() else { break };
                seen.bytes -= oldest.body.len();
            }
        }
        drop(seen);
        Call { calls: Arc::clone(self), n, end: End::Aborted }
    }

    pub(super) fn refused(&self) {
        lock(&self.counts).refused += 1;
    }

    /// Remembered requests behind `after`, oldest first.
    pub(super) fn seen_after(&self, after: u64, max: usize) -> Vec<SeenRequest> {
        let seen = lock(&self.seen);
        seen.requests.iter().filter(|request| request.n > after).take(max).cloned().collect()
    }

    /// Which attempt under `key` this is, from 1.
    pub(super) fn attempt(&self, key: &str) -> u32 {
        let mut attempts = lock(&self.attempts);
        if attempts.len() >= ATTEMPTS_MAX && !attempts.contains_key(key) {
            attempts.clear();
        }
        let attempt = attempts.entry(key.to_owned()).or_insert(0);
        *attempt += 1;
        *attempt
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy, Debug)]
enum End {
    Completed,
    Faulted,
    Aborted,
}

/// One call on its way. Dropped before it ended, its client has gone.
#[derive(Debug)]
pub(super) struct Call {
    calls: Arc<Calls>,
    pub(super) n: u64,
    end: End,
}

impl Call {
    pub(super) fn struck_by(&self, fault: SimulatedFault) {
        *lock(&self.calls.counts).faults.entry(fault.as_str()).or_insert(0) += 1;
    }

    /// The last byte was handed over.
    pub(super) fn completed(&mut self) {
        self.end = End::Completed;
    }

    /// A fault ended it.
    pub(super) fn faulted(&mut self) {
        self.end = End::Faulted;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut counts = lock(&self.calls.counts);
        counts.live = counts.live.saturating_sub(1);
        *match self.end {
            End::Completed => &mut counts.completed,
            End::Faulted => &mut counts.faulted,
            End::Aborted => &mut counts.aborted,
        } += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_pages_by_the_last_number_while_calls_come_sees_each_once() {
        const EACH: usize = 5_000;
        let calls = Arc::new(Calls::new(Simulation::default(), 4 * EACH));
        let (mut after, mut seen) = (0, Vec::new());
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..EACH).for_each(|_| drop(calls.begin("x", &HeaderMap::new(), Bytes::new()))))
                })
                .collect();
            loop {
                let over = callers.iter().all(std::thread::ScopedJoinHandle::is_finished);
                let page: Vec<_> = calls.seen_after(after, 100).iter().map(|request| request.n).collect();
                let Some(last) = page.last() else {
                    if over {
                        break;
                    }
                    continue;
                };
                after = *last;
                seen.extend(page);
            }
        });
        assert!(seen.into_iter().eq(1..=4 * EACH as u64));
    }
}
