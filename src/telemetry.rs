//! Logs: one JSON object a line by default, `LOG_JSON=0` for people. Both escape control characters of logged fields.

use std::io::IsTerminal as _;

use crate::settings::Settings;

/// Starts logging to standard error. A second start in one process changes nothing.
pub fn start(settings: &Settings) {
    let logs = tracing_subscriber::fmt().with_env_filter(settings.logging.level.filter()).with_writer(std::io::stderr);
    let started = if settings.logging.json {
        logs.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        logs.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
