//! Waits whose end is a wall time in the journal.

use std::time::Duration;

use super::Turn;
use super::run::json;
use super::step::Found;
use crate::event::StepKind;
use crate::journal::{Record, StepState, digest};

impl Turn {
    /// Waits. The end is a wall time that stands in the journal, so a restart does not start the wait anew, and never
    /// makes it longer than `duration`.
    pub async fn sleep(&mut self, name: &str, duration: Duration) {
        self.timer(name, duration, Duration::ZERO).await;
    }

    /// Waits by a clock that leaves `lost` out.
    pub(super) async fn timer(&mut self, name: &str, duration: Duration, lost: Duration) {
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
                // Nothing else may be written for as long as it waits, and a restart must find its end.
                run.want_flush();
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
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::ports::{LocalFuture, RunOutput, TaskInput};
    use crate::testing::script::Script;
    use crate::turn::StepResult;

    fn sleeps<'a>(turn: &'a mut Turn, _: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
        Box::pin(async move {
            turn.sleep("a while", Duration::from_secs(1)).await;
            Ok(RunOutput::default())
        })
    }

    #[test]
    fn the_end_of_a_sleep_is_durable_while_it_lasts() {
        let ran = Script::new(sleeps, "sleep", Value::Null).run();
        let at = |found: fn(&Record) -> bool| {
            let entry = ran.records.iter().find(|entry| found(&entry.record));
            entry.expect("both are in the journal").position
        };
        let set = at(|record| matches!(record, Record::TimerSet { .. }));
        let fired = at(|record| matches!(record, Record::TimerFired));
        assert!(ran.appends.iter().any(|end| (set..fired).contains(end)), "{:?}", ran.appends);
        ran.replay();
    }
}
