//! Which pages may open a socket: absent is a tool and may; otherwise the whole origin must be allowed.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::ORIGIN;

use super::error::ApiError;
use crate::settings::ServerSettings;

/// Who comes to the WebSocket door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visitor {
    /// No `Origin`: it reads the status of a refused handshake.
    Tool,
    /// A page: it is told only after the upgrade.
    Browser,
}

/// Judges a handshake by its `Origin`.
///
/// # Errors
/// [`ApiError`] 403 `origin_forbidden`; more than one `Origin`, or one that is no text, is forbidden too.
pub fn judge(request: &HttpRequest, server: &ServerSettings) -> Result<Visitor, ApiError> {
    let mut origins = request.headers().get_all(ORIGIN);
    let Some(origin) = origins.next() else { return Ok(Visitor::Tool) };
    let allowed = origins.next().is_none() && origin.to_str().is_ok_and(|origin| server.ws_origin_allowed(origin));
    if allowed {
        return Ok(Visitor::Browser);
    }
    let peer = request.peer_addr().map(|peer| peer.ip().to_string());
    tracing::warn!(sec.event = "origin_forbidden", ?origin, peer, "a handshake was refused");
    Err(ApiError::new(StatusCode::FORBIDDEN, "origin_forbidden", "pages of this origin may not open a socket"))
}
