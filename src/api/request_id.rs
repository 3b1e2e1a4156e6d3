//! Every response carries `X-Request-ID`: the client's own when it is safe to log, else a new one.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The middleware; outermost, so that errors of the others carry the id too.
///
/// # Errors
/// Those of the service it wraps.
pub async fn request_id<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let given = request.headers().get(X_REQUEST_ID).filter(|id| is_safe(id.as_bytes())).cloned();
    let made = || HeaderValue::from_str(&uuid::Uuid::now_v7().to_string()).ok();
    let id = given.or_else(made);
    let mut response = next.call(request).await?;
    if let Some(id) = id {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    Ok(response)
}

/// `[A-Za-z0-9._-]{1,64}`: it cannot break a log line or a header.
fn is_safe(id: &[u8]) -> bool {
    (1..=64).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}
