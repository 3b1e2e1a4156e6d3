//! Bodies of conversations.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// A new conversation.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewConversation {
    /// At most 200 characters.
    #[schema(max_length = 200)]
    pub title: Option<String>,
}

/// A conversation.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Conversation {
    /// Its id.
    pub conversation_id: String,
    /// The same.
    pub id: String,
    /// For people.
    pub title: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// The newest, oldest first; only the last one in lists.
    pub messages: Vec<ConversationMessage>,
}

/// A message of a conversation.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConversationMessage {
    /// Its id.
    pub id: String,
    /// Who said it: user or assistant.
    pub role: String,
    /// The text.
    pub content: String,
    /// RFC 3339.
    pub created_at: String,
    /// A score is still being made.
    pub quality_pending: bool,
    /// The agent's name for people.
    #[schema(nullable = false)]
    pub author: Option<String>,
    /// The agent.
    #[schema(nullable = false)]
    pub agent_id: Option<String>,
    /// The run it came from.
    #[schema(nullable = false)]
    pub workflow_id: Option<String>,
    /// Why its text ended: stop, length, content_filter or tool_calls.
    #[schema(nullable = false)]
    pub finish_reason: Option<String>,
    /// The text ends before the model was done.
    #[schema(nullable = false)]
    pub truncated: Option<bool>,
    /// How good it is.
    #[schema(nullable = false)]
    pub quality_score: Option<f64>,
    /// What is wrong with it.
    #[schema(nullable = false)]
    pub quality_flag: Option<String>,
    /// Why.
    #[schema(nullable = false)]
    pub quality_details: Option<BTreeMap<String, Value>>,
}
