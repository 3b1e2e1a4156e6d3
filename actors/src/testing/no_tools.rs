//! A tool runner that has none.

use std::rc::Rc;

use crate::event::Failure;
use crate::ports::{EffectPolicy, LocalFuture, ToolCall, ToolOffer, ToolOutput, ToolRunner, Tools};

/// Offers nothing and refuses every call with `tool_unknown`.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTools;

impl Tools for NoTools {
    fn runner(&self, _: &str) -> Rc<dyn ToolRunner> {
        Rc::new(Self)
    }
}

impl ToolRunner for NoTools {
    fn offers<'a>(&'a self, _: &'a [String]) -> LocalFuture<'a, Vec<ToolOffer>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn policy(&self, _: &str) -> EffectPolicy {
        EffectPolicy::Ambiguous
    }

    fn call<'a>(&'a self, call: &'a ToolCall) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        Box::pin(async move { Err(Failure::new("tool_unknown", format!("there is no tool `{}`", call.name))) })
    }
}
