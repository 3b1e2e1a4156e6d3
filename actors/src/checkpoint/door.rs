//! The door: hands an append to the store itself as long as nobody waits, and everything else to the actor.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::actor::{CheckpointActor, CommitAppend, CommitWrite};
use super::shared::{Shared, UnderWay};
use super::{ASK_TIMEOUT, NAME, gone};
use crate::failpoint::{FailPoint, reach};
use crate::mailbox::{AskError, Mailbox};
use crate::ports::{Append, LocalFuture, Outcome, StoreError, StoreWrite, Written};
use crate::supervisor::Writer;

/// The CheckpointActor's door.
#[derive(Clone)]
pub struct Checkpoints {
    door: Mailbox<CheckpointActor>,
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoints").field("door", &self.door).finish_non_exhaustive()
    }
}

impl Checkpoints {
    pub(super) fn new(door: Mailbox<CheckpointActor>, shared: Arc<Shared>) -> Self {
        Self { door, shared }
    }

    /// Commits a workflow's append. Durable when it answers.
    ///
    /// # Errors
    /// [`StoreError`]; the same words may be asked again.
    ///
    /// # Cancel safety
    /// It may still be written. Ask again with the same words: the first outcome comes back.
    pub async fn append(&self, append: Arc<Append>) -> Result<Outcome, StoreError> {
        if self.shared.waiting.load(Ordering::SeqCst) == 0
            && let Some(under_way) = self.shared.enter()
        {
            return self.hand_on(append, under_way).await;
        }
        let in_line = self.shared.wait();
        self.door.ask(CommitAppend(append, in_line)).await.unwrap_or_else(|error| Err(unavailable(error)))
    }

    /// Gives the store an append without the actor: nobody waits that it could overtake.
    async fn hand_on(&self, append: Arc<Append>, under_way: UnderWay) -> Result<Outcome, StoreError> {
        let _place = self.door.place().map_err(unavailable)?;
        let _alive = self.shared.watch.alive(NAME);
        let committed = tokio::time::timeout(ASK_TIMEOUT, self.shared.store.commit(vec![append])).await;
        drop(under_way);
        let result = committed.unwrap_or_else(|_| Err(unavailable(AskError::TimedOut)));
        self.shared.judge(&result);
        let outcomes = result?;
        reach(FailPoint::BeforeAck);
        outcomes.into_iter().next().ok_or_else(gone)
    }

    /// Makes another change. Durable when it answers.
    ///
    /// # Errors
    /// [`StoreError`]; it may or may not have been done.
    pub async fn write(&self, write: StoreWrite) -> Result<Written, StoreError> {
        let in_line = self.shared.wait();
        self.door.ask(CommitWrite(write, in_line)).await.unwrap_or_else(|error| Err(unavailable(error)))
    }

    /// Why new work is refused: the store was found full or not to be written, and no probe got through since.
    #[must_use]
    pub fn refusal(&self) -> Option<StoreError> {
        self.shared.refusal().clone()
    }

    /// Whether that is for want of room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.refusal() == Some(StoreError::Full)
    }

    pub(crate) fn writer(&self) -> Rc<dyn Writer> {
        Rc::new(self.clone())
    }
}

impl Writer for Checkpoints {
    fn append(&self, append: Arc<Append>) -> LocalFuture<'static, Result<Outcome, StoreError>> {
        let door = self.clone();
        Box::pin(async move { Checkpoints::append(&door, append).await })
    }

    fn write(&self, write: StoreWrite) -> LocalFuture<'static, Result<Written, StoreError>> {
        let door = self.clone();
        Box::pin(async move { Checkpoints::write(&door, write).await })
    }
}

fn unavailable(error: AskError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
