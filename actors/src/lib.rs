//! The runtime of AgenticFleet, a library that knows no HTTP, no model vendor and no config format.

pub mod event;
pub mod ids;
pub mod journal;
pub mod ports;
#[cfg(feature = "testing")]
pub mod testing;
pub mod turn;
