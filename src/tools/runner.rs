//! Offers tools to a run and checks each of its calls. Asks nobody but settings, providers and the recorded approval.

use std::rc::Rc;
use std::sync::Arc;

use fleet_actors::event::Failure;
use fleet_actors::ports::{
    Access, EffectPolicy, LocalFuture, ToolCall, ToolOffer, ToolOutput, ToolRunner, ToolSpec, Tools,
};
use jsonschema::Validator;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::policy::Policy;
use super::{Dispatch, Offered, Provider, builtin};
use crate::memo::Beside;
use crate::{arguments, security};

/// Failures of tools that tell of somebody who tries what may not be.
const ATTEMPTS: [&str; 2] = ["url_denied", "sandbox_limit"];

/// Room for validators that are kept with their tools.
const VALIDATORS_BYTES: usize = 16 << 20;
/// A validator and its schema take about so many times the bytes of the schema's text, besides its patterns.
const VALIDATOR: usize = 16;

/// Every tool of the settings.
#[derive(Clone)]
pub struct FleetTools(Arc<Shared>);

struct Shared {
    providers: Vec<Arc<dyn Provider>>,
    policy: Policy,
    arguments_bytes_max: usize,
    /// Made once for each tool: a schema takes longer to understand than arguments to judge.
    validators: Beside<ToolSpec, Option<Arc<Validator>>>,
}

impl FleetTools {
    /// Tools of `providers` under `policy`; of two with the same name the first provider's counts.
    #[must_use]
    pub fn new(providers: Vec<Arc<dyn Provider>>, policy: Policy, arguments_bytes_max: usize) -> Self {
        Self(Arc::new(Shared { providers, policy, arguments_bytes_max, validators: Beside::new(VALIDATORS_BYTES) }))
    }
}

impl Tools for FleetTools {
    fn runner(&self, principal: &str) -> Rc<dyn ToolRunner> {
        Rc::new(Runner { shared: self.0.clone(), principal: principal.into() })
    }
}

/// Acts for one principal.
struct Runner {
    shared: Arc<Shared>,
    principal: Arc<str>,
}

/// There is no such tool.
pub(super) fn unknown(tool: &str) -> Failure {
    Failure::new("tool_unknown", format!("there is no tool `{}`", security::encoded(tool)))
}

fn denied(reason: impl Into<String>) -> Failure {
    Failure::new("tool_denied", reason.into())
}

impl ToolRunner for Runner {
    fn offers<'a>(&'a self, names: &'a [String]) -> LocalFuture<'a, Vec<ToolOffer>> {
        Box::pin(async move {
            let mut offers: Vec<ToolOffer> = Vec::new();
            for name in names {
                for (_, offered) in self.shared.offered(name).await {
                    if offers.iter().all(|known| known.spec.name != offered.spec.name) {
                        offers.push(self.offer(offered));
                    }
                }
            }
            offers
        })
    }

    fn policy(&self, tool: &str) -> EffectPolicy {
        // A tool that nobody knows any more may have done anything.
        self.shared.providers.iter().find_map(|provider| provider.policy(tool)).unwrap_or(EffectPolicy::Ambiguous)
    }

    fn call<'a>(&'a self, call: &'a ToolCall) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        let name = security::encoded(&call.name);
        let span = tracing::info_span!(
            "execute_tool",
            otel.name = format!("execute_tool {name}"),
            gen_ai.operation.name = "execute_tool",
            gen_ai.tool.name = name,
            workflow = %call.workflow,
            attempt = call.attempt,
            outcome = Empty,
            duration_ms = Empty,
        );
        Box::pin(
            async move {
                let begun = Instant::now();
                let result = self.checked(call).await;
                let duration = begun.elapsed();
                let outcome = match &result {
                    Ok(output) if output.degraded.is_some() => "degraded",
                    Ok(_) => "ok",
                    Err(failure) => &failure.code,
                };
                let span = tracing::Span::current();
                span.record("outcome", outcome);
                span.record("duration_ms", u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
                tracing::debug!(outcome, "tool call ended");
                result.map(|output| ToolOutput { duration, ..output })
            }
            .instrument(span),
        )
    }
}

impl Runner {
    fn offer(&self, offered: Offered) -> ToolOffer {
        let access = self.shared.policy.access(&self.principal, &offered.spec.name, offered.reach);
        let Offered { spec, schema_digest, effect, source, unavailable, .. } = offered;
        ToolOffer { spec, effect, access, source, schema_digest, unavailable }
    }

    async fn checked(&self, call: &ToolCall) -> Result<ToolOutput, Failure> {
        let provider = match self.check(call).await {
            Ok(provider) => provider,
            Err((event, failure)) => {
                let reason = if event == "tool_arguments_invalid" { "arguments do not fit" } else { &*failure.message };
                security::refused(event, &call.workflow, &self.principal, &call.name, reason);
                return Err(failure);
            }
        };
        let dispatch = Dispatch {
            workflow: &call.workflow,
            tool: &call.name,
            arguments: &call.arguments,
            idempotency_key: &call.idempotency_key,
            attempt: call.attempt,
        };
        let result = provider.call(dispatch).await;
        if let Err(failure) = &result
            && let Some(event) = ATTEMPTS.into_iter().find(|code| **code == *failure.code)
        {
            security::refused(event, &call.workflow, &self.principal, &call.name, &failure.message);
        }
        result
    }

    /// Who makes the call, if it may be made; else the name of the security event, and what the model is told.
    async fn check(&self, call: &ToolCall) -> Result<Arc<dyn Provider>, (&'static str, Failure)> {
        let found = self.shared.offered(&call.name).await;
        let found = found.into_iter().find(|(_, offered)| *offered.spec.name == *call.name);
        let absent = || self.shared.providers.iter().find_map(|provider| provider.absent(&call.name));
        let (provider, offered) = found.ok_or_else(|| match absent() {
            Some(failure) => ("tool_unavailable", failure),
            None => ("tool_unknown", unknown(&call.name)),
        })?;
        let offer = self.offer(offered);
        let tool = &offer.spec.name;
        if offer.access == Access::Deny {
            return Err(("tool_denied", denied(format!("the rules do not allow `{tool}`"))));
        }
        // A call without a digest is a workflow's own; tools of others can change under it, so there it must say.
        let own = call.schema_digest.is_empty() && &*offer.source == builtin::SOURCE;
        if call.schema_digest != offer.schema_digest && !own {
            let (code, whose) = match &*offer.source {
                builtin::SOURCE => ("tool_changed", "it"),
                _ => ("mcp_tool_changed", "its server"),
            };
            let text = format!("`{tool}` is not what it was when it was offered: {whose} has changed its description");
            return Err((code, Failure::new(code, text)));
        }
        let validator = self.shared.validator(&offer.spec);
        arguments::check(tool, validator.as_deref(), &call.arguments, self.shared.arguments_bytes_max)
            .map_err(|failure| ("tool_arguments_invalid", failure))?;
        if offer.access == Access::Ask {
            let approval = call.approval.as_ref();
            let approval = approval.ok_or_else(|| ("tool_denied", denied(format!("nobody has approved `{tool}`"))))?;
            if approval.arguments_digest != ToolCall::arguments_digest(tool, &call.arguments) {
                let text = format!("what was approved is not this call of `{tool}`: its arguments are others");
                return Err(("approval_mismatch", denied(text)));
            }
        }
        if let Some(reason) = offer.unavailable {
            return Err(("tool_unavailable", Failure::new("tool_unavailable", reason)));
        }
        Ok(provider)
    }
}

impl Shared {
    fn validator(&self, spec: &Arc<ToolSpec>) -> Option<Arc<Validator>> {
        self.validators.get(spec, |spec| {
            let text = spec.parameters.to_string();
            let bytes = text.len() * VALIDATOR + text.matches("\"pattern").count() * arguments::PATTERN_BYTES_MAX;
            (arguments::validator(&spec.parameters).map(Arc::new), bytes)
        })
    }

    async fn offered(&self, name: &str) -> Vec<(Arc<dyn Provider>, Offered)> {
        for provider in &self.providers {
            let offered = provider.offers(name).await;
            if !offered.is_empty() {
                return offered.into_iter().map(|offered| (provider.clone(), offered)).collect();
            }
        }
        Vec::new()
    }
}
