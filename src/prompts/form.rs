//! The form of an answer: the schema of its type, narrowed to what this call may answer.

use std::sync::Arc;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::{Signature, Unsaid};
use crate::memo;

/// A schema as a tree takes about so many times the bytes of its text, and there are two in a form.
const TREE: usize = 8;
/// A form without any choices.
const BASE_BYTES: usize = 32 << 10;

/// What may be answered at some places of a schema.
#[derive(Debug, Default)]
pub struct Choices<'a>(Vec<(String, Vec<&'a str>)>);

impl<'a> Choices<'a> {
    /// At `pointer` only one of `values` may be answered; none of them leaves it open.
    #[must_use]
    pub fn only(mut self, pointer: impl Into<String>, values: impl IntoIterator<Item = &'a str>) -> Self {
        let values: Vec<&str> = values.into_iter().collect();
        if !values.is_empty() {
            self.0.push((pointer.into(), values));
        }
        self
    }

    fn narrow(&self, schema: &mut Value) {
        for (pointer, values) in &self.0 {
            if let Some(Value::Object(place)) = schema.pointer_mut(pointer) {
                place.retain(|key, _| key == "description");
                place.insert("type".to_owned(), json!("string"));
                place.insert("enum".to_owned(), json!(values));
            }
            // A weak model names the same one up to the bound of the list.
            let list = pointer.strip_suffix("/items").and_then(|list| schema.pointer_mut(list)?.get_mut("maxItems"));
            if let Some(most) = list
                && most.as_u64().is_some_and(|most| most > values.len() as u64)
            {
                *most = json!(values.len());
            }
        }
    }
}

/// What a call's answer must look like.
pub(super) struct Form {
    /// As the model is shown it: every definition in its place.
    pub schema: Arc<Value>,
    /// As its answer is read: what it may leave out has the value that this means.
    pub lenient: Value,
}

/// The form of this call's answer. Pure, and kept: a fleet asks each of its questions with the same choices in every run.
pub(super) fn form<S: Signature>(inputs: &S::Inputs) -> Arc<Form> {
    let choices = S::choices(inputs);
    let key = json!(choices.0).to_string();
    let bytes = key.len() * 2 * TREE;
    memo::of_type::<S, Form>(key, || {
        let mut schema = (*schema_of::<S::Output>()).clone();
        choices.narrow(&mut schema);
        let mut lenient = schema.clone();
        allow_unsaid(&mut lenient, S::UNSAID);
        (Form { schema: schema.into(), lenient }, BASE_BYTES + bytes)
    })
}

/// The schema of this call's answer. Pure.
pub fn schema<S: Signature>(inputs: &S::Inputs) -> Arc<Value> {
    form::<S>(inputs).schema.clone()
}

/// The schema of a type, with every definition in its place.
pub(super) fn schema_of<T: JsonSchema + 'static>() -> Arc<Value> {
    memo::of_type::<T, Value>(String::new(), || {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        });
        let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
        tidy(&mut schema, true);
        (schema, BASE_BYTES)
    })
}

/// Gives the fields of an answer that may be left out what that means.
fn allow_unsaid(schema: &mut Value, unsaid: Unsaid) {
    for (name, field) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        allow_unsaid(field, unsaid);
        if let Some(items) = field.get_mut("items") {
            allow_unsaid(items, unsaid);
        }
        let meaning = unsaid.iter().find(|(unsaid, _)| unsaid == name);
        if let (Some((_, meaning)), Some(field)) = (meaning, field.as_object_mut()) {
            field.insert("default".to_owned(), (*meaning).into());
        }
    }
}

/// Leaves out what says nothing to a model and what providers refuse: titles, Rust's number formats.
fn tidy(schema: &mut Value, is_schema: bool) {
    match schema {
        Value::Object(object) => {
            if is_schema {
                object.remove("title");
                let numeric = |format: &Value| {
                    format.as_str().is_some_and(|name| name.starts_with("uint") || name.starts_with("int"))
                        || *format == "float"
                        || *format == "double"
                };
                if object.get("format").is_some_and(numeric) {
                    object.remove("format");
                }
                if let Some(Value::String(text)) = object.get_mut("description") {
                    // A doc comment's line breaks are its source file's.
                    *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                }
            }
            for (key, value) in object {
                match key.as_str() {
                    "properties" | "$defs" if is_schema => tidy(value, false),
                    "enum" | "const" | "default" | "examples" if is_schema => {}
                    _ => tidy(value, true),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| tidy(item, true)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
