//! One journal record, and its form in the store.
//!
//! A record is split in a small head, which every replay reads, and a body, which may be large and is parsed only when a
//! step asks for it. Position, epoch, number and path are columns of their own: the store orders and filters by them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::{Audience, Channel, Failure, RunOutcome, StepKind, Usage};
use crate::ids::{Epoch, Position, RequestId, Seq, Timestamp};
use crate::ports::{ReasoningEffort, RecordBody, RecordRow};

/// A delta that was streamed: its number within its life, its channel and its length in Unicode scalars. The text
/// itself stands in the body of the completed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaMark(pub u64, pub Channel, pub u32);

/// What a record says, without its body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A life began. It heads the life's first batch.
    Began {
        /// When.
        at: Timestamp,
        /// Chance, so that two owners that take the same epoch in the same millisecond write different records, and
        /// one of them is fenced.
        owner: u64,
    },
    /// What the run is pinned to. Body, shared: the content of the config slice that workflows can see.
    Pinned {
        /// The workflow function's name.
        workflow: Arc<str>,
        /// And version.
        version: u32,
    },
    /// What the run was given. Body: the [`TaskInput`](crate::ports::TaskInput).
    Input,
    /// The effort that applies from here on.
    Effort {
        /// `None` is what the config says.
        effort: Option<ReasoningEffort>,
    },
    /// The workflow published an event. Body: the event.
    Emitted {
        /// When.
        at: Timestamp,
        /// Digest of the body.
        input: Arc<str>,
    },
    /// An attempt was about to be dispatched: the intent.
    StepStarted {
        /// When.
        at: Timestamp,
        /// From 1.
        attempt: u32,
        /// What effect.
        step: StepKind,
        /// Who reads its text.
        audience: Audience,
        /// On whose behalf.
        agent: Option<Arc<str>>,
        /// The idempotency key of the step, the same in every attempt.
        key: Arc<str>,
        /// Digest of the step's input.
        input: Arc<str>,
    },
    /// The attempt succeeded. Body: its result.
    StepCompleted {
        /// When.
        at: Timestamp,
        /// Which attempt.
        attempt: u32,
        /// What effect.
        step: StepKind,
        /// Who reads its text.
        audience: Audience,
        /// On whose behalf.
        agent: Option<Arc<str>>,
        /// Digest of the step's input.
        input: Arc<str>,
        /// When the attempt began.
        started_at: Timestamp,
        /// Tokens, when a model was called.
        usage: Option<Usage>,
        /// What was streamed of it.
        deltas: Vec<DeltaMark>,
    },
    /// The attempt failed for good.
    StepFailed {
        /// When.
        at: Timestamp,
        /// Which attempt.
        attempt: u32,
        /// What effect.
        step: StepKind,
        /// Who reads its text.
        audience: Audience,
        /// Digest of the step's input.
        input: Arc<str>,
        /// When the attempt began.
        started_at: Timestamp,
        /// Why.
        error: Failure,
    },
    /// The attempt, or the question, will have no result.
    StepVoided {
        /// When.
        at: Timestamp,
        /// Which attempt.
        attempt: u32,
        /// Why.
        reason: Arc<str>,
    },
    /// A human was asked. Body: the [`Question`](crate::event::Question).
    Asked {
        /// When.
        at: Timestamp,
        /// Digest of the step's input.
        input: Arc<str>,
    },
    /// A question ended. Body: the [`Answer`](crate::event::Answer).
    Answered {
        /// When.
        at: Timestamp,
        /// Which question.
        request_id: RequestId,
    },
    /// A timer was set.
    TimerSet {
        /// When it fires: the wall time of a sleep; of a deadline, the time that its run has lived.
        until: Timestamp,
        /// Digest of the step's input.
        input: Arc<str>,
    },
    /// The timer fired.
    TimerFired,
    /// A value was read from our own store, clock or randomness. Body: the value.
    Read {
        /// Digest of the step's input.
        input: Arc<str>,
    },
    /// A race was decided.
    RaceDecided {
        /// Index of the branch.
        winner: u32,
    },
    /// The life ended on purpose: nothing was open but questions and timers, or the process was drained.
    Parked {
        /// When.
        at: Timestamp,
        /// The process was drained: the run does not wait, it has no process.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        drained: bool,
    },
    /// Work was stopped.
    Cancelled {
        /// When.
        at: Timestamp,
        /// Why.
        reason: Arc<str>,
    },
    /// The run failed.
    Error {
        /// When.
        at: Timestamp,
        /// Why.
        error: Failure,
    },
    /// The run is over. The only closing record.
    Finished {
        /// When.
        at: Timestamp,
        /// How.
        outcome: RunOutcome,
    },
}

impl Record {
    /// The record's kind as it stands in the store.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Began { .. } => "began",
            Self::Pinned { .. } => "pinned",
            Self::Input => "input",
            Self::Effort { .. } => "effort",
            Self::Emitted { .. } => "emitted",
            Self::StepStarted { .. } => "step_started",
            Self::StepCompleted { .. } => "step_completed",
            Self::StepFailed { .. } => "step_failed",
            Self::StepVoided { .. } => "step_voided",
            Self::Asked { .. } => "asked",
            Self::Answered { .. } => "answered",
            Self::TimerSet { .. } => "timer_set",
            Self::TimerFired => "timer_fired",
            Self::Read { .. } => "read",
            Self::RaceDecided { .. } => "race_decided",
            Self::Parked { .. } => "parked",
            Self::Cancelled { .. } => "cancelled",
            Self::Error { .. } => "error",
            Self::Finished { .. } => "finished",
        }
    }

    /// When it was written, if it says so.
    #[must_use]
    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Began { at, .. }
            | Self::Emitted { at, .. }
            | Self::StepStarted { at, .. }
            | Self::StepCompleted { at, .. }
            | Self::StepFailed { at, .. }
            | Self::StepVoided { at, .. }
            | Self::Asked { at, .. }
            | Self::Answered { at, .. }
            | Self::Parked { at, .. }
            | Self::Cancelled { at, .. }
            | Self::Error { at, .. }
            | Self::Finished { at, .. } => Some(*at),
            Self::Pinned { .. }
            | Self::Input
            | Self::Effort { .. }
            | Self::TimerSet { .. }
            | Self::TimerFired
            | Self::Read { .. }
            | Self::RaceDecided { .. } => None,
        }
    }

    /// Whether it is the result of a step that was paid for or waited for.
    #[must_use]
    pub fn is_result(&self) -> bool {
        matches!(self, Self::StepCompleted { .. } | Self::StepFailed { .. } | Self::Answered { .. })
    }

    /// Whether this record shows that a life got somewhere, so that the next failed start counts from one again.
    #[must_use]
    pub fn is_progress(&self) -> bool {
        self.is_result() || matches!(self, Self::Parked { .. })
    }
}

/// A record at its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Positioned {
    /// Its place.
    pub position: Position,
    /// The life that wrote it.
    pub epoch: Epoch,
    /// The number of the event it holds, if any.
    pub seq: Option<Seq>,
    /// The step's path; the scope of an emitted event's step; empty for records of the run itself.
    pub path: Arc<str>,
    /// What it says.
    pub record: Record,
    /// Its body, JSON.
    pub body: Option<Arc<str>>,
}

/// A stored record that this binary cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {position} is malformed: {reason}")]
pub struct MalformedRecord {
    /// Where.
    pub position: u64,
    /// Why.
    pub reason: String,
}

/// A record in the store's form.
#[must_use]
pub fn encode(entry: &Positioned) -> RecordRow {
    RecordRow {
        position: entry.position,
        epoch: entry.epoch,
        seq: entry.seq,
        kind: entry.record.kind().into(),
        path: entry.path.clone(),
        head: serde_json::to_vec(&entry.record).unwrap_or_default(),
        body: entry.body.as_ref().map(|body| RecordBody {
            bytes: body.clone().into(),
            shared: matches!(entry.record, Record::Pinned { .. }),
        }),
    }
}

/// A record read back from the store's form.
///
/// # Errors
/// [`MalformedRecord`] if the head is not a record of a kind this binary knows, or the body is not UTF-8.
pub fn decode(row: &RecordRow) -> Result<Positioned, MalformedRecord> {
    let malformed = |reason: String| MalformedRecord { position: row.position.0, reason };
    let body = match &row.body {
        Some(body) => Some(std::str::from_utf8(&body.bytes).map_err(|e| malformed(e.to_string()))?.into()),
        None => None,
    };
    Ok(Positioned {
        position: row.position,
        epoch: row.epoch,
        seq: row.seq,
        path: row.path.clone(),
        record: serde_json::from_slice(&row.head).map_err(|e| malformed(e.to_string()))?,
        body,
    })
}
