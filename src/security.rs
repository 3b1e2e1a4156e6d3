//! Security events in the log: who tried what on whose behalf, and why it was refused. Never what was sent.

use std::fmt::Write as _;

use fleet_actors::ids::WorkflowId;

/// Characters of one field in the log.
const FIELD_CHARS_MAX: usize = 200;

/// Logs that a call was refused.
pub fn refused(event: &'static str, workflow: &WorkflowId, principal: &str, tool: &str, reason: &str) {
    tracing::warn!(
        sec.event = event,
        workflow = %encoded(workflow.as_str()),
        principal = %encoded(principal),
        tool = %encoded(tool),
        reason = %encoded(reason),
        "tool call refused"
    );
}

/// `text` so that it cannot end a line, colour a terminal or fill a log: control characters are written as `\u{..}`.
#[must_use]
pub fn encoded(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(FIELD_CHARS_MAX));
    for (count, character) in text.chars().enumerate() {
        if count == FIELD_CHARS_MAX {
            safe.push('…');
            break;
        }
        // Line separators and marks that turn text around are as good as a line end to some readers.
        let hidden = matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || hidden {
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(character));
        } else {
            safe.push(character);
        }
    }
    safe
}
