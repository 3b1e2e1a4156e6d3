//! A run's log as server-sent events: `connected`, the events, heartbeats, and the end after `done`.
//!
//! Heartbeats are data because an existing UI gives up after 30 s without any; only events of the log have an `id:`.
//! Absent on purpose: a queue. The log is the queue; a slow reader holds a number and is cut by the kernel's own timeout
//! ([`settle`](super::connections::settle)).

use std::convert::Infallible;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::Bytes;
use fleet_actors::ids::{ConversationId, Seq, WorkflowId};
use fleet_actors::ports::{ReasoningEffort, StoreError};
use fleet_actors::sessions::{EventStream, StreamItem};
use futures_util::stream;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::Api;
use super::connections::Connection;
use super::error::ApiError;
use super::open::{How, Opened};
use super::wire::{Connected, Deltas, Renderer, Version, WireEvent};

/// How a client wants its stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Which contract it speaks.
    pub version: Version,
    /// Whether text is shown as it comes.
    pub deltas: Deltas,
    /// Events up to here were seen.
    pub after: Seq,
}

/// The stream of a run. Holding it is watching.
struct Feed {
    api: Api,
    stream: EventStream,
    renderer: Renderer,
    after: Seq,
    heartbeat: Duration,
    next_heartbeat: Instant,
    waking: Waking,
    first: Option<WireEvent>,
    over: bool,
    place: Connection,
}

/// Answers with the stream of a run.
#[must_use]
pub fn respond(api: &Api, opened: Opened, wish: Wish, place: Connection) -> HttpResponse {
    let feed = Feed::new(api, opened, wish, place);
    let chunks = stream::unfold(feed, async |mut feed| {
        let chunk = feed.chunk().await?;
        Some((Ok::<_, Infallible>(chunk), feed))
    });
    HttpResponse::Ok()
        .insert_header(("content-type", "text/event-stream"))
        .insert_header(("cache-control", "no-cache"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(chunks)
}

impl Feed {
    fn new(api: &Api, opened: Opened, wish: Wish, place: Connection) -> Self {
        let Opened { stream, conversation, how, listed } = opened;
        let workflow = stream.workflow().clone();
        let waking = waking(api, &workflow, how, None);
        let heartbeat = api.settings.server.heartbeat_interval_ms.duration();
        let first = connected(api, &workflow, conversation, how, listed);
        Self {
            api: api.clone(),
            renderer: Renderer::new(wish.version, &workflow, wish.deltas),
            stream,
            after: wish.after,
            heartbeat,
            next_heartbeat: Instant::now() + heartbeat,
            waking,
            first: Some(first),
            over: false,
            place,
        }
    }

    /// The next piece of the body; `None` ends it.
    async fn chunk(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(self.encode(None, first));
        }
        while !self.over {
            let item = tokio::select! {
                // What the run said is shown before the stream is left.
                biased;
                item = self.stream.next() => item,
                Some(woken) = self.waking.join_next() => {
                    if let Err(error) = woken_anew(&self.api, woken, &mut self.stream, self.after).await {
                        return Some(self.last(&error));
                    }
                    continue;
                }
                () = self.place.is_to_leave() => return Some(self.last(&ApiError::draining())),
                () = sleep_until(self.next_heartbeat) => {
                    self.next_heartbeat = Instant::now() + self.heartbeat;
                    let beat = WireEvent::heartbeat(self.now());
                    return Some(self.encode(None, beat));
                }
            };
            if let Some(chunk) = self.item(item) {
                return Some(chunk);
            }
        }
        None
    }

    fn item(&mut self, item: Result<StreamItem, StoreError>) -> Option<Bytes> {
        match item {
            Ok(StreamItem::Event(event)) => {
                // The stream of a woken run begins where the client asked; what was shown meanwhile is not shown again.
                if event.seq <= self.after {
                    return None;
                }
                self.after = event.seq;
                let wire = self.renderer.render(&event)?;
                self.over = wire.r#type == "done";
                Some(self.encode(Some(event.seq), wire))
            }
            // It has just been told to go on.
            Ok(StreamItem::Rests(..)) if !self.waking.is_empty() => None,
            Ok(StreamItem::Rests(rest, text)) => Some(self.last(&ApiError::rests(rest, text))),
            Ok(StreamItem::End) => {
                self.over = true;
                None
            }
            Err(error) => Some(self.last(&error.into())),
        }
    }

    /// A failure of the stream itself: it ends without `done`, so that an EventSource comes back, when that is of use.
    fn last(&mut self, error: &ApiError) -> Bytes {
        self.over = true;
        let event = WireEvent::refusal(self.now(), error).of_workflow(self.stream.workflow());
        let last = self.encode(None, event);
        match error.retry_after_s {
            Some(seconds) => Bytes::from([format!("retry: {}\n", seconds * 1_000).as_bytes(), &last].concat()),
            None => last,
        }
    }

    fn now(&self) -> fleet_actors::ids::Timestamp {
        self.api.sessions.services().clock.now()
    }

    fn encode(&self, id: Option<Seq>, event: WireEvent) -> Bytes {
        let json = event.encode(&self.api.settings.ui_routing);
        Bytes::from(match id {
            Some(seq) => format!("id: {seq}\ndata: {json}\n\n"),
            None => format!("data: {json}\n\n"),
        })
    }
}

/// The first frame of a stream.
pub(super) fn connected(
    api: &Api,
    workflow: &WorkflowId,
    conversation: Option<ConversationId>,
    how: How,
    checkpointing_enabled: bool,
) -> WireEvent {
    let is_resume = how != How::Started;
    let connected = Connected { workflow: workflow.clone(), conversation, is_resume, checkpointing_enabled };
    WireEvent::connected(api.sessions.services().clock.now(), &connected)
}

/// A run that waits for a permit to go on, if it has no owner: at most one task, which ends with whoever holds this. A
/// client that left waits for nothing.
pub(super) type Waking = JoinSet<Result<(), ApiError>>;

/// Begins to wake a run that a client came to, if it needs that.
pub(super) fn waking(api: &Api, workflow: &WorkflowId, how: How, effort: Option<ReasoningEffort>) -> Waking {
    let mut waking = Waking::new();
    if how == How::Resting {
        let (api, workflow) = (api.clone(), workflow.clone());
        waking.spawn_local(async move { api.wake(&workflow, effort).await });
    }
    waking
}

/// Follows a run that went on; or why it did not.
///
/// # Errors
/// [`ApiError`].
pub(super) async fn woken_anew(
    api: &Api,
    woken: Result<Result<(), ApiError>, JoinError>,
    stream: &mut EventStream,
    after: Seq,
) -> Result<(), ApiError> {
    woken.unwrap_or_else(|_| Err(ApiError::draining()))?;
    api.follow_anew(stream, after).await
}
