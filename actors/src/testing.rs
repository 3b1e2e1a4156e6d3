//! Ports in memory, a way to run one workflow over scripted ones, and the contract that every store must keep.
//!
//! Absent on purpose: threads, real time and chance. Whatever runs on these is repeatable to the byte.

mod manual_clock;
mod memory_store;
mod no_tools;
pub mod plain;
pub mod script;
pub mod store_contract;

pub use manual_clock::ManualClock;
pub use memory_store::{CommitFault, MemoryStore, Reading};
pub use no_tools::NoTools;
