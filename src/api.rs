//! The doors: HTTP, SSE and WebSocket. The URL table is [`routes`]; each door is a file; `wire` holds the only JSON of
//! streams; [`error`] maps every failure to a status, a stable code and a public text.

pub mod chat_sse;
pub mod chat_ws;
pub mod error;
pub mod open;
pub mod resources;
pub mod run;
pub mod start;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::web;
use fleet_actors::sessions::Sessions;
use serde_json::Value;

use self::error::ApiError;
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
    /// The process is stopping.
    pub draining: Arc<AtomicBool>,
}

impl Api {
    /// Whether the process is stopping.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// The URL table.
pub fn routes(config: &mut web::ServiceConfig) {
    let json = web::JsonConfig::default().error_handler(|error, _| {
        ApiError::new(actix_web::http::StatusCode::BAD_REQUEST, "malformed_json", error.to_string()).into()
    });
    let query = web::QueryConfig::default().error_handler(|error, _| {
        let message = error.to_string();
        ApiError::invalid(message.split('`').nth(1).unwrap_or("query").to_owned(), message).into()
    });
    config
        .app_data(json)
        .app_data(query)
        .configure(chat_ws::routes)
        .configure(chat_sse::routes)
        .configure(run::routes)
        .configure(resources::routes)
        .default_service(web::route().to(async || ApiError::not_found("route").response()));
}
