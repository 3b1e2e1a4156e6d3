//! Stops a run, wherever it stands: its owner is told, else the cancel is committed for whoever owns it next.
//!
//! Invariant: a cancel that was accepted is done, or is durable and read by the next life before it does anything.

use std::sync::Arc;
use std::time::Duration;

use super::{Sessions, StartError};
use crate::event::RunOutcome;
use crate::ids::WorkflowId;
use crate::ports::{Command, Posted, WorkflowState};
use crate::session_manager::TellOwner;
use crate::stream::Log;
use crate::supervisor::Signal;

/// How long whoever cancels waits for the owner to end its run before it says that the cancel is on its way.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);
/// So often a run is found to have an owner that is gone when it is told. Each time another life begins and ends between two
/// steps of one cancel.
const CANCEL_ROUNDS: usize = 8;

/// What telling a run's owner to stop came to.
enum Told {
    /// The run is over.
    Over(Posted),
    /// The owner knows, and has not ended the run yet.
    Waits,
    /// The run has no owner here, or one that left without hearing it.
    Nobody,
}

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
        if let Told::Over(posted) = self.stop(&log, Signal::Cancel(reason.clone())).await? {
            return Ok(posted);
        }
        let posted = self.post(workflow, Command::Cancel { reason }).await?;
        if posted != Posted::Accepted {
            return Ok(posted);
        }
        // Whoever claimed the run while this was written may have read its inbox before, and must be told; whoever does
        // so from here on reads it. Each round finds an owner or becomes it.
        for _ in 0..CANCEL_ROUNDS {
            match self.stop(&log, Signal::Inbox).await? {
                Told::Over(posted) => return Ok(posted),
                Told::Waits => return Ok(Posted::Accepted),
                Told::Nobody => {}
            }
            match self.take_up(workflow, None, None, true).await {
                Ok(()) => return Ok(Posted::Accepted),
                Err(StartError::Owned) => {}
                Err(StartError::Draining) => return self.left_to_the_next_process(workflow).await,
                Err(error) => return Err(error),
            }
        }
        Ok(Posted::Accepted)
    }

    /// Tells the owner of a run to stop it, and waits until it did.
    async fn stop(&self, log: &Log, signal: Signal) -> Result<Told, StartError> {
        let workflow = log.workflow();
        // Before the owner is told, so that its end cannot pass unseen.
        let left = log.left();
        if !self.manager.door.ask(TellOwner { workflow: workflow.clone(), signal }).await? {
            return Ok(Told::Nobody);
        }
        // The owner commits the end; a store that is slow is not a reason to say less than the truth.
        if tokio::time::timeout(CANCEL_PATIENCE, left).await.is_err() {
            return Ok(Told::Waits);
        }
        let row = self.services.store.workflow(workflow).await?;
        Ok(match row.map(|row| row.state) {
            Some(WorkflowState::Ended(RunOutcome::Cancelled)) | None => Told::Over(Posted::Accepted),
            // It may have come to another end while it was being told.
            Some(WorkflowState::Ended(RunOutcome::Completed | RunOutcome::Failed)) => Told::Over(Posted::Closed),
            // Its owner was on its way to rest, and heard nothing any more.
            Some(WorkflowState::Running | WorkflowState::Parked | WorkflowState::Resting(_)) => Told::Nobody,
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
