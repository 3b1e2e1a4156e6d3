//! AgenticFleet: everything that touches the world. The runtime itself is the `fleet-actors` crate.

pub mod llm;
pub mod settings;
pub mod storage;
