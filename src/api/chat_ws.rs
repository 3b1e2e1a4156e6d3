//! Chat over WebSocket, version 1: one run per socket.
//!
//! Every frame leaves under a deadline, so a client that never reads is closed in time. Closing 1000 by the client is a
//! cancel; any other end of the socket starts the run's grace.

use std::time::Duration;

use actix_web::http::header::ORIGIN;
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason};
use fleet_actors::ids::RequestId;
use fleet_actors::ports::{Posted, Rest};
use fleet_actors::sessions::StreamItem;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::time::Instant;

use super::Api;
use super::error::ApiError;
use super::open::Opened;
use super::start::NewRun;
use super::wire::v1::{FirstFrame, Frame, Renderer, first_frame, later_frame};

/// Registers the door.
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/api/ws/chat", web::get().to(open));
}

async fn open(request: HttpRequest, body: web::Payload, api: web::Data<Api>) -> Result<HttpResponse, actix_web::Error> {
    let origin = request.headers().get(ORIGIN).map(|origin| origin.to_str().unwrap_or("null").to_owned());
    if origin.as_deref().is_some_and(|origin| !api.settings.server.ws_origin_allowed(origin)) {
        let status = actix_web::http::StatusCode::FORBIDDEN;
        return Ok(
            ApiError::new(status, "origin_forbidden", "this origin may not open a WebSocket here").error_response()
        );
    }
    let resumes = request.query_string().split('&').any(|pair| pair == "resume=1");
    let refusal = if resumes {
        None
    } else {
        let retry = api.settings.sessions.retry_after_s.get();
        api.sessions.admission().look().err().map(|full| ApiError::of_start(full.into(), retry))
    };
    if let (Some(refusal), None) = (&refusal, &origin) {
        return Ok(refusal.error_response());
    }
    let (response, socket, stream) = actix_ws::handle(&request, body)?;
    let server = &api.settings.server;
    let stream = stream
        .max_frame_size(server.frame_bytes_max.as_usize())
        .aggregate_continuations()
        .max_continuation_size(server.message_bytes_max.as_usize());
    let outbox = Outbox { socket, deadline: server.send_timeout_ms.duration() };
    actix_web::rt::spawn(async move {
        match refusal {
            Some(refusal) => {
                let patience = api.settings.server.refusal_timeout_ms.duration();
                let _ = tokio::time::timeout(patience, refuse(&api, outbox, &refusal, CloseCode::Again)).await;
            }
            None => converse(&api, outbox, stream).await,
        }
    });
    Ok(response)
}

/// Writes frames, each under a deadline.
struct Outbox {
    socket: actix_ws::Session,
    deadline: Duration,
}

/// The client is gone or does not read.
struct Gone;

impl Outbox {
    async fn send(&mut self, event: &Value) -> Result<(), Gone> {
        let sent = tokio::time::timeout(self.deadline, self.socket.text(event.to_string())).await;
        sent.map_err(|_| Gone)?.map_err(|_| Gone)
    }

    async fn ping(&mut self) -> Result<(), Gone> {
        let sent = tokio::time::timeout(self.deadline, self.socket.ping(b"")).await;
        sent.map_err(|_| Gone)?.map_err(|_| Gone)
    }

    async fn pong(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let sent = tokio::time::timeout(self.deadline, self.socket.pong(bytes)).await;
        sent.map_err(|_| Gone)?.map_err(|_| Gone)
    }

    async fn close(self, code: CloseCode, reason: &str) {
        let reason = CloseReason { code, description: Some(reason.chars().take(120).collect()) };
        let _ = tokio::time::timeout(self.deadline, self.socket.close(Some(reason))).await;
    }
}

async fn refuse(api: &Api, mut outbox: Outbox, error: &ApiError, code: CloseCode) {
    let at = api.sessions.services().clock.now();
    let renderer = Renderer::new(api.settings.clone(), String::new(), true);
    if outbox.send(&renderer.error(at, error)).await.is_ok() && outbox.send(&renderer.done(at)).await.is_ok() {
        outbox.close(code, &error.code).await;
    }
}

async fn first_text(outbox: &mut Outbox, frames: &mut AggregatedMessageStream) -> Option<Result<String, ApiError>> {
    loop {
        match frames.next().await? {
            Ok(AggregatedMessage::Text(text)) => return Some(Ok(text.to_string())),
            Ok(AggregatedMessage::Binary(_)) => return Some(Err(ApiError::invalid("frame", "must be a text frame"))),
            Ok(AggregatedMessage::Ping(bytes)) => outbox.pong(&bytes).await.ok()?,
            Ok(AggregatedMessage::Pong(_)) => {}
            Ok(AggregatedMessage::Close(_)) | Err(_) => return None,
        }
    }
}

async fn converse(api: &Api, mut outbox: Outbox, mut frames: AggregatedMessageStream) {
    let handshake = api.settings.server.handshake_timeout_ms.duration();
    let first = tokio::time::timeout(handshake, first_text(&mut outbox, &mut frames)).await;
    let text = match first {
        Err(_) => {
            let status = actix_web::http::StatusCode::REQUEST_TIMEOUT;
            let late = ApiError::new(status, "handshake_timeout", "no first frame came in time");
            return refuse(api, outbox, &late, CloseCode::Policy).await;
        }
        Ok(None) => return,
        Ok(Some(Err(error))) => return refuse(api, outbox, &error, CloseCode::Policy).await,
        Ok(Some(Ok(text))) => text,
    };
    let checkpointing = api.settings.sessions.enable_checkpointing;
    let (opened, deltas, checkpointing) = match first_frame(&text) {
        Err(error) => (Err(error), true, false),
        Ok(FirstFrame::Start(frame)) => {
            let deltas = frame.stream.unwrap_or(true);
            let listed = frame.checkpoint_id.is_some() || frame.enable_checkpointing.unwrap_or(checkpointing);
            if frame.checkpoint_id.is_some() {
                tracing::warn!("a checkpoint id beside a message is ignored; checkpointing is on");
            }
            let conversation = frame.conversation_id.map(|id| {
                id.parse().map_err(|error: fleet_actors::ids::MalformedId| {
                    ApiError::invalid("conversation_id", error.to_string())
                })
            });
            let opened = match conversation.transpose() {
                Err(error) => Err(error),
                Ok(conversation) => {
                    let message = frame.message;
                    let effort = frame.reasoning_effort;
                    api.open_chat(NewRun { message, conversation, effort, ..NewRun::default() }).await
                }
            };
            (opened, deltas, listed)
        }
        Ok(FirstFrame::Resume(frame)) => {
            let conversation = frame.conversation_id.as_deref();
            let opened = api.resume_chat(&frame.checkpoint_id, conversation, frame.reasoning_effort).await;
            (opened, frame.stream.unwrap_or(true), true)
        }
    };
    match opened {
        Ok(opened) => follow(api, outbox, frames, opened, deltas, checkpointing).await,
        Err(error) => {
            let code = match error.status.as_u16() {
                429 | 503 => CloseCode::Again,
                _ => CloseCode::Policy,
            };
            refuse(api, outbox, &error, code).await;
        }
    }
}

/// Pumps a run to its socket until one of them is over.
async fn follow(
    api: &Api,
    mut outbox: Outbox,
    mut frames: AggregatedMessageStream,
    opened: Opened,
    deltas: bool,
    checkpointing: bool,
) {
    let Opened { mut events, conversation, is_resume } = opened;
    let workflow = events.workflow().clone();
    let mut renderer = Renderer::new(api.settings.clone(), workflow.to_string(), deltas);
    let clock = api.sessions.services().clock.clone();
    let conversation = conversation.as_ref().map(|id| id.as_str());
    if outbox.send(&renderer.connected(clock.now(), conversation, is_resume, checkpointing)).await.is_err() {
        return;
    }
    let server = &api.settings.server;
    let mut heartbeat = tokio::time::interval(server.heartbeat_interval_ms.duration());
    heartbeat.reset();
    let mut ping = tokio::time::interval(server.ping_interval_ms.duration());
    let mut last_sign = Instant::now();
    loop {
        let sent = tokio::select! {
            item = events.next() => match item {
                Ok(StreamItem::Event(event)) => {
                    let Some(shown) = renderer.render(&event) else { continue };
                    let done = shown["type"] == "done";
                    let sent = outbox.send(&shown).await;
                    if done && sent.is_ok() {
                        return outbox.close(CloseCode::Normal, "done").await;
                    }
                    sent
                }
                Ok(StreamItem::End) => return outbox.close(CloseCode::Normal, "done").await,
                Ok(StreamItem::Rests(rest, text)) => {
                    let code = if rest == Rest::Interrupted { CloseCode::Restart } else { CloseCode::Error };
                    return part(&mut renderer, outbox, &clock, &ApiError::rests(rest, text), code).await;
                }
                Err(error) => return part(&mut renderer, outbox, &clock, &error.into(), CloseCode::Error).await,
            },
            frame = frames.next() => {
                last_sign = Instant::now();
                match frame {
                    Some(Ok(AggregatedMessage::Text(text))) => match answer_frame(api, &workflow, &text).await {
                        Ok(()) => Ok(()),
                        Err(error) => outbox.send(&renderer.error(clock.now(), &error)).await,
                    },
                    Some(Ok(AggregatedMessage::Binary(_))) => {
                        let error = ApiError::invalid("frame", "must be a text frame");
                        outbox.send(&renderer.error(clock.now(), &error)).await
                    }
                    Some(Ok(AggregatedMessage::Ping(bytes))) => outbox.pong(&bytes).await,
                    Some(Ok(AggregatedMessage::Pong(_))) => Ok(()),
                    Some(Ok(AggregatedMessage::Close(reason))) => {
                        if reason.as_ref().is_some_and(|reason| reason.code == CloseCode::Normal) && !is_resume {
                            let _ = api.sessions.cancel(&workflow, "client").await;
                        }
                        return outbox.close(CloseCode::Normal, "bye").await;
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%workflow, %error, "a socket broke the protocol");
                        return outbox.close(CloseCode::Protocol, "protocol error").await;
                    }
                    None => return,
                }
            }
            _ = heartbeat.tick() => outbox.send(&renderer.heartbeat(clock.now())).await,
            _ = ping.tick() => {
                if last_sign.elapsed() > server.pong_timeout_ms.duration() { Err(Gone) } else { outbox.ping().await }
            }
        };
        if sent.is_err() {
            // Dropping the stream begins the run's grace.
            return outbox.close(CloseCode::Other(4408), "the client does not read").await;
        }
    }
}

/// Says that the run rests, which is the socket's own end.
async fn part(
    renderer: &mut Renderer,
    mut outbox: Outbox,
    clock: &std::sync::Arc<dyn fleet_actors::ports::Clock>,
    error: &ApiError,
    code: CloseCode,
) {
    let _ = outbox.send(&renderer.error(clock.now(), error)).await;
    let _ = outbox.send(&renderer.done(clock.now())).await;
    outbox.close(code, &error.code).await;
}

async fn answer_frame(api: &Api, workflow: &fleet_actors::ids::WorkflowId, text: &str) -> Result<(), ApiError> {
    let retry = api.settings.sessions.retry_after_s.get();
    match later_frame(text)? {
        Frame::Cancel => {
            api.sessions.cancel(workflow, "client").await.map_err(|error| ApiError::of_start(error, retry))?;
            Ok(())
        }
        Frame::Respond { request_id, response } => {
            let request = RequestId::from_trusted(request_id);
            let posted = api.sessions.answer(workflow, &request, response).await;
            match posted.map_err(|error| ApiError::of_start(error, retry))? {
                Posted::Accepted => Ok(()),
                Posted::Closed => Err(ApiError::request_closed()),
                Posted::Unknown => Err(ApiError::not_found("request")),
            }
        }
    }
}
