//! Spans: what an operator follows of a run in a collector of traces. A life of a run, an agent's turn, and each model and
//! tool call is one.
//!
//! A span is data and is told once, when it ends. One that is dropped before that, as with the loser of a race, is told as
//! interrupted. A step that is replayed makes none, nor does an agent of which every step is.
//!
//! The trace of a run is named after it: its id without hyphens, unless the client that started it brought a trace of its
//! own. So all lives of a run are one trace.
//!
//! Absent on purpose: a current span. A parent is handed down by the [`Turn`](crate::turn::Turn), so branches that run at the same
//! time cannot take each other's. And sampling: that is the collector's, or the caller's with its `traceparent`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::event::Failure;
use crate::ids::{Timestamp, WorkflowId};
use crate::journal::digest;
use crate::ports::{Clock, Role};

/// Characters of a text that a span holds, where it may hold texts at all.
const TEXT_CHARS_MAX: usize = 16_384;

/// What an attribute of every span says about its end: `completed`, `failed`, `cancelled`, `retried`, `denied`, ...
pub const OUTCOME: &str = "fleet.outcome";

/// A span that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace it belongs to.
    pub trace: u128,
    /// Its own id.
    pub id: u64,
    /// The span above it.
    pub parent: Option<u64>,
    /// That one is not ours.
    pub parent_is_remote: bool,
    /// What it is called.
    pub name: String,
    /// It calls something outside of this process.
    pub calls_out: bool,
    /// When it began, since 1970. Within a life as exact as `took`, so that no span reaches beyond the one above it.
    pub started: Duration,
    /// How long it took.
    pub took: Duration,
    /// What else there is to say, by names of the OpenTelemetry conventions for generative AI where these have one.
    pub attributes: Vec<(&'static str, Value)>,
    /// Its failure, without a text where texts are not to be told.
    pub error: Option<(Arc<str>, String)>,
}

/// Takes spans to where an operator reads them.
pub trait Tracer: Send + Sync {
    /// Takes a span that ended. Never waits and never fails.
    fn ended(&self, span: Span);

    /// Whether prompts, answers, arguments of tools and texts of failures may be part of spans.
    fn tells_texts(&self) -> bool;
}

/// Where a client's own trace stands: a `traceparent` header of the W3C's Trace Context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceParent {
    trace: u128,
    span: u64,
    sampled: bool,
}

/// It is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a traceparent header, 00-TRACE-SPAN-FLAGS in lower-case hexadecimal")]
pub struct MalformedTraceParent;

impl FromStr for TraceParent {
    type Err = MalformedTraceParent;

    /// Of a header. Later versions may say more behind what is read here.
    fn from_str(text: &str) -> Result<Self, MalformedTraceParent> {
        let mut parts = text.split('-');
        let mut hex = |length: usize| {
            let part = parts.next().filter(|part| part.len() == length).ok_or(MalformedTraceParent)?;
            let fits = part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            fits.then(|| u128::from_str_radix(part, 16).ok()).flatten().ok_or(MalformedTraceParent)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let says_more = parts.next().is_some();
        let span = u64::try_from(span).unwrap_or(0);
        if version == 0xff || trace == 0 || span == 0 || (version == 0 && says_more) {
            return Err(MalformedTraceParent);
        }
        Ok(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

impl TryFrom<String> for TraceParent {
    type Error = MalformedTraceParent;

    fn try_from(text: String) -> Result<Self, MalformedTraceParent> {
        text.parse()
    }
}

impl From<TraceParent> for String {
    fn from(parent: TraceParent) -> Self {
        parent.to_string()
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// The trace of a run.
#[must_use]
pub fn trace_of(workflow: &WorkflowId, parent: Option<&TraceParent>) -> u128 {
    let own = || {
        let hex = |text: &str| u128::from_str_radix(text, 16).ok().filter(|trace| *trace != 0);
        let plain = workflow.as_str().replace('-', "");
        let uuid = (plain.len() == 32).then(|| hex(&plain)).flatten();
        uuid.or_else(|| hex(&digest(workflow.as_str().as_bytes())[..32])).unwrap_or(1)
    };
    parent.map_or_else(own, |parent| parent.trace)
}

/// What the spans of one life share.
struct Trace {
    tracer: Arc<dyn Tracer>,
    clock: Arc<dyn Clock>,
    id: u128,
    /// When the life began.
    epoch: (Timestamp, Instant),
    /// What is said of a span that is dropped, and whether that is a failure.
    interrupted: Cell<(&'static str, bool)>,
}

/// A span that has not ended. It may not have begun either: one of an agent begins with the first step below it.
pub(crate) struct OpenSpan {
    trace: Rc<Trace>,
    above: Option<Rc<OpenSpan>>,
    remote: Option<u64>,
    id: u64,
    name: String,
    calls_out: bool,
    since: Cell<Option<Instant>>,
    attributes: RefCell<Vec<(&'static str, Value)>>,
    told: Cell<bool>,
}

impl OpenSpan {
    /// The span of a life, begun; `None` when nobody traces, or the client does not want its trace followed.
    pub fn life(
        tracer: Option<&Arc<dyn Tracer>>,
        clock: &Arc<dyn Clock>,
        workflow: &WorkflowId,
        parent: Option<&TraceParent>,
        name: String,
    ) -> Option<Rc<Self>> {
        let tracer = tracer.filter(|_| parent.is_none_or(|parent| parent.sampled))?.clone();
        let interrupted = Cell::new(("cancelled", true));
        let (id, epoch) = (trace_of(workflow, parent), (clock.now(), Instant::now()));
        let trace = Rc::new(Trace { tracer, clock: clock.clone(), id, epoch, interrupted });
        let mut span = Self::new(trace, None, name, false);
        span.remote = parent.map(|parent| parent.span);
        span.begin();
        Some(Rc::new(span))
    }

    fn new(trace: Rc<Trace>, above: Option<Rc<Self>>, name: String, calls_out: bool) -> Self {
        // Zero is no id.
        let id = trace.clock.random().max(1);
        let (since, attributes, told) = (Cell::default(), RefCell::default(), Cell::default());
        Self { trace, above, remote: None, id, name, calls_out, since, attributes, told }
    }

    /// A span below this one that begins with the first step below it.
    pub fn below(self: &Rc<Self>, name: String) -> Rc<Self> {
        Rc::new(Self::new(self.trace.clone(), Some(self.clone()), name, false))
    }

    /// A span of one step below this one, begun.
    pub fn step(self: &Rc<Self>, name: String, calls_out: bool) -> Self {
        let span = Self::new(self.trace.clone(), Some(self.clone()), name, calls_out);
        span.begin();
        span
    }

    fn begin(&self) {
        if self.since.get().is_none() {
            self.above.iter().for_each(|above| above.begin());
            self.since.set(Some(Instant::now()));
        }
    }

    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        let value = value.into();
        if !value.is_null() {
            self.attributes.borrow_mut().push((key, value));
        }
    }

    /// Says a text, where texts may be told.
    pub fn set_text(&self, key: &'static str, text: impl FnOnce() -> String) {
        if self.trace.tracer.tells_texts() {
            self.set(key, text().chars().take(TEXT_CHARS_MAX).collect::<String>());
        }
    }

    /// What is said of spans that are dropped from now on: the life ends on purpose.
    pub fn rests(&self, why: &'static str) {
        self.trace.interrupted.set((why, false));
    }

    /// Nothing is told of it.
    pub fn forget(&self) {
        self.told.set(true);
    }

    /// Ends it, if it has begun and not ended.
    pub fn end(&self, outcome: &str, error: Option<&Failure>) {
        let Some(since) = self.since.get().filter(|_| !self.told.replace(true)) else { return };
        let (at, epoch) = self.trace.epoch;
        let started = Duration::from_millis(u64::try_from(at.0).unwrap_or_default()) + (since - epoch);
        let mut attributes = self.attributes.take();
        attributes.push((OUTCOME, outcome.into()));
        if let Some(error) = error {
            attributes.push(("error.type", error.code.as_ref().into()));
        }
        let text =
            |error: &Failure| if self.trace.tracer.tells_texts() { error.message.clone() } else { String::new() };
        self.trace.tracer.ended(Span {
            trace: self.trace.id,
            id: self.id,
            parent: self.above.as_ref().map(|above| above.id).or(self.remote),
            parent_is_remote: self.remote.is_some(),
            name: self.name.clone(),
            calls_out: self.calls_out,
            started,
            took: since.elapsed(),
            attributes,
            error: error.map(|error| (error.code.clone(), text(error))),
        });
    }

    /// Ends it as its result says.
    pub fn end_with<T>(&self, result: &Result<T, Failure>) {
        match result {
            Ok(_) => self.end("completed", None),
            Err(failure) => self.end("failed", Some(failure)),
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        let (why, fails) = self.trace.interrupted.get();
        let failure = fails.then(|| Failure::new(why, ""));
        self.end(why, failure.as_ref());
    }
}

/// Messages, each of a role and a text, as the conventions write them.
pub(crate) fn messages<'a>(messages: impl IntoIterator<Item = (Role, &'a str)>) -> String {
    let one = |(role, text): (Role, &str)| json!({ "role": role, "parts": [{ "type": "text", "content": text }] });
    Value::Array(messages.into_iter().map(one).collect()).to_string()
}
