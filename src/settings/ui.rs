//! How a user interface is told to show each event.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::units::Slug;

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
pub struct UiRouting(BTreeMap<EventType, BTreeMap<Slug, UiRoute>>);

impl UiRouting {
    /// The route of an event: that of its kind, else the type's `default`.
    #[must_use]
    pub fn route(&self, event: &str, kind: Option<&str>) -> Option<&UiRoute> {
        let kinds = self.0.get(event)?;
        kind.and_then(|kind| kinds.get(kind)).or_else(|| kinds.get("default"))
    }
}

/// The types of events that user interfaces are shown.
pub const EVENT_TYPES: [&str; 16] = [
    "orchestrator.message",
    "orchestrator.thought",
    "agent.start",
    "agent.message",
    "agent.output",
    "agent.complete",
    "reasoning.delta",
    "reasoning.completed",
    "response.delta",
    "response.completed",
    "workflow.status",
    "connected",
    "heartbeat",
    "cancelled",
    "error",
    "done",
];

/// One of [`EVENT_TYPES`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
struct EventType(String);

impl Borrow<str> for EventType {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for EventType {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let known = EVENT_TYPES.contains(&text.as_str());
        if known { Ok(Self(text)) } else { Err(format!("expected one of {}", EVENT_TYPES.join(", "))) }
    }
}
