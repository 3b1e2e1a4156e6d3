//! The log of one run, by its id: as SSE, or as a page of JSON for clients that ask for `application/json`; and the
//! answers to its questions.
//!
//! Version 2 unless the query says otherwise. Watching changes nothing: a run that rests stays at rest.

use actix_web::http::header::ACCEPT;
use actix_web::web::{Data, Path, Payload, ServiceConfig, get, post};
use actix_web::{HttpRequest, HttpResponse};
use fleet_actors::event::EventBody;
use fleet_actors::ids::{Seq, WorkflowId};
use fleet_actors::ports::{WorkflowRow, WorkflowState};
use fleet_actors::sessions::stored_events;
use serde_json::json;

use super::chat_sse::{Fields, answer, last_event_id, wish};
use super::error::ApiError;
use super::open::How;
use super::query::whole_number;
use super::sse::{self, Wish};
use super::wire::{Renderer, Version};
use super::{Api, at};

/// Adds the routes.
pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(at("/api/v1/workflows/{workflow_id}/events", "GET").route(get().to(events)))
        .service(at("/api/v1/workflows/{workflow_id}/respond", "POST").route(post().to(respond)));
}

/// The answer to a question of a run that may have no conversation.
async fn respond(
    api: Data<Api>,
    request: HttpRequest,
    path: Path<String>,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    answer(&api, &named(&api, &path).await?.workflow, &request, payload).await
}

/// The run that a URL names.
async fn named(api: &Api, id: &str) -> Result<WorkflowRow, ApiError> {
    let workflow: WorkflowId = id.parse().map_err(|_| ApiError::not_found("workflow"))?;
    api.row(&workflow).await
}

async fn events(
    api: Data<Api>,
    request: HttpRequest,
    path: Path<String>,
    query: Fields,
) -> Result<HttpResponse, ApiError> {
    let row = named(&api, &path).await?;
    let mut wish = wish(&query)?;
    if !query.contains_key("version") {
        wish.version = Version::V2;
    }
    wish.after = number(&query, "after")?.map_or(Seq(0), Seq);
    if accepts_json(&request) {
        return page(&api, &row, wish, &query).await;
    }
    let place = api.connections.take()?;
    if let Some(after) = last_event_id(&request)? {
        wish.after = after;
        if over(&api, &row, after).await? {
            return Ok(HttpResponse::NoContent().finish());
        }
    }
    let mut opened = api.follow(row, wish.after).await?;
    if opened.how == How::Resting {
        opened.how = How::Joined;
    }
    Ok(sse::respond(&api, opened, wish, place))
}

async fn over(api: &Api, row: &WorkflowRow, after: Seq) -> Result<bool, ApiError> {
    let ended = matches!(row.state, WorkflowState::Ended(_));
    Ok(ended && stored_events(api.sessions.store().as_ref(), &row.workflow, after).await?.is_empty())
}

fn accepts_json(request: &HttpRequest) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/event-stream")
}

/// Durable events after a number: `{events, next_after, done}`. `next_after` is absent on the last page.
async fn page(api: &Api, row: &WorkflowRow, wish: Wish, query: &Fields) -> Result<HttpResponse, ApiError> {
    let server = &api.settings.server;
    let limit = number(query, "limit")?.unwrap_or(server.page_default.get());
    if limit == 0 || limit > server.page_max.get() {
        return Err(ApiError::invalid("limit", format!("must be from 1 to {}", server.page_max)));
    }
    let log = stored_events(api.sessions.store().as_ref(), &row.workflow, wish.after).await?;
    // The page is full of what its client sees; text between agents, which it does not see, takes no room in it.
    let (mut shown, mut taken) = (Vec::new(), 0);
    let mut renderer = Renderer::new(wish.version, &row.workflow, wish.deltas);
    for event in &log {
        if shown.len() as u64 == limit {
            break;
        }
        shown.extend(renderer.render(event).map(|event| event.routed(&api.settings.ui_routing)));
        taken += 1;
    }
    let next_after = log[..taken].last().filter(|_| taken < log.len()).map(|event| event.seq);
    // Whoever asks from the end has seen it.
    let ended = log.is_empty() && matches!(row.state, WorkflowState::Ended(_));
    let done = ended || log[..taken].iter().any(|event| matches!(event.body, EventBody::Finished { .. }));
    let mut page = json!({ "events": shown, "done": done });
    if let Some(next_after) = next_after {
        page["next_after"] = next_after.0.into();
    }
    Ok(HttpResponse::Ok().json(page))
}

fn number(query: &Fields, name: &'static str) -> Result<Option<u64>, ApiError> {
    let Some(text) = query.get(name) else { return Ok(None) };
    whole_number(text).map(Some).ok_or_else(|| ApiError::invalid(name, "must be a whole number"))
}
