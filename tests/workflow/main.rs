//! The fleet without a server: whole runs over scripted ports, on paused time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod absurd;
mod approvals;
mod bounds;
mod calls;
mod crash;
mod fast_path;
mod golden;
mod phases;
mod plans;
mod roster;
mod support;
mod traces;
