//! Logs and traces.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::units::{HttpUrl, Name};

/// What is silent unless its name is among the directives: rmcp logs at `info` whole messages of MCP servers, of any size
/// and with whatever they repeat; actix_http logs at `error` what anybody sends that is no HTTP, which was answered; opentelemetry
/// logs each batch of spans that was lost, which [`crate::telemetry::outlet`] tells of once a minute.
const QUIET: &str = "rmcp=off,actix_http=off,opentelemetry=off";

/// Section `logging`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoggingSettings {
    /// JSON lines, or text for people.
    pub json: bool,
    /// What is logged.
    pub level: LogFilter,
}

/// A level, or directives such as `info,fleet_actors=debug`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct LogFilter(String);

impl LogFilter {
    /// The directives as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The filter.
    #[must_use]
    pub fn filter(&self) -> EnvFilter {
        EnvFilter::builder().parse_lossy(format!("{QUIET},{}", self.0))
    }
}

impl TryFrom<String> for LogFilter {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const EXPECTED: &str =
            "expected error, warn, info, debug, trace or off, or directives such as info,fleet_actors=debug";
        // A single word that is no level would be taken for the name of a module, and silence everything else.
        let level = |part: &str| part.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        let fits = !text.is_empty()
            && text.split(',').all(|part| part.contains('=') || level(part))
            && EnvFilter::builder().parse(&text).is_ok();
        if fits { Ok(Self(text)) } else { Err(EXPECTED) }
    }
}

/// Section `tracing`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracingSettings {
    /// Whether spans are exported.
    pub enabled: bool,
    /// Where the collector takes OTLP over HTTP.
    pub otlp_endpoint: HttpUrl,
    /// What this service is called there.
    pub service_name: Name,
    /// Whether prompts and answers are part of spans.
    pub capture_sensitive: bool,
}
