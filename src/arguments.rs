//! Whether a call's arguments fit its tool's schema. The text of a misfit is for the model, which may mend it.
//!
//! Schemas of MCP servers are hostile until shown otherwise: patterns run in linear time, and a reference to another
//! document is never followed.

use fleet_actors::event::Failure;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// Mistakes named in one text.
const MISTAKES_MAX: usize = 5;
/// Bytes of one pattern, compiled, and of what it keeps while it judges. A few characters can ask for megabytes.
pub const PATTERN_BYTES_MAX: usize = 2 << 20;
/// Characters of one mistake.
const MISTAKE_CHARS_MAX: usize = 300;

/// What judges by a schema that somebody else wrote, if it is one.
#[must_use]
pub fn validator(schema: &Value) -> Option<Validator> {
    let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
    jsonschema::options().with_pattern_options(patterns).offline().build(schema).ok()
}

/// A mistake, as long as it may be: it quotes what was given.
#[must_use]
pub fn mistake(text: &str) -> String {
    text.chars().take(MISTAKE_CHARS_MAX).collect()
}

/// Checks `arguments` by what its schema made of `tool`, if it is one.
///
/// # Errors
/// `tool_arguments_invalid` names the places and what is wrong there; `tool_failed` if the schema itself is none.
pub fn check(tool: &str, validator: Option<&Validator>, arguments: &Value, bytes_max: usize) -> Result<(), Failure> {
    let bytes = arguments.to_string().len();
    if bytes > bytes_max {
        let text = format!("the arguments of `{tool}` have {bytes} bytes, at most {bytes_max} are taken");
        return Err(Failure::new("tool_arguments_invalid", text));
    }
    let validator = validator
        .ok_or_else(|| Failure::new("tool_failed", format!("the schema of `{tool}` is not a valid JSON schema")))?;
    let mut mistakes = Vec::new();
    for error in validator.iter_errors(arguments).take(MISTAKES_MAX) {
        let place = error.instance_path().to_string();
        let place = if place.is_empty() { "arguments".to_owned() } else { place };
        mistakes.push(mistake(&format!("{place}: {error}")));
    }
    if mistakes.is_empty() {
        return Ok(());
    }
    let text = format!("the arguments of `{tool}` do not fit its schema: {}", mistakes.join("; "));
    Err(Failure::new("tool_arguments_invalid", text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_that_reaches_out_or_that_cannot_be_judged_in_linear_time_is_none() {
        for schema in [
            json!({ "$ref": "http://127.0.0.1:9/schema.json" }),
            json!({ "$ref": "file:///etc/hostname" }),
            json!({ "pattern": "(?=a)b" }),
            json!({ "pattern": r"(a+)\1" }),
            json!({ "pattern": r"\p{L}{1000}" }),
        ] {
            assert!(validator(&schema).is_none(), "{schema}");
        }
        assert!(validator(&json!({ "pattern": r"^[\w.-]{1,64}$" })).is_some(), "an ordinary one");
        let hard = validator(&json!({ "pattern": "^(a|aa|a+)+$" })).expect("it is a schema");
        assert!(!hard.is_valid(&format!("{}!", "a".repeat(100_000)).into()));
    }
}
