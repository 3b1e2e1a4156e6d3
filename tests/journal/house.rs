//! A runtime over a SQLite store in a directory, with a workflow as long as its message says and tools that count.
//!
//! The bench of resumes uses it, too.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentic_fleet::settings::Durability;
use agentic_fleet::storage::{SqliteOptions, SqliteStore};
use fleet_actors::admission::Admission;
use fleet_actors::checkpoint::CheckpointActor;
use fleet_actors::event::{Audience, Failure};
use fleet_actors::ids::{Seq, Timestamp, WorkflowId};
use fleet_actors::journal::Context;
use fleet_actors::limits::RunLimits;
use fleet_actors::ports::{
    AgentClients, ChatMessage, EffectPolicy, LocalFuture, ModelCall, ModelClient, ModelDelta, ModelError, ModelReply,
    ModelRequest, NewWorkflow, OnDisconnect, OutputForm, ReasoningEffort, Role, RunOutput, TaskInput, ToolCall,
    ToolOffer, ToolOutput, ToolRunner, Tools, WorkflowFn, Workflows,
};
use fleet_actors::sessions::{EventStream, Sessions, StartTurn};
use fleet_actors::stream::Logs;
use fleet_actors::supervisor::Services;
use fleet_actors::testing::{ManualClock, plain};
use fleet_actors::turn::{StepResult, ToolAsk, Turn};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// Nothing here takes longer, unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// As many calls of the tool `look` as the message says, then one of `wait`. With mode `rounds`, a model speaks before
/// each call and is shown all that was said.
fn program<'a>(turn: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(run(turn, input, None))
}

/// The same code after a change that its author forgot to give a new version: call 500 asks for something else.
fn changed_program<'a>(turn: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(run(turn, input, Some(500)))
}

async fn run(turn: &mut Turn, input: &TaskInput, changed_at: Option<u64>) -> StepResult<RunOutput> {
    let calls: u64 = input.message.parse().map_err(|_| Failure::new("internal", "the message is a number"))?;
    let speaks = input.mode.as_deref() == Some("rounds");
    let mut context = Context::of([ChatMessage::new(Role::User, "look at everything")]);
    for n in 0..calls {
        if speaks {
            let reply = turn.model("think", request(context.clone())).await?;
            context = context.with(ChatMessage::new(Role::Assistant, reply.text));
        }
        let what = if changed_at == Some(n) { "something else" } else { "a thing" };
        let seen = turn.tool("call", ToolAsk::new("look", json!({ "at": n, "what": what }))).await?;
        if speaks {
            context = context.with(ChatMessage::new(Role::Tool, seen.text));
        }
    }
    turn.tool("last", ToolAsk::new("wait", json!({}))).await?;
    Ok(RunOutput { text: format!("looked {calls} times"), ..RunOutput::default() })
}

fn request(context: Context) -> ModelRequest {
    ModelRequest {
        model: "scripted".into(),
        agent: None,
        audience: Audience::Workflow,
        context,
        tools: Arc::from([]),
        output: OutputForm::Text,
        temperature: None,
        max_output_tokens: None,
    }
}

struct Programs(WorkflowFn);

impl Workflows for Programs {
    fn find(&self, name: &str, version: u32) -> Option<WorkflowFn> {
        (name == "long" && version == 1).then_some(self.0)
    }
}

/// What reached the world.
pub struct World {
    /// The number of each look, in order.
    looks: Mutex<Vec<u64>>,
    thoughts: AtomicU64,
    /// Calls of `wait` that have come.
    waiting: Semaphore,
    /// Lets one of them go on.
    gate: Semaphore,
}

impl World {
    pub fn looks(&self) -> Vec<u64> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn thoughts(&self) -> u64 {
        self.thoughts.load(Ordering::Relaxed)
    }

    /// Waits until a run has come to its last call.
    pub async fn at_its_end(&self) {
        let come = tokio::time::timeout(DEADLINE, self.waiting.acquire()).await;
        come.expect("the last call in time").expect("the world is there").forget();
    }

    pub fn open_gate(&self) {
        self.gate.add_permits(1);
    }
}

struct Outside(Arc<World>);

impl ToolRunner for Outside {
    fn offers<'a>(&'a self, _: &'a [String]) -> LocalFuture<'a, Vec<ToolOffer>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn policy(&self, _: &str) -> EffectPolicy {
        EffectPolicy::SafeToRepeat
    }

    fn call<'a>(&'a self, call: &'a ToolCall) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        Box::pin(async move {
            if &*call.name == "wait" {
                self.0.waiting.add_permits(1);
                if let Ok(gone_on) = self.0.gate.acquire().await {
                    gone_on.forget();
                }
                return Ok(ToolOutput::default());
            }
            let at = call.arguments["at"].as_u64().unwrap_or_default();
            self.0.looks.lock().unwrap_or_else(PoisonError::into_inner).push(at);
            Ok(ToolOutput::text(format!("{at}: {at:0200}")))
        })
    }
}

impl Tools for Outside {
    fn runner(&self, _: &str) -> Rc<dyn ToolRunner> {
        Rc::new(Self(self.0.clone()))
    }
}

impl ModelClient for Outside {
    fn call<'a>(
        &'a self,
        _: &'a ModelCall,
        _: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>> {
        let n = self.0.thoughts.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { Ok(ModelReply { text: format!("thought {n:0100}"), ..ModelReply::default() }) })
    }
}

impl AgentClients for Outside {
    fn client(&self, _: Option<ReasoningEffort>) -> Rc<dyn ModelClient> {
        Rc::new(Self(self.0.clone()))
    }
}

/// A runtime; another one can be made over the same directory when it was closed.
pub struct House {
    pub sessions: Sessions,
    pub world: Arc<World>,
    arbiter: actix::Arbiter,
}

impl House {
    pub fn open(dir: &Path) -> Self {
        Self::with(dir, program)
    }

    /// The binary after its workflow was changed.
    pub fn open_with_changed_code(dir: &Path) -> Self {
        Self::with(dir, changed_program)
    }

    fn with(dir: &Path, program: WorkflowFn) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
        // Syncs prove nothing here and cost much.
        let options = SqliteOptions { durability: Durability::Process, ..SqliteOptions::new(dir) };
        let store = Arc::new(SqliteStore::open(&options, clock.clone()).expect("the store opens"));
        let arbiter = actix::Arbiter::new();
        let world = Arc::new(World {
            looks: Mutex::default(),
            thoughts: AtomicU64::new(0),
            waiting: Semaphore::new(0),
            gate: Semaphore::new(0),
        });
        let on_failed = Arc::new(|reason: &str| panic!("{reason}"));
        let services = Services {
            meter: Arc::default(),
            tracer: None,
            store: store.clone(),
            checkpoints: CheckpointActor::start_on(&arbiter.handle(), store, on_failed),
            clock,
            agents: Arc::new(Outside(world.clone())),
            tools: Arc::new(Outside(world.clone())),
            cache: Arc::new(fleet_actors::cache::MemoryCache::new(
                Arc::new(fleet_actors::testing::ManualClock::default()),
                16,
            )),
            workflows: Arc::new(Programs(program)),
            logs: Logs::new(64),
            limits: RunLimits::default(),
        };
        let sessions = Sessions::start_on(&arbiter.handle(), services, Admission::new(64));
        Self { sessions, world, arbiter }
    }

    /// Starts a run of so many calls and waits until it stands at its last.
    pub async fn run_to_its_end(&self, calls: u64, mode: Option<&str>) -> WorkflowId {
        let workflow = WorkflowId::generate();
        let input = TaskInput { mode: mode.map(str::to_owned), ..plain::task(&calls.to_string()) };
        let made = plain::made("long", "a long task", Timestamp(1_700_000_000_000));
        let made = NewWorkflow { on_disconnect: OnDisconnect::Continue, ..made };
        let (config, message) = (Value::Null.into(), None);
        let turn = StartTurn { workflow: workflow.clone(), made, input, config, message, detached: true };
        let permit = self.sessions.admit().expect("a permit");
        drop(self.sessions.start(turn, permit).await.expect("started"));
        self.world.at_its_end().await;
        workflow
    }

    pub async fn watch(&self, workflow: &WorkflowId) -> EventStream {
        self.sessions.watch(workflow, Seq(0)).await.expect("a stream")
    }

    /// Stops as a process that drains does; the directory can be opened again.
    pub async fn close(self) {
        self.sessions.drain(true).await.expect("drained");
        let end = tokio::time::Instant::now() + DEADLINE;
        while self.sessions.admission().live() > 0 {
            assert!(tokio::time::Instant::now() < end, "every run rests in time");
            tokio::time::sleep(Duration::from_millis(1)).await; // allow-sleep: polls a condition under a deadline
        }
        let Self { sessions, arbiter, .. } = self;
        drop(sessions);
        arbiter.stop();
        let joined = tokio::task::spawn_blocking(move || arbiter.join()).await;
        joined.expect("joined").expect("its actors ended");
    }
}

/// The database of a closed house, to look into.
pub fn database(dir: &Path) -> PathBuf {
    SqliteOptions::new(dir).database
}
