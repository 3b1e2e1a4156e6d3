//! Stops a run, wherever it stands: its owner is told, else the cancel is committed for whoever owns it next.
//!
//! Invariant: a cancel that was accepted is done, or is durable and read by the next life before it does anything. Who is
//! told that it is accepted finds the run over, unless its owner or the store is slow, or the process stops.

use std::sync::Arc;
use std::time::Duration;

use super::{Sessions, StartError};
use crate::event::RunOutcome;
use crate::ids::WorkflowId;
use crate::ports::{Command, Posted, WorkflowState};
use crate::session_manager::TellOwner;
use crate::stream::Log;
use crate::supervisor::Signal;

/// How long whoever cancels waits for a run to end before it says that the cancel is on its way.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);
/// It looks again after this long when nothing is heard of an owner: one that leaves is listed a moment longer.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl Sessions {
    /// Stops a workflow, live or not. [`Posted::Accepted`] says that its end is durable, or the cancel is, which whoever
    /// owns the run next does before anything else; [`Posted::Closed`] that it had ended otherwise.
    ///
    /// It takes no place of a watcher: a run that as many watch as may can be stopped.
    ///
    /// # Errors
    /// [`StartError`]; [`StartError::Draining`] when the cancel is durable and nobody will take the run up by himself.
    pub async fn cancel(&self, workflow: &WorkflowId, reason: &str) -> Result<Posted, StartError> {
        let log = self.services.logs.open(workflow);
        let reason: Arc<str> = reason.into();
        // Before the owner is told, so that its end cannot pass unseen.
        let left = log.left();
        if self.tell(workflow, Signal::Cancel(reason.clone())).await? {
            // The owner commits the end; a store that is slow is not a reason to say less than the truth.
            drop(tokio::time::timeout(CANCEL_PATIENCE, left).await);
            if let Some(posted) = self.over(workflow).await? {
                return Ok(posted);
            }
        }
        let posted = self.post(workflow, Command::Cancel { reason }).await?;
        if posted != Posted::Accepted {
            return Ok(posted);
        }
        let done = tokio::time::timeout(CANCEL_PATIENCE, self.see_to_it(&log)).await;
        done.unwrap_or(Ok(Posted::Accepted))
    }

    /// Waits for the end of a run whose cancel is durable.
    ///
    /// Whoever claims the run from here on reads the cancel first. Whoever claimed it before may have read its inbox, and
    /// is told; one that hears nothing any more is on its way to rest, and one whose mailbox is full has words in it that
    /// make it read its inbox. So each round becomes the owner, or waits for the one there is to end the run or leave it.
    async fn see_to_it(&self, log: &Log) -> Result<Posted, StartError> {
        let workflow = log.workflow();
        loop {
            let left = log.left();
            if !self.tell(workflow, Signal::Inbox).await? {
                match self.take_up(workflow, None, None, true).await {
                    Ok(()) | Err(StartError::Owned) => {}
                    Err(StartError::Draining) => return self.left_to_the_next_process(workflow).await,
                    Err(error) => return Err(error),
                }
            }
            if let Some(posted) = self.over(workflow).await? {
                return Ok(posted);
            }
            drop(tokio::time::timeout(LOOK_AGAIN, left).await);
        }
    }

    /// Tells the owner of a run something; false when it has none here, or one that did not take it.
    async fn tell(&self, workflow: &WorkflowId, signal: Signal) -> Result<bool, StartError> {
        Ok(self.manager.door.ask(TellOwner { workflow: workflow.clone(), signal }).await?)
    }

    /// What a cancel came to, if its run is over: it may have come to another end meanwhile. One that was removed is done.
    async fn over(&self, workflow: &WorkflowId) -> Result<Option<Posted>, StartError> {
        let row = self.services.store.workflow(workflow).await?;
        Ok(match row.map(|row| row.state) {
            Some(WorkflowState::Ended(RunOutcome::Cancelled)) | None => Some(Posted::Accepted),
            Some(WorkflowState::Ended(RunOutcome::Completed | RunOutcome::Failed)) => Some(Posted::Closed),
            Some(WorkflowState::Running | WorkflowState::Parked | WorkflowState::Resting(_)) => None,
        })
    }

    /// What a durable cancel is worth that nobody does in this process any more: the next one takes up what ran or is due,
    /// and leaves alone what rests.
    async fn left_to_the_next_process(&self, workflow: &WorkflowId) -> Result<Posted, StartError> {
        let row = self.services.store.workflow(workflow).await?.ok_or(StartError::Unknown)?;
        match row.state {
            WorkflowState::Running | WorkflowState::Parked | WorkflowState::Ended(RunOutcome::Cancelled) => {
                Ok(Posted::Accepted)
            }
            WorkflowState::Ended(RunOutcome::Completed | RunOutcome::Failed) => Ok(Posted::Closed),
            WorkflowState::Resting(_) => Err(StartError::Draining),
        }
    }
}
