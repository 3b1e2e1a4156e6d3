//! `serve`: the server, its signals and its drain.
//!
//! SIGTERM and SIGINT drain: readiness goes 503, new work is refused, running turns get `drain_timeout_ms`, then rest for
//! the next process. SIGHUP reads the settings again; the cap applies at once, other changes are named in the log.

use std::sync::Arc;
use std::time::Duration;

use fleet_actors::recovery;
use fleet_actors::sessions::Sessions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::{say, sources};
use crate::api::Api;
use crate::api::connections::Connections;
use crate::api::metrics::Metrics;
use crate::runtime::{EXIT_IN_USE, Runtime, RuntimeError};
use crate::settings::{Effective, Flags, Settings};
use crate::startup::Application;

pub(super) fn serve(effective: Effective, flags: &Flags) -> i32 {
    let settings = Arc::new(effective.settings);
    crate::telemetry::start(&settings);
    actix_web::rt::System::new().block_on(async move {
        match run(settings, flags).await {
            Ok(()) => 0,
            Err(Failure::Runtime(error @ RuntimeError::Lock(_))) => {
                eprintln!("{error}");
                EXIT_IN_USE
            }
            Err(error) => {
                eprintln!("{error}");
                1
            }
        }
    })
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("cannot listen on {0}: {1}")]
    Bind(String, std::io::Error),
    #[error("cannot serve: {0}")]
    Serve(#[from] std::io::Error),
    #[error("unfinished workflows cannot be read: {0}")]
    Adopt(#[from] fleet_actors::ports::StoreError),
}

async fn run(settings: Arc<Settings>, flags: &Flags) -> Result<(), Failure> {
    let host = settings.server.host.ip();
    let wanted = format!("http://{host}:{}", settings.server.port.as_u16());
    let mut runtime = Runtime::start(&settings, &wanted)?;
    let sessions = runtime.sessions.clone();
    let (waker, sweeper) = (sessions.clone(), sessions.clone());
    let (adopted, waiting) = tokio::sync::oneshot::channel();
    // Woken runs live on the services' arbiter.
    runtime.arbiter.spawn_fn(move || {
        actix_web::rt::spawn(async move {
            let unclaimed = recovery::adopt_at_start(&waker).await;
            let waiting = adopted.send(unclaimed.as_ref().map(Vec::len).map_err(Clone::clone));
            if let (Ok(unclaimed), Ok(())) = (unclaimed, waiting) {
                let rest = waker.clone();
                actix_web::rt::spawn(async move { recovery::rest_unclaimed(&rest, unclaimed).await });
                let children = waker.clone();
                actix_web::rt::spawn(async move { recovery::child_queue(&children).await });
                recovery::wake_queue(&waker).await;
            }
        });
    });
    let unclaimed = waiting.await.unwrap_or(Ok(0))?;
    actix_web::rt::spawn(sweep(sweeper, settings.clone()));
    let api = Api {
        sessions: sessions.clone(),
        settings: settings.clone(),
        workflow_config: runtime.workflow_config.clone(),
        connections: Connections::new(settings.server.connections_max.as_usize()),
    };
    let app = Application::bind(api, Metrics::default()).map_err(|error| Failure::Bind(wanted, error))?;
    let url = format!("http://{host}:{}", app.port());
    if let Err(error) = runtime.lock.say(&url) {
        tracing::warn!(%error, "the lock file does not name the address");
    }
    banner(&runtime, &url);
    if runtime.model.is_simulated() {
        tracing::warn!("no model provider is configured: the simulated model answers");
    }
    tracing::info!(url, model = %runtime.model, cap = sessions.admission().cap(), unclaimed, "serving");
    let (handle, draining) = (app.handle(), app.draining());
    let mut server = Box::pin(app.run_until_stopped());
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            served = &mut server => return Ok(served?),
            Some(()) = hangup.recv() => reload(&settings, &sessions, flags),
            Some(()) = terminate.recv() => break,
            Some(()) = interrupt.recv() => break,
        }
    }
    tracing::info!(live = sessions.admission().live(), "draining");
    draining.begin();
    let drain = async {
        let timeout = settings.server.drain_timeout_ms.duration();
        let _ = sessions.drain(false).await;
        let rested = until_empty(&sessions, timeout).await;
        if !rested {
            let _ = sessions.drain(true).await;
            until_empty(&sessions, Duration::from_secs(5)).await;
        }
        until_exported(&sessions, Duration::from_secs(2)).await;
        handle.stop(true).await;
    };
    tokio::select! {
        served = &mut server => served?,
        () = drain => {}
        // A second signal does not wait.
        Some(()) = terminate.recv() => {}
        Some(()) = interrupt.recv() => {}
    }
    tracing::info!("stopped");
    Ok(())
}

fn banner(runtime: &Runtime, url: &str) {
    say(&format!("AgenticFleet {} answers with {}", env!("CARGO_PKG_VERSION"), runtime.model));
    say(&format!("browser: {url}/docs    health: {url}/health"));
    let body = r#"{"task":"hello"}"#;
    say(&format!("try it:  curl -s {url}/api/v1/run -H 'content-type: application/json' -d '{body}'"));
}

/// Waits until no permit is held; false when the time is over first.
async fn until_empty(sessions: &Sessions, timeout: Duration) -> bool {
    let end = Instant::now() + timeout;
    while sessions.admission().live() > 0 {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Waits until the history file has what the store has; what is left goes out at the next start.
async fn until_exported(sessions: &Sessions, timeout: Duration) {
    let end = Instant::now() + timeout;
    while Instant::now() < end {
        match sessions.store().export_queue(1).await {
            Ok((_, waiting)) if !waiting.is_empty() => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(_) | Err(_) => return,
        }
    }
}

fn reload(old: &Settings, sessions: &Sessions, flags: &Flags) {
    match Settings::load(&sources(flags)) {
        Ok(next) => {
            let changes = old.changes(&next.settings);
            sessions.admission().resize(next.settings.sessions.max_concurrent_workflows.as_u32());
            tracing::info!(applied = ?changes.applied, restart = ?changes.restart, "settings were read again");
        }
        Err(error) => tracing::error!(%error, "the settings were read again and are wrong; nothing changed"),
    }
}

async fn sweep(sessions: Sessions, settings: Arc<Settings>) {
    use fleet_actors::ids::Timestamp;
    use fleet_actors::ports::StoreWrite;
    let storage = &settings.storage;
    let day = 86_400_000_i64;
    let journals = i64::from(storage.journal_retention_days.as_u32()) * day;
    let keys = i64::from(storage.request_key_retention_hours.as_u32()) * day / 24;
    loop {
        tokio::time::sleep(storage.sweep_interval_ms.duration()).await;
        let now = sessions.services().clock.now().0;
        let (ended_before, keys_before) = (Timestamp(now - journals), Timestamp(now - keys));
        let write = StoreWrite::Sweep { ended_before, keys_before, max_rows: storage.sweep_rows_max.as_u32() };
        if let Err(error) = sessions.services().checkpoints.write(write).await {
            tracing::warn!(%error, "old journals were not swept");
        }
    }
}
