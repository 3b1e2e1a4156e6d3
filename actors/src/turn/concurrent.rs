//! Steps at the same time: `parallel`, `race`, `timeout`.
//!
//! A branch is an `AsyncFn + Sync`: it may be skipped or reordered by a replay, so it must not change what it captures.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;

use super::step::Found;
use super::{StepResult, Turn};
use crate::event::{Failure, StepKind};
use crate::journal::{Record, StepState};
use crate::mutant::{self, Mutant};

impl Turn {
    /// Runs `branch` once for each item, at most `limit` at a time, and gives the results in the order of the items.
    /// One branch's error does not stop the others.
    pub async fn parallel<A: Send, R, F>(
        &mut self,
        name: &str,
        limit: usize,
        items: Vec<A>,
        branch: F,
    ) -> Vec<StepResult<R>>
    where
        F: AsyncFn(&mut Turn, A) -> StepResult<R> + Sync,
    {
        let path = self.path(name);
        let branch = &branch;
        let branches = items.into_iter().enumerate().map(|(index, item)| {
            let mut turn = self.child(format!("{path}/{index}").into(), false);
            async move { (index, branch(&mut turn, item).await) }
        });
        let mut results: Vec<_> = futures_util::stream::iter(branches).buffer_unordered(limit.max(1)).collect().await;
        results.sort_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// Runs two branches; the first to end, `a` if both do at once, is the outcome. The loser is dropped, its open steps
    /// are void and its questions withdrawn.
    ///
    /// # Errors
    /// What the winner returns.
    pub async fn race<R>(
        &mut self,
        name: &str,
        a: impl AsyncFn(&mut Turn) -> StepResult<R> + Sync,
        b: impl AsyncFn(&mut Turn) -> StepResult<R> + Sync,
    ) -> StepResult<R> {
        let path = self.path(name);
        let scopes: [Arc<str>; 2] = [format!("{path}/a").into(), format!("{path}/b").into()];
        match self.find(&path, StepKind::Race, "") {
            None => return self.halted().await,
            Some(Found::Recorded(StepState::Won(winner))) => {
                self.run.past.mark_read(&format!("{}/", scopes[1 - (winner as usize & 1)]));
                let mut turn = self.child(scopes[winner as usize & 1].clone(), true);
                return if winner == 0 { a(&mut turn).await } else { b(&mut turn).await };
            }
            Some(Found::Recorded(_) | Found::Fresh { .. } | Found::Restarted { .. }) => {}
        }
        let mut turns = [self.child(scopes[0].clone(), false), self.child(scopes[1].clone(), false)];
        let (winner, result) = {
            let [left, right] = &mut turns;
            let (mut left, mut right) = (pin!(a(left)), pin!(b(right)));
            // A step that ends the life leaves the poll pending; deciding the race after it would hide it.
            std::future::poll_fn(|cx| {
                if let Poll::Ready(result) = left.as_mut().poll(cx) {
                    return Poll::Ready((0, result));
                }
                right.as_mut().poll(cx).map(|result| (1, result))
            })
            .await
        };
        if self.run.halted().is_some() {
            return self.halted().await;
        }
        if !mutant::is(Mutant::NoVoidsForLosers) {
            self.run.void_loser(&format!("{}/", scopes[1 - winner as usize]));
        }
        if !mutant::is(Mutant::RaceNotRecorded) {
            self.run.push(&path, Record::RaceDecided { winner }, None);
        }
        result
    }

    /// Runs `body` for at most `limit` of the run's life: the time that it waits parked counts, what it lost when its
    /// process ended does not. An effect that was going on then is made anew, and finds the time that it had before.
    ///
    /// # Errors
    /// `step_timeout` when it takes longer, else what `body` returns.
    pub async fn timeout<R>(
        &mut self,
        name: &str,
        limit: Duration,
        body: impl AsyncFn(&mut Turn) -> StepResult<R> + Sync,
    ) -> StepResult<R> {
        let late = format!("took longer than {} ms", limit.as_millis());
        self.race(name, body, async |turn| {
            let lost = turn.run.lost;
            turn.timer("limit", limit, lost).await;
            Err(Failure::new("step_timeout", late.clone()))
        })
        .await
    }
}
