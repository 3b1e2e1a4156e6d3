//! Decides who may run: the cap as one atomic word.
//!
//! The word holds the cap, the live permits, those of them that woken runs hold, whether a woken run waits, and whose turn
//! it is. Every change is one compare-and-swap over all of it, so a cap that is lowered while permits are taken can never
//! be passed. A place is given back only by dropping its [`SessionPermit`]: a supervisor that panics frees its place just
//! as one that finishes does.
//!
//! Invariant: a permit is given only while `live < cap` in the same word, and a free place is never refused to both.
//! Absent on purpose: a timer that sweeps dead sessions. Ownership already frees them.

mod word;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::word::CAP_MAX;
use self::word::{Counter, Word};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimant {
    /// A new piece of work. It waits for nobody, but a place kept for a waiting woken run is not its.
    New,
    /// A run that was parked or interrupted and goes on.
    Woken,
}

/// The house is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// As many run as may.
    #[error("{live} of {cap} workflows are running")]
    CapReached {
        /// Permits that are held.
        live: u32,
        /// The cap.
        cap: u32,
    },
}

#[derive(Debug, Default)]
struct House {
    counter: Counter<AtomicU64>,
    released: Notify,
    /// New work that got a permit, and that was told "full", since the start.
    admitted: AtomicU64,
    refused: AtomicU64,
}

/// The door of the house: a permit is had or refused at once, without a wait for any mailbox.
#[derive(Clone, Debug)]
pub struct Admission {
    house: Arc<House>,
}

/// The right to run. Dropping it gives the place back.
#[derive(Debug)]
pub struct SessionPermit {
    house: Arc<House>,
    claimant: Claimant,
}

impl Admission {
    /// An empty house for `cap` runs, at most [`CAP_MAX`].
    #[must_use]
    pub fn new(cap: u32) -> Self {
        Self { house: Arc::new(House { counter: Counter::new(cap), released: Notify::new(), ..House::default() }) }
    }

    /// Permits that are held.
    #[must_use]
    pub fn live(&self) -> u32 {
        self.house.counter.word().live as u32
    }

    /// The cap.
    #[must_use]
    pub fn cap(&self) -> u32 {
        self.house.counter.word().cap as u32
    }

    /// Says whether a permit could be had now, without taking it: for refusals before a body is read.
    ///
    /// # Errors
    /// [`AdmitError::CapReached`].
    pub fn look(&self) -> Result<(), AdmitError> {
        let word = self.house.counter.word();
        if word.live < word.cap {
            return Ok(());
        }
        self.house.refused.fetch_add(1, Ordering::Relaxed);
        self.house.counter.note_refusal();
        Err(full(word))
    }

    /// Takes a permit.
    ///
    /// # Errors
    /// [`AdmitError::CapReached`] when as many run as may, when the only free place belongs to a woken run that waits,
    /// or when woken runs hold their share.
    pub fn take(&self, claimant: Claimant) -> Result<SessionPermit, AdmitError> {
        let taken = self.house.counter.take(claimant);
        let counted = if taken.is_ok() { &self.house.admitted } else { &self.house.refused };
        // Woken runs were admitted once already, and wait instead of being refused.
        if claimant == Claimant::New {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        match taken {
            Ok(_) => Ok(SessionPermit { house: self.house.clone(), claimant }),
            Err(word) => Err(full(word)),
        }
    }

    /// How much new work was admitted and refused since the start, at whatever door.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (self.house.admitted.load(Ordering::Relaxed), self.house.refused.load(Ordering::Relaxed))
    }

    /// Says whether woken runs wait; while they do, a released place is theirs first.
    pub fn set_waiting(&self, waiting: bool) {
        self.house.counter.set_waiting(waiting);
    }

    /// Takes a permit for a woken run. A free place whose turn is new work's is left to it for `patience`; `kept` says
    /// since when, from one try of the same run to the next.
    ///
    /// # Errors
    /// [`AdmitError::CapReached`], also when the place is kept.
    pub fn take_woken(&self, kept: &mut Option<Instant>, patience: Duration) -> Result<SessionPermit, AdmitError> {
        let taken = self.take(Claimant::Woken);
        let word = self.house.counter.word();
        let since = (word.live < word.cap && word.new_was_refused).then(|| kept.unwrap_or_else(Instant::now));
        *kept = since;
        if taken.is_ok() || since.is_none_or(|since| since.elapsed() < patience) {
            return taken;
        }
        // New work was told to come back and did not.
        self.house.counter.pass_over();
        self.take(Claimant::Woken)
    }

    /// Changes the cap. Lowering it stops admissions until enough permits came back; none is taken away.
    pub fn resize(&self, cap: u32) {
        self.house.counter.resize(cap);
        self.house.released.notify_one();
    }

    /// Waits for a permit to come back or the cap to change; may wake without cause. Of those who wait one is woken, which
    /// may not be the one that can go on, so each of them looks again by itself, too.
    pub async fn released(&self) {
        self.house.released.notified().await;
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        self.house.counter.give_back(self.claimant);
        self.house.released.notify_one();
    }
}

fn full(word: Word) -> AdmitError {
    AdmitError::CapReached { live: word.live as u32, cap: word.cap as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_is_exact_and_a_dropped_permit_is_a_free_place() {
        let house = Admission::new(2);
        let first = house.take(Claimant::New);
        let second = house.take(Claimant::New);
        assert_eq!(house.take(Claimant::New).err(), Some(AdmitError::CapReached { live: 2, cap: 2 }));
        assert_eq!(house.look(), Err(AdmitError::CapReached { live: 2, cap: 2 }));
        drop(first);
        assert!(house.take(Claimant::New).is_ok());
        drop(second);
        assert_eq!(house.live(), 0);
    }

    #[test]
    fn a_lowered_cap_admits_nobody_until_enough_came_back() {
        let house = Admission::new(3);
        let mut held: Vec<_> = (0..3).map(|_| house.take(Claimant::New)).collect();
        house.resize(1);
        held.pop();
        held.pop();
        assert!(house.take(Claimant::New).is_err());
        held.pop();
        assert!(house.take(Claimant::New).is_ok());
    }

    #[test]
    fn woken_runs_hold_at_most_three_quarters_and_go_ahead_of_new_work() {
        let house = Admission::new(4);
        let woken: Vec<_> = (0..4).filter_map(|_| house.take(Claimant::Woken).ok()).collect();
        assert_eq!(woken.len(), 3);
        assert!(house.take(Claimant::New).is_ok());
        drop(woken);
        let _busy: Vec<_> = (0..3).filter_map(|_| house.take(Claimant::New).ok()).collect();
        house.set_waiting(true);
        assert!(house.take(Claimant::New).is_err(), "the last place is the woken run's");
        assert!(house.take(Claimant::Woken).is_ok());
    }

    #[test]
    fn with_one_place_woken_runs_and_new_work_that_both_wait_take_turns() {
        let house = Admission::new(1);
        house.set_waiting(true);
        let (mut order, mut kept) = (Vec::new(), None);
        let hour = Duration::from_secs(3_600);
        let mut held = house.take_woken(&mut kept, hour).ok();
        order.extend(held.as_ref().map(|permit| permit.claimant));
        for round in 0..1_000 {
            // Both ask while the place is held, and both again when it is free, in both orders.
            assert!(house.look().is_err() && house.take(Claimant::New).is_err());
            assert!(house.take_woken(&mut kept, hour).is_err());
            drop(held.take());
            let first = if round % 2 == 0 {
                house.take(Claimant::New).or_else(|_| house.take_woken(&mut kept, hour))
            } else {
                house.take_woken(&mut kept, hour).or_else(|_| house.take(Claimant::New))
            };
            held = first.ok();
            order.extend(held.as_ref().map(|permit| permit.claimant));
        }
        assert_eq!(order.len(), 1_001);
        for pair in order.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_kept_for_new_work_that_does_not_come_back_goes_to_the_next_woken_run() {
        let house = Admission::new(1);
        let (mut kept, patience) = (None, Duration::from_secs(3));
        let first = house.take_woken(&mut kept, patience);
        assert!(first.is_ok() && house.look().is_err());
        drop(first);
        assert!(house.take_woken(&mut kept, patience).is_err(), "the turn is new work's");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(house.take_woken(&mut kept, patience).is_err());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(house.take_woken(&mut kept, patience).is_ok());
    }

    #[test]
    fn nobody_yields_the_one_place_to_work_that_does_not_ask() {
        let house = Admission::new(1);
        for _ in 0..10 {
            assert!(house.take_woken(&mut None, Duration::from_secs(3_600)).is_ok());
        }
        for _ in 0..10 {
            assert!(house.take(Claimant::New).is_ok());
        }
    }
}
