//! The word of admission: who may have a place is a function of it, and every change is one compare-and-swap over all of it.
//!
//! With one place there are no three quarters to share, so woken runs and new work take turns: after a woken run the place
//! is kept for new work that was refused meanwhile. New work does not wait here, so it is kept for a while only.
//!
//! Invariant: `live < cap` in the very word that gives a permit, and no word refuses a free place to both.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Claimant;

const BITS: u32 = 20;
const MASK: u64 = (1 << BITS) - 1;

/// The most permits there can be.
pub const CAP_MAX: u32 = MASK as u32;

/// The whole state of admission, unpacked from its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub cap: u64,
    pub live: u64,
    pub woken: u64,
    pub waiting: bool,
    /// The last permit went to a woken run.
    pub woken_was_last: bool,
    /// New work was refused since new work last had a permit.
    pub new_was_refused: bool,
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

/// One atomic word; a model checker brings its own.
pub(super) trait Atomic {
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

/// The word where it is kept.
#[derive(Debug, Default)]
pub(super) struct Counter<A>(A);

impl Counter<AtomicU64> {
    pub fn new(cap: u32) -> Self {
        Self(AtomicU64::new(Word::empty(cap).pack()))
    }
}

impl<A: Atomic> Counter<A> {
    pub fn word(&self) -> Word {
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

    pub fn take(&self, claimant: Claimant) -> Result<Word, Word> {
        let taken = self.change(|word| word.taken(claimant));
        if taken.is_err() && claimant == Claimant::New {
            self.note_refusal();
        }
        taken
    }

    pub fn note_refusal(&self) {
        let _ = self.change(Word::refused);
    }

    /// New work that was refused did not come back: it has no turn any more.
    pub fn pass_over(&self) {
        let _ = self.change(|word| word.new_was_refused.then_some(Word { new_was_refused: false, ..word }));
    }

    pub fn give_back(&self, claimant: Claimant) {
        let woken = u64::from(claimant == Claimant::Woken);
        let _ = self.change(|word| {
            Some(Word { live: word.live.saturating_sub(1), woken: word.woken.saturating_sub(woken), ..word })
        });
    }

    pub fn set_waiting(&self, waiting: bool) {
        let _ = self.change(|word| Some(Word { waiting, ..word }));
    }

    pub fn resize(&self, cap: u32) {
        let _ = self.change(|word| Some(Word { cap: u64::from(cap.min(CAP_MAX)), ..word }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
