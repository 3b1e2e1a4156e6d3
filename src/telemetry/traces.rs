//! Traces: the spans of runs, on their way to whoever takes them: a collector of OTLP, Azure Monitor, or both.
//!
//! Whoever ends a span puts it into the bounded queue of each [`Outlet`] and goes on. One that is down, slow or full costs
//! spans, which are counted and told of once a minute, and nothing else. What is left at the end of the process has
//! [`FLUSH_TIMEOUT`].
//!
//! Headers and the other wishes of the exporter come from the environment by their OpenTelemetry names, as
//! `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_BSP_SCHEDULE_DELAY`.
//!
//! Absent on purpose: spans of the exporter's own requests. Nothing here turns log lines or spans of libraries into spans of
//! ours, so there is no loop to break.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, UNIX_EPOCH};

use fleet_actors::trace::{Span, Tracer};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value as OtelValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use secrecy::SecretString;
use serde_json::Value;

use super::outlet::{Outlet, OutletError};
use crate::settings::TracingSettings;

/// How long the end of a process waits until what is left is exported.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Exports spans.
#[derive(Debug)]
pub struct Traces {
    /// One at least.
    outlets: Vec<Outlet>,
    scope: InstrumentationScope,
    provider: &'static str,
    tells_texts: bool,
}

impl Traces {
    /// Starts to export to whom the settings name: a collector, if tracing is enabled; Azure Monitor, if there is a connection
    /// string. `provider` is who answers models' calls.
    ///
    /// # Errors
    /// The environment asks an exporter for what it cannot do.
    pub fn start(
        settings: &TracingSettings,
        azure: Option<&SecretString>,
        provider: &'static str,
    ) -> Result<Option<Arc<Self>>, OutletError> {
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let name = settings.service_name.as_str().to_owned();
        let resource = Resource::builder().with_service_name(name).with_attribute(version).build();
        let mut outlets = Vec::new();
        if settings.enabled {
            outlets.push(Outlet::otlp(settings.otlp_endpoint.as_str(), &resource)?);
        }
        if let Some(connection) = azure {
            outlets.push(Outlet::azure(connection, &resource)?);
        }
        if outlets.is_empty() {
            return Ok(None);
        }
        let scope = InstrumentationScope::builder("agentic-fleet").with_version(env!("CARGO_PKG_VERSION")).build();
        let tells_texts = settings.capture_sensitive;
        Ok(Some(Arc::new(Self { outlets, scope, provider, tells_texts })))
    }

    /// Exports what is left, for at most [`FLUSH_TIMEOUT`]; later spans are lost.
    pub fn flush(&self) {
        std::thread::scope(|scope| {
            for outlet in &self.outlets {
                scope.spawn(|| outlet.flush(FLUSH_TIMEOUT));
            }
        });
    }

    fn data(&self, span: Span) -> SpanData {
        let context = |id: u64| {
            let (trace, id) = (TraceId::from_bytes(span.trace.to_be_bytes()), SpanId::from_bytes(id.to_be_bytes()));
            SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default())
        };
        let span_context = context(span.id);
        let start_time = UNIX_EPOCH + span.started;
        let mut attributes: Vec<_> = span.attributes.into_iter().filter_map(attribute).collect();
        // Tools and workflows are ours.
        if span.calls_out {
            attributes.push(KeyValue::new("gen_ai.provider.name", self.provider));
        }
        SpanData {
            span_context,
            parent_span_id: span.parent.map_or(SpanId::INVALID, |id| SpanId::from_bytes(id.to_be_bytes())),
            parent_span_is_remote: span.parent_is_remote,
            span_kind: if span.calls_out { SpanKind::Client } else { SpanKind::Internal },
            name: span.name.into(),
            start_time,
            end_time: start_time + span.took,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.error.map_or(Status::Unset, |(_, text)| Status::error(text)),
            instrumentation_scope: self.scope.clone(),
        }
    }
}

impl Tracer for Traces {
    fn ended(&self, span: Span) {
        let data = self.data(span);
        self.outlets.iter().for_each(|outlet| outlet.take(&data));
    }

    fn tells_texts(&self) -> bool {
        self.tells_texts
    }
}

/// Exports what is left when the runtime goes.
#[derive(Debug)]
pub struct FlushOnDrop(pub Option<Arc<Traces>>);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(|traces| traces.flush());
    }
}

/// How the process ends when it must not go on: what is left of its traces is exported first, for at most [`FLUSH_TIMEOUT`].
#[derive(Clone, Debug, Default)]
pub struct LastWords {
    traces: Arc<OnceLock<Arc<Traces>>>,
    ending: Arc<Mutex<()>>,
}

impl LastWords {
    /// From now on there are these.
    pub fn include(&self, traces: &Arc<Traces>) {
        if self.traces.set(traces.clone()).is_err() {
            tracing::debug!("the traces of this process were known before");
        }
    }

    /// Ends the process. Who comes second waits for the end that the first one makes.
    pub fn exit(&self, code: i32) -> ! {
        let _first = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(traces) = self.traces.get().cloned() {
            let (done, ended) = mpsc::channel();
            // On a thread of its own: whatever the exporter does, the end is not later.
            let flushing = std::thread::Builder::new().name("traces-end".into()).spawn(move || {
                traces.flush();
                done.send(())
            });
            if flushing.is_ok() {
                let _ = ended.recv_timeout(FLUSH_TIMEOUT);
            }
        }
        std::process::exit(code)
    }
}

fn attribute((key, value): (&'static str, Value)) -> Option<KeyValue> {
    let value = match value {
        Value::Null => return None,
        Value::Bool(flag) => OtelValue::Bool(flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => OtelValue::I64(whole),
            None => OtelValue::F64(number.as_f64()?),
        },
        Value::String(text) => OtelValue::String(text.into()),
        Value::Array(texts) => {
            let text = |text: Value| StringValue::from(text.as_str().map_or_else(|| text.to_string(), str::to_owned));
            OtelValue::Array(Array::String(texts.into_iter().map(text).collect()))
        }
        Value::Object(_) => OtelValue::String(value.to_string().into()),
    };
    Some(KeyValue::new(key, value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
    use std::net::TcpListener;
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    use serde_json::json;

    use super::super::outlet::QUEUE_MAX;
    use super::*;

    fn span(id: u64) -> Span {
        Span {
            trace: 1,
            id,
            parent: None,
            parent_is_remote: false,
            name: "chat m".to_owned(),
            calls_out: true,
            started: Duration::from_secs(1_700_000_000),
            took: Duration::from_millis(5),
            attributes: Vec::new(),
            error: None,
        }
    }

    /// The listener's queue takes the connection, and nobody ever answers.
    #[test]
    fn spans_beyond_the_queue_are_lost_and_counted_and_whoever_ends_one_does_not_wait() {
        const SPANS: u64 = 50_000;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let settings: TracingSettings = serde_json::from_value(json!({
            "enabled": true, "otlp_endpoint": endpoint, "service_name": "test", "capture_sensitive": false
        }))
        .unwrap();
        let traces = Traces::start(&settings, None, "openai").unwrap().unwrap();
        let began = Instant::now();
        (1..=SPANS).for_each(|id| traces.ended(span(id)));
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        let backlog = traces.outlets[0].backlog.clone();
        let (lost, waiting) = (backlog.lost.load(Ordering::Relaxed), backlog.waiting.load(Ordering::Relaxed));
        assert!(waiting <= QUEUE_MAX, "{waiting} wait");
        // At most one batch is on its way beside the queue.
        assert!((SPANS - QUEUE_MAX as u64 - 512..SPANS).contains(&lost), "{lost} lost, {waiting} wait");
        let began = Instant::now();
        traces.flush();
        assert!(began.elapsed() < FLUSH_TIMEOUT + Duration::from_secs(2), "{:?}", began.elapsed());
    }
}
