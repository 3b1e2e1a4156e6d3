//! A question of a turn, as a terminal asks it, and what a typed line answers.
//!
//! Invariant: nothing is allowed or refused by accident. What is neither a clear yes nor a clear no is asked about again.

use serde_json::{Value, json};

use crate::cli::approvals::{approved, edited, rejected};
use crate::cli::terminal::{complain, harmless, say, text};

const UNCLEAR: &str = "that is no clear yes and no clear no: y allows it, n refuses it, n and words say why not, a JSON \
                       object changes it, /quit leaves it open";

/// An open question of the turn.
pub(super) struct Question {
    pub id: String,
    kind: String,
    request: Value,
    /// The person was told what is asked.
    pub told: bool,
}

impl Question {
    pub fn of(data: &Value) -> Self {
        let (id, kind, request) = (text(data, "request_id"), text(data, "request_type"), data["request"].clone());
        Self { id, kind, request, told: false }
    }

    pub fn tell(&self) {
        let (id, request) = (&self.id, &self.request);
        match self.kind.as_str() {
            "tool_approval" => {
                let (agent, tool) = (text(request, "agent"), text(request, "tool"));
                complain(&format!("{agent} wants to call {tool} (request {id}) with"));
                complain(&pretty(&request["arguments"]));
            }
            "plan_review" => {
                complain(&format!("the plan (request {id})"));
                complain(&pretty(request));
            }
            "user_input" => {
                say(&text(request, "question"));
                if let Some(options) = request["options"].as_array().filter(|options| !options.is_empty()) {
                    let options: Vec<_> = options.iter().filter_map(Value::as_str).map(harmless).collect();
                    say(&format!("({})", options.join(" | ")));
                }
            }
            _ => complain(&format!("{} (request {id})\n{}", self.kind, pretty(request))),
        }
    }

    pub fn prompt(&self) -> &'static str {
        match self.kind.as_str() {
            "tool_approval" => "allow it? y, n, n and why not, or other arguments as JSON> ",
            "plan_review" => "go on with this plan? y, n, n and why not, or a changed plan as JSON> ",
            _ => "answer> ",
        }
    }

    /// What a typed line answers; an approval takes a clear yes, a clear no, and a change, and nothing that is only like one.
    ///
    /// # Errors
    /// What it could not be read as, for the person to say it again.
    pub fn answer(&self, line: &str) -> Result<Value, String> {
        if !matches!(self.kind.as_str(), "tool_approval" | "plan_review") {
            return Ok(serde_json::from_str(line).unwrap_or_else(|_| json!(line)));
        }
        if line.starts_with('{') {
            let changed = serde_json::from_str::<Value>(line);
            return changed.map(|changed| edited(&self.kind, &changed)).map_err(|error| format!("no JSON: {error}"));
        }
        match line.trim_end_matches(['.', '!']).to_lowercase().as_str() {
            "y" | "yes" => Ok(approved()),
            "n" | "no" => Ok(rejected("")),
            _ => reason(line).map(rejected).ok_or_else(|| UNCLEAR.to_owned()),
        }
    }
}

/// What stands behind a no. Behind the whole word a mark is needed: "no problem" is a yes.
fn reason(line: &str) -> Option<&str> {
    let said = |word: &str| {
        line.get(..word.len()).filter(|begin| begin.eq_ignore_ascii_case(word)).map(|_| &line[word.len()..])
    };
    let reason = match (said("no"), said("n")) {
        (Some(rest), _) => rest.strip_prefix([',', ':', ';'])?,
        (None, Some(rest)) => rest.strip_prefix([' ', '\t', ',', ':', ';'])?,
        (None, None) => return None,
    };
    Some(reason.trim()).filter(|reason| !reason.is_empty())
}

fn pretty(value: &Value) -> String {
    let shown = serde_json::to_string_pretty(value).unwrap_or_default();
    harmless(&shown).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(kind: &str, line: &str) -> Result<Value, String> {
        Question { id: String::new(), kind: kind.to_owned(), request: Value::Null, told: true }.answer(line)
    }

    #[test]
    fn a_typed_line_is_a_clear_yes_a_clear_no_with_a_reason_or_what_is_to_be_changed() {
        let refused = |reason: &str| Ok(json!({ "decision": "reject", "reason": reason }));
        for yes in ["y", "Y", "yes", "YES!"] {
            assert_eq!(meant("tool_approval", yes), Ok(json!({ "decision": "approve" })), "{yes}");
        }
        for no in ["n", "N", "no", "No."] {
            assert_eq!(meant("plan_review", no), Ok(json!({ "decision": "reject" })), "{no}");
        }
        for no in ["n too risky", "N: too risky", "no, too risky", "No: too risky", "n,too risky"] {
            assert_eq!(meant("tool_approval", no), refused("too risky"), "{no}");
        }
        let edit = json!({ "decision": "edit", "arguments": { "code": "1" } });
        assert_eq!(meant("tool_approval", r#"{"code": "1"}"#), Ok(edit));
        assert_eq!(meant("plan_review", r#"{"mode": "parallel"}"#).unwrap()["plan"], json!({ "mode": "parallel" }));
        assert_eq!(meant("user_input", "Paris"), Ok(json!("Paris")));
        assert_eq!(meant("user_input", "[1, 2]"), Ok(json!([1, 2])));
    }

    #[test]
    fn what_is_no_clear_yes_and_no_clear_no_is_neither() {
        let unclear = [
            "ok",
            "okay",
            "sure",
            "yes please, but carefully",
            "yep",
            "no problem",
            "not now",
            "nope",
            "never",
            "none",
            "n,",
            "no:",
            "/help",
            "17",
            "true",
            "[1]",
            "{\"code\": ",
            "n\u{e4}h",
            "non, merci",
        ];
        for line in unclear {
            for kind in ["tool_approval", "plan_review"] {
                assert!(meant(kind, line).is_err(), "{line}: {:?}", meant(kind, line));
            }
        }
    }
}
