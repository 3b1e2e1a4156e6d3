//! Model clients: one port, [`ModelClient`](fleet_actors::ports::ModelClient), and who stands behind it.
//!
//! ```text
//! clients(config) ── openai ───► client ── chat | responses ──► answer      (failure, breaker, schema, sse beside)
//!                 └─ simulated ► simulated ── simulate ◄── simulate_server  (the same model over HTTP)
//! ```
//! It decides which model answers ([`LlmIdentity`]), what is sent to it, what is believed of what it sends, and what a
//! failure is called ([`code`]). Invariant: a reply is whole; an answer without its terminator is an error.
//! Absent on purpose: reading configuration, waiting between attempts, prices, and any vendor's library: real providers
//! send events and fields that closed types refuse.

use std::fmt;
use std::sync::Arc;

use fleet_actors::ports::AgentClients;
use secrecy::ExposeSecret;

mod answer;
mod breaker;
mod chat;
mod client;
mod config;
mod connections;
mod failure;
mod responses;
pub mod schema;
pub mod simulate;
pub mod simulate_server;
mod simulated;
pub(crate) mod sse;

pub use config::{
    Api, BreakerPolicy, Caps, EffortWords, LlmConfig, ModelRule, OPENAI_BASE_URL, Price, Provider, ReasoningSummary,
    RetryPolicy, Temperature, TokenLimitField,
};
pub use failure::code;

/// Why no clients can be made of a config.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The base URL is none that can be called.
    #[error("the model provider's base url is not usable: {0}")]
    BaseUrl(String),
    /// The key holds characters that no header takes.
    #[error("the model provider's key holds characters that cannot be sent")]
    ApiKey,
    /// The HTTP client cannot start, for instance without root certificates.
    #[error("the http client cannot start")]
    HttpClient,
}

/// Which model answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LlmIdentity {
    /// The built-in simulated model.
    Simulated,
    /// A provider over HTTP.
    Provider {
        /// Which protocol; never [`Api::Auto`].
        api: Api,
        /// Where.
        base_url: String,
        /// The model of agents that name none.
        model: String,
        /// Whether a key is sent.
        with_key: bool,
    },
}

impl LlmIdentity {
    /// Who answers under `config`.
    #[must_use]
    pub fn of(config: &LlmConfig) -> Self {
        let with_key = config.api_key.as_ref().is_some_and(|key| !key.expose_secret().is_empty());
        let given_url = config.base_url.as_deref().map(str::trim).filter(|url| !url.is_empty());
        let simulated = match config.provider {
            Provider::Simulated => true,
            Provider::OpenAi => false,
            Provider::Auto => !with_key && given_url.is_none(),
        };
        if simulated {
            return Self::Simulated;
        }
        let api = match (config.api, given_url) {
            (Api::Auto, Some(_)) => Api::ChatCompletions,
            (Api::Auto, None) => Api::Responses,
            (chosen, _) => chosen,
        };
        let base_url = given_url.unwrap_or(OPENAI_BASE_URL).trim_end_matches('/').to_owned();
        Self::Provider { api, base_url, model: config.model.clone(), with_key }
    }

    /// Whether the built-in simulated model answers.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        matches!(self, Self::Simulated)
    }
}

impl fmt::Display for LlmIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simulated => f.write_str("the simulated model (no provider is configured)"),
            Self::Provider { api, base_url, model, with_key } => {
                let key = if *with_key { "" } else { ", without a key" };
                write!(f, "{model} at {} ({}{key})", public_url(base_url), api.as_str())
            }
        }
    }
}

/// A URL without what may be secret in it, for a URL that was not checked yet.
fn public_url(url: &str) -> String {
    let Ok(mut parsed) = reqwest::Url::parse(url) else { return "an unusable url".to_owned() };
    let cleared = parsed.set_username("").and_then(|()| parsed.set_password(None));
    parsed.set_query(None);
    if cleared.is_ok() { parsed.to_string() } else { "an unusable url".to_owned() }
}

/// The clients of whoever answers under `config`. Connections, breaker and retry budget are shared by all of them.
///
/// # Errors
/// [`ConfigError`] if the provider cannot be called as configured. Nothing is sent.
pub fn clients(config: &LlmConfig) -> Result<Arc<dyn AgentClients>, ConfigError> {
    Ok(match LlmIdentity::of(config) {
        LlmIdentity::Simulated => Arc::new(simulated::SimulatedClients::new(config)),
        LlmIdentity::Provider { api, base_url, .. } => {
            Arc::new(client::ProviderClients(Arc::new(client::Service::new(config, api, &base_url)?)))
        }
    })
}
