//! The doors: HTTP, SSE and WebSocket. The URL table stands in [`routes`]; each resource is a file; `wire` holds the only
//! client JSON; [`error`] maps every failure to a status, a stable code and a public text.

pub mod chat_sse;
pub mod chat_ws;
pub mod connections;
pub mod error;
pub mod origin;
pub mod rejoin;
pub mod sse;
pub mod start;
pub mod wire;
pub mod workflow_events;

use std::sync::Arc;

use fleet_actors::sessions::Sessions;
use serde_json::Value;

use self::connections::Connections;
use crate::settings::Settings;

/// What every door uses. One per process; cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// Starts, watches, answers and cancels runs.
    pub sessions: Sessions,
    /// The settings that were validated at start.
    pub settings: Arc<Settings>,
    /// The config slice that workflows can see, as it is pinned into each new run.
    pub workflow_config: Arc<Value>,
    /// Places for sockets and streams.
    pub connections: Connections,
}
