//! Children: runs that a run leaves behind when it ends, and what their end changes of it.
//!
//! A child is made in its parent's last append, so it exists exactly if the parent ended. It holds no permit of the house, has no
//! entry in history, and is in no list of runs; what its end says goes to its parent's message and entry.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Arc, NewWorkflow, RecordRow, TaskInput, WorkflowId};

/// A child, as a workflow asks for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildRun {
    /// The workflow function's name.
    pub name: Arc<str>,
    /// And version.
    pub version: u32,
    /// What it is given.
    pub input: TaskInput,
}

/// A child, as an append brings it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewChild {
    /// Its id.
    pub workflow: WorkflowId,
    /// What it is made with; names its parent.
    pub made: Box<NewWorkflow>,
    /// What its first life finds: its pinned configuration and its input.
    pub records: Vec<RecordRow>,
}

/// How good an answer is, or that somebody is finding out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// A child is still judging.
    #[serde(default)]
    pub pending: bool,
    /// 0 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// A word for it, as `low` or `not_scored`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
    /// What is missing and what would improve it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl Quality {
    /// A child judges.
    #[must_use]
    pub fn pending() -> Self {
        Self { pending: true, ..Self::default() }
    }

    /// Nobody could tell.
    #[must_use]
    pub fn not_scored() -> Self {
        Self { flag: Some("not_scored".to_owned()), ..Self::default() }
    }
}
