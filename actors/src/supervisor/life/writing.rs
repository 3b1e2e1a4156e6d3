//! What a life writes: one append at a time, asked again in the same words until the store says what became of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Life, LifeEnd, StartFailure};
use crate::failpoint::{FailPoint, reach};
use crate::journal::encode;
use crate::ports::{Append, Claim, LocalFuture, Next, Outcome, Rest, StoreError};
use crate::turn::Batch;

pub(super) struct InFlight {
    append: Arc<Append>,
    /// It is this life's last.
    last: bool,
    since: Instant,
    tries: u32,
    pub future: LocalFuture<'static, Result<Outcome, StoreError>>,
}

impl Life {
    /// Starts the next append if there is something to write.
    pub(super) fn flush_if_due(&mut self) {
        let last = self.closing.is_some();
        if !last && !self.run.wants_flush() {
            return;
        }
        let Batch { records, opened, closed } = self.run.take_batch();
        let mut children = Vec::new();
        let (create, mut messages) = match self.first.take() {
            Some((create, message)) => (Some(Box::new(create)), message.into_iter().collect()),
            None => (None, Vec::new()),
        };
        let next = match &mut self.closing {
            Some(closing) => {
                messages.append(&mut closing.said);
                children.append(&mut closing.children);
                closing.next.clone()
            }
            None => Next::Running,
        };
        let append = Arc::new(Append {
            claim: Claim { workflow: self.run.workflow.clone(), epoch: self.run.epoch },
            after: self.after,
            create,
            records: records.iter().map(encode).collect(),
            messages,
            opened,
            closed,
            runtime: self.spent(),
            children,
            next,
        });
        if last {
            reach(FailPoint::BeforeFinal);
        }
        if self.takeover && self.after == self.run.past.head {
            reach(FailPoint::BeforeTakeover);
        }
        let future = self.writer.append(append.clone());
        self.in_flight = Some(InFlight { append, last, since: Instant::now(), tries: 1, future });
    }

    /// Judges what became of the append in flight.
    pub(super) fn appended(&mut self, result: Result<Outcome, StoreError>) -> Option<LifeEnd> {
        let in_flight = self.in_flight.take()?;
        match result {
            Ok(Outcome::Done { head }) => {
                let last = in_flight.append.records.last().map_or(in_flight.append.after, |row| row.position);
                debug_assert!(head >= last);
                reach(if in_flight.last { FailPoint::AfterFinal } else { FailPoint::AfterAck });
                if self.takeover && self.after == self.run.past.head {
                    reach(FailPoint::AfterTakeover);
                }
                if in_flight.tries > 1 {
                    tracing::info!(workflow = %self.run.workflow, tries = in_flight.tries, "append done after all");
                }
                self.after = last;
                let is_last = in_flight.last;
                if is_last {
                    self.end_span();
                    (self.release)();
                }
                if let Next::Ended(entry) = &in_flight.append.next {
                    self.log.ended_with(entry.clone());
                }
                self.run.set_durable(last);
                if let Some(started) = self.started.borrow_mut().take() {
                    let _ = started.send(Ok(()));
                }
                is_last.then(|| self.over())
            }
            Ok(Outcome::Duplicate { workflow, same_body }) => {
                self.refuse(StartFailure::Duplicate { workflow, same_body });
                Some(LifeEnd::Duplicate)
            }
            Ok(Outcome::Gap { .. } | Outcome::Fenced { .. } | Outcome::Unknown) => {
                self.refuse(StartFailure::Fenced);
                Some(LifeEnd::Fenced)
            }
            Err(error @ (StoreError::Failed(_) | StoreError::Damaged(_))) => self.give_up(error),
            // A start that nobody has been told of is refused at once: a full disk may stay full for long.
            Err(error) if error.refuses_writes() && self.started.borrow().is_some() => self.give_up(error),
            Err(error) if in_flight.since.elapsed() >= self.run.limits.storage_patience => self.give_up(error),
            Err(error) => {
                if in_flight.tries == 1 {
                    tracing::warn!(workflow = %self.run.workflow, %error, "append failed, asking again");
                }
                self.run.show_failed_append();
                let wait = Duration::from_millis(20 << in_flight.tries.min(5));
                let (writer, append) = (self.writer.clone(), in_flight.append.clone());
                let future = async move {
                    tokio::time::sleep(wait).await;
                    writer.append(append).await
                };
                self.in_flight = Some(InFlight { tries: in_flight.tries + 1, future: Box::pin(future), ..in_flight });
                None
            }
        }
    }

    pub(super) fn refuse(&mut self, failure: StartFailure) {
        if let Some(started) = self.started.borrow_mut().take() {
            let _ = started.send(Err(failure));
        }
    }

    fn give_up(&mut self, error: StoreError) -> Option<LifeEnd> {
        self.function = None;
        (self.release)();
        let rest = if matches!(error, StoreError::Damaged(_)) { Rest::Quarantined } else { Rest::StorageUnavailable };
        let text = error.to_string();
        self.refuse(StartFailure::Store(error));
        Some(LifeEnd::Rested(rest, text))
    }

    /// Waits until no append is in flight: a new life must find what this one wrote.
    pub(super) async fn settle(&mut self) {
        while let Some(in_flight) = &mut self.in_flight {
            let result = in_flight.future.as_mut().await;
            if self.appended(result).is_some() {
                return;
            }
        }
    }
}
