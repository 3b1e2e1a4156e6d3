//! The command line as a person or a script meets it: the real binary, each command in the data directory and through a
//! server, and what settings and signals do to a running server.

#![allow(
    clippy::unwrap_used,
    clippy::zombie_processes,
    reason = "a test that cannot go on panics; guards wait for children"
)]

mod approvals;
mod chat;
mod checkpoints;
mod history;
mod mistakes;
mod places;
mod process;
mod programs;
mod reload;
mod run;
mod settings;
mod stopping;
mod streams;
