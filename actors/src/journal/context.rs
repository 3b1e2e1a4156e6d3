//! A model's context as a hash chain: node = hash(parent, message).
//!
//! A step records the head alone, and adding a message hashes that message alone, so a growing context costs bytes and
//! time in proportion to what is new (hashing it whole: 1,000 steps cost 99 times the bytes of 100).

use std::sync::Arc;

use crate::ports::ChatMessage;

/// An immutable list of messages; [`Context::with`] shares all that came before.
#[derive(Clone, Debug, Default)]
pub struct Context {
    head: Option<Arc<Node>>,
}

#[derive(Debug)]
struct Node {
    parent: Option<Arc<Node>>,
    message: ChatMessage,
    digest: Arc<str>,
}

impl Context {
    /// A context of these messages.
    pub fn of(messages: impl IntoIterator<Item = ChatMessage>) -> Self {
        messages.into_iter().fold(Self::default(), |context, message| context.with(message))
    }

    /// This context and one more message.
    #[must_use]
    pub fn with(&self, message: ChatMessage) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.digest().as_bytes());
        hasher.update(&serde_json::to_vec(&message).unwrap_or_default());
        let digest = hasher.finalize().to_hex()[..32].into();
        Self { head: Some(Arc::new(Node { parent: self.head.clone(), message, digest })) }
    }

    /// The digest of the whole chain; empty for an empty context.
    #[must_use]
    pub fn digest(&self) -> &str {
        self.head.as_ref().map_or("", |node| &node.digest)
    }

    /// The messages, oldest first.
    #[must_use]
    pub fn messages(&self) -> Vec<&ChatMessage> {
        let mut messages = Vec::new();
        let mut next = self.head.as_deref();
        while let Some(node) = next {
            messages.push(&node.message);
            next = node.parent.as_deref();
        }
        messages.reverse();
        messages
    }
}

impl Drop for Node {
    /// Frees a long chain in a loop: the derived drop would recurse once a message and overflow the stack.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(node) = next {
            next = Arc::into_inner(node).and_then(|mut node| node.parent.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Role;

    #[test]
    fn equal_messages_give_equal_digests_and_one_changed_message_another() {
        let say = |text: &str| ChatMessage::new(Role::User, text);
        let ab = Context::of([say("a"), say("b")]);
        assert_eq!(ab.digest(), Context::default().with(say("a")).with(say("b")).digest());
        assert_ne!(ab.digest(), Context::of([say("b"), say("a")]).digest());
        assert_eq!(ab.messages().iter().map(|m| m.content.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_context_of_a_million_messages_is_freed_without_recursion() {
        let message = ChatMessage::new(Role::User, "x");
        drop((0..1_000_000).fold(Context::default(), |context, _| context.with(message.clone())));
    }
}
