//! The lives of a scripted run, one after the other, each driven as a supervisor would.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::clock::{BEGINNING, PausedClock};
use super::human::Human;
use super::{Ran, Script, made, run_id};
use crate::ids::{Epoch, Position, Seq};
use crate::journal::{Past, StepState};
use crate::ports::{Append, Clock, LocalFuture, Outcome, Store, StoreError, StoreWrite, Written};
use crate::stream::{Logs, Watcher};
use crate::supervisor::{Fresh, LifeEnd, LifeInputs, Writer, live, read_records};
use crate::testing::MemoryStore;
use crate::turn::RunPorts;

impl Script {
    pub(super) async fn run_here(self) -> Ran {
        let clock: Arc<dyn Clock> = Arc::new(PausedClock::at(BEGINNING, 0));
        let store = MemoryStore::new(clock.clone());
        self.write_history(&store, clock.now()).await;
        let began = Instant::now();
        let appends = self.lives(&store, &clock).await;
        self.ran(&store, appends, began.elapsed()).await
    }

    /// Life after life until the run is over; where each of their appends ended.
    pub(super) async fn lives(&self, store: &MemoryStore, clock: &Arc<dyn Clock>) -> Vec<Position> {
        let workflow = run_id();
        let writer = Rc::new(StoreWriter { store: store.clone(), appends: RefCell::default() });
        for _ in 0..64 {
            let records = read_records(store, &workflow).await.unwrap_or_else(|error| panic!("{error}"));
            let past = Past::of(&records).unwrap_or_else(|error| panic!("{error}"));
            let end = self.life(past, records.is_empty(), store, clock.clone(), writer.clone()).await;
            match end {
                LifeEnd::Ended(_) => return writer.appends.take(),
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

    /// One life of the run.
    async fn life(
        &self,
        past: Past,
        fresh: bool,
        store: &MemoryStore,
        clock: Arc<dyn Clock>,
        writer: Rc<dyn Writer>,
    ) -> LifeEnd {
        let workflow = run_id();
        let log = Logs::new(8).open(&workflow);
        let mut watcher = Watcher::new(log.clone(), Seq(0)).unwrap_or_else(|error| panic!("{error}"));
        watcher.skip_to(past.last_seq);
        let (signals, mut inbox) = mpsc::channel(16);
        let asked_before = past.steps.values().filter_map(|step| match &step.state {
            StepState::Asked(question) => Some(question.clone()),
            _ => None,
        });
        let human = Human { ports: self.ports.clone(), store: store.clone(), run: workflow.clone(), signals };
        asked_before.for_each(|question| human.hear(&question));
        let answers = tokio::task::spawn_local(human.listen(watcher));
        let inputs = LifeInputs {
            workflow,
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
}

struct StoreWriter {
    store: MemoryStore,
    appends: RefCell<Vec<Position>>,
}

impl Writer for StoreWriter {
    fn append(&self, append: Arc<Append>) -> LocalFuture<'static, Result<Outcome, StoreError>> {
        self.appends.borrow_mut().extend(append.records.last().map(|row| row.position));
        let store = self.store.clone();
        Box::pin(async move {
            let outcome = store.commit(vec![append]).await?.pop();
            outcome.ok_or_else(|| StoreError::Unavailable("no outcome".to_owned()))
        })
    }

    fn write(&self, write: StoreWrite) -> LocalFuture<'static, Result<Written, StoreError>> {
        let store = self.store.clone();
        Box::pin(async move { store.write(write).await })
    }
}
