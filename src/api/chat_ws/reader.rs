//! The reading side of a socket: frames in, one bounded queue out.
//!
//! The queue is what pauses reading: while the socket's task is busy writing, frames wait in the kernel. A socket that
//! sends faster than it may is read slower, and closed when it goes on. What is counted are whole messages; those that are
//! none yet are bounded by [`headers`](super::headers).
//!
//! Absent on purpose: any JSON.

use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, ProtocolError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::headers::TooManyFragments;

/// Frames that wait for the socket's task.
const QUEUE: usize = 8;
/// Frames that may come at once.
const BURST: f64 = 200.0;
/// Frames a second after that.
const RATE: f64 = 100.0;
/// Frames that came too fast since the client last paused, until the socket is closed.
const PATIENCE: u32 = 200;

/// What a client did.
#[derive(Debug)]
pub(super) enum Incoming {
    /// It sent a text message.
    Text(String),
    /// It asks for a pong.
    Ping(Bytes),
    /// It is alive.
    Pong,
    /// It closes, with this code if it gave one.
    Closed(Option<CloseCode>),
    /// It broke a rule of the protocol or of ours.
    Refused(CloseCode, &'static str),
    /// Its connection is gone.
    Gone,
}

impl Incoming {
    /// Whether nothing comes after it.
    pub(super) fn is_last(&self) -> bool {
        match self {
            Self::Closed(_) | Self::Refused(..) | Self::Gone => true,
            Self::Text(_) | Self::Ping(_) | Self::Pong => false,
        }
    }
}

/// Reads until the client closes, breaks a rule or is gone. Dropping the receiver stops it.
pub(super) fn start(frames: AggregatedMessageStream) -> mpsc::Receiver<Box<Incoming>> {
    let (queue, incoming) = mpsc::channel(QUEUE);
    actix_web::rt::spawn(read(frames, queue));
    incoming
}

/// What is queued is boxed: the channel has room for 32 from its start, however few may wait in it.
async fn read(mut frames: AggregatedMessageStream, queue: mpsc::Sender<Box<Incoming>>) {
    let mut pace = Pace::new();
    loop {
        let received = tokio::select! {
            received = frames.recv() => received,
            () = queue.closed() => return,
        };
        let incoming = judge(received);
        if pace.keep().await.is_err() {
            let refused = Incoming::Refused(CloseCode::Policy, "too many frames");
            if queue.send(Box::new(refused)).await.is_ok() {
                Box::pin(discard(frames, &queue)).await;
            }
            return;
        }
        let last = incoming.is_last();
        if queue.send(Box::new(incoming)).await.is_err() || last {
            return;
        }
    }
}

/// Reads on without looking, until the client is gone or the socket's task is: a connection that is closed with unread
/// bytes is reset, and its client would not learn why.
async fn discard(mut frames: AggregatedMessageStream, queue: &mpsc::Sender<Box<Incoming>>) {
    loop {
        tokio::select! {
            received = frames.recv() => if judge(received).is_last() { return },
            () = queue.closed() => return,
        }
    }
}

fn judge(received: Option<Result<AggregatedMessage, ProtocolError>>) -> Incoming {
    match received {
        Some(Ok(AggregatedMessage::Text(text))) => Incoming::Text(text.to_string()),
        Some(Ok(AggregatedMessage::Binary(_))) => Incoming::Refused(CloseCode::Unsupported, "frames are text"),
        Some(Ok(AggregatedMessage::Ping(payload))) => Incoming::Ping(payload),
        Some(Ok(AggregatedMessage::Pong(_))) => Incoming::Pong,
        Some(Ok(AggregatedMessage::Close(reason))) => closed(reason),
        Some(Err(error)) => broken(&error),
        None => Incoming::Gone,
    }
}

fn closed(reason: Option<CloseReason>) -> Incoming {
    let Some(reason) = reason else { return Incoming::Closed(None) };
    // RFC 6455, 7.4: what may stand in a close frame.
    match u16::from(reason.code) {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Incoming::Closed(Some(reason.code)),
        _ => Incoming::Refused(CloseCode::Protocol, "this code may not be sent"),
    }
}

fn broken(error: &ProtocolError) -> Incoming {
    match error {
        ProtocolError::Overflow => Incoming::Refused(CloseCode::Size, "the frame is too big"),
        // Told from bytes that are no text by its words alone.
        ProtocolError::Io(error) if error.to_string().contains("reserved bits") => {
            Incoming::Refused(CloseCode::Protocol, "the frame is malformed")
        }
        ProtocolError::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Incoming::Refused(CloseCode::Invalid, "the text is not UTF-8")
        }
        ProtocolError::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<PayloadError>()) {
            None => Incoming::Refused(CloseCode::Size, "the message is too big"),
            // Of a frame whose header alone has come.
            Some(PayloadError::Overflow) => Incoming::Refused(CloseCode::Size, "the frame is too big"),
            Some(PayloadError::Io(error)) if error.get_ref().is_some_and(|inner| inner.is::<TooManyFragments>()) => {
                Incoming::Refused(CloseCode::Policy, "too many fragments")
            }
            Some(_) => Incoming::Gone,
        },
        ProtocolError::UnmaskedFrame
        | ProtocolError::MaskedFrame
        | ProtocolError::InvalidOpcode(_)
        | ProtocolError::InvalidLength(_)
        | ProtocolError::BadOpCode
        | ProtocolError::ContinuationNotStarted
        | ProtocolError::ContinuationStarted
        | ProtocolError::ContinuationFragment(_) => Incoming::Refused(CloseCode::Protocol, "the frame is malformed"),
    }
}

/// A token bucket over frames.
///
/// Only a full bucket forgives, which takes a client that pauses: a server that wakes late finds a token too, and would
/// otherwise never close the floods that make it late.
struct Pace {
    tokens: f64,
    at: Instant,
    too_fast: u32,
}

struct TooFast;

impl Pace {
    fn new() -> Self {
        Self { tokens: BURST, at: Instant::now(), too_fast: 0 }
    }

    /// Counts a frame and waits until it may pass.
    async fn keep(&mut self) -> Result<(), TooFast> {
        let now = Instant::now();
        let earned = self.tokens + RATE * (now - self.at).as_secs_f64();
        if earned >= BURST {
            self.too_fast = 0;
        }
        self.tokens = earned.min(BURST) - 1.0;
        self.at = now;
        if self.tokens >= 0.0 {
            return Ok(());
        }
        self.too_fast += 1;
        if self.too_fast > PATIENCE {
            return Err(TooFast);
        }
        sleep(Duration::from_secs_f64(-self.tokens / RATE)).await;
        Ok(())
    }
}

/// What a socket's reader holds.
#[cfg(test)]
pub(super) fn task_bytes() -> usize {
    fn future<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }
    future(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn a_burst_passes_and_a_flood_is_slowed_and_then_refused() {
        tokio::time::pause();
        let mut pace = Pace::new();
        let start = Instant::now();
        for _ in 0..BURST as u32 {
            assert!(pace.keep().await.is_ok());
        }
        assert_eq!(start.elapsed(), Duration::ZERO, "a burst is not slowed");
        for _ in 0..PATIENCE {
            assert!(pace.keep().await.is_ok());
        }
        assert!(start.elapsed() >= Duration::from_millis(1_900), "a flood is");
        assert!(pace.keep().await.is_err());
    }

    #[actix_web::test]
    async fn a_flood_is_refused_by_a_server_that_wakes_late() {
        tokio::time::pause();
        let mut pace = Pace::new();
        let mut passed = 0;
        while pace.keep().await.is_ok() {
            passed += 1;
            assert!(passed < 5_000, "nobody is refused");
            // Busy elsewhere for longer than a frame takes: every other frame finds a token.
            if passed % 2 == 0 {
                tokio::time::advance(Duration::from_millis(11)).await;
            }
        }
    }

    #[actix_web::test]
    async fn a_client_that_pauses_is_forgiven() {
        tokio::time::pause();
        let mut pace = Pace::new();
        for _ in 0..5 {
            for _ in 0..BURST as u32 + PATIENCE {
                assert!(pace.keep().await.is_ok());
            }
            tokio::time::advance(Duration::from_millis(2_100)).await;
        }
    }
}
