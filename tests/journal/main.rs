//! Long journals over the real store: what they cost, where they can be gone on from, and what changed code finds.

mod house;
mod long;
