//! A run of a script that is over: what was seen of it, its replay, and the life after a crash at any of its records.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::clock::{BEGINNING, PausedClock, paused};
use super::{Script, run_id};
use crate::event::{EventBody, LogEvent, RunOutcome};
use crate::ids::{Position, Seq, Timestamp};
use crate::journal::{Past, Positioned, Record};
use crate::meter::Totals;
use crate::ports::{ChildRun, Clock, HistoryRow, ModelCall, RunOutput, Store, StoreError, ToolCall};
use crate::sessions::stored_events;
use crate::supervisor::read_records;
use crate::testing::MemoryStore;

/// A run that is over.
pub struct Ran {
    /// Everything a client that reads the whole log sees, deltas included.
    pub events: Vec<LogEvent>,
    /// Its row in history: outcome, result, error, what it spent.
    pub history: HistoryRow,
    /// Its journal.
    pub records: Vec<Positioned>,
    /// The position at which each of its appends ended, in order.
    pub appends: Vec<Position>,
    /// The runs it left behind.
    pub children: Vec<ChildRun>,
    /// Every call of a model, in order.
    pub model_calls: Vec<ModelCall>,
    /// Every call of a tool, in order.
    pub tool_calls: Vec<ToolCall>,
    /// What it added to the meter of its process.
    pub used: Totals,
    /// How long it took, in paused time.
    pub took: Duration,
    pub(super) script: Script,
    emitted: Vec<Value>,
}

impl Ran {
    /// How it ended.
    #[must_use]
    pub fn outcome(&self) -> RunOutcome {
        self.history.status
    }

    /// Its result.
    ///
    /// # Panics
    /// If it has none; the text says why.
    #[must_use]
    pub fn result(&self) -> &RunOutput {
        self.history.result.as_ref().unwrap_or_else(|| panic!("it has no result: {:?}", self.history.error))
    }

    /// What the workflow itself published, in order.
    pub fn emitted(&self) -> impl Iterator<Item = &Value> {
        self.emitted.iter()
    }

    /// The paths of its model steps, in the order of their first attempts.
    #[must_use]
    pub fn model_steps(&self) -> Vec<&str> {
        let started = self.events.iter().filter_map(|event| match &event.body {
            EventBody::StepStarted { step, kind: crate::event::StepKind::Model, attempt: 1, .. } => Some(&**step),
            _ => None,
        });
        started.collect()
    }

    /// Runs the function again over the whole journal.
    ///
    /// # Panics
    /// If it diverges (events are part of that), makes a call, or gives another result.
    pub fn replay(&self) {
        let again = self.crashed_after(self.records.len());
        let calls = (again.model_calls.len(), again.tool_calls.len());
        assert_eq!(calls, (0, 0), "a replay made calls of models and tools");
        let end = |history: &HistoryRow| (history.status, history.result.clone(), history.error.clone());
        assert_eq!(end(&again.history), end(&self.history), "a replay ended otherwise");
    }

    /// The life after a process that died when so many records were durable: it goes on to the end. What closed the run
    /// does not count, so any number of records can be given.
    ///
    /// # Panics
    /// If the run diverges or does not end.
    #[must_use]
    pub fn crashed_after(&self, records: usize) -> Continued {
        self.continued(records, |_| BEGINNING)
    }

    /// The same when the next process comes so long after the last of these records.
    ///
    /// # Panics
    /// If the run diverges or does not end.
    #[must_use]
    pub fn down_after(&self, records: usize, down: Duration) -> Continued {
        self.continued(records, |last| last.after(down))
    }

    fn continued(&self, records: usize, begins: impl FnOnce(Timestamp) -> Timestamp) -> Continued {
        let closing = |record: &Record| {
            matches!(record, Record::Error { .. } | Record::Cancelled { .. } | Record::Finished { .. })
        };
        let kept: Vec<_> =
            self.records.iter().take(records).take_while(|entry| !closing(&entry.record)).cloned().collect();
        let script = Script { ports: self.script.ports.unused(), ..self.script.clone() };
        let begins = begins(kept.iter().rev().find_map(|entry| entry.record.at()).unwrap_or(BEGINNING));
        let calls = (script.ports.model_calls.clone(), script.ports.tool_calls.clone());
        let meter = script.ports.meter.clone();
        let (history, events) = paused(async move {
            let clock: Arc<dyn Clock> = Arc::new(PausedClock::at(begins, 1 << 32));
            let store = MemoryStore::new(clock.clone());
            script.write_history(&store, clock.now()).await;
            if kept.iter().any(|entry| matches!(entry.record, Record::Input)) {
                script.write_journal(&store, &kept, clock.now()).await;
            }
            drop(script.lives(&store.restarted(), &clock).await);
            let history = store.history_entry(&run_id()).await.unwrap_or_else(|error| panic!("{error}"));
            let events = stored_events(&store, &run_id(), Seq(0)).await.unwrap_or_else(|error| panic!("{error}"));
            (history.unwrap_or_else(|| panic!("the lives left no history")), events)
        });
        let (model_calls, tool_calls, emitted) = (calls.0.take(), calls.1.take(), emitted(&events));
        Continued { history, events, model_calls, tool_calls, used: meter.totals(), emitted }
    }
}

impl Script {
    /// What is left of the run when it is over.
    pub(super) async fn ran(self, store: &MemoryStore, appends: Vec<Position>, took: Duration) -> Ran {
        let workflow = &run_id();
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
        let emitted = emitted(&events);
        Ran { events, history, records, appends, children, model_calls, tool_calls, used, took, script: self, emitted }
    }
}

/// What a life that went on from a journal did.
pub struct Continued {
    /// How it ended.
    pub history: HistoryRow,
    /// Everything a client that reads the whole log sees, of all its lives.
    pub events: Vec<LogEvent>,
    /// The calls of models it made.
    pub model_calls: Vec<ModelCall>,
    /// The calls of tools it made.
    pub tool_calls: Vec<ToolCall>,
    /// What it added to the meter of its process.
    pub used: Totals,
    emitted: Vec<Value>,
}

impl Continued {
    /// What the workflow itself published in all its lives, in order.
    pub fn emitted(&self) -> impl Iterator<Item = &Value> {
        self.emitted.iter()
    }
}

fn emitted(events: &[LogEvent]) -> Vec<Value> {
    let emitted = events.iter().filter_map(|event| match &event.body {
        EventBody::Emitted { body, .. } => Some(serde_json::from_str(body).expect("JSON")),
        _ => None,
    });
    emitted.collect()
}
