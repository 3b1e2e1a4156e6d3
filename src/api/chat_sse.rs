//! Chat over SSE: the same events as `data:` lines, with the event's number as `id:`.
//!
//! An EventSource that reconnects sends the last number it saw and goes on from there; it never starts a second run.

use std::convert::Infallible;

use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use fleet_actors::ids::{ConversationId, RequestId, Seq, WorkflowId};
use fleet_actors::ports::{Posted, ReasoningEffort};
use fleet_actors::sessions::StreamItem;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::open::Opened;
use super::start::NewRun;
use super::wire::v1::Renderer;

/// Registers the door.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/api/chat/{conversation_id}/stream", web::get().to(stream))
        .route("/api/chat/{conversation_id}/respond", web::post().to(respond))
        .route("/api/chat/{conversation_id}/cancel", web::post().to(cancel));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamQuery {
    message: String,
    reasoning_effort: Option<ReasoningEffort>,
    enable_checkpointing: Option<bool>,
    client_message_id: Option<String>,
}

async fn stream(
    request: HttpRequest,
    conversation: web::Path<String>,
    query: web::Query<StreamQuery>,
    api: web::Data<Api>,
) -> Result<HttpResponse, ApiError> {
    let query = query.into_inner();
    let conversation: ConversationId = conversation
        .parse()
        .map_err(|error: fleet_actors::ids::MalformedId| ApiError::invalid("conversation_id", error.to_string()))?;
    let max = api.settings.server.query_message_bytes_max.as_usize();
    if query.message.len() > max {
        return Err(ApiError::invalid("message", format!("has more than {max} bytes, as many as a GET may carry")));
    }
    let last = request.headers().get("last-event-id").map(|id| id.to_str().ok().and_then(|id| id.parse().ok()));
    let opened = match last {
        Some(None) => return Err(ApiError::invalid("Last-Event-ID", "must be the number of an event")),
        Some(Some(after)) => match api.reconnect(&conversation, &query.message, Seq(after)).await? {
            Some(opened) => opened,
            None => return Ok(HttpResponse::NoContent().finish()),
        },
        None => {
            let run = NewRun {
                message: query.message,
                conversation: Some(conversation),
                effort: query.reasoning_effort,
                key: query.client_message_id,
                ..NewRun::default()
            };
            api.open_chat(run).await?
        }
    };
    let checkpointing = query.enable_checkpointing.unwrap_or(api.settings.sessions.enable_checkpointing);
    Ok(respond_with(api.get_ref().clone(), opened, checkpointing))
}

struct Pump {
    api: Api,
    opened: Opened,
    renderer: Renderer,
    connected: Option<Value>,
    heartbeat: tokio::time::Interval,
    over: bool,
}

fn respond_with(api: Api, opened: Opened, checkpointing: bool) -> HttpResponse {
    let renderer = Renderer::new(api.settings.clone(), opened.events.workflow().to_string(), true);
    let now = api.sessions.services().clock.now();
    let conversation = opened.conversation.as_ref().map(|id| id.as_str());
    let connected = Some(renderer.connected(now, conversation, opened.is_resume, checkpointing));
    let mut heartbeat = tokio::time::interval(api.settings.server.heartbeat_interval_ms.duration());
    heartbeat.reset();
    let pump = Pump { api, opened, renderer, connected, heartbeat, over: false };
    let chunks = futures_util::stream::unfold(pump, |mut pump| async move {
        let chunk = pump.next().await?;
        Some((Ok::<_, Infallible>(chunk), pump))
    });
    HttpResponse::Ok()
        .insert_header(("content-type", "text/event-stream"))
        .insert_header(("cache-control", "no-cache"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(chunks)
}

impl Pump {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(connected) = self.connected.take() {
            return Some(line(None, &connected));
        }
        while !self.over {
            let item = tokio::select! {
                item = self.opened.events.next() => item,
                _ = self.heartbeat.tick() => {
                    let now = self.api.sessions.services().clock.now();
                    return Some(line(None, &self.renderer.heartbeat(now)));
                }
            };
            match item {
                Ok(StreamItem::Event(event)) => {
                    let Some(shown) = self.renderer.render(&event) else { continue };
                    self.over = shown["type"] == "done";
                    return Some(line(Some(event.seq), &shown));
                }
                // SSE just ends, so that an EventSource comes back.
                Ok(StreamItem::Rests(..) | StreamItem::End) | Err(_) => self.over = true,
            }
        }
        None
    }
}

fn line(id: Option<Seq>, event: &Value) -> Bytes {
    match id {
        Some(id) => format!("id: {id}\ndata: {event}\n\n").into(),
        None => format!("data: {event}\n\n").into(),
    }
}

#[derive(Deserialize)]
struct RunQuery {
    workflow_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RespondBody {
    request_id: String,
    response: Value,
}

async fn respond(
    query: web::Query<RunQuery>,
    body: web::Json<RespondBody>,
    api: web::Data<Api>,
) -> Result<HttpResponse, ApiError> {
    let RespondBody { request_id, response } = body.into_inner();
    let workflow: WorkflowId = query.workflow_id.parse().map_err(|_| ApiError::not_found("workflow"))?;
    let request = RequestId::from_trusted(request_id.clone());
    match api.sessions.answer(&workflow, &request, response).await.map_err(|error| ApiError::of_start(error, 2))? {
        Posted::Accepted => Ok(HttpResponse::Ok().json(json!({ "status": "ok", "request_id": request_id }))),
        Posted::Closed => Err(ApiError::request_closed()),
        Posted::Unknown => Err(ApiError::not_found("workflow or request")),
    }
}

async fn cancel(query: web::Query<RunQuery>, api: web::Data<Api>) -> Result<HttpResponse, ApiError> {
    let workflow: WorkflowId = query.workflow_id.parse().map_err(|_| ApiError::not_found("workflow"))?;
    match api.sessions.cancel(&workflow, "client").await.map_err(|error| ApiError::of_start(error, 2))? {
        Posted::Accepted => Ok(HttpResponse::Ok().json(json!({ "status": "cancelled", "workflow_id": workflow }))),
        Posted::Closed => Err(ApiError::request_closed()),
        Posted::Unknown => Err(ApiError::not_found("workflow")),
    }
}
