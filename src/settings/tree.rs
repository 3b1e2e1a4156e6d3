//! One layer of settings as a tree whose every key and value knows where it was written, and how layers merge.
//!
//! Invariant: after a merge each leaf carries the origin of the highest layer that set it.
//! Absent on purpose: knowledge of any key. What a value must be is decided where it is decoded.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, MessageFormatter, Spanned, UserMessageFormatter};

use super::problem::Problem;

/// The way from the root to a value.
pub(super) type Path = Vec<String>;

/// A path as people read it. A part that is not a plain word is quoted, so that it cannot be taken for two or do
/// anything to a terminal.
pub(super) fn dotted(path: &[String]) -> String {
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let part = |part: &String| if plain(part) { part.clone() } else { format!("{part:?}") };
    path.iter().map(part).collect::<Vec<_>>().join(".")
}

/// The path that `dotted` wrote, for keys of our own.
pub(super) fn path(dotted: &str) -> Path {
    dotted.split('.').map(str::to_owned).collect()
}

/// Which layer a document is; later ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    Defaults,
    Profile,
    File,
    Environment,
    Flags,
}

/// A YAML text that settings were read from.
pub(super) struct Document {
    pub(super) layer: Layer,
    /// As it is shown: `config/local.yaml (built in)` or the path that was given.
    pub(super) name: String,
    pub(super) text: String,
}

impl fmt::Debug for Document {
    /// Leaves out the text: nobody knows what stands in its comments.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Document").field(&self.name).finish()
    }
}

/// Where a key or a value was written.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Document { document: Arc<Document>, line: usize, column: usize },
    Environment(Arc<str>),
    Flag(&'static str),
}

impl Origin {
    pub(super) fn layer(&self) -> Layer {
        match self {
            Self::Document { document, .. } => document.layer,
            Self::Environment(_) => Layer::Environment,
            Self::Flag(_) => Layer::Flags,
        }
    }
}

impl fmt::Display for Origin {
    /// As `config check` shows a source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document { document, .. } if document.layer == Layer::Defaults => f.write_str("default"),
            Self::Document { document, line, .. } => write!(f, "{}:{line}", document.name),
            Self::Environment(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) shape: Shape,
}

/// What a value is before anybody says what it must be.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Real(f64),
    Text(String),
    /// Text from the environment or a flag: what it stands for is decided by the setting it lands in.
    Given(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping, in the order it was written.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) value: Node,
}

impl Node {
    /// A tree with one leaf.
    pub(super) fn given(path: &[String], text: String, origin: &Origin) -> Self {
        let leaf = Self { origin: origin.clone(), shape: Shape::Given(text) };
        path.iter().rfold(leaf, |value, key| {
            let entry = Entry { key: key.clone(), origin: origin.clone(), value };
            Self { origin: origin.clone(), shape: Shape::Map(vec![entry]) }
        })
    }

    /// The entries, if this is a mapping.
    pub(super) fn entries(&self) -> Option<&[Entry]> {
        if let Shape::Map(entries) = &self.shape { Some(entries) } else { None }
    }

    pub(super) fn get(&self, path: &[String]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| Some(&node.entries()?.iter().find(|entry| entry.key == *key)?.value))
    }

    /// Lays `over` upon this tree. Mappings merge key by key, everything else is replaced. A section left empty changes
    /// nothing; a section given as a plain value is reported and changes nothing either.
    pub(super) fn merge(&mut self, over: Self, at: &mut Path, problems: &mut Vec<Problem>) {
        match (&mut self.shape, over.shape) {
            (Shape::Map(entries), Shape::Map(overs)) => {
                for entry in overs {
                    match entries.iter_mut().find(|known| known.key == entry.key) {
                        Some(known) => {
                            at.push(entry.key);
                            known.value.merge(entry.value, at, problems);
                            at.pop();
                        }
                        None => entries.push(entry),
                    }
                }
            }
            (Shape::Map(_), Shape::Null) => {}
            (Shape::Map(_), _) => {
                problems.push(Problem::at(&over.origin, at, "expected a section, found a plain value"))
            }
            (_, shape) => *self = Self { origin: over.origin, shape },
        }
    }

    /// Puts `value` at the path, or takes the key away.
    pub(super) fn put(&mut self, path: &[String], value: Option<Self>) {
        let Some((key, rest)) = path.split_first() else {
            if let Some(value) = value {
                *self = value;
            }
            return;
        };
        let Shape::Map(entries) = &mut self.shape else { return };
        let Some(index) = entries.iter().position(|entry| entry.key == *key) else { return };
        match value {
            None if rest.is_empty() => drop(entries.remove(index)),
            value => entries[index].value.put(rest, value),
        }
    }

    /// Takes an item away from the list at the path; false if there is none.
    pub(super) fn drop_item(&mut self, path: &[String], index: usize) -> bool {
        let Some((key, rest)) = path.split_first() else {
            let Shape::List(items) = &mut self.shape else { return false };
            let there = index < items.len();
            if there {
                items.remove(index);
            }
            return there;
        };
        let Shape::Map(entries) = &mut self.shape else { return false };
        entries.iter_mut().find(|entry| entry.key == *key).is_some_and(|entry| entry.value.drop_item(rest, index))
    }

    /// Calls `visit` for every key, depth first, and takes away those for which it says `false`.
    pub(super) fn retain(&mut self, at: &mut Path, visit: &mut impl FnMut(&[String], &Origin) -> bool) {
        let Shape::Map(entries) = &mut self.shape else { return };
        entries.retain_mut(|entry| {
            at.push(entry.key.clone());
            let kept = visit(at, &entry.origin);
            if kept {
                entry.value.retain(at, visit);
            }
            at.pop();
            kept
        });
    }

    /// Every value that is not a mapping, in the order written.
    pub(super) fn leaves(&self) -> Vec<(Path, &Origin)> {
        fn walk<'a>(node: &'a Node, at: &mut Path, found: &mut Vec<(Path, &'a Origin)>) {
            match node.entries() {
                Some(entries) => {
                    for entry in entries {
                        at.push(entry.key.clone());
                        walk(&entry.value, at, found);
                        at.pop();
                    }
                }
                None => found.push((at.clone(), &node.origin)),
            }
        }
        let mut found = Vec::new();
        walk(self, &mut Vec::new(), &mut found);
        found
    }
}

/// Reads one YAML document. `variables` are what `${NAME}` may name. None if it has a mistake.
pub(super) fn parse(
    document: &Arc<Document>,
    variables: &HashMap<String, String>,
    problems: &mut Vec<Problem>,
) -> Option<Node> {
    let options =
        serde_saphyr::options! { strict_booleans: true, with_snippet: false }.with_properties(variables.clone());
    let problem = match serde_saphyr::from_str_with_options::<Spanned<Written>>(&document.text, options) {
        Ok(root) => {
            let root = plant(root, document);
            if root.entries().is_some() {
                return Some(root);
            }
            if matches!(root.shape, Shape::Null) {
                return Some(Node { shape: Shape::Map(Vec::new()), ..root });
            }
            Problem::at(&root.origin, &[], "expected a mapping of sections")
        }
        Err(error) => {
            let origin = origin(document, error.location().unwrap_or(Location::UNKNOWN));
            Problem::at(&origin, &[], in_words(error.without_snippet()))
        }
    };
    problems.push(problem);
    None
}

/// The parser's message without a place, which is ours to show, and without advice for programmers.
fn in_words(error: &serde_saphyr::Error) -> String {
    if let serde_saphyr::Error::UnresolvedProperty { name, .. } = error {
        return format!("the environment has no {name}: expected it to be set, or a default as ${{{name}:-default}}");
    }
    UserMessageFormatter.format_message(error).replace(char::is_control, " ")
}

fn origin(document: &Arc<Document>, location: Location) -> Origin {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
    Origin::Document {
        document: Arc::clone(document),
        line: number(location.line()),
        column: number(location.column()),
    }
}

fn plant(written: Spanned<Written>, document: &Arc<Document>) -> Node {
    let shape = match written.value {
        Written::Plain(shape) => shape,
        Written::List(items) => Shape::List(items.into_iter().map(|item| plant(item, document)).collect()),
        Written::Map(entries) => Shape::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    origin: origin(document, key.referenced),
                    key: key.value,
                    value: plant(value, document),
                })
                .collect(),
        ),
    };
    Node { origin: origin(document, written.referenced), shape }
}

/// A node as the parser hands it over, before it knows its document.
enum Written {
    Plain(Shape),
    List(Vec<Spanned<Written>>),
    Map(Vec<(Spanned<String>, Spanned<Written>)>),
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a mapping")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Written, E> {
        Ok(Written::Plain(Shape::Bool(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Written, E> {
        Ok(Written::Plain(Shape::Signed(value)))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Written, E> {
        Ok(Written::Plain(Shape::Unsigned(value)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Written, E> {
        Ok(Written::Plain(Shape::Real(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Written, E> {
        Ok(Written::Plain(Shape::Text(value.to_owned())))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Written, E> {
        Ok(Written::Plain(Shape::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Written, E> {
        Ok(Written::Plain(Shape::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Written, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Written::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Written, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Written::Map(entries))
    }
}
