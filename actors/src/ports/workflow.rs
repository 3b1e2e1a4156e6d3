//! Workflows as the runtime runs them: what one is given, what it gives, and how its function is found.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ChildRun, FinishReason, LocalFuture, Quality};
use crate::ids::ConversationId;
use crate::trace::TraceParent;

/// What a run is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskInput {
    /// The message or task.
    pub message: String,
    /// The conversation it belongs to.
    pub conversation: Option<ConversationId>,
    /// A forced mode; `None` lets the workflow choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// More for the workflow to consider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_context: Option<Value>,
    /// On whose behalf it runs; the rules for tools are by principal.
    #[serde(default = "TaskInput::local")]
    pub principal: String,
    /// Whether its positions are listed as checkpoints. They are there either way; journals that say nothing are listed.
    #[serde(default = "TaskInput::listed", skip_serializing_if = "Clone::clone")]
    pub checkpoints_listed: bool,
    /// Where the trace of whoever asked for it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

impl TaskInput {
    /// The principal of a server without authentication.
    #[must_use]
    pub fn local() -> String {
        "local".to_owned()
    }

    fn listed() -> bool {
        true
    }
}

/// What a run gives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunOutput {
    /// The answer.
    pub text: String,
    /// Who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// By what id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Why the text ended.
    #[serde(default)]
    pub finish_reason: FinishReason,
    /// What else a client of the whole result may want: mode, calls, usage, `simulated`, ...
    #[serde(default)]
    pub metadata: Value,
    /// How good it is, or that a child judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Runs that begin when this one has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ChildRun>,
}

/// A workflow: an async function over a [`Turn`](crate::turn::Turn).
pub type WorkflowFn =
    for<'a> fn(&'a mut crate::turn::Turn, &'a TaskInput) -> LocalFuture<'a, crate::turn::StepResult<RunOutput>>;

/// The workflows this binary knows. A version stays for as long as runs of it rest.
pub trait Workflows: Send + Sync {
    /// The function of `name` at `version`.
    fn find(&self, name: &str, version: u32) -> Option<WorkflowFn>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_of_a_journal_from_before_checkpoints_could_be_declined_is_listed_and_written_as_it_was() {
        let before = r#"{"message":"hello","conversation":null,"principal":"local"}"#;
        let input: TaskInput = serde_json::from_str(before).expect("an input");
        assert!(input.checkpoints_listed);
        assert_eq!(serde_json::to_string(&input).expect("json"), before);
        let declined = TaskInput { checkpoints_listed: false, ..input };
        let read: TaskInput = serde_json::from_value(serde_json::to_value(&declined).expect("json")).expect("an input");
        assert_eq!(read, declined);
    }
}
