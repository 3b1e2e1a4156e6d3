//! A real server on a free port, over a store in memory and a model that a test scripts.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agentic_fleet::agents::Agent;
use agentic_fleet::api::Api;
use agentic_fleet::api::health::Draining;
use agentic_fleet::api::metrics::Metrics;
use agentic_fleet::settings::{Flags, Settings, Sources};
use agentic_fleet::startup::Application;
use agentic_fleet::workflow::{FleetWorkflows, WorkflowConfig};
use fleet_actors::admission::Admission;
use fleet_actors::cache::MemoryCache;
use fleet_actors::checkpoint::{CheckpointActor, WriterLimits};
use fleet_actors::event::{Failure, Usage};
use fleet_actors::ids::Timestamp;
use fleet_actors::limits::RunLimits;
use fleet_actors::ports::{
    AgentClients, LocalFuture, ModelCall, ModelClient, ModelDelta, ModelError, ModelReply, ReasoningEffort,
};
use fleet_actors::sessions::Sessions;
use fleet_actors::stream::Logs;
use fleet_actors::supervisor::Services;
use fleet_actors::testing::{ManualClock, MemoryStore, NoTools};
use fleet_actors::watch::Watch;

/// The clocks stand.
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// How the model answers.
#[derive(Clone, Copy)]
pub enum Script {
    Answers(&'static str),
    Fails(&'static str),
    /// 10 tokens in, 4 of them cached; 5 out, 2 of them reasoning; 1.5 thousandths of a dollar.
    Counts,
    Hangs,
}

#[derive(Clone)]
struct Model {
    script: Script,
    calls: Arc<AtomicU32>,
}

impl AgentClients for Model {
    fn client(&self, _: Option<ReasoningEffort>) -> Rc<dyn ModelClient> {
        Rc::new(self.clone())
    }
}

impl ModelClient for Model {
    fn call<'a>(
        &'a self,
        _: &'a ModelCall,
        _: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            match self.script {
                Script::Answers(text) => Ok(ModelReply { text: text.to_owned(), ..ModelReply::default() }),
                Script::Counts => {
                    let (input_tokens, cached_tokens, output_tokens, reasoning_tokens) = (10, 4, 5, 2);
                    let cost_nanousd = Some(1_500_000);
                    let usage = Usage { input_tokens, output_tokens, reasoning_tokens, cached_tokens, cost_nanousd };
                    Ok(ModelReply { text: "counted".to_owned(), usage: Some(usage), ..ModelReply::default() })
                }
                Script::Fails(code) => Err(ModelError { failure: Failure::new(code, "no luck"), retry_in: None }),
                Script::Hangs => std::future::pending().await,
            }
        })
    }
}

pub struct TestApp {
    pub url: String,
    pub http: reqwest::Client,
    pub sessions: Sessions,
    pub draining: Draining,
    pub store: MemoryStore,
    calls: Arc<AtomicU32>,
}

impl TestApp {
    /// A server for `cap` runs at once.
    pub fn spawn(script: Script, cap: u32) -> Self {
        Self::spawn_with(script, cap, |_| {})
    }

    /// The same with settings of its own.
    pub fn spawn_with(script: Script, cap: u32, change: impl FnOnce(&mut Settings)) -> Self {
        let store = MemoryStore::new(Arc::new(ManualClock::at(NOW)));
        Self::over(store, script, cap, change)
    }

    /// The next process over the same store.
    pub fn restarted(&self, script: Script, cap: u32) -> Self {
        Self::over(self.store.restarted(), script, cap, |_| {})
    }

    fn over(memory: MemoryStore, script: Script, cap: u32, change: impl FnOnce(&mut Settings)) -> Self {
        let flags = Flags { profile: Some("test".to_owned()), ..Flags::default() };
        let mut settings = Settings::load(&Sources { flags, ..Sources::default() }).unwrap().settings;
        settings.server.workers = serde_json::from_value(1.into()).unwrap();
        settings.server.body_timeout_ms = serde_json::from_value(200.into()).unwrap();
        change(&mut settings);
        let clock = Arc::new(ManualClock::at(NOW));
        let store = Arc::new(memory.clone());
        let limits = WriterLimits { probe_interval: Duration::from_secs(3), ..WriterLimits::default() };
        let arbiter = actix::Arbiter::current();
        let calls = Arc::new(AtomicU32::new(0));
        let services = Services {
            checkpoints: CheckpointActor::start_watched(
                &arbiter,
                store.clone(),
                Arc::new(|_| {}),
                limits,
                &Watch::default(),
            ),
            store,
            clock,
            agents: Arc::new(Model { script, calls: calls.clone() }),
            tools: Arc::new(NoTools),
            cache: Arc::new(MemoryCache::new(Arc::new(ManualClock::default()), 16)),
            meter: Arc::default(),
            tracer: None,
            workflows: Arc::new(FleetWorkflows),
            logs: Logs::new(64),
            limits: RunLimits::default(),
        };
        let sessions = Sessions::start_on(&arbiter, services, Admission::new(cap));
        let config = serde_json::to_value(workflow_config()).unwrap();
        let connections = agentic_fleet::api::connections::Connections::new(settings.server.connections_max.as_usize());
        let (settings, workflow_config) = (Arc::new(settings), config.into());
        let api = Api { sessions: sessions.clone(), settings, workflow_config, connections };
        let app = Application::bind(api, Metrics::default()).unwrap();
        let (url, draining) = (format!("http://127.0.0.1:{}", app.port()), app.draining());
        actix_web::rt::spawn(app.run_until_stopped());
        Self { url, http: reqwest::Client::new(), sessions, draining, store: memory, calls }
    }

    pub fn model_calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub async fn delete(&self, path: &str) -> reqwest::Response {
        self.http.delete(format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: impl Into<String>) -> reqwest::Response {
        self.request(path, body).send().await.unwrap()
    }

    pub fn request(&self, path: &str, body: impl Into<String>) -> reqwest::RequestBuilder {
        let request = self.http.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        request.body(body.into())
    }
}

/// Waits until something is so.
pub async fn until(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(2)).await; // allow-sleep: polls a condition under a deadline
    }
}

fn workflow_config() -> WorkflowConfig {
    WorkflowConfig::of_one(Agent::new("assistant", "test", "answer"))
}
