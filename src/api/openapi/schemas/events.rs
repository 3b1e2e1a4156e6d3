//! Bodies of a run's log.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// An event of a run, version 1 or 2. Fields that do not apply are absent.
#[derive(Debug, ToSchema)]
pub struct Event {
    /// What it is.
    pub r#type: String,
    /// RFC 3339.
    pub timestamp: String,
    /// The run.
    #[schema(nullable = false)]
    pub workflow_id: Option<String>,
    /// Version 2: its number in the run's log.
    #[schema(nullable = false)]
    pub seq: Option<u64>,
    /// For people.
    #[schema(nullable = false)]
    pub message: Option<String>,
    /// What kind of message or thought.
    #[schema(nullable = false)]
    pub kind: Option<String>,
    /// Where the run stands.
    #[schema(nullable = false)]
    pub status: Option<String>,
    /// A piece of the answer.
    #[schema(nullable = false)]
    pub delta: Option<String>,
    /// A piece of the reasoning, or all of it.
    #[schema(nullable = false)]
    pub reasoning: Option<String>,
    /// The agent.
    #[schema(nullable = false)]
    pub agent_id: Option<String>,
    /// Its name for people.
    #[schema(nullable = false)]
    pub author: Option<String>,
    /// An error's text.
    #[schema(nullable = false)]
    pub error: Option<String>,
    /// Version 2: the step's path.
    #[schema(nullable = false)]
    pub step: Option<String>,
    /// Version 2: the attempt, from 1.
    #[schema(nullable = false)]
    pub attempt: Option<u32>,
    /// For programs; by type and kind.
    #[schema(value_type = Value, required = false)]
    pub data: Option<Value>,
    /// How user interfaces group it.
    #[schema(nullable = false)]
    pub category: Option<String>,
    /// How user interfaces show it.
    #[schema(nullable = false)]
    pub ui_hint: Option<BTreeMap<String, Value>>,
}

/// Events of a run's log.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventPage {
    /// In order.
    pub events: Vec<Event>,
    /// The run is over and this is its end.
    pub done: bool,
    /// For `after`; absent on the last page.
    #[schema(nullable = false)]
    pub next_after: Option<u64>,
}
