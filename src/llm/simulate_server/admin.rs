//! What the simulated model knows about itself: `/admin/*` and `/v1/models`.

use std::collections::BTreeMap;

use actix_web::http::header::AUTHORIZATION;
use actix_web::{HttpResponse, Responder, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::calls::{Calls, SeenRequest};
use crate::llm::simulate::FaultRates;

/// Requests in one answer.
const PAGE: usize = 1_000;

pub(super) async fn stats(calls: web::Data<Calls>) -> impl Responder {
    web::Json(calls.stats())
}

pub(super) async fn reset(calls: web::Data<Calls>) -> impl Responder {
    calls.reset();
    HttpResponse::NoContent()
}

/// Sets the rates of faults; those left out are zero.
pub(super) async fn faults(calls: web::Data<Calls>, rates: web::Json<FaultRates>) -> impl Responder {
    calls.set_faults(*rates);
    web::Json(*rates)
}

pub(super) async fn models() -> impl Responder {
    let model = |id: &str| json!({ "id": id, "object": "model", "created": 0, "owned_by": "agentic-fleet" });
    web::Json(json!({ "object": "list", "data": [model("simulated")] }))
}

#[derive(Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: u64,
}

#[derive(Serialize)]
struct Shown {
    n: u64,
    api: &'static str,
    model: Value,
    effort: Value,
    stream: bool,
    messages: Value,
    idempotency_key: Option<String>,
    headers: BTreeMap<String, String>,
    body: Value,
}

/// The remembered requests behind `after`, oldest first; ask again with the last `n`.
pub(super) async fn requests(calls: web::Data<Calls>, query: web::Query<After>) -> impl Responder {
    let shown: Vec<Shown> = calls.seen_after(query.after, PAGE).into_iter().map(show).collect();
    web::Json(json!({ "requests": shown }))
}

fn show(request: SeenRequest) -> Shown {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let headers = request.headers.iter().filter(|(name, _)| *name != AUTHORIZATION);
    let key = request.headers.iter().find(|(name, _)| name == "idempotency-key");
    let at = |path| body.pointer(path).filter(|value| !value.is_null()).cloned();
    Shown {
        n: request.n,
        api: request.api,
        model: at("/model").unwrap_or_default(),
        effort: at("/reasoning_effort").or_else(|| at("/reasoning/effort")).unwrap_or_default(),
        stream: body["stream"] == true,
        messages: at("/messages").or_else(|| at("/input")).unwrap_or_default(),
        idempotency_key: key.and_then(|(_, key)| key.to_str().ok()).map(str::to_owned),
        headers: headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect(),
        body,
    }
}
