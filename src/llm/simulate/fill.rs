//! A JSON value that fits a schema.
//!
//! Walks the schema and chooses within its bounds; recursive schemas end because deep levels choose null, empty or the
//! plainest branch. Where a string may say anything it says what it is about, so that a pipeline's phases read sensibly.

use serde_json::{Map, Number, Value};

/// From here on nothing optional is filled in.
const DEEP: usize = 5;
/// Nothing is filled in below this: the schema has no finite value that is found by being modest.
const BOTTOM: usize = 40;

/// A value that fits `schema`, about `topic`.
pub(super) fn fill(schema: &Value, topic: &str, rng: &mut fastrand::Rng) -> Value {
    let topic = topic.chars().take(200).collect();
    Filler { root: schema, topic, rng }.value(schema, "answer", 0)
}

struct Filler<'a> {
    root: &'a Value,
    topic: String,
    rng: &'a mut fastrand::Rng,
}

impl<'a> Filler<'a> {
    fn value(&mut self, schema: &Value, name: &str, depth: usize) -> Value {
        let Some(object) = schema.as_object().filter(|_| depth <= BOTTOM) else { return Value::Null };
        if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
            let root = self.root;
            let target = root.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
            return self.value(target, name, depth + 1);
        }
        if let Some(value) = object.get("const") {
            return value.clone();
        }
        if let Some(values) = object.get("enum").and_then(Value::as_array).filter(|values| !values.is_empty()) {
            return self.choice(values);
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            if let Some(parts) = object.get(key).and_then(Value::as_array).filter(|parts| !parts.is_empty()) {
                let rest = object.iter().filter(|(name, _)| *name != key);
                let mut merged: Map<String, Value> = rest.map(|(name, value)| (name.clone(), value.clone())).collect();
                if key == "allOf" {
                    parts.iter().for_each(|part| merge(&mut merged, self.resolve(part)));
                } else {
                    let branch = self.branch(parts, depth);
                    merge(&mut merged, self.resolve(&parts[branch]));
                }
                return self.value(&Value::Object(merged), name, depth + 1);
            }
        }
        match self.kind(object, depth) {
            "object" => self.object(object, depth),
            "array" => self.array(object, name, depth),
            "integer" => self.integer(object),
            "number" => self.number(object),
            "boolean" => self.rng.bool().into(),
            "null" => Value::Null,
            _ => self.string(object, name).into(),
        }
    }

    /// The schema that `schema` names, if it is a reference, else itself.
    fn resolve<'s>(&self, schema: &'s Value) -> &'s Value
    where
        'a: 's,
    {
        let target = schema.get("$ref").and_then(Value::as_str);
        let target = target.and_then(|reference| self.root.pointer(reference.trim_start_matches('#')));
        target.unwrap_or(schema)
    }

    /// A value that the message mentions, else any.
    fn choice(&mut self, values: &[Value]) -> Value {
        let topic = self.topic.to_lowercase();
        let words: Vec<&str> = topic.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        let mentioned = |value: &&Value| value.as_str().is_some_and(|text| words.contains(&&*text.to_lowercase()));
        values.iter().find(mentioned).unwrap_or(&values[self.rng.usize(..values.len())]).clone()
    }

    /// Which branch to take: one that says something, or at depth the one that ends soonest.
    fn branch(&mut self, parts: &[Value], depth: usize) -> usize {
        let is_null = |part: &Value| part.get("type").is_some_and(|name| name == "null");
        let is_plain = |part: &Value| ["$ref", "properties", "items"].iter().all(|key| part.get(key).is_none());
        if depth >= DEEP {
            return parts.iter().position(is_null).or_else(|| parts.iter().position(is_plain)).unwrap_or(0);
        }
        let telling: Vec<usize> = (0..parts.len()).filter(|at| !is_null(&parts[*at])).collect();
        if telling.is_empty() { 0 } else { telling[self.rng.usize(..telling.len())] }
    }

    fn kind<'s>(&self, schema: &'s Map<String, Value>, depth: usize) -> &'s str {
        match schema.get("type") {
            Some(Value::String(name)) => name,
            Some(Value::Array(names)) => {
                let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
                if depth >= DEEP && names.contains(&"null") {
                    return "null";
                }
                names.into_iter().find(|name| *name != "null").unwrap_or("null")
            }
            _ if schema.contains_key("properties") || schema.contains_key("additionalProperties") => "object",
            _ if schema.contains_key("items") || schema.contains_key("prefixItems") => "array",
            _ if schema.contains_key("minimum") || schema.contains_key("maximum") => "number",
            _ => "string",
        }
    }

    fn object(&mut self, schema: &Map<String, Value>, depth: usize) -> Value {
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = schema.get("properties").and_then(Value::as_object);
        let mut object = Map::new();
        for (name, property) in properties.into_iter().flatten() {
            if depth < DEEP || required.contains(&name.as_str()) {
                object.insert(name.clone(), self.value(property, name, depth + 1));
            }
        }
        for name in required {
            if !object.contains_key(name) {
                object.insert(name.to_owned(), Value::from(format!("simulated {name}")));
            }
        }
        Value::Object(object)
    }

    fn array(&mut self, schema: &Map<String, Value>, name: &str, depth: usize) -> Value {
        let bound = |key| schema.get(key).and_then(Value::as_u64).map(|n| n.min(1_000) as usize);
        let least = bound("minItems").unwrap_or(0);
        let most = bound("maxItems").unwrap_or(usize::MAX);
        let wanted = if depth >= DEEP { least } else { self.rng.usize(1..=3).clamp(least, most.max(least)) };
        let distinct = schema.get("uniqueItems") == Some(&Value::Bool(true));
        let mut items = Vec::new();
        for prefix in schema.get("prefixItems").and_then(Value::as_array).into_iter().flatten() {
            items.push(self.value(prefix, name, depth + 1));
        }
        let Some(item) = schema.get("items").filter(|item| item.is_object()) else { return Value::Array(items) };
        let mut tries = wanted * 20;
        while items.len() < wanted && tries > 0 {
            tries -= 1;
            let numbered = format!("{name} {}", items.len() + 1);
            let value = self.value(item, if distinct { &numbered } else { name }, depth + 1);
            if !distinct || !items.contains(&value) {
                items.push(value);
            }
        }
        Value::Array(items)
    }

    fn integer(&mut self, schema: &Map<String, Value>) -> Value {
        let (least, most) = bounds(schema, 1.0);
        let step = schema.get("multipleOf").and_then(Value::as_f64).filter(|step| *step >= 1.0).unwrap_or(1.0);
        let (first, last) = ((least / step).ceil(), (most / step).floor());
        let span = (last - first).clamp(0.0, 10.0) as i64;
        Value::from(((first as i64) + self.rng.i64(0..=span)) * step as i64)
    }

    fn number(&mut self, schema: &Map<String, Value>) -> Value {
        let (least, most) = bounds(schema, 0.0);
        let value = match schema.get("multipleOf").and_then(Value::as_f64).filter(|step| *step > 0.0) {
            Some(step) => (least / step).ceil() * step,
            None => {
                // Away from the edges, which may be excluded; two digits where they stay inside.
                let value = least + (most - least) * (0.1 + 0.8 * self.rng.f64());
                let short = (value * 100.0).round() / 100.0;
                if short > least && short < most { short } else { value }
            }
        };
        Number::from_f64(value).map_or(Value::from(0), Value::Number)
    }

    fn string(&mut self, schema: &Map<String, Value>, name: &str) -> String {
        let formatted = match schema.get("format").and_then(Value::as_str) {
            Some("date-time") => "2026-01-02T03:04:05Z",
            Some("date") => "2026-01-02",
            Some("time") => "03:04:05Z",
            Some("duration") => "PT1M",
            Some("email") => "simulated@example.com",
            Some("hostname") => "example.com",
            Some("ipv4") => "192.0.2.1",
            Some("ipv6") => "2001:db8::1",
            Some("uuid") => "00000000-0000-4000-8000-000000000000",
            Some("uri" | "url") => "https://example.com/",
            _ => "",
        };
        if !formatted.is_empty() {
            return formatted.to_owned();
        }
        let bound = |key| schema.get(key).and_then(Value::as_u64).map(|n| n.min(100_000) as usize);
        let mut text = match name {
            "query" | "q" | "question" | "task" | "text" | "input" | "message" if !self.topic.is_empty() => {
                self.topic.clone()
            }
            _ if self.topic.is_empty() => format!("simulated {}", name.replace('_', " ")),
            _ => format!("simulated {} for: {}", name.replace('_', " "), self.topic),
        };
        let length = text.chars().count();
        if let Some(most) = bound("maxLength").filter(|most| length > *most) {
            text = text.chars().take(most).collect();
        } else if let Some(least) = bound("minLength").filter(|least| length < *least) {
            text.extend(" and so on".chars().cycle().take(least - length));
        }
        text
    }
}

/// The least and the greatest value; `edge` is how far an excluded one is from the nearest allowed one.
fn bounds(schema: &Map<String, Value>, edge: f64) -> (f64, f64) {
    let bound = |key| schema.get(key).and_then(Value::as_f64);
    let least = bound("minimum").or(bound("exclusiveMinimum").map(|least| least + edge));
    let most = bound("maximum").or(bound("exclusiveMaximum").map(|most| most - edge));
    match (least, most) {
        (Some(least), Some(most)) => (least, most),
        (Some(least), None) => (least, least + 10.0),
        (None, Some(most)) => (most - 10.0, most),
        (None, None) => (0.0, 10.0),
    }
}

/// Lays `part` over `schema`; properties and required names of both stay.
fn merge(schema: &mut Map<String, Value>, part: &Value) {
    for (key, value) in part.as_object().into_iter().flatten() {
        match (schema.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new.clone()),
            (Some(Value::Array(old)), Value::Array(new)) if key == "required" => old.extend(new.clone()),
            _ => {
                schema.insert(key.clone(), value.clone());
            }
        }
    }
}
