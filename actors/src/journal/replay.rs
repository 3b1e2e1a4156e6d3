//! Reading a run back from its records: what each step has, what was left open, and which events a client may see.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{Answer, Audience, Channel, EventBody, Failure, LogEvent, Question, RunOutcome, StepKind};
use crate::ids::{Epoch, Position, RequestId, Seq, Timestamp};
use crate::journal::record::{MalformedRecord, Positioned, Record};
use crate::mutant::{self, Mutant};
use crate::ports::{ModelReply, NewWorkflow, ReasoningEffort, TaskInput, WorkflowRow};
use crate::spend::Spend;

/// Why a takeover voids the attempts that the lost life left open.
pub(crate) const RESTARTED: &str = "restarted";

/// What the journal has of one step.
#[derive(Clone, Debug, PartialEq)]
pub enum StepState {
    /// An attempt was dispatched and has no end yet.
    Open,
    /// Its last attempt was voided; another may follow.
    Voided,
    /// Its last attempt was voided because its life was lost: whether it took effect is not known.
    Lost,
    /// It has its result, JSON.
    Done(Arc<str>),
    /// It failed for good.
    Failed(Failure),
    /// A human was asked.
    Asked(Question),
    /// The question ended.
    Answered(Question, Answer),
    /// A timer runs.
    TimerSet(Timestamp),
    /// It fired.
    TimerFired,
    /// The race was won by this branch.
    Won(u32),
}

/// One step of the journal.
#[derive(Clone, Debug)]
pub struct PastStep {
    /// What effect it is.
    pub kind: StepKind,
    /// Digest of its input.
    pub input: Arc<str>,
    /// Its last attempt, from 1; 0 for steps that have none.
    pub attempt: u32,
    /// What it has.
    pub state: StepState,
    /// The function has asked for it in this life.
    pub read: Cell<bool>,
}

/// A replay asked for something else than the journal has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {path}: {detail}")]
pub struct Divergence {
    /// The step.
    pub path: Arc<str>,
    /// How it differs.
    pub detail: String,
}

/// A run as its journal tells it.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The last position.
    pub head: Position,
    /// The last life.
    pub epoch: Epoch,
    /// The highest number of a durable event.
    pub last_seq: Seq,
    /// The workflow's name and version.
    pub workflow: Option<(Arc<str>, u32)>,
    /// The config slice it is pinned to, JSON.
    pub config: Option<Arc<str>>,
    /// What it was given.
    pub input: Option<TaskInput>,
    /// The effort that applies.
    pub effort: Option<ReasoningEffort>,
    /// Lives that began since the last progress and were not ended on purpose.
    pub failed_starts: u32,
    /// Every step by its path.
    pub steps: HashMap<Arc<str>, PastStep>,
    /// How it ended, if it has.
    pub finished: Option<RunOutcome>,
    /// What its completed steps have cost.
    pub spend: Spend,
    /// The time that its lives lost, each from its last record to the next life, unless the run was parked.
    lost: Duration,
    /// When its last record that says so was written.
    last_at: Option<Timestamp>,
    /// Its last life parked it.
    parked: bool,
}

impl Past {
    /// Reads records in order.
    ///
    /// # Errors
    /// [`MalformedRecord`] if a body does not parse or a record ends a step that never began.
    pub fn of(records: &[Positioned]) -> Result<Self, MalformedRecord> {
        let mut past = Self::default();
        for entry in records {
            past.take(entry).map_err(|reason| MalformedRecord { position: entry.position.0, reason })?;
        }
        Ok(past)
    }

    /// A run whose journal cannot be read, as its row tells it: enough for a life that does nothing but end.
    #[must_use]
    pub fn of_row(row: &WorkflowRow) -> Self {
        let NewWorkflow { name, version, conversation, task, effort, .. } = &row.made;
        let input = TaskInput {
            message: task.to_string(),
            conversation: conversation.clone(),
            mode: None,
            additional_context: None,
            principal: TaskInput::local(),
            checkpoints_listed: true,
            traceparent: None,
        };
        Self {
            head: row.head,
            epoch: row.epoch,
            workflow: Some((name.clone(), *version)),
            config: Some("{}".into()),
            input: Some(input),
            effort: *effort,
            ..Self::default()
        }
    }

    fn take(&mut self, entry: &Positioned) -> Result<(), String> {
        self.head = entry.position;
        self.epoch = self.epoch.max(entry.epoch);
        self.last_seq = self.last_seq.max(entry.seq.unwrap_or_default());
        if entry.record.is_progress() {
            self.failed_starts = 0;
        }
        let body = || entry.body.clone().ok_or_else(|| "its body is missing".to_owned());
        match &entry.record {
            Record::Began { at, .. } => {
                self.failed_starts += 1;
                self.lost = self.lost_until(*at);
            }
            Record::Pinned { workflow, version } => {
                self.workflow = Some((workflow.clone(), *version));
                self.config = Some(body()?);
            }
            Record::Input => self.input = Some(parse(&body()?)?),
            Record::Effort { effort } => self.effort = *effort,
            Record::Emitted { input, .. } => {
                self.insert(entry, StepKind::Emit, input, 0, StepState::Done(Arc::from("")))
            }
            Record::StepStarted { attempt, step, input, .. } => {
                self.insert(entry, *step, input, *attempt, StepState::Open);
            }
            Record::StepCompleted { step, agent, usage, .. } => {
                if *step == StepKind::Model {
                    self.spend.add_model(agent.as_ref(), usage.unwrap_or_default());
                } else {
                    self.spend.add_tool(agent.as_ref());
                }
                self.step(entry)?.state = StepState::Done(body()?);
            }
            Record::StepFailed { error, .. } => self.step(entry)?.state = StepState::Failed(error.clone()),
            Record::StepVoided { reason, .. } => {
                let lost = **reason == *RESTARTED;
                self.step(entry)?.state = if lost { StepState::Lost } else { StepState::Voided };
            }
            Record::Asked { input, .. } => {
                let question = parse(&body()?)?;
                self.insert(entry, StepKind::Question, input, 1, StepState::Asked(question));
            }
            Record::Answered { .. } => {
                let answer = parse(&body()?)?;
                let step = self.step(entry)?;
                let StepState::Asked(question) = &step.state else {
                    return Err("it answers a question that is not open".to_owned());
                };
                step.state = StepState::Answered(question.clone(), answer);
            }
            Record::TimerSet { until, input } => {
                self.insert(entry, StepKind::Timer, input, 0, StepState::TimerSet(*until));
            }
            Record::TimerFired => self.step(entry)?.state = StepState::TimerFired,
            Record::Read { input } => self.insert(entry, StepKind::Read, input, 0, StepState::Done(body()?)),
            Record::RaceDecided { winner } => {
                self.insert(entry, StepKind::Race, &Arc::from(""), 0, StepState::Won(*winner));
            }
            Record::Parked { .. } | Record::Cancelled { .. } | Record::Error { .. } => {}
            Record::Finished { outcome, .. } => self.finished = Some(*outcome),
        }
        self.last_at = entry.record.at().or(self.last_at);
        self.parked = matches!(entry.record, Record::Parked { drained: false, .. });
        Ok(())
    }

    /// The time that is lost when the next life begins at `at`.
    #[must_use]
    pub fn lost_until(&self, at: Timestamp) -> Duration {
        self.lost + self.last_at.filter(|_| !self.parked).map_or(Duration::ZERO, |last| at.since(last))
    }

    fn insert(&mut self, entry: &Positioned, kind: StepKind, input: &Arc<str>, attempt: u32, state: StepState) {
        let step = PastStep { kind, input: input.clone(), attempt, state, read: Cell::new(false) };
        self.steps.insert(entry.path.clone(), step);
    }

    fn step(&mut self, entry: &Positioned) -> Result<&mut PastStep, String> {
        self.steps.get_mut(&entry.path).ok_or_else(|| format!("it ends step {}, which never began", entry.path))
    }

    /// The epoch that the next life takes.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        if mutant::is(Mutant::EpochNotTaken) { self.epoch } else { self.epoch.next() }
    }

    /// Steps whose last attempt has no end, by path: models and tools that died with the life before.
    #[must_use]
    pub fn open_attempts(&self) -> Vec<(Arc<str>, u32)> {
        let mut open: Vec<_> = self
            .steps
            .iter()
            .filter(|(_, step)| step.state == StepState::Open)
            .map(|(path, step)| (path.clone(), step.attempt))
            .collect();
        open.sort();
        open
    }

    /// Open questions under `prefix` that the function has not asked for in this life.
    #[must_use]
    pub fn unread_questions(&self, prefix: &str) -> Vec<(Arc<str>, RequestId)> {
        let under = self.steps.iter().filter(|(path, step)| path.starts_with(prefix) && !step.read.get());
        let mut asked = Vec::new();
        for (path, step) in under {
            if let StepState::Asked(question) = &step.state {
                asked.push((path.clone(), question.request_id.clone()));
            }
        }
        asked
    }

    /// Marks every step under `prefix` as asked for: the losers of a race whose outcome is recorded.
    pub fn mark_read(&self, prefix: &str) {
        self.steps.iter().filter(|(path, _)| path.starts_with(prefix)).for_each(|(_, step)| step.read.set(true));
    }

    /// A recorded step that the function never asked for, the first by path.
    #[must_use]
    pub fn unread(&self) -> Option<Divergence> {
        let path = self.steps.iter().filter(|(_, step)| !step.read.get()).map(|(path, _)| path).min()?;
        Some(Divergence {
            path: path.clone(),
            detail: "the journal has this step and the workflow never asked for it".into(),
        })
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// The events that these records hold, in the order of their numbers, deltas included, those after `after` only.
///
/// `records` must reach to the end of the log: a later record may hold deltas whose numbers are before an earlier one.
///
/// # Errors
/// [`MalformedRecord`] if a body does not parse.
pub fn events_of(records: &[Positioned], after: Seq) -> Result<Vec<LogEvent>, MalformedRecord> {
    let mut events = Vec::new();
    for entry in records {
        push_events(entry, after, &mut events)
            .map_err(|reason| MalformedRecord { position: entry.position.0, reason })?;
    }
    events.sort_by_key(|event| event.seq);
    Ok(events)
}

fn push_events(entry: &Positioned, after: Seq, events: &mut Vec<LogEvent>) -> Result<(), String> {
    let Some(seq) = entry.seq.filter(|seq| *seq > after) else { return Ok(()) };
    let body = || entry.body.as_ref().ok_or_else(|| "its body is missing".to_owned());
    let step = entry.path.clone();
    let (at, event) = match &entry.record {
        Record::Emitted { at, .. } => {
            let scope = step.rsplit_once('/').map_or("", |(scope, _)| scope).into();
            (at, EventBody::Emitted { scope, body: body()?.clone() })
        }
        Record::StepStarted { at, attempt, step: kind, audience, agent, .. } => {
            let (attempt, kind, audience, agent) = (*attempt, *kind, *audience, agent.clone());
            (at, EventBody::StepStarted { step, attempt, kind, audience, agent })
        }
        Record::StepCompleted { at, attempt, step: kind, audience, agent, started_at, usage, deltas, .. } => {
            let reply: Option<ModelReply> = if *kind == StepKind::Model { Some(parse(body()?)?) } else { None };
            if let Some(reply) = &reply {
                let texts =
                    Streamed { step: &step, attempt: *attempt, audience: *audience, agent: agent.as_ref(), at: *at };
                texts.push_deltas(entry.epoch, reply, deltas, after, events);
            }
            let (text, reasoning) = reply.map(|reply| (reply.text.into(), reply.reasoning.into())).unzip();
            let (attempt, kind, audience, agent) = (*attempt, *kind, *audience, agent.clone());
            let (usage, started_at) = (*usage, *started_at);
            (at, EventBody::StepCompleted { step, attempt, kind, audience, agent, text, reasoning, usage, started_at })
        }
        Record::StepFailed { at, attempt, step: kind, audience, started_at, error, .. } => {
            let (attempt, kind, audience, started_at) = (*attempt, *kind, *audience, *started_at);
            (at, EventBody::StepFailed { step, attempt, kind, audience, error: error.clone(), started_at })
        }
        Record::StepVoided { at, attempt, reason } => {
            (at, EventBody::StepVoided { step, attempt: *attempt, reason: reason.clone() })
        }
        Record::Asked { at, .. } => (at, EventBody::Asked { step, question: parse(body()?)? }),
        Record::Answered { at, request_id } => {
            (at, EventBody::Answered { step, request_id: request_id.clone(), answer: parse(body()?)? })
        }
        Record::Cancelled { at, reason } => (at, EventBody::Cancelled { reason: reason.clone() }),
        Record::Error { at, error } => (at, EventBody::Error { error: error.clone() }),
        Record::Finished { at, outcome } => (at, EventBody::Finished { outcome: *outcome }),
        Record::Began { .. }
        | Record::Pinned { .. }
        | Record::Input
        | Record::Effort { .. }
        | Record::TimerSet { .. }
        | Record::TimerFired
        | Record::Read { .. }
        | Record::RaceDecided { .. }
        | Record::Parked { .. } => return Err("it has a number and holds no event".to_owned()),
    };
    events.push(LogEvent { seq, at: *at, body: event });
    Ok(())
}

/// What the deltas of one completed attempt share.
struct Streamed<'a> {
    step: &'a Arc<str>,
    attempt: u32,
    audience: Audience,
    agent: Option<&'a Arc<str>>,
    at: Timestamp,
}

impl Streamed<'_> {
    fn push_deltas(
        &self,
        epoch: Epoch,
        reply: &ModelReply,
        marks: &[crate::journal::DeltaMark],
        after: Seq,
        events: &mut Vec<LogEvent>,
    ) {
        let mut text = Rest { text: &reply.text, scalars: 0 };
        let mut reasoning = Rest { text: &reply.reasoning, scalars: 0 };
        for mark in marks {
            let rest = match mark.1 {
                Channel::Text => &mut text,
                Channel::Reasoning => &mut reasoning,
            };
            let (offset, piece) = rest.take(mark.2);
            let seq = Seq::new(epoch, mark.0);
            if seq > after {
                let body = EventBody::Delta {
                    step: self.step.clone(),
                    attempt: self.attempt,
                    channel: mark.1,
                    offset,
                    text: piece.into(),
                    audience: self.audience,
                    agent: self.agent.cloned(),
                };
                events.push(LogEvent { seq, at: self.at, body });
            }
        }
    }
}

/// What is left of a channel's text.
struct Rest<'a> {
    text: &'a str,
    scalars: u64,
}

impl<'a> Rest<'a> {
    fn take(&mut self, scalars: u32) -> (u64, &'a str) {
        let offset = self.scalars;
        let end = self.text.char_indices().nth(scalars as usize).map_or(self.text.len(), |(at, _)| at);
        let (piece, rest) = self.text.split_at(end);
        self.text = rest;
        self.scalars += u64::from(scalars);
        (offset, piece)
    }
}
