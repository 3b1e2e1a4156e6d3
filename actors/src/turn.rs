//! What a workflow sees of the world: steps whose results are journaled, so that running the function again gives the
//! same run.
//!
//! A step's identity is its path, `scope/.../name#ordinal`; the ordinal counts equal names in one scope. A step with a
//! recorded result returns it at once; the first without one is really executed. Concurrency goes through
//! [`Turn::parallel`], [`Turn::race`] and [`Turn::timeout`]; `&mut self` makes `join!` over two steps, the outer turn
//! inside a branch and a turn that escapes fail to compile.
//!
//! Absent on purpose: a clock, a socket or a random number that is not recorded; an error for a broken store, a
//! divergence or a lost ownership. Those end the life, and the function never sees them.

mod ambiguous;
mod concurrent;
mod run;
mod spans;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::event::{Answer, Audience, EventBody, Failure, Question, StepKind};
use crate::failpoint::{FailPoint, reach};
use crate::ids::{RequestId, Timestamp, WorkflowId};
use crate::journal::{PastStep, Record, StepState, digest};
use crate::meter::CallEnd;
use crate::mutant::{self, Mutant};
use crate::ports::{
    Approval, EffectPolicy, MessageRow, ModelCall, ModelReply, ModelRequest, ToolCall, ToolOffer, ToolOutput,
};
use crate::spend::Spend;
use crate::trace::OpenSpan;
pub(crate) use run::{Batch, Halt, Run, RunPorts, json};

use run::OpenStep;

/// What a step gives. An error is a recorded result like any other: a replay returns it again.
pub type StepResult<T> = Result<T, Failure>;

/// What to ask a human.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HumanRequest {
    /// `tool_approval`, `user_input`, `plan_review`, ...
    pub request_type: Arc<str>,
    /// What is asked, exactly; the answer binds to it.
    pub request: Value,
    /// JSON schema of an answer; one that does not fit is refused at the door and the question stays open.
    pub answer_schema: Option<Value>,
    /// How long the question stays open, downtime included.
    pub expires_in: Duration,
}

/// How a question to a human ended.
#[derive(Clone, Debug, PartialEq)]
pub struct HumanAnswer {
    /// The question's id.
    pub request_id: RequestId,
    /// How it ended.
    pub answer: Answer,
}

/// A tool call, as a workflow asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolAsk {
    /// The tool.
    pub tool: Arc<str>,
    /// Its arguments.
    pub arguments: Value,
    /// On whose behalf.
    pub agent: Option<Arc<str>>,
    /// The digest of the offer that its model saw.
    pub schema_digest: Arc<str>,
    /// A human's word for it.
    pub approval: Option<Approval>,
    /// The id that the model gave the call; only traces name it.
    pub call_id: Option<Arc<str>>,
}

impl ToolAsk {
    /// A call on nobody's behalf, without a human's word.
    #[must_use]
    pub fn new(tool: impl Into<Arc<str>>, arguments: Value) -> Self {
        Self { tool: tool.into(), arguments, agent: None, schema_digest: Arc::from(""), approval: None, call_id: None }
    }
}

/// One run as its workflow sees it.
pub struct Turn {
    run: Rc<Run>,
    scope: Arc<str>,
    ordinals: BTreeMap<Box<str>, u32>,
    /// A replayed winner of a race: it may find only what is recorded.
    sealed: bool,
    /// The last step that was asked for was one that a journal has the end of.
    last_is_recorded: Cell<bool>,
    /// What its calls are below; absent when nobody traces.
    span: Option<Rc<OpenSpan>>,
}

/// What the journal has for a step.
enum Found {
    /// Nothing: it is really executed, as this attempt.
    Fresh {
        attempt: u32,
    },
    /// An earlier life dispatched it and did not see its end.
    Restarted {
        attempt: u32,
    },
    Recorded(StepState),
}

impl Turn {
    pub(crate) fn root(run: Rc<Run>, span: Option<Rc<OpenSpan>>) -> Self {
        let (scope, ordinals) = (Arc::from(""), BTreeMap::new());
        Self { run, scope, ordinals, sealed: false, last_is_recorded: Cell::new(false), span }
    }

    fn child(&self, scope: Arc<str>, sealed: bool) -> Self {
        let (run, ordinals, sealed, span) =
            (self.run.clone(), BTreeMap::new(), self.sealed || sealed, self.span.clone());
        Self { run, scope, ordinals, sealed, last_is_recorded: Cell::new(false), span }
    }

    fn path(&mut self, name: &str) -> Arc<str> {
        let ordinal = match self.ordinals.get_mut(name) {
            Some(ordinal) => {
                *ordinal += 1;
                *ordinal
            }
            None => {
                self.ordinals.insert(name.into(), 0);
                0
            }
        };
        let slash = if self.scope.is_empty() { "" } else { "/" };
        format!("{}{slash}{name}#{ordinal}", self.scope).into()
    }

    /// Finds the step in the journal, or ends the life if what stands there is something else.
    fn find(&self, path: &Arc<str>, kind: StepKind, input: &str) -> Option<Found> {
        self.last_is_recorded.set(false);
        if self.run.halted().is_some() {
            return None;
        }
        let Some(step) = self.run.past.steps.get(path) else {
            if self.sealed {
                self.run.diverge(path, "the branch that won a race has a step that the journal does not know");
                return None;
            }
            return Some(Found::Fresh { attempt: 1 });
        };
        let PastStep { kind: was, input: had, attempt, state, read } = step;
        if *was != kind {
            let (was, is) = (was.as_str(), kind.as_str());
            self.run.diverge(path, format!("the journal has a {was} step here, the workflow asks for a {is} step"));
            return None;
        }
        if **had != *input {
            self.run.diverge(path, "the workflow asks for this step with another input than the journal has");
            return None;
        }
        if read.replace(true) {
            self.run.diverge(path, "the workflow asks for this step twice");
            return None;
        }
        Some(match state {
            StepState::Open | StepState::Lost => Found::Restarted { attempt: attempt + 1 },
            StepState::Voided => Found::Fresh { attempt: attempt + 1 },
            StepState::Asked(_) | StepState::TimerSet(_) => Found::Recorded(state.clone()),
            StepState::Done(_)
            | StepState::Failed(_)
            | StepState::Answered(..)
            | StepState::TimerFired
            | StepState::Won(_) => {
                self.last_is_recorded.set(true);
                Found::Recorded(state.clone())
            }
        })
    }

    /// Lets neighbours run now and then while a long journal is replayed.
    async fn replayed(&self) {
        if self.run.replayed_enough() {
            tokio::task::yield_now().await;
        }
    }

    /// Never comes back: the driver drops the function.
    async fn halted<T>(&self) -> T {
        std::future::pending().await
    }

    fn misfit<T>(&self, path: &Arc<str>, error: impl std::fmt::Display) -> Option<T> {
        self.run.diverge(path, format!("its recorded result does not fit the workflow: {error}"));
        None
    }

    /// Calls a model. What it streams is seen by clients as deltas of this step.
    ///
    /// # Errors
    /// The provider's final failure, or `step_timeout` when the call outlives its deadline; recorded.
    pub async fn model(&mut self, name: &str, request: ModelRequest) -> StepResult<ModelReply> {
        let path = self.path(name);
        let input = model_digest(&request);
        let mut attempt = match self.find(&path, StepKind::Model, &input) {
            None => return self.halted().await,
            Some(Found::Recorded(state)) => return self.recorded(&path, state).await,
            Some(Found::Fresh { attempt } | Found::Restarted { attempt }) => attempt,
        };
        let run = self.run.clone();
        let key = self.key(&path);
        let deadline = tokio::time::Instant::now() + run.limits.model_timeout;
        let who = (request.audience, request.agent.clone());
        let mut call = ModelCall { request, idempotency_key: key.clone(), attempt };
        loop {
            let _working = run.effect();
            let open = OpenStep::attempt(attempt, StepKind::Model, who.clone(), input.clone(), run.now());
            let intent = run.start_attempt(&path, open, &key);
            run.durable(intent).await;
            if run.shows_failed_append() {
                return Err(Failure::new("storage_unavailable", "an append failed"));
            }
            let mut deltas = |delta| run.delta(&path, delta);
            let span = self.model_span(&call);
            reach(FailPoint::BeforeDispatch);
            let reply = tokio::time::timeout_at(deadline, run.ports.model.call(&call, &mut deltas)).await;
            reach(FailPoint::AfterDispatch);
            let failure = match reply {
                Ok(Ok(reply)) => {
                    run.ports.meter.model(CallEnd::Completed, reply.usage);
                    spans::model_ended(span, CallEnd::Completed, Ok(&reply));
                    return Ok(run.complete_model(&path, reply));
                }
                Ok(Err(error)) => match error.retry_in {
                    Some(wait) if tokio::time::Instant::now() + wait < deadline => {
                        run.ports.meter.model(CallEnd::Retried, None);
                        spans::model_ended(span, CallEnd::Retried, Err(&error.failure));
                        run.void_to_retry(&path);
                        tokio::time::sleep(wait).await;
                        attempt += 1;
                        call.attempt = attempt;
                        continue;
                    }
                    _ => error.failure,
                },
                Err(_) => timed_out("model", run.limits.model_timeout),
            };
            run.ports.meter.model(CallEnd::Failed, None);
            spans::model_ended(span, CallEnd::Failed, Err(&failure));
            run.fail(&path, &failure);
            return Err(failure);
        }
    }

    /// The tools of these names that exist for this run, recorded; `mcp:SERVER` stands for all of that server.
    pub async fn tools(&mut self, names: &[String]) -> Vec<ToolOffer> {
        let path = self.path("tools");
        let input = digest(json(&names).as_bytes());
        match self.find(&path, StepKind::Read, &input) {
            None => return self.halted().await,
            Some(Found::Recorded(state)) => match self.recorded(&path, state).await {
                Ok(offers) => return offers,
                Err(_) => return self.halted().await,
            },
            Some(Found::Fresh { .. } | Found::Restarted { .. }) => {}
        }
        let run = self.run.clone();
        let _working = run.effect();
        let offers = run.ports.tools.offers(names).await;
        run.push(&path, Record::Read { input }, Some(json(&offers)));
        offers
    }

    /// What the run has spent so far, recorded.
    pub fn spent(&mut self) -> Spend {
        self.value("spent", "", Run::spend)
    }

    /// What an earlier run left under `key`, recorded.
    pub fn cached(&mut self, key: &str) -> Option<Value> {
        let input = digest(key.as_bytes());
        self.value("cached", &input, |run| run.ports.cache.get(key))
    }

    /// Leaves `value` under `key` for other runs, for at most `ttl`. A replay leaves nothing.
    pub fn cache(&mut self, key: &str, value: &Value, ttl: Duration) {
        let input = digest(json(&(key, value, ttl)).as_bytes());
        self.value("cache", &input, |run| run.ports.cache.put(key, value.clone(), ttl));
    }

    /// The run's own id. Not recorded: a fork has another, so it must not be part of any step's input.
    #[must_use]
    pub fn workflow(&self) -> &WorkflowId {
        &self.run.workflow
    }

    /// Calls a tool. When a crash has hidden the outcome of an effect that must not happen twice, a human is asked
    /// (`ambiguous_effect`) whether to repeat it, to go on with a result they give, or to fail.
    ///
    /// # Errors
    /// The tool's failure, `step_timeout`, or `ambiguous_effect` when the human said so or nobody answered; recorded.
    pub async fn tool(&mut self, name: &str, ask: ToolAsk) -> StepResult<ToolOutput> {
        let path = self.path(name);
        let ToolAsk { tool, arguments, agent, schema_digest, approval, call_id } = ask;
        let input = digest(json(&(&tool, &arguments, &agent)).as_bytes());
        let found = self.find(&path, StepKind::Tool, &input);
        let (attempt, restarted) = match found {
            None => return self.halted().await,
            Some(Found::Recorded(state)) => {
                self.run.past.mark_read(&format!("{path}/"));
                return self.recorded(&path, state).await;
            }
            Some(Found::Fresh { attempt }) => (attempt, false),
            Some(Found::Restarted { attempt }) => (attempt, true),
        };
        let run = self.run.clone();
        let key = self.key(&path);
        let ambiguous = restarted && run.ports.tools.policy(&tool) == EffectPolicy::Ambiguous;
        let decision = if ambiguous && !mutant::is(Mutant::AmbiguousRepeated) {
            self.ask_about_effect(&path, &tool, &arguments, attempt - 1).await
        } else {
            ambiguous::Decision::Repeat
        };
        self.run.past.mark_read(&format!("{path}/"));
        let _working = run.effect();
        let who = (Audience::Workflow, agent.clone());
        let open = OpenStep::attempt(attempt, StepKind::Tool, who, input, run.now());
        let intent = run.start_attempt(&path, open, &key);
        match decision {
            ambiguous::Decision::Repeat => run.durable(intent).await,
            ambiguous::Decision::Skip(result) => {
                run.complete_tool(&path, &result);
                return Ok(*result);
            }
            ambiguous::Decision::Fail(failure) => {
                run.fail(&path, &failure);
                return Err(failure);
            }
        }
        let span = self.tool_span(&tool, call_id.as_deref(), agent.as_deref(), &arguments);
        reach(FailPoint::BeforeDispatch);
        let workflow = run.workflow.clone();
        let call =
            ToolCall { workflow, agent, name: tool, arguments, schema_digest, approval, idempotency_key: key, attempt };
        let result = tokio::time::timeout(run.limits.tool_timeout, run.ports.tools.call(&call)).await;
        reach(FailPoint::AfterDispatch);
        let failure = match result {
            Ok(Ok(output)) => {
                run.ports.meter.tool(&call.name, CallEnd::Completed);
                spans::tool_ended(span, CallEnd::Completed, Ok(&output));
                run.complete_tool(&path, &output);
                return Ok(output);
            }
            Ok(Err(failure)) => failure,
            Err(_) => timed_out("tool", run.limits.tool_timeout),
        };
        run.ports.meter.tool(&call.name, CallEnd::Failed);
        spans::tool_ended(span, CallEnd::Failed, Err(&failure));
        run.fail(&path, &failure);
        Err(failure)
    }

    /// Asks a human and waits for the answer, parked if it takes long.
    pub async fn ask_human(&mut self, name: &str, ask: HumanRequest) -> HumanAnswer {
        let path = self.path(name);
        self.ask_at(path, ask).await
    }

    async fn ask_at(&self, path: Arc<str>, ask: HumanRequest) -> HumanAnswer {
        let input = digest(json(&ask).as_bytes());
        let run = self.run.clone();
        let question = match self.find(&path, StepKind::Question, &input) {
            None => return self.halted().await,
            Some(Found::Recorded(StepState::Answered(question, answer))) => {
                self.replayed().await;
                return HumanAnswer { request_id: question.request_id, answer };
            }
            Some(Found::Recorded(StepState::Asked(question))) => {
                run.wait_for_answer(&path, &question, &input);
                question
            }
            Some(Found::Recorded(_) | Found::Fresh { .. } | Found::Restarted { .. }) => {
                // The id is derived, so that a question whose record was lost is asked again under the same one.
                let request_id = RequestId::from_trusted(self.key(&path));
                let expires_at = run.now().after(ask.expires_in);
                let HumanRequest { request_type, request, answer_schema, .. } = ask;
                let question = Question { request_id, request_type, request, answer_schema, expires_at };
                run.ask(&path, &question, &input);
                question
            }
        };
        let answer = run.answer(&path, &question).await;
        HumanAnswer { request_id: question.request_id, answer }
    }

    /// Waits. The end is a wall time that stands in the journal, so a restart does not start the wait anew, and never
    /// makes it longer than `duration`.
    pub async fn sleep(&mut self, name: &str, duration: Duration) {
        self.timer(name, duration, Duration::ZERO).await;
    }

    /// Waits by a clock that leaves `lost` out.
    async fn timer(&mut self, name: &str, duration: Duration, lost: Duration) {
        let path = self.path(name);
        let input = digest(json(&duration).as_bytes());
        let run = self.run.clone();
        let until = match self.find(&path, StepKind::Timer, &input) {
            None => return self.halted().await,
            Some(Found::Recorded(StepState::TimerFired)) => return self.replayed().await,
            Some(Found::Recorded(StepState::TimerSet(until))) => until,
            Some(Found::Recorded(_) | Found::Fresh { .. } | Found::Restarted { .. }) => {
                let until = run.now().before(lost).after(duration);
                run.push(&path, Record::TimerSet { until, input }, None);
                until
            }
        };
        let now = run.now();
        let left = until.since(now.before(lost)).min(duration);
        run.set_waiting(&path, Some(now.after(left)));
        tokio::time::sleep(left).await;
        run.set_waiting(&path, None);
        run.push(&path, Record::TimerFired, None);
    }

    /// Publishes an event of the workflow's own. Ordered, never awaited.
    pub fn emit(&mut self, event: &impl Serialize) {
        let path = self.path("emit");
        let body = json(event);
        let input = digest(body.as_bytes());
        match self.find(&path, StepKind::Emit, &input) {
            Some(Found::Fresh { .. }) => {
                let at = self.run.now();
                let value = serde_json::from_str(&body).unwrap_or_default();
                let event = EventBody::Emitted { scope: self.scope.clone(), body: value };
                self.run.push_event(&path, at, Record::Emitted { at, input }, Some(body), event);
            }
            Some(Found::Recorded(_) | Found::Restarted { .. }) | None => {}
        }
    }

    /// The time, recorded.
    pub fn now(&mut self) -> Timestamp {
        self.value("now", "", |run| run.now())
    }

    /// The time without what the run lost to ends of its process, recorded: the difference of two is what lies between
    /// them of the run's life. A run's journal cannot tell it from [`now`](Self::now).
    pub fn lived(&mut self) -> Timestamp {
        self.value("now", "", |run| run.now().before(run.lost))
    }

    /// Does something that leaves the run as it is, as writing a line of a log: once, and not again when it is replayed.
    pub fn note(&mut self, name: &str, act: impl FnOnce()) {
        self.value(name, "", |_| act());
    }

    /// A random number, recorded.
    pub fn random(&mut self) -> u64 {
        self.value("random", "", |run| run.ports.clock.random())
    }

    fn value<T>(&mut self, name: &str, input: &str, make: impl FnOnce(&Run) -> T) -> T
    where
        T: Serialize + serde::de::DeserializeOwned,
    {
        let path = self.path(name);
        if let Some(Found::Recorded(StepState::Done(body))) = self.find(&path, StepKind::Read, input) {
            match serde_json::from_str(&body) {
                Ok(value) => return value,
                Err(error) => self.run.diverge(&path, format!("its recorded value does not fit: {error}")),
            }
        }
        let value = make(&self.run);
        if self.run.halted().is_none() {
            self.run.push(&path, Record::Read { input: input.into() }, Some(json(&value)));
        }
        value
    }

    /// What the run is pinned to, as a `T`: parsed once for all runs that share it, if they ask for the same type.
    ///
    /// # Errors
    /// `internal`; it is no `T`.
    pub fn pinned<T: DeserializeOwned + Send + Sync + 'static>(&self) -> StepResult<Arc<T>> {
        let explain = |error| Failure::new("internal", format!("the pinned configuration does not parse: {error}"));
        self.run.pinned.parsed().map_err(explain)
    }

    /// The newest `limit` messages of the run's conversation, oldest first, those of this run left out; recorded.
    pub async fn conversation(&mut self, limit: u32) -> Vec<MessageRow> {
        let path = self.path("conversation");
        let input = digest(json(&limit).as_bytes());
        match self.find(&path, StepKind::Read, &input) {
            None => return self.halted().await,
            Some(Found::Recorded(StepState::Done(body))) => {
                self.replayed().await;
                return match serde_json::from_str(&body).or_else(|error| self.misfit(&path, error).ok_or(())) {
                    Ok(messages) => messages,
                    Err(()) => self.halted().await,
                };
            }
            Some(Found::Recorded(_) | Found::Fresh { .. } | Found::Restarted { .. }) => {}
        }
        let run = self.run.clone();
        let Some(conversation) = run.past.input.as_ref().and_then(|input| input.conversation.clone()) else {
            return Vec::new();
        };
        let _working = run.effect();
        let messages = loop {
            match run.ports.store.messages(&conversation, limit, Some(run.workflow.clone())).await {
                Ok(messages) => break messages,
                // The life's own limits end this; a function must not see a broken store.
                Err(error) => {
                    tracing::warn!(workflow = %run.workflow, %error, "reading the conversation failed, trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        run.push(&path, Record::Read { input }, Some(json(&messages)));
        messages
    }

    /// Runs `body` in a scope of its own: paths inside it begin with `name#ordinal/`.
    ///
    /// # Errors
    /// What `body` returns.
    pub async fn scope<R>(&mut self, name: &str, body: impl AsyncFnOnce(&mut Turn) -> StepResult<R>) -> StepResult<R> {
        let path = self.path(name);
        let mut child = self.child(path, false);
        body(&mut child).await
    }

    async fn recorded<T: serde::de::DeserializeOwned>(&self, path: &Arc<str>, state: StepState) -> StepResult<T> {
        self.replayed().await;
        let result = match state {
            StepState::Done(body) => {
                serde_json::from_str(&body).map(Ok).or_else(|error| self.misfit(path, error).ok_or(()))
            }
            StepState::Failed(failure) => Ok(Err(failure)),
            StepState::Open
            | StepState::Voided
            | StepState::Lost
            | StepState::Asked(_)
            | StepState::Answered(..)
            | StepState::TimerSet(_)
            | StepState::TimerFired
            | StepState::Won(_) => self.misfit(path, "it is of another kind").ok_or(()),
        };
        match result {
            Ok(result) => result,
            Err(()) => self.halted().await,
        }
    }

    /// The idempotency key of a step: derived from the run and the path, so it is the same in every attempt and life
    /// and is known before the dispatch.
    fn key(&self, path: &str) -> Arc<str> {
        digest(format!("{}\0{path}", self.run.workflow).as_bytes())
    }
}

fn timed_out(what: &str, limit: Duration) -> Failure {
    Failure::new("step_timeout", format!("the {what} call took longer than {} ms", limit.as_millis()))
}

/// Digest of a model step's typed input. The effort is left out: it belongs to the session, and a resume may change it.
fn model_digest(request: &ModelRequest) -> Arc<str> {
    let ModelRequest { model, agent, audience, context, tools, output, temperature, max_output_tokens } = request;
    digest(json(&(model, agent, audience, context.digest(), tools, output, temperature, max_output_tokens)).as_bytes())
}
