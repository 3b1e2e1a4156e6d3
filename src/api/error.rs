//! Every failure a client can see: status, stable code, public text. One heading of the runbook each.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use fleet_actors::event::Failure;
use fleet_actors::ports::{Rest, StoreError};
use fleet_actors::sessions::StartError;
use serde::Serialize;

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Its name as the client wrote it.
    pub field: Cow<'static, str>,
    /// What was expected.
    pub message: String,
}

/// A failure as a client sees it: RFC 9457 over HTTP, an `error` event on a stream.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable, snake case; a heading of `docs/runbook.md`.
    pub code: Cow<'static, str>,
    /// For people; never holds a secret.
    pub detail: String,
    /// Seconds after which trying again may help.
    pub retry_after_s: Option<u64>,
    /// Which fields are wrong.
    pub errors: Vec<FieldError>,
    /// The run it is about.
    pub execution_id: Option<String>,
    /// For 429 of the cap: the cap itself, for the `RateLimit` headers.
    pub sessions_max: Option<u32>,
}

impl ApiError {
    /// A failure without further fields.
    #[must_use]
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        let (code, detail) = (code.into(), detail.into());
        Self { status, code, detail, retry_after_s: None, errors: Vec::new(), execution_id: None, sessions_max: None }
    }

    /// 422 that names one field.
    #[must_use]
    pub fn invalid(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", format!("{field}: {message}"));
        error.errors.push(FieldError { field, message });
        error
    }

    /// A field that is wrong in a frame, where it came over HTTP: 422.
    #[must_use]
    pub fn in_a_body(self) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, code: "validation_failed".into(), ..self }
    }

    /// The same at a door that calls the message otherwise.
    #[must_use]
    pub fn where_the_message_is(mut self, name: &'static str) -> Self {
        for wrong in self.errors.iter_mut().filter(|wrong| wrong.field == "message") {
            wrong.field = name.into();
            self.detail = format!("{name}: {}", wrong.message);
        }
        self
    }

    /// 404.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// 409: something still uses it.
    #[must_use]
    pub fn in_use(detail: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "in_use", detail)
    }

    /// The same failure with a time to retry after, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// What became of a start, given the configured `retry_after_s`.
    #[must_use]
    pub fn of_start(error: StartError, retry_after_s: u64) -> Self {
        match error {
            StartError::Full(full) => {
                let fleet_actors::admission::AdmitError::CapReached { cap, .. } = full;
                let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "session_cap_reached", full.to_string());
                error.sessions_max = Some(cap);
                error.retry_after(retry_after_s)
            }
            StartError::Store(error) => Self::from(error),
            StartError::KeyConflict(workflow) => {
                let mut error = Self::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "request_key_conflict",
                    "this key was used with another request",
                );
                error.execution_id = Some(workflow.to_string());
                error
            }
            StartError::Unknown => Self::not_found("workflow"),
            StartError::Rests(rest, text) => Self::rests(rest, text),
            StartError::Watchers(error) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "watchers_max_reached", error.to_string())
                    .retry_after(retry_after_s)
            }
            StartError::Owned => Self::new(StatusCode::CONFLICT, "workflow_owned", error.to_string()),
            StartError::Draining => Self::draining(),
            StartError::Busy(error) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", error.to_string()).retry_after(retry_after_s)
            }
        }
    }

    /// 503 while the process stops.
    #[must_use]
    pub fn draining() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "the server is stopping").retry_after(5)
    }

    /// A run that rests, where its client expects a result.
    #[must_use]
    pub fn rests(rest: Rest, text: impl Into<String>) -> Self {
        let text = text.into();
        match rest {
            Rest::StorageUnavailable => Self::new(StatusCode::SERVICE_UNAVAILABLE, rest.code(), text).retry_after(5),
            // A divergence is a quarantine with a name of its own.
            Rest::Quarantined if text.starts_with("replay_diverged") => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "replay_diverged", text)
            }
            Rest::Quarantined => Self::new(StatusCode::INTERNAL_SERVER_ERROR, rest.code(), text),
            Rest::Interrupted | Rest::VersionUnavailable => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, rest.code(), text).retry_after(5)
            }
        }
    }

    /// A run that failed, where its client expects a result.
    #[must_use]
    pub fn of_failure(failure: &Failure) -> Self {
        let status = match &*failure.code {
            "step_timeout" | "runtime_exceeded" | "idle_timeout" | "provider_timeout" | "tool_timeout"
            | "mcp_timeout" => StatusCode::GATEWAY_TIMEOUT,
            "cancelled" | "ambiguous_effect" | "approval_expired" | "plan_rejected" | "tool_changed"
            | "mcp_tool_changed" => StatusCode::CONFLICT,
            "storage_unavailable" | "tool_unavailable" | "mcp_busy" => StatusCode::SERVICE_UNAVAILABLE,
            "tool_unknown"
            | "tool_denied"
            | "tool_arguments_invalid"
            | "url_denied"
            | "sandbox_limit"
            | "limit_reached" => StatusCode::UNPROCESSABLE_ENTITY,
            "internal" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_GATEWAY,
        };
        let mut error = Self::new(status, failure.code.to_string(), failure.message.clone());
        error.retry_after_s = failure.retry_after_ms.map(|ms| ms.div_ceil(1_000));
        error
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "storage_damaged", "what is stored of it is damaged")
            }
            StoreError::Full | StoreError::Unwritable(_) | StoreError::Failed(_) | StoreError::Unavailable(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable", error.to_string()).retry_after(5)
            }
        }
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_id: Option<&'a str>,
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let kind = match self.status.as_u16() {
            429 => "https://iana.org/assignments/http-problem-types#quota-exceeded",
            503 => "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
            _ => "about:blank",
        };
        let problem = Problem {
            r#type: kind,
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: &self.code,
            errors: &self.errors,
            execution_id: self.execution_id.as_deref(),
        };
        let mut response = HttpResponse::build(self.status);
        response.insert_header(("content-type", "application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((RETRY_AFTER, HeaderValue::from(seconds)));
            if let Some(cap) = self.sessions_max {
                // IETF draft-ietf-httpapi-ratelimit-headers.
                let policy = format!("\"sessions\";q={cap};qu=\"concurrent-requests\"");
                response.insert_header(("ratelimit-policy", policy));
                response.insert_header(("ratelimit", format!("\"sessions\";r=0;t={seconds}")));
            }
        }
        response.body(serde_json::to_vec(&problem).unwrap_or_default())
    }
}
