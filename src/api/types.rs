//! What can be run and who answers.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde_json::json;

use super::Api;
use crate::workflow::SUPERVISOR_WORKFLOW;

/// `GET /types`
pub async fn types() -> HttpResponse {
    HttpResponse::Ok().json([SUPERVISOR_WORKFLOW])
}

/// `GET /agents`
pub async fn agents(api: Data<Api>) -> HttpResponse {
    let roster = api.settings.agents.iter();
    let shown = roster.map(|(name, agent)| json!({ "name": name, "description": agent.description, "type": "agent" }));
    HttpResponse::Ok().json(shown.collect::<Vec<_>>())
}
