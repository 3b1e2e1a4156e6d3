//! The tools that this program brings along, as a provider.

use std::sync::Arc;

use fleet_actors::event::Failure;
use fleet_actors::ports::{EffectPolicy, LocalFuture, ToolOutput, ToolSpec};

use super::{Dispatch, Offered, Provider, Reach};

/// Where built-in tools come from, as offers say it.
pub const SOURCE: &str = "builtin";

/// One built-in tool.
pub trait Tool: Send + Sync {
    /// What its model is told; asked for once.
    fn spec(&self) -> ToolSpec;

    /// What it may change.
    fn reach(&self) -> Reach;

    /// Why it cannot be called here.
    fn unavailable(&self) -> LocalFuture<'_, Option<String>> {
        Box::pin(std::future::ready(None))
    }

    /// Makes a call.
    ///
    /// # Errors
    /// The tool's [`Failure`].
    ///
    /// # Cancel safety
    /// Dropping the future stops the tool.
    fn call<'a>(&'a self, call: Dispatch<'a>) -> LocalFuture<'a, Result<ToolOutput, Failure>>;
}

/// The built-in tools. None of them changes anything outside of its call.
#[derive(Clone, Default)]
pub struct Builtin(Vec<(Offered, Arc<dyn Tool>)>);

impl Builtin {
    /// These tools.
    #[must_use]
    pub fn new(tools: Vec<Arc<dyn Tool>>) -> Self {
        let offered =
            |tool: &Arc<dyn Tool>| Offered::new(tool.spec(), EffectPolicy::SafeToRepeat, tool.reach(), SOURCE.into());
        Self(tools.into_iter().map(|tool| (offered(&tool), tool)).collect())
    }

    fn find(&self, name: &str) -> Option<&(Offered, Arc<dyn Tool>)> {
        self.0.iter().find(|(offered, _)| offered.spec.name == name)
    }
}

impl Provider for Builtin {
    fn offers<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Vec<Offered>> {
        Box::pin(async move {
            let Some((offered, tool)) = self.find(name) else { return Vec::new() };
            vec![Offered { unavailable: tool.unavailable().await, ..offered.clone() }]
        })
    }

    fn policy(&self, tool: &str) -> Option<EffectPolicy> {
        self.find(tool).map(|(offered, _)| offered.effect)
    }

    fn call<'a>(&'a self, call: Dispatch<'a>) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        match self.find(call.tool) {
            Some((_, tool)) => tool.call(call),
            None => Box::pin(std::future::ready(Err(super::runner::unknown(call.tool)))),
        }
    }
}
