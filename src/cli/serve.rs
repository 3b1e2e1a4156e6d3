//! `serve`: the server, its signals and its drain.
//!
//! SIGTERM and SIGINT drain: readiness goes 503, new work is refused, running turns get `drain_timeout_ms`, then rest for
//! the next process, and who still listens is told so. SIGHUP reads the settings again; the cap and the log level apply at once, other changes are named in
//! the log.

use std::sync::Arc;
use std::time::Duration;

use fleet_actors::ids::Timestamp;
use fleet_actors::ports::{StoreError, StoreWrite, Written};
use fleet_actors::recovery;
use fleet_actors::sessions::Sessions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::sources;
use super::terminal::{complain, say};
use crate::api::Api;
use crate::api::connections::Connections;
use crate::api::metrics::Metrics;
use crate::runtime::{Purpose, Runtime, RuntimeError};
use crate::settings::{Effective, Flags, Settings};
use crate::startup::Application;
use crate::telemetry::LogLevel;
use crate::tools::artifacts::Artifacts;

pub(super) fn serve(effective: Effective, flags: &Flags) -> i32 {
    let settings = Arc::new(effective.settings);
    let level = crate::telemetry::start(&settings);
    actix_web::rt::System::new().block_on(async move {
        match run(settings, flags, &level).await {
            Ok(()) => 0,
            Err(error) => {
                complain(&error.to_string());
                if let Failure::Runtime(error) = error { error.exit_code() } else { 1 }
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

async fn run(settings: Arc<Settings>, flags: &Flags, level: &LogLevel) -> Result<(), Failure> {
    // Before anything is said: who reads the first line may send a signal, and unhandled it would end the process.
    let mut hangup = signal(SignalKind::hangup())?;
    let host = settings.server.host.ip();
    let wanted = format!("http://{host}:{}", settings.server.port.as_u16());
    let mut runtime = Runtime::start(&settings, &wanted, Purpose::Runs)?;
    let sessions = runtime.sessions.clone();
    let (waker, sweeper) = (sessions.clone(), sessions.clone());
    let (adopted, waiting) = tokio::sync::oneshot::channel();
    let (watch, sweeps) = (runtime.watch.clone(), runtime.watch.clone());
    // Woken runs live on the services' arbiter.
    runtime.arbiter.spawn_fn(move || {
        actix_web::rt::spawn(async move {
            let _alive = watch.alive("wake queue");
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
    let sweep = sweep(sweeper, settings.clone());
    actix_web::rt::spawn(async move { sweeps.over("sweep", sweep).await });
    let api = Api {
        sessions: sessions.clone(),
        settings: settings.clone(),
        workflow_config: runtime.workflow_config.clone(),
        connections: Connections::new(settings.server.connections_max.as_usize()),
    };
    let connections = api.connections.clone();
    let app = Application::bind(api, Metrics::default()).map_err(|error| Failure::Bind(wanted, error))?;
    let url = format!("http://{host}:{}", app.port());
    if let Err(error) = runtime.lock.say(&url) {
        tracing::warn!(%error, "the lock file does not name the address");
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    banner(&runtime, &url);
    if runtime.model.is_simulated() {
        tracing::warn!("no model provider is configured: the simulated model answers");
    }
    tracing::info!(url, model = %runtime.model, cap = sessions.admission().cap(), unclaimed, "serving");
    let (handle, draining) = (app.handle(), app.draining());
    let mut server = Box::pin(app.run_until_stopped());
    loop {
        tokio::select! {
            served = &mut server => return Ok(served?),
            Some(()) = hangup.recv() => reload(&settings, &sessions, flags, level),
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
        connections.close();
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
pub(super) async fn until_exported(sessions: &Sessions, timeout: Duration) {
    let end = Instant::now() + timeout;
    while Instant::now() < end {
        match sessions.store().export_queue(1).await {
            Ok((_, waiting)) if !waiting.is_empty() => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(_) | Err(_) => return,
        }
    }
}

/// What differs is told from `start`, the settings that the process was started with.
fn reload(start: &Settings, sessions: &Sessions, flags: &Flags, level: &LogLevel) {
    match Settings::load(&sources(flags)) {
        Ok(next) => {
            let changes = start.changes(&next.settings);
            let cap = next.settings.sessions.max_concurrent_workflows.as_u32();
            sessions.admission().resize(cap);
            level.set(&next.settings.logging.level);
            let level = next.settings.logging.level.as_str();
            tracing::info!(cap, level, applied = ?changes.applied, restart = ?changes.restart, "settings were read again");
        }
        Err(error) => tracing::error!(%error, "the settings were read again and are wrong; nothing changed"),
    }
}

async fn sweep(sessions: Sessions, settings: Arc<Settings>) {
    let storage = &settings.storage;
    let artifacts = Artifacts::in_data_dir(&storage.data_dir);
    let day = 86_400_000_i64;
    let journals = i64::from(storage.journal_retention_days.as_u32()) * day;
    let keys = i64::from(storage.request_key_retention_hours.as_u32()) * day / 24;
    let history = storage.history_retention_days.map(|days| i64::from(days.as_u32()) * day);
    let max_rows = storage.sweep_rows_max.as_u32();
    loop {
        tokio::time::sleep(storage.sweep_interval_ms.duration()).await;
        let now = sessions.services().clock.now().0;
        let (ended_before, keys_before) = (Timestamp(now - journals), Timestamp(now - keys));
        let swept = sweep_all(&sessions, StoreWrite::Sweep { ended_before, keys_before, max_rows }).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "old journals were not swept");
        }
        if let Err(error) = artifacts.sweep(sessions.store().as_ref()).await {
            tracing::warn!(%error, "artifacts of removed runs were not swept");
        }
        let Some(history) = history else { continue };
        let completed_before = Timestamp(now - history);
        let swept = sweep_all(&sessions, StoreWrite::SweepHistory { completed_before, max_rows }).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "old history was not swept");
        }
    }
}

/// Sweeps, a transaction at a time with others between them, until nothing is left. One takes fewer than it may where the disk is
/// full.
async fn sweep_all(sessions: &Sessions, write: StoreWrite) -> Result<(), StoreError> {
    while let Written::Removed(1..) = sessions.services().checkpoints.write(write.clone()).await? {}
    Ok(())
}
