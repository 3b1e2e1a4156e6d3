//! `fleet.v2` over a socket: many turns, many watchers, every event with its number.
//!
//! Nothing is refused by closing: a frame that cannot be done gets an `error` event with its `client_message_id`, and the
//! socket stays, unless the process stops. Closing never cancels.

use actix_web::http::StatusCode;
use actix_web::rt::task::JoinHandle;
use fleet_actors::ids::{ConversationId, Seq, WorkflowId};
use fleet_actors::ports::{LocalFuture, ReasoningEffort, StoreError};
use fleet_actors::sessions::{EventStream, StreamItem};
use fleet_actors::trace::TraceParent;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::JoinSet;

use super::socket::{End, IDLE_OR_SLOW, Socket, Wake};
use crate::api::Api;
use crate::api::error::ApiError;
use crate::api::open::{How, Opened, Returning, stopped};
use crate::api::sse::connected;
use crate::api::start::NewRun;
use crate::api::wire::frames::{ResumeFrame, RunFrame, V2Frame};
use crate::api::wire::{Deltas, Renderer, Version, WireEvent};

/// Frames of one socket that are being done; more wait unread.
const ASKS: usize = 16;
/// Runs that one socket may watch.
const RUNS: usize = 64;

/// Serves a socket to its end.
pub(super) async fn serve(socket: &mut Socket) -> End {
    socket.begin_heartbeats();
    Turns { runs: FuturesUnordered::new(), asks: FuturesUnordered::new(), waking: JoinSet::new() }.run(socket).await
}

/// A run that the socket watches.
struct Watched {
    stream: EventStream,
    renderer: Renderer,
    after: Seq,
    key: Option<String>,
}

/// What a frame came to.
enum Told {
    Nothing,
    Opened(Box<Opening>),
    /// A run that was at rest goes on: its stream, opened again.
    Woken(Box<Watched>),
    Failed(ApiError, About),
}

/// What a failure is about: the run that the frame names, or is about to be watched, and the frame's own id.
#[derive(Clone, Default)]
struct About {
    workflow: Option<WorkflowId>,
    key: Option<String>,
}

impl About {
    fn run(workflow: &WorkflowId) -> Self {
        Self { workflow: Some(workflow.clone()), key: None }
    }

    fn key(key: Option<String>) -> Self {
        Self { workflow: None, key }
    }
}

/// A run that is about to be watched.
struct Opening {
    stream: EventStream,
    conversation: Option<ConversationId>,
    how: How,
    listed: bool,
    wish: Wish,
}

/// How a frame wants its run shown.
#[derive(Clone, Default)]
struct Wish {
    about: About,
    deltas: Deltas,
    effort: Option<ReasoningEffort>,
    after: Seq,
    /// A run at rest is told to go on.
    wakes: bool,
}

type Next = LocalFuture<'static, (Watched, Result<StreamItem, StoreError>)>;

struct Turns {
    runs: FuturesUnordered<Next>,
    /// Frames that are being done. They go on when the socket ends.
    asks: FuturesUnordered<JoinHandle<Told>>,
    /// Runs that wait for a permit to go on, each in the place of its stream. Apart from the frames: a cancel must not wait
    /// behind them. They end when the socket does: who left waits for nothing.
    waking: JoinSet<Told>,
}

impl Turns {
    /// What is sent is sent here alone, so a socket that waits holds one place for it.
    async fn run(mut self, socket: &mut Socket) -> End {
        loop {
            let event = tokio::select! {
                Some((watched, item)) = self.runs.next() => self.show(socket, watched, item),
                Some(told) = self.asks.next() => self.told(socket, told.unwrap_or(Told::Nothing)),
                Some(told) = self.waking.join_next() => self.told(socket, told.unwrap_or(Told::Nothing)),
                event = socket.next_event(), if self.asks.len() < ASKS => match socket.handle(event).await {
                    Ok(Wake::Frame(text)) => self.frame(socket, &text),
                    Ok(Wake::Quiet) => None,
                    Ok(Wake::Leave) => return Box::pin(self.leave(socket)).await,
                    Err(end) => return end,
                },
            };
            if let Some(event) = event
                && let Err(end) = socket.send(event).await
            {
                return end;
            }
            if !self.runs.is_empty() || !self.asks.is_empty() || !self.waking.is_empty() {
                socket.in_use();
            } else if socket.is_idle() {
                return End::Close(IDLE_OR_SLOW, "the socket was idle");
            }
        }
    }

    /// Shows what there is, and ends.
    async fn leave(mut self, socket: &mut Socket) -> End {
        while let Some(Some((watched, item))) = self.runs.next().now_or_never() {
            if let Some(event) = self.show(socket, watched, item)
                && let Err(end) = socket.send(event).await
            {
                return end;
            }
        }
        let stopping = ApiError::draining();
        match socket.send_error(&stopping).await {
            Ok(()) => End::of(&stopping),
            Err(end) => end,
        }
    }

    fn watch(&mut self, mut watched: Watched) {
        self.runs.push(Box::pin(async move {
            let item = watched.stream.next().await;
            (watched, item)
        }));
    }

    fn show(
        &mut self,
        socket: &Socket,
        mut watched: Watched,
        item: Result<StreamItem, StoreError>,
    ) -> Option<WireEvent> {
        let error = match item {
            Ok(StreamItem::Event(event)) => {
                watched.after = event.seq;
                let wire = watched.renderer.render(&event);
                if wire.as_ref().is_none_or(|wire| wire.r#type != "done") {
                    self.watch(watched);
                }
                return wire;
            }
            Ok(StreamItem::End) => return None,
            Ok(StreamItem::Rests(rest, text)) => ApiError::rests(rest, text),
            Err(error) => error.into(),
        };
        let event = WireEvent::refusal(socket.now(), &error).of_workflow(watched.stream.workflow());
        Some(event.of_request(watched.key))
    }

    /// Begins what a frame asks for; gives what is said at once.
    fn frame(&mut self, socket: &Socket, text: &str) -> Option<WireEvent> {
        let api = Api::clone(&socket.api);
        let ask: LocalFuture<'static, Told> = match V2Frame::parse(text) {
            Ok(V2Frame::Send(frame)) if self.is_full() => {
                return Some(failed(socket, &too_many_runs(), About::key(frame.run.key)));
            }
            Ok(V2Frame::Resume(frame)) if self.is_full() => {
                return Some(failed(socket, &too_many_runs(), About::run(&frame.checkpoint.workflow)));
            }
            Ok(V2Frame::Watch { workflow, .. }) if self.is_full() => {
                return Some(failed(socket, &too_many_runs(), About::run(&workflow)));
            }
            Ok(V2Frame::Send(frame)) => Box::pin(send(api, *frame, socket.traceparent)),
            Ok(V2Frame::Resume(frame)) => Box::pin(resume(api, *frame)),
            Ok(V2Frame::Watch { workflow, after, deltas }) => Box::pin(watch(api, workflow, after, deltas)),
            Ok(V2Frame::Cancel(workflow)) => Box::pin(async move {
                let posted = api.sessions.cancel(&workflow, "client").await;
                settled(posted.map_err(|error| api.refusal(error)).and_then(stopped), &workflow)
            }),
            Ok(V2Frame::Respond(workflow, request, response)) => {
                Box::pin(async move { settled(api.respond(&workflow, &request, response).await, &workflow) })
            }
            Ok(V2Frame::Ping) => return Some(WireEvent::pong(socket.now())),
            Err((error, key)) => return Some(failed(socket, &error, About::key(key))),
        };
        self.asks.push(actix_web::rt::spawn(ask));
        None
    }

    fn is_full(&self) -> bool {
        self.runs.len() + self.waking.len() + self.asks.len() >= RUNS
    }

    /// Takes what a frame came to; gives what its client is told of it, before anything of the run.
    fn told(&mut self, socket: &Socket, told: Told) -> Option<WireEvent> {
        match told {
            Told::Nothing => None,
            Told::Failed(error, about) => Some(failed(socket, &error, about)),
            Told::Woken(watched) => {
                self.watch(*watched);
                None
            }
            Told::Opened(opening) => {
                let Opening { stream, conversation, how, listed, wish } = *opening;
                let workflow = stream.workflow().clone();
                let hello = connected(&socket.api, &workflow, conversation, how, listed);
                let hello = hello.of_request(wish.about.key.clone());
                let renderer = Renderer::new(Version::V2, &workflow, wish.deltas);
                let watched = Watched { stream, renderer, after: wish.after, key: wish.about.key };
                if how == How::Resting && wish.wakes {
                    let waking = wake(Api::clone(&socket.api), watched, wish.effort);
                    self.waking.spawn_local(waking);
                } else {
                    self.watch(watched);
                }
                Some(hello)
            }
        }
    }
}

fn failed(socket: &Socket, error: &ApiError, about: About) -> WireEvent {
    let event = WireEvent::refusal(socket.now(), error).of_request(about.key);
    match about.workflow {
        Some(workflow) => event.of_workflow(&workflow),
        None => event,
    }
}

fn too_many_runs() -> ApiError {
    let text = format!("a socket watches at most {RUNS} runs");
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "socket_runs_max_reached", text)
}

fn settled(result: Result<(), ApiError>, workflow: &WorkflowId) -> Told {
    match result {
        Ok(()) => Told::Nothing,
        Err(error) => Told::Failed(error, About::run(workflow)),
    }
}

fn opened(result: Result<Opened, ApiError>, wish: Wish) -> Told {
    match result {
        Ok(Opened { stream, conversation, how, listed }) => {
            Told::Opened(Box::new(Opening { stream, conversation, how, listed, wish }))
        }
        Err(error) => Told::Failed(error, wish.about),
    }
}

async fn send(api: Api, frame: RunFrame, traceparent: Option<TraceParent>) -> Told {
    let (key, deltas) = (frame.run.key.clone(), frame.deltas);
    let wish = Wish { about: About::key(key), deltas, wakes: true, ..Wish::default() };
    let run = async { api.open(api.prepare(NewRun { traceparent, ..frame.run })?, Returning::Never).await };
    opened(run.await, wish)
}

async fn resume(api: Api, frame: ResumeFrame) -> Told {
    let ResumeFrame { deltas, effort, after, .. } = frame;
    let about = About::run(&frame.checkpoint.workflow);
    let wish = Wish { about, deltas, effort, after, wakes: true };
    opened(api.reopen(&frame).await, wish)
}

async fn watch(api: Api, workflow: WorkflowId, after: Seq, deltas: Deltas) -> Told {
    let wish = Wish { about: About::run(&workflow), deltas, after, ..Wish::default() };
    let found = async { api.follow(api.row(&workflow).await?, after).await };
    opened(found.await, wish)
}

async fn wake(api: Api, mut watched: Watched, effort: Option<ReasoningEffort>) -> Told {
    let workflow = watched.stream.workflow().clone();
    let woken = async {
        api.wake(&workflow, effort).await?;
        api.follow_anew(&mut watched.stream, watched.after).await
    };
    match woken.await {
        Ok(()) => Told::Woken(Box::new(watched)),
        Err(error) => Told::Failed(error, About { workflow: Some(workflow), key: watched.key }),
    }
}
