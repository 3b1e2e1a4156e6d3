//! One place that spans go to: a bounded queue, and a thread that empties it in batches.
//!
//! Absent on purpose: what a span of ours is in OpenTelemetry's terms.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_application_insights::Exporter as AzureExporter;
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor};
use secrecy::{ExposeSecret as _, SecretString};

use crate::settings::ingestion_endpoints;

/// Spans that wait to be exported, at most.
pub(super) const QUEUE_MAX: usize = 2_048;
/// Lost spans are told of once in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// How long Azure Monitor may take to answer one request.
const AZURE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutletError {
    /// The environment asks the exporter of OTLP for what it cannot do.
    #[error(transparent)]
    Otlp(#[from] ExporterBuildError),
    /// The connection string is none.
    #[error("APPLICATIONINSIGHTS_CONNECTION_STRING: {0}")]
    Azure(String),
    /// There can be no client of HTTP.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// Where spans go.
#[derive(Debug)]
pub(super) struct Outlet {
    processor: BatchSpanProcessor,
    pub(super) backlog: Arc<Backlog>,
}

impl Outlet {
    /// A collector, by OTLP over HTTP.
    pub(super) fn otlp(endpoint: &str, resource: &Resource) -> Result<Self, OutletError> {
        let endpoint = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let exporter = OtlpExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint.clone())
            .build()?;
        Ok(Self::of(exporter, endpoint, resource))
    }

    /// Azure Monitor, by the protocol of Application Insights. Batches that it has no room for come again, for at most half a
    /// minute.
    pub(super) fn azure(connection: &SecretString, resource: &Resource) -> Result<Self, OutletError> {
        // A blocking client must not be made where futures run.
        let client = || reqwest::blocking::Client::builder().timeout(AZURE_TIMEOUT).build();
        let client = std::thread::scope(|scope| scope.spawn(client).join());
        let client = client.map_err(|_| OutletError::Azure("its client cannot be made".to_owned()))??;
        let none = |error: Box<dyn std::error::Error + Send + Sync>| OutletError::Azure(error.to_string());
        let connection = connection.expose_secret();
        let exporter = AzureExporter::new_from_connection_string(connection, client).map_err(none)?;
        let exporter = match on_this_machine(connection) {
            #[expect(deprecated, reason = "it is the only way to an endpoint without TLS")]
            Some(endpoint) => exporter.with_endpoint(endpoint).map_err(none)?,
            None => exporter,
        };
        Ok(Self::of(exporter, "Azure Monitor".to_owned(), resource))
    }

    fn of(exporter: impl SpanExporter + 'static, endpoint: String, resource: &Resource) -> Self {
        let backlog = Arc::new(Backlog { endpoint, ..Backlog::default() });
        let exporter = Watched { exporter, backlog: backlog.clone() };
        let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE_MAX).build();
        let mut processor = BatchSpanProcessor::new(exporter, batches);
        processor.set_resource(resource);
        Self { processor, backlog }
    }

    /// Puts a span into the queue, or counts it as lost.
    pub(super) fn take(&self, span: &SpanData) {
        if self.backlog.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE_MAX {
            self.backlog.waiting.fetch_sub(1, Ordering::Relaxed);
            self.backlog.lost(1, "the queue is full");
        } else {
            self.processor.on_end(span.clone());
        }
    }

    /// Exports what is left, for at most so long; later spans are lost.
    pub(super) fn flush(&self, timeout: Duration) {
        if let Err(error) = self.processor.shutdown_with_timeout(timeout) {
            let (endpoint, waiting) = (&self.backlog.endpoint, self.backlog.waiting.load(Ordering::Relaxed));
            tracing::warn!(endpoint, %error, waiting, "the last spans were not exported");
        }
    }
}

/// The ingestion endpoint of a connection string, if it is one on this machine and without TLS, such as a proxy's: the exporter
/// makes `https` of each.
fn on_this_machine(connection: &str) -> Option<&str> {
    let endpoint = ingestion_endpoints(connection).next()?;
    let url = reqwest::Url::parse(endpoint).ok().filter(|url| url.scheme() == "http")?;
    let host = url.host_str()?.trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    here.then_some(endpoint)
}

/// What waits, and what was lost.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    endpoint: String,
    pub(super) waiting: AtomicUsize,
    pub(super) lost: AtomicU64,
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
struct Watched<E> {
    exporter: E,
    backlog: Arc<Backlog>,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
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

/// An exporter may hold a key.
impl<E> fmt::Debug for Watched<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("backlog", &self.backlog).finish_non_exhaustive()
    }
}
