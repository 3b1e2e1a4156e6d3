//! Reads JSON as models write it.
//!
//! Beyond JSON it takes: trailing and missing commas, comments, single and typographic quotes, raw line breaks and
//! unescaped quotes in strings, names without quotes, and `True`, `False` and `None`.
//! Of a text that was cut off it can give what had been finished before the cut.
//! Invariant: a text that is JSON is read as JSON reads it. Time is linear; nesting is capped.

use std::iter::Peekable;
use std::str::CharIndices;

use serde_json::{Map, Number, Value};

use super::ParseError;

/// Deeper nesting is an error.
pub(super) const DEPTH_MAX: usize = 64;

/// The object that `text` begins with, and where it ends; an error ends behind the brace, where a search may go on.
pub(super) fn object(text: &str) -> (Result<Value, ParseError>, usize) {
    let mut reader = Reader::of(text, false);
    let read = reader.value(0);
    let end = if read.is_ok() { reader.at() } else { 1 };
    (read, end.max(1))
}

/// What had been finished of the object that `text` begins with when it was cut off: of an unfinished object its finished
/// fields, of an unfinished list its finished items. A half text, number or item is dropped, since half of it may mean
/// something else than the whole.
pub(super) fn finished(text: &str) -> Result<Value, ParseError> {
    Reader::of(text, true).value(0)
}

/// `text` without a fence around it.
pub(super) fn unfenced(text: &str) -> &str {
    let Some(inner) = text.strip_prefix("```").and_then(|text| text.strip_suffix("```")) else { return text };
    inner.split_once('\n').map_or(inner, |(_, body)| body).trim()
}

struct Reader<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
    /// Whether the end of the text ends what is open in it.
    cut: bool,
    /// Whether it did so.
    ran_out: bool,
}

impl<'a> Reader<'a> {
    fn of(text: &'a str, cut: bool) -> Self {
        Self { text, chars: text.char_indices().peekable(), cut, ran_out: false }
    }

    /// A part of an object or a list; nothing when the text was cut off in it and that is put up with.
    fn part<T>(&mut self, read: Result<T, ParseError>) -> Result<Option<T>, ParseError> {
        match read {
            Err(ParseError::Truncated) if self.cut => {
                self.ran_out = true;
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    fn at(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, c)| *c)
    }

    fn take(&mut self) -> Option<char> {
        self.chars.next().map(|(_, c)| c)
    }

    fn rest(&mut self) -> &str {
        let at = self.at();
        &self.text[at..]
    }

    /// Skips white space and comments.
    fn space(&mut self) {
        loop {
            while self.chars.next_if(|(_, c)| c.is_whitespace() || *c == '\u{feff}').is_some() {}
            let rest = self.rest();
            let skip = if rest.starts_with("//") {
                rest.find('\n').unwrap_or(rest.len())
            } else if rest.starts_with("/*") {
                rest.find("*/").map_or(rest.len(), |end| end + 2)
            } else {
                return;
            };
            let end = self.at() + skip;
            while self.chars.next_if(|(at, _)| *at < end).is_some() {}
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, ParseError> {
        if depth > DEPTH_MAX {
            return Err(ParseError::TooDeep);
        }
        self.space();
        match self.peek() {
            None => Err(ParseError::Truncated),
            Some('{') => self.members(depth),
            Some('[') => self.items(depth),
            Some(quote) if closing(quote).is_some() => self.string().map(Value::String),
            Some(_) => self.word(),
        }
    }

    fn members(&mut self, depth: usize) -> Result<Value, ParseError> {
        self.take();
        let mut members = Map::new();
        loop {
            self.space();
            match self.peek() {
                Some('}') => {
                    self.take();
                    return Ok(Value::Object(members));
                }
                Some(',') => {
                    self.take();
                }
                None | Some(_) => {
                    let member = self.member(depth);
                    let Some((name, value)) = self.part(member)? else { return Ok(Value::Object(members)) };
                    members.insert(name, value);
                }
            }
        }
    }

    fn member(&mut self, depth: usize) -> Result<(String, Value), ParseError> {
        let name = self.name()?;
        self.space();
        match self.take() {
            Some(':') => Ok((name, self.value(depth + 1)?)),
            None => Err(ParseError::Truncated),
            Some(other) => Err(unexpected(other, "after the name of a field")),
        }
    }

    fn items(&mut self, depth: usize) -> Result<Value, ParseError> {
        self.take();
        let mut items = Vec::new();
        loop {
            self.space();
            match self.peek() {
                Some(']') => {
                    self.take();
                    return Ok(Value::Array(items));
                }
                Some(',') => {
                    self.take();
                }
                None | Some(_) => {
                    let item = self.value(depth + 1);
                    match self.part(item)? {
                        Some(item) if !self.ran_out => items.push(item),
                        Some(_) | None => return Ok(Value::Array(items)),
                    }
                }
            }
        }
    }

    fn name(&mut self) -> Result<String, ParseError> {
        match self.peek() {
            Some(quote) if closing(quote).is_some() => self.string(),
            Some(c) if c.is_alphanumeric() || c == '_' => Ok(self.letters()),
            Some(other) => Err(unexpected(other, "where a field should begin")),
            None => Err(ParseError::Truncated),
        }
    }

    /// A run of characters that words and numbers are made of.
    fn letters(&mut self) -> String {
        let mut word = String::new();
        while let Some((_, c)) = self.chars.next_if(|(_, c)| c.is_alphanumeric() || "_+-.%/".contains(*c)) {
            word.push(c);
        }
        word
    }

    fn word(&mut self) -> Result<Value, ParseError> {
        let word = self.letters();
        if self.cut && self.peek().is_none() {
            return Err(ParseError::Truncated);
        }
        match word.to_lowercase().as_str() {
            "" => {
                Err(self.peek().map_or(ParseError::Truncated, |other| unexpected(other, "where a value should begin")))
            }
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "null" | "none" | "undefined" | "nan" => Ok(Value::Null),
            // A number that is too large, and a choice without quotes, stay text: the schema says what they mean.
            _ => Ok(number(&word).map_or(Value::String(word), Value::Number)),
        }
    }

    fn string(&mut self) -> Result<String, ParseError> {
        let open = self.take().unwrap_or('"');
        let close = closing(open).unwrap_or('"');
        let mut text = String::new();
        loop {
            match self.take() {
                None => return Err(ParseError::Truncated),
                Some('\\') => self.escape(&mut text)?,
                Some(c) if c == close && self.ends_here() => return Ok(text),
                Some(c) => text.push(c),
            }
        }
    }

    /// Whether what follows a quote can follow a string; else the quote belongs to its text.
    fn ends_here(&mut self) -> bool {
        // White space between a quote and what follows it is short; a longer look would make the time quadratic.
        let next = self.rest().chars().take(64).find(|c| !c.is_whitespace());
        next.is_none_or(|next| matches!(next, ',' | ':' | '}' | ']' | '/'))
    }

    fn escape(&mut self, text: &mut String) -> Result<(), ParseError> {
        match self.take() {
            None => return Err(ParseError::Truncated),
            Some('n') => text.push('\n'),
            Some('t') => text.push('\t'),
            Some('r') => text.push('\r'),
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{c}'),
            Some('u') => {
                let unit = self.hex();
                let point = match unit {
                    Some(high @ 0xd800..=0xdbff) if self.rest().starts_with("\\u") => {
                        self.take();
                        self.take();
                        self.hex()
                            .filter(|low| (0xdc00..=0xdfff).contains(low))
                            .map(|low| 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))
                    }
                    other => other,
                };
                text.push(point.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => text.push(other),
        }
        Ok(())
    }

    fn hex(&mut self) -> Option<u32> {
        let mut value = 0;
        for _ in 0..4 {
            let (_, digit) = self.chars.next_if(|(_, c)| c.is_ascii_hexdigit())?;
            value = value * 16 + digit.to_digit(16)?;
        }
        Some(value)
    }
}

/// The quote that closes what `open` opens.
fn closing(open: char) -> Option<char> {
    match open {
        '"' => Some('"'),
        '\'' => Some('\''),
        '\u{201c}' | '\u{201e}' => Some('\u{201d}'),
        '\u{2018}' => Some('\u{2019}'),
        _ => None,
    }
}

/// A number, if it is one that JSON can hold.
pub(super) fn number(word: &str) -> Option<Number> {
    let word = word.strip_prefix('+').unwrap_or(word);
    if !word.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') {
        return None;
    }
    if let Ok(number) = serde_json::from_str(word) {
        return Some(number);
    }
    word.parse::<f64>().ok().and_then(Number::from_f64)
}

fn unexpected(found: char, place: &str) -> ParseError {
    ParseError::Malformed(format!("`{found}` stands {place}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_text_that_was_cut_off_what_had_been_finished_is_given_and_no_half_of_anything() {
        let whole = r#"{"a": "one, \"two\"", "b": [1, 20, {"c": true}, ["x"]], "d": {"e": null, "f": 12}, "g": 3}"#;
        for (cut, left) in [
            ("{", json!({})),
            (r#"{"a"#, json!({})),
            (r#"{"a": "one, \"#, json!({})),
            (r#"{"a": "one, \"two\"", "b": ["#, json!({"a": "one, \"two\"", "b": []})),
            (r#"{"b": [1, 2"#, json!({"b": [1]})),
            (r#"{"b": [1, 20, {"c": true"#, json!({"b": [1, 20]})),
            (r#"{"b": [1, 20, {"c": true}, ["x""#, json!({"b": [1, 20, {"c": true}]})),
            (r#"{"d": {"e": null, "f": 1"#, json!({"d": {"e": null}})),
            (r#"{"d": {"e": null, "f": 12}, "g": 3"#, json!({"d": {"e": null, "f": 12}})),
            (r#"{"d": {"e": null, "f": 12}, "g": 3,"#, json!({"d": {"e": null, "f": 12}, "g": 3})),
        ] {
            assert_eq!(finished(cut), Ok(left), "{cut}");
        }
        assert_eq!(finished(whole), object(whole).0, "a whole text is read as ever");
        for (at, _) in whole.char_indices().skip(1) {
            assert!(finished(&whole[..at]).is_ok(), "cut at {at}");
        }
        assert_eq!(finished(&"[".repeat(100)), Err(ParseError::TooDeep));
    }
}
