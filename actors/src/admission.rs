//! Decides who may run: the cap as one atomic word.
//!
//! The word holds the cap, the live permits, those of them that woken runs hold, whether a woken run waits, and whose turn
//! it is. Every change is one compare-and-swap over all of it, so a cap that is lowered while permits are taken can never
//! be passed. A place is given back only by dropping its [`SessionPermit`]: a supervisor that panics frees its place just
//! as one that finishes does.
//!
//! With one place there are no three quarters to share, so woken runs and new work take turns: after a woken run the place
//! is kept for new work that was refused meanwhile. New work does not wait here, so it is kept for a while only.
//!
//! Invariant: a permit is given only while `live < cap` in the same word, and a free place is never refused to both.
//! Absent on purpose: a timer that sweeps dead sessions. Ownership already frees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

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
    /// The last permit went to a woken run.
    woken_was_last: bool,
    /// New work was refused since new work last had a permit.
    new_was_refused: bool,
}

impl Word {
    fn unpack(word: u64) -> Self {
        let part = |at: u32| (word >> (at * BITS)) & MASK;
        let flag = |at: u32| word >> (3 * BITS + at) & 1 == 1;
        let (waiting, woken_was_last, new_was_refused) = (flag(0), flag(1), flag(2));
        Self { cap: part(0), live: part(1), woken: part(2), waiting, woken_was_last, new_was_refused }
    }

    fn pack(self) -> u64 {
        let flag = |set: bool, at: u32| u64::from(set) << (3 * BITS + at);
        let flags = flag(self.waiting, 0) | flag(self.woken_was_last, 1) | flag(self.new_was_refused, 2);
        self.cap | self.live << BITS | self.woken << (2 * BITS) | flags
    }

    /// Woken runs never hold more than 3/4 of the cap, but always one: 2,000 answers do not lock out chats.
    fn woken_max(self) -> u64 {
        (self.cap * 3 / 4).max(1)
    }

    fn empty(cap: u32) -> Self {
        let cap = u64::from(cap.min(CAP_MAX));
        Self { cap, live: 0, woken: 0, waiting: false, woken_was_last: false, new_was_refused: false }
    }

    fn takes_turns(self) -> bool {
        self.cap == 1
    }

    /// The word after `claimant` took a permit, or nothing when it may not.
    fn taken(self, claimant: Claimant) -> Option<Self> {
        let free = self.cap.saturating_sub(self.live);
        let woken_waits = self.waiting && self.woken < self.woken_max();
        let allowed = match claimant {
            Claimant::New if self.takes_turns() && self.woken_was_last => free > 0,
            // With one place left and a woken run waiting for it, the place is passed on instead of freed.
            Claimant::New => free > u64::from(woken_waits),
            Claimant::Woken if self.takes_turns() && self.woken_was_last && self.new_was_refused => false,
            Claimant::Woken => free > 0 && self.woken < self.woken_max(),
        };
        let woken = self.woken + u64::from(claimant == Claimant::Woken);
        let woken_was_last = claimant == Claimant::Woken;
        let new_was_refused = self.new_was_refused && woken_was_last;
        allowed.then_some(Self { live: self.live + 1, woken, woken_was_last, new_was_refused, ..self })
    }

    /// The word after new work was refused; nothing when that changes none.
    fn refused(self) -> Option<Self> {
        (self.takes_turns() && !self.new_was_refused).then_some(Self { new_was_refused: true, ..self })
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
        let taken = self.change(|word| word.taken(claimant));
        if taken.is_err() && claimant == Claimant::New {
            self.note_refusal();
        }
        taken
    }

    fn note_refusal(&self) {
        let _ = self.change(Word::refused);
    }

    fn pass_over(&self) {
        let _ = self.change(|word| word.new_was_refused.then_some(Word { new_was_refused: false, ..word }));
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
        let counter = Counter(AtomicU64::new(Word::empty(cap).pack()));
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
        let _ = self.house.counter.change(|word| Some(Word { waiting, ..word }));
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

    fn words_with_one_place() -> impl Iterator<Item = Word> {
        (0..32_u64).filter_map(|n| {
            let bit = |at: u32| n >> at & 1;
            let (live, woken) = (bit(0), bit(1));
            let (waiting, woken_was_last, new_was_refused) = (bit(2) == 1, bit(3) == 1, bit(4) == 1);
            (woken <= live).then_some(Word { cap: 1, live, woken, waiting, woken_was_last, new_was_refused })
        })
    }

    #[test]
    fn every_word_reads_back_what_it_was_packed_from() {
        let words: Vec<_> = words_with_one_place().collect();
        assert_eq!(words.len(), 24);
        for word in words {
            let word = Word { cap: MASK, ..word };
            assert_eq!(Word::unpack(word.pack()), word);
        }
    }

    /// Every change is one compare-and-swap of one of these words, so this holds under any interleaving.
    #[test]
    fn with_one_place_no_word_refuses_a_free_place_to_both_and_none_gives_a_taken_one() {
        for word in words_with_one_place() {
            let (new, woken) = (word.taken(Claimant::New), word.taken(Claimant::Woken));
            assert_eq!(new.is_some() || woken.is_some(), word.live == 0, "{word:?}");
            // Whoever had it last does not get it before the other one who wants it.
            if word.woken_was_last && word.new_was_refused {
                assert_eq!(woken, None, "{word:?}");
            }
            if !word.woken_was_last && word.waiting {
                assert_eq!(new, None, "{word:?}");
            }
        }
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
            let start = Word::empty(2);
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
            let word = house.word();
            assert_eq!((word.cap, word.live, word.woken), (1, 0, 0));
        });
    }
    /// One place, and both have asked for it: whoever had it last leaves it to the other under every interleaving.
    #[test]
    fn no_interleaving_gives_the_one_place_twice_in_a_row_to_one_side_while_the_other_waits() {
        loom::model(|| {
            let start = Word { waiting: true, woken_was_last: true, new_was_refused: true, ..Word::empty(1) };
            let house = Arc::new(Counter(AtomicU64::new(start.pack())));
            let woken = {
                let house = house.clone();
                loom::thread::spawn(move || house.take(Claimant::Woken).map(|_| house.give_back(Claimant::Woken)))
            };
            let new = house.take(Claimant::New);
            assert!(new.is_ok(), "it was new work's turn: {new:?}");
            house.give_back(Claimant::New);
            let again = house.take(Claimant::New);
            let woken = woken.join().unwrap_or_else(|_| Err(house.word()));
            assert!(again.is_err() || woken.is_ok(), "new work had it twice and the woken run not once");
            if again.is_ok() {
                house.give_back(Claimant::New);
            }
            assert_eq!((house.word().live, house.word().woken), (0, 0));
        });
    }
}
