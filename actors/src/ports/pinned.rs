//! What a run is pinned to: a slice of the configuration that never changes once it is made.
//!
//! Every run of a process is pinned to the same content, and it is large: the whole roster. So it is one allocation that all
//! runs hold; its JSON, which stands in every journal, is rendered once, and parsed once for the type that asks first. That is
//! the one of today's workflow; a run of an older form parses for itself.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A configuration slice, shared.
#[derive(Clone)]
pub struct Pinned(Arc<Inner>);

struct Inner {
    value: Value,
    text: OnceLock<Arc<str>>,
    parsed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Pinned {
    /// Its JSON.
    #[must_use]
    pub fn text(&self) -> Arc<str> {
        self.0.text.get_or_init(|| self.0.value.to_string().into()).clone()
    }

    /// What it says as a `T`: shared if `T` is the type that was asked for first, else parsed at each call.
    ///
    /// # Errors
    /// It is no `T`.
    pub fn parsed<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, serde_json::Error> {
        if let Some(Ok(known)) = self.0.parsed.get().map(|parsed| parsed.clone().downcast()) {
            return Ok(known);
        }
        let parsed = Arc::new(T::deserialize(&self.0.value)?);
        // Refused if there is one already, of whatever type.
        drop(self.0.parsed.set(parsed.clone()));
        Ok(parsed)
    }
}

impl From<Value> for Pinned {
    fn from(value: Value) -> Self {
        Self(Arc::new(Inner { value, text: OnceLock::new(), parsed: OnceLock::new() }))
    }
}

impl FromStr for Pinned {
    type Err = serde_json::Error;

    /// Of its JSON, as it stands in a journal.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str::<Value>(text).map(Self::from)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_one_text_and_one_parsed_form_and_another_type_is_parsed_apart() {
        let pinned = Pinned::from(serde_json::json!({ "a": 1 }));
        let again = pinned.clone();
        assert_eq!(&*pinned.text(), r#"{"a":1}"#);
        assert!(Arc::ptr_eq(&pinned.text(), &again.text()));
        type Numbers = std::collections::BTreeMap<String, u8>;
        assert!(pinned.parsed::<Vec<u8>>().is_err(), "a failure is not kept");
        let numbers = pinned.parsed::<Numbers>().expect("numbers");
        assert_eq!(numbers["a"], 1);
        assert!(Arc::ptr_eq(&numbers, &again.parsed::<Numbers>().expect("numbers")));
        assert_eq!(*pinned.parsed::<Value>().expect("a value"), *pinned);
    }
}
