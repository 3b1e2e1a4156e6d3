//! The store's only writer: groups what arrived while the last commit ran, and commits it at once.
//!
//! Invariant: one commit runs at a time, so two asks reach the store in the order they were asked.
//! Absent on purpose: a delay to make groups larger. The disk's own time is the window.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, ResponseFuture, WrapFuture as _,
};
use tokio::sync::oneshot;

use crate::failpoint::{FailPoint, reach};
use crate::mailbox::{AskError, Mailbox};
use crate::ports::{Append, LocalFuture, Outcome, Store, StoreError, StoreWrite, Written};
use crate::supervisor::Writer;
use crate::watch::{Alive, Watch};

/// At most this many asks are one commit.
pub const GROUP_MAX: usize = 64;
/// Nor more bytes than this, one ask excepted.
pub const GROUP_BYTES_MAX: usize = 1 << 20;
/// At most this many asks wait.
const MAILBOX: usize = 32_768;
/// An ask waits this long; a slow disk is not a lost one, so the asker asks again.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do when the store can promise nothing any more.
pub type OnStorageFailed = Arc<dyn Fn(&str) + Send + Sync>;

/// Commits a workflow's append.
#[derive(Message)]
#[rtype(result = "Result<Outcome, StoreError>")]
struct CommitAppend(Append);

/// Makes another change of the store.
#[derive(Message)]
#[rtype(result = "Result<Written, StoreError>")]
struct CommitWrite(StoreWrite);

enum Waiting {
    Append(Box<Append>, oneshot::Sender<Result<Outcome, StoreError>>),
    Write(Box<StoreWrite>, oneshot::Sender<Result<Written, StoreError>>),
}

/// The store's only writer.
pub struct CheckpointActor {
    store: Arc<dyn Store>,
    waiting: std::collections::VecDeque<Waiting>,
    committing: bool,
    on_failed: OnStorageFailed,
    _alive: Alive,
}

impl CheckpointActor {
    /// Starts it on the arbiter that `arbiter` names and gives its door.
    #[must_use]
    pub fn start_on(arbiter: &actix::ArbiterHandle, store: Arc<dyn Store>, on_failed: OnStorageFailed) -> Checkpoints {
        Self::start_watched(arbiter, store, on_failed, &Watch::default())
    }

    /// Starts it as [`start_on`](Self::start_on) does, with somebody who is told if it panics.
    #[must_use]
    pub fn start_watched(
        arbiter: &actix::ArbiterHandle,
        store: Arc<dyn Store>,
        on_failed: OnStorageFailed,
        watch: &Watch,
    ) -> Checkpoints {
        let (waiting, alive) = (std::collections::VecDeque::new(), watch.alive("CheckpointActor"));
        let actor = Self { store, waiting, committing: false, on_failed, _alive: alive };
        let address = Self::start_in_arbiter(arbiter, |_| actor);
        Checkpoints { door: Mailbox::new(address, MAILBOX, ASK_TIMEOUT) }
    }

    fn commit_next(&mut self, ctx: &mut Context<Self>) {
        if self.committing {
            return;
        }
        let Some(first) = self.waiting.pop_front() else { return };
        self.committing = true;
        let store = self.store.clone();
        let on_failed = self.on_failed.clone();
        let work: LocalFuture<'static, ()> = match first {
            Waiting::Write(write, reply) => Box::pin(async move {
                let result = store.write(*write).await;
                report(&result, &on_failed);
                let _ = reply.send(result);
            }),
            Waiting::Append(append, reply) => {
                let (appends, replies) = self.group(*append, reply);
                Box::pin(async move {
                    match store.commit(appends).await {
                        Ok(outcomes) => {
                            reach(FailPoint::BeforeAck);
                            for (outcome, reply) in outcomes.into_iter().zip(replies) {
                                let _ = reply.send(Ok(outcome));
                            }
                        }
                        Err(error) => {
                            report::<()>(&Err(error.clone()), &on_failed);
                            for reply in replies {
                                let _ = reply.send(Err(error.clone()));
                            }
                        }
                    }
                })
            }
        };
        ctx.spawn(work.into_actor(self).map(|(), actor, ctx| {
            actor.committing = false;
            actor.commit_next(ctx);
        }));
    }

    /// Takes the appends that stand directly behind this one, as many as make one commit.
    fn group(
        &mut self,
        first: Append,
        reply: oneshot::Sender<Result<Outcome, StoreError>>,
    ) -> (Vec<Append>, Vec<oneshot::Sender<Result<Outcome, StoreError>>>) {
        let mut bytes = size(&first);
        let (mut appends, mut replies) = (vec![first], vec![reply]);
        while appends.len() < GROUP_MAX {
            match self.waiting.pop_front() {
                Some(Waiting::Append(append, reply)) if bytes + size(&append) <= GROUP_BYTES_MAX => {
                    bytes += size(&append);
                    appends.push(*append);
                    replies.push(reply);
                }
                Some(other) => {
                    self.waiting.push_front(other);
                    break;
                }
                None => break,
            }
        }
        (appends, replies)
    }
}

fn size(append: &Append) -> usize {
    append.records.iter().map(|row| row.head.len() + row.body.as_ref().map_or(0, |body| body.bytes.len())).sum()
}

fn report<T>(result: &Result<T, StoreError>, on_failed: &OnStorageFailed) {
    if let Err(StoreError::Failed(reason)) = result {
        on_failed(reason);
    }
}

impl Actor for CheckpointActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<CommitAppend> for CheckpointActor {
    type Result = ResponseFuture<Result<Outcome, StoreError>>;

    fn handle(&mut self, CommitAppend(append): CommitAppend, ctx: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        self.waiting.push_back(Waiting::Append(Box::new(append), reply));
        self.commit_next(ctx);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(gone())) })
    }
}

impl Handler<CommitWrite> for CheckpointActor {
    type Result = ResponseFuture<Result<Written, StoreError>>;

    fn handle(&mut self, CommitWrite(write): CommitWrite, ctx: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        self.waiting.push_back(Waiting::Write(Box::new(write), reply));
        self.commit_next(ctx);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(gone())) })
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("the writer stopped".to_owned())
}

/// The CheckpointActor's door.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    door: Mailbox<CheckpointActor>,
}

impl Checkpoints {
    /// Commits a workflow's append. Durable when it answers.
    ///
    /// # Errors
    /// [`StoreError`]; the same words may be asked again.
    ///
    /// # Cancel safety
    /// It may still be written. Ask again with the same words: the first outcome comes back.
    pub async fn append(&self, append: Append) -> Result<Outcome, StoreError> {
        self.door.ask(CommitAppend(append)).await.unwrap_or_else(|error| Err(unavailable(error)))
    }

    /// Makes another change. Durable when it answers.
    ///
    /// # Errors
    /// [`StoreError`]; it may or may not have been done.
    pub async fn write(&self, write: StoreWrite) -> Result<Written, StoreError> {
        self.door.ask(CommitWrite(write)).await.unwrap_or_else(|error| Err(unavailable(error)))
    }

    pub(crate) fn writer(&self) -> Rc<dyn Writer> {
        Rc::new(self.clone())
    }
}

fn unavailable(error: AskError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

impl Writer for Checkpoints {
    fn append(&self, append: Append) -> LocalFuture<'static, Result<Outcome, StoreError>> {
        let door = self.clone();
        Box::pin(async move { Checkpoints::append(&door, append).await })
    }

    fn write(&self, write: StoreWrite) -> LocalFuture<'static, Result<Written, StoreError>> {
        let door = self.clone();
        Box::pin(async move { Checkpoints::write(&door, write).await })
    }
}
