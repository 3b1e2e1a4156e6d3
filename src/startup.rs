//! Binds the doors and serves them.
//!
//! Absent on purpose: signals and the drain. The binary decides when to stop; this only obeys.

use std::io;

use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App, HttpServer};

use crate::api::connections::settle;
use crate::api::health::Draining;
use crate::api::metrics::Metrics;
use crate::api::origin::origins as pages;
use crate::api::problems::problems;
use crate::api::request_id::request_id;
use crate::api::{Api, cors, routes};

/// Connections of each worker above the cap: those that are being told so.
const REFUSALS: usize = 256;
/// What connections get to end by themselves once the server is told to stop, in seconds; runs had their time before.
const FAREWELL_S: u64 = 5;

/// A bound server.
pub struct Application {
    port: u16,
    server: Server,
    draining: Draining,
}

impl Application {
    /// Binds the configured address; with port 0 the system chooses one.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub fn bind(api: Api, metrics: Metrics) -> io::Result<Self> {
        let settings = api.settings.clone();
        let server = &settings.server;
        let draining = Draining::default();
        let (state, connections) = ((Data::new(api), Data::new(draining.clone())), metrics.clone());
        let metrics = Data::new(metrics);
        let (origins, accepted) = (settings.clone(), settings.clone());
        let make = move || {
            let (api, draining) = state.clone();
            App::new()
                .app_data(api)
                .app_data(draining)
                .app_data(metrics.clone())
                .wrap(from_fn(pages))
                .wrap(cors(&origins))
                .wrap(from_fn(problems))
                .wrap(from_fn(request_id))
                .configure(routes)
        };
        let workers = match server.workers.as_usize() {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let http = HttpServer::new(make)
            .workers(workers)
            // Above the cap of the doors, so that there is room to say why somebody is refused.
            .max_connections(server.connections_max.as_usize().div_ceil(workers) + REFUSALS)
            .client_request_timeout(server.header_timeout_ms.duration())
            // Events are small frames: without this, each waits for the acknowledgement of the one before, which a client
            // that has nothing to send delays by 40 ms.
            .tcp_nodelay(true)
            // A handler must not outlive its client.
            .h1_allow_half_closed(false)
            .on_connect(move |connection, extensions| {
                settle(connection, &accepted.server);
                drop(extensions.insert(connections.connection()));
            })
            .shutdown_timeout(FAREWELL_S)
            .disable_signals()
            .bind((server.host.ip(), server.port.as_u16()))?;
        let port = http.addrs().first().map_or(0, std::net::SocketAddr::port);
        Ok(Self { port, server: http.run(), draining })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops it.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// Makes it say that it is not ready.
    #[must_use]
    pub fn draining(&self) -> Draining {
        self.draining.clone()
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    /// Accepting failed for good.
    pub async fn run_until_stopped(self) -> io::Result<()> {
        self.server.await
    }
}
