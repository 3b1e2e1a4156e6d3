//! Everything a run may do in the world, behind `fleet_actors::ports::{Tools, ToolRunner}`.
//!
//! A [`Provider`] knows tools and calls them; [`FleetTools`] asks its providers what there is, decides for each principal
//! and tool whether a call is made, and checks every call again: that the tool exists, that it is still the one its model
//! was shown, that its arguments fit its schema, and that a human has approved these very arguments where the rule asks
//! for one.
//!
//! Invariant: no provider is called before all of that held. What a model says is data; it cannot change a rule.
//! Absent on purpose: a tool that no setting names, and rules that a prompt, an agent or a tool's own words could relax.

pub mod artifacts;
pub mod builtin;
pub mod fetch_page;
pub mod mcp;
pub mod policy;
pub mod runner;
pub mod sandbox;
pub mod tavily;

use std::sync::Arc;
use std::time::Duration;

use fleet_actors::event::Failure;
use fleet_actors::ids::WorkflowId;
use fleet_actors::journal::digest;
use fleet_actors::ports::{EffectPolicy, LocalFuture, ToolOutput, ToolSpec};
use serde_json::Value;

use self::artifacts::Artifacts;
use self::builtin::Builtin;
use self::fetch_page::FetchPage;
use self::policy::Policy;
pub use self::runner::FleetTools;
use self::sandbox::{CodeTool, Language, SandboxGuard};
use self::tavily::TavilySearch;
use crate::settings::Settings;

/// How long a connection may be idle and still be used again: less than the 5 s after which most servers close theirs, which
/// would end the call that comes in that moment.
const CONNECTION_IDLE: Duration = Duration::from_secs(4);

/// Whether a tool changes something outside of the run. An MCP server says it of itself, so it decides which rule
/// applies and never that none does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It only reads.
    Reads,
    /// It may change something, or runs code.
    Writes,
}

/// A tool as its provider knows it, before any rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Offered {
    /// What a model is told. Tools of MCP servers are named `mcp__SERVER__TOOL`.
    pub spec: Arc<ToolSpec>,
    /// Digest of its name, description and parameters: what a model was shown.
    pub schema_digest: Arc<str>,
    /// What a crash in the middle of a call means.
    pub effect: EffectPolicy,
    /// What it may change.
    pub reach: Reach,
    /// `builtin`, or the MCP server it comes from.
    pub source: Arc<str>,
    /// Why it cannot be called although the settings name it.
    pub unavailable: Option<String>,
}

impl Offered {
    /// A tool that can be called.
    #[must_use]
    pub fn new(spec: ToolSpec, effect: EffectPolicy, reach: Reach, source: Arc<str>) -> Self {
        let ToolSpec { name, description, parameters } = &spec;
        let schema_digest = digest(format!("{name}\0{description}\0{parameters}").as_bytes());
        Self { spec: spec.into(), schema_digest, effect, reach, source, unavailable: None }
    }
}

/// A call that may be made: every check is behind it.
#[derive(Clone, Copy, Debug)]
pub struct Dispatch<'a> {
    /// The run it belongs to.
    pub workflow: &'a WorkflowId,
    /// The tool, as [`Offered::spec`] names it.
    pub tool: &'a str,
    /// Arguments that fit its schema.
    pub arguments: &'a Value,
    /// The same in every attempt of the step.
    pub idempotency_key: &'a str,
    /// From 1.
    pub attempt: u32,
}

/// Knows tools and calls them. Each bounds its own times, bytes and counts by its settings.
pub trait Provider: Send + Sync {
    /// The tools that `name` stands for, as an agent's settings name them: a tool, or `mcp:SERVER` for all of a server.
    /// Empty if `name` is none of its own. Bounded in time: a server that does not answer offers nothing.
    fn offers<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Vec<Offered>>;

    /// Why `tool`, which nobody offers, cannot be called although it may exist: its server is down.
    fn absent(&self, _tool: &str) -> Option<Failure> {
        None
    }

    /// What may be done about a call whose outcome a crash has hidden; none if `tool` is none of its own. Known without
    /// asking anybody.
    fn policy(&self, tool: &str) -> Option<EffectPolicy>;

    /// Makes the call.
    ///
    /// # Errors
    /// The tool's [`Failure`] with a heading of the runbook. Its text is shown to the model and holds no secret.
    ///
    /// # Cancel safety
    /// Dropping the future stops the tool.
    fn call<'a>(&'a self, call: Dispatch<'a>) -> LocalFuture<'a, Result<ToolOutput, Failure>>;
}

/// The tools of the settings: those built in that are enabled, then those of `others`; and what to hold as long as they are
/// used.
///
/// # Errors
/// An HTTP client cannot be made.
pub fn start(
    settings: &Settings,
    artifacts: &Artifacts,
    others: Vec<Arc<dyn Provider>>,
) -> Result<(FleetTools, SandboxGuard), reqwest::Error> {
    let tools = &settings.tools;
    let mut enabled: Vec<Arc<dyn builtin::Tool>> = Vec::new();
    if tools.tavily_search.enabled {
        let key = settings.secrets.tavily_api_key.clone();
        enabled.push(Arc::new(TavilySearch::new(tools.tavily_search.clone(), key)?));
    }
    if tools.fetch_page.enabled {
        enabled.push(Arc::new(FetchPage::new(tools.fetch_page.clone(), fetch_page::guard::system_lookup())?));
    }
    let languages = [(Language::Python, &tools.python), (Language::Javascript, &tools.javascript)];
    let wanted = languages.into_iter().filter(|(_, settings)| settings.enabled);
    let wanted = wanted.map(|(language, settings)| (language, settings.clone())).collect();
    let guard = SandboxGuard::default();
    enabled.extend(CodeTool::start(wanted, &tools.sandbox, &settings.storage.data_dir, artifacts, &guard));
    let mut providers: Vec<Arc<dyn Provider>> = vec![Arc::new(Builtin::new(enabled))];
    providers.extend(others);
    let tools = FleetTools::new(providers, Policy::new(&tools.policy), tools.arguments_bytes_max.as_usize());
    Ok((tools, guard))
}
