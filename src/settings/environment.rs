//! Environment variables and flags as layers of settings, and the secrets, which come from nowhere else.
//!
//! `FLEET_SERVER__PORT` sets `server.port`: `__` stands between levels. Some keys have a second, older name that
//! operators know; where both are set, the `FLEET_` one is the more exact and wins. An empty variable counts as unset.
//!
//! Invariant: a secret is never part of the tree, so nothing that shows the tree can show it.
//! Absent on purpose: reading the process's environment anywhere but in [`process_environment`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::Flags;
use super::problem::Problem;
use super::tree::{Node, Origin, path};

/// Variables as they were given to the process.
pub type Environment = BTreeMap<String, String>;

/// The variables of this process. Bytes that are not UTF-8 become U+FFFD, which no setting accepts.
#[must_use]
pub fn process_environment() -> Environment {
    std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned())).collect()
}

/// Names that operators know, and the key each sets.
pub const OPERATOR_NAMES: [(&str, &str); 9] = [
    ("OPENAI_BASE_URL", "llm.base_url"),
    ("LOG_JSON", "logging.json"),
    ("LOG_LEVEL", "logging.level"),
    ("MAX_CONCURRENT_WORKFLOWS", "sessions.max_concurrent_workflows"),
    ("CORS_ALLOWED_ORIGINS", "server.cors_allowed_origins"),
    ("WS_ALLOW_LOCALHOST", "server.ws_allow_localhost"),
    ("FLEET_DATA_DIR", "storage.data_dir"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "tracing.otlp_endpoint"),
    ("OTEL_SERVICE_NAME", "tracing.service_name"),
];

/// Variables that hold secrets.
pub const SECRET_NAMES: [&str; 4] =
    ["OPENAI_API_KEY", "TAVILY_API_KEY", "APPLICATIONINSIGHTS_CONNECTION_STRING", "OTEL_EXPORTER_OTLP_HEADERS"];

const PREFIX: &str = "FLEET_";
/// Variables with the prefix that say where settings are, and are none.
const ABOUT_SETTINGS: [&str; 2] = ["FLEET_CONFIG", "FLEET_PROFILE"];

/// What only the environment may say. Prints as `[REDACTED]`.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// `OPENAI_API_KEY`: the bearer key of the model provider.
    pub openai_api_key: Option<SecretString>,
    /// `TAVILY_API_KEY`: the key of the web search.
    pub tavily_api_key: Option<SecretString>,
    /// `APPLICATIONINSIGHTS_CONNECTION_STRING`: where Azure Monitor takes traces.
    pub applicationinsights_connection_string: Option<SecretString>,
    /// `OTEL_EXPORTER_OTLP_HEADERS`: headers of the trace exporter, often a token.
    pub otlp_headers: Option<SecretString>,
}

impl Secrets {
    pub(super) fn read(environment: &Environment) -> Self {
        let read = |name: &str| value(environment, name).map(|text| SecretString::from(text.to_owned()));
        let [openai, tavily, insights, headers] = SECRET_NAMES;
        Self {
            openai_api_key: read(openai),
            tavily_api_key: read(tavily),
            applicationinsights_connection_string: read(insights),
            otlp_headers: read(headers),
        }
    }

    /// Each secret under its variable's name.
    pub(super) fn named(&self) -> [(&'static str, Option<&str>); 4] {
        let [openai, tavily, insights, headers] = SECRET_NAMES;
        fn text(secret: &Option<SecretString>) -> Option<&str> {
            secret.as_ref().map(ExposeSecret::expose_secret)
        }
        [
            (openai, text(&self.openai_api_key)),
            (tavily, text(&self.tavily_api_key)),
            (insights, text(&self.applicationinsights_connection_string)),
            (headers, text(&self.otlp_headers)),
        ]
    }
}

/// What a connection string of Azure names as where spans are taken; one field, as a rule.
pub(crate) fn ingestion_endpoints(connection: &str) -> impl Iterator<Item = &str> {
    let fields = connection.split(';').filter_map(|field| field.split_once('='));
    fields.filter(|(name, _)| name.eq_ignore_ascii_case("ingestionendpoint")).map(|(_, endpoint)| endpoint)
}

/// The variable's text; an empty one counts as unset.
pub(super) fn value<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    environment.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
}

/// What `${NAME}` in a file may name: everything but the secrets.
pub(super) fn variables(environment: &Environment) -> HashMap<String, String> {
    let secret = |name: &String| SECRET_NAMES.contains(&name.as_str());
    environment.iter().filter(|(name, _)| !secret(name)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The layers of the environment, the one that wins last.
pub(super) fn layers(environment: &Environment, problems: &mut Vec<Problem>) -> Vec<Node> {
    let known = OPERATOR_NAMES.iter().filter_map(|(name, key)| {
        let text = value(environment, name)?;
        Some((*name, path(key), text))
    });
    let prefixed = environment.keys().filter_map(|name| {
        let levels = name.strip_prefix(PREFIX)?;
        let named = ABOUT_SETTINGS.contains(&name.as_str()) || OPERATOR_NAMES.iter().any(|(known, _)| known == name);
        let text = value(environment, name).filter(|_| !named)?;
        Some((name.as_str(), levels.to_ascii_lowercase().split("__").map(str::to_owned).collect(), text))
    });
    let mut layers = Vec::new();
    for (name, key, text) in known.chain(prefixed) {
        let origin = Origin::Environment(Arc::from(name));
        if text.contains('\u{FFFD}') {
            problems.push(Problem::at(&origin, &key, "expected UTF-8"));
        } else {
            layers.push(Node::given(&key, text.to_owned(), &origin));
        }
    }
    layers
}

/// The layers of the flags.
pub(super) fn flag_layers(flags: &Flags, problems: &mut Vec<Problem>) -> Vec<Node> {
    let mut layers = Vec::new();
    let mut set = |name: &'static str, key: &str, text: Option<String>| {
        if let Some(text) = text {
            layers.push(Node::given(&path(key), text, &Origin::Flag(name)));
        }
    };
    set("--host", "server.host", flags.host.clone());
    set("--port", "server.port", flags.port.map(|port| port.to_string()));
    let data_dir = flags.data_dir.as_ref().map(|dir| dir.to_str().map(str::to_owned));
    if data_dir == Some(None) {
        problems.push(Problem::at(&Origin::Flag("--data-dir"), &path("storage.data_dir"), "expected UTF-8"));
    }
    set("--data-dir", "storage.data_dir", data_dir.flatten());
    layers
}
