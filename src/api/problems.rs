//! The last word on every refusal: what a middleware or the framework answers in its own form becomes a problem body.
//!
//! Absent on purpose: what is answered before there is a request. A malformed request line or header (400) and a head that
//! does not come in time (408) end in the parser, with an empty body and a closed connection; the runbook says so.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{HttpResponse, ResponseError as _};

use super::error::ApiError;

/// The middleware.
///
/// # Errors
/// Those of the service it wraps. Handlers and extractors have none: theirs are answers by now.
pub async fn problems<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let response = next.call(request).await?.map_into_boxed_body();
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || is_json(response.headers()) {
        return Ok(response);
    }
    let (request, plain) = response.into_parts();
    let mut problem = of(status).error_response();
    for (name, value) in plain.headers() {
        // Those of CORS, `Allow` and the like; the body is another.
        if name != CONTENT_TYPE && name != CONTENT_LENGTH && !problem.headers().contains_key(name) {
            problem.headers_mut().insert(name.clone(), value.clone());
        }
    }
    let kind = plain.head().connection_type();
    let problem: HttpResponse = problem;
    let mut response = ServiceResponse::new(request, problem);
    response.response_mut().head_mut().set_connection_type(kind);
    Ok(response)
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().ends_with(b"json"))
}

fn of(status: StatusCode) -> ApiError {
    match status.as_u16() {
        404 => ApiError::not_found("route"),
        405 => ApiError::new(status, "method_not_allowed", "this method is not allowed here"),
        408 => ApiError::new(status, "body_timeout", "the request did not arrive in time"),
        413 => ApiError::new(status, "body_too_large", "the request has too many bytes"),
        415 => ApiError::new(status, "unsupported_media_type", "this content type is not understood"),
        400..=499 => ApiError::new(status, "bad_request", "the request cannot be understood"),
        _ => ApiError::new(status, "internal", "the request could not be served"),
    }
}
