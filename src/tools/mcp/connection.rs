//! One connection to one server, from its handshake to its end, and the list of tools over it.
//!
//! Absent on purpose: redirects, which could lead elsewhere with our headers; and rmcp's cache of lists, with which a server
//! could show one list and serve another.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use rmcp::model::{
    ClientCapabilities, ClientConfig, ClientRequest, Implementation, ListToolsRequest, PaginatedRequestParams,
    ProtocolVersion, ServerResult,
};
use rmcp::service::{
    ClientLifecycleMode, NotificationContext, Peer, RunningService, RunningServiceCancellationToken,
    serve_client_with_lifecycle,
};
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::streamable_http_client::{StreamableHttpClientTransport, StreamableHttpClientTransportConfig};
use rmcp::{ClientHandler, RoleClient, ServiceError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::asking::Asking;
use super::catalog::{Collector, PAGES_MAX};
use super::process::{BoundedLines, Group, log_errors, start};
use super::{Launch, McpProtocol, Plan, Target};
use crate::tools::CONNECTION_IDLE;

/// What closing a connection may take, before its process is told to end.
const CLOSE_MAX: Duration = Duration::from_millis(500);
/// Characters of a reason.
const REASON_CHARS_MAX: usize = 300;

/// A connection that stands. Dropping it ends it and kills its process.
pub(super) struct Link {
    peer: Peer<RoleClient>,
    stop: Option<RunningServiceCancellationToken>,
    /// Ends when the connection does.
    ended: JoinHandle<()>,
    group: Option<Group>,
}

/// Hears what a server says unasked.
pub(super) struct Handler {
    relist: Arc<Notify>,
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        // No capability: a server may ask us for nothing.
        let us = Implementation::new("agentic-fleet", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), us)
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.relist.notify_one();
    }
}

impl Link {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// Why there is no connection, in words.
    ///
    /// # Cancel safety
    /// Dropping the future ends the process.
    pub(super) async fn open(plan: &Plan, relist: Arc<Notify>) -> Result<Self, String> {
        let handler = Handler { relist };
        let mode = match plan.protocol {
            McpProtocol::Handshake => ClientLifecycleMode::Initialize,
            McpProtocol::Stateless => {
                ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
            }
        };
        match &plan.target {
            Target::Stdio(launch) => Self::over_stdio(plan, launch, handler, mode).await,
            Target::Http { url, headers } => Self::over_http(plan, url, headers, handler, mode).await,
            Target::Nowhere(reason) => Err(reason.clone()),
        }
    }

    async fn over_stdio(
        plan: &Plan,
        launch: &Launch,
        handler: Handler,
        mode: ClientLifecycleMode,
    ) -> Result<Self, String> {
        let started = start(launch).map_err(|error| format!("{:?} cannot be started: {error}", launch.command))?;
        tokio::spawn(log_errors(plan.name.clone(), started.errors, plan.redactor.clone()));
        let max = plan.limits.message_bytes_max;
        let output = BoundedLines::new(started.output, max);
        let transport = AsyncRwTransport::new_client(output, started.input).with_max_line_length(max);
        let running = serve_client_with_lifecycle(handler, Asking::new(transport), mode).await;
        let running = running.map_err(|error| in_words(plan, &error))?;
        Ok(Self::new(running, Some(started.group)))
    }

    async fn over_http(
        plan: &Plan,
        url: &str,
        headers: &[(HeaderName, HeaderValue)],
        handler: Handler,
        mode: ClientLifecycleMode,
    ) -> Result<Self, String> {
        let mut http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(plan.limits.connect)
            .pool_idle_timeout(CONNECTION_IDLE)
            .user_agent(concat!("agentic-fleet/", env!("CARGO_PKG_VERSION")));
        if is_loopback(url) {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|_| "there can be no http client".to_owned())?;
        let max = plan.limits.message_bytes_max;
        let config = StreamableHttpClientTransportConfig::with_uri(url)
            .custom_headers(headers.iter().cloned().collect())
            .max_concurrent_requests(plan.limits.calls_max + 1)
            .max_sse_event_size(max)
            .max_json_response_size(max)
            .max_error_response_size(max.min(4_096));
        let transport = StreamableHttpClientTransport::with_client(http, config);
        let running = serve_client_with_lifecycle(handler, Asking::new(transport), mode).await;
        let running = running.map_err(|error| in_words(plan, &error))?;
        Ok(Self::new(running, None))
    }

    fn new(running: RunningService<RoleClient, Handler>, group: Option<Group>) -> Self {
        let (peer, stop) = (running.peer().clone(), Some(running.cancellation_token()));
        let ended = tokio::spawn(async move { drop(running.waiting().await) });
        Self { peer, stop, ended, group }
    }

    /// For calls.
    pub(super) fn peer(&self) -> Peer<RoleClient> {
        self.peer.clone()
    }

    /// Fills `collector` with the list of tools.
    pub(super) async fn list(&self, collector: &mut Collector<'_>) -> Result<(), ServiceError> {
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let params = PaginatedRequestParams::default().with_cursor(cursor);
            let request = ListToolsRequest { params: Some(params), ..ListToolsRequest::default() };
            let answer = self.peer.send_request(ClientRequest::ListToolsRequest(request)).await?;
            let ServerResult::ListToolsResult(page) = answer else { return Err(ServiceError::UnexpectedResponse) };
            cursor = collector.page(page);
            if cursor.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Returns when the connection stands no more. Not to be asked again after that.
    pub(super) async fn closed(&mut self) {
        let _ = (&mut self.ended).await;
    }

    /// Ends it in order.
    pub(super) async fn end(mut self) {
        if let Some(stop) = self.stop.take() {
            stop.cancel();
        }
        if !self.ended.is_finished() {
            let _ = timeout(CLOSE_MAX, &mut self.ended).await;
        }
        if let Some(group) = self.group.take() {
            group.end().await;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ended.abort();
    }
}

/// A reason for people: bounded, without secrets.
pub(super) fn in_words(plan: &Plan, error: &dyn std::fmt::Display) -> String {
    let text = plan.redactor.text(error.to_string());
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS_MAX).collect()
}

fn is_loopback(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
