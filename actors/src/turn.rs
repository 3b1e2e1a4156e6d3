//! What a workflow sees of the world: steps whose results are journaled, so that running the function again gives the
//! same run.
//!
//! A step's identity is its path, `scope/.../name#ordinal`; the ordinal counts equal names in one scope. A step with a
//! recorded result returns it at once; the first without one is really executed. Concurrency goes through
//! [`Turn::parallel`], [`Turn::race`] and [`Turn::timeout`]; `&mut self` makes `join!` over two steps, the outer turn
//! inside a branch and a turn that escapes fail to compile.
//!
//! Each kind of step has a file:
//!
//! | file | steps |
//! |---|---|
//! | `model` | [`model`](Turn::model) |
//! | `tool`, `ambiguous` | [`tool`](Turn::tool), and what is asked when a crash has hidden its effect |
//! | `human` | [`ask_human`](Turn::ask_human) |
//! | `timer` | [`sleep`](Turn::sleep) |
//! | `read` | [`tools`](Turn::tools), [`conversation`](Turn::conversation), [`spent`](Turn::spent), [`cached`](Turn::cached), [`now`](Turn::now), [`random`](Turn::random) and their like |
//! | `concurrent` | [`parallel`](Turn::parallel), [`race`](Turn::race), [`timeout`](Turn::timeout) |
//!
//! What they share is in `step`, their place in the journal, and in `run`, the life that they are part of; `spans` is what
//! is traced of them, with [`agent`](Turn::agent).
//!
//! Absent on purpose: a clock, a socket or a random number that is not recorded; an error for a broken store, a
//! divergence or a lost ownership. Those end the life, and the function never sees them.

mod ambiguous;
mod concurrent;
mod human;
mod model;
mod read;
mod run;
mod spans;
mod step;
mod timer;
mod tool;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::step::Found;
use crate::event::{EventBody, Failure, StepKind};
use crate::ids::WorkflowId;
use crate::journal::{Record, digest};
use crate::trace::OpenSpan;

pub use self::human::{HumanAnswer, HumanRequest};
pub(crate) use self::run::{Batch, Halt, Run, RunPorts, json};
pub use self::tool::ToolAsk;

/// What a step gives. An error is a recorded result like any other: a replay returns it again.
pub type StepResult<T> = Result<T, Failure>;

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

impl Turn {
    pub(crate) fn root(run: Rc<Run>, span: Option<Rc<OpenSpan>>) -> Self {
        let (scope, ordinals) = (Arc::from(""), BTreeMap::new());
        Self { run, scope, ordinals, sealed: false, last_is_recorded: Cell::new(false), span }
    }

    fn child(&self, scope: Arc<str>, sealed: bool) -> Self {
        Self { scope, sealed: self.sealed || sealed, ..Self::root(self.run.clone(), self.span.clone()) }
    }

    /// The run's own id. Not recorded: a fork has another, so it must not be part of any step's input.
    #[must_use]
    pub fn workflow(&self) -> &WorkflowId {
        &self.run.workflow
    }

    /// What the run is pinned to, as a `T`: parsed once for all runs that share it, if they ask for the same type.
    ///
    /// # Errors
    /// `internal`; it is no `T`.
    pub fn pinned<T: DeserializeOwned + Send + Sync + 'static>(&self) -> StepResult<Arc<T>> {
        let explain = |error| Failure::new("internal", format!("the pinned configuration does not parse: {error}"));
        self.run.pinned.parsed().map_err(explain)
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

    /// Publishes an event of the workflow's own. Ordered, never awaited.
    pub fn emit(&mut self, event: &impl Serialize) {
        let path = self.path("emit");
        let body = json(event);
        let input = digest(body.as_bytes());
        match self.find(&path, StepKind::Emit, &input) {
            Some(Found::Fresh { .. }) => {
                let at = self.run.now();
                let event = EventBody::Emitted { scope: self.scope.clone(), body: body.clone() };
                self.run.push_event(&path, at, Record::Emitted { at, input }, Some(body), event);
            }
            Some(Found::Recorded(_) | Found::Restarted { .. }) | None => {}
        }
    }
}
