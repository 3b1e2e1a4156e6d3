//! A call of a tool: its intent is durable before it is made, and an effect that must not happen twice is not repeated
//! unasked.

use std::sync::Arc;

use serde_json::Value;

use super::ambiguous::Decision;
use super::run::{OpenStep, json};
use super::step::{Found, timed_out};
use super::{StepResult, Turn, spans};
use crate::event::{Audience, StepKind};
use crate::failpoint::{FailPoint, reach};
use crate::journal::digest;
use crate::meter::CallEnd;
use crate::mutant::{self, Mutant};
use crate::ports::{Approval, EffectPolicy, ToolCall, ToolOutput};

/// A tool call, as a workflow asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolAsk {
    /// The tool.
    pub tool: Arc<str>,
    /// Its arguments.
    pub arguments: Value,
    /// On whose behalf.
    pub agent: Option<Arc<str>>,
    /// The digest of the offer that its model saw.
    pub schema_digest: Arc<str>,
    /// A human's word for it.
    pub approval: Option<Approval>,
    /// The id that the model gave the call; only traces name it.
    pub call_id: Option<Arc<str>>,
}

impl ToolAsk {
    /// A call on nobody's behalf, without a human's word.
    #[must_use]
    pub fn new(tool: impl Into<Arc<str>>, arguments: Value) -> Self {
        Self { tool: tool.into(), arguments, agent: None, schema_digest: Arc::from(""), approval: None, call_id: None }
    }
}

impl Turn {
    /// Calls a tool. When a crash has hidden the outcome of an effect that must not happen twice, a human is asked
    /// (`ambiguous_effect`) whether to repeat it, to go on with a result they give, or to fail.
    ///
    /// # Errors
    /// The tool's failure, `step_timeout`, or `ambiguous_effect` when the human said so or nobody answered; recorded.
    pub async fn tool(&mut self, name: &str, ask: ToolAsk) -> StepResult<ToolOutput> {
        let path = self.path(name);
        let ToolAsk { tool, arguments, agent, schema_digest, approval, call_id } = ask;
        let input = digest(json(&(&tool, &arguments, &agent)).as_bytes());
        let found = self.find(&path, StepKind::Tool, &input);
        let (attempt, restarted) = match found {
            None => return self.halted().await,
            Some(Found::Recorded(state)) => {
                self.run.past.mark_read(&format!("{path}/"));
                return self.recorded(&path, state).await;
            }
            Some(Found::Fresh { attempt }) => (attempt, false),
            Some(Found::Restarted { attempt }) => (attempt, true),
        };
        let run = self.run.clone();
        let key = self.key(&path);
        let ambiguous = restarted && run.ports.tools.policy(&tool) == EffectPolicy::Ambiguous;
        let decision = if ambiguous && !mutant::is(Mutant::AmbiguousRepeated) {
            self.ask_about_effect(&path, &tool, &arguments, attempt - 1).await
        } else {
            Decision::Repeat
        };
        self.run.past.mark_read(&format!("{path}/"));
        let _working = run.effect();
        let who = (Audience::Workflow, agent.clone());
        let open = OpenStep::attempt(attempt, StepKind::Tool, who, input, run.now());
        let intent = run.start_attempt(&path, open, &key);
        match decision {
            Decision::Repeat => run.durable(intent).await,
            Decision::Skip(result) => {
                run.complete_tool(&path, &result);
                return Ok(*result);
            }
            Decision::Fail(failure) => {
                run.fail(&path, &failure);
                return Err(failure);
            }
        }
        let span = self.tool_span(&tool, call_id.as_deref(), agent.as_deref(), &arguments);
        reach(FailPoint::BeforeDispatch);
        let workflow = run.workflow.clone();
        let call =
            ToolCall { workflow, agent, name: tool, arguments, schema_digest, approval, idempotency_key: key, attempt };
        let result = tokio::time::timeout(run.limits.tool_timeout, run.ports.tools.call(&call)).await;
        reach(FailPoint::AfterDispatch);
        let failure = match result {
            Ok(Ok(output)) => {
                run.ports.meter.tool(&call.name, CallEnd::Completed);
                spans::tool_ended(span, CallEnd::Completed, Ok(&output));
                run.complete_tool(&path, &output);
                return Ok(output);
            }
            Ok(Err(failure)) => failure,
            Err(_) => timed_out("tool", run.limits.tool_timeout),
        };
        run.ports.meter.tool(&call.name, CallEnd::Failed);
        spans::tool_ended(span, CallEnd::Failed, Err(&failure));
        run.fail(&path, &failure);
        Err(failure)
    }
}
