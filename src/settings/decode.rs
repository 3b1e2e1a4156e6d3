//! Turns a merged tree into typed settings. An error knows the path and the origin of the value that caused it.
//!
//! Text from the environment or a flag is read as what the setting it lands in is: a number, `true`/`1`, a list with
//! commas, `null` for none. A YAML value keeps the type it was written with.
//!
//! Invariant: an error says what was expected and what kind of thing was found, never the value.

use std::fmt;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
};

use super::problem::Problem;
use super::tree::{Entry, Node, Origin, Path, Shape};

/// Decodes `tree`. What a mistake spoils is put back to what `fallback` has there, or taken away, as the item of a list
/// that it is in, and decoding goes on, so that every mistake is found; their paths come along.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(
    tree: &mut Node,
    fallback: &Node,
) -> (Option<T>, Vec<(Path, Problem)>) {
    let mut found: Vec<(Path, Problem)> = Vec::new();
    loop {
        match T::deserialize(At(tree)) {
            Ok(value) => return (Some(value), found),
            Err(error) => {
                let origin = error.origin.unwrap_or_else(|| tree.origin.clone());
                let path: Path = error.path.into_iter().rev().collect();
                let problem = Problem::at(&origin, &path, error.message);
                // The other items may be wrong as well, each by itself.
                let dropped = error.item.is_some_and(|(inside, index)| {
                    let list = path.len().saturating_sub(inside);
                    tree.drop_item(&path[..list], index)
                });
                let again = !dropped && found.iter().any(|(known, _)| *known == path);
                // The fallback itself is wrong, or the whole tree is: nothing would change by another round.
                if again || path.is_empty() {
                    found.push((path, problem));
                    return (None, found);
                }
                if !dropped {
                    tree.put(&path, fallback.get(&path).cloned());
                }
                found.push((path, problem));
            }
        }
    }
}

/// Why a value cannot be what it must be.
#[derive(Debug)]
struct Mismatch {
    /// From the value up to the root.
    path: Path,
    /// The item that it is in of the outermost list: how many keys of the path are inside of it, and which it is.
    item: Option<(usize, usize)>,
    origin: Option<Origin>,
    message: String,
}

impl Mismatch {
    fn new(message: String) -> Self {
        Self { path: Path::new(), item: None, origin: None, message }
    }

    fn at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    fn within(mut self, key: &str) -> Self {
        self.path.push(key.to_owned());
        self
    }

    fn in_item(mut self, index: usize) -> Self {
        self.item = Some((self.path.len(), index));
        self
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mismatch {}

impl de::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}, found {}", in_words(&expected.to_string()), kind(unexpected)))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}", in_words(&expected.to_string())))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("expected one of {}", expected.join(", ")))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let nearest = expected
            .iter()
            .map(|known| (strsim::jaro_winkler(field, known), known))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        Self::new(match nearest {
            Some((_, known)) => format!("unknown key, expected {known}?"),
            None => format!("unknown key, expected one of {}", expected.join(", ")),
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("{field} is missing"))
    }
}

fn in_words(expected: &str) -> &str {
    match expected {
        "a sequence" => "a list",
        "a map" => "a section",
        "a string" | "path string" => "text (put it in quotes if it looks like something else)",
        "a boolean" => "true or false",
        "f64" => "a number",
        "u64" => "a whole number that is not negative",
        other if other.starts_with("struct ") => "a section",
        other => other,
    }
}

fn kind(unexpected: Unexpected<'_>) -> &'static str {
    match unexpected {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Str(_) | Unexpected::Char(_) | Unexpected::Bytes(_) => "text",
        Unexpected::Unit | Unexpected::Option => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map | Unexpected::StructVariant => "a section",
        Unexpected::NewtypeStruct
        | Unexpected::Enum
        | Unexpected::UnitVariant
        | Unexpected::NewtypeVariant
        | Unexpected::TupleVariant
        | Unexpected::Other(_) => "something else",
    }
}

/// A node being read.
#[derive(Clone, Copy)]
struct At<'a>(&'a Node);

impl At<'_> {
    fn given(&self) -> Option<&str> {
        if let Shape::Given(text) = &self.0.shape { Some(text.trim()) } else { None }
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let Some(text) = self.given() else { return self.deserialize_any(visitor) };
        let read = if let Ok(value) = text.parse() {
            visitor.visit_u64(value)
        } else if let Ok(value) = text.parse() {
            visitor.visit_i64(value)
        } else {
            visitor.visit_str(text)
        };
        read.map_err(|error: Mismatch| error.at(&self.0.origin))
    }

    fn real<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.given().and_then(|text| text.parse().ok()) {
            Some(value) => visitor.visit_f64(value).map_err(|error: Mismatch| error.at(&self.0.origin)),
            None => self.deserialize_any(visitor),
        }
    }
}

macro_rules! as_number {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            self.number(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for At<'_> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let read = match &self.0.shape {
            Shape::Null => visitor.visit_unit(),
            Shape::Bool(value) => visitor.visit_bool(*value),
            Shape::Signed(value) => visitor.visit_i64(*value),
            Shape::Unsigned(value) => visitor.visit_u64(*value),
            Shape::Real(value) => visitor.visit_f64(*value),
            Shape::Text(text) | Shape::Given(text) => visitor.visit_str(text),
            Shape::List(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            Shape::Map(entries) => visitor.visit_map(Entries { left: entries.iter(), value: None }),
        };
        read.map_err(|error: Mismatch| error.at(&self.0.origin))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let value = match self.given().map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "1") => true,
            Some("false" | "0") => false,
            _ => return self.deserialize_any(visitor),
        };
        visitor.visit_bool(value)
    }

    as_number! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.real(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.real(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let none = matches!(self.0.shape, Shape::Null) || self.given() == Some("null");
        if none { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self).map_err(|error| error.at(&self.0.origin))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        let Some(text) = self.given() else { return self.deserialize_any(visitor) };
        let items: Vec<Node> = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| Node::given(&[], item.to_owned(), &self.0.origin))
            .collect();
        visitor.visit_seq(Items(items.iter().enumerate())).map_err(|error| error.at(&self.0.origin))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let (Shape::Text(text) | Shape::Given(text)) = &self.0.shape else {
            return Err(<Mismatch as de::Error>::unknown_variant("", variants).at(&self.0.origin));
        };
        let name: StrDeserializer<'_, Mismatch> = text.as_str().into_deserializer();
        visitor.visit_enum(name).map_err(|error| error.at(&self.0.origin))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a>(std::iter::Enumerate<std::slice::Iter<'a, Node>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        let Some((index, node)) = self.0.next() else { return Ok(None) };
        seed.deserialize(At(node)).map(Some).map_err(|error| error.at(&node.origin).in_item(index))
    }
}

struct Entries<'a> {
    left: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        let Some(entry) = self.left.next() else { return Ok(None) };
        self.value = Some(entry);
        let key: StrDeserializer<'_, Mismatch> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.at(&entry.origin).within(&entry.key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        let entry = self.value.take().ok_or_else(|| Mismatch::new("value asked for before its key".to_owned()))?;
        let value = &entry.value;
        seed.deserialize(At(value)).map_err(|error| error.at(&value.origin).within(&entry.key))
    }
}
