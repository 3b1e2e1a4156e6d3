//! A run of one workflow over scripted ports, on paused time and a store in memory.
//!
//! [`Script::run`] drives the function to its end as a supervisor would, a park and its wake included, and keeps what was
//! seen: events, calls, result. [`Ran::replay`] runs it again from the journal and panics unless it gives the same and
//! makes no call; [`Ran::crashed_after`] is the life after a process that died at some record.
//!
//! Absent on purpose: actors, admission, a server. What needs those is a test of the binary.

#![expect(clippy::wildcard_enum_match_arm, reason = "views of a run name the events that they look at")]

mod clock;
mod human;
mod lives;
mod past;
mod ports;
mod ran;
mod reply;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::event::{Failure, Question};
use crate::ids::{ConversationId, Timestamp, WorkflowId};
use crate::limits::RunLimits;
use crate::ports::{
    Cache, ModelCall, NewWorkflow, OnDisconnect, Role, TaskInput, ToolCall, ToolOffer, ToolOutput, WorkflowFn,
};
use crate::testing::plain;
use crate::trace::Tracer;

use self::clock::paused;
use self::ports::Ports;
pub use self::ran::{Continued, Ran};
pub use self::reply::Reply;

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

impl Script {
    /// A run of `function` with the message `message` and the pinned `config`.
    #[must_use]
    pub fn new(function: WorkflowFn, message: &str, config: Value) -> Self {
        let input = plain::task(message);
        Self { function, config, input, said: Vec::new(), limits: RunLimits::default(), ports: Ports::none() }
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
        paused(self.run_here())
    }
}

fn run_id() -> WorkflowId {
    WorkflowId::from_trusted("scripted-run")
}

fn made(input: &TaskInput, at: Timestamp) -> NewWorkflow {
    NewWorkflow {
        conversation: input.conversation.clone(),
        on_disconnect: OnDisconnect::Continue,
        ..plain::made("scripted", &input.message, at)
    }
}
