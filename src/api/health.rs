//! Health: `/livez` is the process alone, `/readyz` also its store and whether it drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::web::Data;
use actix_web::{HttpResponse, ResponseError as _};
use serde_json::json;

use super::Api;
use super::error::ApiError;

/// Whether the process is stopping. Set once, by the drain.
#[derive(Clone, Debug, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    /// From now on the process is not ready.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

async fn check(api: &Api, draining: &Draining) -> Result<(), ApiError> {
    if draining.is_on() {
        return Err(ApiError::draining());
    }
    if let Some(error) = api.sessions.services().checkpoints.refusal() {
        return Err(error.into());
    }
    // The cheapest read that reaches the store.
    Ok(api.sessions.store().next_wake().await.map(drop)?)
}

/// `GET /livez`
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// `GET /readyz`
pub async fn readyz(api: Data<Api>, draining: Data<Draining>) -> HttpResponse {
    match check(&api, &draining).await {
        Ok(()) => HttpResponse::Ok().json(json!({ "status": "ok" })),
        Err(error) => error.error_response(),
    }
}

/// `GET /ready`, in the shape existing clients read.
pub async fn ready(api: Data<Api>, draining: Data<Draining>) -> HttpResponse {
    match check(&api, &draining).await {
        Ok(()) => HttpResponse::Ok().json(json!({ "status": "ready", "workflow": true })),
        Err(_) => HttpResponse::ServiceUnavailable().json(json!({ "status": "not_ready", "workflow": false })),
    }
}

/// `GET /health`
pub async fn health(api: Data<Api>, draining: Data<Draining>) -> HttpResponse {
    let checked = check(&api, &draining).await;
    let (status, storage) = match &checked {
        Ok(()) => ("ok", "ok"),
        Err(error) if error.code == "draining" => ("draining", "ok"),
        Err(_) => ("degraded", "unavailable"),
    };
    let checks = json!({ "api": "ok", "storage": storage });
    HttpResponse::Ok().json(json!({ "status": status, "checks": checks, "version": env!("CARGO_PKG_VERSION") }))
}
