//! The real server on a free port over a store of the test's choice, with a model that does what its message asks for.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use agentic_fleet::agents::Agent;
use agentic_fleet::api::Api;
use agentic_fleet::api::connections::Connections;
use agentic_fleet::api::metrics::Metrics;
use agentic_fleet::settings::{Flags, Settings, Sources};
use agentic_fleet::startup::Application;
use agentic_fleet::workflow::{FleetWorkflows, WorkflowConfig};
use fleet_actors::admission::Admission;
use fleet_actors::checkpoint::CheckpointActor;
use fleet_actors::event::{Channel, Failure};
use fleet_actors::limits::RunLimits;
use fleet_actors::ports::{
    AgentClients, Clock, EffectPolicy, LocalFuture, ModelCall, ModelClient, ModelDelta, ModelError, ModelReply,
    ReasoningEffort, Role, Store, ToolCall, ToolOffer, ToolOutput, ToolRunner, Tools, Workflows,
};
use fleet_actors::sessions::Sessions;
use fleet_actors::stream::Logs;
use fleet_actors::supervisor::Services;
use serde_json::Value;
use tokio::sync::Semaphore;

/// Nothing here takes longer, unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Does what the last message of a person begins with: `gate` waits for [`Script::gate`], `hang` waits for ever, `drip`
/// streams for ever, `fail` fails, `panic` panics, `once` panics in the first attempt, `recall` is answered with all that the
/// model was told; anything else with itself.
pub struct Script {
    pub gate: Semaphore,
    pub calls: AtomicU32,
    pub inside: AtomicU32,
    pub most: AtomicU32,
    /// Clients of models that live: each life of a run has one, and nothing else has.
    pub clients: AtomicU32,
    pub tools: AtomicU32,
}

impl Default for Script {
    fn default() -> Self {
        let zero = || AtomicU32::new(0);
        let (calls, inside, most, clients, tools) = (zero(), zero(), zero(), zero(), zero());
        Self { gate: Semaphore::new(0), calls, inside, most, clients, tools }
    }
}

impl Script {
    pub fn inside(&self) -> u32 {
        self.inside.load(Ordering::SeqCst)
    }

    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }
}

struct Model(Arc<Script>);

struct Inside<'a>(&'a Script);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ModelClient for Model {
    fn call<'a>(
        &'a self,
        call: &'a ModelCall,
        deltas: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>> {
        Box::pin(async move {
            let script = &*self.0;
            script.calls.fetch_add(1, Ordering::SeqCst);
            let now = script.inside.fetch_add(1, Ordering::SeqCst) + 1;
            let _inside = Inside(script);
            script.most.fetch_max(now, Ordering::SeqCst);
            let context = call.request.context.messages();
            let asked = context.iter().rev().find(|message| message.role == Role::User).map(|m| m.content.clone());
            let asked = asked.unwrap_or_default();
            match asked.split_whitespace().next().unwrap_or_default() {
                "gate" => script.gate.acquire().await.unwrap().forget(),
                "hang" => std::future::pending().await,
                "drip" => loop {
                    tokio::time::sleep(Duration::from_millis(10)).await; // allow-sleep: the pace of the model
                    deltas(ModelDelta { channel: Channel::Text, text: "drop ".to_owned() });
                },
                "fail" => {
                    let failure = Failure::new("provider_unavailable", "no luck");
                    return Err(ModelError { failure, retry_in: None });
                }
                "panic" => panic!("{}", ASKED),
                "recall" => {
                    let said: Vec<_> = context.iter().map(|message| message.content.clone()).collect();
                    return Ok(ModelReply { text: said.join(" | "), ..ModelReply::default() });
                }
                "once" if call.attempt == 1 => panic!("{}", ASKED),
                _ => {}
            }
            Ok(ModelReply { text: format!("yes: {asked}"), ..ModelReply::default() })
        })
    }
}

struct Clients(Arc<Script>);

impl AgentClients for Clients {
    fn client(&self, _: Option<ReasoningEffort>) -> Rc<dyn ModelClient> {
        self.0.clients.fetch_add(1, Ordering::SeqCst);
        Rc::new(Model(self.0.clone()))
    }
}

/// One tool, `count`, which says how often it was called.
struct Counter(Arc<Script>);

impl Tools for Counter {
    fn runner(&self, _: &str) -> Rc<dyn ToolRunner> {
        Rc::new(Self(self.0.clone()))
    }
}

impl ToolRunner for Counter {
    fn offers<'a>(&'a self, _: &'a [String]) -> LocalFuture<'a, Vec<ToolOffer>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn policy(&self, _: &str) -> EffectPolicy {
        EffectPolicy::Ambiguous
    }

    fn call<'a>(&'a self, call: &'a ToolCall) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        Box::pin(async move {
            match &*call.name {
                "count" => {
                    let calls = self.0.tools.fetch_add(1, Ordering::SeqCst) + 1;
                    Ok(ToolOutput::text(format!("{calls} calls")))
                }
                other => Err(Failure::new("tool_unknown", format!("there is no tool `{other}`"))),
            }
        })
    }
}

/// What a world is made of. Everything but the store and the script is as in production, unless changed.
pub struct Recipe {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub script: Arc<Script>,
    pub workflows: Arc<dyn Workflows>,
    pub limits: RunLimits,
    pub cap: u32,
    pub workers: u32,
}

impl Recipe {
    pub fn over(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let script = Arc::<Script>::default();
        let workflows = Arc::new(FleetWorkflows);
        Self { store, clock, script, workflows, limits: RunLimits::default(), cap: 64, workers: 1 }
    }

    /// The runtime alone, on this thread.
    pub fn sessions(&self) -> Sessions {
        let arbiter = actix::Arbiter::current();
        let failed = Arc::new(|text: &str| panic!("{text}"));
        let services = Services {
            meter: Arc::default(),
            tracer: None,
            checkpoints: CheckpointActor::start_on(&arbiter, self.store.clone(), failed),
            store: self.store.clone(),
            clock: self.clock.clone(),
            agents: Arc::new(Clients(self.script.clone())),
            tools: Arc::new(Counter(self.script.clone())),
            cache: Arc::new(fleet_actors::cache::MemoryCache::new(
                Arc::new(fleet_actors::testing::ManualClock::default()),
                16,
            )),
            workflows: self.workflows.clone(),
            logs: Logs::new(64),
            limits: self.limits.clone(),
        };
        Sessions::start_on(&arbiter, services, Admission::new(self.cap))
    }

    /// The runtime behind its doors.
    pub fn serve(self) -> World {
        let flags = Flags { profile: Some("test".to_owned()), ..Flags::default() };
        let mut settings = Settings::load(&Sources { flags, ..Sources::default() }).unwrap().settings;
        settings.server.workers = serde_json::from_value(self.workers.into()).unwrap();
        let sessions = self.sessions();
        let connections = Connections::new(settings.server.connections_max.as_usize());
        let workflow_config = workflow_config().into();
        let api = Api { sessions: sessions.clone(), settings: Arc::new(settings), workflow_config, connections };
        let app = Application::bind(api.clone(), Metrics::default()).unwrap();
        let (address, server) = (SocketAddr::from(([127, 0, 0, 1], app.port())), app.handle());
        actix_web::rt::spawn(app.run_until_stopped());
        World { address, api, sessions, script: self.script, server }
    }
}

pub struct World {
    pub address: SocketAddr,
    pub api: Api,
    pub sessions: Sessions,
    pub script: Arc<Script>,
    pub server: ServerHandle,
}

/// Waits until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let poll = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(1)).await; // allow-sleep: polls a condition under a deadline
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

/// What a scripted model panics with.
const ASKED: &str = "as asked";

/// Keeps panics of the scripted model off the terminal; others print as ever.
pub fn silence_panics_that_were_asked_for() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<String>().is_none_or(|text| text != ASKED) {
            default(info);
        }
    }));
}

/// File descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

pub fn workflow_config() -> Value {
    let config = WorkflowConfig::of_one(Agent::new("assistant", "test", "answer"));
    serde_json::to_value(config).unwrap()
}
