//! What is wrong with the settings, said so that it can be put right: the place, the line, what was expected.
//!
//! Invariant: no message holds a value. A value is only ever shown as its line of the operator's own file, and there
//! what may be a secret is blanked.

use std::fmt;

use super::tree::{Origin, dotted};

/// Words that end the name of a key which would hold a secret.
const SECRET_ENDINGS: [&str; 8] =
    ["api_key", "apikey", "password", "secret", "token", "connection_string", "credentials", "authorization"];

/// Whether a key of this name would hold a secret.
pub(super) fn names_a_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    SECRET_ENDINGS.iter().any(|ending| key.ends_with(ending))
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    place: String,
    key: String,
    message: String,
    snippet: Option<Snippet>,
    notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Snippet {
    line: usize,
    column: usize,
    text: String,
}

impl Problem {
    pub(super) fn at(origin: &Origin, key: &[String], message: impl Into<String>) -> Self {
        let (place, snippet) = match origin {
            Origin::Document { document, line, column } => {
                let text = document.text.lines().nth(line - 1).unwrap_or_default();
                let snippet = Snippet { line: *line, column: *column, text: blanked(text) };
                (format!("{}:{line}:{column}", document.name), Some(snippet))
            }
            Origin::Environment(name) => (format!("environment variable {name}"), None),
            Origin::Flag(name) => (format!("flag {name}"), None),
        };
        let place = place.replace(char::is_control, " ");
        Self { place, key: dotted(key), message: message.into(), snippet, notes: Vec::new() }
    }

    pub(super) fn note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }

    /// Where: `file:line:column`, or the variable or flag by name.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The key it is about, with dots; empty when it is about a whole file.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is wrong and what was expected.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(Snippet { line, column, text }) = &self.snippet {
            let gutter = " ".repeat(line.to_string().len());
            let indent = " ".repeat(column.saturating_sub(1));
            write!(f, "\n {gutter} |\n {line} | {text}\n {gutter} | {indent}^")?;
        }
        for note in &self.notes {
            write!(f, "\n   = {note}")?;
        }
        Ok(())
    }
}

/// Every mistake that was found. Nothing starts while there is one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct SettingsError {
    pub(super) problems: Vec<Problem>,
}

impl SettingsError {
    /// The mistakes, lowest layer first.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn text(&self) -> String {
        let count = match self.problems.len() {
            1 => "1 mistake in the settings".to_owned(),
            n => format!("{n} mistakes in the settings"),
        };
        self.problems.iter().fold(count, |text, problem| format!("{text}\n\n{problem}"))
    }
}

/// A line of a file, with what may be a secret blanked: the value of a key that names one, and a URL's user, password,
/// query and fragment.
fn blanked(line: &str) -> String {
    let line = line.replace('\t', " ");
    let secret = line
        .split([' ', '{', ',', '[', '-'])
        .find(|word| word.split_once(':').is_some_and(|(key, _)| names_a_secret(key.trim_matches(['"', '\'']))));
    if let Some((before, word)) = secret.and_then(|word| Some((line.split_once(word)?.0, word))) {
        let key = word.split(':').next().unwrap_or_default();
        return format!("{}{key}: [redacted]", blanked_urls(before));
    }
    blanked_urls(&line).chars().take(160).filter(|c| !c.is_control()).collect()
}

/// Text with what may be a secret in a URL blanked, rather too much than too little: where a URL ends is not known.
fn blanked_urls(text: &str) -> String {
    let begins = text.find("://").map_or(text.len(), |at| at + 3);
    let (before, url) = text.split_at(begins);
    // A scheme may be what is missing.
    let asks = |(at, _): &(usize, &str)| before[*at..].split(' ').next().is_some_and(|query| query.contains('='));
    if let Some((at, _)) = before.match_indices('?').find(asks) {
        return format!("{}[redacted]", &before[..=at]);
    }
    match (url.rfind('@'), url.find(['?', '#'])) {
        // Whether that is a user or a part of the query cannot be told.
        (Some(at), Some(private)) if private < at => format!("{before}[redacted]"),
        (Some(at), Some(private)) => format!("{before}[redacted]{}[redacted]", &url[at..=private]),
        (Some(at), None) => format!("{before}[redacted]{}", &url[at..]),
        (None, Some(private)) => format!("{before}{}[redacted]", &url[..=private]),
        (None, None) => text.to_owned(),
    }
}
