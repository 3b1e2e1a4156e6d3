//! Plays scripts over HTTP.
//!
//! A stream's pieces that are due within [`TICK`] of each other leave in one write. Each piece's time counts from the
//! one before it, not from when it was sent, so a late timer does not slow the rest down.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream::{self, Stream};
use serde_json::json;
use tokio::time::Instant;

use super::calls::{Call, Calls};
use super::render::Renderer;
use super::wire::Asked;
use crate::llm::simulate::{Script, SimulatedFault};

/// What a timer cannot tell apart anyway.
const TICK: Duration = Duration::from_millis(1);
/// Lets what was written leave before the connection is cut.
const BEFORE_CUT: Duration = Duration::from_millis(5);
const GARBAGE: &[u8] = b"data: {\"choices\": [{\"delta\": {\"cont\x00\xff\xfe<html>\n\n";

pub(super) async fn chat(request: HttpRequest, body: Bytes, calls: Data<Calls>) -> HttpResponse {
    match Asked::chat(&body, &calls.parts) {
        Some(asked) => answer("chat_completions", request, body, &calls, asked, Renderer::chat).await,
        None => refuse(&calls),
    }
}

pub(super) async fn responses(request: HttpRequest, body: Bytes, calls: Data<Calls>) -> HttpResponse {
    match Asked::responses(&body, &calls.parts) {
        Some(asked) => answer("responses", request, body, &calls, asked, Renderer::responses).await,
        None => refuse(&calls),
    }
}

fn refuse(calls: &Calls) -> HttpResponse {
    calls.refused();
    error(StatusCode::BAD_REQUEST, "invalid_request_error", "model and messages or input are required")
}

fn error(status: StatusCode, kind: &str, message: &str) -> HttpResponse {
    HttpResponse::build(status)
        .json(json!({ "error": { "message": message, "type": kind, "param": null, "code": null } }))
}

async fn answer(
    api: &'static str,
    request: HttpRequest,
    body: Bytes,
    calls: &Arc<Calls>,
    asked: Asked,
    renderer: fn(&Asked, &Script) -> Renderer,
) -> HttpResponse {
    let mut call = calls.begin(api, request.headers(), body);
    let key = request.headers().get("idempotency-key").filter(|_| asked.counts_attempts());
    let attempt = key.and_then(|key| key.to_str().ok()).map_or(1, |key| calls.attempt(key));
    let script = calls.simulation().simulate(&asked.request(attempt), call.n);
    // Its headers are of no more use, and a stream would keep them.
    drop(request);
    let began = Instant::now();
    if !script.latency.is_zero() {
        tokio::time::sleep_until(began + script.latency).await;
    }
    if let Some(fault) = script.fault {
        call.struck_by(fault);
        match fault {
            SimulatedFault::RateLimited { retry_after } => {
                call.faulted();
                let mut refusal = error(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "simulated rate limit");
                if let Some(seconds) = retry_after {
                    refusal.headers_mut().insert(RETRY_AFTER, seconds.into());
                }
                return refusal;
            }
            SimulatedFault::ServerError => {
                call.faulted();
                return error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "simulated failure");
            }
            SimulatedFault::Hang => match std::future::pending::<Infallible>().await {},
            SimulatedFault::Garbage if !asked.stream => {
                call.faulted();
                return HttpResponse::Ok().content_type("application/json").body(GARBAGE);
            }
            SimulatedFault::Cut { .. } | SimulatedFault::Garbage | SimulatedFault::Drip { .. } => {}
        }
    }
    let mut renderer = renderer(&asked, &script);
    let due = began + script.latency;
    if asked.stream {
        let mut head = Vec::with_capacity(1_024);
        renderer.head(&mut head);
        let player = Player { call: Some(call), script, renderer, out: head, next: 0, due };
        return HttpResponse::Ok()
            .content_type("text/event-stream")
            .insert_header(("cache-control", "no-cache"))
            .streaming(player.stream());
    }
    let spoken: Duration = script.pieces.iter().map(|piece| piece.gap).sum();
    if !spoken.is_zero() {
        tokio::time::sleep_until(due + spoken).await;
    }
    let whole = renderer.whole(&script);
    if matches!(script.fault, Some(SimulatedFault::Cut { .. })) {
        call.faulted();
        let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
        return HttpResponse::Ok().content_type("application/json").streaming(cut_after(half));
    }
    call.completed();
    HttpResponse::Ok().content_type("application/json").body(whole)
}

fn cut_after(bytes: Bytes) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::unfold(Some(Some(bytes)), async |state| match state? {
        Some(bytes) => Some((Ok(bytes), Some(None))),
        None => {
            tokio::time::sleep(BEFORE_CUT).await;
            Some((Err(cut()), None))
        }
    })
}

fn cut() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "the simulation cuts the stream")
}

/// A stream on its way. The client that goes away drops it, and the call in it.
struct Player {
    /// Gone once it has ended.
    call: Option<Call>,
    script: Script,
    renderer: Renderer,
    /// Written already, but not sent.
    out: Vec<u8>,
    next: usize,
    /// When the piece before `next` was due.
    due: Instant,
}

impl Player {
    fn stream(self) -> impl Stream<Item = std::io::Result<Bytes>> {
        stream::unfold(self, async |mut player| player.write().await.map(|written| (written, player)))
    }

    /// The next write, when it is due.
    async fn write(&mut self) -> Option<std::io::Result<Bytes>> {
        let mut call = self.call.take()?;
        let mut out = std::mem::take(&mut self.out);
        let mut now = Instant::now();
        loop {
            if self.script.fault == Some(SimulatedFault::Garbage) && self.next > 0 {
                call.faulted();
                out.extend_from_slice(GARBAGE);
                return Some(Ok(out.into()));
            }
            if matches!(self.script.fault, Some(SimulatedFault::Cut { after }) if self.next >= after as usize) {
                call.faulted();
                if out.is_empty() {
                    tokio::time::sleep(BEFORE_CUT).await;
                    return Some(Err(cut()));
                }
                break;
            }
            let Some(piece) = self.script.pieces.get(self.next) else {
                self.renderer.tail(&self.script, &mut out);
                call.completed();
                return Some(Ok(out.into()));
            };
            let due = self.due + piece.gap;
            if due > now + TICK {
                if !out.is_empty() {
                    break;
                }
                tokio::time::sleep_until(due).await;
                now = Instant::now();
            }
            self.due = due;
            self.next += 1;
            self.renderer.piece(piece, &mut out);
        }
        self.call = Some(call);
        Some(Ok(out.into()))
    }
}
