//! How a task goes through the fleet, and what happens when people are asked and do not answer.

use serde::{Deserialize, Serialize};

use super::units::{Count, Millis, Name, Score, Slug, Temperature};

/// The phases, the modes and their bounds. Keys, units and defaults: `config/workflow_config.yaml`, section `pipeline`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineSettings {
    /// Whether a task is analysed.
    pub analysis: bool,
    /// Whether agents are chosen for it; without, `default_agent` works alone.
    pub routing: bool,
    /// Whether what was done is looked at before it is answered.
    pub progress: bool,
    /// Whether the answer is scored.
    pub quality: bool,
    /// Whether the score is made after the answer was sent.
    pub quality_in_background: bool,
    /// Whether a bad score leads to another try; only in the foreground.
    pub refinement: bool,
    /// Whether analysis and routing share one call.
    pub merge_analysis_and_routing: bool,
    /// Whether a person approves the plan first.
    pub plan_review: bool,
    /// Whether agents of a sequence hand over a structured package, one call each.
    pub handoff_packages: bool,
    /// Whether the run ends with a short account of what was done.
    pub narrative: bool,
    /// Who works when nobody else is chosen.
    pub default_agent: Slug,
    /// Who writes one answer of several reports; none means `default_agent`.
    pub synthesis_agent: Option<Slug>,
    /// The model of the phases; none means `llm.model`.
    pub model: Option<Name>,
    /// Its temperature; none leaves it to the provider.
    pub temperature: Option<Temperature>,
    /// One phase's call and its repair.
    pub phase_timeout_ms: Millis<1, 86_400_000>,
    /// One turn of an agent that names no time of its own.
    pub agent_timeout_ms: Millis<1, 86_400_000>,
    /// How long a routing serves an equal task.
    pub routing_cache_ttl_seconds: Count<0, 86_400>,
    /// Rounds of work on one task, turns of a discussion, passes of control.
    pub max_rounds: Count<1, 100>,
    /// Rounds without progress before the plan is made anew, or a discussion ends.
    pub max_stalls: Count<0, 100>,
    /// New plans.
    pub max_resets: Count<0, 10>,
    /// Agents at the same time.
    pub max_parallel_agents: Count<1, 64>,
    /// Below this score the answer is worked on again.
    pub refinement_threshold: Score,
    /// By how much a new answer must be better to be kept.
    pub refinement_min_improvement: Score,
    /// Tries to make it better.
    pub max_refinement_rounds: Count<0, 10>,
    /// Rounds of tool calls in one turn of an agent.
    pub tool_rounds_max: Count<1, 100>,
    /// Tool calls of one round.
    pub tool_calls_per_round_max: Count<1, 64>,
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

/// People in the loop. Section `approvals`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalSettings {
    /// What a question that nobody answered in time means.
    pub on_expiry: OnExpiry,
    /// Whether agents may ask the user something.
    pub ask_user: bool,
}
