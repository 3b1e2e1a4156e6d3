//! When a failing provider is left alone, and how many retries all sessions together may make.
//!
//! Invariants: while the breaker is open nobody calls; after that one call at a time probes. Retries never exceed
//! `budget_percent` of first attempts, rounded up, plus what [`SAVED_MAX`] calls have left unused.
//! Both belong to the provider, so all sessions share them. Waiting is the caller's: nothing here sleeps.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fleet_actors::ports::ModelError;
use tokio::time::Instant;

use super::config::{BreakerPolicy, RetryPolicy};
use super::failure::{Fault, Health, Retry};

/// Opens after failures in a row.
#[derive(Debug)]
pub(super) struct Breaker {
    policy: Option<BreakerPolicy>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// The probe is on its way.
    HalfOpen,
}

/// Leave to make one call. Dropped without a verdict, it says nothing about the provider.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
    health: Health,
}

impl Breaker {
    pub(super) fn new(policy: Option<BreakerPolicy>) -> Self {
        Self { policy, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// Leave to call, or how long until one may probe.
    pub(super) fn admit(&self) -> Result<Pass<'_>, Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let probe = match *state {
            State::Closed { .. } => false,
            State::Open { until } => {
                let remaining = until.saturating_duration_since(Instant::now());
                if !remaining.is_zero() {
                    return Err(remaining);
                }
                *state = State::HalfOpen;
                true
            }
            State::HalfOpen => return Err(self.policy.map_or(Duration::ZERO, |policy| policy.open_for)),
        };
        Ok(Pass { breaker: self, probe, health: Health::Unknown })
    }

    fn judge(&self, probe: bool, health: Health) {
        let Some(policy) = self.policy else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *state = match (&*state, probe, health) {
            (State::HalfOpen, true, Health::Well) => State::Closed { failures: 0 },
            (State::HalfOpen, true, Health::Ill) => State::Open { until: now + policy.open_for },
            (State::HalfOpen, true, Health::Unknown) => State::Open { until: now },
            (State::Closed { .. }, _, Health::Well) => State::Closed { failures: 0 },
            (State::Closed { failures }, _, Health::Ill) if failures + 1 >= policy.failures.get() => {
                tracing::warn!(failures = failures + 1, "the model provider keeps failing: its breaker opens");
                State::Open { until: now + policy.open_for }
            }
            (State::Closed { failures }, _, Health::Ill) => State::Closed { failures: failures + 1 },
            // A call from before the breaker opened has nothing new to say.
            (State::Closed { .. } | State::Open { .. } | State::HalfOpen, _, _) => return,
        };
    }
}

impl Pass<'_> {
    /// Ends the call with what it says about the provider.
    pub(super) fn end(mut self, health: Health) {
        self.health = health;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.breaker.judge(self.probe, self.health);
    }
}

/// Calls whose unused share of the budget is kept: a long good time must not pay for a storm of retries.
const SAVED_MAX: u64 = 1_000;
/// What one retry costs; a first attempt earns `budget_percent`.
const RETRY_COST: u64 = 100;

/// Decides whether and when a failed call is made again.
#[derive(Debug)]
pub(super) struct Retries {
    policy: Option<RetryPolicy>,
    balance: Mutex<u64>,
}

impl Retries {
    pub(super) fn new(policy: Option<RetryPolicy>) -> Self {
        let percent = policy.map_or(0, |policy| u64::from(policy.budget_percent));
        // Rounded up: the first call may be tried again, and the 1,000th leaves 100 retries behind it.
        let head_start = if percent == 0 { 0 } else { RETRY_COST.saturating_sub(percent) };
        Self { policy, balance: Mutex::new(head_start) }
    }

    /// Counts a call that is about to be made.
    pub(super) fn began(&self, attempt: u32) {
        let Some(policy) = self.policy.filter(|_| attempt <= 1) else { return };
        let percent = u64::from(policy.budget_percent);
        let mut balance = self.balance.lock().unwrap_or_else(PoisonError::into_inner);
        *balance = (*balance + percent).min((percent * SAVED_MAX).max(RETRY_COST));
    }

    /// What the session is told of a call that failed.
    pub(super) fn judge(&self, fault: Fault, attempt: u32) -> ModelError {
        let retry_in = self.delay(&fault, attempt, fastrand::f64());
        ModelError { failure: fault.failure, retry_in }
    }

    /// How long to wait before attempt `attempt + 1`; `None` is final. `chance` is uniform in `0..1`.
    fn delay(&self, fault: &Fault, attempt: u32, chance: f64) -> Option<Duration> {
        let policy = self.policy?;
        if fault.retry == Retry::Useless || attempt >= policy.attempts_max.get() {
            return None;
        }
        let asked = fault.failure.retry_after_ms.map(Duration::from_millis);
        if asked.is_some_and(|asked| asked > policy.delay_max) {
            return None;
        }
        let doubled = policy.base.saturating_mul(1 << attempt.saturating_sub(1).min(20));
        let jitter = doubled.min(policy.delay_max).mul_f64(chance.clamp(0.0, 1.0));
        let mut balance = self.balance.lock().unwrap_or_else(PoisonError::into_inner);
        *balance = balance.checked_sub(RETRY_COST)?;
        let late = |asked| policy.delay_max.min(asked + policy.base.mul_f64(chance.clamp(0.0, 1.0)));
        Some(asked.map_or(jitter, late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(Some(BreakerPolicy::default()))
    }

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker.admit().expect("closed").end(Health::Ill);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_breaker_opens_after_five_failures_in_a_row_and_one_call_probes() {
        let breaker = breaker();
        fail(&breaker, 4);
        breaker.admit().expect("closed").end(Health::Well);
        fail(&breaker, 5);
        assert_eq!(breaker.admit().err(), Some(Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(breaker.admit().err(), Some(Duration::from_secs(6)));
        tokio::time::advance(Duration::from_secs(6)).await;
        let probe = breaker.admit().expect("the probe");
        assert!(breaker.admit().is_err(), "only one probe");
        probe.end(Health::Ill);
        assert!(breaker.admit().is_err(), "open again");
        tokio::time::advance(Duration::from_secs(10)).await;
        breaker.admit().expect("the probe").end(Health::Well);
        fail(&breaker, 4);
        assert!(breaker.admit().is_ok(), "closed, counting from zero");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_nobody_waited_for_leaves_the_next_call_to_probe() {
        let breaker = breaker();
        fail(&breaker, 5);
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(breaker.admit().expect("the probe"));
        breaker.admit().expect("another probe").end(Health::Well);
        assert!(breaker.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_from_before_does_not_close_an_open_breaker() {
        let breaker = breaker();
        let late = breaker.admit().expect("closed");
        fail(&breaker, 5);
        late.end(Health::Well);
        assert!(breaker.admit().is_err());
    }

    #[test]
    fn retries_are_at_most_a_tenth_of_the_calls() {
        let retries = Retries::new(Some(RetryPolicy::default()));
        let granted = (0..1_000)
            .filter(|_| {
                retries.began(1);
                retries.delay(&Fault::unavailable("x"), 1, 0.5).is_some()
            })
            .count();
        assert_eq!(granted, 100);
    }

    #[test]
    fn the_delay_has_full_jitter_doubles_and_is_never_before_retry_after() {
        let policy = RetryPolicy { budget_percent: 1_000, ..RetryPolicy::default() };
        let retries = Retries::new(Some(policy));
        retries.began(1);
        let ill = Fault::unavailable("x");
        assert_eq!(retries.delay(&ill, 1, 0.0), Some(Duration::ZERO));
        assert_eq!(retries.delay(&ill, 1, 1.0), Some(Duration::from_millis(500)));
        assert_eq!(retries.delay(&ill, 2, 1.0), Some(Duration::from_secs(1)));
        assert_eq!(retries.delay(&ill, 3, 1.0), None, "three attempts are all");
        let busy = |seconds| Fault::rate_limited(Some(Duration::from_secs(seconds)));
        assert_eq!(retries.delay(&busy(7), 1, 1.0), Some(Duration::from_millis(7_500)));
        assert_eq!(retries.delay(&busy(21), 1, 0.0), None, "longer than we wait");
        assert_eq!(retries.delay(&Fault::malformed("x"), 1, 0.0), None);
    }

    #[test]
    fn without_a_policy_every_failure_is_final() {
        let retries = Retries::new(None);
        retries.began(1);
        assert_eq!(retries.delay(&Fault::rate_limited(None), 1, 0.0), None);
    }
}
