//! Request bodies: bounded in bytes, time and depth, and read field by field so that every mistake is named.
//!
//! Absent on purpose: extractors. They read a body before a refusal could be decided.

use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::web::{BytesMut, Payload};
use actix_web::{HttpRequest, HttpResponse, ResponseError as _};
use futures_util::StreamExt as _;
use serde_json::{Map, Value};

use super::error::{ApiError, FieldError};
use crate::settings::ServerSettings;

/// Reads a JSON object.
///
/// # Errors
/// 415, 413, 408, 400 `malformed_json`, 422 when it is JSON but no object.
pub async fn read_object(request: &HttpRequest, payload: Payload, limits: &ServerSettings) -> Result<Fields, ApiError> {
    if !is_json(request) {
        let text = "expected a body of content type application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", text));
    }
    let max = limits.body_bytes_max.as_usize();
    if announced(request).is_some_and(|length| length > max) {
        return Err(too_large(max));
    }
    let bytes = tokio::time::timeout(limits.body_timeout_ms.duration(), read(payload, max))
        .await
        .map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive in time"))??;
    // serde_json refuses nesting beyond 128, so depth costs no stack.
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(Fields { fields, errors: Vec::new() }),
        Ok(_) => Err(ApiError::invalid("body", "expected a JSON object")),
        Err(error) => Err(malformed(&error.to_string())),
    }
}

/// The same where no body stands for an empty object.
///
/// # Errors
/// As [`read_object`].
pub async fn read_optional_object(
    request: &HttpRequest,
    payload: Payload,
    limits: &ServerSettings,
) -> Result<Fields, ApiError> {
    let none = announced(request).unwrap_or(0) == 0 && !request.headers().contains_key(TRANSFER_ENCODING);
    if none {
        Ok(Fields { fields: Map::new(), errors: Vec::new() })
    } else {
        read_object(request, payload, limits).await
    }
}

async fn read(mut payload: Payload, max: usize) -> Result<BytesMut, ApiError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| {
            ApiError::new(StatusCode::BAD_REQUEST, "malformed_body", "the body ended early or was framed wrongly")
        })?;
        if bytes.len() + chunk.len() > max {
            return Err(too_large(max));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn malformed(reason: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "malformed_json", format!("the body is not JSON: {reason}"))
}

fn too_large(max: usize) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("a body may have at most {max} bytes"))
}

fn is_json(request: &HttpRequest) -> bool {
    let mut kinds = request.headers().get_all(CONTENT_TYPE);
    // Of two, whoever stands before the server may have looked at the other one.
    let (Some(kind), None) = (kinds.next(), kinds.next()) else { return false };
    let kind = kind.to_str().unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

fn announced(request: &HttpRequest) -> Option<usize> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Answers a refusal that was decided before the body: a small body is thrown away unparsed, so that the connection stays
/// usable; with a larger or slower one the connection closes.
pub async fn refuse(
    error: &ApiError,
    request: &HttpRequest,
    payload: Payload,
    limits: &ServerSettings,
) -> HttpResponse {
    let max = limits.refused_body_bytes_max.as_usize();
    let small = announced(request).is_none_or(|length| length <= max);
    let discarded = small
        && tokio::time::timeout(limits.refusal_timeout_ms.duration(), discard(payload, max)).await.unwrap_or(false);
    let mut response = error.error_response();
    if !discarded {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response
}

async fn discard(mut payload: Payload, max: usize) -> bool {
    let mut seen = 0;
    while let Some(Ok(chunk)) = payload.next().await {
        seen += chunk.len();
        if seen > max {
            return false;
        }
    }
    true
}

/// The fields of a body that nobody took yet, and what was wrong with those that were.
#[derive(Debug)]
pub struct Fields {
    fields: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    /// A text that must be there.
    pub fn text(&mut self, field: &'static str) -> String {
        let text = self.optional_text(field);
        if text.is_none() {
            self.wrong(field, "is required");
        }
        text.unwrap_or_default()
    }

    /// A text that may be left out or null.
    pub fn optional_text(&mut self, field: &'static str) -> Option<String> {
        match self.value(field)? {
            Value::String(text) => Some(text),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) | Value::Null => {
                self.wrong(field, "must be a string");
                None
            }
        }
    }

    /// True or false, left out or null.
    pub fn optional_flag(&mut self, field: &'static str) -> Option<bool> {
        let value = self.value(field)?;
        if !value.is_boolean() {
            self.wrong(field, "must be true or false");
        }
        value.as_bool()
    }

    /// Any JSON that may be left out or null.
    pub fn value(&mut self, field: &'static str) -> Option<Value> {
        self.fields.remove(field).filter(|value| !value.is_null())
    }

    /// Any JSON, null included, that must be there.
    pub fn any(&mut self, field: &'static str) -> Value {
        let value = self.fields.remove(field);
        if value.is_none() {
            self.wrong(field, "is required");
        }
        value.unwrap_or_default()
    }

    /// Notes that a field is wrong, once.
    pub fn wrong(&mut self, field: &'static str, message: &str) {
        if self.errors.iter().any(|error| error.field == field) {
            return;
        }
        self.errors.push(FieldError { field: field.into(), message: message.to_owned() });
    }

    /// No field may be left.
    ///
    /// # Errors
    /// 422 that names every wrong and unknown field.
    pub fn finish(mut self) -> Result<(), ApiError> {
        for (name, _) in self.fields {
            let field = name.chars().take(64).collect::<String>().into();
            self.errors.push(FieldError { field, message: "is not a known field".to_owned() });
        }
        let Some(first) = self.errors.first() else { return Ok(()) };
        let mut error = ApiError::invalid(first.field.clone(), first.message.clone());
        error.errors = self.errors;
        Err(error)
    }
}
