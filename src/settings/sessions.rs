//! Runs: how many, how long, what becomes of one whose client left, and what a run may remember.

use serde::{Deserialize, Serialize};

use super::units::{Bytes, Count, Millis, Phrase};

/// What a client's leaving means for its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// It is cancelled when its grace is over.
    Cancel,
    /// It finishes unwatched.
    Continue,
}

/// What admission and supervision need. Keys, units and defaults: `config/workflow_config.yaml`, section `sessions`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSettings {
    /// Runs that hold a permit. The upper bound is the width of the admission word's fields.
    pub max_concurrent_workflows: Count<1, 1_048_575>,
    /// What a refused client is told to wait, before jitter.
    pub retry_after_s: Count<1, 3_600>,
    /// Characters of one message.
    pub max_task_length: Count<1, 1_000_000>,
    /// A run's time in which any step but a question or a timer is open.
    pub run_timeout_ms: Millis<10, 86_400_000>,
    /// A run's time without progress of any step.
    pub run_idle_timeout_ms: Millis<10, 86_400_000>,
    /// A run's time after its last watcher left.
    pub disconnect_grace_ms: Millis<0, 3_600_000>,
    /// What happens after that.
    pub on_disconnect: OnDisconnect,
    /// A run's time with nothing open but questions and timers, until it gives its permit back.
    pub park_after_ms: Millis<0, 3_600_000>,
    /// A question's time until it counts as unanswered.
    pub question_expiry_ms: Millis<10, 2_592_000_000>,
    /// Watchers of one run.
    pub watchers_per_run_max: Count<1, 65_536>,
    /// Events of one run.
    pub events_per_run_max: Count<100, 10_000_000>,
    /// Text of one run, all its steps.
    pub text_per_run_bytes_max: Bytes<1_024, 1_073_741_824>,
    /// Ended runs that the registry remembers.
    pub recent_max: Count<0, 100_000>,
    /// Rebuilds after a panic within the window; one more quarantines.
    pub rebuilds_max: Count<0, 100>,
    /// The window of `rebuilds_max`.
    pub rebuild_window_ms: Millis<10, 86_400_000>,
    /// Starts without progress; one more quarantines.
    pub attempts_max: Count<1, 100>,
    /// Whether a run's positions are listed as checkpoints when its client does not say.
    pub enable_checkpointing: bool,
}

/// What of a conversation a model is shown. Section `conversation`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConversationSettings {
    /// The newest messages.
    pub messages_max: Count<0, 1_000>,
    /// Characters of them all; older messages are left out first.
    pub chars_max: Count<0, 10_000_000>,
}

/// Which messages get one direct model call. Section `fast_path`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FastPathSettings {
    /// Whether there is a fast path.
    pub enabled: bool,
    /// Characters of a message that may take it.
    pub max_chars: Count<1, 1_000_000>,
    /// A message takes it only if its text, in lower case, begins with one of these words.
    pub patterns: Vec<Phrase>,
    /// A message with one of these words never takes it: its answer depends on today.
    pub time_sensitive: Vec<Phrase>,
}
