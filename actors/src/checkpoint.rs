//! The store's only writer: hands on what arrives at once, in groups when the store is behind.
//!
//! The store makes one transaction of the commits that came while its last one ran, so the disk is never idle while this
//! actor's thread is on its way to say what comes next. As long as nobody waits and the store has room for more, its door
//! hands an append on without a change of thread; what comes beyond waits in the actor. Once a write finds the store full or
//! not to be written, new work is refused ([`Checkpoints::refusal`]) until a probe gets through; what runs, and what deletes,
//! still asks for itself.
//!
//! Invariant: asks reach the store in the order they were asked.
//! Absent on purpose: a delay to make groups larger. The disk's own time is the window.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, ResponseFuture, WrapFuture as _,
};
use tokio::sync::{Notify, oneshot};

use crate::failpoint::{FailPoint, reach};
use crate::mailbox::{AskError, Mailbox};
use crate::ports::{Append, LocalFuture, Outcome, Store, StoreError, StoreWrite, Written};
use crate::supervisor::Writer;
use crate::watch::{Alive, Watch};

/// What bounds the writer. The binary fills it from its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterLimits {
    /// At most this many asks wait; one more is answered [`StoreError::Unavailable`]. Default 4,096.
    pub queue_max: usize,
    /// At most this many asks are one commit, of this actor and of a store's transaction. Default 64.
    pub group_max: usize,
    /// Nor more bytes than this, one ask excepted. Default 1 MiB.
    pub group_bytes_max: usize,
    /// Between two looks whether a store that is full, or cannot be written, takes writes again. Default 1 s.
    pub probe_interval: Duration,
}

impl Default for WriterLimits {
    fn default() -> Self {
        let probe_interval = Duration::from_secs(1);
        Self { queue_max: 4_096, group_max: 64, group_bytes_max: 1 << 20, probe_interval }
    }
}

/// As the log knows it.
const NAME: &str = "CheckpointActor";
/// At most this many commits are the store's to do; what comes then waits here and goes on in groups.
const UNDER_WAY_MAX: usize = 64;
/// An ask waits this long; a slow disk is not a lost one, so the asker asks again.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do when the store can promise nothing any more.
pub type OnStorageFailed = Arc<dyn Fn(&str) + Send + Sync>;

/// What the actor and its doors share.
struct Shared {
    store: Arc<dyn Store>,
    on_failed: OnStorageFailed,
    watch: Watch,
    refuses: AtomicBool,
    /// Why it does, if it does.
    why: Mutex<Option<StoreError>>,
    /// Asks that the store was not given yet, in the mailbox or behind it.
    waiting: AtomicUsize,
    /// Asks and groups of them that the store was given.
    under_way: AtomicUsize,
    /// Wakes the actor: the store may have room for one that waits, or was found full.
    moved: Notify,
}

impl Shared {
    /// The right to give the store something; none while it has as much as it may.
    fn enter(self: &Arc<Self>) -> Option<UnderWay> {
        let one_more = |under_way| (under_way < UNDER_WAY_MAX).then_some(under_way + 1);
        let entered = self.under_way.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        entered.ok().map(|_| UnderWay(self.clone()))
    }

    fn why(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(self: &Arc<Self>) -> InLine {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        InLine(self.clone())
    }

    /// Looks at what the store said before its asker does, so that whoever is told "full" finds the doors closed.
    fn judge<T>(&self, result: &Result<T, StoreError>) {
        match result {
            Err(StoreError::Failed(reason)) => (self.on_failed)(reason),
            Err(error) if error.refuses_writes() => {
                *self.why() = Some(error.clone());
                if !self.refuses.swap(true, Ordering::SeqCst) {
                    self.moved.notify_one();
                }
            }
            Err(_) | Ok(_) => {}
        }
    }
}

/// Something that the store was given.
struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            self.0.moved.notify_one();
        }
    }
}

/// Somebody who waits for the store's turn.
struct InLine(Arc<Shared>);

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Commits a workflow's append.
#[derive(Message)]
#[rtype(result = "Result<Outcome, StoreError>")]
struct CommitAppend(Append, InLine);

/// Makes another change of the store.
#[derive(Message)]
#[rtype(result = "Result<Written, StoreError>")]
struct CommitWrite(StoreWrite, InLine);

enum Waiting {
    Append(Box<Append>, oneshot::Sender<Result<Outcome, StoreError>>, InLine),
    Write(Box<StoreWrite>, oneshot::Sender<Result<Written, StoreError>>, InLine),
}

/// The store's only writer.
pub struct CheckpointActor {
    shared: Arc<Shared>,
    waiting: std::collections::VecDeque<Waiting>,
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
        let shared = Arc::new(Shared {
            store,
            on_failed,
            watch: watch.clone(),
            refuses: AtomicBool::new(false),
            why: Mutex::default(),
            waiting: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            moved: Notify::new(),
        });
        let alive = watch.alive(NAME);
        let waiting = std::collections::VecDeque::new();
        let actor = Self { shared: shared.clone(), waiting, limits, probing: false, _alive: alive };
        let address = Self::start_in_arbiter(arbiter, |_| actor);
        Checkpoints { door: Mailbox::new(address, limits.queue_max, ASK_TIMEOUT), shared }
    }

    /// Gives the store what waits, as far as it has room.
    fn commit_next(&mut self, ctx: &mut Context<Self>) {
        while !self.waiting.is_empty() {
            let Some(under_way) = self.shared.enter() else { return };
            let Some(first) = self.waiting.pop_front() else { return };
            let shared = self.shared.clone();
            let work: LocalFuture<'static, ()> = match first {
                Waiting::Write(write, reply, in_line) => Box::pin(async move {
                    drop(in_line);
                    let result = shared.store.write(*write).await;
                    shared.judge(&result);
                    let _ = reply.send(result);
                }),
                Waiting::Append(append, reply, in_line) => {
                    drop(in_line);
                    let (appends, replies) = self.group(*append, reply);
                    Box::pin(async move {
                        let result = shared.store.commit(appends).await;
                        shared.judge(&result);
                        match result {
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
            };
            ctx.spawn(work.into_actor(self).map(|(), actor, ctx| {
                drop(under_way);
                actor.commit_next(ctx);
            }));
        }
    }

    /// Waits for a word of the doors.
    fn listen(&mut self, ctx: &mut Context<Self>) {
        let shared = self.shared.clone();
        let word = async move { shared.moved.notified().await };
        ctx.spawn(word.into_actor(self).map(|(), actor, ctx| {
            if actor.shared.refuses.load(Ordering::SeqCst) && !actor.probing {
                actor.probing = true;
                match &*actor.shared.why() {
                    Some(error @ StoreError::Unwritable(_)) => {
                        tracing::error!(%error, "the store cannot be written: new work is refused until it can");
                    }
                    Some(_) | None => tracing::error!("the store is full: new work is refused until there is room"),
                }
                ctx.run_later(actor.limits.probe_interval, Self::probe);
            }
            actor.commit_next(ctx);
            actor.listen(ctx);
        }));
    }

    /// Looks whether there is room again; if not, looks again later.
    fn probe(&mut self, ctx: &mut Context<Self>) {
        let (reply, answer) = oneshot::channel();
        let in_line = self.shared.wait();
        self.waiting.push_back(Waiting::Write(Box::new(StoreWrite::Probe), reply, in_line));
        self.commit_next(ctx);
        ctx.spawn(answer.into_actor(self).map(|probed, actor, ctx| match probed {
            Ok(Ok(_)) => {
                actor.probing = false;
                let was = actor.shared.why().take();
                actor.shared.refuses.store(false, Ordering::SeqCst);
                match was {
                    Some(StoreError::Unwritable(_)) => tracing::info!("the store can be written again"),
                    Some(_) | None => tracing::info!("the store has room again"),
                }
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
                Some(Waiting::Append(append, reply, _)) if bytes + append.bytes() <= self.limits.group_bytes_max => {
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
        let (reply, answer) = oneshot::channel();
        self.waiting.push_back(Waiting::Append(Box::new(append), reply, in_line));
        self.commit_next(ctx);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(gone())) })
    }
}

impl Handler<CommitWrite> for CheckpointActor {
    type Result = ResponseFuture<Result<Written, StoreError>>;

    fn handle(&mut self, CommitWrite(write, in_line): CommitWrite, ctx: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        self.waiting.push_back(Waiting::Write(Box::new(write), reply, in_line));
        self.commit_next(ctx);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(gone())) })
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("the writer stopped".to_owned())
}

/// The CheckpointActor's door.
#[derive(Clone)]
pub struct Checkpoints {
    door: Mailbox<CheckpointActor>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoints").field("door", &self.door).finish_non_exhaustive()
    }
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
        if self.shared.waiting.load(Ordering::SeqCst) == 0
            && let Some(under_way) = self.shared.enter()
        {
            return self.hand_on(append, under_way).await;
        }
        let in_line = self.shared.wait();
        self.door.ask(CommitAppend(append, in_line)).await.unwrap_or_else(|error| Err(unavailable(error)))
    }

    /// Gives the store an append without the actor: nobody waits that it could overtake.
    async fn hand_on(&self, append: Append, under_way: UnderWay) -> Result<Outcome, StoreError> {
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
        if !self.shared.refuses.load(Ordering::SeqCst) {
            return None;
        }
        self.shared.why().clone()
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
    use super::*;
    use crate::ids::{Epoch, Position, Seq, Timestamp, WorkflowId};
    use crate::ports::{Claim, RecordRow};
    use crate::testing::{CommitFault, ManualClock, MemoryStore, plain};

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
        let made = plain::made("chat", "a task", Timestamp(0));
        let claim = Claim { workflow: WorkflowId::from_trusted(format!("w{n}")), epoch: Epoch(0) };
        Append { create: Some(Box::new(made)), ..plain::append(claim, Position(0), vec![record]) }
    }

    fn store() -> MemoryStore {
        MemoryStore::new(Arc::new(ManualClock::default()))
    }

    fn start(store: &MemoryStore, limits: WriterLimits) -> Checkpoints {
        let arbiter = actix::Arbiter::current();
        CheckpointActor::start_watched(&arbiter, Arc::new(store.clone()), Arc::new(|_| {}), limits, &Watch::default())
    }

    /// Asks so many at once while the store has as much as it may; how many commits there were behind that, the largest of
    /// them, and how many asks were answered.
    async fn groups(limits: WriterLimits, asked: usize) -> (usize, usize, usize) {
        let (store, sizes) = (store(), Arc::new(Mutex::new(Vec::new())));
        let seen = sizes.clone();
        store.on_commit(move |appends| {
            seen.lock().expect("no panic").push(appends.len());
            CommitFault::Proceed
        });
        let door = start(&store, limits);
        let held: Vec<_> = std::iter::from_fn(|| door.shared.enter()).collect();
        assert_eq!(held.len(), UNDER_WAY_MAX);
        let asks = futures_util::future::join_all((0..asked).map(|n| door.append(append(n))));
        let make_room = async {
            while door.shared.waiting.load(Ordering::SeqCst) < asked.min(limits.queue_max) {
                tokio::task::yield_now().await;
            }
            // In the mailbox is not yet behind it: the actor, awake since the first ask, has its turn before this goes on.
            tokio::task::yield_now().await;
            drop(held);
        };
        let (answers, ()) = futures_util::future::join(asks, make_room).await;
        let done = answers.iter().filter(|answer| answer.is_ok()).count();
        let full = |answer: &Result<_, _>| matches!(answer, Err(StoreError::Unavailable(_)));
        assert!(answers.iter().all(|answer| answer.is_ok() || full(answer)), "{answers:?}");
        assert_eq!(door.shared.waiting.load(Ordering::SeqCst), 0);
        let sizes = sizes.lock().expect("no panic").clone();
        (sizes.len(), sizes.iter().copied().max().unwrap_or_default(), done)
    }

    #[actix::test]
    async fn a_commit_takes_as_many_asks_and_bytes_as_the_limits_say_and_the_queue_no_more() {
        let limits = WriterLimits { group_max: 4, ..WriterLimits::default() };
        assert_eq!(groups(limits, 11).await, (3, 4, 11));
        let limits = WriterLimits { group_bytes_max: 3 * RECORD_BYTES, ..WriterLimits::default() };
        assert_eq!(groups(limits, 8).await, (3, 3, 8));
        let limits = WriterLimits { group_bytes_max: 1, ..WriterLimits::default() };
        assert_eq!(groups(limits, 3).await, (3, 1, 3));
        let limits = WriterLimits { queue_max: 5, ..WriterLimits::default() };
        assert_eq!(groups(limits, 9).await, (1, 5, 5));
    }

    #[actix::test]
    async fn an_append_is_handed_on_by_the_door_itself_unless_somebody_waits() {
        let store = store();
        let door = start(&store, WriterLimits::default());
        let polled = |ask: &mut std::pin::Pin<Box<dyn Future<Output = _> + '_>>| {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            ask.as_mut().poll(&mut cx).is_ready()
        };
        assert!(
            polled(&mut (Box::pin(door.append(append(0))) as _)),
            "the store answers at once, and so does the door"
        );
        let waits = door.shared.wait();
        let mut behind: std::pin::Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(door.append(append(1)));
        assert!(!polled(&mut behind), "it does not overtake");
        drop(waits);
        assert!(behind.await.is_ok());
        assert_eq!(door.shared.under_way.load(Ordering::SeqCst), 0);
    }

    #[actix::test]
    async fn a_store_that_is_full_or_cannot_be_written_is_probed_at_the_interval_and_only_a_probe_clears_it() {
        tokio::time::pause();
        for error in [StoreError::Full, StoreError::Unwritable("disk I/O error".into())] {
            let store = store();
            let limits = WriterLimits { probe_interval: Duration::from_secs(60), ..WriterLimits::default() };
            let door = start(&store, limits);
            assert_eq!(door.refusal(), None);
            let refused = error.clone();
            store.on_commit(move |_| CommitFault::RefuseBefore(refused.clone()));
            assert_eq!(door.append(append(0)).await, Err(error.clone()));
            assert_eq!((door.refusal(), door.is_full()), (Some(error.clone()), error == StoreError::Full));
            store.heal();
            assert!(door.append(append(0)).await.is_ok(), "what runs asks for itself");
            assert!(door.write(StoreWrite::HistoryExported { cursor: 0 }).await.is_ok());
            tokio::time::advance(Duration::from_secs(59)).await;
            assert!(door.write(StoreWrite::HistoryExported { cursor: 0 }).await.is_ok());
            assert_eq!(door.refusal(), Some(error), "neither an append nor a change clears it");
            tokio::time::sleep(Duration::from_secs(2)).await; // allow-sleep: on paused time
            assert_eq!(door.refusal(), None);
        }
    }
}
