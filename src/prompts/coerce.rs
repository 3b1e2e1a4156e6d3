//! Fits a value to a schema where what was meant is plain.
//!
//! Names and choices are matched without regard to case and separators; numbers may be text; one value may stand for a list
//! of one. A missing list is empty, a missing choice of one is that one, and a missing field with a default in the schema
//! has that. What cannot be read for certain is left as it is, for the type to refuse.
//! Absent on purpose: a default for a missing decision, and clamping of what is out of bounds.

use serde_json::{Map, Number, Value};

use super::lenient;

/// `value`, fitted to `schema`, which has no references.
pub(super) fn fit(value: Value, schema: &Value) -> Value {
    if let Value::Object(object) = value {
        return fit_root(object, schema);
    }
    fit_value(value, schema)
}

/// Some models wrap the answer: `{"TaskAnalysis": {...}}`.
fn fit_root(mut object: Map<String, Value>, schema: &Value) -> Value {
    let names = schema.get("properties").and_then(Value::as_object);
    let known = |key: &String| names.is_some_and(|names| names.keys().any(|name| same(name, key)));
    if object.len() == 1 && !object.keys().any(known) {
        let inner = object.values_mut().next().map(Value::take);
        return match inner {
            Some(Value::Object(inner)) => fit_value(Value::Object(inner), schema),
            _ => fit_value(Value::Object(object), schema),
        };
    }
    fit_value(Value::Object(object), schema)
}

fn fit_value(value: Value, schema: &Value) -> Value {
    if let Some(choices) = choices(schema) {
        return fit_choice(value, &choices);
    }
    let (kind, nullable) = kind(schema);
    if nullable && says_nothing(&value) {
        return Value::Null;
    }
    match kind {
        "object" => fit_object(value, schema),
        "array" => fit_array(value, schema),
        "string" => fit_string(value),
        "number" | "integer" => fit_number(value, schema, kind == "integer"),
        "boolean" => fit_bool(value),
        _ => value,
    }
}

/// The values that the schema allows, if it lists them.
fn choices(schema: &Value) -> Option<Vec<&Value>> {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return Some(values.iter().collect());
    }
    let parts = ["oneOf", "anyOf"].iter().find_map(|key| schema.get(*key)?.as_array())?;
    parts.iter().map(|part| part.get("const")).collect()
}

fn kind(schema: &Value) -> (&str, bool) {
    match schema.get("type") {
        Some(Value::String(name)) => (name, false),
        Some(Value::Array(names)) => {
            let mut names = names.iter().filter_map(Value::as_str);
            (names.clone().find(|name| *name != "null").unwrap_or("null"), names.any(|name| name == "null"))
        }
        _ => ("", false),
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => {
            let text = text.trim().to_lowercase();
            ["", "null", "none", "n/a", "-"].contains(&text.as_str())
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Letters and digits alone, lower case.
fn bare(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn same(a: &str, b: &str) -> bool {
    a == b || bare(a) == bare(b)
}

fn fit_choice(value: Value, choices: &[&Value]) -> Value {
    if choices.contains(&&value) {
        return value;
    }
    let nullable = choices.iter().any(|choice| choice.is_null());
    if nullable && says_nothing(&value) {
        return Value::Null;
    }
    // `["complete"]` for `"complete"`.
    let only = value.as_array().filter(|items| items.len() == 1).map(|items| items[0].clone());
    let value = only.unwrap_or(value);
    let Value::String(text) = &value else { return value };
    let chosen = choices.iter().find(|choice| choice.as_str().is_some_and(|choice| same(choice, text)));
    chosen.map_or(value.clone(), |choice| (*choice).clone())
}

fn fit_object(value: Value, schema: &Value) -> Value {
    let Value::Object(mut given) = value else { return value };
    let mut fitted = Map::new();
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let key = match given.contains_key(name) {
            true => Some(name.clone()),
            false => given.keys().find(|key| same(key, name)).cloned(),
        };
        match key.and_then(|key| given.remove(&key)) {
            Some(value) => drop(fitted.insert(name.clone(), fit_value(value, property))),
            None => {
                if let Some(value) = unsaid(name, property) {
                    fitted.insert(name.clone(), value);
                }
            }
        }
    }
    Value::Object(fitted)
}

/// What the absence of a field means, if it can mean one thing only.
fn unsaid(name: &str, property: &Value) -> Option<Value> {
    if let Some(default) = property.get("default") {
        return Some(default.clone());
    }
    if let Some([only]) = choices(property).as_deref() {
        return Some((*only).clone());
    }
    if kind(property).0 == "array" {
        return Some(Value::Array(Vec::new()));
    }
    (name == "reasoning").then(|| Value::String(String::new()))
}

fn fit_array(value: Value, schema: &Value) -> Value {
    let item = schema.get("items").unwrap_or(&Value::Null);
    let items = match value {
        Value::Array(items) => items,
        // Names may come as `a, b`; a sentence with a comma is one item.
        Value::String(text) if choices(item).is_some() => {
            text.split([',', ';', '\n']).map(|part| Value::String(part.trim().to_owned())).collect()
        }
        one @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => vec![one],
    };
    Value::Array(items.into_iter().filter(|item| !says_nothing(item)).map(|value| fit_value(value, item)).collect())
}

fn fit_string(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text),
        Value::Null => Value::String(String::new()),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            Value::String(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"))
        }
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Value::String(other.to_string())
        }
    }
}

fn fit_bool(value: Value) -> Value {
    match value.as_str().map(bare).as_deref() {
        Some("true" | "yes" | "y" | "1") => Value::Bool(true),
        Some("false" | "no" | "n" | "0") => Value::Bool(false),
        _ => value,
    }
}

fn fit_number(value: Value, schema: &Value, whole: bool) -> Value {
    let number = match &value {
        Value::String(text) => written(text, schema),
        Value::Number(number) => Some(number.clone()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    match number {
        None => value,
        Some(number) if !whole || number.is_i64() || number.is_u64() => Value::Number(number),
        // Beyond 2^53 a float is no count any more; it stays, for the type to refuse.
        Some(number) => match number.as_f64().map(f64::round) {
            Some(rounded) if rounded.abs() < 9e15 => Value::from(rounded as i64),
            _ => Value::Number(number),
        },
    }
}

/// `8`, `8.5/10`, `85%`, `7 steps`.
fn written(text: &str, schema: &Value) -> Option<Number> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c))).unwrap_or(text.len());
    let rest = &text[end..];
    // `0x10` and `8th` are no numbers.
    if rest.starts_with(|c: char| !(c.is_whitespace() || c == '%' || c == '/')) {
        return None;
    }
    let number = lenient::number(&text[..end])?;
    let fraction_wanted = schema.get("maximum").and_then(Value::as_f64).is_some_and(|most| most <= 1.0);
    if rest.trim_start().starts_with('%') && fraction_wanted {
        return Number::from_f64(number.as_f64()? / 100.0);
    }
    Some(number)
}
