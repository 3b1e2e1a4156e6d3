//! Which run a client means: a new one, the one it left, or the one its key started.
//!
//! A request with a key follows only the key. Without one, the same message in the same conversation joins a run that
//! is not over and that nobody watches: clients that reopen in a fast loop must not start a run each time. A run that
//! finishes on its own (`on_disconnect: continue`) is joined as well, for the same reason.

use actix_web::http::StatusCode;
use fleet_actors::ids::{ConversationId, Seq, WorkflowId};
use fleet_actors::ports::{ReasoningEffort, WorkflowFilter, WorkflowRow, WorkflowState};
use fleet_actors::sessions::{EventStream, StartError, StartTurn};

use super::Api;
use super::checkpoints::are_listed;
use super::error::ApiError;
use super::wire::frames::ResumeFrame;

/// Newest runs of a conversation that are looked at.
const LOOKED_AT: u32 = 32;

/// A run that a client follows from now on.
#[derive(Debug)]
pub struct Opened {
    /// Its events.
    pub stream: EventStream,
    /// Its conversation.
    pub conversation: Option<ConversationId>,
    /// How the client came to it.
    pub how: How,
    /// Whether its positions are listed as checkpoints.
    pub listed: bool,
}

/// How a client came to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It started it.
    Started,
    /// It was there, and needs nothing.
    Joined,
    /// It was there and has no owner: it must be resumed.
    Resting,
}

/// Whether a request without a key may join a run that nobody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returning {
    /// Version 1.
    Joins,
    /// Version 2 names the run it means.
    Never,
}

impl Api {
    /// The run that a request has already, else a new one. The cap keeps nobody from a run that is there.
    ///
    /// # Errors
    /// [`ApiError`]; `request_key_conflict` when the key was used with other words.
    pub async fn open(&self, turn: StartTurn, returning: Returning) -> Result<Opened, ApiError> {
        let Some(request) = turn.made.request.clone() else {
            let left = if returning == Returning::Joins { self.left(&turn).await? } else { None };
            return match left {
                Some(row) => self.follow(row, Seq(0)).await,
                None => self.begin(turn).await,
            };
        };
        // Nearly every key is new, and a start finds out by itself when it is not.
        let refused = match self.begin(turn).await {
            Ok(opened) => return Ok(opened),
            Err(refused) => refused,
        };
        match self.sessions.store().request(&request.key).await? {
            Some(row) if row.digest == request.digest => self.follow_all(&row.workflow).await,
            Some(row) => Err(self.refusal(StartError::KeyConflict(row.workflow))),
            None => Err(refused),
        }
    }

    /// Starts a run under a permit of its own, or follows the one that its key had already.
    ///
    /// # Errors
    /// [`ApiError`].
    ///
    /// # Cancel safety
    /// The run goes on without a watcher, and its grace begins.
    pub async fn begin(&self, turn: StartTurn) -> Result<Opened, ApiError> {
        let (conversation, listed) = (turn.made.conversation.clone(), turn.input.checkpoints_listed);
        let workflow = turn.workflow.clone();
        let permit = self.sessions.admit().map_err(|full| self.refusal(full.into()))?;
        let stream = self.sessions.start(turn, permit).await.map_err(|error| self.refusal(error))?;
        if *stream.workflow() != workflow {
            let known = stream.workflow().clone();
            // Its place among the watchers is the one that is taken next.
            drop(stream);
            return self.follow_all(&known).await;
        }
        Ok(Opened { stream, conversation, how: How::Started, listed })
    }

    /// Follows a run from its first event.
    async fn follow_all(&self, workflow: &WorkflowId) -> Result<Opened, ApiError> {
        self.follow(self.row(workflow).await?, Seq(0)).await
    }

    /// Follows a run that is there.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn follow(&self, row: WorkflowRow, after: Seq) -> Result<Opened, ApiError> {
        let stream = self.sessions.watch(&row.workflow, after).await.map_err(|error| self.refusal(error))?;
        let how = match row.state {
            WorkflowState::Ended(_) | WorkflowState::Parked => How::Joined,
            WorkflowState::Running | WorkflowState::Resting(_) => {
                let live = self.sessions.is_live(&row.workflow).await.map_err(|error| self.refusal(error.into()))?;
                if live { How::Joined } else { How::Resting }
            }
        };
        // A journal that cannot be read is told by the stream.
        let listed = are_listed(self.sessions.store().as_ref(), &row.workflow).await.unwrap_or(true);
        Ok(Opened { stream, conversation: row.made.conversation, how, listed })
    }

    /// The run that a resume frame means, or a fork of it.
    ///
    /// # Errors
    /// [`ApiError`]; `validation_failed` when it belongs to another conversation.
    pub async fn reopen(&self, frame: &ResumeFrame) -> Result<Opened, ApiError> {
        let parent = self.sessions.store().workflow(&frame.checkpoint.workflow).await?;
        let parent = parent.ok_or_else(|| ApiError::not_found("checkpoint"))?;
        if frame.conversation.is_some() && frame.conversation != parent.made.conversation {
            return Err(ApiError::invalid("conversation_id", "the checkpoint belongs to another conversation"));
        }
        let workflow = match self.sessions.at_checkpoint(&frame.checkpoint).await {
            Err(StartError::Unknown) => return Err(ApiError::not_found("checkpoint")),
            at => at.map_err(|error| self.refusal(error))?,
        };
        self.follow(self.row(&workflow).await?, frame.after).await
    }

    /// Goes on with a run that has no owner, when a permit is free. Whoever watches it [follows it
    /// anew](Self::follow_anew) then.
    ///
    /// # Errors
    /// [`ApiError`].
    ///
    /// # Cancel safety
    /// A run that did not start yet stays at rest; one that did goes on.
    pub async fn wake(&self, workflow: &WorkflowId, effort: Option<ReasoningEffort>) -> Result<(), ApiError> {
        self.sessions.resume(workflow, effort).await.map_err(|error| self.refusal(error))
    }

    /// Follows a run that was at rest and goes on, from the event after `after`, in the place that its stream has.
    ///
    /// # Errors
    /// [`ApiError`].
    ///
    /// # Cancel safety
    /// The stream is as it was.
    pub async fn follow_anew(&self, stream: &mut EventStream, after: Seq) -> Result<(), ApiError> {
        self.sessions.watch_anew(stream, after).await.map_err(|error| self.refusal(error))
    }

    /// The newest run of a conversation that was asked with this key, else with these words.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn asked_before(
        &self,
        conversation: &ConversationId,
        key: Option<&str>,
        message: &str,
    ) -> Result<Option<WorkflowRow>, ApiError> {
        if let Some(key) = key {
            let Some(request) = self.sessions.store().request(key).await? else { return Ok(None) };
            let row = self.sessions.store().workflow(&request.workflow).await?;
            return Ok(row.filter(|row| row.made.conversation.as_ref() == Some(conversation)));
        }
        let rows = self.runs_of(conversation, false).await?;
        Ok(rows.into_iter().find(|row| &*row.made.task == message))
    }

    /// A run of this conversation.
    ///
    /// # Errors
    /// [`ApiError`] 404, also when the run belongs to another conversation.
    pub async fn run_of(&self, conversation: &ConversationId, workflow: &WorkflowId) -> Result<WorkflowRow, ApiError> {
        let row = self.row(workflow).await?;
        let belongs = row.made.conversation.as_ref() == Some(conversation);
        if belongs { Ok(row) } else { Err(ApiError::not_found("workflow")) }
    }

    /// A run that exists.
    ///
    /// # Errors
    /// [`ApiError`] 404.
    pub(super) async fn row(&self, workflow: &WorkflowId) -> Result<WorkflowRow, ApiError> {
        let row = self.sessions.store().workflow(workflow).await?;
        row.ok_or_else(|| ApiError::not_found("workflow"))
    }

    async fn left(&self, turn: &StartTurn) -> Result<Option<WorkflowRow>, ApiError> {
        let Some(conversation) = &turn.made.conversation else { return Ok(None) };
        let logs = &self.sessions.services().logs;
        let rows = self.runs_of(conversation, true).await?;
        Ok(rows.into_iter().find(|row| {
            row.made.task == turn.made.task
                && row.state == WorkflowState::Running
                && *logs.open(&row.workflow).watchers().borrow() == 0
        }))
    }

    async fn runs_of(&self, conversation: &ConversationId, unfinished: bool) -> Result<Vec<WorkflowRow>, ApiError> {
        let conversation = Some(conversation.clone());
        let filter = WorkflowFilter { conversation, unfinished, limit: LOOKED_AT };
        Ok(self.sessions.store().workflows(filter).await?)
    }
}

/// What became of an answer, as an error where it is one.
///
/// # Errors
/// [`ApiError`] 404 or 409 `request_closed`.
pub fn answered(posted: fleet_actors::ports::Posted) -> Result<(), ApiError> {
    use fleet_actors::ports::Posted;
    match posted {
        Posted::Accepted => Ok(()),
        Posted::Unknown => Err(unknown()),
        Posted::Closed | Posted::NotYet => Err(closed("the request is answered or expired")),
    }
}

/// 404: nobody asked this.
pub(super) fn unknown() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "request_unknown", "there is no such request")
}

/// 409: it takes no answer any more.
pub(super) fn closed(text: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "request_closed", text)
}

/// What became of a cancel, as an error where it is one.
///
/// # Errors
/// [`ApiError`] 404 or 409 `workflow_closed`.
pub fn stopped(posted: fleet_actors::ports::Posted) -> Result<(), ApiError> {
    use fleet_actors::ports::Posted;
    match posted {
        Posted::Accepted => Ok(()),
        Posted::Unknown => Err(ApiError::not_found("workflow")),
        Posted::Closed | Posted::NotYet => {
            Err(ApiError::new(StatusCode::CONFLICT, "workflow_closed", "the workflow is over"))
        }
    }
}
