//! The actor: those who wait, in the order they came, and the probe of a store that takes no writes.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, ResponseFuture, WrapFuture as _,
};
use tokio::sync::oneshot;

use super::door::Checkpoints;
use super::shared::{InLine, Shared};
use super::{ASK_TIMEOUT, NAME, OnStorageFailed, WriterLimits, gone};
use crate::failpoint::{FailPoint, reach};
use crate::mailbox::Mailbox;
use crate::ports::{Append, LocalFuture, Outcome, Store, StoreError, StoreWrite, Written};
use crate::watch::{Alive, Watch};

/// Commits a workflow's append.
#[derive(Message)]
#[rtype(result = "Result<Outcome, StoreError>")]
pub(super) struct CommitAppend(pub Arc<Append>, pub InLine);

/// Makes another change of the store.
#[derive(Message)]
#[rtype(result = "Result<Written, StoreError>")]
pub(super) struct CommitWrite(pub StoreWrite, pub InLine);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Waiting {
    Append(Arc<Append>, Reply<Outcome>, InLine),
    Write(Box<StoreWrite>, Reply<Written>, InLine),
}

/// The store's only writer.
pub struct CheckpointActor {
    shared: Arc<Shared>,
    waiting: VecDeque<Waiting>,
    limits: WriterLimits,
    probing: bool,
    _alive: Alive,
}

impl CheckpointActor {
    /// Starts it on the arbiter that `arbiter` names and gives its door.
    #[must_use]
    pub fn start_on(arbiter: &actix::ArbiterHandle, store: Arc<dyn Store>, on_failed: OnStorageFailed) -> Checkpoints {
        Self::start_watched(arbiter, store, on_failed, WriterLimits::default(), &Watch::default())
    }

    /// Starts it as [`start_on`](Self::start_on) does, within other limits and with somebody who is told if it panics.
    #[must_use]
    pub fn start_watched(
        arbiter: &actix::ArbiterHandle,
        store: Arc<dyn Store>,
        on_failed: OnStorageFailed,
        limits: WriterLimits,
        watch: &Watch,
    ) -> Checkpoints {
        let shared = Arc::new(Shared::new(store, on_failed, watch.clone()));
        let (waiting, alive) = (VecDeque::new(), watch.alive(NAME));
        let actor = Self { shared: shared.clone(), waiting, limits, probing: false, _alive: alive };
        let address = Self::start_in_arbiter(arbiter, |_| actor);
        Checkpoints::new(Mailbox::new(address, limits.queue_max, ASK_TIMEOUT), shared)
    }

    /// Puts an ask in the line; what becomes of it.
    fn line_up<T: 'static>(
        &mut self,
        ctx: &mut Context<Self>,
        waiting: impl FnOnce(Reply<T>) -> Waiting,
    ) -> LocalFuture<'static, Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel();
        self.waiting.push_back(waiting(reply));
        self.commit_next(ctx);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(gone())) })
    }

    /// Gives the store what waits, as far as it has room.
    fn commit_next(&mut self, ctx: &mut Context<Self>) {
        while !self.waiting.is_empty() {
            let Some(under_way) = self.shared.enter() else { return };
            let Some(work) = self.next_commit() else { return };
            ctx.spawn(work.into_actor(self).map(|(), actor, ctx| {
                drop(under_way);
                actor.commit_next(ctx);
            }));
        }
    }

    /// Takes what is first in the line, with the appends that make one commit with it; they are told what became of it.
    fn next_commit(&mut self) -> Option<LocalFuture<'static, ()>> {
        let first = self.waiting.pop_front()?;
        let shared = self.shared.clone();
        Some(match first {
            Waiting::Write(write, reply, in_line) => Box::pin(async move {
                drop(in_line);
                let result = shared.store.write(*write).await;
                shared.judge(&result);
                let _ = reply.send(result);
            }),
            Waiting::Append(append, reply, in_line) => {
                drop(in_line);
                let (appends, replies) = self.group(append, reply);
                Box::pin(async move {
                    let result = shared.store.commit(appends.clone()).await;
                    shared.judge(&result);
                    match result {
                        // What is damaged is one asker's, and nothing is written: each for himself.
                        Err(StoreError::Damaged(_)) if replies.len() > 1 => {
                            for (append, reply) in appends.into_iter().zip(replies) {
                                let result = shared.store.commit(vec![append]).await;
                                shared.judge(&result);
                                let _ = reply
                                    .send(result.and_then(|outcomes| outcomes.into_iter().next().ok_or_else(gone)));
                            }
                        }
                        Ok(outcomes) => {
                            reach(FailPoint::BeforeAck);
                            for (outcome, reply) in outcomes.into_iter().zip(replies) {
                                let _ = reply.send(Ok(outcome));
                            }
                        }
                        Err(error) => {
                            for reply in replies {
                                let _ = reply.send(Err(error.clone()));
                            }
                        }
                    }
                })
            }
        })
    }

    /// Takes the appends that stand directly behind this one, as many as make one commit.
    fn group(&mut self, first: Arc<Append>, reply: Reply<Outcome>) -> (Vec<Arc<Append>>, Vec<Reply<Outcome>>) {
        let mut bytes = first.bytes();
        let (mut appends, mut replies) = (vec![first], vec![reply]);
        while appends.len() < self.limits.group_max {
            match self.waiting.pop_front() {
                Some(Waiting::Append(append, reply, _)) if bytes + append.bytes() <= self.limits.group_bytes_max => {
                    bytes += append.bytes();
                    appends.push(append);
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

    /// Waits for a word of the doors.
    fn listen(&mut self, ctx: &mut Context<Self>) {
        let shared = self.shared.clone();
        let word = async move { shared.moved.notified().await };
        ctx.spawn(word.into_actor(self).map(|(), actor, ctx| {
            let refusal = actor.shared.refusal().clone();
            if let (Some(error), false) = (refusal, actor.probing) {
                actor.probing = true;
                if matches!(error, StoreError::Unwritable(_)) {
                    tracing::error!(%error, "the store cannot be written: new work is refused until it can");
                } else {
                    tracing::error!("the store is full: new work is refused until there is room");
                }
                ctx.run_later(actor.limits.probe_interval, Self::probe);
            }
            actor.commit_next(ctx);
            actor.listen(ctx);
        }));
    }

    /// Looks whether the store takes writes again; if not, looks again later.
    fn probe(&mut self, ctx: &mut Context<Self>) {
        let in_line = self.shared.wait();
        let probe = self.line_up(ctx, |reply| Waiting::Write(Box::new(StoreWrite::Probe), reply, in_line));
        ctx.spawn(probe.into_actor(self).map(|probed, actor, ctx| match probed {
            Ok(_) => {
                actor.probing = false;
                let was = actor.shared.refusal().take();
                match was {
                    Some(StoreError::Unwritable(_)) => tracing::info!("the store can be written again"),
                    Some(_) | None => tracing::info!("the store has room again"),
                }
            }
            Err(_) => drop(ctx.run_later(actor.limits.probe_interval, Self::probe)),
        }));
    }
}

impl Actor for CheckpointActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.limits.queue_max);
        self.listen(ctx);
    }
}

impl Handler<CommitAppend> for CheckpointActor {
    type Result = ResponseFuture<Result<Outcome, StoreError>>;

    fn handle(&mut self, CommitAppend(append, in_line): CommitAppend, ctx: &mut Self::Context) -> Self::Result {
        self.line_up(ctx, |reply| Waiting::Append(append, reply, in_line))
    }
}

impl Handler<CommitWrite> for CheckpointActor {
    type Result = ResponseFuture<Result<Written, StoreError>>;

    fn handle(&mut self, CommitWrite(write, in_line): CommitWrite, ctx: &mut Self::Context) -> Self::Result {
        self.line_up(ctx, |reply| Waiting::Write(Box::new(write), reply, in_line))
    }
}
