//! How a user interface is told to show each event.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How much attention a part of a user interface asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UiPriority {
    /// It may be folded away.
    Low,
    /// It is shown.
    Medium,
    /// It is shown first.
    High,
}

/// How one kind of event is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UiRoute {
    /// What it is, for grouping.
    pub category: String,
    /// Which component shows it.
    pub component: String,
    /// How much attention it asks for.
    pub priority: UiPriority,
    /// Whether it can be folded.
    pub collapsible: bool,
    /// An icon's name.
    #[serde(default)]
    pub icon_hint: Option<String>,
}

/// Routes by event type, then by kind. Section `ui_routing`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UiRouting(BTreeMap<String, BTreeMap<String, UiRoute>>);

impl UiRouting {
    /// The route of an event: that of its kind, else the type's `default`.
    #[must_use]
    pub fn route(&self, event: &str, kind: Option<&str>) -> Option<&UiRoute> {
        let kinds = self.0.get(event)?;
        kind.and_then(|kind| kinds.get(kind)).or_else(|| kinds.get("default"))
    }
}
