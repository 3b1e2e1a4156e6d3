//! The runtime of AgenticFleet, a library that knows no HTTP, no model vendor and no config format.
//!
//! The cast, and who may ask whom (downward only, so no two can wait for each other):
//!
//! ```text
//! Sessions (the door) -> SessionManager (registry) -> SupervisorActor (one turn) -> CheckpointActor (the one writer)
//!                                                                                 HistoryActor (export, behind a cursor)
//! ```
//!
//! Read in this order: [`turn`] is what a workflow sees; [`journal`] is what is written of it; [`supervisor`] drives one;
//! [`stream`] is what clients see of it; [`admission`] and [`session_manager`] decide and record who runs; [`sessions`]
//! is the door that the edge uses.

pub mod admission;
pub mod cache;
pub mod checkpoint;
pub mod event;
pub mod failpoint;
pub mod history;
pub mod ids;
pub mod journal;
pub mod limits;
pub mod mailbox;
pub mod meter;
mod mutant;
pub mod ports;
pub mod recovery;
pub mod session_manager;
pub mod sessions;
pub mod spend;
pub mod stream;
pub mod supervisor;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trace;
pub mod trouble;
pub mod turn;
pub mod watch;
