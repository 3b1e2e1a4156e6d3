//! A call of a model: attempts until one has a reply, fails for good or the step's time is over.

use std::sync::Arc;

use super::run::{OpenStep, json};
use super::step::{Found, timed_out};
use super::{StepResult, Turn, spans};
use crate::event::{Failure, StepKind};
use crate::failpoint::{FailPoint, reach};
use crate::journal::digest;
use crate::meter::CallEnd;
use crate::ports::{ModelCall, ModelReply, ModelRequest};

impl Turn {
    /// Calls a model. What it streams is seen by clients as deltas of this step.
    ///
    /// # Errors
    /// The provider's final failure, or `step_timeout` when the call outlives its deadline; recorded.
    pub async fn model(&mut self, name: &str, request: ModelRequest) -> StepResult<ModelReply> {
        let path = self.path(name);
        let input = model_digest(&request);
        let mut attempt = match self.find(&path, StepKind::Model, &input) {
            None => return self.halted().await,
            Some(Found::Recorded(state)) => return self.recorded(&path, state).await,
            Some(Found::Fresh { attempt } | Found::Restarted { attempt }) => attempt,
        };
        let run = self.run.clone();
        let key = self.key(&path);
        let deadline = tokio::time::Instant::now() + run.limits.model_timeout;
        let who = (request.audience, request.agent.clone());
        let mut call = ModelCall { request, idempotency_key: key.clone(), attempt };
        loop {
            let _working = run.effect();
            let open = OpenStep::attempt(attempt, StepKind::Model, who.clone(), input.clone(), run.now());
            let intent = run.start_attempt(&path, open, &key);
            run.durable(intent).await;
            if run.shows_failed_append() {
                return Err(Failure::new("storage_unavailable", "an append failed"));
            }
            let mut deltas = |delta| run.delta(&path, delta);
            let span = self.model_span(&call);
            reach(FailPoint::BeforeDispatch);
            let reply = tokio::time::timeout_at(deadline, run.ports.model.call(&call, &mut deltas)).await;
            reach(FailPoint::AfterDispatch);
            let failure = match reply {
                Ok(Ok(reply)) => {
                    run.ports.meter.model(CallEnd::Completed, reply.usage);
                    spans::model_ended(span, CallEnd::Completed, Ok(&reply));
                    return Ok(run.complete_model(&path, reply));
                }
                Ok(Err(error)) => match error.retry_in {
                    Some(wait) if tokio::time::Instant::now() + wait < deadline => {
                        run.ports.meter.model(CallEnd::Retried, None);
                        spans::model_ended(span, CallEnd::Retried, Err(&error.failure));
                        run.void_to_retry(&path);
                        tokio::time::sleep(wait).await;
                        attempt += 1;
                        call.attempt = attempt;
                        continue;
                    }
                    _ => error.failure,
                },
                Err(_) => timed_out("model", run.limits.model_timeout),
            };
            run.ports.meter.model(CallEnd::Failed, None);
            spans::model_ended(span, CallEnd::Failed, Err(&failure));
            run.fail(&path, &failure);
            return Err(failure);
        }
    }
}

/// Digest of a model step's typed input. The effort is left out: it belongs to the session, and a resume may change it.
fn model_digest(request: &ModelRequest) -> Arc<str> {
    let ModelRequest { model, agent, audience, context, tools, output, temperature, max_output_tokens } = request;
    digest(json(&(model, agent, audience, context.digest(), tools, output, temperature, max_output_tokens)).as_bytes())
}
