//! The real server on a free port, over a store in memory and a model that says what its message asks for.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::web::Data;
use actix_web::{App, HttpServer};
use agentic_fleet::agents::Agent;
use agentic_fleet::api::connections::{Connections, settle};
use agentic_fleet::api::{Api, chat_sse, chat_ws, workflow_events};
use agentic_fleet::settings::{Settings, Sources};
use agentic_fleet::workflow::{FleetWorkflows, WorkflowConfig};
use fleet_actors::admission::Admission;
use fleet_actors::cache::MemoryCache;
use fleet_actors::checkpoint::CheckpointActor;
use fleet_actors::event::Channel;
use fleet_actors::ids::Timestamp;
use fleet_actors::limits::RunLimits;
use fleet_actors::ports::{
    AgentClients, LocalFuture, ModelCall, ModelClient, ModelDelta, ModelError, ModelReply, ReasoningEffort, Workflows,
};
use fleet_actors::sessions::Sessions;
use fleet_actors::stream::Logs;
use fleet_actors::supervisor::Services;
use fleet_actors::testing::{ManualClock, MemoryStore, NoTools};
use tokio::sync::Semaphore;

/// Nothing here takes longer, unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// What the model says: `wait` says `one`, waits for [`Script::gate`] and says `two`; `flood` says 4 MiB; anything else
/// is answered at once with a thought and two pieces.
#[derive(Default)]
pub struct Script {
    pub calls: AtomicUsize,
    pub gate: Gate,
}

pub struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Gate {
    pub fn open(&self) {
        self.0.add_permits(1);
    }
}

struct Model(Arc<Script>);

impl ModelClient for Model {
    fn call<'a>(
        &'a self,
        call: &'a ModelCall,
        deltas: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>> {
        Box::pin(async move {
            self.0.calls.fetch_add(1, Ordering::SeqCst);
            let asked = call.request.context.messages().last().map(|message| message.content.clone());
            let mut reply = ModelReply::default();
            let mut say = |channel, piece: &str| {
                deltas(ModelDelta { channel, text: piece.to_owned() });
                match channel {
                    Channel::Text => reply.text.push_str(piece),
                    Channel::Reasoning => reply.reasoning.push_str(piece),
                }
            };
            match asked.as_deref() {
                Some("wait") => {
                    say(Channel::Text, "one ");
                    if let Ok(permit) = self.0.gate.0.acquire().await {
                        permit.forget();
                    }
                    say(Channel::Text, "two");
                }
                Some("flood") => {
                    let piece = "x".repeat(16 << 10);
                    for _ in 0..(4 << 20) / piece.len() {
                        say(Channel::Text, &piece);
                        tokio::task::yield_now().await;
                    }
                }
                _ => {
                    say(Channel::Reasoning, "hm");
                    say(Channel::Text, "Hel");
                    say(Channel::Text, "lo");
                }
            }
            Ok(reply)
        })
    }
}

impl AgentClients for Model {
    fn client(&self, _: Option<ReasoningEffort>) -> Rc<dyn ModelClient> {
        Rc::new(Self(self.0.clone()))
    }
}

pub struct TestApp {
    pub address: SocketAddr,
    pub api: Api,
    pub script: Arc<Script>,
    server: actix_web::dev::ServerHandle,
}

pub fn settings() -> Settings {
    let mut sources = Sources::default();
    sources.environment.insert("FLEET_PROFILE".to_owned(), "test".to_owned());
    Settings::load(&sources).unwrap_or_else(|error| panic!("{error}")).settings
}

pub async fn app() -> TestApp {
    TestApp::with(|_| {}).await
}

impl TestApp {
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::with_workflows(Arc::new(FleetWorkflows), change).await
    }

    pub async fn with_workflows(workflows: Arc<dyn Workflows>, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let script = Arc::<Script>::default();
        let api = api(settings, script.clone(), workflows);
        let data = api.clone();
        let server_settings = api.settings.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(Data::new(data.clone()))
                .configure(chat_ws::routes)
                .configure(chat_sse::routes)
                .configure(workflow_events::routes)
        })
        .workers(1)
        .h1_allow_half_closed(false)
        .on_connect(move |connection, _| settle(connection, &server_settings.server))
        .bind(("127.0.0.1", 0))
        .expect("a port");
        let address = server.addrs()[0];
        let server = server.disable_signals().run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Self { address, api, script, server: handle }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Runs that hold a permit.
    pub fn live(&self) -> u32 {
        self.api.sessions.admission().live()
    }

    pub fn calls(&self) -> usize {
        self.script.calls.load(Ordering::SeqCst)
    }

    pub async fn stop(self) {
        self.server.stop(false).await;
    }
}

/// Waits until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let poll = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await; // allow-sleep: polls a condition under a deadline
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

fn api(settings: Settings, script: Arc<Script>, workflows: Arc<dyn Workflows>) -> Api {
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let arbiter = actix::Arbiter::current();
    let limits = RunLimits {
        disconnect_grace: settings.sessions.disconnect_grace_ms.duration(),
        text_bytes_max: 64 << 20,
        rebuilds_max: settings.sessions.rebuilds_max.as_u32(),
        rebuild_window: settings.sessions.rebuild_window_ms.duration(),
        ..RunLimits::default()
    };
    let services = Services {
        meter: Arc::default(),
        tracer: None,
        store: store.clone(),
        checkpoints: CheckpointActor::start_on(&arbiter, store, Arc::new(|text| panic!("{text}"))),
        clock,
        agents: Arc::new(Model(script)),
        tools: Arc::new(NoTools),
        cache: Arc::new(MemoryCache::new(Arc::new(ManualClock::default()), 16)),
        workflows,
        logs: Logs::new(settings.sessions.watchers_per_run_max.as_usize()),
        limits,
    };
    let admission = Admission::new(settings.sessions.max_concurrent_workflows.as_u32());
    let config = WorkflowConfig::of_one(Agent::new("Writer", "scripted", "Answer."));
    Api {
        sessions: Sessions::start_on(&arbiter, services, admission),
        connections: Connections::new(settings.server.connections_max.get() as usize),
        settings: Arc::new(settings),
        workflow_config: serde_json::to_value(config).expect("json").into(),
    }
}
