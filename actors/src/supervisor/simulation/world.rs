//! The world around simulated lives: the store, the model, the tools, the human, and what befalls them.

#![expect(clippy::wildcard_enum_match_arm, reason = "checks name the records they look at")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future as _;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::End;
use super::client::Client;
use super::program::{Dice, draw, timing_free, workflow};
use crate::cache::MemoryCache;
use crate::event::{Answer, Channel, EventBody, Failure, LogEvent, Usage};
use crate::ids::{Epoch, Seq, Timestamp, WorkflowId};
use crate::journal::{Past, Record};
use crate::limits::RunLimits;
use crate::ports::{
    Append, Clock, Command, EffectPolicy, LocalFuture, ModelCall, ModelClient, ModelDelta, ModelError, ModelReply,
    NewWorkflow, OnDisconnect, Outcome, Store, StoreError, StoreWrite, ToolCall, ToolOffer, ToolOutput, ToolRunner,
    WorkflowState, Written,
};
use crate::sessions::stored_events;
use crate::stream::{Logs, Seen, Watcher};
use crate::supervisor::{Fresh, LifeEnd, LifeInputs, Signal, Writer, live, load, read_records};
use crate::testing::{CommitFault, MemoryStore, plain};
use crate::turn::RunPorts;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Faults {
    None,
    Drawn,
}

/// Paused time as wall time.
struct SimClock(Instant, std::sync::Mutex<Dice>);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000).after(self.0.elapsed())
    }

    fn random(&self) -> u64 {
        self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next()
    }
}

/// The other ends of the ports, shared by every life.
struct Outside {
    store: MemoryStore,
    workflow: WorkflowId,
    seed: u64,
    /// The first rule that was seen broken.
    broken: RefCell<Option<String>>,
}

impl Outside {
    fn dice(&self, salt: &str) -> Dice {
        let mut dice = Dice(self.seed);
        for byte in salt.bytes() {
            dice.0 ^= u64::from(byte);
            dice.next();
        }
        dice
    }

    fn breaks(&self, rule: String) {
        self.broken.borrow_mut().get_or_insert(rule);
    }

    /// A dispatch must have a durable intent, and no durable result.
    fn dispatched(&self, key: &str, attempt: u32) {
        let Some(Ok(records)) = read_records(&self.store, &self.workflow).now_or_never() else {
            return self.breaks("the store in memory did not answer at once".into());
        };
        let intent = records.iter().find_map(|entry| match &entry.record {
            Record::StepStarted { key: had, attempt: n, .. } if **had == *key && *n == attempt => {
                Some(entry.path.clone())
            }
            _ => None,
        });
        let Some(path) = intent else {
            return self.breaks(format!("attempt {attempt} of {key} was dispatched without a durable intent"));
        };
        let ended = |record: &Record| matches!(record, Record::StepCompleted { .. } | Record::StepFailed { .. });
        if records.iter().any(|entry| entry.path == path && ended(&entry.record)) {
            self.breaks(format!("{path} was dispatched although it has a result"));
        }
    }
}

impl Outside {
    /// Every attempt of an ambiguous effect before this one must have been followed by a human's word to repeat it.
    fn repeated(&self, key: &str, attempt: u32) {
        let Some(Ok(records)) = read_records(&self.store, &self.workflow).now_or_never() else { return };
        let starts = records.iter().filter_map(|entry| match &entry.record {
            Record::StepStarted { key: had, attempt: n, .. } if **had == *key && *n < attempt => {
                Some((entry.path.clone(), *n))
            }
            _ => None,
        });
        for (path, lost) in starts {
            let question = format!("{path}/ambiguous_effect#{lost}");
            let said = records.iter().any(|entry| {
                matches!(entry.record, Record::Answered { .. })
                    && *entry.path == *question
                    && entry.body.as_deref().is_some_and(|body| body.contains("repeat"))
            });
            if !said {
                self.breaks(format!("attempt {attempt} of {path} was dispatched and nobody said so"));
            }
        }
    }
}

struct SimModel(Rc<Outside>);

impl ModelClient for SimModel {
    fn call<'a>(
        &'a self,
        call: &'a ModelCall,
        deltas: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>> {
        Box::pin(async move {
            self.0.dispatched(&call.idempotency_key, call.attempt);
            let mut dice = self.0.dice(call.request.context.digest());
            let (fails, retries) = (dice.percent(8), dice.percent(10));
            let mut text = String::new();
            let mut reasoning = String::new();
            for n in 0..dice.below(5) {
                tokio::time::sleep(Duration::from_millis(dice.below(12))).await;
                if retries && call.attempt == 1 && n == 1 {
                    let failure = Failure::new("provider_unavailable", "try again");
                    return Err(ModelError { failure, retry_in: Some(Duration::from_millis(3)) });
                }
                let piece = format!("é{n}");
                let channel = if dice.percent(20) { Channel::Reasoning } else { Channel::Text };
                if channel == Channel::Text {
                    text.push_str(&piece)
                } else {
                    reasoning.push_str(&piece)
                }
                deltas(ModelDelta { channel, text: piece });
            }
            tokio::time::sleep(Duration::from_millis(1 + dice.below(20))).await;
            if fails {
                return Err(ModelError { failure: Failure::new("provider_unavailable", "no"), retry_in: None });
            }
            let usage = Some(Usage { input_tokens: 1, output_tokens: 1, ..Usage::default() });
            Ok(ModelReply { text, reasoning, usage, ..ModelReply::default() })
        })
    }
}

struct SimTools(Rc<Outside>);

impl ToolRunner for SimTools {
    fn offers<'a>(&'a self, _: &'a [String]) -> LocalFuture<'a, Vec<ToolOffer>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn policy(&self, tool: &str) -> EffectPolicy {
        if tool == "ambiguous" { EffectPolicy::Ambiguous } else { EffectPolicy::SameKey }
    }

    fn call<'a>(&'a self, call: &'a ToolCall) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        Box::pin(async move {
            self.0.dispatched(&call.idempotency_key, call.attempt);
            if &*call.name == "ambiguous" {
                self.0.repeated(&call.idempotency_key, call.attempt);
            }
            let mut dice = self.0.dice(&call.arguments.to_string());
            tokio::time::sleep(Duration::from_millis(dice.below(25))).await;
            if dice.percent(10) {
                return Err(Failure::new("tool_failed", "no"));
            }
            Ok(ToolOutput::text(format!("did {}", call.name)))
        })
    }
}

struct SimWriter {
    outside: Rc<Outside>,
    dice: Rc<RefCell<Dice>>,
}

impl Writer for SimWriter {
    fn append(&self, append: Arc<Append>) -> LocalFuture<'static, Result<Outcome, StoreError>> {
        let store = self.outside.store.clone();
        let wait = Duration::from_micros(self.dice.borrow_mut().below(3_000));
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            let outcome = store.commit(vec![append]).await?.pop();
            // Durable, and the answer is on its way: a kill may come between the two.
            tokio::time::sleep(wait / 2).await;
            outcome.ok_or_else(|| StoreError::Unavailable("no outcome".into()))
        })
    }

    fn write(&self, write: StoreWrite) -> LocalFuture<'static, Result<Written, StoreError>> {
        let store = self.outside.store.clone();
        Box::pin(async move { store.write(write).await })
    }
}

pub(super) struct World {
    outside: Rc<Outside>,
    clock: Arc<dyn Clock>,
    dice: Rc<RefCell<Dice>>,
    faults: Faults,
    program: serde_json::Value,
    timing_free: bool,
    /// What clients of this run saw, by number, across its lives.
    seen: BTreeMap<Seq, Arc<LogEvent>>,
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut dice = Dice(seed);
        let program = draw(&mut dice);
        let clock: Arc<dyn Clock> = Arc::new(SimClock(Instant::now(), std::sync::Mutex::new(Dice(seed ^ 0xc10c))));
        let store = MemoryStore::new(clock.clone());
        if faults == Faults::Drawn {
            let mut dice = Dice(seed ^ 0xfa17);
            store.on_commit(move |_| match dice.below(100) {
                0..=4 => CommitFault::LoseAck,
                5..=9 => CommitFault::RefuseBefore(StoreError::Unavailable("drawn".into())),
                _ => CommitFault::Proceed,
            });
        }
        let workflow = WorkflowId::from_trusted(format!("w{seed}"));
        let outside = Rc::new(Outside { store, workflow, seed, broken: RefCell::default() });
        let timing_free = timing_free(&program);
        let program = serde_json::to_value(program).unwrap_or_default();
        let dice = Rc::new(RefCell::new(dice));
        Self { outside, clock, dice, faults, program, timing_free, seen: BTreeMap::new() }
    }

    fn percent(&self, chance: u64) -> bool {
        self.faults == Faults::Drawn && self.dice.borrow_mut().percent(chance)
    }

    pub async fn run(mut self) -> Result<End, String> {
        let human = tokio::task::spawn_local(human(self.outside.clone(), self.dice.borrow().clone()));
        let mut lives = 0;
        loop {
            lives += 1;
            if lives > 400 {
                return Err("400 lives were not enough".to_owned());
            }
            let ended = self.life(lives).await?;
            if let Some(broken) = self.outside.broken.borrow_mut().take() {
                return Err(broken);
            }
            if ended {
                break;
            }
        }
        human.abort();
        self.judge().await
    }

    /// Waits while the run is parked and nothing has happened that it waits for.
    async fn until_due(&self) -> Result<(), String> {
        let (store, workflow) = (&self.outside.store, &self.outside.workflow);
        loop {
            let row = store.workflow(workflow).await.map_err(|error| error.to_string())?;
            if row.is_none_or(|row| row.state != WorkflowState::Parked) {
                return Ok(());
            }
            let due = store.adopt(self.clock.now(), 10).await.map_err(|error| error.to_string())?;
            if due.iter().any(|row| row.workflow == *workflow) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs one life until it ends or is killed; true when the run is over.
    async fn life(&mut self, lives: u32) -> Result<bool, String> {
        let store = &self.outside.store;
        let workflow_id = self.outside.workflow.clone();
        self.until_due().await?;
        let loaded = load(store, &workflow_id).await.map_err(|error| error.to_string())?;
        if loaded.as_ref().is_some_and(|loaded| loaded.past.finished.is_some()) {
            return Ok(true);
        }
        let made = plain::made("sim", "t", self.clock.now());
        let made = NewWorkflow { on_disconnect: OnDisconnect::Continue, ..made };
        let input = plain::task("t");
        let (past, fresh, epoch, made, runtime) = match loaded {
            None => {
                let fresh = Fresh { input, config: self.program.clone().into(), message: None };
                (Past::default(), Some(fresh), Epoch(0), made, Duration::ZERO)
            }
            Some(loaded) => {
                let epoch = loaded.past.next_epoch();
                (loaded.past, None, epoch, loaded.row.made, loaded.row.runtime)
            }
        };
        // Every life has logs of its own, as another process would; clients carry their number over.
        let logs = Logs::new(8);
        let log = logs.open(&workflow_id);
        let last = self.seen.keys().next_back().copied().unwrap_or_default();
        let mut watcher = Watcher::new(log.clone(), last).map_err(|error| error.to_string())?;
        let (read, read_id) = (store.clone(), workflow_id.clone());
        let writer = Rc::new(SimWriter { outside: self.outside.clone(), dice: self.dice.clone() });
        let inputs = LifeInputs {
            workflow: workflow_id,
            made,
            epoch,
            past,
            runtime,
            fresh,
            detached: true,
            function: workflow,
            ports: RunPorts {
                meter: Arc::default(),
                tracer: None,
                clock: self.clock.clone(),
                model: Rc::new(SimModel(self.outside.clone())),
                tools: Rc::new(SimTools(self.outside.clone())),
                store: Arc::new(store.clone()),
                cache: Arc::new(MemoryCache::new(self.clock.clone(), 8)),
            },
            limits: RunLimits {
                park_after: Duration::from_millis(50),
                question_expiry: Duration::from_millis(600),
                ..RunLimits::default()
            },
            log,
            writer,
            release: Rc::new(|| {}),
            bore: Rc::default(),
            started: Rc::default(),
        };
        let (signals, mut inbox) = mpsc::channel(4);
        let poke = tokio::task::spawn_local(async move {
            // The inbox is read again and again, as if somebody told of every command.
            while signals.send(Signal::Inbox).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
        });
        let kill_after = if self.percent(80) && lives < 300 { 1 + self.dice.borrow_mut().below(120) } else { u64::MAX };
        let mut life = Box::pin(async move { live(inputs, &mut inbox).await });
        let mut polls = 0;
        let seen = &mut self.seen;
        let step = std::future::poll_fn(|cx| {
            loop {
                let next = Box::pin(watcher.next()).as_mut().poll(cx);
                match next {
                    Poll::Ready(Seen::Events(events)) => {
                        seen.extend(events.into_iter().map(|event| (event.seq, event)))
                    }
                    // What was durable and not shown before the kill comes from the store, as for any client that returns.
                    Poll::Ready(Seen::InStore(floor)) => {
                        let missed = stored_events(&read, &read_id, watcher.after()).now_or_never();
                        let missed = missed.and_then(Result::ok).unwrap_or_default().into_iter();
                        let missed = missed.filter(|event| event.seq <= floor);
                        seen.extend(missed.map(|event| (event.seq, Arc::new(event))));
                        watcher.skip_to(floor);
                    }
                    Poll::Ready(Seen::Rests(..) | Seen::Ended) | Poll::Pending => break,
                }
            }
            polls += 1;
            if polls > kill_after {
                return Poll::Ready(None);
            }
            life.as_mut().poll(cx).map(Some)
        });
        let end = step.await;
        while let Some(Seen::Events(events)) = watcher.next().now_or_never() {
            self.seen.extend(events.into_iter().map(|event| (event.seq, event)));
        }
        poke.abort();
        match end {
            // Killed. One in five lives on as a zombie that does not know it.
            None if self.percent(20) => drop(tokio::task::spawn_local(life)),
            None => drop(life),
            Some(LifeEnd::Ended(_)) => return Ok(true),
            Some(LifeEnd::Parked | LifeEnd::Fenced) => {}
            Some(end) => return Err(format!("a life ended as {end:?}")),
        }
        Ok(false)
    }

    /// Compares every client with one who read the whole log at the end.
    async fn judge(mut self) -> Result<End, String> {
        let store = &self.outside.store;
        let workflow = &self.outside.workflow;
        let stored = stored_events(store, workflow, Seq(0)).await.map_err(|error| error.to_string())?;
        // The run is over: what a client that watched to the last has not seen yet comes from the store.
        let last = self.seen.keys().next_back().copied().unwrap_or_default();
        let missed = stored.iter().filter(|event| event.seq > last);
        self.seen.extend(missed.map(|event| (event.seq, Arc::new(event.clone()))));
        let mut whole = Client::default();
        stored.iter().try_for_each(|event| whole.apply(event))?;
        let records = read_records(store, workflow).await.map_err(|error| error.to_string())?;
        attempts_end_once(&records)?;
        // A client that left after any event it saw, and resumed from the store.
        let mut client = Client::default();
        let mut dice = Dice(self.outside.seed);
        for event in self.seen.values() {
            client.apply(event)?;
            if self.seen.len() < 20 || dice.percent(20) {
                let mut resumed = client.clone();
                stored
                    .iter()
                    .filter(|event| event.seq > client.last)
                    .try_for_each(|event| resumed.apply(event))
                    .map_err(|broken| format!("a client that resumed after {}: {broken}", client.last))?;
                if resumed != whole {
                    return Err(format!(
                        "a client that resumed after {} has another run: {}",
                        client.last,
                        resumed.difference(&whole)
                    ));
                }
            }
        }
        let history = store.history_entry(workflow).await.map_err(|error| error.to_string())?;
        let history = history.ok_or("a finished run has no history row")?;
        let bytes = records.iter().flat_map(|entry| crate::journal::encode(entry).head).collect();
        let result = history.result.map(|result| result.text);
        Ok(End { outcome: history.status, result, timing_free: self.timing_free, bytes })
    }
}

/// Every attempt that was started ends exactly once, and nothing of a lost life goes on.
fn attempts_end_once(records: &[crate::journal::Positioned]) -> Result<(), String> {
    let mut open: BTreeMap<(Arc<str>, u32), ()> = BTreeMap::new();
    for entry in records {
        match &entry.record {
            Record::StepStarted { attempt, .. } => drop(open.insert((entry.path.clone(), *attempt), ())),
            Record::StepCompleted { attempt, .. } | Record::StepFailed { attempt, .. } => {
                open.remove(&(entry.path.clone(), *attempt))
                    .ok_or_else(|| format!("{} attempt {attempt} ended without being open", entry.path))?;
            }
            Record::StepVoided { attempt, .. } => drop(open.remove(&(entry.path.clone(), *attempt))),
            _ => {}
        }
    }
    match open.keys().next() {
        Some((path, attempt)) => Err(format!("{path} attempt {attempt} never ended")),
        None => Ok(()),
    }
}

/// Answers every question it sees, twice, sometimes late.
async fn human(outside: Rc<Outside>, mut dice: Dice) {
    let mut answered = std::collections::BTreeSet::new();
    loop {
        tokio::time::sleep(Duration::from_millis(15 + dice.below(120))).await;
        let Ok(events) = stored_events(&outside.store, &outside.workflow, Seq(0)).await else { continue };
        for event in events {
            let EventBody::Asked { question, .. } = event.body else { continue };
            if !answered.insert(question.request_id.as_str().to_owned()) || dice.percent(20) {
                continue;
            }
            let decisions = ["repeat", "skip", "fail", "repeat"];
            let first = decisions[usize::try_from(dice.below(4)).unwrap_or_default()];
            let answers = match &*question.request_type {
                "ambiguous_effect" => [first, "repeat"].map(|word| serde_json::json!({ "decision": word })),
                _ => ["first", "second"].map(serde_json::Value::from),
            };
            for answer in answers {
                let answer = Answer::Given(answer);
                let command = Command::Answer { request_id: question.request_id.clone(), answer };
                let post = StoreWrite::Post { workflow: outside.workflow.clone(), command };
                let _ = outside.store.write(post).await;
            }
        }
    }
}
