//! The SSE door of a chat: a stream per message, answers and cancels beside it.
//!
//! A client that reconnects with `Last-Event-ID` goes on with the run it left and never starts one. A client that comes
//! without it finds the run it left, too, before the cap is looked at.

use std::collections::BTreeMap;

use actix_web::web::{Data, Path, Payload, Query, ServiceConfig, get, post};
use actix_web::{HttpRequest, HttpResponse};
use fleet_actors::event::EventBody;
use fleet_actors::ids::{ConversationId, RequestId, Seq, WorkflowId};
use fleet_actors::ports::{WorkflowRow, WorkflowState};
use fleet_actors::sessions::stored_events;
use serde_json::json;

use super::body::read_object;
use super::connections::Connection;
use super::error::ApiError;
use super::open::{Returning, stopped};
use super::query::whole_number;
use super::sse::{self, Wish};
use super::start::{NewRun, traceparent};
use super::wire::frames::effort;
use super::wire::{Deltas, Version};
use super::{Api, at, origin};

/// Adds the routes.
pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(at("/api/chat/{conversation_id}/stream", "GET").route(get().to(stream)))
        .service(at("/api/chat/{conversation_id}/respond", "POST").route(post().to(respond)))
        .service(at("/api/chat/{conversation_id}/cancel", "POST").route(post().to(cancel)));
}

/// The fields of a query, by name. Unknown ones are left alone: pages add some against caches.
pub(super) type Fields = Query<BTreeMap<String, String>>;

async fn stream(
    api: Data<Api>,
    request: HttpRequest,
    path: Path<String>,
    query: Fields,
) -> Result<HttpResponse, ApiError> {
    // A page needs no more than an image with this address to start a run.
    origin::admit(&request, &api.settings.server)?;
    let place = api.connections.take()?;
    let conversation = conversation_id(&path)?;
    let mut run = NewRun { traceparent: traceparent(&request), ..new_run(&api, conversation.clone(), &query)? };
    let mut wish = wish(&query)?;
    // Version 1 has no mode, and a page of it may have a field of its own by that name.
    if wish.version == Version::V2 {
        run.mode = query.get("mode").filter(|mode| !mode.is_empty()).cloned();
    }
    if let Some(after) = last_event_id(&request)? {
        wish.after = after;
        let row = api.asked_before(&conversation, run.key.as_deref(), &run.message).await?;
        return resume(&api, row, wish, place).await;
    }
    let turn = api.prepare(run)?;
    let opened = api.open(turn, Returning::Joins).await?;
    Ok(sse::respond(&api, opened, wish, place))
}

/// Goes on with a run after a number; 204 tells an EventSource to stop when there is nothing to go on with.
pub(super) async fn resume(
    api: &Api,
    row: Option<WorkflowRow>,
    wish: Wish,
    place: Connection,
) -> Result<HttpResponse, ApiError> {
    match row {
        Some(row) if !is_past_done(api, &row, wish.after).await? => {
            let opened = api.follow(row, wish.after).await?;
            Ok(sse::respond(api, opened, wish, place))
        }
        Some(_) | None => Ok(HttpResponse::NoContent().finish()),
    }
}

async fn is_past_done(api: &Api, row: &WorkflowRow, after: Seq) -> Result<bool, ApiError> {
    if !matches!(row.state, WorkflowState::Ended(_)) {
        return Ok(false);
    }
    let left = stored_events(api.sessions.store().as_ref(), &row.workflow, after).await?;
    Ok(!left.iter().any(|event| matches!(event.body, EventBody::Finished { .. })))
}

fn conversation_id(text: &str) -> Result<ConversationId, ApiError> {
    text.parse().map_err(|error| ApiError::invalid("conversation_id", format!("{error}")))
}

fn new_run(api: &Api, conversation: ConversationId, query: &Fields) -> Result<NewRun, ApiError> {
    let message = query.get("message").cloned().unwrap_or_default();
    let max = api.settings.server.query_message_bytes_max.as_usize();
    if message.len() > max {
        let text = format!("has {} bytes, at most {max} fit into a query", message.len());
        return Err(ApiError::invalid("message", text));
    }
    let effort = query.get("reasoning_effort").filter(|name| !name.is_empty()).map(|name| effort(name)).transpose();
    let effort = effort.map_err(ApiError::in_a_body)?;
    let key = query.get("client_message_id").cloned();
    let checkpointing = flag(query, "enable_checkpointing")?;
    Ok(NewRun { message, conversation: Some(conversation), effort, key, checkpointing, ..NewRun::default() })
}

/// The wishes that every stream's query may hold: `version`, `stream`.
pub(super) fn wish(query: &Fields) -> Result<Wish, ApiError> {
    let version = match query.get("version").map(String::as_str) {
        None | Some("1") => Version::V1,
        Some("2") => Version::V2,
        Some(_) => return Err(ApiError::invalid("version", "must be 1 or 2")),
    };
    let deltas = if flag(query, "stream")?.unwrap_or(true) { Deltas::Shown } else { Deltas::Hidden };
    Ok(Wish { version, deltas, ..Wish::default() })
}

fn flag(query: &Fields, name: &'static str) -> Result<Option<bool>, ApiError> {
    match query.get(name).map(String::as_str) {
        None | Some("") => Ok(None),
        Some("true" | "1") => Ok(Some(true)),
        Some("false" | "0") => Ok(Some(false)),
        Some(_) => Err(ApiError::invalid(name, "must be true or false")),
    }
}

/// The number that a reconnecting EventSource saw last.
pub(super) fn last_event_id(request: &HttpRequest) -> Result<Option<Seq>, ApiError> {
    let Some(value) = request.headers().get("last-event-id").filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(whole_number);
    number.map(|number| Some(Seq(number))).ok_or_else(|| ApiError::invalid("Last-Event-ID", "must be a whole number"))
}

async fn respond(
    api: Data<Api>,
    request: HttpRequest,
    path: Path<String>,
    query: Fields,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    let workflow = workflow_of(&api, &path, &query).await?;
    answer(&api, &workflow, &request, payload).await
}

/// Answers a question of a run with a body `{request_id, response}`; needs no place.
pub(super) async fn answer(
    api: &Api,
    workflow: &WorkflowId,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    let mut fields = read_object(request, payload, &api.settings.server).await?;
    let question = fields.text("request_id").parse::<RequestId>();
    if let Err(error) = &question {
        fields.wrong("request_id", &error.to_string());
    }
    let response = fields.any("response");
    fields.finish()?;
    let question = question.map_err(|error| ApiError::invalid("request_id", error.to_string()))?;
    api.respond(workflow, &question, response).await?;
    Ok(HttpResponse::Ok().json(json!({ "status": "ok", "request_id": question })))
}

async fn cancel(api: Data<Api>, path: Path<String>, query: Fields) -> Result<HttpResponse, ApiError> {
    let workflow = workflow_of(&api, &path, &query).await?;
    let posted = api.sessions.cancel(&workflow, "client").await.map_err(|error| api.refusal(error))?;
    stopped(posted)?;
    Ok(HttpResponse::Ok().json(json!({ "status": "cancelled", "workflow_id": workflow })))
}

async fn workflow_of(api: &Api, conversation: &str, query: &Fields) -> Result<WorkflowId, ApiError> {
    let conversation = conversation_id(conversation)?;
    let id = query.get("workflow_id").ok_or_else(|| ApiError::invalid("workflow_id", "is missing"))?;
    let id: WorkflowId = id.parse().map_err(|error| ApiError::invalid("workflow_id", format!("{error}")))?;
    Ok(api.run_of(&conversation, &id).await?.workflow)
}
