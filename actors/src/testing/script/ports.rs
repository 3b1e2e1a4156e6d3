//! The ports of a scripted run: they keep each call and answer it as the script says.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Reply;
use crate::cache::MemoryCache;
use crate::event::{Channel, Failure, Question};
use crate::meter::Meter;
use crate::ports::{
    Cache, EffectPolicy, LocalFuture, ModelCall, ModelClient, ModelDelta, ModelError, ModelReply, ToolCall, ToolOffer,
    ToolOutput, ToolRunner,
};
use crate::testing::ManualClock;
use crate::trace::Tracer;

type ModelScript = Rc<dyn Fn(&ModelCall) -> Reply>;
type ToolScript = Rc<dyn Fn(&ToolCall) -> (Duration, Result<ToolOutput, Failure>)>;
type Human = Rc<dyn Fn(&Question) -> Option<Value>>;

#[derive(Clone)]
pub(super) struct Ports {
    pub model: ModelScript,
    pub tools: ToolScript,
    pub offers: Vec<ToolOffer>,
    pub human: Human,
    pub human_after: Duration,
    pub cache: Arc<dyn Cache>,
    pub model_calls: Rc<RefCell<Vec<ModelCall>>>,
    pub tool_calls: Rc<RefCell<Vec<ToolCall>>>,
    pub meter: Arc<Meter>,
    pub tracer: Option<Arc<dyn Tracer>>,
}

impl Ports {
    /// No model, no tool, and nobody who answers.
    pub fn none() -> Self {
        let unavailable = || Failure::new("provider_unavailable", "the script has no model");
        let unknown = |call: &ToolCall| Failure::new("tool_unknown", format!("the script has no tool {}", call.name));
        Self {
            model: Rc::new(move |_| unavailable().into()),
            tools: Rc::new(move |call| (Duration::ZERO, Err(unknown(call)))),
            offers: Vec::new(),
            human: Rc::new(|_| None),
            human_after: Duration::ZERO,
            cache: Arc::new(MemoryCache::new(Arc::new(ManualClock::default()), 64)),
            model_calls: Rc::default(),
            tool_calls: Rc::default(),
            meter: Arc::default(),
            tracer: None,
        }
    }

    /// The same for another run: nothing was called or metered.
    pub fn unused(&self) -> Self {
        let (model_calls, tool_calls, meter) = (Rc::default(), Rc::default(), Arc::default());
        Self { model_calls, tool_calls, meter, ..self.clone() }
    }
}

impl ModelClient for Ports {
    fn call<'a>(
        &'a self,
        call: &'a ModelCall,
        deltas: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>> {
        Box::pin(async move {
            self.model_calls.borrow_mut().push(call.clone());
            let Reply { after, result } = (self.model)(call);
            tokio::time::sleep(after).await;
            let reply = result?;
            if !reply.text.is_empty() {
                deltas(ModelDelta { channel: Channel::Text, text: reply.text.clone() });
            }
            Ok(reply)
        })
    }
}

impl ToolRunner for Ports {
    fn offers<'a>(&'a self, names: &'a [String]) -> LocalFuture<'a, Vec<ToolOffer>> {
        let named = names.iter().flat_map(|name| self.offers.iter().filter(move |offer| offer.spec.name == *name));
        Box::pin(std::future::ready(named.cloned().collect()))
    }

    fn policy(&self, tool: &str) -> EffectPolicy {
        let offer = self.offers.iter().find(|offer| offer.spec.name == tool);
        offer.map_or(EffectPolicy::Ambiguous, |offer| offer.effect)
    }

    fn call<'a>(&'a self, call: &'a ToolCall) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        Box::pin(async move {
            self.tool_calls.borrow_mut().push(call.clone());
            let (after, result) = (self.tools)(call);
            tokio::time::sleep(after).await;
            result
        })
    }
}
