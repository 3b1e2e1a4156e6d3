//! The bodies that the specification names.
//!
//! They describe and are never built: the doors write their JSON themselves, and a test holds real answers against these
//! schemas. Nothing but what is written here may stand in an answer, except in `metadata`, `data` and the like.

pub mod checkpoints;
pub mod conversations;
pub mod events;
pub mod language;
pub mod runs;

use std::collections::BTreeMap;

use utoipa::{OpenApi, ToSchema};

use self::checkpoints::{Checkpoint, CheckpointWithSteps, Fork, Resume};
use self::conversations::{Conversation, NewConversation};
use self::events::{Event, EventPage};
use self::language::{Entities, EntityQuestion, Intent, IntentQuestion};
use self::runs::{Accepted, Approval, Execution, Responded, Response, RunResult, Session, Stopped, Task};

/// All of them.
#[derive(Debug, OpenApi)]
#[openapi(components(schemas(
    Accepted,
    Agent,
    Alive,
    Approval,
    Checkpoint,
    CheckpointWithSteps,
    Conversation,
    Entities,
    EntityQuestion,
    Event,
    EventPage,
    Execution,
    Fork,
    Health,
    Intent,
    IntentQuestion,
    NewConversation,
    Problem,
    Ready,
    Responded,
    Resume,
    Response,
    RunResult,
    Session,
    Stopped,
    Task,
)))]
pub struct Schemas;

/// Why a request was refused, by RFC 9457.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// A URI of the kind of problem, or `about:blank`.
    pub r#type: String,
    /// The status as text.
    pub title: String,
    /// The status.
    pub status: u16,
    /// For people.
    pub detail: String,
    /// Stable, snake case; a heading of the runbook.
    pub code: String,
    /// Which fields are wrong.
    #[schema(nullable = false)]
    pub errors: Option<Vec<WrongField>>,
    /// The run it is about.
    #[schema(nullable = false)]
    pub execution_id: Option<String>,
}

/// A field that is wrong.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WrongField {
    /// As the client wrote it.
    pub field: String,
    /// What was expected.
    pub message: String,
}

/// An agent of the roster.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its id.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Always `agent`.
    pub r#type: String,
}

/// How the parts are.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// ok, degraded or draining.
    pub status: String,
    /// By part.
    pub checks: BTreeMap<String, String>,
    /// Of the server.
    pub version: String,
}

/// Whether work is taken, for existing clients.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// ready or not_ready.
    pub status: String,
    /// The same.
    pub workflow: bool,
}

/// A sign of life.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Alive {
    /// Always `ok`.
    pub status: String,
}
