//! What a scripted model does with a call.

use std::time::Duration;

use crate::event::Failure;
use crate::ports::{ModelError, ModelReply};

/// What a scripted model does with a call.
#[derive(Clone, Debug)]
pub struct Reply {
    /// How long it takes.
    pub after: Duration,
    /// What comes of it; its text is streamed as one piece.
    pub result: Result<ModelReply, ModelError>,
}

impl Reply {
    /// The same, later.
    #[must_use]
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}

impl From<ModelReply> for Reply {
    fn from(reply: ModelReply) -> Self {
        Self { after: Duration::from_millis(10), result: Ok(reply) }
    }
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        ModelReply { text: text.to_owned(), ..ModelReply::default() }.into()
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        let error = ModelError { failure, retry_in: None };
        Self { after: Duration::from_millis(10), result: Err(error) }
    }
}
