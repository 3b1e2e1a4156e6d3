//! What only whole processes show: the real server, and the simulated model in a process of its own, which counts.

#![allow(
    clippy::unwrap_used,
    clippy::zombie_processes,
    reason = "a test that cannot go on panics; guards wait for children"
)]

mod answers;
mod client;
mod collector;
mod crash;
mod crowd;
mod forgotten;
mod hostile;
mod interrupted;
mod last_words;
mod matrix;
mod mcp;
mod model;
mod panics;
mod parked;
mod process;
mod score;
mod storage;
mod teams;
mod traces;
