//! What a life does by the clock: the limits of its run, its runtime, questions that expire, and when to look again.

use std::time::Duration;

use tokio::time::Instant;

use super::Life;
use crate::event::{Answer, Failure};
use crate::ports::{Command, OnDisconnect, Posted, StoreWrite, Written};

impl Life {
    /// Commits the expiry of questions whose time is over. It competes with answers: the first committed wins.
    pub(super) fn expire_questions(&mut self) {
        for request_id in self.run.expired_questions(self.run.now()) {
            if self.expiring.borrow().contains(&request_id) {
                continue;
            }
            self.expiring.borrow_mut().push(request_id.clone());
            let command = Command::Answer { request_id: request_id.clone(), answer: Answer::Expired };
            let workflow = self.run.workflow.clone();
            let (run, store) = (self.run.clone(), self.run.ports.store.clone());
            let write = self.writer.write(StoreWrite::Post { workflow: workflow.clone(), command });
            let expiring = self.expiring.clone();
            // A task of its own: if the life ends meanwhile, the row is there for the next one.
            tokio::task::spawn_local(async move {
                match write.await {
                    Ok(Written::Posted(Posted::Accepted)) => run.deliver(&request_id, Answer::Expired),
                    // The store's clock judges, and it is behind ours.
                    Ok(Written::Posted(Posted::NotYet)) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        expiring.borrow_mut().retain(|id| *id != request_id);
                    }
                    Ok(_) => {
                        for command in store.inbox(&workflow).await.unwrap_or_default() {
                            if let Command::Answer { request_id, answer } = command {
                                run.deliver(&request_id, answer);
                            }
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%workflow, %error, "the expiry of a question was not committed");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        expiring.borrow_mut().retain(|id| *id != request_id);
                    }
                }
            });
        }
    }

    /// Keeps the books of time: runtime while something works, quiet while nothing does, unwatched while nobody looks.
    pub(super) fn account(&mut self, watchers: usize) {
        let now = Instant::now();
        let working = self.function.is_some() && self.run.is_working();
        if let Some(since) = self.working_since.take() {
            self.runtime += now - since;
        }
        self.working_since = working.then_some(now);
        let quiet = !working && self.function.is_some() && self.run.first_wake().is_some();
        self.quiet_since = quiet.then(|| self.quiet_since.unwrap_or(now));
        let alone = watchers == 0 && !self.detached && self.made.on_disconnect == OnDisconnect::Cancel;
        self.unwatched_since =
            alone.then(|| self.unwatched_since.take().unwrap_or_else(|| (now, self.log.begin_grace())));
    }

    /// What the run worked until now: the books, and what has been done since they were kept.
    pub(super) fn spent(&self) -> Duration {
        self.runtime + self.working_since.map_or(Duration::ZERO, |since| Instant::now() - since)
    }

    pub(super) fn next_tick(&self) -> Instant {
        let limits = &self.run.limits;
        let now = Instant::now();
        let far = now + Duration::from_secs(3_600);
        if self.closing.is_some() {
            return far;
        }
        let mut tick = far;
        if let Some(since) = self.working_since {
            tick = tick.min(since + limits.runtime_max.saturating_sub(self.runtime));
            tick = tick.min(self.run.last_progress() + limits.idle_timeout);
        }
        if let Some(since) = self.quiet_since {
            tick = tick.min(since + limits.park_after);
        }
        if let Some((since, _)) = &self.unwatched_since {
            tick = tick.min(*since + limits.disconnect_grace);
        }
        // Timers wake the function by themselves; an expired question must be committed first.
        if let Some(until) = self.run.first_expiry() {
            let again = if self.expiring.borrow().is_empty() { 1 } else { 100 };
            tick = tick.min(now + until.since(self.run.now()).max(Duration::from_millis(again)));
        }
        // A limit that has passed and cannot be acted on yet must not make this a loop without a wait.
        tick.max(now + Duration::from_millis(1))
    }

    pub(super) fn check_limits(&mut self) {
        if self.closing.is_some() {
            return;
        }
        let limits = self.run.limits.clone();
        let now = Instant::now();
        if self.working_since.is_some() && self.spent() >= limits.runtime_max {
            let ms = limits.runtime_max.as_millis();
            return self
                .fail(Failure::new("runtime_exceeded", format!("the run worked for {ms} ms, as long as a run may")));
        }
        if self.working_since.is_some() && now >= self.run.last_progress() + limits.idle_timeout {
            let ms = limits.idle_timeout.as_millis();
            return self.fail(Failure::new("idle_timeout", format!("no step made progress for {ms} ms")));
        }
        self.expire_questions();
        // What is in order and not yet written goes out with the park.
        // The books were kept before the last poll of the function, which may have moved on since.
        let settled = self.in_flight.is_none() && !self.run.is_working() && self.run.first_wake().is_some();
        let waits_long = self.quiet_since.is_some_and(|since| now >= since + limits.park_after);
        let left = self.unwatched_since.as_ref().is_some_and(|(since, _)| now >= *since + limits.disconnect_grace);
        let asks = self.run.asks();
        if settled && self.quiet_since.is_some() && (waits_long || (left && asks)) {
            self.park();
        } else if left && !asks {
            self.cancel("disconnected".into());
        }
    }
}
