//! Questions to humans as the store keeps them: open ones can be listed over all workflows and outlive every process.

use serde::{Deserialize, Serialize};

use super::{Arc, ConversationId, Question, RequestId, Timestamp, WorkflowId};

/// A question that opened with an append.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenedQuestion {
    /// The question.
    pub question: Question,
    /// When it was asked, first.
    pub asked_at: Timestamp,
}

/// An open question as lists show it.
#[derive(Clone, Debug, PartialEq)]
pub struct QuestionRow {
    /// The run that asks.
    pub workflow: WorkflowId,
    /// Its conversation.
    pub conversation: Option<ConversationId>,
    /// The run's task.
    pub task: Arc<str>,
    /// The question.
    pub question: Question,
    /// When it was asked, first.
    pub asked_at: Timestamp,
}

/// Which open questions a list holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuestionFilter {
    /// Only this run's.
    pub workflow: Option<WorkflowId>,
    /// Only those of this conversation's runs.
    pub conversation: Option<ConversationId>,
    /// Only this one.
    pub request: Option<RequestId>,
    /// Only those of this type, as `tool_approval`.
    pub request_type: Option<Arc<str>>,
    /// So many are passed over.
    pub offset: u64,
    /// At most this many, the longest waiting first.
    pub limit: u32,
}
