//! What a terminal is shown. Whoever reads it may have gone, as in `history list | head -1`: that is no failure, and
//! nothing is left to tell it to. What could not be written for another reason, as to a full disk, makes the command fail when
//! it is over; it is not ended for it.
//!
//! Tasks and answers come from clients and models, so their control characters are shown, not obeyed.

use std::borrow::Cow;
use std::io::{ErrorKind, Write as _};
use std::sync::OnceLock;

use serde_json::Value;

/// Prints a line.
pub(super) fn say(line: &str) {
    note(writeln!(std::io::stdout(), "{line}"));
}

/// Prints a piece of a line at once.
pub(super) fn stream(text: &str) {
    let mut out = std::io::stdout();
    note(write!(out, "{text}").and_then(|()| out.flush()));
}

/// Why standard output did not take what it was given, the first time.
static UNWRITTEN: OnceLock<std::io::Error> = OnceLock::new();

/// Remembers that something could not be written to standard output.
pub(super) fn note(written: std::io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        let _ = UNWRITTEN.set(error);
    }
}

/// The exit code of a command that ended with `code`: whose output is not there did not do what it was asked.
pub(super) fn ended(code: i32) -> i32 {
    let Some(error) = UNWRITTEN.get() else { return code };
    complain(&format!("standard output cannot be written: {error}"));
    if code == 0 { 1 } else { code }
}

/// Prints a line to standard error.
pub(super) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The text without power over the terminal. Line feeds and tabs stay.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(obeyed) { text.replace(obeyed, "\u{fffd}").into() } else { text.into() }
}

/// The beginning of a text, on one line.
pub(super) fn preview(text: &str, chars: usize) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = harmless(&line);
    match line.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.into_owned(),
    }
}

/// A field of an answer as text; empty when it is absent.
pub(super) fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => String::new(),
        Value::String(text) => harmless(text).into_owned(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}

/// Prints rows under their headings, each column as wide as its widest cell, the last one as it comes.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        say(padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(&mut headings.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_others_have_no_power_over_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\r\u{9b}c"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
        assert_eq!(harmless("one\n\ttwo"), "one\n\ttwo");
        assert_eq!(preview("one\n two\u{7}  three", 9), "one two\u{fffd} …");
    }
}
