//! The HTTP resources, driven over a real connection.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod admission;
mod app;
mod checkpoints;
mod doors;
mod joins;
mod problems;
mod resources;
mod specification;
