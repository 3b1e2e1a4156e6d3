//! What the actor and its doors share: how much the store was given, how many wait, and why new work is refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::OnStorageFailed;
use crate::ports::{Store, StoreError};
use crate::watch::Watch;

/// At most this many commits are the store's to do; what comes then waits here and goes on in groups. The store makes groups
/// of its own, and a wait here costs two more threads their turns.
pub(super) const UNDER_WAY_MAX: usize = 1_024;

/// What the actor and its doors share.
pub(super) struct Shared {
    pub store: Arc<dyn Store>,
    on_failed: OnStorageFailed,
    pub watch: Watch,
    /// Why new work is refused, if it is.
    refusal: Mutex<Option<StoreError>>,
    /// Asks that the store was not given yet, in the mailbox or behind it.
    pub waiting: AtomicUsize,
    /// Asks and groups of them that the store was given.
    pub under_way: AtomicUsize,
    /// Wakes the actor: the store may have room for one that waits, or was found full.
    pub moved: Notify,
}

impl Shared {
    pub fn new(store: Arc<dyn Store>, on_failed: OnStorageFailed, watch: Watch) -> Self {
        Self {
            store,
            on_failed,
            watch,
            refusal: Mutex::default(),
            waiting: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            moved: Notify::new(),
        }
    }

    /// The right to give the store something; none while it has as much as it may.
    pub fn enter(self: &Arc<Self>) -> Option<UnderWay> {
        let one_more = |under_way| (under_way < UNDER_WAY_MAX).then_some(under_way + 1);
        let entered = self.under_way.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        entered.ok().map(|_| UnderWay(self.clone()))
    }

    pub fn refusal(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the line.
    pub fn wait(self: &Arc<Self>) -> InLine {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        InLine(self.clone())
    }

    /// Looks at what the store said before its asker does, so that whoever is told "full" finds the doors closed.
    pub fn judge<T>(&self, result: &Result<T, StoreError>) {
        match result {
            Err(StoreError::Failed(reason)) => (self.on_failed)(reason),
            Err(error) if error.refuses_writes() => {
                if self.refusal().replace(error.clone()).is_none() {
                    self.moved.notify_one();
                }
            }
            Err(_) | Ok(_) => {}
        }
    }
}

/// Something that the store was given.
pub(super) struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            self.0.moved.notify_one();
        }
    }
}

/// Somebody who waits for the store's turn.
pub(super) struct InLine(Arc<Shared>);

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
