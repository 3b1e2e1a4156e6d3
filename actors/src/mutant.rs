//! Deliberate mistakes, for the test that proves the simulation would catch them. Outside of tests there is none.

/// A rule of the turn that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    SeqFollowsDurable,
    EpochNotTaken,
    VisibleBeforeDurable,
    DeltasOvertake,
    NoVoidsAtTakeover,
    NoVoidsForLosers,
    CompletedWithoutText,
    RaceNotRecorded,
    StorageErrorShown,
    AmbiguousRepeated,
}

#[cfg(test)]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether this rule is broken now.
#[cfg(test)]
pub(crate) fn is(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}

/// No rule is ever broken.
#[cfg(not(test))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

/// Breaks this rule, or none, on this thread from here on.
#[cfg(test)]
pub(crate) fn activate(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}
