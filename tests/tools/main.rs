//! What a run may do in the world: the rules, the search, pages, sandboxed code, and what it leaves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod addresses;
mod artifacts;
mod hostile;
mod isolation;
mod pages;
mod rules;
mod sandbox;
mod search;
mod support;
