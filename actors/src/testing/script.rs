//! A run of one workflow over scripted ports, on paused time and a store in memory.
//!
//! [`Script::run`] drives the function to its end as a supervisor would, a park and its wake included, and keeps what was
//! seen: events, calls, result. [`Ran::replay`] runs it again from the journal and panics unless it gives the same and
//! makes no call; [`Ran::crashed_after`] is the life after a process that died at some record.
//!
//! Absent on purpose: actors, admission, a server. What needs those is a test of the binary.

#![expect(clippy::wildcard_enum_match_arm, reason = "views of a run name the events that they look at")]

mod ran;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::MemoryStore;
use crate::cache::MemoryCache;
use crate::event::{Answer, Channel, EventBody, Failure, Question};
use crate::ids::{ConversationId, Epoch, Position, Seq, Timestamp, WorkflowId};
use crate::journal::{Past, Positioned, Record, StepState, encode};
use crate::limits::RunLimits;
use crate::meter::Meter;
use crate::ports::{
    Append, Cache, ChildRun, Claim, Clock, Command, EffectPolicy, LocalFuture, MessageRow, ModelCall, ModelClient,
    ModelDelta, ModelError, ModelReply, NewWorkflow, Next, OnDisconnect, Outcome, Posted, Role, Store, StoreError,
    StoreWrite, TaskInput, ToolCall, ToolOffer, ToolOutput, ToolRunner, WorkflowFn, Written,
};
use crate::sessions::stored_events;
use crate::stream::{Logs, Seen, Watcher};
use crate::supervisor::{Fresh, LifeEnd, LifeInputs, Signal, Writer, live, read_records};
use crate::trace::Tracer;
use crate::turn::RunPorts;

pub use self::ran::{Continued, Ran};

/// What a scripted model does with a call.
#[derive(Clone, Debug)]
pub struct Reply {
    /// How long it takes.
    pub after: Duration,
    /// What comes of it; its text is streamed as one piece.
    pub result: Result<ModelReply, ModelError>,
}

impl Reply {
    /// The same, later.
    #[must_use]
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}

impl From<ModelReply> for Reply {
    fn from(reply: ModelReply) -> Self {
        Self { after: Duration::from_millis(10), result: Ok(reply) }
    }
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        ModelReply { text: text.to_owned(), ..ModelReply::default() }.into()
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        let error = ModelError { failure, retry_in: None };
        Self { after: Duration::from_millis(10), result: Err(error) }
    }
}

type ModelScript = Rc<dyn Fn(&ModelCall) -> Reply>;
type ToolScript = Rc<dyn Fn(&ToolCall) -> (Duration, Result<ToolOutput, Failure>)>;
type Human = Rc<dyn Fn(&Question) -> Option<Value>>;

/// A run to be made. A run without a model fails its calls with `provider_unavailable`.
#[derive(Clone)]
pub struct Script {
    function: WorkflowFn,
    config: Value,
    input: TaskInput,
    said: Vec<(Role, String)>,
    limits: RunLimits,
    ports: Ports,
}

#[derive(Clone)]
struct Ports {
    model: ModelScript,
    tools: ToolScript,
    offers: Vec<ToolOffer>,
    human: Human,
    human_after: Duration,
    cache: Arc<dyn Cache>,
    model_calls: Rc<RefCell<Vec<ModelCall>>>,
    tool_calls: Rc<RefCell<Vec<ToolCall>>>,
    meter: Arc<Meter>,
    tracer: Option<Arc<dyn Tracer>>,
}

impl Script {
    /// A run of `function` with the message `message` and the pinned `config`.
    #[must_use]
    pub fn new(function: WorkflowFn, message: &str, config: Value) -> Self {
        let unavailable = || Failure::new("provider_unavailable", "the script has no model");
        let unknown = |call: &ToolCall| Failure::new("tool_unknown", format!("the script has no tool {}", call.name));
        let input = TaskInput {
            message: message.to_owned(),
            conversation: None,
            mode: None,
            additional_context: None,
            principal: TaskInput::local(),
            checkpoints_listed: true,
            traceparent: None,
        };
        let ports = Ports {
            model: Rc::new(move |_| unavailable().into()),
            tools: Rc::new(move |call| (Duration::ZERO, Err(unknown(call)))),
            offers: Vec::new(),
            human: Rc::new(|_| None),
            human_after: Duration::ZERO,
            meter: Arc::default(),
            tracer: None,
            cache: Arc::new(MemoryCache::new(Arc::new(super::ManualClock::default()), 64)),
            model_calls: Rc::default(),
            tool_calls: Rc::default(),
        };
        Self { function, config, input, said: Vec::new(), limits: RunLimits::default(), ports }
    }

    /// Changes what the run is given.
    #[must_use]
    pub fn input(mut self, change: impl FnOnce(&mut TaskInput)) -> Self {
        change(&mut self.input);
        self
    }

    /// Something that was said in the run's conversation before it; the conversation is made for it.
    #[must_use]
    pub fn said(mut self, role: Role, text: &str) -> Self {
        self.input.conversation.get_or_insert_with(|| ConversationId::from_trusted("scripted"));
        self.said.push((role, text.to_owned()));
        self
    }

    /// Changes what the run may use.
    #[must_use]
    pub fn limits(mut self, change: impl FnOnce(&mut RunLimits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// What models answer.
    #[must_use]
    pub fn model<R: Into<Reply>>(mut self, script: impl Fn(&ModelCall) -> R + 'static) -> Self {
        self.ports.model = Rc::new(move |call| script(call).into());
        self
    }

    /// The tools that exist, and what they give. Every call takes `after`.
    #[must_use]
    pub fn tools(
        mut self,
        offers: Vec<ToolOffer>,
        after: Duration,
        script: impl Fn(&ToolCall) -> Result<ToolOutput, Failure> + 'static,
    ) -> Self {
        self.ports.offers = offers;
        self.ports.tools = Rc::new(move |call| (after, script(call)));
        self
    }

    /// What the human answers; `None` leaves the question open.
    #[must_use]
    pub fn human(mut self, script: impl Fn(&Question) -> Option<Value> + 'static) -> Self {
        self.ports.human = Rc::new(script);
        self
    }

    /// How long the human thinks; a run may be parked meanwhile.
    #[must_use]
    pub fn human_after(mut self, after: Duration) -> Self {
        self.ports.human_after = after;
        self
    }

    /// What runs share: by default each run has a cache of its own whose entries never grow old.
    #[must_use]
    pub fn cache(mut self, cache: Arc<dyn Cache>) -> Self {
        self.ports.cache = cache;
        self
    }

    /// Who takes the spans of its lives.
    #[must_use]
    pub fn tracer(mut self, tracer: Arc<dyn Tracer>) -> Self {
        self.ports.tracer = Some(tracer);
        self
    }

    /// Runs it to its end, on a runtime of its own whose time is paused.
    ///
    /// # Panics
    /// If the run does not end: it rests, panics or parks for ever.
    #[must_use]
    pub fn run(self) -> Ran {
        self.ports.model_calls.take();
        self.ports.tool_calls.take();
        paused(async move { self.run_here().await })
    }

    async fn run_here(self) -> Ran {
        let clock: Arc<dyn Clock> = Arc::new(PausedClock::at(BEGINNING, 0));
        let store = MemoryStore::new(clock.clone());
        self.write_history(&store, clock.now()).await;
        let began = Instant::now();
        self.lives(&store, &clock).await;
        self.ran(&store, &run_id(), began.elapsed()).await
    }

    /// Life after life until the run is over.
    async fn lives(&self, store: &MemoryStore, clock: &Arc<dyn Clock>) {
        let workflow = run_id();
        let writer = Rc::new(StoreWriter(store.clone()));
        for _ in 0..64 {
            let records = read_records(store, &workflow).await.unwrap_or_else(|error| panic!("{error}"));
            let past = Past::of(&records).unwrap_or_else(|error| panic!("{error}"));
            let end = self.life(&workflow, past, records.is_empty(), store, clock.clone(), writer.clone()).await;
            match end {
                LifeEnd::Ended(_) => return,
                LifeEnd::Parked => {
                    let row = store.workflow(&workflow).await.ok().flatten();
                    let wake_at = row.and_then(|row| row.wake_at).unwrap_or_else(|| panic!("it parked for ever"));
                    // A minute is soon enough to notice what a human has said meanwhile.
                    while clock.now() < wake_at && store.inbox(&workflow).await.is_ok_and(|inbox| inbox.is_empty()) {
                        tokio::time::sleep(wake_at.since(clock.now()).min(Duration::from_secs(60))).await;
                    }
                }
                other => panic!("a life ended as {other:?}"),
            }
        }
        panic!("64 lives were not enough")
    }

    async fn write_history(&self, store: &MemoryStore, at: Timestamp) {
        let Some(conversation) = self.input.conversation.clone().filter(|_| !self.said.is_empty()) else { return };
        let workflow = WorkflowId::from_trusted("earlier-run");
        let messages = self.said.iter().enumerate().map(|(n, (role, text))| MessageRow {
            id: format!("said-{n}").into(),
            conversation: conversation.clone(),
            role: *role,
            content: text.clone(),
            created_at: at,
            author: None,
            agent_id: None,
            workflow: Some(workflow.clone()),
            finish_reason: None,
            quality: None,
        });
        let began = Positioned {
            position: Position(1),
            epoch: Epoch(0),
            seq: None,
            path: Arc::from(""),
            record: Record::Began { at, owner: 0 },
            body: None,
        };
        let append = Append {
            claim: Claim { workflow: workflow.clone(), epoch: Epoch(0) },
            after: Position(0),
            create: Some(Box::new(made(&self.input, at))),
            records: vec![encode(&began)],
            messages: messages.collect(),
            opened: Vec::new(),
            closed: Vec::new(),
            children: Vec::new(),
            runtime: Duration::ZERO,
            next: Next::Running,
        };
        let outcomes = store.commit(vec![append]).await.unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(outcomes[..], [Outcome::Done { .. }]), "{outcomes:?}");
    }

    /// What an earlier process left of the run, life by life.
    async fn write_journal(&self, store: &MemoryStore, records: &[Positioned], at: Timestamp) {
        let mut after = Position(0);
        for life in records.chunk_by(|one, next| one.epoch == next.epoch) {
            let (Some(first), Some(last)) = (life.first(), life.last()) else { continue };
            let append = Append {
                claim: Claim { workflow: run_id(), epoch: first.epoch },
                after,
                create: (after == Position(0)).then(|| Box::new(made(&self.input, at))),
                records: life.iter().map(encode).collect(),
                messages: Vec::new(),
                opened: Vec::new(),
                closed: Vec::new(),
                children: Vec::new(),
                runtime: Duration::ZERO,
                next: Next::Running,
            };
            after = last.position;
            let outcomes = store.commit(vec![append]).await.unwrap_or_else(|error| panic!("{error}"));
            assert!(matches!(outcomes[..], [Outcome::Done { .. }]), "{outcomes:?}");
        }
    }

    /// One life of the run. Questions are put to the scripted human as soon as they are visible.
    async fn life(
        &self,
        workflow: &WorkflowId,
        past: Past,
        fresh: bool,
        store: &MemoryStore,
        clock: Arc<dyn Clock>,
        writer: Rc<dyn Writer>,
    ) -> LifeEnd {
        let log = Logs::new(8).open(workflow);
        let mut watcher = Watcher::new(log.clone(), Seq(0)).unwrap_or_else(|error| panic!("{error}"));
        watcher.skip_to(past.last_seq);
        let (signals, mut inbox) = mpsc::channel(16);
        let asked_before = past.steps.values().filter_map(|step| match &step.state {
            StepState::Asked(question) => Some(question.clone()),
            _ => None,
        });
        let (ports, store_, run) = (self.ports.clone(), store.clone(), workflow.clone());
        let answer = move |question: &Question| {
            let Some(answer) = (ports.human)(question) else { return };
            let (store, run, after, signals) = (store_.clone(), run.clone(), ports.human_after, signals.clone());
            let request_id = question.request_id.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(after).await;
                let answer = Answer::Given(answer);
                let command = Command::Answer { request_id: request_id.clone(), answer };
                // A life that takes an open question over opens it again with its first append.
                for _ in 0..100 {
                    let post = StoreWrite::Post { workflow: run.clone(), command: command.clone() };
                    match store.write(post).await {
                        Ok(Written::Posted(Posted::Unknown) | Written::NotFound) => {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        _ => break,
                    }
                }
                let _ = signals.send(Signal::Inbox).await;
            });
        };
        asked_before.for_each(|question| answer(&question));
        let answers = tokio::task::spawn_local(async move {
            while let Seen::Events(events) = watcher.next().await {
                for event in events {
                    if let EventBody::Asked { question, .. } = &event.body {
                        answer(question);
                    }
                }
            }
            // A life whose every signal is gone would spin on a closed channel.
            std::future::pending::<()>().await;
        });
        let inputs = LifeInputs {
            workflow: workflow.clone(),
            made: made(&self.input, clock.now()),
            epoch: if fresh { Epoch(0) } else { past.next_epoch() },
            past,
            runtime: Duration::ZERO,
            fresh: fresh.then(|| Fresh {
                input: self.input.clone(),
                config: self.config.clone().into(),
                message: None,
            }),
            detached: true,
            function: self.function,
            ports: RunPorts {
                clock,
                model: Rc::new(self.ports.clone()),
                tools: Rc::new(self.ports.clone()),
                store: Arc::new(store.clone()),
                cache: self.ports.cache.clone(),
                meter: self.ports.meter.clone(),
                tracer: self.ports.tracer.clone(),
            },
            limits: self.limits.clone(),
            log,
            writer,
            bore: Rc::default(),
            release: Rc::new(|| {}),
            started: Rc::default(),
        };
        let end = live(inputs, &mut inbox).await;
        answers.abort();
        end
    }

    async fn ran(self, store: &MemoryStore, workflow: &WorkflowId, took: Duration) -> Ran {
        let broken = |error: StoreError| -> ! { panic!("{error}") };
        let events = stored_events(store, workflow, Seq(0)).await.unwrap_or_else(|error| broken(error));
        let history = store.history_entry(workflow).await.unwrap_or_else(|error| broken(error));
        let history = history.unwrap_or_else(|| panic!("a finished run has no history row"));
        let records = read_records(store, workflow).await.unwrap_or_else(|error| broken(error));
        let model_calls = self.ports.model_calls.take();
        let tool_calls = self.ports.tool_calls.take();
        let mut children = Vec::new();
        for row in store.adopt_children(Timestamp(i64::MAX), 64).await.unwrap_or_else(|error| broken(error)) {
            let records = read_records(store, &row.workflow).await.unwrap_or_else(|error| broken(error));
            let past = Past::of(&records).unwrap_or_else(|error| panic!("{error}"));
            let input = past.input.unwrap_or_else(|| panic!("a child was given nothing"));
            children.push(ChildRun { name: row.made.name, version: row.made.version, input });
        }
        let used = self.ports.meter.totals();
        Ran { events, history, records, children, model_calls, tool_calls, used, took, script: self }
    }
}

fn run_id() -> WorkflowId {
    WorkflowId::from_trusted("scripted-run")
}

fn made(input: &TaskInput, at: Timestamp) -> NewWorkflow {
    NewWorkflow {
        name: "scripted".into(),
        version: 1,
        conversation: input.conversation.clone(),
        task: input.message.as_str().into(),
        effort: None,
        request: None,
        on_disconnect: OnDisconnect::Continue,
        created_at: at,
        child_of: None,
    }
}

fn paused<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let limit = Duration::from_secs(30 * 86_400);
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("the run did not end"))
    })
}

impl ModelClient for Ports {
    fn call<'a>(
        &'a self,
        call: &'a ModelCall,
        deltas: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>> {
        Box::pin(async move {
            self.model_calls.borrow_mut().push(call.clone());
            let Reply { after, result } = (self.model)(call);
            tokio::time::sleep(after).await;
            let reply = result?;
            if !reply.text.is_empty() {
                deltas(ModelDelta { channel: Channel::Text, text: reply.text.clone() });
            }
            Ok(reply)
        })
    }
}

impl ToolRunner for Ports {
    fn offers<'a>(&'a self, names: &'a [String]) -> LocalFuture<'a, Vec<ToolOffer>> {
        let named = names.iter().flat_map(|name| self.offers.iter().filter(move |offer| offer.spec.name == *name));
        Box::pin(std::future::ready(named.cloned().collect()))
    }

    fn policy(&self, tool: &str) -> EffectPolicy {
        let offer = self.offers.iter().find(|offer| offer.spec.name == tool);
        offer.map_or(EffectPolicy::Ambiguous, |offer| offer.effect)
    }

    fn call<'a>(&'a self, call: &'a ToolCall) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        Box::pin(async move {
            self.tool_calls.borrow_mut().push(call.clone());
            let (after, result) = (self.tools)(call);
            tokio::time::sleep(after).await;
            result
        })
    }
}

/// Paused time as wall time, and repeatable chance.
struct PausedClock {
    began: Instant,
    at: Timestamp,
    chance: AtomicU64,
}

impl PausedClock {
    fn at(at: Timestamp, chance: u64) -> Self {
        Self { began: Instant::now(), at, chance: AtomicU64::new(chance) }
    }
}

/// When scripted runs begin.
const BEGINNING: Timestamp = Timestamp(1_800_000_000_000);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        self.at.after(self.began.elapsed())
    }

    fn random(&self) -> u64 {
        let n = self.chance.fetch_add(1, Ordering::Relaxed);
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

struct StoreWriter(MemoryStore);

impl Writer for StoreWriter {
    fn append(&self, append: Append) -> LocalFuture<'static, Result<Outcome, StoreError>> {
        let store = self.0.clone();
        Box::pin(async move {
            let outcome = store.commit(vec![append]).await?.pop();
            outcome.ok_or_else(|| StoreError::Unavailable("no outcome".to_owned()))
        })
    }

    fn write(&self, write: StoreWrite) -> LocalFuture<'static, Result<Written, StoreError>> {
        let store = self.0.clone();
        Box::pin(async move { store.write(write).await })
    }
}
