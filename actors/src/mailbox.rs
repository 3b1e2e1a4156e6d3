//! The one door to an actor: bounded across every clone of its address, and timed.
//!
//! Actix bounds a mailbox per address clone: with capacity 2, ten `try_send` through fresh clones were all accepted, and
//! `do_send` ignores the capacity. So a [`Mailbox`] carries one semaphore that all its clones share, and nothing else in
//! the workspace may send (clippy's `disallowed-methods`).

use std::sync::Arc;
use std::time::Duration;

use actix::dev::{MessageResponse, ToEnvelope};
use actix::{Actor, Addr, Handler, Message};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Why an actor gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// As many asks as the mailbox holds are waiting.
    #[error("the mailbox is full")]
    Full,
    /// The actor is gone.
    #[error("the mailbox is closed")]
    Closed,
    /// No answer came in time; the message may still be handled.
    #[error("no answer came in time")]
    TimedOut,
}

/// The address of an actor and the bound on who may wait for it.
pub struct Mailbox<A: Actor> {
    address: Addr<A>,
    places: Arc<Semaphore>,
    timeout: Duration,
}

impl<A: Actor> std::fmt::Debug for Mailbox<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("places", &self.places.available_permits()).finish_non_exhaustive()
    }
}

impl<A: Actor> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Self { address: self.address.clone(), places: self.places.clone(), timeout: self.timeout }
    }
}

impl<A: Actor> Mailbox<A> {
    /// A door through which at most `capacity` asks wait at a time, each for at most `timeout`.
    #[must_use]
    pub fn new(address: Addr<A>, capacity: usize, timeout: Duration) -> Self {
        Self { address, places: Arc::new(Semaphore::new(capacity)), timeout }
    }

    /// Sends `message` and waits for its answer.
    ///
    /// # Errors
    /// [`AskError`]: full at once, closed, or no answer in time.
    ///
    /// # Cancel safety
    /// The message is handled whether or not the caller still waits; its place is free when the caller stops waiting.
    #[expect(clippy::disallowed_methods, reason = "this is the one door")]
    pub async fn ask<M>(&self, message: M) -> Result<M::Result, AskError>
    where
        M: Message + Send + 'static,
        M::Result: Send + MessageResponse<A, M>,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        let _place = self.place()?;
        match tokio::time::timeout(self.timeout, self.address.send(message)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(actix::MailboxError::Closed)) => Err(AskError::Closed),
            Ok(Err(actix::MailboxError::Timeout)) | Err(_) => Err(AskError::TimedOut),
        }
    }

    /// A place as an ask holds it, for work that the caller does in the actor's stead.
    ///
    /// # Errors
    /// [`AskError::Full`].
    pub(crate) fn place(&self) -> Result<SemaphorePermit<'_>, AskError> {
        self.places.try_acquire().map_err(|_| AskError::Full)
    }

    /// Whether the actor still runs.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.address.connected()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;

    use super::*;

    struct Slow;
    impl Actor for Slow {
        type Context = actix::Context<Self>;
    }
    #[derive(Message)]
    #[rtype(result = "u32")]
    struct Never;
    impl Handler<Never> for Slow {
        type Result = actix::ResponseFuture<u32>;
        fn handle(&mut self, _: Never, _: &mut Self::Context) -> Self::Result {
            Box::pin(std::future::pending())
        }
    }
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Stop;
    impl Handler<Stop> for Slow {
        type Result = ();
        fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
            use actix::ActorContext as _;
            ctx.stop();
        }
    }

    #[actix::test]
    async fn the_bound_holds_across_clones_of_the_address() {
        let door = Mailbox::new(Slow.start(), 2, Duration::from_secs(60));
        let clones: Vec<_> = (0..10).map(|_| door.clone()).collect();
        let asks = clones.iter().map(|door| door.ask(Never));
        let mut full = 0;
        let mut asks: Vec<_> = asks.map(Box::pin).collect();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        for ask in &mut asks {
            if let std::task::Poll::Ready(Err(AskError::Full)) = ask.as_mut().poll(&mut cx) {
                full += 1;
            }
        }
        assert_eq!(full, 8);
        drop(asks);
        assert_eq!(door.places.available_permits(), 2);
    }

    #[actix::test]
    async fn an_actor_that_is_gone_is_closed_and_one_that_is_silent_times_out() {
        let door = Mailbox::new(Slow.start(), 2, Duration::from_millis(10));
        assert_eq!(door.ask(Never).await, Err(AskError::TimedOut));
        assert_eq!(door.ask(Stop).await, Ok(()));
        while door.is_open() {
            tokio::task::yield_now().await;
        }
        assert_eq!(door.ask(Never).await, Err(AskError::Closed));
    }
}
