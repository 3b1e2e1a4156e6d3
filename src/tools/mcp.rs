//! MCP servers as a service of the process: one connection each, shared by all sessions.
//!
//! The connections live on a thread of their own, so that a server which sends a lot delays no session. They start in
//! the background; a run waits at most `mcp.list_timeout_ms` for one that is not ready, and a call never longer than its
//! own timeout. A server that fails is started anew after a growing wait, and until then its calls are refused at once.
//!
//! Invariants: a tool whose digest is not the pinned one is never called; at most `calls_max` calls of a server are under
//! way and `queue_max` wait; no process of a server outlives [`McpServers::shutdown`].
//! Absent on purpose: who may call what, which [`crate::tools`] decides; sampling, roots and elicitation, which would let
//! a server ask us; and retries of a call, whose effect nobody knows.

mod asking;
mod catalog;
mod connection;
mod outcome;
mod pins;
mod process;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use fleet_actors::event::Failure;
use fleet_actors::ports::{EffectPolicy, LocalFuture, ToolOutput};
use reqwest::header::{HeaderName, HeaderValue};
use tokio::sync::watch;

use super::{Dispatch, Offered, Provider};
use crate::settings::{
    Environment, McpProtocol, McpServerName, McpServerSettings, McpSettings, McpTransport, Variable,
};
use outcome::Redactor;
use pins::Pins;
use server::Server;

/// The file of pins, in the data directory.
pub const PINS_FILE: &str = crate::settings::data_dir::PINS;

/// How long [`McpServers::shutdown`] waits for its thread: longer than a server gets to end by itself.
const SHUTDOWN_MAX: Duration = Duration::from_secs(4);

/// What is believed about a server's tools.
#[derive(Clone, Debug)]
struct Trust {
    annotations: bool,
    read_only: BTreeSet<String>,
}

/// A process to start.
struct Launch {
    command: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    cwd: Option<PathBuf>,
}

/// Where a server is.
enum Target {
    Stdio(Launch),
    Http {
        url: String,
        headers: Vec<(HeaderName, HeaderValue)>,
    },
    /// It cannot be reached as configured; says why.
    Nowhere(String),
}

/// What a server may take. Times and counts of its own entry, else of section `mcp`.
struct Limits {
    connect: Duration,
    list: Duration,
    call: Duration,
    calls_max: usize,
    queue_max: usize,
    tools_max: usize,
    tools_bytes_max: usize,
    message_bytes_max: usize,
    result_bytes_max: usize,
    timeouts_max: u32,
    backoff: Duration,
    backoff_max: Duration,
}

/// All that is known of a server before it is asked.
struct Plan {
    name: Arc<str>,
    target: Target,
    protocol: McpProtocol,
    trust: Trust,
    accepted: BTreeSet<String>,
    redactor: Redactor,
    limits: Limits,
}

/// How a server is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum McpState {
    /// It is being connected to.
    Starting,
    /// It takes calls.
    Ready {
        /// Tools that can be called.
        tools: usize,
        /// Tools that cannot, because they changed.
        changed: usize,
    },
    /// It failed and is tried again later.
    Down {
        /// Why.
        reason: String,
    },
}

/// The service. Clones share it; it ends with the last, or by [`McpServers::shutdown`].
#[derive(Clone)]
pub struct McpServers(Arc<Inner>);

/// Ends the servers when it is dropped, whoever else still holds them.
#[derive(Debug)]
pub struct McpGuard(McpServers);

impl McpGuard {
    /// The servers.
    #[must_use]
    pub fn servers(&self) -> &McpServers {
        &self.0
    }
}

impl Drop for McpGuard {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

struct Inner {
    servers: BTreeMap<Arc<str>, Arc<Server>>,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<(JoinHandle<()>, mpsc::Receiver<()>)>>,
}

impl fmt::Debug for McpServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.states()).finish()
    }
}

impl McpServers {
    /// Begins to connect to every enabled server, and returns at once. Values of the variables that entries name come
    /// from `environment`; pins are kept in `data_dir`.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start(
        settings: &McpSettings,
        servers: &BTreeMap<McpServerName, McpServerSettings>,
        environment: &Environment,
        data_dir: &Path,
    ) -> io::Result<Self> {
        let enabled = servers.iter().filter(|(_, server)| server.enabled);
        let servers: BTreeMap<Arc<str>, Arc<Server>> = enabled
            .map(|(name, server)| plan(name, server, settings, environment))
            .map(|plan| (plan.name.clone(), Arc::new(Server::new(plan))))
            .collect();
        let (stop, stopped) = watch::channel(false);
        let mut thread = None;
        if !servers.is_empty() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let pins = Arc::new(Pins::new(data_dir.join(PINS_FILE)));
            let (all, (done, ended)) = (servers.values().cloned().collect::<Vec<_>>(), mpsc::channel());
            let handle = std::thread::Builder::new().name("mcp".to_owned()).spawn(move || {
                let running = all.into_iter().map(|server| server.supervised(pins.clone(), stopped.clone()));
                runtime.block_on(futures_util::future::join_all(running));
                runtime.shutdown_timeout(Duration::from_millis(200));
                let _ = done.send(());
            })?;
            thread = Some((handle, ended));
        }
        Ok(Self(Arc::new(Inner { servers, stop, thread: Mutex::new(thread) })))
    }

    /// How each server is doing.
    #[must_use]
    pub fn states(&self) -> BTreeMap<Arc<str>, McpState> {
        self.0.servers.iter().map(|(name, server)| (name.clone(), server.state())).collect()
    }

    /// Ends all servers: closes their input, tells them to terminate, kills what is left after a second. Blocks until
    /// then. A second call does nothing.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }

    /// What ends them with its holder: clones of this may be held by threads that never end.
    #[must_use]
    pub fn guard(&self) -> McpGuard {
        McpGuard(self.clone())
    }

    fn server_of(&self, tool: &str) -> Option<&Arc<Server>> {
        // A server's name holds no `__` and ends with no `_`.
        let (server, _) = tool.strip_prefix("mcp__")?.split_once("__")?;
        self.0.servers.get(server)
    }
}

impl Inner {
    fn shutdown(&self) {
        self.stop.send_replace(true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((handle, ended)) = thread else { return };
        match ended.recv_timeout(SHUTDOWN_MAX) {
            Err(mpsc::RecvTimeoutError::Timeout) => tracing::error!("mcp servers did not end in time"),
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => drop(handle.join()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Provider for McpServers {
    fn offers<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Vec<Offered>> {
        Box::pin(async move {
            if let Some(server) = name.strip_prefix("mcp:").and_then(|server| self.0.servers.get(server)) {
                return server.offers().await;
            }
            let Some(server) = self.server_of(name) else { return Vec::new() };
            server.offer(name).await.into_iter().collect()
        })
    }

    fn absent(&self, tool: &str) -> Option<Failure> {
        self.server_of(tool)?.absent()
    }

    fn policy(&self, tool: &str) -> Option<EffectPolicy> {
        self.server_of(tool).map(|server| server.policy(tool))
    }

    fn call<'a>(&'a self, call: Dispatch<'a>) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        Box::pin(async move {
            match self.server_of(call.tool) {
                Some(server) => server.call(call).await,
                None => Err(unknown(call.tool)),
            }
        })
    }
}

fn unknown(tool: &str) -> Failure {
    Failure::new("tool_unknown", format!("there is no tool `{tool}`"))
}

fn plan(name: &McpServerName, server: &McpServerSettings, all: &McpSettings, environment: &Environment) -> Plan {
    let value = |variable: &Variable| match environment.get(variable.as_str()).filter(|text| !text.is_empty()) {
        Some(text) if !text.contains('\u{FFFD}') => Ok(text.clone()),
        Some(_) => Err(format!("the variable {} is not UTF-8", variable.as_str())),
        None => Err(format!("the environment has no {}", variable.as_str())),
    };
    let secrets = server.env.iter().chain(server.headers_env.values()).filter_map(|variable| value(variable).ok());
    // `Bearer abc` must not come back as `abc` either.
    let secrets: Vec<String> = secrets
        .flat_map(|text| {
            let token = text.rsplit(' ').next().map(str::to_owned);
            [Some(text), token].into_iter().flatten()
        })
        .collect();
    let limits = Limits {
        connect: server.connect_timeout_ms.unwrap_or(all.connect_timeout_ms).duration(),
        list: server.list_timeout_ms.unwrap_or(all.list_timeout_ms).duration(),
        call: server.call_timeout_ms.unwrap_or(all.call_timeout_ms).duration(),
        calls_max: server.calls_max.unwrap_or(all.calls_max).as_usize(),
        queue_max: server.queue_max.unwrap_or(all.queue_max).as_usize(),
        tools_max: server.tools_max.unwrap_or(all.tools_max).as_usize(),
        tools_bytes_max: all.tools_bytes_max.as_usize(),
        message_bytes_max: all.message_bytes_max.as_usize(),
        result_bytes_max: all.result_bytes_max.as_usize(),
        timeouts_max: all.timeouts_max.as_u32(),
        backoff: all.backoff_ms.duration(),
        backoff_max: all.backoff_ms_max.duration(),
    };
    Plan {
        name: name.as_str().into(),
        target: target(server, environment, &value).unwrap_or_else(Target::Nowhere),
        protocol: server.protocol,
        trust: Trust { annotations: server.trust_annotations, read_only: server.read_only.iter().cloned().collect() },
        accepted: server.accepted_digests.iter().cloned().collect(),
        redactor: Redactor::new(secrets),
        limits,
    }
}

fn target(
    server: &McpServerSettings,
    environment: &Environment,
    value: &impl Fn(&Variable) -> Result<String, String>,
) -> Result<Target, String> {
    match server.transport {
        McpTransport::Stdio => {
            let path = environment.get("PATH").map(|path| ("PATH".to_owned(), path.clone()));
            let named = server.env.iter().map(|name| Ok((name.as_str().to_owned(), value(name)?)));
            Ok(Target::Stdio(Launch {
                command: server.command.clone().ok_or("it has no command")?,
                args: server.args.clone(),
                env: path.into_iter().map(Ok).chain(named).collect::<Result<_, String>>()?,
                cwd: server.cwd.clone(),
            }))
        }
        McpTransport::Http => {
            let header = |(name, variable): (&String, &Variable)| {
                let key = HeaderName::try_from(name.as_str()).map_err(|_| format!("{name:?} names no header"))?;
                let wrong = |_| format!("the variable {} cannot be a header", variable.as_str());
                let mut text = HeaderValue::try_from(value(variable)?).map_err(wrong)?;
                text.set_sensitive(true);
                Ok((key, text))
            };
            Ok(Target::Http {
                url: server.url.as_ref().ok_or("it has no url")?.as_str().to_owned(),
                headers: server.headers_env.iter().map(header).collect::<Result<_, String>>()?,
            })
        }
    }
}
