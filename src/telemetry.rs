//! What an operator is told: logs here, [traces] in a file of their own.
//!
//! Logs are one JSON object a line by default, `LOG_JSON=0` for people. Both escape control characters of logged fields.

pub mod outlet;
pub mod traces;

use std::io::IsTerminal as _;

use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::settings::{LogFilter, Settings};

/// What is logged, to change it while the process runs.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// From now on this is logged.
    pub fn set(&self, level: &LogFilter) {
        if let Err(error) = self.0.reload(level.filter()) {
            tracing::error!(%error, "the log level was not changed");
        }
    }
}

/// Starts logging to standard error. A second start in one process changes nothing.
pub fn start(settings: &Settings) -> LogLevel {
    let (filter, level) = reload::Layer::new(settings.logging.level.filter());
    // Whoever reads the logs may have gone; the layer's own word on that would go to the same closed pipe, and panic.
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let logs = if settings.logging.json {
        logs.json().flatten_event(true).with_current_span(false).boxed()
    } else {
        logs.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    if tracing_subscriber::registry().with(filter).with(logs).try_init().is_err() {
        tracing::debug!("logging was started before");
    }
    LogLevel(level)
}
