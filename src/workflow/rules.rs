//! What the settings say about the way of a task through the fleet, as a run pins it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Phases, modes and their bounds. What each one means stands beside its key in `config/workflow_config.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipelineRules {
    pub analysis: bool,
    pub routing: bool,
    pub progress: bool,
    pub quality: bool,
    pub quality_in_background: bool,
    pub refinement: bool,
    pub merge_analysis_and_routing: bool,
    pub plan_review: bool,
    pub handoff_packages: bool,
    pub narrative: bool,
    pub default_agent: String,
    pub synthesis_agent: String,
    pub phase_timeout_ms: u64,
    pub routing_cache_ttl_seconds: u64,
    pub max_rounds: u32,
    pub max_stalls: u32,
    pub max_resets: u32,
    pub max_parallel_agents: usize,
    pub refinement_threshold: f64,
    pub refinement_min_improvement: f64,
    pub max_refinement_rounds: u32,
    pub tool_rounds_max: u32,
    pub tool_calls_per_round_max: usize,
}

impl PipelineRules {
    /// No phase at all: `agent` works alone.
    #[must_use]
    pub fn none(agent: impl Into<String>) -> Self {
        let agent = agent.into();
        Self {
            analysis: false,
            routing: false,
            progress: false,
            quality: false,
            quality_in_background: true,
            refinement: false,
            merge_analysis_and_routing: false,
            plan_review: false,
            handoff_packages: false,
            narrative: false,
            synthesis_agent: agent.clone(),
            default_agent: agent,
            phase_timeout_ms: 30_000,
            routing_cache_ttl_seconds: 0,
            max_rounds: 6,
            max_stalls: 2,
            max_resets: 1,
            max_parallel_agents: 4,
            refinement_threshold: 7.0,
            refinement_min_improvement: 0.5,
            max_refinement_rounds: 1,
            tool_rounds_max: 8,
            tool_calls_per_round_max: 8,
        }
    }

    pub(super) fn phase_timeout(&self) -> Duration {
        Duration::from_millis(self.phase_timeout_ms)
    }

    pub(super) fn routing_cache_ttl(&self) -> Duration {
        Duration::from_secs(self.routing_cache_ttl_seconds)
    }

    pub(super) fn scores_in_foreground(&self) -> bool {
        self.quality && !self.quality_in_background
    }

    pub(super) fn scores_in_background(&self) -> bool {
        self.quality && self.quality_in_background
    }
}

/// What a question that nobody answered in time means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// The run fails.
    Fail,
    /// As if a person had said no.
    Reject,
    /// The run goes on without what was asked for.
    Continue,
}

/// People in the loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApprovalRules {
    /// What silence means.
    pub on_expiry: OnExpiry,
    /// Whether agents may ask the user something.
    pub ask_user: bool,
}

impl Default for ApprovalRules {
    /// Silence is a no.
    fn default() -> Self {
        Self { on_expiry: OnExpiry::Reject, ask_user: false }
    }
}
