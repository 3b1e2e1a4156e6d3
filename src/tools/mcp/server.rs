//! One server: kept connected, asked for its tools, called.
//!
//! Invariants: its state is what calls see, and a call that finds it down waits for nothing; calls under way never exceed
//! `calls_max`, waiting ones never `queue_max`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_actors::event::Failure;
use fleet_actors::ports::{EffectPolicy, ToolOutput};
use rmcp::model::{CallToolRequestParams, RequestMetaObject};
use rmcp::service::Peer;
use rmcp::{RoleClient, ServiceError};
use serde_json::Value;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::catalog::{Collector, Listed, exposed};
use super::connection::{Link, in_words};
use super::outcome::{failed, outcome};
use super::pins::Pins;
use super::{McpState, Plan, unknown};
use crate::tools::{Dispatch, Offered};

/// Where a call's idempotency key stands in its `_meta`.
pub(super) const KEY_FIELD: &str = "agentic-fleet/idempotency-key";
/// Between two lists: a server that says for ever that its tools changed is asked once in that time.
const LIST_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Server {
    plan: Plan,
    state: watch::Sender<State>,
    /// The tools of the newest list, also while it is down: so a call of one fails as what it is.
    known: Mutex<Arc<BTreeMap<String, Listed>>>,
    places: Semaphore,
    waiting: AtomicUsize,
    /// Calls in a row that nobody answered.
    timeouts: AtomicU32,
    relist: Arc<Notify>,
}

#[derive(Clone)]
enum State {
    Starting,
    Ready(Arc<Ready>),
    Down { reason: Arc<str>, until: Instant },
}

struct Ready {
    peer: Peer<RoleClient>,
    /// Told when this connection is of no use any more.
    sick: Arc<Notify>,
    tools: Arc<BTreeMap<String, Listed>>,
}

/// Counts a call that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Server {
    pub(super) fn new(plan: Plan) -> Self {
        let (places, state) = (Semaphore::new(plan.limits.calls_max), watch::Sender::new(State::Starting));
        let (waiting, timeouts) = (AtomicUsize::new(0), AtomicU32::new(0));
        let known = Mutex::default();
        Self { plan, state, known, places, waiting, timeouts, relist: Arc::new(Notify::new()) }
    }

    pub(super) fn state(&self) -> McpState {
        match &*self.state.borrow() {
            State::Starting => McpState::Starting,
            State::Ready(ready) => {
                let changed = ready.tools.values().filter(|tool| tool.changed).count();
                McpState::Ready { tools: ready.tools.len() - changed, changed }
            }
            State::Down { reason, .. } => McpState::Down { reason: reason.to_string() },
        }
    }

    /// Keeps it connected until `stop`. A panic leaves it down.
    pub(super) async fn supervised(self: Arc<Self>, pins: Arc<Pins>, stop: watch::Receiver<bool>) {
        let running = tokio::spawn(self.clone().run(pins, stop));
        let reason = if running.await.is_ok() { "it was stopped" } else { "its connection panicked" };
        let until = Instant::now() + self.plan.limits.backoff_max;
        self.state.send_replace(State::Down { reason: reason.into(), until });
    }

    async fn run(self: Arc<Self>, pins: Arc<Pins>, mut stop: watch::Receiver<bool>) {
        let limits = &self.plan.limits;
        let (mut failures, server) = (0_u32, &*self.plan.name);
        while !*stop.borrow() {
            // One that failed again is down until it stands: nobody waits for it.
            if failures <= 1 {
                self.state.send_replace(State::Starting);
            }
            let opening = timeout(limits.connect, Link::open(&self.plan, self.relist.clone()));
            let opened = tokio::select! {
                opened = opening => opened.unwrap_or_else(|_| Err(format!("no handshake in {:?}", limits.connect))),
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let began = Instant::now();
            let (link, reason) = match opened {
                Ok(mut link) => {
                    let reason = self.serve(&mut link, &pins, &mut stop).await;
                    (Some(link), reason)
                }
                Err(reason) => (None, reason),
            };
            // One that stood for a while has earned a quick return.
            failures = if link.is_some() && began.elapsed() >= limits.backoff_max { 1 } else { failures + 1 };
            let doubled = limits.backoff.saturating_mul(1 << (failures - 1).min(16)).min(limits.backoff_max);
            let until = Instant::now() + doubled.mul_f64(0.5 + fastrand::f64() / 2.0);
            let stopped = *stop.borrow();
            if !stopped {
                tracing::warn!(server, reason, failures, "mcp server is down");
            }
            self.state.send_replace(State::Down { reason: reason.into(), until });
            if let Some(link) = link {
                link.end().await;
            }
            tokio::select! {
                () = sleep_until(until) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Lists the tools, takes calls, and says why that ended.
    async fn serve(&self, link: &mut Link, pins: &Pins, stop: &mut watch::Receiver<bool>) -> String {
        self.timeouts.store(0, Ordering::Release);
        let sick = Arc::new(Notify::new());
        loop {
            let listed = tokio::select! {
                listed = self.list(link, pins, &sick) => listed,
                _ = stop.wait_for(|stop| *stop) => return "it was stopped".to_owned(),
            };
            if let Err(reason) = listed {
                return reason;
            }
            let listed = Instant::now();
            let again = async {
                self.relist.notified().await;
                sleep_until(listed + LIST_EVERY).await;
            };
            tokio::select! {
                () = link.closed() => return "its connection was closed".to_owned(),
                () = sick.notified() => return "it did not answer".to_owned(),
                _ = stop.wait_for(|stop| *stop) => return "it was stopped".to_owned(),
                () = again => {}
            }
        }
    }

    async fn list(&self, link: &Link, pins: &Pins, sick: &Arc<Notify>) -> Result<(), String> {
        let (plan, limits) = (&self.plan, &self.plan.limits);
        let mut collector = Collector::new(plan);
        match timeout(limits.list, link.list(&mut collector)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("its tools cannot be listed: {}", in_words(plan, &error))),
            Err(_) => return Err(format!("its tools were not listed in {:?}", limits.list)),
        }
        let (mut tools, left_out) = collector.end();
        pins.check(&plan.name, &plan.accepted, &mut tools)
            .map_err(|error| format!("{} cannot be used: {error}", super::PINS_FILE))?;
        for tool in tools.values_mut().filter(|tool| tool.changed) {
            tool.offered.unavailable = Some(changed(&tool.offered.spec.name, &tool.offered.schema_digest).message);
        }
        tracing::info!(server = &*plan.name, tools = tools.len(), left_out, "mcp server is ready");
        let tools = Arc::new(tools);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = tools.clone();
        self.state.send_replace(State::Ready(Arc::new(Ready { peer: link.peer(), sick: sick.clone(), tools })));
        Ok(())
    }

    /// Waits until it is ready or known not to be.
    async fn ready(&self, deadline: Instant) -> Result<Arc<Ready>, Failure> {
        let mut state = self.state.subscribe();
        let settled = timeout_at(deadline, state.wait_for(|state| !matches!(state, State::Starting))).await;
        let state = match settled {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) | Err(_) => return Err(self.unavailable("it is starting", None)),
        };
        match state {
            State::Ready(ready) => Ok(ready),
            State::Down { reason, until } => Err(self.unavailable(&reason, Some(until))),
            State::Starting => Err(self.unavailable("it is starting", None)),
        }
    }

    fn unavailable(&self, reason: &str, until: Option<Instant>) -> Failure {
        let message = format!("the mcp server {} is not available: {reason}", self.plan.name);
        let wait = until.map(|until| until.saturating_duration_since(Instant::now()).as_millis());
        let retry_after_ms = wait.map(|wait| u64::try_from(wait).unwrap_or(u64::MAX).max(100));
        Failure { retry_after_ms, ..Failure::new("mcp_unavailable", message) }
    }

    /// Its tools; none if it does not answer in time.
    pub(super) async fn offers(&self) -> Vec<Offered> {
        match self.ready(Instant::now() + self.plan.limits.list).await {
            Ok(ready) => ready.tools.values().map(|tool| tool.offered.clone()).collect(),
            Err(failure) => {
                tracing::warn!(server = &*self.plan.name, reason = failure.message, "no tools are offered");
                Vec::new()
            }
        }
    }

    /// One of its tools: as it is, or as it was while the server is down.
    pub(super) async fn offer(&self, name: &str) -> Option<Offered> {
        let tools = match self.ready(Instant::now() + self.plan.limits.list).await {
            Ok(ready) => ready.tools.clone(),
            Err(_) => self.known.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        tools.get(name).map(|tool| tool.offered.clone())
    }

    /// Why none of its tools can be called, if that is so.
    pub(super) fn absent(&self) -> Option<Failure> {
        match &*self.state.borrow() {
            State::Ready(_) => None,
            State::Starting => Some(self.unavailable("it is starting", None)),
            State::Down { reason, until } => Some(self.unavailable(reason, Some(*until))),
        }
    }

    /// What may be done about a hidden outcome. Of a tool that is not listed only the settings' word is known.
    pub(super) fn policy(&self, tool: &str) -> EffectPolicy {
        if let State::Ready(ready) = &*self.state.borrow()
            && let Some(listed) = ready.tools.get(tool)
        {
            return listed.offered.effect;
        }
        let named = self.plan.trust.read_only.iter().any(|raw| exposed(&self.plan.name, raw) == tool);
        if named { EffectPolicy::SafeToRepeat } else { EffectPolicy::Ambiguous }
    }

    /// Makes one call.
    pub(super) async fn call(&self, call: Dispatch<'_>) -> Result<ToolOutput, Failure> {
        let (limits, began) = (&self.plan.limits, Instant::now());
        let deadline = began + limits.call;
        let first = self.ready(deadline.min(began + limits.list)).await?;
        let seen = callable(&first, call.tool)?.offered.schema_digest.clone();
        let _place = self.place(deadline).await?;
        // Another connection may stand by now, and its tool may be another.
        let ready = self.ready(deadline).await?;
        let tool = callable(&ready, call.tool)?;
        if tool.offered.schema_digest != seen {
            return Err(changed(call.tool, &tool.offered.schema_digest));
        }
        let mut params = CallToolRequestParams::new(tool.raw.clone());
        match call.arguments {
            Value::Object(arguments) => params.arguments = Some(arguments.clone()),
            Value::Null => {}
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(failed("its arguments must be an object".to_owned()));
            }
        }
        let mut meta = serde_json::Map::new();
        meta.insert(KEY_FIELD.to_owned(), call.idempotency_key.into());
        params.meta = Some(RequestMetaObject::from(meta));
        // Dropped before its answer, it tells the server that nobody waits any more.
        let answer = timeout_at(deadline, ready.peer.call_tool_once(params)).await;
        let Ok(answer) = answer else {
            if self.timeouts.fetch_add(1, Ordering::AcqRel) + 1 >= limits.timeouts_max {
                ready.sick.notify_one();
            }
            let message = format!("`{}` gave no answer in {:?}; it may have done its work", call.tool, limits.call);
            return Err(Failure::new("mcp_timeout", message));
        };
        self.timeouts.store(0, Ordering::Release);
        match answer {
            Ok(response) => {
                let mut output = outcome(response, limits.result_bytes_max, &self.plan.redactor)?;
                output.duration = began.elapsed();
                Ok(output)
            }
            Err(ServiceError::McpError(error)) => {
                Err(failed(self.plan.redactor.text(format!("{} ({})", error.message, error.code.0))))
            }
            Err(error @ (ServiceError::TransportSend(_) | ServiceError::TransportClosed)) => {
                ready.sick.notify_one();
                Err(self.unavailable(&format!("{}; the call may have been made", in_words(&self.plan, &error)), None))
            }
            Err(error) => Err(failed(in_words(&self.plan, &error))),
        }
    }

    async fn place(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, Failure> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        let busy = |what: &str| {
            let message = format!("the mcp server {} is busy: {what}", self.plan.name);
            Failure { retry_after_ms: Some(1_000), ..Failure::new("mcp_busy", message) }
        };
        if before >= self.plan.limits.queue_max {
            return Err(busy("its queue is full"));
        }
        match timeout_at(deadline, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(busy("no place became free in time")),
        }
    }
}

fn callable<'a>(ready: &'a Ready, name: &str) -> Result<&'a Listed, Failure> {
    let tool = ready.tools.get(name).ok_or_else(|| unknown(name))?;
    if tool.changed { Err(changed(name, &tool.offered.schema_digest)) } else { Ok(tool) }
}

fn changed(name: &str, digest: &str) -> Failure {
    let message = format!("`{name}` is not the tool it was; its digest is now {digest}");
    Failure::new("mcp_tool_changed", message)
}
