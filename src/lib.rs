//! AgenticFleet: everything that touches the world. The runtime itself is the `fleet-actors` crate.
//!
//! In reading order: [`settings`] becomes [`startup`]'s plan; [`api`] and [`cli`] start turns; [`workflow`] is what a
//! turn does; [`llm`] and [`storage`] are what it asks of the world.

pub mod api;
pub mod llm;
pub mod settings;
pub mod startup;
pub mod storage;
pub mod workflow;
