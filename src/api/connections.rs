//! What the house takes: places for sockets and streams, and the look at the cap before anything is parsed.
//!
//! A place is given back only by dropping its [`Connection`], so a handler that panics frees it too. An idle socket holds
//! a place here and no permit. Whoever has a place learns from it when the process stops: a socket and a stream that wait
//! for nothing would otherwise hold it up, and be cut without a word.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::http::StatusCode;
use fleet_actors::sessions::StartError;
use tokio::sync::watch;

use super::Api;
use super::error::ApiError;
use crate::settings::ServerSettings;

/// Places for sockets and streams. Cheap to clone; clones share their places.
#[derive(Clone, Debug)]
pub struct Connections {
    open: Arc<AtomicUsize>,
    max: usize,
    over: watch::Sender<bool>,
}

/// A place. Dropping it gives it back.
#[derive(Debug)]
pub struct Connection {
    open: Arc<AtomicUsize>,
    over: watch::Receiver<bool>,
}

impl Connections {
    /// An empty house with `max` places.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { open: Arc::default(), max, over: watch::Sender::new(false) }
    }

    /// Places that are taken.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`ApiError`] 503 `connections_max_reached`.
    pub fn take(&self) -> Result<Connection, ApiError> {
        let more = |open: usize| (open < self.max).then_some(open + 1);
        match self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(Connection { open: self.open.clone(), over: self.over.subscribe() }),
            Err(open) => {
                let detail = format!("{open} of {} connections are open", self.max);
                Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "connections_max_reached", detail).retry_after(1))
            }
        }
    }

    /// Asks everybody who has a place, or takes one from now on, to leave it.
    pub fn close(&self) {
        self.over.send_replace(true);
    }
}

impl Connection {
    /// Waits until its owner is to leave.
    ///
    /// # Cancel safety
    /// Nothing is lost when the caller stops waiting.
    pub async fn is_to_leave(&mut self) {
        if self.over.wait_for(|over| *over).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Api {
    /// Refuses when the house is full, without taking a permit. While a run is in its grace everybody may come in: its
    /// client cannot be told apart before it speaks.
    ///
    /// # Errors
    /// [`ApiError`] 429 `session_cap_reached`.
    pub fn look_at_the_house(&self) -> Result<(), ApiError> {
        if self.sessions.services().logs.in_grace() > 0 {
            return Ok(());
        }
        self.sessions.admission().look().map_err(|full| self.refusal(full.into()))
    }

    /// A start that failed, with its time to retry after spread out so that those who were refused together do not come
    /// back together.
    #[must_use]
    pub fn refusal(&self, error: StartError) -> ApiError {
        ApiError::of_start(error, self.retry_after_s())
    }
}

/// Settles a fresh connection: a small send buffer, and the kernel's own deadline for a peer that takes nothing. For
/// `HttpServer::on_connect`.
///
/// The second is what ends a connection whose reader stopped reading: nothing that waits for its buffer to drain ever
/// runs again.
pub fn settle(connection: &dyn std::any::Any, server: &ServerSettings) {
    let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() else { return };
    let socket = socket2::SockRef::from(stream);
    let settled = socket
        .set_send_buffer_size(server.send_buffer_bytes.as_usize())
        // Without it a small frame waits for the acknowledgement of the one before, up to 40 ms.
        .and_then(|()| socket.set_tcp_nodelay(true))
        .and_then(|()| socket.set_tcp_user_timeout(Some(server.send_timeout_ms.duration())));
    if let Err(error) = settled {
        tracing::debug!(%error, "a connection was not settled");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_above_the_last_is_refused_and_a_dropped_one_is_free_again() {
        let house = Connections::new(1);
        let first = house.take().expect("a place");
        let refused = house.take().expect_err("no place");
        assert_eq!((refused.status.as_u16(), &*refused.code), (503, "connections_max_reached"));
        drop(first);
        assert!(house.take().is_ok());
        assert_eq!(house.open(), 0);
    }
}
