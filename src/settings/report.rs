//! What `config check` shows, and what a changed configuration means for a running process.
//!
//! Invariant: a secret is shown as `[redacted]` or `(unset)`; there is no third form.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::tree::{Path, dotted};
use super::{Effective, Settings};

/// Keys that a running process takes over when it reads its configuration again.
pub const RELOADABLE: [&str; 2] = ["sessions.max_concurrent_workflows", "logging.level"];

/// Every setting on a line, `key = value  # source`, in the order of `config/workflow_config.yaml`.
#[must_use]
pub fn report(effective: &Effective) -> String {
    let values = leaves(&effective.settings);
    let mut text = String::new();
    let mut line = |key: &str, value: &str, source: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key} = {value}  # {source}");
    };
    line("profile", effective.settings.profile.as_str(), &effective.profile_source);
    for (path, origin) in effective.tree.leaves() {
        let value = values.get(&path).map_or_else(|| "null".to_owned(), Value::to_string);
        line(&dotted(&path), &value, origin);
    }
    for (name, secret) in effective.settings.secrets.named() {
        line(name, if secret.is_some() { "[redacted]" } else { "(unset)" }, &format_args!("env {name}"));
    }
    text
}

/// What differs between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that take effect now.
    pub applied: Vec<String>,
    /// Keys, and variables of secrets, that need a restart.
    pub restart: Vec<String>,
}

impl Settings {
    /// What differs from `self` in `next`, sorted by key. Pure: applying it is the caller's.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Changes {
        let (old, new) = (leaves(self), leaves(next));
        let mut changed: Vec<String> =
            old.keys().chain(new.keys()).filter(|path| old.get(*path) != new.get(*path)).map(|p| dotted(p)).collect();
        if self.profile != next.profile {
            changed.push("profile".to_owned());
        }
        let secrets = self.secrets.named().into_iter().zip(next.secrets.named());
        changed.extend(secrets.filter(|(old, new)| old != new).map(|((name, _), _)| name.to_owned()));
        changed.sort();
        changed.dedup();
        let (applied, restart) = changed.into_iter().partition(|key| RELOADABLE.contains(&key.as_str()));
        Changes { applied, restart }
    }
}

/// Every value by its path, in one form whatever layer it came from.
fn leaves(settings: &Settings) -> BTreeMap<Path, Value> {
    fn walk(value: Value, at: &mut Path, found: &mut BTreeMap<Path, Value>) {
        match value {
            Value::Object(entries) => {
                for (key, value) in entries {
                    at.push(key);
                    walk(value, at, found);
                    at.pop();
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                found.insert(at.clone(), value);
            }
        }
    }
    let mut found = BTreeMap::new();
    // Settings hold no map with keys that are not text and no value that JSON lacks, so this cannot fail.
    walk(serde_json::to_value(settings).unwrap_or(Value::Null), &mut Vec::new(), &mut found);
    found
}
