//! Connections to a provider, a pool for each thread that calls it.
//!
//! A connection is driven by the runtime of the thread that opened it, and a server has such a runtime for each of its
//! threads. With one pool for all, most calls went out and came back through another thread than their run's, each piece of
//! the answer with a change of thread.
//!
//! A server closes a connection that was idle for as long as it likes, and may do so while a request is on its way. So ours
//! are given up sooner, and a request that met the close of a kept connection all the same is sent once more
//! ([`Pool::send`]); `docs/decisions/0056` says why that is safe.
//!
//! Absent on purpose: a bound over all threads. Who may call is decided by admission.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hyper_util::client::legacy::connect::HttpInfo;
use reqwest::{Client, Request, Response};

/// How soon after a request the close must come to be one that the request met. A server that has thought for longer had
/// the request, and asking it again might only break it again.
const CLOSE_MET: Duration = Duration::from_secs(5);

thread_local! {
    /// This thread's pools, each with its owner.
    static POOLS: RefCell<Vec<(Weak<Owner>, Pool)>> = const { RefCell::new(Vec::new()) };
}

type Make = dyn Fn() -> reqwest::Result<Client> + Send + Sync;

/// The pools of one provider.
pub(super) struct Connections(Arc<Owner>);

struct Owner {
    make: Box<Make>,
    /// Made first, so that what cannot work is known at once. The first thread has it, and any that cannot make its own.
    first: Client,
    taken: AtomicBool,
    /// How long after its last answer a connection may still be used.
    kept_for: Duration,
}

impl Connections {
    /// Pools as `make` makes them, of connections that are used again for at most `kept_for` after an answer.
    pub(super) fn new(
        kept_for: Duration,
        make: impl Fn() -> reqwest::Result<Client> + Send + Sync + 'static,
    ) -> reqwest::Result<Self> {
        let first = make()?;
        Ok(Self(Arc::new(Owner { make: Box::new(make), first, taken: AtomicBool::new(false), kept_for })))
    }

    /// The pool of this thread.
    pub(super) fn here(&self) -> Pool {
        POOLS.with_borrow_mut(|pools| {
            let own = |(owner, _): &&(Weak<Owner>, Pool)| std::ptr::eq(owner.as_ptr(), Arc::as_ptr(&self.0));
            if let Some((_, pool)) = pools.iter().find(own) {
                return pool.clone();
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
            let pool = Pool { client, kept: Rc::new(RefCell::new(Kept::of(self.0.kept_for))) };
            pools.push((Arc::downgrade(&self.0), pool.clone()));
            pool
        })
    }
}

/// A thread's connections to one provider.
#[derive(Clone)]
pub(super) struct Pool {
    /// Makes requests; [`Pool::send`] sends them.
    pub(super) client: Client,
    kept: Rc<RefCell<Kept>>,
}

impl Pool {
    /// Sends a request, a second time if the first met the close of a kept connection: one that had answered before, and
    /// that was closed at once and without an answer. Both have the same idempotency key.
    ///
    /// A new connection that is closed is no such race, and neither is a close that took its time: then the first failure
    /// is the last.
    pub(super) async fn send(&self, request: Request) -> reqwest::Result<Response> {
        let again = request.try_clone();
        let began = Instant::now();
        let error = match self.client.execute(request).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let met = began.elapsed() < CLOSE_MET && closed_unanswered(&error).is_some_and(|at| self.gives_up(at));
        let Some(again) = again.filter(|_| met) else { return Err(error) };
        tracing::debug!("the model provider closed a kept connection; the request is sent once more");
        self.client.execute(again).await
    }

    /// The answer of the connection with this address was read to its end, so it may serve again.
    pub(super) fn keeps(&self, at: Option<SocketAddr>) {
        let Some(at) = at else { return };
        self.kept.borrow_mut().add(at, Instant::now());
    }

    /// Whether the connection was one that had answered before. It is none any more.
    fn gives_up(&self, at: SocketAddr) -> bool {
        self.kept.borrow_mut().take(at, Instant::now())
    }
}

/// Which connection an answer came by: its address at this end.
pub(super) fn connection_of(response: &Response) -> Option<SocketAddr> {
    response.extensions().get::<HttpInfo>().map(HttpInfo::local_addr)
}

/// The connection whose close was all that came back. Whether part of an answer's head came, too, hyper does not say.
fn closed_unanswered(error: &reqwest::Error) -> Option<SocketAddr> {
    let causes = || std::iter::successors(Some::<&(dyn Error + 'static)>(error), |cause| (*cause).source());
    let closed = causes().any(|cause| {
        let kinds = [
            ErrorKind::ConnectionReset,
            ErrorKind::ConnectionAborted,
            ErrorKind::BrokenPipe,
            ErrorKind::NotConnected,
            ErrorKind::UnexpectedEof,
        ];
        cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message)
            || cause.downcast_ref::<std::io::Error>().is_some_and(|error| kinds.contains(&error.kind()))
    });
    if error.is_connect() || !closed {
        return None;
    }
    let connected =
        causes().find_map(|cause| cause.downcast_ref::<hyper_util::client::legacy::Error>()?.connect_info());
    let mut extras = Default::default();
    connected?.get_extras(&mut extras);
    extras.get::<HttpInfo>().map(HttpInfo::local_addr)
}

/// Connections that have answered, by their address at this end, and when they last did. An address is forgotten when its
/// connection can be in the pool no more, for the kernel gives it to another one.
struct Kept {
    since: BTreeMap<SocketAddr, Instant>,
    life: Duration,
    /// At so many, those that are over are looked for.
    swept_at: usize,
}

impl Kept {
    const SWEPT_AT_LEAST: usize = 256;

    fn of(life: Duration) -> Self {
        Self { since: BTreeMap::new(), life, swept_at: Self::SWEPT_AT_LEAST }
    }

    fn add(&mut self, at: SocketAddr, now: Instant) {
        if self.since.len() >= self.swept_at {
            self.since.retain(|_, since| now.duration_since(*since) <= self.life);
            self.swept_at = Self::SWEPT_AT_LEAST.max(2 * self.since.len());
        }
        self.since.insert(at, now);
    }

    fn take(&mut self, at: SocketAddr, now: Instant) -> bool {
        self.since.remove(&at).is_some_and(|since| now.duration_since(since) <= self.life)
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
            Connections::new(Duration::from_secs(1), move || {
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

    #[test]
    fn an_address_is_that_of_a_kept_connection_only_while_it_can_be_in_the_pool() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut kept = Kept::of(second);
        kept.add(at(1), began);
        kept.add(at(2), began);
        assert!(!kept.take(at(3), began), "it has not answered yet");
        assert!(kept.take(at(1), began + second) && !kept.take(at(1), began), "it is given up");
        assert!(!kept.take(at(2), began + second * 2), "by now the address may be another connection's");
        for port in 0..10_000 {
            kept.add(at(port), began + second * port.into());
        }
        assert!(kept.since.len() <= 2 * Kept::SWEPT_AT_LEAST, "{} are remembered", kept.since.len());
    }
}
