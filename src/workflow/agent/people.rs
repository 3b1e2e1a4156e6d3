//! Questions to people: may this call be made, and what does the user want.
//!
//! An approval binds to the exact arguments that the person saw, an edit to those that they wrote. What cannot be read as a
//! yes is a no.

use fleet_actors::event::{Answer, Failure};
use fleet_actors::ids::RequestId;
use fleet_actors::meter::CallEnd;
use fleet_actors::ports::{ToolOffer, ToolRequest};
use fleet_actors::turn::{HumanRequest, StepResult, Turn};
use serde_json::{Value, json};

use crate::agents::Agent;
use crate::arguments::validator;
use crate::workflow::fleet::Fleet;
use crate::workflow::rules::OnExpiry;

/// Names a tool's parameters in the schema of an answer.
const PARAMETERS_ID: &str = "urn:agentic-fleet:arguments";

/// A person's word about a call.
pub(in crate::workflow) enum Word {
    Approved {
        request_id: RequestId,
        /// As they were asked for, or as the person changed them.
        arguments: Value,
    },
    Refused {
        outcome: &'static str,
        /// For the model.
        text: String,
    },
}

/// Asks whether a call may be made.
///
/// # Errors
/// `approval_expired`, when nobody answered and the settings say that this ends the run.
pub(super) async fn approve(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    agent: &Agent,
    offer: &ToolOffer,
    call: &ToolRequest,
) -> StepResult<Word> {
    let (tool, arguments) = (&offer.spec.name, &call.arguments);
    let request = json!({
        "tool": tool,
        "arguments": arguments,
        "agent": agent.name,
        "description": offer.spec.description,
    });
    let answer_schema = Some(word_schema("arguments", &embedded(&offer.spec.parameters)));
    let ask = HumanRequest { answer_schema, ..fleet.config.question("tool_approval", request) };
    let answered = turn.ask_human("approval", ask).await;
    let answer = match answered.answer {
        Answer::Expired => {
            turn.refused(call, &agent.name, CallEnd::Expired);
            return expired(fleet, &format!("the approval of `{tool}`")).map(|text| Word::Refused {
                outcome: "expired",
                text: format!("tool_denied: {text}; `{tool}` was not called"),
            });
        }
        Answer::Given(answer) => answer,
    };
    let refused = |why: &str| {
        turn.refused(call, &agent.name, CallEnd::Rejected);
        let text = format!(
            "tool_denied: a person did not allow this call of `{tool}`{why}; do not try it again in another way"
        );
        Word::Refused { outcome: "rejected", text }
    };
    let changed = answer.get("arguments").filter(|arguments| arguments.is_object());
    Ok(match decision(&answer) {
        // No door takes such an answer; one that was given before they refused it, or past them, is none.
        Some("approve") if approves_other("arguments", arguments, &answer) => {
            refused(": what was approved is not what was asked for")
        }
        Some("approve") => Word::Approved { request_id: answered.request_id, arguments: arguments.clone() },
        Some("edit") => match changed {
            Some(arguments) => Word::Approved { request_id: answered.request_id, arguments: arguments.clone() },
            None => refused(": the changed arguments are missing"),
        },
        Some(_) => refused(&reason(&answer)),
        None => refused(": the answer could not be read as a yes"),
    })
}

/// The decision of an answer: an object with one, a word, or yes and no.
pub(in crate::workflow) fn decision(answer: &Value) -> Option<&'static str> {
    let word = match answer {
        Value::Bool(true) => "approve",
        Value::Bool(false) => "reject",
        Value::String(word) => word,
        Value::Object(object) => object.get("decision")?.as_str()?,
        Value::Null | Value::Number(_) | Value::Array(_) => return None,
    };
    match word.trim().to_lowercase().as_str() {
        "approve" | "approved" | "yes" | "true" | "allow" => Some("approve"),
        "edit" | "edited" => Some("edit"),
        "reject" | "rejected" | "no" | "false" | "deny" => Some("reject"),
        _ => None,
    }
}

/// Whether an answer says yes to something else than was asked. What an answer repeats of the question it may leave out.
pub(in crate::workflow) fn approves_other(field: &str, asked: &Value, answer: &Value) -> bool {
    let Some(given) = answer.get(field).filter(|_| decision(answer) == Some("approve")) else { return false };
    // `const` compares as JSON does: 1 and 1.0 are the same to a client in JavaScript.
    let same =
        |asked: &Value, given: &Value| validator(&json!({ "const": asked })).is_some_and(|asked| asked.is_valid(given));
    match (field, given) {
        // A plan is asked about with more around it, and may be named in part.
        ("plan", Value::Object(parts)) => !parts.iter().all(|(key, part)| same(&asked[key], part)),
        _ => !same(asked, given),
    }
}

/// Why a person said no, to stand behind a sentence.
pub(in crate::workflow) fn reason(answer: &Value) -> String {
    let reason = answer.get("reason").and_then(Value::as_str).map(str::trim).filter(|reason| !reason.is_empty());
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

/// What an answer to an approval may look like; `edit` names the field that holds what was changed, without which an edit is
/// none. No `anyOf` says what is allowed, so that a refusal names the very place of a mistake: what is said of properties holds
/// only for an object.
pub(in crate::workflow) fn word_schema(edit: &str, edited: &Value) -> Value {
    json!({
        "type": ["object", "boolean", "string"],
        "properties": {
            "decision": { "enum": ["approve", "edit", "reject"] },
            edit: edited,
            "reason": { "type": "string" }
        },
        "required": ["decision"],
        "if": {
            "anyOf": [
                { "type": "object", "properties": { "decision": { "const": "edit" } }, "required": ["decision"] },
                { "type": "string", "pattern": "^\\s*[eE][dD][iI][tT]([eE][dD])?\\s*$" }
            ]
        },
        "then": {
            "type": "object",
            "required": [edit],
            "description": format!("an edit is {{\"decision\": \"edit\", \"{edit}\": ...}}, with what is to hold instead")
        }
    })
}

/// A tool's parameters inside of another schema. With an id of their own, what they refer to within themselves is found.
fn embedded(parameters: &Value) -> Value {
    let mut schema = json!({ "type": "object" });
    if let (Value::Object(schema), Value::Object(parameters)) = (&mut schema, parameters) {
        schema.extend(parameters.clone());
        schema.entry("$id").or_insert_with(|| PARAMETERS_ID.into());
    }
    schema
}

/// What silence means: the end of the run, or a text that says what became of the question.
///
/// # Errors
/// `approval_expired`.
pub(in crate::workflow) fn expired(fleet: &Fleet<'_>, what: &str) -> StepResult<String> {
    let ms = fleet.config.question_expiry_ms;
    match fleet.config.approvals.on_expiry {
        OnExpiry::Fail => Err(Failure::new("approval_expired", format!("nobody answered {what} within {ms} ms"))),
        OnExpiry::Reject => Ok(format!("nobody answered {what} in time, which counts as a no")),
        OnExpiry::Continue => Ok(format!("nobody answered {what} in time; go on without it")),
    }
}

/// Asks the user what an agent wants to know, and gives the answer as the agent reads it.
///
/// # Errors
/// `approval_expired`, when nobody answered and the settings say that this ends the run.
pub(super) async fn ask_user(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    agent: &Agent,
    arguments: &Value,
) -> StepResult<String> {
    let request = json!({
        "question": arguments.get("question").and_then(Value::as_str).unwrap_or_default(),
        "options": arguments.get("options").cloned().unwrap_or_else(|| json!([])),
        "agent": agent.name,
    });
    match turn.ask_human("question", fleet.config.question("user_input", request)).await.answer {
        Answer::Given(Value::String(text)) => Ok(format!("The user answered: {text}")),
        Answer::Given(answer) => {
            let said = answer.get("answer").and_then(Value::as_str).map(str::to_owned);
            Ok(format!("The user answered: {}", said.unwrap_or_else(|| answer.to_string())))
        }
        Answer::Expired => expired(fleet, "your question"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_is_to_what_was_asked_however_its_numbers_are_written_and_to_nothing_else() {
        let asked = json!({ "n": 1.0, "list": ["a", { "b": null }] });
        let other = |answer: Value| approves_other("arguments", &asked, &answer);
        let yes = |given: Value| json!({ "decision": "approve", "arguments": given });
        assert!(!other(yes(json!({ "list": ["a", { "b": null }], "n": 1 }))));
        for given in [json!({}), json!(null), json!({ "n": 1 }), json!({ "n": 2, "list": ["a", { "b": null }] })] {
            assert!(other(yes(given.clone())), "{given}");
            assert!(!other(json!({ "decision": "edit", "arguments": given })), "an edit may");
            assert!(!other(json!({ "decision": "reject", "arguments": given })), "a no approves nothing");
        }
        assert!(!other(true.into()) && !other(json!({ "decision": "approve" })));
        let plan = json!({ "mode": "parallel", "assigned_to": ["a", "b"], "task": "t" });
        let other = |given: Value| approves_other("plan", &plan, &json!({ "decision": "approve", "plan": given }));
        assert!(!other(plan.clone()) && !other(json!({ "mode": "parallel" })) && !other(json!({})));
        assert!(other(json!({ "mode": "handoff" })) && other(json!({ "parts": [] })) && other(json!("parallel")));
    }
}
