//! What values of different keys must be to each other, and what a profile demands.
//!
//! Every rule is checked, so that one start shows all contradictions. What a single value must be stands in its type.

mod files;

use opentelemetry_application_insights::Exporter;
use secrecy::ExposeSecret as _;

use super::environment::ingestion_endpoints;
use super::llm::Provider;
use super::mcp::McpTransport;
use super::tree::{Path, path};
use super::units::HttpUrl;
use super::{Profile, Settings};

/// Values that cannot stand together.
pub(super) struct Contradiction {
    /// The keys it is about, and what is wrong as seen from each. It is shown where the highest layer set one of them;
    /// the others become notes.
    pub(super) sides: Vec<(Path, String)>,
    /// A variable that is the mistake, absent or not, and what is wrong with it; shown instead of a side.
    pub(super) variable: Option<(&'static str, &'static str)>,
}

/// Every contradiction in the settings.
pub(super) fn contradictions(settings: &Settings) -> Vec<Contradiction> {
    let mut found = Found(Vec::new());
    sizes_and_times(settings, &mut found);
    files::files(settings, &mut found);
    exposure(settings, &mut found);
    keys(settings, &mut found);
    connection_string(settings, &mut found);
    provider(settings, &mut found);
    mcp(settings, &mut found);
    found.0
}

struct Found(Vec<Contradiction>);

impl Found {
    fn add(&mut self, sides: &[(&str, String)]) {
        let sides = sides.iter().map(|(key, message)| (path(key), message.clone())).collect();
        self.0.push(Contradiction { sides, variable: None });
    }

    fn at_most(&mut self, (low, small): (&str, u64), (high, large): (&str, u64)) {
        if small > large {
            self.add(&[
                (low, format!("expected at most {high} ({large}), found {small}")),
                (high, format!("expected at least {low} ({small}), found {large}")),
            ]);
        }
    }

    fn below(&mut self, (low, small): (&str, u64), (high, large): (&str, u64)) {
        if small >= large {
            self.add(&[
                (low, format!("expected less than {high} ({large}), found {small}")),
                (high, format!("expected more than {low} ({small}), found {large}")),
            ]);
        }
    }
}

fn sizes_and_times(settings: &Settings, found: &mut Found) {
    let Settings { server, sessions, storage, llm, fast_path, agents, pipeline, .. } = settings;

    let message = ("server.message_bytes_max", server.message_bytes_max.get());
    let body = ("server.body_bytes_max", server.body_bytes_max.get());
    let task = ("sessions.max_task_length", sessions.max_task_length.get());
    found.at_most(("server.frame_bytes_max", server.frame_bytes_max.get()), message);
    found.at_most(("server.refused_body_bytes_max", server.refused_body_bytes_max.get()), body);
    found.at_most(("server.page_default", server.page_default.get()), ("server.page_max", server.page_max.get()));
    // A character takes at least a byte, and the JSON around it some more.
    found.below(task, message);
    found.below(task, body);
    found.at_most(("fast_path.max_chars", fast_path.max_chars.get()), task);

    let socket_idle = ("server.socket_idle_timeout_ms", server.socket_idle_timeout_ms.get());
    found.below(("server.heartbeat_interval_ms", server.heartbeat_interval_ms.get()), socket_idle);
    found.below(
        ("server.ping_interval_ms", server.ping_interval_ms.get()),
        ("server.pong_timeout_ms", server.pong_timeout_ms.get()),
    );

    let run = ("sessions.run_timeout_ms", sessions.run_timeout_ms.get());
    let call = ("llm.request_timeout_ms", llm.request_timeout_ms.get());
    found.at_most(("sessions.run_idle_timeout_ms", sessions.run_idle_timeout_ms.get()), run);
    found.at_most(call, run);
    found.at_most(("llm.connect_timeout_ms", llm.connect_timeout_ms.get()), call);
    found.at_most(("llm.stream_idle_timeout_ms", llm.stream_idle_timeout_ms.get()), call);
    found.at_most(("pipeline.phase_timeout_ms", pipeline.phase_timeout_ms.get()), run);
    found.at_most(("pipeline.agent_timeout_ms", pipeline.agent_timeout_ms.get()), run);
    let chosen =
        [("default_agent", Some(&pipeline.default_agent)), ("synthesis_agent", pipeline.synthesis_agent.as_ref())];
    for (key, name) in chosen.into_iter().filter_map(|(key, name)| Some((key, name?))) {
        if !agents.contains_key(name) {
            let message = format!("expected an agent of the roster, found {}", name.as_str());
            found.add(&[(&format!("pipeline.{key}"), message)]);
        }
    }
    for (name, timeout) in agents.iter().filter_map(|(name, agent)| Some((name, agent.timeout_ms?))) {
        found.at_most((&format!("agents.{}.timeout_ms", name.as_str()), timeout.get()), run);
    }

    let tools = &settings.tools;
    let call = ("tools.call_timeout_ms", tools.call_timeout_ms.get());
    found.at_most(call, run);
    found.at_most(("tools.tavily_search.timeout_ms", tools.tavily_search.timeout_ms.get()), call);
    found.at_most(("tools.fetch_page.timeout_ms", tools.fetch_page.timeout_ms.get()), call);
    found.at_most(("tools.sandbox.timeout_ms", tools.sandbox.timeout_ms.get()), call);

    let answer = ("llm.answer_bytes_max", llm.answer_bytes_max.get());
    found.at_most(("llm.event_bytes_max", llm.event_bytes_max.get()), answer);
    found.at_most(
        ("llm.retry.backoff_ms", llm.retry.backoff_ms.get()),
        ("llm.retry.backoff_ms_max", llm.retry.backoff_ms_max.get()),
    );

    let (pages, wal) = (storage.wal_pages_max.get(), storage.wal_bytes_max.get());
    if pages * 4_096 > wal {
        let message = format!("expected {pages} pages of 4096 bytes to fit in {wal} bytes");
        found.add(&[("storage.wal_pages_max", message.clone()), ("storage.wal_bytes_max", message)]);
    }
    let (hours, days) = (storage.request_key_retention_hours.get(), storage.journal_retention_days.get());
    if hours > days * 24 {
        let message = format!("expected request keys ({hours} hours) not to outlive the journals ({days} days)");
        found.add(&[
            ("storage.request_key_retention_hours", message.clone()),
            ("storage.journal_retention_days", message),
        ]);
    }
    if let Some(kept) = storage.history_retention_days.map(|days| days.get()).filter(|days| hours > days * 24) {
        let message = format!("expected request keys ({hours} hours) not to outlive the history ({kept} days)");
        found.add(&[
            ("storage.request_key_retention_hours", message.clone()),
            ("storage.history_retention_days", message),
        ]);
    }
}

fn exposure(settings: &Settings, found: &mut Found) {
    let server = &settings.server;
    if server.cors_allowed_origins.any() && server.cors_allowed_origins.iter().count() > 1 {
        let message = "expected * alone or only named origins: * allows every origin, and none with credentials";
        found.add(&[("server.cors_allowed_origins", message.to_owned())]);
    }
    if !server.host.is_loopback() && !server.allow_unauthenticated {
        let message = "expected a loopback address or server.allow_unauthenticated: true: other machines can reach this \
                       address and there is no authentication";
        found.add(&[("server.host", message.to_owned()), ("server.allow_unauthenticated", message.to_owned())]);
    }
}

fn provider(settings: &Settings, found: &mut Found) {
    let llm = &settings.llm;
    if settings.secrets.openai_api_key.is_some() {
        return;
    }
    let production = settings.profile == Profile::Production;
    let message = match llm.provider {
        Provider::Simulated => return,
        Provider::Openai | Provider::Auto if production => {
            "is not set: the production profile needs the key of its model provider \
             (llm.provider: simulated would serve the built-in model)"
        }
        Provider::Openai if llm.base_url.is_none() => {
            "is not set: llm.provider: openai needs the key, or OPENAI_BASE_URL for a server that asks for none"
        }
        Provider::Openai | Provider::Auto => return,
    };
    let sides = vec![(path("llm.provider"), String::new()), (path("llm.base_url"), String::new())];
    found.0.push(Contradiction { sides, variable: Some(("OPENAI_API_KEY", message)) });
}

/// A key travels in a header of HTTP.
fn keys(settings: &Settings, found: &mut Found) {
    let secrets = &settings.secrets;
    let message = "has a character that no header can carry: expected visible ASCII, without spaces and line breaks";
    for (name, key) in [("OPENAI_API_KEY", &secrets.openai_api_key), ("TAVILY_API_KEY", &secrets.tavily_api_key)] {
        if key.as_ref().is_some_and(|key| !key.expose_secret().bytes().all(|byte| byte.is_ascii_graphic())) {
            found.0.push(Contradiction { sides: Vec::new(), variable: Some((name, message)) });
        }
    }
}

fn connection_string(settings: &Settings, found: &mut Found) {
    let Some(text) = &settings.secrets.applicationinsights_connection_string else { return };
    let text = text.expose_secret();
    // Its reader takes any text for an endpoint, and does not survive all of them.
    let reachable = ingestion_endpoints(text).all(|url| HttpUrl::try_from(url.to_owned()).is_ok());
    if !reachable || Exporter::new_from_connection_string(text, ()).is_err() {
        let message =
            "is no connection string: expected InstrumentationKey=KEY;IngestionEndpoint=URL, as Azure shows it";
        let variable = Some(("APPLICATIONINSIGHTS_CONNECTION_STRING", message));
        found.0.push(Contradiction { sides: Vec::new(), variable });
    }
}

fn mcp(settings: &Settings, found: &mut Found) {
    let limits = &settings.mcp;
    found.at_most(("mcp.backoff_ms", limits.backoff_ms.get()), ("mcp.backoff_ms_max", limits.backoff_ms_max.get()));
    for (name, server) in &settings.mcp_servers {
        let transport = format!("mcp_servers.{}.transport", name.as_str());
        let mut needs = |there: bool, message: &str| {
            if !there {
                found.add(&[(&transport, message.to_owned())]);
            }
        };
        match server.transport {
            McpTransport::Stdio => {
                needs(server.command.is_some(), "expected a command beside transport: stdio");
                let http = server.url.is_some() || !server.headers_env.is_empty();
                needs(!http, "expected no url and no headers_env beside transport: stdio");
            }
            McpTransport::Http => {
                needs(server.url.is_some(), "expected a url beside transport: http");
                let stdio = server.command.is_some()
                    || server.cwd.is_some()
                    || !server.args.is_empty()
                    || !server.env.is_empty();
                needs(!stdio, "expected no command, args, cwd and env beside transport: http");
            }
        }
    }
}
