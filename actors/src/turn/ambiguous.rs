//! What becomes of a tool's effect that a crash has hidden and that must not happen twice: a human decides.
//!
//! The question is a step of its own, below the tool's path and numbered by the attempt that was lost, so that a replay
//! finds it and a second crash asks again.
//!
//! Absent on purpose: a second question for an answer that makes no sense. It fails the step, which repeats nothing.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{HumanRequest, Turn};
use crate::event::{Answer, Failure};
use crate::ports::ToolOutput;

/// The request type, and the code of the failure.
const AMBIGUOUS_EFFECT: &str = "ambiguous_effect";

/// What to do about the step.
pub(super) enum Decision {
    /// Call the tool again.
    Repeat,
    /// Go on with this result.
    Skip(Box<ToolOutput>),
    Fail(Failure),
}

impl Turn {
    /// Asks whether the effect of the attempt `lost` of this step is to be repeated.
    pub(super) async fn ask_about_effect(&self, step: &Arc<str>, tool: &str, arguments: &Value, lost: u32) -> Decision {
        let ask = HumanRequest {
            request_type: AMBIGUOUS_EFFECT.into(),
            request: json!({ "tool": tool, "arguments": arguments, "attempt": lost }),
            answer_schema: Some(json!({
                "type": "object",
                "properties": { "decision": { "enum": ["repeat", "skip", "fail"] }, "result": {} },
                "required": ["decision"],
            })),
            expires_in: self.run.limits.question_expiry,
        };
        let answer = self.ask_at(format!("{step}/{AMBIGUOUS_EFFECT}#{lost}").into(), ask).await;
        decide(tool, &answer.answer)
    }
}

fn decide(tool: &str, answer: &Answer) -> Decision {
    let hidden = |why: &str| {
        let text = format!("a crash has hidden whether `{tool}` took effect, it must not happen twice, and {why}");
        Decision::Fail(Failure::new("ambiguous_effect", text))
    };
    let Answer::Given(answer) = answer else { return hidden("nobody said in time what to do") };
    match answer.get("decision").and_then(Value::as_str) {
        Some("repeat") => Decision::Repeat,
        Some("skip") => {
            let data = answer.get("result").cloned().unwrap_or_default();
            let text = data.as_str().map_or_else(|| data.to_string(), str::to_owned);
            Decision::Skip(Box::new(ToolOutput { text, data, ..ToolOutput::default() }))
        }
        Some("fail") => hidden("the answer was to fail"),
        Some(_) | None => hidden("the answer names none of repeat, skip, fail"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_word_repeats_an_effect() {
        let given = |value: Value| decide("send", &Answer::Given(value));
        assert!(matches!(given(json!({ "decision": "repeat" })), Decision::Repeat));
        let skipped = given(json!({ "decision": "skip", "result": { "sent": true } }));
        assert!(matches!(skipped, Decision::Skip(result) if result.data == json!({ "sent": true })));
        assert!(matches!(given(json!({ "decision": "skip" })), Decision::Skip(result) if result.data.is_null()));
        for wrong in [json!({ "decision": "fail" }), json!({ "decision": "Repeat" }), json!("repeat"), json!(null)] {
            assert!(matches!(given(wrong), Decision::Fail(failure) if &*failure.code == AMBIGUOUS_EFFECT));
        }
        assert!(matches!(decide("send", &Answer::Expired), Decision::Fail(_)));
    }
}
