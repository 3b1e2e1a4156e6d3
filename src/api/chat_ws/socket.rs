//! One socket: the only task that writes to it, its pulse, and how it ends.
//!
//! Every frame has a deadline to leave. A reader that takes nothing is told 4408 as far as that is possible and dropped;
//! the kernel ends its connection ([`settle`](crate::api::connections::settle)).
//! Absent on purpose: a queue of frames for slow readers. The log is the queue; the socket reads it as fast as its
//! client reads the socket.

use std::time::Duration;

use actix_ws::{CloseCode, CloseReason, Session};
use fleet_actors::ids::Timestamp;
use fleet_actors::trace::TraceParent;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::reader::Incoming;
use crate::api::Api;
use crate::api::connections::Connection;
use crate::api::error::ApiError;
use crate::api::wire::WireEvent;

/// Ours: the client is idle or takes nothing.
pub(super) const IDLE_OR_SLOW: u16 = 4408;

/// How a socket ends.
#[derive(Debug)]
pub(super) enum End {
    /// We close it.
    Close(u16, &'static str),
    /// The client closed it, with this code.
    Closed(Option<CloseCode>),
    /// There is nobody to tell.
    Gone,
}

impl End {
    pub(super) fn close(code: CloseCode, reason: &'static str) -> Self {
        Self::Close(code.into(), reason)
    }

    /// The close code that fits a failure.
    pub(super) fn of(error: &ApiError) -> Self {
        let code = match (error.status.as_u16(), &*error.code) {
            (_, "session_cap_reached" | "watchers_max_reached" | "overloaded") => CloseCode::Again,
            (_, "draining" | "interrupted") => CloseCode::Restart,
            (500.., _) => CloseCode::Error,
            _ => CloseCode::Policy,
        };
        Self::close(code, "see the error event")
    }
}

/// What comes from a socket next.
#[derive(Debug)]
pub(super) enum Wake {
    /// A text frame.
    Frame(String),
    /// Nothing that needs an answer; the socket did what was due.
    Quiet,
    /// The process stops.
    Leave,
}

/// One socket.
pub(super) struct Socket {
    pub(super) api: Api,
    /// Where the trace of its client stands: runs that it starts go on in it.
    pub(super) traceparent: Option<TraceParent>,
    session: Session,
    incoming: mpsc::Receiver<Incoming>,
    pulse: Pulse,
    place: Connection,
}

struct Pulse {
    /// `None` until the first frame was sent: it must be `connected`.
    next_heartbeat: Option<Instant>,
    next_ping: Instant,
    last_pong: Instant,
    /// The last client frame, or the last time an unfinished run was watched.
    last_use: Instant,
}

impl Socket {
    pub(super) fn new(api: Api, session: Session, incoming: mpsc::Receiver<Incoming>, place: Connection) -> Self {
        let now = Instant::now();
        let server = &api.settings.server;
        let pulse = Pulse {
            next_heartbeat: None,
            next_ping: now + server.ping_interval_ms.duration(),
            last_pong: now,
            last_use: now,
        };
        Self { api, traceparent: None, session, incoming, pulse, place }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.api.sessions.services().clock.now()
    }

    /// Heartbeats from now on.
    pub(super) fn begin_heartbeats(&mut self) {
        let interval = self.api.settings.server.heartbeat_interval_ms.duration();
        self.pulse.next_heartbeat = Some(Instant::now() + interval);
    }

    /// Sends an event within the deadline.
    pub(super) async fn send(&mut self, event: WireEvent) -> Result<(), End> {
        let json = event.encode(&self.api.settings.ui_routing);
        let within = self.send_timeout();
        left(timeout(within, self.session.text(json)).await)
    }

    fn send_timeout(&self) -> Duration {
        self.api.settings.server.send_timeout_ms.duration()
    }

    /// Sends a failure that is the socket's own.
    pub(super) async fn send_error(&mut self, error: &ApiError) -> Result<(), End> {
        let event = WireEvent::refusal(self.now(), error);
        self.send(event).await
    }

    /// A version 1 socket's last words when its run did not say them: `error`, `done`; then it is closed.
    pub(super) async fn refuse(&mut self, error: &ApiError) -> End {
        let last = async {
            self.send_error(error).await?;
            let done = WireEvent::done(self.now());
            self.send(done).await
        };
        match last.await {
            Ok(()) => End::of(error),
            Err(end) => end,
        }
    }

    /// Does what an event asks for and gives the client's frame, if it was one.
    ///
    /// Apart from [`next_event`](Self::next_event), because a send that is given up half way would be lost.
    pub(super) async fn handle(&mut self, event: SocketEvent) -> Result<Wake, End> {
        match event {
            SocketEvent::Incoming(incoming) => self.take(incoming).await,
            SocketEvent::Beat => self.beat().await.map(|()| Wake::Quiet),
            SocketEvent::Leave => Ok(Wake::Leave),
        }
    }

    /// What happens to the socket next.
    ///
    /// # Cancel safety
    /// Nothing is lost when the caller stops waiting.
    pub(super) async fn next_event(&mut self) -> SocketEvent {
        let due = self.pulse.next_heartbeat.map_or(self.pulse.next_ping, |beat| beat.min(self.pulse.next_ping));
        tokio::select! {
            incoming = self.incoming.recv() => SocketEvent::Incoming(incoming.unwrap_or(Incoming::Gone)),
            () = sleep_until(due) => SocketEvent::Beat,
            () = self.place.is_to_leave() => SocketEvent::Leave,
        }
    }

    /// An unfinished run is watched: the socket is not idle.
    pub(super) fn in_use(&mut self) {
        self.pulse.last_use = Instant::now();
    }

    /// Whether nobody used it for as long as a socket may be idle.
    pub(super) fn is_idle(&self) -> bool {
        self.pulse.last_use.elapsed() >= self.api.settings.server.socket_idle_timeout_ms.duration()
    }

    async fn take(&mut self, incoming: Incoming) -> Result<Wake, End> {
        match incoming {
            Incoming::Text(text) => {
                self.in_use();
                return Ok(Wake::Frame(text));
            }
            Incoming::Ping(payload) => {
                let within = self.send_timeout();
                left(timeout(within, self.session.pong(&payload)).await)?;
            }
            Incoming::Pong => self.pulse.last_pong = Instant::now(),
            Incoming::Closed(code) => return Err(End::Closed(code)),
            Incoming::Refused(code, reason) => return Err(End::close(code, reason)),
            Incoming::Gone => return Err(End::Gone),
        }
        Ok(Wake::Quiet)
    }

    async fn beat(&mut self) -> Result<(), End> {
        let server = &self.api.settings.server;
        let (heartbeat, ping) = (server.heartbeat_interval_ms.duration(), server.ping_interval_ms.duration());
        let now = Instant::now();
        if now - self.pulse.last_pong >= server.pong_timeout_ms.duration() {
            return Err(End::Close(IDLE_OR_SLOW, "no pong came"));
        }
        if now >= self.pulse.next_ping {
            self.pulse.next_ping = now + ping;
            let within = self.send_timeout();
            left(timeout(within, self.session.ping(b"")).await)?;
        }
        if self.pulse.next_heartbeat.is_some_and(|due| now >= due) {
            self.pulse.next_heartbeat = Some(now + heartbeat);
            let beat = WireEvent::heartbeat(self.now());
            self.send(beat).await?;
        }
        Ok(())
    }

    /// Ends the socket and gives the client a moment to take it.
    pub(super) async fn end(mut self, end: End) {
        let patience = self.api.settings.server.refusal_timeout_ms.duration();
        let reason = match end {
            End::Gone => return,
            // The answer to a close frame is the same code.
            End::Closed(code) => code.map(CloseReason::from),
            End::Close(code, reason) => Some(CloseReason { code: code.into(), description: Some(reason.to_owned()) }),
        };
        let closing = async {
            if self.session.close(reason).await.is_ok() {
                // Until the client closes too, or its connection is gone.
                while !matches!(
                    self.incoming.recv().await,
                    None | Some(Incoming::Closed(_) | Incoming::Refused(..) | Incoming::Gone)
                ) {}
            }
        };
        let _ = timeout(patience, closing).await;
    }
}

/// What happened to a socket.
#[derive(Debug)]
pub(super) enum SocketEvent {
    /// Its client did something.
    Incoming(Incoming),
    /// A heartbeat or a ping is due.
    Beat,
    /// The process stops.
    Leave,
}

fn left(sent: Result<Result<(), actix_ws::Closed>, tokio::time::error::Elapsed>) -> Result<(), End> {
    match sent {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => Err(End::Close(IDLE_OR_SLOW, "a frame did not leave in time")),
    }
}
