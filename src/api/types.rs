//! What can be run and who answers.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde_json::{Value, json};

use super::Api;
use crate::settings::Settings;
use crate::workflow::SUPERVISOR_WORKFLOW;

/// `GET /types`
pub async fn types() -> HttpResponse {
    HttpResponse::Ok().json([SUPERVISOR_WORKFLOW])
}

/// `GET /agents`
pub async fn agents(api: Data<Api>) -> HttpResponse {
    HttpResponse::Ok().json(roster(&api.settings))
}

/// The roster as clients see it.
pub(crate) fn roster(settings: &Settings) -> Vec<Value> {
    let agents = settings.agents.iter();
    agents.map(|(name, agent)| json!({ "name": name, "description": agent.description, "type": "agent" })).collect()
}
