//! Every limit of a run and of what is remembered of runs, in one place. The binary fills it from its settings; units are in the types.

use std::time::Duration;

/// What one run may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunLimits {
    /// Time in which a model or tool step is open, all lives together. Default 300 s.
    pub runtime_max: Duration,
    /// Time without any progress of a step while one is open. Default 120 s.
    pub idle_timeout: Duration,
    /// One model call, from its dispatch. Default 120 s.
    pub model_timeout: Duration,
    /// One tool call, from its dispatch. Default 60 s.
    pub tool_timeout: Duration,
    /// A run that waits for nothing but questions and timers this long is parked. Default 30 s.
    pub park_after: Duration,
    /// How long a run goes on when nobody watches. Default 10 s.
    pub disconnect_grace: Duration,
    /// How long a batch is tried again while the store is full or away. Default 30 s.
    pub storage_patience: Duration,
    /// Events of one run. Default 100,000.
    pub events_max: u64,
    /// Bytes of streamed text of one run. Default 8 MiB.
    pub text_bytes_max: u64,
    /// Children of ended runs at work at once, beside the cap of the house. Default 4.
    pub children_max: usize,
    /// Starts without progress before a run is quarantined. Default 3: the 4th quarantines.
    pub failed_starts_max: u32,
    /// Ended runs that the registry remembers. Default 1,000.
    pub recent_max: usize,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            runtime_max: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(120),
            model_timeout: Duration::from_secs(120),
            tool_timeout: Duration::from_secs(60),
            park_after: Duration::from_secs(30),
            disconnect_grace: Duration::from_secs(10),
            storage_patience: Duration::from_secs(30),
            events_max: 100_000,
            text_bytes_max: 8 << 20,
            children_max: 4,
            failed_starts_max: 3,
            recent_max: 1_000,
        }
    }
}
