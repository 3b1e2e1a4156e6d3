//! What a server may ask of us, over whatever it is connected by: little, and no more before it has heard our answers.
//!
//! We offer a server nothing, so a ping is all that it has a reason to send; rmcp answers every request in a task of its own.
//! A server that asks without end and never reads would fill the memory with answers.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rmcp::RoleClient;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;

/// Requests of a server whose answers it has not taken yet.
const ASKED_MAX: usize = 256;

/// A transport whose connection ends when the server asks for more than it listens to.
pub(super) struct Asking<T> {
    inner: T,
    asked: Arc<AtomicUsize>,
}

impl<T> Asking<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, asked: Arc::default() }
    }
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for Asking<T> {
    type Error = T::Error;

    fn name() -> Cow<'static, str> {
        T::name()
    }

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let answers =
            matches!(item, TxJsonRpcMessage::<RoleClient>::Response(_) | TxJsonRpcMessage::<RoleClient>::Error(_));
        let (sent, asked) = (self.inner.send(item), self.asked.clone());
        async move {
            let sent = sent.await;
            if answers {
                // An answer to something that was no request counts for nothing.
                let _ = asked.fetch_update(Ordering::AcqRel, Ordering::Acquire, |asked| asked.checked_sub(1));
            }
            sent
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        let message = self.inner.receive().await?;
        let asks = matches!(message, RxJsonRpcMessage::<RoleClient>::Request(_));
        if asks && self.asked.fetch_add(1, Ordering::AcqRel) >= ASKED_MAX {
            tracing::warn!("an mcp server asks without taking our answers: its connection ends");
            return None;
        }
        Some(message)
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.inner.close().await
    }
}
