//! Bodies of the questions about one text.

use utoipa::ToSchema;

/// A text, and what its author may want.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IntentQuestion {
    /// At least one character that is no blank.
    #[schema(min_length = 1)]
    pub text: String,
    /// At most 100; the model names one itself when there are none.
    pub possible_intents: Option<Vec<String>>,
}

/// What the author of a text wants.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// One of the possible ones, where some were given.
    pub intent: String,
    /// 0 to 1.
    pub confidence: f64,
    /// For people.
    pub reasoning: String,
}

/// A text, and what it may name.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntityQuestion {
    /// At least one character that is no blank.
    #[schema(min_length = 1)]
    pub text: String,
    /// At most 100; the usual ones when there are none.
    pub entity_types: Option<Vec<String>>,
}

/// What a text names.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Entities {
    /// As often as each means something different.
    pub entities: Vec<Entity>,
    /// For people.
    pub reasoning: String,
}

/// One thing that a text names.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Entity {
    /// The words as they stand there.
    pub text: String,
    /// One of the entity types.
    pub r#type: String,
    /// 0 to 1.
    pub confidence: f64,
}
