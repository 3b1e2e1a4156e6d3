//! What a run is pinned to: a slice of the configuration that never changes once it is made.
//!
//! Every run of a process is pinned to the same content, and it is large: the whole roster. So it is one allocation that all
//! runs hold, and its JSON, which stands in every journal, is rendered once.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

/// A configuration slice, shared.
#[derive(Clone)]
pub struct Pinned(Arc<Inner>);

struct Inner {
    value: Value,
    text: OnceLock<Arc<str>>,
}

impl Pinned {
    /// Its JSON.
    #[must_use]
    pub fn text(&self) -> Arc<str> {
        self.0.text.get_or_init(|| self.0.value.to_string().into()).clone()
    }
}

impl From<Value> for Pinned {
    fn from(value: Value) -> Self {
        Self(Arc::new(Inner { value, text: OnceLock::new() }))
    }
}

impl Deref for Pinned {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0.value
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.value.fmt(f)
    }
}
