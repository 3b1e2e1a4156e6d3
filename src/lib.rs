//! AgenticFleet: everything that touches the world. The runtime itself is the `fleet-actors` crate.
//!
//! In reading order: [`cli`] reads the command; [`settings`] says how; [`runtime`] starts the services and [`startup`] the
//! doors; [`api`] starts turns; [`workflow`] is what a turn does, [`agents`] who does it and
//! [`prompts`] how it asks a model for typed answers; [`llm`], [`tools`] and [`storage`] are what it asks of the world.
//! [`arguments`], [`memo`] and [`security`] lie below all of them: how a call is judged, what is made once, and how a refusal is
//! logged, whoever refuses.

pub mod agents;
pub mod api;
pub mod arguments;
pub mod cli;
pub mod llm;
pub mod memo;
pub mod prompts;
pub mod runtime;
pub mod security;
pub mod settings;
pub mod startup;
pub mod storage;
pub mod telemetry;
pub mod tools;
pub mod workflow;
