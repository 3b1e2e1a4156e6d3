//! A run that a command follows: its events, its cancel, its answers and its entry, whether it runs here or on a server.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;

use fleet_actors::event::LogEvent;
use fleet_actors::ids::{ConversationId, Seq, WorkflowId};
use fleet_actors::ports::WorkflowState;
use fleet_actors::sessions::{EventStream, StreamItem, stored_events};
use serde_json::{Value, json};

use super::Writer;
use crate::api::error::ApiError;
use crate::api::history;
use crate::api::wire::{Deltas, Renderer, Version};
use crate::cli::client::{Client, Events};
use crate::cli::failure::CommandError;
use crate::cli::terminal::complain;

/// What a run says next.
pub(in crate::cli) enum Seen {
    /// An event of version 2.
    Event(Value),
    /// It waits for an answer or a timer, and this process does not.
    Parked,
    /// It rests until it is resumed.
    Rests(ApiError),
    /// Nothing follows.
    End,
}

/// A run that is followed.
pub(in crate::cli) struct Run {
    workflow: WorkflowId,
    conversation: Option<ConversationId>,
    from: Source,
}

enum Source {
    Here(Box<Here>),
    There(Box<There>),
}

struct There {
    client: Client,
    /// Or why there are none, although there is a run.
    events: Result<Events, String>,
}

struct Here {
    writer: Rc<Writer>,
    stream: EventStream,
    renderer: Renderer,
    after: Seq,
    parked: Pin<Box<dyn Future<Output = ()>>>,
    rest: Rest,
    read: VecDeque<LogEvent>,
}

/// Where a run that parks stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Works,
    /// What it said last may not have been shown.
    Parked,
    /// It was.
    Told,
}

impl Run {
    pub(super) async fn here(
        writer: Rc<Writer>,
        stream: EventStream,
        conversation: Option<ConversationId>,
        deltas: Deltas,
        stays: bool,
    ) -> Result<Self, ApiError> {
        let workflow = stream.workflow().clone();
        let parked: Pin<Box<dyn Future<Output = ()>>> = Box::pin(stream.parked());
        // The log of a run that nobody lives says "parked", however it stands.
        let live = writer.api.sessions.is_live(&workflow).await.map_err(|error| writer.api.refusal(error.into()))?;
        let row = writer.api.sessions.store().workflow(&workflow).await?;
        let over = row.is_some_and(|row| matches!(row.state, WorkflowState::Ended(_)));
        let parked = if (live || !over) && !stays { parked } else { Box::pin(std::future::pending()) };
        let renderer = Renderer::new(Version::V2, &workflow, deltas);
        let (after, rest, read) = (Seq(0), Rest::Works, VecDeque::new());
        let here = Here { writer, stream, renderer, after, parked, rest, read };
        Ok(Self { workflow, conversation, from: Source::Here(Box::new(here)) })
    }

    pub(super) async fn there(
        client: &Client,
        started: &Value,
        conversation: Option<ConversationId>,
        deltas: Deltas,
    ) -> Result<Self, CommandError> {
        let workflow = started["workflow_id"].as_str().unwrap_or_default().parse();
        let workflow: WorkflowId =
            workflow.map_err(|_| CommandError::Failed("the server does not say which run it started".to_owned()))?;
        let shown = deltas == Deltas::Shown;
        let events = client.events(&format!("/api/v1/workflows/{workflow}/events?version=2&stream={shown}")).await;
        let events = events.map_err(|error| error.to_string());
        let there = There { client: client.clone(), events };
        Ok(Self { workflow, conversation, from: Source::There(Box::new(there)) })
    }

    pub fn workflow(&self) -> &WorkflowId {
        &self.workflow
    }

    /// The conversation it was started in.
    pub fn conversation(&self) -> Option<&ConversationId> {
        self.conversation.as_ref()
    }

    /// # Cancel safety
    /// Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> Result<Seen, CommandError> {
        match &mut self.from {
            Source::Here(here) => Ok(here.next().await?),
            Source::There(there) => {
                let event = match &mut there.events {
                    Ok(events) => events.next().await.map_err(|error| error.to_string()),
                    Err(why) => Err(why.clone()),
                };
                let event = event.map_err(|why| self.left(&why))?;
                Ok(event.map_or(Seen::End, Seen::Event))
            }
        }
    }

    /// Asks it to stop; its end comes as an event.
    pub fn cancel(&self) {
        let workflow = self.workflow.clone();
        match &self.from {
            Source::Here(here) => {
                let sessions = here.writer.api.sessions.clone();
                actix_web::rt::spawn(async move {
                    if let Err(error) = sessions.cancel(&workflow, "client").await {
                        complain(&format!("{workflow}: not cancelled: {error}"));
                    }
                });
            }
            Source::There(there) => {
                let client = there.client.clone();
                actix_web::rt::spawn(async move {
                    if let Err(error) = client.delete(&format!("/api/v1/sessions/{workflow}")).await {
                        complain(&format!("{workflow}: not cancelled: {error}"));
                    }
                });
            }
        }
    }

    /// Answers one of its questions.
    pub async fn answer(&self, request: &str, answer: Value) -> Result<(), CommandError> {
        match &self.from {
            Source::Here(here) => {
                let request = request.parse().map_err(|_| ApiError::not_found("request"))?;
                Ok(here.writer.api.answer(&self.workflow, &request, answer).await?)
            }
            Source::There(there) => {
                let body = json!({ "request_id": request, "response": answer });
                there.client.post(&format!("/api/v1/workflows/{}/respond", self.workflow), &body).await.map(drop)
            }
        }
    }

    /// Its entry of history, once it is over.
    pub async fn result(&self) -> Result<Value, CommandError> {
        match &self.from {
            Source::Here(here) => Ok(history::entry(here.writer.api.sessions.store().as_ref(), &self.workflow).await?),
            Source::There(there) => there.client.get(&format!("/api/v1/history/{}", self.workflow)).await,
        }
    }

    /// An end of following it: it may go on, or wait to be resumed, and whoever followed it is told how to come back.
    pub fn left(&self, why: &str) -> CommandError {
        let (workflow, place) = (&self.workflow, self.place());
        CommandError::Failed(format!("{why}; to go on: agentic-fleet checkpoints resume {workflow}{place}"))
    }

    /// The flag that a command about it needs, with a space before it.
    pub fn place(&self) -> String {
        match &self.from {
            Source::Here(_) => String::new(),
            Source::There(there) => format!(" --server {}", there.client.shown()),
        }
    }

    /// Leaves everything in order.
    pub async fn close(self) {
        if let Source::Here(here) = self.from {
            here.writer.close().await;
        }
    }
}

impl Here {
    async fn next(&mut self) -> Result<Seen, ApiError> {
        loop {
            if let Some(event) = self.read.pop_front() {
                if let Some(shown) = self.render(&event) {
                    return Ok(shown);
                }
                continue;
            }
            match self.rest {
                Rest::Works => {}
                Rest::Parked => {
                    let store = self.writer.api.sessions.store();
                    self.read = stored_events(store.as_ref(), self.stream.workflow(), self.after).await?.into();
                    self.rest = Rest::Told;
                    continue;
                }
                Rest::Told => return Ok(Seen::Parked),
            }
            let item = tokio::select! {
                biased;
                item = self.stream.next() => item?,
                () = &mut self.parked => {
                    self.rest = Rest::Parked;
                    continue;
                }
            };
            match item {
                StreamItem::Event(event) => {
                    if let Some(shown) = self.render(&event) {
                        return Ok(shown);
                    }
                }
                StreamItem::Rests(rest, text) => return Ok(Seen::Rests(ApiError::rests(rest, text))),
                StreamItem::End => return Ok(Seen::End),
            }
        }
    }

    fn render(&mut self, event: &LogEvent) -> Option<Seen> {
        self.after = event.seq;
        let event = self.renderer.render(event)?;
        serde_json::to_value(&event).ok().map(Seen::Event)
    }
}
