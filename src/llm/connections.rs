//! Connections to a provider, a pool for each thread that calls it.
//!
//! A connection is driven by the runtime of the thread that opened it, and a server has such a runtime for each of its
//! threads. With one pool for all, most calls went out and came back through another thread than their run's, each piece of
//! the answer with a change of thread.
//!
//! Absent on purpose: a bound over all threads. Who may call is decided by admission.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use reqwest::Client;

thread_local! {
    /// This thread's pools, each with its owner.
    static POOLS: RefCell<Vec<(Weak<Owner>, Client)>> = const { RefCell::new(Vec::new()) };
}

type Make = dyn Fn() -> reqwest::Result<Client> + Send + Sync;

/// The pools of one provider.
pub(super) struct Connections(Arc<Owner>);

struct Owner {
    make: Box<Make>,
    /// Made first, so that what cannot work is known at once. The first thread has it, and any that cannot make its own.
    first: Client,
    taken: AtomicBool,
}

impl Connections {
    /// Pools as `make` makes them.
    pub(super) fn new(make: impl Fn() -> reqwest::Result<Client> + Send + Sync + 'static) -> reqwest::Result<Self> {
        let first = make()?;
        Ok(Self(Arc::new(Owner { make: Box::new(make), first, taken: AtomicBool::new(false) })))
    }

    /// The pool of this thread.
    pub(super) fn here(&self) -> Client {
        POOLS.with_borrow_mut(|pools| {
            let own = |(owner, _): &&(Weak<Owner>, Client)| std::ptr::eq(owner.as_ptr(), Arc::as_ptr(&self.0));
            if let Some((_, client)) = pools.iter().find(own) {
                return client.clone();
            }
            let client = if self.0.taken.swap(true, Ordering::Relaxed) {
                (self.0.make)().unwrap_or_else(|error| {
                    tracing::warn!(%error, "a thread has no connections of its own to the model provider");
                    self.0.first.clone()
                })
            } else {
                self.0.first.clone()
            };
            pools.retain(|(owner, _)| owner.strong_count() > 0);
            pools.push((Arc::downgrade(&self.0), client.clone()));
            client
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_thread_has_one_pool_of_each_provider_and_keeps_none_of_those_that_are_gone() {
        let made = Arc::new(AtomicUsize::new(0));
        let of = |made: &Arc<AtomicUsize>| {
            let made = made.clone();
            Connections::new(move || {
                made.fetch_add(1, Ordering::Relaxed);
                Client::builder().no_proxy().build()
            })
        };
        let one = Arc::new(of(&made).expect("a client"));
        drop((one.here(), one.here()));
        assert_eq!(made.load(Ordering::Relaxed), 1, "the first thread has the first");
        let there = one.clone();
        std::thread::spawn(move || drop((there.here(), there.here()))).join().expect("no panic");
        assert_eq!(made.load(Ordering::Relaxed), 2);
        drop(one);
        let other = of(&made).expect("a client");
        drop(other.here());
        assert_eq!(POOLS.with_borrow(Vec::len), 1);
    }
}
