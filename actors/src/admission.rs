//! Decides who may run: the cap as one atomic word.
//!
//! The word holds the cap, the live permits, those of them that woken runs hold, and whether somebody waits. Every change
//! is one compare-and-swap over all of it, so a cap that is lowered while permits are taken can never be passed. A place
//! is given back only by dropping its [`SessionPermit`]: a supervisor that panics frees its place just as one that
//! finishes does.
//!
//! Invariant: a permit is given only while `live < cap` in the same word.
//! Absent on purpose: a timer that sweeps dead sessions. Ownership already frees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

const BITS: u32 = 20;
const MASK: u64 = (1 << BITS) - 1;

/// The most permits there can be.
pub const CAP_MAX: u32 = MASK as u32;

/// The whole state of admission, unpacked from its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    cap: u64,
    live: u64,
    woken: u64,
    waiting: bool,
}

impl Word {
    fn unpack(word: u64) -> Self {
        let part = |at: u32| (word >> (at * BITS)) & MASK;
        Self { cap: part(0), live: part(1), woken: part(2), waiting: word >> (3 * BITS) & 1 == 1 }
    }

    fn pack(self) -> u64 {
        self.cap | self.live << BITS | self.woken << (2 * BITS) | u64::from(self.waiting) << (3 * BITS)
    }

    /// Woken runs never hold more than 3/4 of the cap, but always one: 2,000 answers do not lock out chats.
    fn woken_max(self) -> u64 {
        (self.cap * 3 / 4).max(1)
    }
}

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

/// One atomic word; a model checker brings its own.
trait Atomic {
    fn load(&self) -> u64;
    /// Stores `new` if the word is still `seen`, else gives what it is. May fail without cause.
    fn replace(&self, seen: u64, new: u64) -> Result<(), u64>;
}

impl Atomic for AtomicU64 {
    fn load(&self) -> u64 {
        Self::load(self, Ordering::Acquire)
    }

    fn replace(&self, seen: u64, new: u64) -> Result<(), u64> {
        self.compare_exchange_weak(seen, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }
}

#[derive(Debug, Default)]
struct Counter<A>(A);

impl<A: Atomic> Counter<A> {
    fn word(&self) -> Word {
        Word::unpack(self.0.load())
    }

    /// Applies `next` in one step; gives the word it was refused on when it returns `None`.
    fn change(&self, next: impl Fn(Word) -> Option<Word>) -> Result<Word, Word> {
        let mut seen = self.0.load();
        loop {
            let word = Word::unpack(seen);
            let Some(changed) = next(word) else { return Err(word) };
            match self.0.replace(seen, changed.pack()) {
                Ok(()) => return Ok(changed),
                Err(now) => seen = now,
            }
        }
    }

    fn take(&self, claimant: Claimant) -> Result<Word, Word> {
        self.change(|word| {
            let free = word.cap.saturating_sub(word.live);
            let woken_waits = word.waiting && word.woken < word.woken_max();
            let allowed = match claimant {
                // With one place left and a woken run waiting for it, the place is passed on instead of freed.
                Claimant::New => free > u64::from(woken_waits),
                Claimant::Woken => free > 0 && word.woken < word.woken_max(),
            };
            let woken = word.woken + u64::from(claimant == Claimant::Woken);
            allowed.then_some(Word { live: word.live + 1, woken, ..word })
        })
    }

    fn give_back(&self, claimant: Claimant) {
        let woken = u64::from(claimant == Claimant::Woken);
        let _ = self.change(|word| {
            Some(Word { live: word.live.saturating_sub(1), woken: word.woken.saturating_sub(woken), ..word })
        });
    }

    fn resize(&self, cap: u32) {
        let _ = self.change(|word| Some(Word { cap: u64::from(cap.min(CAP_MAX)), ..word }));
    }
}

#[derive(Debug, Default)]
struct House {
    counter: Counter<AtomicU64>,
    released: Notify,
    /// New work that got a permit, and that was told "full", since the start.
    admitted: AtomicU64,
    refused: AtomicU64,
}

/// SessionManager's door: admission without waiting for its mailbox.
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
        let word = Word { cap: u64::from(cap.min(CAP_MAX)), live: 0, woken: 0, waiting: false };
        let counter = Counter(AtomicU64::new(word.pack()));
        Self { house: Arc::new(House { counter, released: Notify::new(), ..House::default() }) }
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
        let _ = self.house.counter.change(|word| Some(Word { waiting, ..word }));
    }

    /// Changes the cap. Lowering it stops admissions until enough permits came back; none is taken away.
    pub fn resize(&self, cap: u32) {
        self.house.counter.resize(cap);
        self.house.released.notify_one();
    }

    /// Waits for a permit to come back or the cap to change; may wake without cause. For one waiter: the wake queue.
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
    fn with_one_place_turns_of_new_and_woken_runs_can_both_have_it() {
        let house = Admission::new(1);
        drop(house.take(Claimant::Woken));
        assert!(house.take(Claimant::New).is_ok());
    }
}

#[cfg(test)]
mod model {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    impl Atomic for AtomicU64 {
        fn load(&self) -> u64 {
            Self::load(self, Ordering::Acquire)
        }

        fn replace(&self, seen: u64, new: u64) -> Result<(), u64> {
            self.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
        }
    }

    /// Checks, in the word of every successful take, that nobody was admitted above the cap that stood in it.
    #[test]
    fn no_interleaving_of_takes_releases_and_resizes_passes_the_cap() {
        // Three preemptions find every known bug of this shape (Musuvathi and Qadeer, PLDI 2007) in seconds, not hours.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let start = Word { cap: 2, live: 0, woken: 0, waiting: false };
            let house = Arc::new(Counter(AtomicU64::new(start.pack())));
            let taker = |claimant| {
                let house = house.clone();
                loom::thread::spawn(move || {
                    if let Ok(word) = house.take(claimant) {
                        assert!(word.live <= word.cap, "{word:?}");
                        house.give_back(claimant);
                    }
                })
            };
            let (a, b) = (taker(Claimant::New), taker(Claimant::Woken));
            house.resize(1);
            let mine = house.take(Claimant::New);
            assert!(mine.is_err() || mine.is_ok_and(|word| word.live <= word.cap && word.cap == 1));
            assert!(a.join().is_ok() && b.join().is_ok());
            if mine.is_ok() {
                house.give_back(Claimant::New);
            }
            assert_eq!(house.word(), Word { cap: 1, live: 0, woken: 0, waiting: false });
        });
    }
}
