//! Which pages may open a socket, start or change something: without an `Origin` it is a tool and may; otherwise the whole
//! origin must be allowed.
//!
//! What a page of another origin only reads is not refused here: its browser keeps the answer from it
//! ([`cors`](super::cors)). It does not where the page came from a name that was made to mean this machine: such a name is
//! refused whatever is asked for.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{HOST, HeaderName, ORIGIN};
use actix_web::middleware::Next;
use actix_web::web::Data;

use super::Api;
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
    Err(forbidden(request, "pages of this origin may not open a socket"))
}

/// Refuses what asks for a host that is not this one, and what would change something and comes from a page of an origin that
/// is not allowed. A browser sends such a request without asking first when its form is simple enough, and to a name that was
/// made to mean this machine in any form.
///
/// # Errors
/// [`ApiError`] 403 `origin_forbidden`, and those of the service it wraps.
pub async fn origins<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    if let Some(api) = request.app_data::<Data<Api>>() {
        let server = &api.settings.server;
        let host = request.headers().get(HOST);
        if host.is_some_and(|host| !host.to_str().is_ok_and(|host| server.host_allowed(host))) {
            let text = "this server has another name: it is known by its address and by those of allowed origins";
            return Err(forbidden(request.request(), text).into());
        }
        if !request.method().is_safe() {
            admit(request.request(), server)?;
        }
    }
    next.call(request).await
}

/// Judges a request that starts or changes something by the page that it comes from, if it comes from one.
///
/// # Errors
/// [`ApiError`] 403 `origin_forbidden`.
pub(super) fn admit(request: &HttpRequest, server: &ServerSettings) -> Result<(), ApiError> {
    let mut origins = request.headers().get_all(ORIGIN);
    let allowed = match (origins.next(), origins.next()) {
        // Links, forms and images send no origin; the browsers of today say what they are.
        (None, _) => request.headers().get(SEC_FETCH_SITE).is_none_or(|site| site != "cross-site"),
        (Some(origin), None) => {
            origin.to_str().is_ok_and(|origin| server.cors_origin_allowed(origin) || is_own(origin, request))
        }
        (Some(_), Some(_)) => false,
    };
    if allowed { Ok(()) } else { Err(forbidden(request, "pages of this origin may not start or change anything")) }
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a page is one of ours, as `/docs` is. By address alone: whoever owns a name can make it mean this machine.
fn is_own(origin: &str, request: &HttpRequest) -> bool {
    let Some((_, place)) = origin.split_once("://") else { return false };
    let host = place.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let host = host.map_or(place, |(host, _)| host).trim_start_matches('[').trim_end_matches(']');
    let is_address = host.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost");
    is_address && request.headers().get(HOST).is_some_and(|own| own.as_bytes().eq_ignore_ascii_case(place.as_bytes()))
}

fn forbidden(request: &HttpRequest, text: &'static str) -> ApiError {
    let (origin, host) = (request.headers().get(ORIGIN), request.headers().get(HOST));
    let peer = request.peer_addr().map(|peer| peer.ip().to_string());
    tracing::warn!(sec.event = "origin_forbidden", ?origin, ?host, peer, "a request of a page was refused");
    ApiError::new(StatusCode::FORBIDDEN, "origin_forbidden", text)
}
