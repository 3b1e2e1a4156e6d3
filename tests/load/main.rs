//! The house under load: the cap under a crowd at every door, every end a run can have, a hundred thousand times,
//! children, and a workflow that waits for people.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bulk;
mod cap;
mod children;
mod client;
mod ends;
mod human;
mod talk;
mod world;

/// Tests that count what the whole process holds run alone: `cargo test` has one process for all of them.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
