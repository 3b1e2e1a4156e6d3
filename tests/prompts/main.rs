//! Typed prompts: what is sent, what is understood, and how a run asks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod asking;
mod examples;
mod reading;
mod rendering;
mod simulated;
