//! The simulated model as an OpenAI-compatible server: `agentic-fleet simulate-llm`.
//!
//! It answers `/v1/chat/completions`, `/v1/responses` (streamed or whole) and `/v1/models`, and tells exactly what
//! reached it: `/admin/stats` counts, `/admin/requests?after=N` shows. Tests and load benches stand on those counts.
//!
//! Invariants: every call is counted once when its body has arrived, and once more when it ends: completed (its last
//! byte was handed over), faulted (the simulation made it fail) or aborted (the client went away before). A call whose
//! client leaves ends at once, whether it was waiting, streaming or hanging.
//! Absent on purpose: authentication (it listens on loopback unless told otherwise) and any record of the
//! `Authorization` header.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use tokio::task::JoinHandle;

use super::simulate::Simulation;

mod admin;
mod calls;
mod play;
mod render;
mod wire;

use calls::Calls;
pub use calls::Stats;

/// How the server runs.
#[derive(Clone, Debug)]
pub struct SimulatorConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Threads that serve; `None` is one for each core.
    pub workers: Option<NonZeroUsize>,
    /// How the model behaves.
    pub simulation: Simulation,
    /// Requests that are remembered, at most 16 MiB of them.
    pub requests_max: usize,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            workers: None,
            simulation: Simulation::default(),
            requests_max: 1_000,
        }
    }
}

/// A request's body may hold so many bytes.
const BODY_MAX: usize = 16 * 1024 * 1024;
/// Connections each worker takes; load benches keep thousands open.
const CONNECTIONS_MAX: usize = 50_000;
/// How long a new connection may wait with its first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A server that runs until it is stopped. Dropping this does not stop it.
#[derive(Debug)]
pub struct Simulator {
    addr: SocketAddr,
    calls: Arc<Calls>,
    handle: ServerHandle,
    server: JoinHandle<std::io::Result<()>>,
}

impl Simulator {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL for a client's config.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// What `/admin/stats` would say.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.calls.stats()
    }

    /// Stops at once: open calls are cut.
    pub async fn stop(self) {
        self.handle.stop(false).await;
    }

    /// Runs until `stop` completes, then stops at once.
    ///
    /// # Errors
    /// The server's own failure, which ends it before.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> std::io::Result<()> {
        tokio::select! {
            ended = &mut self.server => return ended.unwrap_or_else(|error| Err(std::io::Error::other(error))),
            () = stop => {}
        }
        self.stop().await;
        Ok(())
    }
}

/// Starts the server. Must be called inside a tokio or actix runtime.
///
/// # Errors
/// The address cannot be listened on.
pub fn start(config: SimulatorConfig) -> std::io::Result<Simulator> {
    let calls = Arc::new(Calls::new(config.simulation, config.requests_max));
    let shared = web::Data::from(Arc::clone(&calls));
    let mut server = HttpServer::new(move || {
        App::new()
            .app_data(shared.clone())
            .app_data(web::PayloadConfig::new(BODY_MAX))
            .route("/v1/chat/completions", web::post().to(play::chat))
            .route("/v1/responses", web::post().to(play::responses))
            .route("/v1/models", web::get().to(admin::models))
            .route("/admin/stats", web::get().to(admin::stats))
            .route("/admin/requests", web::get().to(admin::requests))
            .route("/admin/reset", web::post().to(admin::reset))
            .route("/admin/faults", web::post().to(admin::faults))
    })
    // Otherwise a piece of a stream waits for the acknowledgement of the one before, up to 40 ms.
    .tcp_nodelay(true)
    // Otherwise a handler that waits would outlive a client that closed its half of the connection.
    .h1_allow_half_closed(false)
    // A bench that opens thousands of connections at once must not be told 408 for its own slowness.
    .client_request_timeout(FIRST_REQUEST_TIMEOUT)
    // Signals belong to the process, which says when to stop.
    .disable_signals()
    .max_connections(CONNECTIONS_MAX)
    .backlog(4_096);
    if let Some(workers) = config.workers {
        server = server.workers(workers.get());
    }
    let server = server.bind(config.listen)?;
    let addr = server.addrs().first().copied().ok_or_else(|| std::io::Error::other("no address was bound"))?;
    let server = server.run();
    let handle = server.handle();
    Ok(Simulator { addr, calls, handle, server: tokio::spawn(server) })
}
