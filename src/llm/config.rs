//! What the model clients are told. The settings module fills these structs; nothing here reads a file or a variable.
//!
//! Every bound has a default that a small installation can live with, so `LlmConfig::default()` is a working
//! configuration: the simulated model.

use std::num::NonZeroU32;
use std::time::Duration;

use fleet_actors::event::Usage;
use fleet_actors::ports::{ModelReply, ReasoningEffort};
use secrecy::SecretString;

use super::simulate::Simulation;

/// Where the provider is when no base URL is set.
pub const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";

/// Everything the model clients need.
#[derive(Clone, Debug)]
pub struct LlmConfig {
    /// Who answers.
    pub provider: Provider,
    /// Which of the provider's two wire protocols to speak.
    pub api: Api,
    /// The URL that `/responses` and `/chat/completions` are appended to; `None` is [`OPENAI_BASE_URL`].
    pub base_url: Option<String>,
    /// Sent as a bearer token; `None` sends none.
    pub api_key: Option<SecretString>,
    /// The model that agents use when they name none, for banners.
    pub model: String,
    /// The effort of a session that asks for none; `None` leaves it to the provider.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long the provider may be silent, before its answer and within it.
    pub silence_timeout: Duration,
    /// How long a connection may be idle and still be used again.
    pub idle_timeout: Duration,
    /// What a provider may send.
    pub caps: Caps,
    /// Tokens of an answer to a call that sets no limit of its own; `None` leaves it to the provider.
    pub output_tokens_max: Option<u32>,
    /// What each model takes; the rule whose pattern fits best applies, in any order.
    pub models: Vec<ModelRule>,
    /// Whether failed calls are tried again; `None` fails fast.
    pub retry: Option<RetryPolicy>,
    /// When a failing provider is left alone; `None` never leaves it alone.
    pub breaker: Option<BreakerPolicy>,
    /// How the simulated model behaves.
    pub simulated: Simulation,
}

impl Default for LlmConfig {
    fn default() -> Self {
        Self {
            provider: Provider::Auto,
            api: Api::Auto,
            base_url: None,
            api_key: None,
            model: "gpt-4.1-mini".to_owned(),
            reasoning_effort: None,
            connect_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(4),
            caps: Caps::default(),
            output_tokens_max: None,
            models: ModelRule::known(),
            retry: None,
            breaker: Some(BreakerPolicy::default()),
            simulated: Simulation::default(),
        }
    }
}

/// Who answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// OpenAI when a key or a base URL is set, else the simulated model.
    #[default]
    Auto,
    /// OpenAI or a server that speaks its protocol.
    OpenAi,
    /// The built-in simulated model; nothing leaves the process.
    Simulated,
}

/// A wire protocol of OpenAI's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// Chat Completions when a base URL is set, because that is what other servers speak; else Responses.
    #[default]
    Auto,
    /// `POST {base_url}/responses`.
    Responses,
    /// `POST {base_url}/chat/completions`.
    ChatCompletions,
}

impl Api {
    /// The API as configs write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Responses => "responses",
            Self::ChatCompletions => "chat_completions",
        }
    }
}

/// What a provider may send in one answer. Above any of them the call fails with `provider_output_too_large`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Bytes of the body.
    pub bytes_max: usize,
    /// Bytes of one event of a stream.
    pub event_bytes_max: usize,
    /// Events of a stream.
    pub events_max: u32,
    /// Nesting of a JSON value; at most 100, where the parser itself stops.
    pub json_depth_max: u32,
}

impl Default for Caps {
    fn default() -> Self {
        Self { bytes_max: 16 * 1024 * 1024, event_bytes_max: 8 * 1024 * 1024, events_max: 200_000, json_depth_max: 64 }
    }
}

/// What a model takes. A field that a model does not take is an error to most providers, so it is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRule {
    /// The model's name, or the beginning of it followed by `*`.
    pub pattern: String,
    /// Whether it takes a sampling temperature.
    pub temperature: Temperature,
    /// The provider's words for reasoning efforts.
    pub efforts: EffortWords,
    /// Whether to ask for a summary of its reasoning (Responses only).
    pub summary: ReasoningSummary,
    /// What Chat Completions calls the limit of output tokens.
    pub limit: TokenLimitField,
    /// What its tokens cost; `None` leaves costs out.
    pub price: Option<Price>,
}

/// What a model's tokens cost, in millionths of a millionth of a US dollar each. Whole numbers, so that sums are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// A token of prompt.
    pub input: u64,
    /// A token of prompt that the provider had cached.
    pub cached_input: u64,
    /// A token of answer, reasoning included.
    pub output: u64,
}

impl Price {
    /// A price as providers print it, in US dollars for a million tokens each; a negative one counts as none.
    #[must_use]
    pub fn per_million(input: f64, cached_input: f64, output: f64) -> Self {
        // A dollar for a million tokens is a millionth of a dollar for one. The cast saturates.
        let token = |dollars: f64| (dollars * 1e6).round() as u64;
        Self { input: token(input), cached_input: token(cached_input), output: token(output) }
    }

    /// What a call cost, in billionths of a US dollar. A provider that counts more cached tokens than it was sent is
    /// taken at its total.
    #[must_use]
    pub fn nanousd(&self, usage: Usage) -> u64 {
        let cached = usage.cached_tokens.min(usage.input_tokens);
        let parts = [
            (usage.input_tokens - cached, self.input),
            (cached, self.cached_input),
            (usage.output_tokens, self.output),
        ];
        let pico = parts.iter().map(|(tokens, price)| u128::from(*tokens) * u128::from(*price)).sum::<u128>();
        u64::try_from((pico + 500) / 1_000).unwrap_or(u64::MAX)
    }
}

/// Whether a model takes a sampling temperature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Temperature {
    /// It does.
    #[default]
    Taken,
    /// Sending one is an error.
    Refused,
}

/// Whether a summary of the reasoning is asked for. Some providers give it only to verified organisations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReasoningSummary {
    /// It is not.
    #[default]
    Omitted,
    /// `"summary": "auto"`.
    Auto,
}

/// The field of Chat Completions that bounds the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenLimitField {
    /// `max_tokens`, which every compatible server knows.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`, which OpenAI's reasoning models demand.
    MaxCompletionTokens,
}

/// The provider's words for reasoning efforts; `None` is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffortWords {
    /// For [`ReasoningEffort::Minimal`]: `minimal` or, for older models, `low`.
    pub minimal: Option<String>,
    /// For [`ReasoningEffort::Medium`].
    pub medium: Option<String>,
    /// For [`ReasoningEffort::Maximal`].
    pub maximal: Option<String>,
}

impl EffortWords {
    /// `minimal` as given, `medium` and `high`.
    #[must_use]
    pub fn openai(minimal: &str) -> Self {
        Self { minimal: Some(minimal.to_owned()), medium: Some("medium".to_owned()), maximal: Some("high".to_owned()) }
    }

    /// The provider's word for `effort`.
    #[must_use]
    pub fn word(&self, effort: ReasoningEffort) -> Option<&str> {
        match effort {
            ReasoningEffort::Minimal => self.minimal.as_deref(),
            ReasoningEffort::Medium => self.medium.as_deref(),
            ReasoningEffort::Maximal => self.maximal.as_deref(),
        }
    }
}

impl ModelRule {
    /// A model that takes a temperature and no effort.
    #[must_use]
    pub fn plain(pattern: &str) -> Self {
        Self {
            pattern: pattern.to_owned(),
            temperature: Temperature::Taken,
            efforts: EffortWords::default(),
            summary: ReasoningSummary::Omitted,
            limit: TokenLimitField::MaxTokens,
            price: None,
        }
    }

    /// A reasoning model of OpenAI's that takes an effort and no temperature.
    #[must_use]
    pub fn reasoning(pattern: &str, minimal: &str) -> Self {
        Self {
            temperature: Temperature::Refused,
            efforts: EffortWords::openai(minimal),
            limit: TokenLimitField::MaxCompletionTokens,
            ..Self::plain(pattern)
        }
    }

    /// The rules of models known when this was written. A model that no rule names takes a temperature and no effort.
    #[must_use]
    pub fn known() -> Vec<Self> {
        vec![
            Self::plain("gpt-5-chat*"),
            Self::reasoning("gpt-5.*", "low"),
            Self::reasoning("gpt-5*", "minimal"),
            Self::reasoning("gpt-oss*", "low"),
            Self::reasoning("o1*", "low"),
            Self::reasoning("o3*", "low"),
            Self::reasoning("o4*", "low"),
            Self { efforts: EffortWords::openai("minimal"), ..Self::plain("simulated*") },
        ]
    }

    /// The rule for `model`: one that names it, else the one with the longest beginning of its name.
    #[must_use]
    pub fn of<'a>(rules: &'a [Self], model: &str) -> Option<&'a Self> {
        let fits = rules.iter().filter_map(|rule| Some((rule.fit(model)?, rule)));
        fits.max_by_key(|(fit, _)| *fit).map(|(_, rule)| rule)
    }

    /// Writes into the usage of `reply` what the call of `model` cost, if the rules have a price for it.
    pub(super) fn charge(rules: &[Self], model: &str, reply: &mut ModelReply) {
        let price = Self::of(rules, model).and_then(|rule| rule.price);
        if let (Some(price), Some(usage)) = (price, &mut reply.usage) {
            usage.cost_nanousd = Some(price.nanousd(*usage));
        }
    }

    fn fit(&self, model: &str) -> Option<usize> {
        match self.pattern.strip_suffix('*') {
            Some(start) => model.starts_with(start).then_some(start.len()),
            None => (model == self.pattern).then_some(usize::MAX),
        }
    }
}

/// How failed calls are tried again: full jitter between zero and `base * 2^attempt`, but never before `Retry-After`.
/// See <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts of one call, the first included.
    pub attempts_max: NonZeroU32,
    /// The first delay is at most this.
    pub base: Duration,
    /// Every delay is at most this; a provider that asks for longer is not tried again.
    pub delay_max: Duration,
    /// Retries per 100 calls, over all sessions together.
    pub budget_percent: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: NonZeroU32::MIN.saturating_add(2),
            base: Duration::from_millis(500),
            delay_max: Duration::from_secs(20),
            budget_percent: 10,
        }
    }
}

/// When a failing provider is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row that open the breaker.
    pub failures: NonZeroU32,
    /// How long it stays open before one call may probe.
    pub open_for: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failures: NonZeroU32::MIN.saturating_add(4), open_for: Duration::from_secs(10) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_costs_its_tokens_and_cached_ones_are_cheaper() {
        let price = Price::per_million(0.4, 0.1, 1.6);
        let usage = Usage {
            input_tokens: 1_000,
            cached_tokens: 400,
            output_tokens: 250,
            reasoning_tokens: 100,
            cost_nanousd: None,
        };
        // 600 x 400 + 400 x 100 + 250 x 1600 billionths.
        assert_eq!(price.nanousd(usage), 680_000);
        let absurd = Usage { cached_tokens: u64::MAX, ..usage };
        assert_eq!(price.nanousd(absurd), 1_000 * 100 + 400_000);
        let huge = Usage { input_tokens: u64::MAX, output_tokens: u64::MAX, ..Usage::default() };
        assert_eq!(Price::per_million(f64::MAX, 0.0, f64::NAN).nanousd(huge), u64::MAX);
        let cheap = Price::per_million(0.000_4, 0.0, 0.0);
        assert_eq!(cheap.nanousd(Usage { input_tokens: 1_250, ..Usage::default() }), 500);
    }
}
