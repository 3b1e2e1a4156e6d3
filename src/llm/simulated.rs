//! The simulated model inside the process: plays a script to its caller, without a network.
//!
//! Its failures carry the codes that a provider's would, so whatever a run does about them can be tried here. Faults by
//! rate count calls over all sessions.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fleet_actors::event::Channel;
use fleet_actors::ports::{
    AgentClients, LocalFuture, ModelCall, ModelClient, ModelDelta, ModelError, ModelReply, OutputForm, ReasoningEffort,
};

use super::breaker::Retries;
use super::config::{LlmConfig, ModelRule};
use super::failure::Fault;
use super::simulate::{Script, SimulatedFault, SimulatedRequest, Simulation};

/// Makes each session its client of the simulated model.
pub(super) struct SimulatedClients {
    shared: Arc<Shared>,
    effort: Option<ReasoningEffort>,
}

struct Shared {
    simulation: Simulation,
    output_tokens_max: Option<u32>,
    models: Vec<ModelRule>,
    calls: AtomicU64,
    retries: Retries,
}

impl SimulatedClients {
    pub(super) fn new(config: &LlmConfig) -> Self {
        let shared = Shared {
            simulation: config.simulated.clone(),
            output_tokens_max: config.output_tokens_max,
            models: config.models.clone(),
            calls: AtomicU64::new(0),
            retries: Retries::new(config.retry),
        };
        Self { shared: Arc::new(shared), effort: config.reasoning_effort }
    }
}

impl AgentClients for SimulatedClients {
    fn client(&self, effort: Option<ReasoningEffort>) -> Rc<dyn ModelClient> {
        Rc::new(SimulatedClient { shared: Arc::clone(&self.shared), effort: effort.or(self.effort) })
    }
}

struct SimulatedClient {
    shared: Arc<Shared>,
    effort: Option<ReasoningEffort>,
}

impl ModelClient for SimulatedClient {
    fn call<'a>(
        &'a self,
        call: &'a ModelCall,
        deltas: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>> {
        Box::pin(async move {
            self.shared.retries.began(call.attempt);
            let script = self.script(call);
            let model = &call.request.model;
            let played = play(model, script, deltas).await;
            let mut reply = played.map_err(|fault| self.shared.retries.judge(fault, call.attempt))?;
            ModelRule::charge(&self.shared.models, model, &mut reply);
            Ok(reply)
        })
    }
}

impl SimulatedClient {
    fn script(&self, call: &ModelCall) -> Script {
        let request = &call.request;
        let messages = request.context.messages();
        let (schema_name, schema) = match &request.output {
            OutputForm::Text => ("", None),
            OutputForm::Json { name, schema } => (name.as_str(), Some(&**schema)),
        };
        let simulated = SimulatedRequest {
            model: &request.model,
            messages: messages.iter().map(|message| (message.role, Cow::Borrowed(message.content.as_str()))).collect(),
            tools: request.tools.iter().map(|tool| (tool.name.as_str(), &tool.parameters)).collect(),
            schema,
            schema_text: None,
            schema_name,
            effort: self.effort,
            max_tokens: request.max_output_tokens.or(self.shared.output_tokens_max),
            attempt: call.attempt,
        };
        self.shared.simulation.simulate(&simulated, self.shared.calls.fetch_add(1, Ordering::Relaxed))
    }
}

async fn play(model: &str, script: Script, deltas: &mut dyn FnMut(ModelDelta)) -> Result<ModelReply, Fault> {
    pause(script.latency).await;
    let mut pieces_max = usize::MAX;
    match script.fault {
        Some(SimulatedFault::RateLimited { retry_after }) => {
            return Err(Fault::rate_limited(retry_after.map(|seconds| Duration::from_secs(seconds.into()))));
        }
        Some(SimulatedFault::ServerError) => return Err(Fault::unavailable("the provider failed with 500")),
        Some(SimulatedFault::Hang) => std::future::pending().await,
        Some(SimulatedFault::Cut { after }) => pieces_max = after as usize,
        Some(SimulatedFault::Garbage) => {
            return Err(Fault::malformed("the provider sent something that is not JSON"));
        }
        Some(SimulatedFault::Drip { .. }) | None => {}
    }
    let mut reply = ModelReply { model: model.to_owned(), simulated: true, ..ModelReply::default() };
    for piece in script.pieces.into_iter().take(pieces_max) {
        pause(piece.gap).await;
        match piece.channel {
            Channel::Text => reply.text.push_str(&piece.text),
            Channel::Reasoning => reply.reasoning.push_str(&piece.text),
        }
        deltas(ModelDelta { channel: piece.channel, text: piece.text });
    }
    if pieces_max < usize::MAX {
        return Err(Fault::incomplete("the provider's answer was cut"));
    }
    Ok(ModelReply { tool_calls: script.tool_calls, usage: Some(script.usage), finish_reason: script.finish, ..reply })
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
