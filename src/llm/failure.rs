//! Why a model call failed: a stable code, a text for people, and whether another attempt could help.
//!
//! Invariant: no text here holds a secret. What a provider says is shown only where it helps (a refused request), cut to
//! [`SHOWN_MAX`] characters, without control characters and without our own key; URLs and headers are never shown.

use std::time::Duration;

use fleet_actors::event::Failure;
use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// Codes of model failures, each a heading of the runbook.
pub mod code {
    /// 429.
    pub const RATE_LIMITED: &str = "provider_rate_limited";
    /// 401 or 403.
    pub const AUTH: &str = "provider_auth";
    /// Another 4xx: the request, the model's name or the schema is not to the provider's liking.
    pub const BAD_REQUEST: &str = "provider_bad_request";
    /// 5xx, or no connection.
    pub const UNAVAILABLE: &str = "provider_unavailable";
    /// Silent for longer than allowed.
    pub const TIMEOUT: &str = "provider_timeout";
    /// The answer ended before its terminator.
    pub const INCOMPLETE: &str = "incomplete_stream";
    /// The answer is not what the protocol says.
    pub const MALFORMED: &str = "provider_malformed";
    /// The answer is larger, longer or deeper than the caps allow.
    pub const TOO_LARGE: &str = "provider_output_too_large";
    /// The breaker is open; the provider was not called.
    pub const CIRCUIT_OPEN: &str = "provider_circuit_open";
    /// The answer's schema cannot be put in strict form; the provider was not called.
    pub const SCHEMA: &str = "output_schema_unsupported";
}

/// The longest text of a provider that an error shows, in characters.
const SHOWN_MAX: usize = 300;

/// A failed call, before the retry policy has looked at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) failure: Failure,
    pub(super) retry: Retry,
    pub(super) health: Health,
}

/// Whether the same call may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    MayHelp,
    Useless,
}

/// What a call says about the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It works, whatever it thinks of the request.
    Well,
    /// It does not work.
    Ill,
    /// Nothing: it is busy, or nobody waited for its answer.
    Unknown,
}

impl Fault {
    fn new(code: &'static str, message: impl Into<String>, retry: Retry, health: Health) -> Self {
        Self { failure: Failure::new(code, message), retry, health }
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(code::UNAVAILABLE, message, Retry::MayHelp, Health::Ill)
    }

    pub(super) fn timeout(message: impl Into<String>) -> Self {
        Self::new(code::TIMEOUT, message, Retry::MayHelp, Health::Ill)
    }

    pub(super) fn incomplete(message: impl Into<String>) -> Self {
        Self::new(code::INCOMPLETE, message, Retry::MayHelp, Health::Ill)
    }

    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(code::MALFORMED, message, Retry::Useless, Health::Ill)
    }

    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(code::TOO_LARGE, message, Retry::Useless, Health::Unknown)
    }

    pub(super) fn schema(message: impl Into<String>) -> Self {
        Self::new(code::SCHEMA, message, Retry::Useless, Health::Unknown)
    }

    pub(super) fn circuit_open(remaining: Duration) -> Self {
        Self::new(
            code::CIRCUIT_OPEN,
            "the provider failed repeatedly and is left alone for a while",
            Retry::Useless,
            Health::Unknown,
        )
        .after(Some(remaining))
    }

    pub(super) fn rate_limited(retry_after: Option<Duration>) -> Self {
        Self::new(code::RATE_LIMITED, "the provider refused the call with 429", Retry::MayHelp, Health::Unknown)
            .after(retry_after)
    }

    /// This fault, with the time the provider asked us to wait.
    pub(super) fn after(mut self, wait: Option<Duration>) -> Self {
        self.failure.retry_after_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Why there is no answer at all.
    pub(super) fn unanswered(error: &reqwest::Error) -> Self {
        if error.is_builder() {
            Self::new(code::BAD_REQUEST, "the request cannot be sent", Retry::Useless, Health::Unknown)
        } else if error.is_timeout() && !error.is_connect() {
            Self::silent()
        } else if error.is_connect() {
            Self::unavailable("no connection to the provider")
        } else {
            Self::unavailable("the provider closed the connection without an answer")
        }
    }

    /// Why an answer ended early.
    pub(super) fn cut(error: &reqwest::Error) -> Self {
        if error.is_timeout() { Self::silent() } else { Self::incomplete("the provider's answer was cut") }
    }

    fn silent() -> Self {
        Self::timeout("the provider was silent for too long")
    }

    /// What an answer other than 2xx means. `body` may be cut short.
    pub(super) fn status(status: StatusCode, headers: &HeaderMap, body: &[u8], key: Option<&SecretString>) -> Self {
        let error = serde_json::from_slice::<Value>(body).ok();
        let error = error.as_ref().map(|body| body.get("error").unwrap_or(body));
        let field = |name| error.and_then(|error| error.get(name)).and_then(Value::as_str);
        let wait = retry_after(headers);
        let said = field("message").map(|text| format!(": {}", shown(text, key))).unwrap_or_default();
        match status.as_u16() {
            429 => {
                let mut fault = Self::rate_limited(wait);
                if field("code") == Some("insufficient_quota") {
                    fault.failure.message = "the account's quota at the provider is used up".to_owned();
                    fault.retry = Retry::Useless;
                }
                fault
            }
            401 | 403 => Self::new(
                code::AUTH,
                format!("the provider refused the credentials with {}", status.as_u16()),
                Retry::Useless,
                Health::Well,
            ),
            408 => Self::timeout("the provider gave up waiting with 408").after(wait),
            400..=499 => Self::new(
                code::BAD_REQUEST,
                format!("the provider refused the request with {}{said}", status.as_u16()),
                Retry::Useless,
                Health::Well,
            ),
            500..=599 => Self::unavailable(format!("the provider failed with {}", status.as_u16())).after(wait),
            other => Self::malformed(format!("the provider answered with status {other}")),
        }
    }

    /// Refuses an answer that holds an error.
    pub(super) fn refuse_reported(answer: &Value, key: Option<&SecretString>) -> Result<(), Self> {
        match answer.get("error") {
            None | Some(Value::Null) => Ok(()),
            Some(error) => Err(Self::reported(error, key)),
        }
    }

    /// What an error inside an answer means: OpenAI's `{code, type, message}`.
    pub(super) fn reported(error: &Value, key: Option<&SecretString>) -> Self {
        let field = |name| error.get(name).and_then(Value::as_str).unwrap_or_default();
        let code = match error.get("code") {
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        };
        let status = match code.as_str() {
            "rate_limit_exceeded" => Some(StatusCode::TOO_MANY_REQUESTS),
            "insufficient_quota" => {
                return Self { retry: Retry::Useless, ..Self::rate_limited(None) };
            }
            "server_error" | "internal_error" | "vector_store_timeout" => Some(StatusCode::INTERNAL_SERVER_ERROR),
            "" => None,
            number if number.len() == 3 => number.parse().ok(),
            _ => Some(StatusCode::BAD_REQUEST),
        };
        match status {
            Some(status) if !status.is_success() => {
                let body = serde_json::json!({ "error": error }).to_string();
                Self::status(status, &HeaderMap::new(), body.as_bytes(), key)
            }
            _ if field("type") == "invalid_request_error" => Self::new(
                code::BAD_REQUEST,
                format!("the provider refused the request: {}", shown(field("message"), key)),
                Retry::Useless,
                Health::Well,
            ),
            _ => Self::unavailable("the provider reported a failure of its own"),
        }
    }
}

/// A provider's words as an error may show them.
fn shown(text: &str, key: Option<&SecretString>) -> String {
    let text = match key.map(ExposeSecret::expose_secret).filter(|key| !key.is_empty()) {
        Some(key) => text.replace(key, "[redacted]"),
        None => text.to_owned(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_MAX).collect()
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3). A date is read against the answer's own `Date`, so
/// that a clock of ours that is wrong does no harm; without one it says nothing.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let value = text(RETRY_AFTER)?;
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(text(DATE)?).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}
