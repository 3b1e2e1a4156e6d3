//! One converter from JSON schema, as our own types give it, to the strict form that structured output demands.
//!
//! Strict form: every object is closed and requires all of its properties; what was optional becomes nullable; only
//! keywords that are known to be understood remain, and `oneOf` is written `anyOf`.
//! Invariant: an answer that fits the strict form, nulls of optional properties left out, fits the original.
//! Absent on purpose: a silent fall back to a looser form. A schema that has no strict form (an open map, a root that is
//! no object) is its author's error and is found at the first call.
//! Source: <https://platform.openai.com/docs/guides/structured-outputs#supported-schemas>.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::memo::Beside;

/// Why a schema has no strict form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The answer itself must be an object.
    #[error("the schema's root must be an object with properties")]
    RootIsNoObject,
    /// An object that takes properties of any name.
    #[error("the object at {path:?} takes properties of any name")]
    OpenObject {
        /// Where, as a JSON pointer.
        path: String,
    },
    /// A schema that is not an object, such as `true`.
    #[error("the schema at {path:?} allows anything")]
    Anything {
        /// Where, as a JSON pointer.
        path: String,
    },
    /// Nested deeper than 64 levels.
    #[error("the schema is nested too deeply")]
    TooDeep,
}

/// Keywords that stay as they are.
const KEPT: [&str; 17] = [
    "type",
    "enum",
    "const",
    "description",
    "title",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "$ref",
];
const DEPTH_MAX: usize = 64;
/// Room for strict forms that are kept with their schemas.
const FORMS_BYTES: usize = 4 << 20;
/// A schema takes about so many times the bytes of its strict form.
const TREE: usize = 8;

/// Strict forms of the schemas that were asked for lately: prompts hand out the same schema for the same question.
#[derive(Debug)]
pub struct StrictForms(Beside<Value, Arc<RawValue>>);

impl Default for StrictForms {
    fn default() -> Self {
        Self(Beside::new(FORMS_BYTES))
    }
}

impl StrictForms {
    /// The strict form of `schema`, as text.
    ///
    /// # Errors
    /// As [`strict`].
    pub fn of(&self, schema: &Arc<Value>) -> Result<Arc<RawValue>, SchemaError> {
        self.0.try_get(schema, |schema| {
            let form = serde_json::value::to_raw_value(&strict(schema)?).unwrap_or_default();
            let bytes = form.get().len() * TREE;
            Ok((form.into(), bytes))
        })
    }
}

/// The strict form of `schema`. Converting twice changes nothing.
///
/// # Errors
/// [`SchemaError`] if it has none.
pub fn strict(schema: &Value) -> Result<Value, SchemaError> {
    if schema.get("properties").is_none() && schema.get("$ref").is_none() {
        return Err(SchemaError::RootIsNoObject);
    }
    convert(schema, "", 0)
}

fn convert(schema: &Value, path: &str, depth: usize) -> Result<Value, SchemaError> {
    if depth > DEPTH_MAX {
        return Err(SchemaError::TooDeep);
    }
    let Some(schema) = schema.as_object() else { return Err(SchemaError::Anything { path: path.to_owned() }) };
    // Some generators wrap a reference in `allOf` so that a description can stand beside it.
    if let Some([only]) = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
        let mut merged = only.as_object().cloned().unwrap_or_default();
        merged.extend(schema.iter().filter(|(key, _)| *key != "allOf").map(|(k, v)| (k.clone(), v.clone())));
        return convert(&Value::Object(merged), path, depth + 1);
    }
    // Beside `$ref` no other keyword may stand, but definitions are not about the value.
    let is_reference = schema.contains_key("$ref");
    let mut out = Map::new();
    for (key, value) in schema {
        let at = format!("{path}/{key}");
        match key.as_str() {
            "$defs" | "definitions" => {
                let mut definitions = Map::new();
                for (name, definition) in value.as_object().into_iter().flatten() {
                    definitions.insert(name.clone(), convert(definition, &format!("{at}/{name}"), depth + 1)?);
                }
                out.insert(key.clone(), Value::Object(definitions));
            }
            "anyOf" | "oneOf" if !is_reference => {
                let choices = value.as_array().into_iter().flatten();
                let choices: Result<Vec<_>, _> = choices.map(|choice| convert(choice, &at, depth + 1)).collect();
                out.insert("anyOf".to_owned(), Value::Array(choices?));
            }
            "items" if !is_reference => {
                out.insert(key.clone(), convert(value, &at, depth + 1)?);
            }
            kept if KEPT.contains(&kept) && (!is_reference || kept == "$ref") => {
                out.insert(key.clone(), value.clone());
            }
            _ => {}
        }
    }
    if !is_reference && is_object(schema) {
        close(schema, &mut out, path, depth)?;
    }
    Ok(Value::Object(out))
}

fn is_object(schema: &Map<String, Value>) -> bool {
    schema.contains_key("properties")
        || match schema.get("type") {
            Some(Value::String(name)) => name == "object",
            Some(Value::Array(names)) => names.iter().any(|name| name == "object"),
            _ => false,
        }
}

fn close(
    schema: &Map<String, Value>,
    out: &mut Map<String, Value>,
    path: &str,
    depth: usize,
) -> Result<(), SchemaError> {
    let given = schema.get("properties").and_then(Value::as_object);
    let open = !matches!(schema.get("additionalProperties"), None | Some(Value::Bool(false)));
    if (given.is_none() && schema.get("additionalProperties") != Some(&Value::Bool(false)))
        || (open && schema.get("additionalProperties") != Some(&Value::Bool(true)))
    {
        return Err(SchemaError::OpenObject { path: path.to_owned() });
    }
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut properties = Map::new();
    for (name, property) in given.into_iter().flatten() {
        let property = convert(property, &format!("{path}/properties/{name}"), depth + 1)?;
        let property = if required.contains(&name.as_str()) { property } else { nullable(property) };
        properties.insert(name.clone(), property);
    }
    out.insert("required".to_owned(), properties.keys().cloned().collect());
    out.insert("properties".to_owned(), Value::Object(properties));
    out.insert("additionalProperties".to_owned(), Value::Bool(false));
    Ok(())
}

/// `schema` or null.
fn nullable(mut schema: Value) -> Value {
    let allows_null = match (schema.get("type"), schema.get("anyOf").and_then(Value::as_array)) {
        (Some(Value::Array(types)), _) => types.iter().any(|name| name == "null"),
        (Some(name), _) => name == "null",
        (None, Some(choices)) => choices.iter().any(|choice| choice["type"] == "null"),
        (None, None) => false,
    };
    if allows_null {
        return schema;
    }
    match (schema.get("type").cloned(), schema.get("enum").is_some() || schema.get("const").is_some()) {
        (Some(name @ Value::String(_)), false) => schema["type"] = json!([name, "null"]),
        (Some(Value::Array(mut names)), false) => {
            names.push("null".into());
            schema["type"] = Value::Array(names);
        }
        _ => return json!({ "anyOf": [schema, { "type": "null" }] }),
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_closed_require_everything_and_optional_ones_take_null() {
        let given = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "mode": {"type": "string", "enum": ["a", "b"]},
                "score": {"type": ["number", "null"], "minimum": 0, "default": 1},
                "note": {"type": "string", "description": "why"},
                "steps": {"type": "array", "items": {"$ref": "#/$defs/Step", "description": "one"}, "uniqueItems": true},
                "kind": {"allOf": [{"$ref": "#/$defs/Kind"}], "description": "which"},
            },
            "required": ["mode", "steps", "kind"],
            "$defs": {
                "Step": {"type": "object", "properties": {"do": {"type": "string"}}, "required": ["do"]},
                "Kind": {"oneOf": [{"const": "x"}, {"const": "y"}]},
            },
        });
        let expected = json!({
            "type": "object",
            "properties": {
                "mode": {"type": "string", "enum": ["a", "b"]},
                "score": {"type": ["number", "null"], "minimum": 0},
                "note": {"type": ["string", "null"], "description": "why"},
                "steps": {"type": "array", "items": {"$ref": "#/$defs/Step"}},
                "kind": {"$ref": "#/$defs/Kind"},
            },
            "required": ["kind", "mode", "note", "score", "steps"],
            "additionalProperties": false,
            "$defs": {
                "Step": {"type": "object", "properties": {"do": {"type": "string"}}, "required": ["do"],
                         "additionalProperties": false},
                "Kind": {"anyOf": [{"const": "x"}, {"const": "y"}]},
            },
        });
        let converted = strict(&given).expect("has a strict form");
        assert_eq!(converted, expected);
        assert_eq!(strict(&converted).as_ref(), Ok(&converted), "converting twice changes nothing");
    }

    #[test]
    fn a_form_is_made_once_as_text_and_a_schema_without_one_is_refused_each_time() {
        let forms = StrictForms::default();
        let schema = Arc::new(json!({"type": "object", "properties": {"p": {"type": "string"}}}));
        let first = forms.of(&schema).expect("has a strict form");
        assert_eq!(first.get(), strict(&schema).expect("has a strict form").to_string());
        assert!(Arc::ptr_eq(&first, &forms.of(&schema).expect("has a strict form")));
        let open = Arc::new(json!({"type": "array", "items": {}}));
        for _ in 0..2 {
            assert_eq!(forms.of(&open).err(), Some(SchemaError::RootIsNoObject));
        }
    }

    #[test]
    fn an_optional_enum_or_reference_becomes_a_choice_with_null() {
        let given =
            json!({"type": "object", "properties": {"a": {"type": "string", "enum": ["x"]}, "b": {"$ref": "#"}}});
        let strict = strict(&given).expect("has a strict form");
        for name in ["a", "b"] {
            assert_eq!(strict["properties"][name]["anyOf"][1], json!({"type": "null"}), "{name}");
        }
    }

    #[test]
    fn a_schema_without_a_strict_form_is_refused_with_the_place() {
        assert_eq!(strict(&json!({"type": "array", "items": {}})), Err(SchemaError::RootIsNoObject));
        let map = json!({"type": "object", "properties": {
            "m": {"type": "object", "additionalProperties": {"type": "string"}}}});
        assert_eq!(strict(&map), Err(SchemaError::OpenObject { path: "/properties/m".to_owned() }));
        let any = json!({"type": "object", "properties": {"x": true}});
        assert_eq!(strict(&any), Err(SchemaError::Anything { path: "/properties/x".to_owned() }));
    }
}
