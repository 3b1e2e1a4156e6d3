//! Traces: the spans of runs, exported by OTLP over HTTP in batches.
//!
//! Whoever ends a span puts it into a bounded queue and goes on; one thread empties it. A collector that is down, slow or full costs
//! spans, which are counted and told of once a minute, and nothing else. What is left at the end of the process has
//! [`FLUSH_TIMEOUT`].
//!
//! Headers and the other wishes of the exporter come from the environment by their OpenTelemetry names, as
//! `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_BSP_SCHEDULE_DELAY`.
//!
//! Absent on purpose: spans of the exporter's own requests. Nothing here turns log lines or spans of libraries into spans of
//! ours, so there is no loop to break.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fleet_actors::trace::{Span, Tracer};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value as OtelValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanExporter as Export, SpanLinks, SpanProcessor as _,
};
use serde_json::Value;

use crate::settings::TracingSettings;

/// Spans that wait to be exported, at most.
const QUEUE_MAX: usize = 2_048;
/// How long the end of a process waits until what is left is exported.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// Lost spans are told of once in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Exports spans.
pub struct Traces {
    processor: BatchSpanProcessor,
    backlog: Arc<Backlog>,
    scope: InstrumentationScope,
    provider: &'static str,
    tells_texts: bool,
}

impl Traces {
    /// Starts to export, if the settings say so. `provider` is who answers models' calls.
    ///
    /// # Errors
    /// The environment asks the exporter for what it cannot do.
    pub fn start(settings: &TracingSettings, provider: &'static str) -> Result<Option<Arc<Self>>, ExporterBuildError> {
        if !settings.enabled {
            return Ok(None);
        }
        let endpoint = format!("{}/v1/traces", settings.otlp_endpoint.as_str().trim_end_matches('/'));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint.clone())
            .build()?;
        let backlog = Arc::new(Backlog { endpoint, ..Backlog::default() });
        let exporter = Watched { exporter, backlog: backlog.clone() };
        let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE_MAX).build();
        let mut processor = BatchSpanProcessor::new(exporter, batches);
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let name = settings.service_name.as_str().to_owned();
        let resource = Resource::builder().with_service_name(name).with_attribute(version).build();
        opentelemetry_sdk::trace::SpanProcessor::set_resource(&mut processor, &resource);
        let scope = InstrumentationScope::builder("agentic-fleet").with_version(env!("CARGO_PKG_VERSION")).build();
        let tells_texts = settings.capture_sensitive;
        Ok(Some(Arc::new(Self { processor, backlog, scope, provider, tells_texts })))
    }

    /// Exports what is left, for at most [`FLUSH_TIMEOUT`]; later spans are lost.
    pub fn flush(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(FLUSH_TIMEOUT) {
            let waiting = self.backlog.waiting.load(Ordering::Relaxed);
            tracing::warn!(%error, waiting, "the last spans were not exported");
        }
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
        if self.backlog.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE_MAX {
            self.backlog.waiting.fetch_sub(1, Ordering::Relaxed);
            self.backlog.lost(1, "the queue is full");
        } else {
            self.processor.on_end(self.data(span));
        }
    }

    fn tells_texts(&self) -> bool {
        self.tells_texts
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("backlog", &self.backlog).finish_non_exhaustive()
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

/// What waits, and what was lost.
#[derive(Debug, Default)]
struct Backlog {
    endpoint: String,
    waiting: AtomicUsize,
    lost: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Backlog {
    fn lost(&self, spans: u64, why: &str) {
        let lost = self.lost.fetch_add(spans, Ordering::Relaxed) + spans;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            *told = Some(Instant::now());
            drop(told);
            tracing::warn!(endpoint = self.endpoint, lost, why, "spans are lost");
        }
    }
}

/// An exporter whose failures are counted.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    backlog: Arc<Backlog>,
}

impl Export for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.backlog.waiting.fetch_sub(spans, Ordering::Relaxed);
        let result = self.exporter.export(batch).await;
        if let Err(error) = &result {
            self.backlog.lost(spans as u64, &error.to_string());
        }
        result
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
    use std::net::TcpListener;

    use serde_json::json;

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
        let traces = Traces::start(&settings, "openai").unwrap().unwrap();
        let began = Instant::now();
        (1..=SPANS).for_each(|id| traces.ended(span(id)));
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        let (lost, waiting) =
            (traces.backlog.lost.load(Ordering::Relaxed), traces.backlog.waiting.load(Ordering::Relaxed));
        assert!(waiting <= QUEUE_MAX, "{waiting} wait");
        // At most one batch is on its way beside the queue.
        assert!((SPANS - QUEUE_MAX as u64 - 512..SPANS).contains(&lost), "{lost} lost, {waiting} wait");
        let began = Instant::now();
        traces.flush();
        assert!(began.elapsed() < FLUSH_TIMEOUT + Duration::from_secs(2), "{:?}", began.elapsed());
    }
}
