//! What the process has used since it started: calls, tokens and money of all runs together.
//!
//! Counted when a call ends, so a replay counts nothing again. What one run has spent is its [`Spend`](crate::spend::Spend),
//! which its journal keeps; this here ends with the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::event::Usage;

/// Tools that are counted by name; those of all others together are [`OTHER`].
const TOOLS_MAX: usize = 200;
/// The name under which tools above the bound are counted.
pub const OTHER: &str = "other";

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallEnd {
    /// With a result.
    Completed,
    /// Without one.
    Failed,
    /// Without one, and another attempt follows.
    Retried,
    /// Never made: the rules do not allow it.
    Denied,
    /// Never made: a person said no.
    Rejected,
    /// Never made: nobody said yes in time.
    Expired,
}

impl CallEnd {
    /// As metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Retried => "retried",
            Self::Denied => "denied",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }
}

/// The counts.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Model calls, by their end.
    pub model_calls: BTreeMap<CallEnd, u64>,
    /// Tokens and cost of those with a result.
    pub usage: Usage,
    /// Tool calls, by tool and end.
    pub tool_calls: BTreeMap<(Arc<str>, CallEnd), u64>,
}

/// Counts; shared by all runs of a process.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Totals>);

impl Meter {
    /// Counts a model call.
    pub fn model(&self, end: CallEnd, usage: Option<Usage>) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *totals.model_calls.entry(end).or_default() += 1;
        totals.usage += usage.unwrap_or_default();
    }

    /// Counts a tool call.
    pub fn tool(&self, tool: &str, end: CallEnd) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = totals.tool_calls.keys().map(|(name, _)| name).filter(|name| &***name == tool);
        let name = match known.next().cloned() {
            Some(name) => name,
            None if totals.tool_calls.len() < TOOLS_MAX => tool.into(),
            None => OTHER.into(),
        };
        *totals.tool_calls.entry((name, end)).or_default() += 1;
    }

    /// The counts so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::event::{Audience, Failure, RunOutcome};
    use crate::journal::Context;
    use crate::ports::{
        ChatMessage, LocalFuture, ModelReply, ModelRequest, OutputForm, Role, RunOutput, TaskInput, ToolOutput,
    };
    use crate::testing::script::Script;
    use crate::turn::{StepResult, ToolAsk, Turn};

    #[test]
    fn however_many_tools_are_called_only_so_many_are_counted_by_name() {
        let meter = Meter::default();
        meter.tool("known", CallEnd::Completed);
        (0..1_000).for_each(|n| meter.tool(&format!("tool-{n}"), CallEnd::Failed));
        meter.tool("known", CallEnd::Failed);
        let totals = meter.totals();
        assert!(totals.tool_calls.len() <= TOOLS_MAX + 2, "{} names", totals.tool_calls.len());
        assert_eq!(totals.tool_calls.values().sum::<u64>(), 1_002);
        assert_eq!(totals.tool_calls[&("known".into(), CallEnd::Failed)], 1);
        assert_eq!(totals.tool_calls[&(OTHER.into(), CallEnd::Failed)], 1_001 - TOOLS_MAX as u64);
    }

    fn works<'a>(turn: &'a mut Turn, _: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
        Box::pin(async move {
            let request = ModelRequest {
                model: "m".into(),
                agent: None,
                audience: Audience::User,
                context: Context::of([ChatMessage::new(Role::User, "how many?")]),
                tools: Arc::from([]),
                output: OutputForm::Text,
                temperature: None,
                max_output_tokens: None,
            };
            let text = turn.model("model", request).await?.text;
            for tool in ["good", "bad", "good"] {
                drop(turn.tool("tool", ToolAsk::new(tool, Value::Null)).await);
            }
            Ok(RunOutput { text, ..RunOutput::default() })
        })
    }

    #[test]
    fn each_call_is_counted_when_it_ends_and_a_replay_counts_nothing_again() {
        let usage = Usage { input_tokens: 10, output_tokens: 5, cost_nanousd: Some(7), ..Usage::default() };
        let ran = Script::new(works, "q", Value::Null)
            .model(move |_| ModelReply { text: "3".to_owned(), usage: Some(usage), ..ModelReply::default() })
            .tools(Vec::new(), Duration::ZERO, |call| match &*call.name {
                "good" => Ok(ToolOutput::default()),
                _ => Err(Failure::new("tool_failed", "no luck")),
            })
            .run();
        assert_eq!(ran.outcome(), RunOutcome::Completed);
        let totals = &ran.used;
        assert_eq!(totals.model_calls, BTreeMap::from([(CallEnd::Completed, 1)]));
        assert_eq!(totals.usage, usage);
        let tools = [(("bad".into(), CallEnd::Failed), 1), (("good".into(), CallEnd::Completed), 2)];
        assert_eq!(totals.tool_calls, BTreeMap::from(tools));
        let again = ran.crashed_after(ran.records.len()).used;
        assert!(again.model_calls.is_empty() && again.tool_calls.is_empty(), "{again:?}");
    }
}
