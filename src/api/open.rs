//! From a chat client's words to the stream it follows: start, attach or resume. Shared by WebSocket and SSE.

use fleet_actors::ids::{CheckpointId, ConversationId, Seq, WorkflowId};
use fleet_actors::ports::{ReasoningEffort, WorkflowFilter, WorkflowRow, WorkflowState};
use fleet_actors::sessions::EventStream;

use super::Api;
use super::error::ApiError;
use super::start::NewRun;

/// How many runs of a conversation are looked through for one that a client left.
const LOOK_BACK: u32 = 50;

/// A run that a chat client follows.
pub struct Opened {
    /// Its events.
    pub events: EventStream,
    /// Its conversation.
    pub conversation: Option<ConversationId>,
    /// It went on instead of starting.
    pub is_resume: bool,
}

impl Api {
    fn refusal(&self, error: fleet_actors::sessions::StartError) -> ApiError {
        ApiError::of_start(error, self.settings.sessions.retry_after_s.get())
    }

    /// Starts a chat turn, or joins the run that the same message in the same conversation left behind in its grace.
    ///
    /// # Errors
    /// [`ApiError`]; nothing was started.
    pub async fn open_chat(&self, mut run: NewRun) -> Result<Opened, ApiError> {
        let conversation = run.conversation.get_or_insert_with(ConversationId::generate).clone();
        if run.key.is_none()
            && let Some(left) = self.left_behind(&conversation, &run.message).await?
        {
            let events = self.sessions.watch(&left, Seq(0)).await.map_err(|error| self.refusal(error))?;
            return Ok(Opened { events, conversation: Some(conversation), is_resume: true });
        }
        let turn = self.prepare(run)?;
        let permit = self.sessions.admit().map_err(|error| self.refusal(error.into()))?;
        let events = self.sessions.start(turn, permit).await.map_err(|error| self.refusal(error))?;
        Ok(Opened { events, conversation: Some(conversation), is_resume: false })
    }

    /// Goes on from a checkpoint: a live run is joined, an unfinished one continued, a finished one shown again.
    ///
    /// # Errors
    /// [`ApiError`]: no such checkpoint, another conversation's, or it cannot run.
    pub async fn resume_chat(
        &self,
        checkpoint: &str,
        conversation: Option<&str>,
        effort: Option<ReasoningEffort>,
    ) -> Result<Opened, ApiError> {
        let unknown = || ApiError::invalid("checkpoint_id", "there is no such checkpoint");
        let checkpoint: CheckpointId = checkpoint.parse().map_err(|_| unknown())?;
        let row = self.sessions.store().workflow(&checkpoint.workflow).await?.ok_or_else(unknown)?;
        if conversation.is_some_and(|id| row.made.conversation.as_ref().is_some_and(|own| own.as_str() != id)) {
            return Err(ApiError::invalid("conversation_id", "the checkpoint belongs to another conversation"));
        }
        let workflow = self.sessions.at_checkpoint(&checkpoint).await.map_err(|error| self.refusal(error))?;
        // Before the run goes on, so that its grace sees a watcher.
        let events = self.sessions.watch(&workflow, Seq(0)).await.map_err(|error| self.refusal(error))?;
        let over = matches!(row.state, WorkflowState::Ended(_)) && workflow == row.workflow;
        if !over {
            self.sessions.resume(&workflow, effort).await.map_err(|error| self.refusal(error))?;
        }
        Ok(Opened { events, conversation: row.made.conversation, is_resume: true })
    }

    async fn runs_of(&self, conversation: &ConversationId, message: &str) -> Result<Vec<WorkflowRow>, ApiError> {
        let filter = WorkflowFilter { conversation: Some(conversation.clone()), unfinished: false, limit: LOOK_BACK };
        let rows = self.sessions.store().workflows(filter).await?;
        Ok(rows.into_iter().filter(|row| *row.made.task == *message).collect())
    }

    /// A live run of this message that nobody watches now.
    async fn left_behind(&self, conversation: &ConversationId, message: &str) -> Result<Option<WorkflowId>, ApiError> {
        for row in self.runs_of(conversation, message).await? {
            let watched = *self.sessions.services().logs.open(&row.workflow).watchers().borrow() > 0;
            let live = self.sessions.is_live(&row.workflow).await.map_err(|error| self.refusal(error.into()))?;
            if live && !watched {
                return Ok(Some(row.workflow));
            }
        }
        Ok(None)
    }

    /// The newest run of this message in this conversation, for an EventSource that reconnects; a run that was
    /// interrupted goes on.
    ///
    /// # Errors
    /// [`ApiError`] from the store or the resume.
    pub async fn reconnect(
        &self,
        conversation: &ConversationId,
        message: &str,
        after: Seq,
    ) -> Result<Option<Opened>, ApiError> {
        let Some(row) = self.runs_of(conversation, message).await?.into_iter().next() else { return Ok(None) };
        if matches!(row.state, WorkflowState::Ended(_)) {
            let rest =
                fleet_actors::sessions::stored_events(self.sessions.store().as_ref(), &row.workflow, after).await?;
            if rest.is_empty() {
                return Ok(None);
            }
        }
        let events = self.sessions.watch(&row.workflow, after).await.map_err(|error| self.refusal(error))?;
        if matches!(row.state, WorkflowState::Running | WorkflowState::Resting(_)) {
            self.sessions.resume(&row.workflow, None).await.map_err(|error| self.refusal(error))?;
        }
        Ok(Some(Opened { events, conversation: Some(conversation.clone()), is_resume: true }))
    }
}
