//! Version 1 over a socket: the first frame starts or resumes one run, later frames cancel it or answer its questions,
//! and `done` comes before every close.

use actix_web::http::StatusCode;
use actix_web::rt::task::JoinHandle;
use actix_ws::CloseCode;
use fleet_actors::ids::{Seq, WorkflowId};
use fleet_actors::ports::{ReasoningEffort, StoreError};
use fleet_actors::sessions::{EventStream, StreamItem};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until};

use super::socket::{End, Socket, Wake};
use crate::api::Api;
use crate::api::error::ApiError;
use crate::api::open::{How, Opened, Returning, stopped};
use crate::api::sse::{Waking, connected, waking, woken_anew};
use crate::api::start::NewRun;
use crate::api::wire::frames::{FirstFrame, LaterFrame, ResumeFrame, RunFrame};
use crate::api::wire::{Deltas, Renderer, Version, WireEvent};

/// Asks of one socket that are on their way to the runtime; frames wait meanwhile.
const ASKS: usize = 16;

/// Serves a socket to its end.
pub(super) async fn serve(socket: &mut Socket) -> End {
    let first = match first_frame(socket).await {
        Ok(first) => first,
        Err(end) => return end,
    };
    let opened = match FirstFrame::parse(&first) {
        Ok(FirstFrame::Run(frame)) => start(socket, frame).await,
        Ok(FirstFrame::Resume(frame)) => resume(&socket.api, &frame).await,
        Err(error) => Err(error),
    };
    match opened {
        Ok((chat, hello)) => match socket.send(hello).await {
            Ok(()) => {
                socket.begin_heartbeats();
                chat.run(socket).await
            }
            Err(end) => chat.left(socket, end),
        },
        Err(error) => socket.refuse(&error).await,
    }
}

async fn first_frame(socket: &mut Socket) -> Result<String, End> {
    let deadline = Instant::now() + socket.api.settings.server.handshake_timeout_ms.duration();
    loop {
        let event = tokio::select! {
            event = socket.next_event() => event,
            () = sleep_until(deadline) => {
                let text = "no frame came within the handshake timeout";
                let error = ApiError::new(StatusCode::REQUEST_TIMEOUT, "handshake_timeout", text);
                return Err(socket.refuse(&error).await);
            }
        };
        match socket.handle(event).await? {
            Wake::Frame(text) => return Ok(text),
            Wake::Quiet => {}
            Wake::Leave => return Err(socket.refuse(&ApiError::draining()).await),
        }
    }
}

async fn start(socket: &Socket, frame: RunFrame) -> Result<(Chat, WireEvent), ApiError> {
    let RunFrame { run, deltas, stray_checkpoint } = frame;
    let api = &socket.api;
    if stray_checkpoint {
        tracing::warn!("a checkpoint id beside a message was ignored");
    }
    let turn = api.prepare(NewRun { traceparent: socket.traceparent, ..run })?;
    let opened = api.open(turn, Returning::Joins).await?;
    Ok(Chat::new(api, opened, deltas, None))
}

async fn resume(api: &Api, frame: &ResumeFrame) -> Result<(Chat, WireEvent), ApiError> {
    let opened = api.reopen(frame).await?;
    Ok(Chat::new(api, opened, frame.deltas, frame.effort))
}

/// A socket's one run.
struct Chat {
    workflow: WorkflowId,
    stream: EventStream,
    renderer: Renderer,
    started_here: bool,
    after: Seq,
    waking: Waking,
    /// Cancels and answers on their way. They go on when the socket ends.
    asks: FuturesUnordered<JoinHandle<Result<(), ApiError>>>,
}

impl Chat {
    fn new(api: &Api, opened: Opened, deltas: Deltas, effort: Option<ReasoningEffort>) -> (Self, WireEvent) {
        let Opened { stream, conversation, how, listed } = opened;
        let workflow = stream.workflow().clone();
        let hello = connected(api, &workflow, conversation, how, listed);
        let waking = waking(api, &workflow, how, effort);
        let renderer = Renderer::new(Version::V1, &workflow, deltas);
        let (started_here, asks) = (how == How::Started, FuturesUnordered::new());
        (Self { workflow, stream, renderer, started_here, after: Seq(0), waking, asks }, hello)
    }

    async fn run(mut self, socket: &mut Socket) -> End {
        loop {
            socket.in_use();
            let stepped = tokio::select! {
                item = self.stream.next() => self.show(socket, item).await,
                Some(woken) = self.waking.join_next() => self.woken(socket, woken).await,
                Some(told) = self.asks.next() => match told {
                    Ok(Err(error)) => socket.send_error(&error).await,
                    Ok(Ok(())) | Err(_) => Ok(()),
                },
                event = socket.next_event(), if self.asks.len() < ASKS => match socket.handle(event).await {
                    Ok(Wake::Frame(text)) => self.frame(socket, &text).await,
                    Ok(Wake::Quiet) => Ok(()),
                    Ok(Wake::Leave) => self.leave(socket).await,
                    Err(end) => Err(end),
                },
            };
            if let Err(end) = stepped {
                return self.left(socket, end);
            }
        }
    }

    async fn show(&mut self, socket: &mut Socket, item: Result<StreamItem, StoreError>) -> Result<(), End> {
        let error = match item {
            Ok(StreamItem::Event(event)) => {
                // A stream that was opened again begins where the old one stood.
                if event.seq <= self.after {
                    return Ok(());
                }
                self.after = event.seq;
                let Some(wire) = self.renderer.render(&event) else { return Ok(()) };
                let done = wire.r#type == "done";
                socket.send(wire).await?;
                self.started_here &= !done;
                return if done { Err(End::close(CloseCode::Normal, "done")) } else { Ok(()) };
            }
            // It has just been told to go on.
            Ok(StreamItem::Rests(..)) if !self.waking.is_empty() => return Ok(()),
            Ok(StreamItem::Rests(rest, text)) => ApiError::rests(rest, text),
            Ok(StreamItem::End) => return Err(End::close(CloseCode::Normal, "done")),
            Err(error) => error.into(),
        };
        Err(socket.refuse(&error).await)
    }

    /// Shows what there is, and ends.
    async fn leave(&mut self, socket: &mut Socket) -> Result<(), End> {
        while let Some(item) = self.stream.next().now_or_never() {
            self.show(socket, item).await?;
        }
        Err(socket.refuse(&ApiError::draining()).await)
    }

    async fn woken(&mut self, socket: &mut Socket, woken: Result<Result<(), ApiError>, JoinError>) -> Result<(), End> {
        match woken_anew(&socket.api, woken, &mut self.stream, self.after).await {
            Ok(()) => Ok(()),
            Err(error) => Err(socket.refuse(&error).await),
        }
    }

    async fn frame(&mut self, socket: &mut Socket, text: &str) -> Result<(), End> {
        let (api, workflow) = (Api::clone(&socket.api), self.workflow.clone());
        match LaterFrame::parse(text) {
            Ok(LaterFrame::Cancel) => self.asks.push(actix_web::rt::spawn(cancel(api, workflow))),
            Ok(LaterFrame::Respond(request, response)) => {
                self.asks.push(actix_web::rt::spawn(async move { api.respond(&workflow, &request, response).await }))
            }
            Err(error) => socket.send_error(&error).await?,
        }
        Ok(())
    }

    /// The client left, or the socket did. Only a close with 1000 by the client that started the run stops it.
    fn left(&self, socket: &Socket, end: End) -> End {
        if self.started_here && matches!(end, End::Closed(Some(CloseCode::Normal))) {
            actix_web::rt::spawn(cancel(Api::clone(&socket.api), self.workflow.clone()));
        }
        end
    }
}

async fn cancel(api: Api, workflow: WorkflowId) -> Result<(), ApiError> {
    let posted = api.sessions.cancel(&workflow, "client").await;
    posted.map_err(|error| api.refusal(error)).and_then(stopped)
}
