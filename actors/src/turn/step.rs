//! What every step does: it has a path and a key, and is looked for in the journal before it is executed.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{StepResult, Turn};
use crate::event::{Failure, StepKind};
use crate::journal::{PastStep, StepState, digest};

/// What the journal has for a step.
pub(super) enum Found {
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
    /// The path of the next step of this name.
    pub(super) fn path(&mut self, name: &str) -> Arc<str> {
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

    /// The idempotency key of a step: derived from the run and the path, so it is the same in every attempt and life
    /// and is known before the dispatch.
    pub(super) fn key(&self, path: &str) -> Arc<str> {
        digest(format!("{}\0{path}", self.run.workflow).as_bytes())
    }

    /// Finds the step in the journal, or ends the life if what stands there is something else.
    pub(super) fn find(&self, path: &Arc<str>, kind: StepKind, input: &str) -> Option<Found> {
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

    /// The result of a step that the journal has.
    pub(super) async fn recorded<T: DeserializeOwned>(&self, path: &Arc<str>, state: StepState) -> StepResult<T> {
        self.replayed().await;
        match state {
            StepState::Done(body) => match serde_json::from_str(&body) {
                Ok(result) => Ok(result),
                Err(error) => self.misfit(path, error).await,
            },
            StepState::Failed(failure) => Err(failure),
            StepState::Open
            | StepState::Voided
            | StepState::Lost
            | StepState::Asked(_)
            | StepState::Answered(..)
            | StepState::TimerSet(_)
            | StepState::TimerFired
            | StepState::Won(_) => self.misfit(path, "it is of another kind").await,
        }
    }

    /// Lets neighbours run now and then while a long journal is replayed.
    pub(super) async fn replayed(&self) {
        if self.run.replayed_enough() {
            tokio::task::yield_now().await;
        }
    }

    /// Never comes back: the driver drops the function.
    pub(super) async fn halted<T>(&self) -> T {
        std::future::pending().await
    }

    /// Ends the life over a recorded result that the workflow cannot take.
    pub(super) async fn misfit<T>(&self, path: &Arc<str>, error: impl std::fmt::Display) -> T {
        self.run.diverge(path, format!("its recorded result does not fit the workflow: {error}"));
        self.halted().await
    }
}

pub(super) fn timed_out(what: &str, limit: Duration) -> Failure {
    Failure::new("step_timeout", format!("the {what} call took longer than {} ms", limit.as_millis()))
}
