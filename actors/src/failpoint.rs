//! Places where a test may kill the process or make a service panic: one before and one after each thing that becomes
//! durable, is acknowledged or is dispatched.
//!
//! They exist only with the feature `failpoints`, which nothing but a test's dependency turns on; without it [`reach`]
//! is empty and the names are in no binary. `AGENTIC_FLEET_FAIL_POINT=name=kill@3` ends the process, as a power switch would,
//! the third time the place is reached; `name=panic@1` panics there.
//!
//! Absent on purpose: a way to go on afterwards, to sleep, or to return an error. Those faults have ports of their own.

/// What happens at one of its places; the names stand in the order of a run.
macro_rules! points {
    ($($(#[doc = $text:literal])+ $point:ident = $name:literal,)+) => {
        /// A place.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FailPoint {
            $($(#[doc = $text])+ $point,)+
        }

        #[cfg(feature = "failpoints")]
        impl FailPoint {
            /// Every place.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// Its name in `AGENTIC_FLEET_FAIL_POINT`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

points! {
    /// The writer has a batch; nothing of it is written.
    BeforeCommit = "before-commit",
    /// The batch is durable; nobody knows.
    AfterCommit = "after-commit",
    /// CheckpointActor knows; the run does not.
    BeforeAck = "before-ack",
    /// The run knows; nothing is shown, acknowledged or dispatched.
    AfterAck = "after-ack",
    /// The intent of a step is durable; its call is not made.
    BeforeDispatch = "before-dispatch",
    /// The call has its reply; nothing of it is in order.
    AfterDispatch = "after-dispatch",
    /// The run's last batch is made and not sent.
    BeforeFinal = "before-final",
    /// The run's last batch is durable and known; nobody was told of the end.
    AfterFinal = "after-final",
    /// An execution is committed and not in the history file.
    BeforeExport = "before-export",
    /// The history file is made anew beside the old one.
    InRewrite = "in-rewrite",
    /// What was ended or deleted shows in the file; the cursor does not say so.
    AfterExport = "after-export",
    /// The cursor says so.
    AfterExportCursor = "after-export-cursor",
    /// Unfinished runs are known after a restart; none goes on.
    Adopt = "adopt",
    /// A run that was taken over has its epoch and voids in order; nothing is written.
    BeforeTakeover = "before-takeover",
    /// The takeover is durable; the function has not run.
    AfterTakeover = "after-takeover",
    /// SessionManager registers a run.
    Register = "register",
    /// HistoryActor looks for work.
    HistoryStep = "history-step",
    /// The wake queue looks for work.
    WakeQueue = "wake-queue",
}

/// Says that `point` was reached.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn reach(_: FailPoint) {}

/// Says that `point` was reached, and does what the environment asks for there.
#[cfg(feature = "failpoints")]
pub fn reach(point: FailPoint) {
    armed::reach(point);
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::FailPoint;

    #[derive(Clone, Copy)]
    enum Action {
        Kill,
        Panic,
    }

    struct Armed {
        point: FailPoint,
        action: Action,
        at: u32,
        reached: AtomicU32,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    pub fn reach(point: FailPoint) {
        let Some(armed) = ARMED.get_or_init(read).as_ref().filter(|armed| armed.point == point) else { return };
        if armed.reached.fetch_add(1, Ordering::SeqCst) + 1 == armed.at {
            match armed.action {
                // No destructor and no exit handler runs, no buffer is flushed and no other thread goes on.
                Action::Kill => std::process::abort(),
                Action::Panic => panic!("the fail point {} was reached", point.name()),
            }
        }
    }

    fn read() -> Option<Armed> {
        let text = std::env::var("AGENTIC_FLEET_FAIL_POINT").ok()?;
        let armed = parse(&text);
        // A test whose fault never happens would pass for nothing.
        assert!(armed.is_some(), "AGENTIC_FLEET_FAIL_POINT={text} is not name=kill@n or name=panic@n");
        armed
    }

    fn parse(text: &str) -> Option<Armed> {
        let (name, rest) = text.split_once('=')?;
        let (action, at) = rest.split_once('@')?;
        let point = FailPoint::ALL.iter().copied().find(|point| point.name() == name)?;
        let action = match action {
            "kill" => Action::Kill,
            "panic" => Action::Panic,
            _ => return None,
        };
        Some(Armed { point, action, at: at.parse().ok()?, reached: AtomicU32::new(0) })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_fail_point_is_read_only_when_it_names_a_place_an_action_and_a_time() {
            assert!(parse("before-commit=kill@2").is_some_and(|armed| armed.at == 2));
            for wrong in ["", "before-commit", "nowhere=kill@1", "before-commit=sleep@1", "before-commit=kill@x"] {
                assert!(parse(wrong).is_none(), "{wrong}");
            }
        }
    }
}
