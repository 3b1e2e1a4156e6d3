//! Makes the runtime of the settings: the store, the model clients, the actors. The only place where services start,
//! besides the doors in [`startup`](crate::startup).

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use fleet_actors::admission::Admission;
use fleet_actors::cache::MemoryCache;
use fleet_actors::checkpoint::{CheckpointActor, WriterLimits};
use fleet_actors::history::HistoryActor;
use fleet_actors::ids::Timestamp;
use fleet_actors::limits::RunLimits;
use fleet_actors::ports::{Clock, Pinned, Store, StoreError};
use fleet_actors::sessions::Sessions;
use fleet_actors::stream::Logs;
use fleet_actors::supervisor::Services;
use fleet_actors::trace::Tracer;
use fleet_actors::watch::Watch;
use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::agents::Agent;
use crate::llm::{self, LlmConfig, LlmIdentity, ModelRule};
use crate::prompts::{OutputStyle, PromptConfig};
use crate::settings::units::Name;
use crate::settings::{
    Api as ApiChoice, OnExpiry as OnExpiryChoice, PipelineSettings, Provider as ProviderChoice, Settings,
    StorageSettings, StructuredOutput, process_environment,
};
use crate::storage::{DataDirLock, ExportError, JsonlExport, LockError, OpenError, SqliteOptions, SqliteStore};
use crate::telemetry::outlet::OutletError;
use crate::telemetry::traces::{FlushOnDrop, LastWords, Traces};
use crate::tools;
use crate::tools::FleetTools;
use crate::tools::artifacts::Artifacts;
use crate::tools::mcp::{McpGuard, McpServers};
use crate::tools::policy::Policy;
use crate::tools::sandbox::SandboxGuard;
use crate::workflow::{ApprovalRules, FastPathRules, FleetWorkflows, OnExpiry, PipelineRules, WorkflowConfig};

/// Exit code when a service panicked (`EX_SOFTWARE` of sysexits.h): the next process takes the runs up.
pub const EXIT_SERVICE_PANICKED: i32 = 70;
/// Exit code when the store can promise nothing any more (`EX_IOERR` of sysexits.h).
pub const EXIT_STORAGE_FAILED: i32 = 74;
/// Exit code when another process owns the data directory (`EX_TEMPFAIL` of sysexits.h).
pub const EXIT_IN_USE: i32 = 75;

/// Routings and tool results that runs share at most.
const CACHE_ENTRIES_MAX: usize = 1_024;

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Another process owns the data directory, or it cannot be made.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The history file is somebody else's.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The model provider cannot be called as configured.
    #[error(transparent)]
    Llm(#[from] llm::ConfigError),
    /// There can be no thread for MCP servers.
    #[error("mcp servers cannot be started: {0}")]
    Mcp(#[from] std::io::Error),
    /// A tool's HTTP client cannot be made.
    #[error("the tools cannot be started: {0}")]
    Tools(reqwest::Error),
    /// Traces cannot be exported as the environment says.
    #[error("traces cannot be exported: {0}")]
    Traces(#[from] OutletError),
    /// The settings name no agent.
    #[error("the settings name no agent: `agents` needs at least one")]
    NoAgent,
}

impl RuntimeError {
    /// What a process that needs it exits with: [`EXIT_IN_USE`] when it is there for another one, [`EXIT_STORAGE_FAILED`] when a
    /// sync failed, else 1.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        if let Self::Lock(LockError::Held { .. }) = self {
            EXIT_IN_USE
        } else if let Self::Store(OpenError::Store { error: StoreError::Failed(_), .. }) = self {
            EXIT_STORAGE_FAILED
        } else {
            1
        }
    }
}

/// The wall clock and the system's randomness.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn random(&self) -> u64 {
        fastrand::u64(..)
    }
}

/// What a process needs the services for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Runs work in it.
    Runs,
    /// It changes what is stored. No run is admitted, and there is no model, no tool and no server of tools.
    Store,
}

/// The running services.
pub struct Runtime {
    /// The door to them.
    pub sessions: Sessions,
    /// The config slice that workflows can see.
    pub workflow_config: Pinned,
    /// Which model answers.
    pub model: LlmIdentity,
    /// Held as long as the runtime lives: with it the store leaves one file behind.
    pub store: CloseOnDrop,
    /// Held as long as the runtime lives.
    pub lock: DataDirLock,
    /// Where services and woken runs live.
    pub arbiter: Arbiter,
    /// Held as long as the runtime lives.
    pub guards: ToolGuards,
    /// Ends the process when a service panics.
    pub watch: Watch,
    /// Held as long as the runtime lives: with it the last spans are exported.
    pub traces: FlushOnDrop,
}

/// Closes the store when the runtime goes; whoever still has it cannot write any more.
#[derive(Debug)]
pub struct CloseOnDrop(Arc<SqliteStore>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What tools have outside of this process ends with this.
#[derive(Debug)]
pub struct ToolGuards {
    /// The processes of MCP servers.
    pub mcp: McpGuard,
    /// The directory of programs, where it is not in the data directory.
    pub sandbox: SandboxGuard,
}

impl Runtime {
    /// Takes the data directory and the database and starts the services. Call it inside an actix system.
    ///
    /// # Errors
    /// [`RuntimeError`]; nothing runs then.
    pub fn start(settings: &Settings, address: &str, purpose: Purpose) -> Result<Self, RuntimeError> {
        let workflow_config = Pinned::from(workflow_config(settings)?);
        let llm = match purpose {
            Purpose::Runs => llm_config(settings),
            Purpose::Store => LlmConfig { provider: llm::Provider::Simulated, ..LlmConfig::default() },
        };
        let model = LlmIdentity::of(&llm);
        let agents = llm::clients(&llm)?;
        let storage = &settings.storage;
        let lock = DataDirLock::acquire_with_database(storage, address)?;
        let export = JsonlExport::new(storage.history_file(), storage.history_file_bytes_max.get());
        export.check()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let last_words = LastWords::default();
        let end = last_words.clone();
        let watch = Watch::new(Arc::new(move |service| {
            tracing::error!(service, "service_panicked");
            end.exit(EXIT_SERVICE_PANICKED);
        }));
        let options = SqliteOptions::from(storage);
        let sqlite = Arc::new(SqliteStore::open_watched(&options, clock.clone(), &watch)?);
        let store: Arc<dyn Store> = sqlite.clone();
        let arbiter = Arbiter::new();
        let end = last_words.clone();
        let on_failed = Arc::new(move |reason: &str| {
            tracing::error!(reason, "storage_failed");
            end.exit(EXIT_STORAGE_FAILED);
        });
        let limits = writer_limits(storage);
        let checkpoints = CheckpointActor::start_watched(&arbiter.handle(), store.clone(), on_failed, limits, &watch);
        HistoryActor::start_on(&arbiter.handle(), store.clone(), checkpoints.clone(), Arc::new(export), &watch);
        let (tools, guards) = tools_for(purpose, settings)?;
        // Without runs there are no spans.
        let provider = if model.is_simulated() { "simulated" } else { "openai" };
        let traces = match purpose {
            Purpose::Runs => Traces::start(
                &settings.tracing,
                settings.secrets.applicationinsights_connection_string.as_ref(),
                provider,
            )?,
            Purpose::Store => None,
        };
        traces.iter().for_each(|traces| last_words.include(traces));
        let services = Services {
            store,
            checkpoints,
            cache: Arc::new(MemoryCache::new(clock.clone(), CACHE_ENTRIES_MAX)),
            meter: Arc::default(),
            tracer: traces.clone().map(|traces| traces as Arc<dyn Tracer>),
            clock,
            agents,
            tools: Arc::new(tools),
            workflows: Arc::new(FleetWorkflows),
            logs: Logs::new(settings.sessions.watchers_per_run_max.as_usize()),
            limits: run_limits(settings),
        };
        let admission = Admission::new(match purpose {
            Purpose::Runs => settings.sessions.max_concurrent_workflows.as_u32(),
            Purpose::Store => 0,
        });
        let sessions = Sessions::start_watched(&arbiter.handle(), services, admission, &watch);
        let traces = FlushOnDrop(traces);
        let store = CloseOnDrop(sqlite);
        Ok(Self { sessions, workflow_config, model, store, lock, arbiter, guards, watch, traces })
    }
}

/// The tools, and what ends with the process.
fn tools_for(purpose: Purpose, settings: &Settings) -> Result<(FleetTools, ToolGuards), RuntimeError> {
    let data_dir = &settings.storage.data_dir;
    let start = |servers| McpServers::start(&settings.mcp, servers, &process_environment(), data_dir);
    if purpose == Purpose::Store {
        let policy = Policy::new(&settings.tools.policy);
        let tools = FleetTools::new(Vec::new(), policy, settings.tools.arguments_bytes_max.as_usize());
        return Ok((tools, ToolGuards { mcp: start(&BTreeMap::new())?.guard(), sandbox: SandboxGuard::default() }));
    }
    // In the background: neither this start nor readiness waits for one of them.
    let mcp = start(&settings.mcp_servers)?;
    let artifacts = Artifacts::in_data_dir(data_dir);
    let started = tools::start(settings, &artifacts, vec![Arc::new(mcp.clone())]);
    let (tools, sandbox) = started.map_err(RuntimeError::Tools)?;
    Ok((tools, ToolGuards { mcp: mcp.guard(), sandbox }))
}

/// What bounds the writer.
#[must_use]
pub fn writer_limits(storage: &StorageSettings) -> WriterLimits {
    WriterLimits {
        queue_max: storage.queue_asks_max.as_usize(),
        group_max: storage.batch_asks_max.as_usize(),
        group_bytes_max: storage.batch_bytes_max.as_usize(),
        probe_interval: storage.probe_interval_ms.duration(),
    }
}

fn run_limits(settings: &Settings) -> RunLimits {
    let sessions = &settings.sessions;
    RunLimits {
        runtime_max: sessions.run_timeout_ms.duration(),
        idle_timeout: sessions.run_idle_timeout_ms.duration(),
        model_timeout: settings.llm.request_timeout_ms.duration(),
        tool_timeout: settings.tools.call_timeout_ms.duration(),
        park_after: sessions.park_after_ms.duration(),
        disconnect_grace: sessions.disconnect_grace_ms.duration(),
        events_max: sessions.events_per_run_max.get(),
        text_bytes_max: sessions.text_per_run_bytes_max.get(),
        failed_starts_max: sessions.attempts_max.as_u32(),
        recent_max: sessions.recent_max.as_usize(),
        rebuilds_max: sessions.rebuilds_max.as_u32(),
        rebuild_window: sessions.rebuild_window_ms.duration(),
        question_expiry: sessions.question_expiry_ms.duration(),
        // A refused client was told to come back after this long, and half as much again of jitter.
        new_work_patience: Duration::from_millis(sessions.retry_after_s.get() * 1_500),
        ..RunLimits::default()
    }
}

/// What workflows see of the settings.
///
/// # Errors
/// [`RuntimeError::NoAgent`].
pub fn workflow_config(settings: &Settings) -> Result<Value, RuntimeError> {
    if settings.agents.is_empty() {
        return Err(RuntimeError::NoAgent);
    }
    let Settings { pipeline, approvals, fast_path: fast, llm, .. } = settings;
    let model = |own: Option<&Name>| own.unwrap_or(&llm.model).as_str().to_owned();
    let output_tokens_max = llm.output_tokens_max.map(|tokens| tokens.as_u32());
    let roster = settings.agents.iter().map(|(name, agent)| Agent {
        name: name.as_str().to_owned(),
        description: agent.description.clone(),
        model: model(agent.model.as_ref()),
        instructions: agent.instructions.trim_end().to_owned(),
        temperature: agent.temperature.map(|temperature| temperature.get()),
        tools: agent.tools.iter().map(|tool| tool.as_str().to_owned()).collect(),
        timeout_ms: agent.timeout_ms.map_or(pipeline.agent_timeout_ms.get(), |timeout| timeout.get()),
        cache_ttl_s: agent.cache_ttl_s.map(|ttl| ttl.get()),
    });
    let phase_model = model(pipeline.model.as_ref());
    let config = WorkflowConfig {
        roster: roster.collect(),
        prompts: PromptConfig {
            temperature: pipeline.temperature.map(|temperature| temperature.get()),
            output_tokens_max,
            form: match llm.rules(&phase_model).structured_output.unwrap_or(llm.structured_output) {
                StructuredOutput::Auto => OutputStyle::Auto,
                StructuredOutput::Schema => OutputStyle::Schema,
                StructuredOutput::Fenced => OutputStyle::Fenced,
            },
            model: phase_model,
            ..PromptConfig::default()
        },
        pipeline: pipeline_rules(pipeline),
        approvals: ApprovalRules {
            on_expiry: match approvals.on_expiry {
                OnExpiryChoice::Fail => OnExpiry::Fail,
                OnExpiryChoice::Reject => OnExpiry::Reject,
                OnExpiryChoice::Continue => OnExpiry::Continue,
            },
            ask_user: approvals.ask_user,
        },
        fast_path: FastPathRules {
            enabled: fast.enabled,
            max_chars: fast.max_chars.as_usize(),
            patterns: fast.patterns.iter().map(|phrase| phrase.as_str().to_owned()).collect(),
            time_sensitive: fast.time_sensitive.iter().map(|phrase| phrase.as_str().to_owned()).collect(),
        },
        context_messages_max: settings.conversation.messages_max.as_u32(),
        context_chars_max: settings.conversation.chars_max.as_usize(),
        output_tokens_max,
        question_expiry_ms: settings.sessions.question_expiry_ms.get(),
    };
    Ok(serde_json::to_value(config).unwrap_or_default())
}

fn pipeline_rules(pipeline: &PipelineSettings) -> PipelineRules {
    let default_agent = pipeline.default_agent.as_str().to_owned();
    PipelineRules {
        analysis: pipeline.analysis,
        routing: pipeline.routing,
        progress: pipeline.progress,
        quality: pipeline.quality,
        quality_in_background: pipeline.quality_in_background,
        refinement: pipeline.refinement,
        merge_analysis_and_routing: pipeline.merge_analysis_and_routing,
        plan_review: pipeline.plan_review,
        handoff_packages: pipeline.handoff_packages,
        narrative: pipeline.narrative,
        synthesis_agent: pipeline
            .synthesis_agent
            .as_ref()
            .map_or_else(|| default_agent.clone(), |name| name.as_str().to_owned()),
        default_agent,
        phase_timeout_ms: pipeline.phase_timeout_ms.get(),
        routing_cache_ttl_seconds: pipeline.routing_cache_ttl_seconds.get(),
        max_rounds: pipeline.max_rounds.as_u32(),
        max_stalls: pipeline.max_stalls.as_u32(),
        max_resets: pipeline.max_resets.as_u32(),
        max_parallel_agents: pipeline.max_parallel_agents.as_usize(),
        refinement_threshold: pipeline.refinement_threshold.get(),
        refinement_min_improvement: pipeline.refinement_min_improvement.get(),
        max_refinement_rounds: pipeline.max_refinement_rounds.as_u32(),
        tool_rounds_max: pipeline.tool_rounds_max.as_u32(),
        tool_calls_per_round_max: pipeline.tool_calls_per_round_max.as_usize(),
    }
}

fn llm_config(settings: &Settings) -> LlmConfig {
    let llm = &settings.llm;
    let rule = |(pattern, rules): (&crate::settings::ModelPattern, &crate::settings::ModelRules)| {
        let minimal = rules.minimal_effort.as_ref().unwrap_or(&llm.effort.minimal);
        let pattern = serde_json::to_value(pattern).ok().and_then(|text| text.as_str().map(str::to_owned));
        let pattern = pattern.unwrap_or_default();
        let rule = if rules.reasoning_effort {
            ModelRule::reasoning(&pattern, minimal.as_str())
        } else {
            ModelRule::plain(&pattern)
        };
        let price = rules.price.map(|price| {
            let cached = price.cached_input.unwrap_or(price.input);
            llm::Price::per_million(price.input.get(), cached.get(), price.output.get())
        });
        ModelRule { price, ..rule }
    };
    let mut models: Vec<ModelRule> = llm.models.iter().map(rule).collect();
    // The most particular pattern speaks first.
    models.sort_by_key(|rule| std::cmp::Reverse(rule.pattern.len()));
    let retry = NonZeroU32::new(llm.retry.attempts_max.as_u32()).filter(|attempts| attempts.get() > 1);
    let mut config = LlmConfig {
        provider: match llm.provider {
            ProviderChoice::Auto => llm::Provider::Auto,
            ProviderChoice::Openai => llm::Provider::OpenAi,
            ProviderChoice::Simulated => llm::Provider::Simulated,
        },
        api: match llm.api {
            ApiChoice::Auto => llm::Api::Auto,
            ApiChoice::Responses => llm::Api::Responses,
            ApiChoice::ChatCompletions => llm::Api::ChatCompletions,
        },
        base_url: llm.base_url.as_ref().map(|url| url.as_str().to_owned()),
        api_key: settings.secrets.openai_api_key.as_ref().map(|key| key.expose_secret().into()),
        model: llm.model.as_str().to_owned(),
        connect_timeout: llm.connect_timeout_ms.duration(),
        silence_timeout: llm.stream_idle_timeout_ms.duration(),
        idle_timeout: llm.connection_idle_timeout_ms.duration(),
        models,
        ..LlmConfig::default()
    };
    config.caps.bytes_max = llm.answer_bytes_max.as_usize();
    config.caps.event_bytes_max = llm.event_bytes_max.as_usize();
    config.caps.events_max = llm.events_max.as_u32();
    config.caps.json_depth_max = llm.json_depth_max.as_u32();
    config.retry = retry.map(|attempts_max| llm::RetryPolicy {
        attempts_max,
        base: llm.retry.backoff_ms.duration(),
        delay_max: llm.retry.backoff_ms_max.duration(),
        budget_percent: (llm.retry.budget.get() * 100.0) as u32,
    });
    config.breaker = NonZeroU32::new(llm.breaker.failures_max.as_u32())
        .map(|failures| llm::BreakerPolicy { failures, open_for: llm.breaker.open_ms.duration() });
    config.simulated.seed = llm.simulated.seed;
    config.simulated.latency = llm.simulated.latency_ms.duration();
    config.simulated.tokens_per_second = NonZeroU32::new(llm.simulated.tokens_per_second.as_u32());
    config.simulated.jitter = llm.simulated.jitter.get();
    config
}
