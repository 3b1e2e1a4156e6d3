//! What a client may see of a run: the numbered events of its log.
//!
//! These are facts of the run, not client JSON: each protocol renders them its own way. An event is either held whole in
//! a journal record or is a [`Delta`](EventBody::Delta), whose text the completed record keeps.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{RequestId, Seq, Timestamp};

/// One numbered event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEvent {
    /// Its number in the workflow's log.
    pub seq: Seq,
    /// When it was put in order.
    pub at: Timestamp,
    /// What happened.
    pub body: EventBody,
}

/// What kind of effect a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// A call of a language model.
    Model,
    /// A call of a tool.
    Tool,
    /// A question to a human.
    Question,
    /// A durable timer.
    Timer,
    /// A value read from our own store, clock or randomness.
    Read,
    /// An event the workflow published.
    Emit,
    /// Which branch of a race or timeout came first.
    Race,
}

impl StepKind {
    /// The kind as it stands in records and in version 2 events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Tool => "tool",
            Self::Question => "question",
            Self::Timer => "timer",
            Self::Read => "read",
            Self::Emit => "emit",
            Self::Race => "race",
        }
    }
}

/// Who reads the text that a model step streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// The user: it is part of the answer.
    User,
    /// Only the workflow: routing, judging, work between agents.
    #[default]
    Workflow,
}

/// Which of a model's two texts a delta belongs to. Offsets count Unicode scalars within one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// The answer.
    Text,
    /// The reasoning before it.
    Reasoning,
}

/// Tokens of one call, as the provider reported them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the completion, reasoning included.
    pub output_tokens: u64,
    /// Those of the completion that were reasoning.
    #[serde(default)]
    pub reasoning_tokens: u64,
    /// Those of the prompt that the provider had cached.
    #[serde(default)]
    pub cached_tokens: u64,
    /// What it cost, in billionths of a US dollar; absent when the config has no price for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_nanousd: Option<u64>,
}

impl Usage {
    /// The cost in US dollars, where it is known.
    #[must_use]
    pub fn cost_usd(&self) -> Option<f64> {
        self.cost_nanousd.map(|nano| nano as f64 / 1e9)
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
        self.cached_tokens += other.cached_tokens;
        self.cost_nanousd = match (self.cost_nanousd, other.cost_nanousd) {
            (None, None) => None,
            (mine, others) => Some(mine.unwrap_or_default() + others.unwrap_or_default()),
        };
    }
}

/// A failure with a stable code (a heading of the runbook) and a text for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// Stable, snake case.
    pub code: Arc<str>,
    /// For people; never holds a secret.
    pub message: String,
    /// When it may be worth trying again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// A failure without a time to retry after.
    #[must_use]
    pub fn new(code: impl Into<Arc<str>>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retry_after_ms: None }
    }
}

/// A question to a human and the exact thing it is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Unique; an answer names it.
    pub request_id: RequestId,
    /// `tool_approval`, `user_input`, `plan_review`, ...
    pub request_type: Arc<str>,
    /// What is asked, exactly.
    pub request: Value,
    /// JSON schema of an answer; one that does not fit is refused and the question stays open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_schema: Option<Value>,
    /// When it expires, by the store's clock.
    pub expires_at: Timestamp,
}

/// How a question ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A human answered.
    Given(Value),
    /// Nobody did in time.
    Expired,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// With its result.
    Completed,
    /// With an error.
    Failed,
    /// Because somebody stopped it or left.
    Cancelled,
}

impl RunOutcome {
    /// The outcome as it stands in rows and client JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventBody {
    /// An attempt of a step began.
    StepStarted {
        /// The step's path.
        step: Arc<str>,
        /// From 1.
        attempt: u32,
        /// What effect it is.
        kind: StepKind,
        /// Who reads its text.
        audience: Audience,
        /// The agent on whose behalf.
        agent: Option<Arc<str>>,
    },
    /// A piece of a model's text, not journaled by itself.
    Delta {
        /// The step's path.
        step: Arc<str>,
        /// The attempt it belongs to.
        attempt: u32,
        /// Text or reasoning.
        channel: Channel,
        /// Unicode scalars of this channel before it.
        offset: u64,
        /// The piece.
        text: Arc<str>,
        /// Who reads it.
        audience: Audience,
        /// The agent that speaks.
        agent: Option<Arc<str>>,
    },
    /// The attempt succeeded; its text replaces what was streamed.
    StepCompleted {
        /// The step's path.
        step: Arc<str>,
        /// The attempt.
        attempt: u32,
        /// What effect it was.
        kind: StepKind,
        /// Who reads its text.
        audience: Audience,
        /// The agent on whose behalf.
        agent: Option<Arc<str>>,
        /// The whole text of a model step.
        text: Option<Arc<str>>,
        /// The whole reasoning of a model step, empty when it gave none.
        reasoning: Option<Arc<str>>,
        /// Tokens, when a model was called.
        usage: Option<Usage>,
        /// When the attempt began.
        started_at: Timestamp,
    },
    /// The attempt failed for good; what it streamed is void.
    StepFailed {
        /// The step's path.
        step: Arc<str>,
        /// The attempt.
        attempt: u32,
        /// What effect it was.
        kind: StepKind,
        /// Who reads its text.
        audience: Audience,
        /// Why.
        error: Failure,
        /// When the attempt began.
        started_at: Timestamp,
    },
    /// The attempt will have no result; what it streamed is void.
    StepVoided {
        /// The step's path.
        step: Arc<str>,
        /// The attempt.
        attempt: u32,
        /// Why: `restarted`, `retry`, `lost_race`, `cancelled`.
        reason: Arc<str>,
    },
    /// The workflow published something of its own.
    Emitted {
        /// The scope it was published in.
        scope: Arc<str>,
        /// What, in the workflow's own terms: JSON, as the journal has it. Who shows it reads it.
        body: Arc<str>,
    },
    /// A human is asked.
    Asked {
        /// The step's path.
        step: Arc<str>,
        /// The question.
        question: Question,
    },
    /// A question ended.
    Answered {
        /// The step's path.
        step: Arc<str>,
        /// Which question.
        request_id: RequestId,
        /// How.
        answer: Answer,
    },
    /// Work was stopped.
    Cancelled {
        /// Why: `client`, `disconnected`, `operator`, `runtime_exceeded`, `idle`.
        reason: Arc<str>,
    },
    /// The run failed; `Finished` follows.
    Error {
        /// Why.
        error: Failure,
    },
    /// The run is over; nothing follows. Clients see it as `done`.
    Finished {
        /// How.
        outcome: RunOutcome,
    },
}
