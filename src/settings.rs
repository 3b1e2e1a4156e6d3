//! Settings: YAML, environment and flags become one validated [`Settings`], of which each component gets its own slice.
//!
//! The order, later wins: the defaults in `config/workflow_config.yaml` < the profile's overlay < the operator's own
//! file (`--config` or `FLEET_CONFIG`, which need only hold what differs) < the environment < flags. The first two are
//! part of the binary, so that it runs in an empty directory; a `config` directory that happens to be there is not
//! read.
//!
//! Invariant: a `Settings` exists only if every key is known, every value within its bounds and no two contradict.
//! Absent on purpose: default values in Rust. The embedded YAML is the one place, and what documents them.

mod agents;
mod decode;
mod environment;
mod llm;
mod mcp;
mod pipeline;
mod places;
mod problem;
mod report;
mod rules;
mod server;
mod sessions;
mod storage;
mod telemetry;
mod tools;
mod tree;
mod ui;
pub mod units;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use agents::{AgentSettings, Roster};
pub(crate) use environment::ingestion_endpoints;
pub use environment::{Environment, OPERATOR_NAMES, SECRET_NAMES, Secrets, process_environment};
pub use llm::{
    Api, BreakerSettings, EffortNames, LlmSettings, ModelPattern, ModelRules, PriceSettings, Provider, RetrySettings,
    SimulatedSettings, StructuredOutput,
};
pub use mcp::{McpProtocol, McpServerName, McpServerSettings, McpSettings, McpTransport, McpUrl, Variable};
pub use pipeline::{ApprovalSettings, OnExpiry, PipelineSettings};
pub use problem::{Problem, SettingsError};
pub use report::{Changes, RELOADABLE, report};
pub use server::{AllowedOrigins, ServerSettings};
pub use sessions::{ConversationSettings, FastPathSettings, OnDisconnect, SessionSettings};
pub use storage::{Durability, StorageSettings, data_dir};
pub(crate) use storage::{history_number, history_rewrite};
pub use telemetry::{LogFilter, LoggingSettings, TracingSettings};
pub use tools::{
    AccessRule, FetchSettings, HostPort, InterpreterSettings, Pattern, PolicyRule, SandboxSettings, TavilySettings,
    ToolSettings,
};
pub use ui::{EVENT_TYPES, UiPriority, UiRoute, UiRouting};

use tree::{Document, Layer, Node, Origin, Path};

/// The documented defaults.
pub const DEFAULTS: &str = include_str!("../config/workflow_config.yaml");

/// A file of settings above this size is a mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Which overlay was used.
    #[serde(skip)]
    pub profile: Profile,
    /// What only the environment may say.
    #[serde(skip)]
    pub secrets: Secrets,
    /// For the doors.
    pub server: ServerSettings,
    /// For admission and supervision.
    pub sessions: SessionSettings,
    /// For the context of a model.
    pub conversation: ConversationSettings,
    /// For the choice of the fast path.
    pub fast_path: FastPathSettings,
    /// For the store.
    pub storage: StorageSettings,
    /// For model clients.
    pub llm: LlmSettings,
    /// For the phases and modes.
    pub pipeline: PipelineSettings,
    /// For questions to people.
    pub approvals: ApprovalSettings,
    /// The roster.
    pub agents: Roster,
    /// For every MCP server.
    pub mcp: McpSettings,
    /// The MCP servers by name.
    pub mcp_servers: BTreeMap<McpServerName, McpServerSettings>,
    /// For tools.
    pub tools: ToolSettings,
    /// For logs.
    pub logging: LoggingSettings,
    /// For traces.
    pub tracing: TracingSettings,
    /// For user interfaces.
    pub ui_routing: UiRouting,
}

/// A named overlay of the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// On a developer's machine.
    #[default]
    Local,
    /// For others: refuses to start where a mistake would not be noticed.
    Production,
    /// For tests: fast and quiet.
    Test,
}

impl Profile {
    const ALL: [Self; 3] = [Self::Local, Self::Production, Self::Test];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Production => "production",
            Self::Test => "test",
        }
    }

    /// Its overlay.
    #[must_use]
    pub fn overlay(self) -> &'static str {
        match self {
            Self::Local => include_str!("../config/local.yaml"),
            Self::Production => include_str!("../config/production.yaml"),
            Self::Test => include_str!("../config/test.yaml"),
        }
    }
}

/// Flags of the command line that are settings, as they were typed.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--host`
    pub host: Option<String>,
    /// `--port`
    pub port: Option<u16>,
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--profile`
    pub profile: Option<String>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
}

/// Where settings come from, besides the defaults.
#[derive(Clone, Default)]
pub struct Sources {
    /// The command line.
    pub flags: Flags,
    /// The variables; [`process_environment`] reads those of the process.
    pub environment: Environment,
}

impl fmt::Debug for Sources {
    /// Leaves out what the variables hold: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.environment.keys().collect();
        f.debug_struct("Sources").field("flags", &self.flags).field("environment", &names).finish()
    }
}

/// Settings, and where each of them was set.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The settings.
    pub settings: Settings,
    profile_source: String,
    tree: Node,
}

impl Settings {
    /// Reads, merges and checks. The only things read from the world are the operator's file and where links in its paths
    /// lead.
    ///
    /// # Errors
    /// [`SettingsError`] holds every mistake that could be found, each with its place and what was expected.
    pub fn load(sources: &Sources) -> Result<Effective, SettingsError> {
        let mut problems = Vec::new();
        let (profile, profile_source) = choose_profile(sources, &mut problems);
        let variables = environment::variables(&sources.environment);

        let built_in = |layer, name: &str, text: &str| {
            Arc::new(Document { layer, name: format!("config/{name}.yaml (built in)"), text: text.to_owned() })
        };
        let defaults = built_in(Layer::Defaults, "workflow_config", DEFAULTS);
        let Some(defaults) = tree::parse(&defaults, &variables, &mut problems) else {
            return Err(SettingsError { problems });
        };
        let overlay = built_in(Layer::Profile, profile.as_str(), profile.overlay());
        let mut layers = Vec::new();
        layers.extend(tree::parse(&overlay, &variables, &mut problems));
        if let Some(document) = read_file(sources, &mut problems) {
            let named = named_secrets(&document);
            if named.is_empty() {
                layers.extend(tree::parse(&document, &variables, &mut problems));
            }
            problems.extend(named);
        }
        layers.extend(environment::layers(&sources.environment, &mut problems));
        layers.extend(environment::flag_layers(&sources.flags, &mut problems));

        let mut tree = defaults.clone();
        for mut layer in layers {
            refuse_secrets(&mut layer, &mut problems);
            tree.merge(layer, &mut Vec::new(), &mut problems);
        }
        let (settings, mismatches) = decode::decode::<Settings>(&mut tree, &defaults);
        let spoiled: Vec<Path> = mismatches.iter().map(|(path, _)| path.clone()).collect();
        problems.extend(mismatches.into_iter().map(|(_, problem)| problem));
        if let Some(mut settings) = settings {
            settings.profile = profile;
            settings.secrets = Secrets::read(&sources.environment);
            problems.extend(contradictions(&settings, &tree, &spoiled));
            if problems.is_empty() {
                return Ok(Effective { settings, profile_source, tree });
            }
        }
        Err(SettingsError { problems })
    }
}

impl Settings {
    /// Whether the built-in model answers.
    #[must_use]
    pub fn simulated(&self) -> bool {
        match self.llm.provider {
            Provider::Simulated => true,
            Provider::Openai => false,
            Provider::Auto => self.secrets.openai_api_key.is_none() && self.llm.base_url.is_none(),
        }
    }
}

fn choose_profile(sources: &Sources, problems: &mut Vec<Problem>) -> (Profile, String) {
    let flag = sources.flags.profile.as_deref().map(|name| (name, Origin::Flag("--profile")));
    let variable = environment::value(&sources.environment, "FLEET_PROFILE")
        .map(|name| (name, Origin::Environment("FLEET_PROFILE".into())));
    let Some((name, origin)) = flag.or(variable) else { return (Profile::default(), "default".to_owned()) };
    match Profile::ALL.into_iter().find(|profile| profile.as_str() == name) {
        Some(profile) => (profile, origin.to_string()),
        None => {
            problems.push(Problem::at(&origin, &[], "expected one of local, production, test"));
            (Profile::default(), origin.to_string())
        }
    }
}

fn read_file(sources: &Sources, problems: &mut Vec<Problem>) -> Option<Arc<Document>> {
    let flag = sources.flags.config.clone().map(|file| (file, Origin::Flag("--config")));
    let variable = environment::value(&sources.environment, "FLEET_CONFIG")
        .map(|file| (PathBuf::from(file), Origin::Environment("FLEET_CONFIG".into())));
    let (file, origin) = flag.or(variable)?;
    let name = file.display().to_string();
    match read_bounded(&file) {
        Ok(text) => Some(Arc::new(Document { layer: Layer::File, name, text })),
        Err(error) => {
            problems.push(Problem::at(&origin, &[], format!("{name} cannot be read: {error}")));
            None
        }
    }
}

fn read_bounded(file: &FilePath) -> std::io::Result<String> {
    // Before it is opened: a pipe would wait for its writer, and a device may never end.
    let kind = file.metadata()?.file_type();
    if !kind.is_file() {
        let found = if kind.is_dir() { "a directory" } else { "a pipe, a socket or a device" };
        return Err(std::io::Error::other(format!("expected a regular file, found {found}")));
    }
    let mut text = String::new();
    std::fs::File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("expected at most {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// A file that names a secret's variable would put the secret where it can be shown.
fn named_secrets(document: &Arc<Document>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, line) in document.text.lines().enumerate() {
        let code = line.split(" #").next().unwrap_or_default();
        if code.trim_start().starts_with('#') {
            continue;
        }
        for name in SECRET_NAMES {
            if let Some(column) = code.find(&format!("${{{name}")) {
                let (line, column) = (index + 1, code[..column].chars().count() + 1);
                let origin = Origin::Document { document: Arc::clone(document), line, column };
                let message =
                    format!("{name} is a secret and is read from the environment: expected no reference to it");
                problems.push(Problem::at(&origin, &[], message));
            }
        }
    }
    problems
}

fn refuse_secrets(layer: &mut Node, problems: &mut Vec<Problem>) {
    layer.retain(&mut Vec::new(), &mut |path, origin| {
        // There a header's name is the key, and the value can only be the name of a variable.
        let names_a_variable = path.iter().rev().nth(1).is_some_and(|section| section == "headers_env");
        let refused = !names_a_variable && path.last().is_some_and(|key| problem::names_a_secret(key));
        if refused {
            let names = SECRET_NAMES.join(", ");
            let message = format!("expected no secret here: they come only from the environment, as {names}");
            problems.push(Problem::at(origin, path, message));
        }
        !refused
    });
}

/// Contradictions with their places. Those about a key that was already found wrong are left out: it was put back to
/// its default, which the operator did not ask for.
fn contradictions(settings: &Settings, tree: &Node, spoiled: &[Path]) -> Vec<Problem> {
    let sound = |path: &Path| !spoiled.iter().any(|bad| path.starts_with(bad));
    let origin = |path: &Path| tree.get(path).map_or(&tree.origin, |node| &node.origin);
    let mut problems = Vec::new();
    for mut found in rules::contradictions(settings) {
        if !found.sides.iter().all(|(path, _)| sound(path)) {
            continue;
        }
        let problem = match found.variable {
            Some((name, message)) => Problem::at(&Origin::Environment(name.into()), &[], message),
            None => {
                // The first side of the highest layer: what the operator most likely just changed.
                let last = found.sides.iter().enumerate().rev().max_by_key(|(_, (path, _))| origin(path).layer());
                let Some((index, _)) = last else { continue };
                let (path, message) = found.sides.remove(index);
                Problem::at(origin(&path), &path, message)
            }
        };
        let notes = found.sides.iter().map(|(path, _)| format!("{} was set by: {}", tree::dotted(path), origin(path)));
        problems.push(notes.fold(problem, Problem::note));
    }
    problems
}
