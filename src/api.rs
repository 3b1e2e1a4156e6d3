//! The doors: HTTP, SSE and WebSocket. The URL table stands in [`routes`]; each resource is a file; `wire` holds the only
//! client JSON; [`error`] maps every failure to a status, a stable code and a public text.

pub(crate) mod approvals;
mod artifacts;
pub mod body;
pub mod chat_sse;
pub mod chat_ws;
pub(crate) mod checkpoints;
pub mod connections;
mod conversations;
pub mod error;
pub mod health;
pub(crate) mod history;
mod language;
pub mod metrics;
pub mod open;
pub mod openapi;
pub mod origin;
pub mod problems;
pub mod query;
pub mod request_id;
mod run;
pub(crate) mod sessions;
pub mod sse;
pub mod start;
pub(crate) mod types;
pub mod wire;
pub mod workflow_events;

use std::sync::Arc;

use actix_cors::Cors;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, Resource, ResponseError as _, web};
use fleet_actors::ports::{Pinned, StoreError, StoreWrite, Written};
use fleet_actors::sessions::Sessions;
use utoipa_swagger_ui::SwaggerUi;

use self::connections::Connections;
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
    pub workflow_config: Pinned,
    /// Places for sockets and streams.
    pub connections: Connections,
}

impl Api {
    /// What a refused client is told to wait: the configured time and up to half of it more, so that those who were
    /// refused together do not come back together.
    #[must_use]
    pub fn retry_after_s(&self) -> u64 {
        let base = self.settings.sessions.retry_after_s.get();
        base + self.sessions.services().clock.random() % (base / 2 + 1)
    }

    /// Changes the store through its only writer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn write(&self, write: StoreWrite) -> Result<Written, StoreError> {
        self.sessions.services().checkpoints.write(write).await
    }
}

/// The URL table.
pub fn routes(cfg: &mut web::ServiceConfig) {
    cfg.configure(decoding)
        .configure(chat_ws::routes)
        .configure(chat_sse::routes)
        .configure(workflow_events::routes)
        .service(at("/api/v1/types", "GET").route(web::get().to(types::types)))
        .service(at("/api/v1/agents", "GET").route(web::get().to(types::agents)))
        .service(at("/api/v1/run", "POST").route(web::post().to(run::run)))
        .service(at("/api/v1/classify_intent", "POST").route(web::post().to(language::classify_intent)))
        .service(at("/api/v1/extract_entities", "POST").route(web::post().to(language::extract_entities)))
        .service(at("/api/v1/runs", "POST").route(web::post().to(run::submit)))
        .service(
            at("/api/v1/conversations", "GET, POST")
                .route(web::get().to(conversations::list))
                .route(web::post().to(conversations::create)),
        )
        .service(
            at("/api/v1/conversations/{id}", "GET, DELETE")
                .route(web::get().to(conversations::show))
                .route(web::delete().to(conversations::delete)),
        )
        .service(at("/api/v1/approvals", "GET").route(web::get().to(approvals::list)))
        .service(at("/api/v1/approvals/{request_id}", "GET").route(web::get().to(approvals::show)))
        .service(at("/api/v1/sessions", "GET").route(web::get().to(sessions::list)))
        .service(
            at("/api/v1/sessions/{id}", "GET, DELETE")
                .route(web::get().to(sessions::show))
                .route(web::delete().to(sessions::cancel)),
        )
        .service(
            at("/api/v1/history", "GET, DELETE")
                .route(web::get().to(history::list))
                .route(web::delete().to(history::clear)),
        )
        .service(
            at("/api/v1/history/{id}", "GET, DELETE")
                .route(web::get().to(history::show))
                .route(web::delete().to(history::delete)),
        )
        .service(at("/api/v1/checkpoints", "GET").route(web::get().to(checkpoints::list)))
        .service(at("/api/v1/checkpoints/{id}", "GET").route(web::get().to(checkpoints::show)))
        .service(at("/api/v1/checkpoints/{id}/fork", "POST").route(web::post().to(checkpoints::fork)))
        .service(at("/api/v1/checkpoints/{id}/resume", "POST").route(web::post().to(checkpoints::resume)))
        .service(
            at("/api/v1/workflows/{workflow_id}/artifacts/{digest}/{name}", "GET")
                .route(web::get().to(artifacts::show)),
        )
        .service(at("/health", "GET").route(web::get().to(health::health)))
        .service(at("/ready", "GET").route(web::get().to(health::ready)))
        .service(at("/livez", "GET").route(web::get().to(health::live)))
        .service(at("/readyz", "GET").route(web::get().to(health::readyz)))
        .service(at("/metrics", "GET").route(web::get().to(metrics::metrics)))
        .service(web::redirect("/docs", "/docs/"))
        .service(SwaggerUi::new("/docs/{_:.*}").url("/openapi.json", openapi::specification()))
        .default_service(web::to(no_such_route));
}

/// Paths and queries that cannot be decoded are refused by name, whoever extracts them.
fn decoding(cfg: &mut web::ServiceConfig) {
    let path = web::PathConfig::default().error_handler(|_, _| ApiError::not_found("resource").into());
    let query = web::QueryConfig::default()
        .error_handler(|_, _| ApiError::invalid("query", "cannot be decoded, or has a parameter twice").into());
    cfg.app_data(path).app_data(query);
}

/// A resource whose other methods are answered 405 as a problem body.
fn at(path: &str, allowed: &'static str) -> Resource {
    web::resource(path).default_service(web::to(move |request: HttpRequest| async move {
        let text = format!("{} is not allowed here, only {allowed}", request.method());
        let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text);
        let mut response = error.error_response();
        let allowed = actix_web::http::header::HeaderValue::from_static(allowed);
        response.headers_mut().insert(actix_web::http::header::ALLOW, allowed);
        response
    }))
}

async fn no_such_route() -> HttpResponse {
    ApiError::not_found("route").error_response()
}

/// What browser pages of other origins may do. Never credentials together with every origin.
pub fn cors(settings: &Arc<Settings>) -> Cors {
    let origins = settings.clone();
    let cors = Cors::default()
        .allowed_methods(["GET", "POST", "PUT", "DELETE", "OPTIONS"])
        .allow_any_header()
        .expose_headers(["Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-ID", "X-Next-Cursor", "Location"])
        .max_age(600);
    if settings.server.cors_allowed_origins.any() {
        return cors.allow_any_origin().send_wildcard();
    }
    cors.supports_credentials().allowed_origin_fn(move |origin, _| {
        origin.to_str().is_ok_and(|origin| origins.server.cors_origin_allowed(origin))
    })
}
