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
