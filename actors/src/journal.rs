//! The journal: what a record says, and how a run is read back from its records.
//!
//! A journal is one append-only sequence of records per workflow. Recovery, resume, time travel and fork are one
//! mechanism: run the function again, and give each step the result that stands here.

mod context;
mod record;
mod replay;

pub use context::Context;
pub use record::{DeltaMark, MalformedRecord, Positioned, Record, decode, encode};
pub(crate) use replay::RESTARTED;
pub use replay::{Divergence, Past, PastStep, StepState, events_of};

/// Digest of a step's typed input: the first 16 bytes of BLAKE3, as hex.
#[must_use]
pub fn digest(bytes: &[u8]) -> std::sync::Arc<str> {
    blake3::hash(bytes).to_hex()[..32].into()
}
