//! Model clients: which provider, what a model can take, how long and how much.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::units::{Bytes, Count, HttpUrl, Millis, Name, Ratio, TokenPrice};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// OpenAI when a key or a base URL is set, else the simulated model.
    Auto,
    /// OpenAI or whatever speaks its API at the base URL.
    Openai,
    /// The built-in simulated model.
    Simulated,
}

/// Which of the provider's interfaces is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Chat Completions when a base URL is set, else Responses.
    Auto,
    /// Responses.
    Responses,
    /// Chat Completions.
    ChatCompletions,
}

/// How a phase asks a model for an answer of a certain form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StructuredOutput {
    /// With a JSON schema; as fenced JSON when the provider refuses it.
    Auto,
    /// With a JSON schema.
    Schema,
    /// As fenced JSON, the schema in the prompt.
    Fenced,
}

/// What model clients need. Keys, units and defaults: `config/workflow_config.yaml`, section `llm`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmSettings {
    /// Who answers.
    pub provider: Provider,
    /// Which interface is spoken.
    pub api: Api,
    /// The provider's address, with its version part; none means OpenAI's own.
    pub base_url: Option<HttpUrl>,
    /// The model of agents that name none.
    pub model: Name,
    /// From no connection to one.
    pub connect_timeout_ms: Millis<1, 600_000>,
    /// One call, from its start to its last byte.
    pub request_timeout_ms: Millis<1, 86_400_000>,
    /// One call without a byte.
    pub stream_idle_timeout_ms: Millis<1, 86_400_000>,
    /// One connection without a call.
    pub connection_idle_timeout_ms: Millis<1, 3_600_000>,
    /// Bytes of one answer as they come over the wire.
    pub answer_bytes_max: Bytes<1_024, 1_073_741_824>,
    /// Bytes of one server-sent event.
    pub event_bytes_max: Bytes<1_024, 67_108_864>,
    /// Events of one answer.
    pub events_max: Count<16, 10_000_000>,
    /// Nesting of JSON in an answer.
    pub json_depth_max: Count<8, 128>,
    /// Tokens of one answer; none leaves it to the provider.
    pub output_tokens_max: Option<Count<1, 10_000_000>>,
    /// How phases ask for answers of a certain form.
    pub structured_output: StructuredOutput,
    /// What the three efforts are called by the provider.
    pub effort: EffortNames,
    /// What models take, by name or by the beginning of a name and `*`.
    pub models: BTreeMap<ModelPattern, ModelRules>,
    /// Attempts after the first.
    pub retry: RetrySettings,
    /// When to stop asking.
    pub breaker: BreakerSettings,
    /// The built-in model.
    pub simulated: SimulatedSettings,
}

impl LlmSettings {
    /// Whether Chat Completions is spoken, and not Responses.
    #[must_use]
    pub fn chat_completions(&self) -> bool {
        match self.api {
            Api::ChatCompletions => true,
            Api::Responses => false,
            Api::Auto => self.base_url.is_some(),
        }
    }

    /// The rules of a model: those under its own name, else under the longest `beginning*` that fits.
    #[must_use]
    pub fn rules(&self, model: &str) -> ModelRules {
        let best = self.models.iter().filter_map(|(pattern, rules)| Some((pattern.fit(model)?, rules)));
        best.max_by_key(|(fit, _)| *fit).map(|(_, rules)| rules.clone()).unwrap_or_default()
    }
}

/// A model's name, or the beginning of names and `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ModelPattern(String);

impl ModelPattern {
    /// How well it fits: the longer, the better, and a whole name best. None if it does not.
    fn fit(&self, model: &str) -> Option<(usize, bool)> {
        match self.0.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning).then_some((beginning.len(), false)),
            None => (self.0 == model).then_some((model.len(), true)),
        }
    }
}

impl TryFrom<String> for ModelPattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let name = text.strip_suffix('*').unwrap_or(&text);
        let fits = !text.is_empty() && !name.contains(['*', ' ']);
        if fits { Ok(Self(text)) } else { Err("expected a model's name, or the beginning of names and * at its end") }
    }
}

/// What a provider calls the three efforts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EffortNames {
    /// For `minimal`.
    pub minimal: Name,
    /// For `medium`.
    pub medium: Name,
    /// For `maximal`.
    pub maximal: Name,
}

/// What a model takes and costs. A model without rules takes neither and has no price.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRules {
    /// Whether a temperature is sent.
    pub temperature: bool,
    /// Whether a reasoning effort is sent.
    pub reasoning_effort: bool,
    /// This model's word for `minimal`, if it is not [`EffortNames::minimal`].
    #[serde(default)]
    pub minimal_effort: Option<Name>,
    /// How phases ask this model, if not as [`LlmSettings::structured_output`] says.
    #[serde(default)]
    pub structured_output: Option<StructuredOutput>,
    /// What its tokens cost; none leaves costs out of what a run reports.
    #[serde(default)]
    pub price: Option<PriceSettings>,
}

/// What a model's tokens cost, in US dollars for a million.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSettings {
    /// Tokens of prompts.
    pub input: TokenPrice,
    /// Those of them that the provider had cached; none means as much as others.
    #[serde(default)]
    pub cached_input: Option<TokenPrice>,
    /// Tokens of answers, reasoning included.
    pub output: TokenPrice,
}

/// Attempts after a failed one. `attempts_max: 1` means there are none.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrySettings {
    /// Attempts of one call, the first included.
    pub attempts_max: Count<1, 10>,
    /// The longest wait before the second attempt; it doubles with each and is drawn from 0 to that.
    pub backoff_ms: Millis<1, 600_000>,
    /// The longest wait before any.
    pub backoff_ms_max: Millis<1, 600_000>,
    /// Further attempts as a part of all calls.
    pub budget: Ratio,
}

/// When to stop asking a provider that fails.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub failures_max: Count<1, 1_000>,
    /// How long it stays open before one probe is let through.
    pub open_ms: Millis<1, 3_600_000>,
}

/// The built-in simulated model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatedSettings {
    /// The same seed and request give the same answer.
    pub seed: u64,
    /// Until the first token.
    pub latency_ms: Millis<0, 600_000>,
    /// Speed after it.
    pub tokens_per_second: Count<1, 1_000_000>,
    /// How far latency and speed vary.
    pub jitter: Ratio,
}
