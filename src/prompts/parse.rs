//! Reads a model's answer: finds the JSON in it, fits it to the schema, checks its bounds.
//!
//! Tolerant of form, strict about meaning: fences, prose, trailing commas, the case of a choice, numbers written as text and
//! a single value for a list are read as what they mean, and so is the absence of a field that can only mean one thing; a
//! missing decision or a value out of its bounds is an error.
//! Invariant: it ends, without a panic, on any text. Nesting, size and the number of places looked at are capped.

use serde_json::Value;

use super::form::form;
use super::{Signature, coerce, lenient};

/// A longer answer is not looked at.
const BYTES_MAX: usize = 1024 * 1024;
/// Objects that are looked at before the answer counts as having none that fits.
const PLACES_MAX: usize = 32;

/// Why an answer cannot be used. The text is shown to the model in the repair call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Nothing was said.
    #[error("it is empty")]
    Empty,
    /// There is no object in it.
    #[error("it has no JSON object")]
    NoObject,
    /// The object does not end.
    #[error("its JSON object does not end")]
    Truncated,
    /// The text is too long to look at.
    #[error("it is longer than {BYTES_MAX} bytes")]
    TooLarge,
    /// Nested too deeply.
    #[error("its JSON is nested deeper than {} levels", lenient::DEPTH_MAX)]
    TooDeep,
    /// It is no JSON by any reading.
    #[error("its JSON cannot be read: {0}")]
    Malformed(String),
    /// It does not have the shape.
    #[error("it does not fit the schema: {0}")]
    Misshapen(String),
    /// A value is out of its bounds.
    #[error("{0}")]
    OutOfBounds(String),
    /// The provider's limit of tokens cut it off.
    #[error("it was cut off at the limit of tokens; be shorter")]
    Cut,
    /// The provider's filter cut it off.
    #[error("the provider's content filter cut it off")]
    Filtered,
}

/// Reads an answer. Pure.
///
/// # Errors
/// [`ParseError`], whose text a model can act on.
pub fn parse<S: Signature>(text: &str, inputs: &S::Inputs) -> Result<S::Output, ParseError> {
    if text.len() > BYTES_MAX {
        return Err(ParseError::TooLarge);
    }
    // Some models think aloud first, with drafts of the answer in it.
    let text = text.rsplit_once("</think>").map_or(text, |(_, answer)| answer).trim();
    if text.is_empty() {
        return Err(ParseError::Empty);
    }
    let form = form::<S>(inputs);
    let mut first = None;
    let mut at = 0;
    for _ in 0..PLACES_MAX {
        let Some(start) = text[at..].find('{').map(|offset| at + offset) else { break };
        let (read, end) = lenient::object(&text[start..]);
        let result = read.and_then(|value| shape::<S>(value, &form.lenient)).and_then(|output| {
            S::check(&output, inputs).map_err(ParseError::OutOfBounds)?;
            Ok(output)
        });
        match result {
            Ok(output) => return Ok(output),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
        at = start + end;
    }
    let Some(error) = first else {
        // A question with one text as its answer may be answered by that text.
        let plain = sole_text(&form.lenient).ok_or(ParseError::NoObject)?;
        let text = lenient::unfenced(text);
        let output = shape::<S>(serde_json::json!({ plain: text }), &form.lenient)?;
        return S::check(&output, inputs).map(|()| output).map_err(ParseError::OutOfBounds);
    };
    Err(error)
}

/// Reads an answer that its provider cut off: what had been finished of it, if that says all that must be said. Pure.
///
/// # Errors
/// As [`parse`].
pub(super) fn parse_cut<S: Signature>(text: &str, inputs: &S::Inputs) -> Result<S::Output, ParseError> {
    let text = text.rsplit_once("</think>").map_or(text, |(_, answer)| answer);
    let start = text.find('{').filter(|_| text.len() <= BYTES_MAX).ok_or(ParseError::NoObject)?;
    let output = shape::<S>(lenient::finished(&text[start..])?, &form::<S>(inputs).lenient)?;
    S::check(&output, inputs).map(|()| output).map_err(ParseError::OutOfBounds)
}

/// Whether what had been finished of an answer that was cut off is in the form of the schema, as far as it goes.
pub(super) fn keeps_to<S: Signature>(text: &str, inputs: &S::Inputs) -> bool {
    let Some(Ok(Value::Object(finished))) =
        text.trim_start().starts_with('{').then(|| lenient::finished(text.trim_start()))
    else {
        return false;
    };
    let form = form::<S>(inputs);
    !finished.is_empty() && finished.keys().all(|name| form.schema["properties"].get(name).is_some())
}

fn shape<S: Signature>(value: Value, schema: &Value) -> Result<S::Output, ParseError> {
    let value = coerce::fit(value, schema);
    serde_json::from_value(value).map_err(|error| ParseError::Misshapen(error.to_string()))
}

/// The only field of the answer, if it is a text.
fn sole_text(schema: &Value) -> Option<&str> {
    let properties = schema.get("properties")?.as_object()?;
    let (name, field) = properties.iter().next()?;
    (properties.len() == 1 && field.get("type").is_some_and(|kind| kind == "string")).then_some(name.as_str())
}
