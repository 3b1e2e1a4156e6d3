//! The store's only writer: hands on what arrives at once, in groups when the store is behind.
//!
//! The store makes one transaction of the commits that came while its last one ran, so the disk is never idle while this
//! actor's thread is on its way to say what comes next. Once a write finds the store full, new work is refused
//! ([`Checkpoints::is_full`]) until a probe finds room again; what runs, and what deletes, still asks for itself.
//!
//! Invariant: asks reach the store in the order they were asked.
//! Absent on purpose: a delay to make groups larger. The disk's own time is the window.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, ResponseFuture, WrapFuture as _,
};
use tokio::sync::oneshot;

use crate::mailbox::{AskError, Mailbox};
use crate::ports::{Append, LocalFuture, Outcome, Store, StoreError, StoreWrite, Written};
use crate::supervisor::Writer;

/// What bounds the writer. The binary fills it from its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterLimits {
    /// At most this many asks wait; one more is answered [`StoreError::Unavailable`]. Default 4,096.
    pub queue_max: usize,
    /// At most this many asks are one commit, of this actor and of a store's transaction. Default 64.
    pub group_max: usize,
    /// Nor more bytes than this, one ask excepted. Default 1 MiB.
    pub group_bytes_max: usize,
    /// Between two looks whether a full store has room again. Default 1 s.
    pub probe_interval: Duration,
}

impl Default for WriterLimits {
    fn default() -> Self {
        let probe_interval = Duration::from_secs(1);
        Self { queue_max: 4_096, group_max: 64, group_bytes_max: 1 << 20, probe_interval }
    }
}

/// At most this many commits are the store's to do; what comes then waits here and goes on in groups.
const UNDER_WAY_MAX: usize = 64;
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
    under_way: usize,
    on_failed: OnStorageFailed,
    limits: WriterLimits,
    /// Shared with every door. A probe is under way as long as it is set.
    full: Arc<AtomicBool>,
}

impl CheckpointActor {
    /// Starts it on the arbiter that `arbiter` names and gives its door.
    #[must_use]
    pub fn start_on(arbiter: &actix::ArbiterHandle, store: Arc<dyn Store>, on_failed: OnStorageFailed) -> Checkpoints {
        Self::start_with(arbiter, store, on_failed, WriterLimits::default())
    }

    /// Starts it as [`start_on`](Self::start_on) does, within other limits.
    #[must_use]
    pub fn start_with(
        arbiter: &actix::ArbiterHandle,
        store: Arc<dyn Store>,
        on_failed: OnStorageFailed,
        limits: WriterLimits,
    ) -> Checkpoints {
        let full = Arc::new(AtomicBool::new(false));
        let waiting = std::collections::VecDeque::new();
        let actor = Self { store, waiting, under_way: 0, on_failed, limits, full: full.clone() };
        let address = Self::start_in_arbiter(arbiter, |_| actor);
        Checkpoints { door: Mailbox::new(address, limits.queue_max, ASK_TIMEOUT), full }
    }

    fn commit_next(&mut self, ctx: &mut Context<Self>) {
        if self.under_way >= UNDER_WAY_MAX {
            return;
        }
        let Some(first) = self.waiting.pop_front() else { return };
        self.under_way += 1;
        let store = self.store.clone();
        let on_failed = self.on_failed.clone();
        // Known before the answer is, so that whoever is told "full" finds the doors closed.
        let full = self.full.clone();
        let found_full =
            move |error: Option<&StoreError>| error == Some(&StoreError::Full) && !full.swap(true, Ordering::Relaxed);
        // Answers whether the store was found full for the first time.
        let work: LocalFuture<'static, bool> = match first {
            Waiting::Write(write, reply) => Box::pin(async move {
                let result = store.write(*write).await;
                report(&result, &on_failed);
                let newly_full = found_full(result.as_ref().err());
                let _ = reply.send(result);
                newly_full
            }),
            Waiting::Append(append, reply) => {
                let (appends, replies) = self.group(*append, reply);
                Box::pin(async move {
                    match store.commit(appends).await {
                        Ok(outcomes) => {
                            for (outcome, reply) in outcomes.into_iter().zip(replies) {
                                let _ = reply.send(Ok(outcome));
                            }
                            false
                        }
                        Err(error) => {
                            report::<()>(&Err(error.clone()), &on_failed);
                            let newly_full = found_full(Some(&error));
                            for reply in replies {
                                let _ = reply.send(Err(error.clone()));
                            }
                            newly_full
                        }
                    }
                })
            }
        };
        ctx.spawn(work.into_actor(self).map(|newly_full, actor, ctx| {
            actor.under_way -= 1;
            if newly_full {
                tracing::error!("the store is full: new work is refused until there is room");
                ctx.run_later(actor.limits.probe_interval, Self::probe);
            }
            actor.commit_next(ctx);
        }));
    }

    /// Looks whether there is room again; if not, looks again later.
    fn probe(&mut self, ctx: &mut Context<Self>) {
        let (reply, answer) = oneshot::channel();
        self.waiting.push_back(Waiting::Write(Box::new(StoreWrite::Probe), reply));
        self.commit_next(ctx);
        ctx.spawn(answer.into_actor(self).map(|probed, actor, ctx| match probed {
            Ok(Ok(_)) => {
                actor.full.store(false, Ordering::Relaxed);
                tracing::info!("the store has room again");
            }
            Ok(Err(_)) | Err(_) => drop(ctx.run_later(actor.limits.probe_interval, Self::probe)),
        }));
    }

    /// Takes the appends that stand directly behind this one, as many as make one commit.
    fn group(
        &mut self,
        first: Append,
        reply: oneshot::Sender<Result<Outcome, StoreError>>,
    ) -> (Vec<Append>, Vec<oneshot::Sender<Result<Outcome, StoreError>>>) {
        let mut bytes = first.bytes();
        let (mut appends, mut replies) = (vec![first], vec![reply]);
        while appends.len() < self.limits.group_max {
            match self.waiting.pop_front() {
                Some(Waiting::Append(append, reply)) if bytes + append.bytes() <= self.limits.group_bytes_max => {
                    bytes += append.bytes();
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

fn report<T>(result: &Result<T, StoreError>, on_failed: &OnStorageFailed) {
    if let Err(StoreError::Failed(reason)) = result {
        on_failed(reason);
    }
}

impl Actor for CheckpointActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.limits.queue_max);
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
    full: Arc<AtomicBool>,
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

    /// Whether the store was found full and no probe has found room since.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::ids::{Epoch, Position, Seq, Timestamp, WorkflowId};
    use crate::ports::{Claim, NewWorkflow, Next, OnDisconnect, RecordRow};
    use crate::testing::{CommitFault, ManualClock, MemoryStore};

    const RECORD_BYTES: usize = 1_000;

    /// The first append of workflow `n`: one record of [`RECORD_BYTES`].
    fn append(n: usize) -> Append {
        let record = RecordRow {
            position: Position(1),
            epoch: Epoch(0),
            seq: Some(Seq(1)),
            kind: "input".into(),
            path: "".into(),
            head: vec![b'x'; RECORD_BYTES],
            body: None,
        };
        let made = NewWorkflow {
            name: "chat".into(),
            version: 1,
            conversation: None,
            task: "a task".into(),
            effort: None,
            request: None,
            on_disconnect: OnDisconnect::Cancel,
            created_at: Timestamp(0),
            child_of: None,
        };
        Append {
            claim: Claim { workflow: WorkflowId::from_trusted(format!("w{n}")), epoch: Epoch(0) },
            after: Position(0),
            create: Some(Box::new(made)),
            records: vec![record],
            messages: Vec::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            children: Vec::new(),
            runtime: Duration::ZERO,
            next: Next::Running,
        }
    }

    fn store() -> MemoryStore {
        MemoryStore::new(Arc::new(ManualClock::default()))
    }

    fn start(store: &MemoryStore, limits: WriterLimits) -> Checkpoints {
        let arbiter = actix::Arbiter::current();
        CheckpointActor::start_with(&arbiter, Arc::new(store.clone()), Arc::new(|_| {}), limits)
    }

    /// Asks for so many more than the store is given one by one; how many commits there were
    /// behind those, the largest of them, and how many asks of the surplus were answered.
    async fn groups(limits: WriterLimits, surplus: usize) -> (usize, usize, usize) {
        let (store, sizes) = (store(), Arc::new(Mutex::new(Vec::new())));
        let seen = sizes.clone();
        store.on_commit(move |appends| {
            seen.lock().expect("no panic").push(appends.len());
            CommitFault::Proceed
        });
        let door = start(&store, limits);
        let answers =
            futures_util::future::join_all((0..UNDER_WAY_MAX + surplus).map(|n| door.append(append(n)))).await;
        let done = answers.iter().filter(|answer| answer.is_ok()).count();
        let full = |answer: &Result<_, _>| matches!(answer, Err(StoreError::Unavailable(_)));
        assert!(answers.iter().all(|answer| answer.is_ok() || full(answer)), "{answers:?}");
        let sizes = sizes.lock().expect("no panic").clone();
        assert!(sizes[..UNDER_WAY_MAX].iter().all(|size| *size == 1), "{sizes:?}");
        let behind = &sizes[UNDER_WAY_MAX..];
        (behind.len(), behind.iter().copied().max().unwrap_or_default(), done - UNDER_WAY_MAX)
    }

    #[actix::test]
    async fn a_commit_takes_as_many_asks_and_bytes_as_the_limits_say_and_the_queue_no_more() {
        // The store is given the first asks at once, and makes its own groups of them; behind those they are grouped here.
        let limits = WriterLimits { group_max: 4, ..WriterLimits::default() };
        assert_eq!(groups(limits, 11).await, (3, 4, 11));
        let limits = WriterLimits { group_bytes_max: 3 * RECORD_BYTES, ..WriterLimits::default() };
        assert_eq!(groups(limits, 8).await, (3, 3, 8));
        let limits = WriterLimits { group_bytes_max: 1, ..WriterLimits::default() };
        assert_eq!(groups(limits, 3).await, (3, 1, 3));
        let limits = WriterLimits { queue_max: UNDER_WAY_MAX + 5, ..WriterLimits::default() };
        assert_eq!(groups(limits, 9).await, (1, 5, 5));
    }

    #[actix::test]
    async fn a_full_store_is_probed_at_the_interval_and_only_a_probe_clears_it() {
        tokio::time::pause();
        let store = store();
        let door = start(&store, WriterLimits { probe_interval: Duration::from_secs(60), ..WriterLimits::default() });
        assert!(!door.is_full());
        store.on_commit(|_| CommitFault::RefuseBefore(StoreError::Full));
        assert_eq!(door.append(append(0)).await, Err(StoreError::Full));
        assert!(door.is_full());
        store.heal();
        assert!(door.append(append(0)).await.is_ok(), "what runs asks for itself");
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(door.write(StoreWrite::HistoryExported { cursor: 0 }).await.is_ok());
        assert!(door.is_full(), "neither an append nor a change clears it");
        tokio::time::sleep(Duration::from_secs(2)).await; // allow-sleep: on paused time
        assert!(!door.is_full());
    }
}
