//! Model clients against servers that behave, misbehave and vanish.

#[path = "llm/connections.rs"]
mod connections;
#[path = "llm/conversions.rs"]
mod conversions;
#[path = "llm/deltas.rs"]
mod deltas;
#[path = "llm/failures.rs"]
mod failures;
#[path = "llm/hostile.rs"]
mod hostile;
#[path = "llm/llama_cpp.rs"]
mod llama_cpp;
#[path = "llm/simulation.rs"]
mod simulation;
#[path = "llm/simulator.rs"]
mod simulator;
#[path = "llm/support.rs"]
mod support;
