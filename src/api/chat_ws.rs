//! The WebSocket door of a chat: version 1, one run a socket, and `fleet.v2`, as many as its client likes.
//!
//! The order of refusals: origin (403), places for sockets (503), then for version 1 alone a full house: 429 for tools,
//! and for browsers, which cannot read the status of a refused handshake, an accepted socket that is told so.

mod headers;
mod reader;
mod socket;
mod v1;
mod v2;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Payload, ServiceConfig, get};
use actix_web::{FromRequest as _, HttpRequest, HttpResponse};

use self::headers::Bounded;
use self::socket::Socket;
use super::error::ApiError;
use super::origin::{self, Visitor};
use super::start::traceparent;
use super::wire::Version;
use super::{Api, at};

/// The subprotocol of version 2.
pub const FLEET_V2: &str = "fleet.v2";

/// Adds the routes.
pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(at("/api/ws/chat", "GET").route(get().to(open)));
}

async fn open(api: Data<Api>, request: HttpRequest, body: Payload) -> Result<HttpResponse, ApiError> {
    let visitor = origin::judge(&request, &api.settings.server)?;
    let place = api.connections.take()?;
    let version = if speaks_v2(&request) { Version::V2 } else { Version::V1 };
    let full = match version {
        Version::V1 if !comes_to_resume(&request) => api.look_at_the_house().err(),
        Version::V1 | Version::V2 => None,
    };
    let full = match (full, visitor) {
        (Some(error), Visitor::Tool) => return Err(error),
        (full, Visitor::Tool | Visitor::Browser) => full,
    };
    let server = &api.settings.server;
    let bounded = Bounded::new(body.into_inner(), server.frame_bytes_max.get());
    let invalid =
        |error: actix_web::Error| ApiError::new(StatusCode::BAD_REQUEST, "invalid_handshake", error.to_string());
    let mut body: actix_web::dev::Payload = actix_web::dev::Payload::Stream { payload: Box::pin(bounded) };
    let body = Payload::from_request(&request, &mut body).await.map_err(invalid)?;
    let upgraded = actix_ws::handle_with_protocols(&request, body, &[FLEET_V2]);
    let (response, session, frames) = upgraded.map_err(invalid)?;
    let frames = frames
        .max_frame_size(server.frame_bytes_max.as_usize())
        .aggregate_continuations()
        .max_continuation_size(server.message_bytes_max.as_usize());
    let mut socket = Socket::new(api.into_inner(), session, reader::start(frames), place);
    socket.traceparent = traceparent(&request);
    match full {
        Some(error) => drop(actix_web::rt::spawn(refuse(socket, error))),
        None => drop(actix_web::rt::spawn(serve(socket, version))),
    }
    Ok(response)
}

fn speaks_v2(request: &HttpRequest) -> bool {
    let offers = request.headers().get_all("sec-websocket-protocol");
    offers.filter_map(|offer| offer.to_str().ok()).flat_map(|offer| offer.split(',')).any(|one| one.trim() == FLEET_V2)
}

fn comes_to_resume(request: &HttpRequest) -> bool {
    request.query_string().split('&').any(|pair| pair == "resume=1")
}

/// A client that waits costs what this future takes. So what is seldom, or is no socket of `fleet.v2`, is boxed.
async fn serve(mut socket: Socket, version: Version) {
    let end = match version {
        Version::V1 => Box::pin(v1::serve(&mut socket)).await,
        Version::V2 => v2::serve(&mut socket).await,
    };
    Box::pin(ended(socket, end)).await;
}

async fn refuse(mut socket: Socket, error: ApiError) {
    let patience = socket.api.settings.server.refusal_timeout_ms.duration();
    let refused = tokio::time::timeout(patience, socket.refuse(&error)).await;
    ended(socket, refused.unwrap_or(socket::End::Gone)).await;
}

async fn ended(socket: Socket, end: socket::End) {
    tracing::debug!(?end, "a socket ended");
    socket.end(end).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of what a function's future holds.
    fn future<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Debug builds lay a future out less tightly than the optimised binary, which `scripts/bench footprint` measures.
    #[test]
    fn the_tasks_of_an_idle_socket_are_small() {
        let (serving, reading) = (future(serve), reader::task_bytes());
        println!("a socket's task takes {serving} bytes, its reader's {reading}");
        assert!(serving <= 2_048, "{serving}");
        assert!(reading <= 1_024, "{reading}");
    }
}
