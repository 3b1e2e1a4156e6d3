//! `/metrics`: what an operator needs to see of admission, runs and the process, in the OpenMetrics text format.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use actix_web::web::Data;
use actix_web::{HttpResponse, ResponseError as _};
use fleet_actors::meter::{CallEnd, Totals};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Api;
use super::error::ApiError;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ToolLabels {
    tool: String,
    outcome: &'static str,
}

/// The counters and gauges. One per process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    admissions: Family<OutcomeLabel, Counter>,
    runs: Family<OutcomeLabel, Counter>,
    model_calls: Family<OutcomeLabel, Counter>,
    model_tokens: Family<KindLabel, Counter>,
    model_cost: Counter<f64, AtomicU64>,
    tool_calls: Family<ToolLabels, Counter>,
    sessions_live: Gauge,
    sessions_cap: Gauge,
    connections: Gauge,
    uptime: Gauge<f64, AtomicU64>,
    resident: Gauge,
    fds: Gauge,
    started: Instant,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            admissions: Family::default(),
            runs: Family::default(),
            model_calls: Family::default(),
            model_tokens: Family::default(),
            model_cost: Counter::default(),
            tool_calls: Family::default(),
            sessions_live: Gauge::default(),
            sessions_cap: Gauge::default(),
            connections: Gauge::default(),
            uptime: Gauge::default(),
            resident: Gauge::default(),
            fds: Gauge::default(),
            started: Instant::now(),
        };
        let mut registry = Registry::default();
        registry.register(
            "fleet_admissions",
            "Requests for a place, by what became of them",
            metrics.admissions.clone(),
        );
        registry.register("fleet_runs", "Runs that a client waited for over HTTP, by their end", metrics.runs.clone());
        registry.register("fleet_model_calls", "Calls of models, by their end", metrics.model_calls.clone());
        registry.register(
            "fleet_model_tokens",
            "Tokens of completed calls; each counts under one kind: input, cached_input, output, reasoning",
            metrics.model_tokens.clone(),
        );
        registry.register(
            "fleet_model_cost_dollars",
            "US dollars of completed calls whose model has a price",
            metrics.model_cost.clone(),
        );
        registry.register("fleet_tool_calls", "Calls of tools, by tool and end", metrics.tool_calls.clone());
        registry.register("fleet_sessions_live", "Runs that hold a place", metrics.sessions_live.clone());
        registry.register("fleet_sessions_cap", "Places", metrics.sessions_cap.clone());
        registry.register("fleet_connections", "Open connections", metrics.connections.clone());
        registry.register_with_unit("fleet_uptime", "Since the start", Unit::Seconds, metrics.uptime.clone());
        registry.register_with_unit("process_resident_memory", "Resident", Unit::Bytes, metrics.resident.clone());
        registry.register("process_open_fds", "Open file descriptors", metrics.fds.clone());
        metrics.registry = Arc::new(registry);
        metrics
    }
}

impl Metrics {
    /// Counts a run that a client waited for.
    pub fn run_ended(&self, answer: &Result<HttpResponse, ApiError>) {
        let outcome = match answer {
            Ok(response) if response.status().as_u16() == 202 => "parked",
            Ok(_) => "completed",
            // Without a run there is nothing to count.
            Err(error) if error.execution_id.is_none() => return,
            Err(error) if error.code == "cancelled" => "cancelled",
            Err(_) => "failed",
        };
        self.runs.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a connection for as long as the guard lives.
    #[must_use]
    pub fn connection(&self) -> ConnectionGuard {
        self.connections.inc();
        ConnectionGuard(self.connections.clone())
    }

    fn observe(&self, api: &Api) {
        let admission = api.sessions.admission();
        self.sessions_live.set(i64::from(admission.live()));
        self.sessions_cap.set(i64::from(admission.cap()));
        let (admitted, refused) = admission.totals();
        for (outcome, total) in [("admitted", admitted), ("refused", refused)] {
            set(&self.admissions.get_or_create(&OutcomeLabel { outcome }), total);
        }
        self.used(&api.sessions.services().meter.totals());
        self.uptime.set(self.started.elapsed().as_secs_f64());
        // Absent on systems without /proc; the gauges then stay 0.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = kibibytes.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<i64>().ok());
        self.resident.set(kibibytes.unwrap_or(0) * 1_024);
        let fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.fds.set(i64::try_from(fds).unwrap_or(i64::MAX));
    }
}

impl Metrics {
    fn used(&self, totals: &Totals) {
        for end in [CallEnd::Completed, CallEnd::Failed, CallEnd::Retried] {
            let count = totals.model_calls.get(&end).copied().unwrap_or_default();
            set(&self.model_calls.get_or_create(&OutcomeLabel { outcome: end.as_str() }), count);
        }
        let usage = &totals.usage;
        for (kind, tokens) in [
            ("input", usage.input_tokens.saturating_sub(usage.cached_tokens)),
            ("cached_input", usage.cached_tokens),
            ("output", usage.output_tokens.saturating_sub(usage.reasoning_tokens)),
            ("reasoning", usage.reasoning_tokens),
        ] {
            set(&self.model_tokens.get_or_create(&KindLabel { kind }), tokens);
        }
        self.model_cost.inner().store(usage.cost_usd().unwrap_or_default().to_bits(), Ordering::Relaxed);
        for ((tool, end), count) in &totals.tool_calls {
            let labels = ToolLabels { tool: tool.to_string(), outcome: end.as_str() };
            set(&self.tool_calls.get_or_create(&labels), *count);
        }
    }
}

fn set(counter: &Counter, total: u64) {
    counter.inner().store(total, Ordering::Relaxed);
}

/// One open connection.
#[derive(Debug)]
pub struct ConnectionGuard(Gauge);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// `GET /metrics`
pub async fn metrics(api: Data<Api>, metrics: Data<Metrics>) -> HttpResponse {
    metrics.observe(&api);
    let mut page = String::new();
    if text::encode(&mut page, &metrics.registry).is_err() {
        let status = actix_web::http::StatusCode::INTERNAL_SERVER_ERROR;
        return ApiError::new(status, "internal", "the metrics could not be written").error_response();
    }
    HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(page)
}
