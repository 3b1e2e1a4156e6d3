//! Bodies of positions of runs: listed, shown, resumed and forked.

use utoipa::ToSchema;

/// How to go on from a checkpoint; may be left out.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// minimal, medium or maximal, from here on.
    #[schema(nullable = false)]
    pub reasoning_effort: Option<String>,
}

/// A position of a run's journal behind which a result stands.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// `{workflow_id}:{position}`.
    pub checkpoint_id: String,
    /// The run.
    pub workflow_id: String,
    /// Its conversation.
    #[schema(required)]
    pub conversation_id: Option<String>,
    /// From 1.
    pub position: u64,
    /// The step's path.
    pub step: String,
    /// RFC 3339.
    #[schema(required)]
    pub created_at: Option<String>,
    /// Something is left to do behind it.
    pub resumable: bool,
}

/// A checkpoint with the steps up to it.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointWithSteps {
    /// `{workflow_id}:{position}`.
    pub checkpoint_id: String,
    /// The run.
    pub workflow_id: String,
    /// Its conversation.
    #[schema(required)]
    pub conversation_id: Option<String>,
    /// From 1.
    pub position: u64,
    /// The step's path.
    pub step: String,
    /// RFC 3339.
    #[schema(required)]
    pub created_at: Option<String>,
    /// Something is left to do behind it.
    pub resumable: bool,
    /// Oldest first.
    pub steps: Vec<CheckpointStep>,
}

/// A step that has a result.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointStep {
    /// From 1.
    pub position: u64,
    /// Its path.
    pub step: String,
    /// What stands there.
    pub kind: String,
    /// RFC 3339.
    #[schema(required)]
    pub at: Option<String>,
}

/// A new workflow that shares another's journal.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// Its id.
    pub workflow_id: String,
    /// Its newest checkpoint.
    pub checkpoint_id: String,
}
