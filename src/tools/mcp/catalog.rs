//! Which of a server's tools a run may see, under which name, and what is believed about them.
//!
//! A name given to a model depends on nothing but the server's name and the tool's own: a tool that appears later
//! renames no other. What a server says of its tools may make them less trusted; it makes them more trusted only where the
//! settings say so.
//! Absent on purpose: changing a description or a schema. What is too large is left out whole, so that a digest is always
//! that of what the server sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_actors::journal::digest;
use fleet_actors::ports::{EffectPolicy, ToolSpec};
use rmcp::model::{ListToolsResult, Tool, ToolAnnotations};
use serde_json::Value;

use super::{Plan, Trust};
use crate::tools::{Offered, Reach};

/// Characters of a tool's name that every model provider takes.
const NAME_CHARS_MAX: usize = 64;
/// Characters of the mark that tells names apart which had to be changed.
const MARK_CHARS: usize = 8;
/// Pages of one list; a server may not send empty ones for ever.
pub(super) const PAGES_MAX: usize = 1_000;

/// One tool.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    /// The server's own name for it.
    pub(super) raw: String,
    /// As models see it.
    pub(super) offered: Offered,
    /// Whether it was pinned with another digest.
    pub(super) changed: bool,
}

/// The name a model sees: at most 64 characters from `[A-Za-z0-9_-]`. One that had to be changed carries a mark made from
/// the whole, so that no two tools share it.
pub(super) fn exposed(server: &str, raw: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String = format!("mcp__{server}__{raw}").chars().map(|c| if plain(c) { c } else { '_' }).collect();
    if raw.chars().all(plain) && !raw.is_empty() && name.len() <= NAME_CHARS_MAX {
        return name;
    }
    let mark = &digest(format!("{server}\0{raw}").as_bytes())[..MARK_CHARS];
    let kept = &name[..name.len().min(NAME_CHARS_MAX - MARK_CHARS - 1)];
    format!("{kept}_{mark}")
}

/// What is believed about a tool.
fn belief(trust: &Trust, raw: &str, hints: Option<&ToolAnnotations>) -> (EffectPolicy, Reach) {
    let says = |hint: fn(&ToolAnnotations) -> Option<bool>| hints.and_then(hint);
    let reads = says(|hints| hints.read_only_hint);
    let destroys = says(|hints| hints.destructive_hint) == Some(true) && reads != Some(true);
    let repeats = says(|hints| hints.idempotent_hint) == Some(true);
    // The settings' word holds unless the server itself says that the tool does more.
    let named = trust.read_only.contains(raw) && reads != Some(false) && !destroys;
    if named || (trust.annotations && reads == Some(true)) {
        (EffectPolicy::SafeToRepeat, Reach::Reads)
    } else if trust.annotations && repeats {
        (EffectPolicy::SameKey, Reach::Writes)
    } else {
        (EffectPolicy::Ambiguous, Reach::Writes)
    }
}

/// Collects the pages of one server's list.
pub(super) struct Collector<'a> {
    plan: &'a Plan,
    bytes_left: usize,
    seen: BTreeSet<String>,
    tools: BTreeMap<String, Listed>,
    left_out: usize,
}

impl<'a> Collector<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        let (seen, tools) = (BTreeSet::new(), BTreeMap::new());
        Self { plan, bytes_left: plan.limits.tools_bytes_max, seen, tools, left_out: 0 }
    }

    fn full(&self) -> bool {
        self.tools.len() >= self.plan.limits.tools_max
    }

    /// Takes a page in and gives the cursor of the next, if there is one and room for it.
    pub(super) fn page(&mut self, page: ListToolsResult) -> Option<String> {
        for tool in page.tools {
            self.take(tool);
        }
        page.next_cursor.filter(|_| !self.full() && self.bytes_left > 0)
    }

    fn take(&mut self, tool: Tool) {
        let raw = tool.name.into_owned();
        let description = tool.description.map(|text| text.into_owned()).unwrap_or_default();
        let parameters = Value::Object(Arc::unwrap_or_clone(tool.input_schema));
        let all = format!("{raw} {description} {parameters}");
        let (name, bytes) = (exposed(&self.plan.name, &raw), all.len());
        let fits = !self.full() && bytes <= self.bytes_left && !self.plan.redactor.finds(&all);
        if !fits || !self.seen.insert(raw.clone()) || self.tools.contains_key(&name) {
            self.left_out += 1;
            return;
        }
        self.bytes_left -= bytes;
        let (effect, reach) = belief(&self.plan.trust, &raw, tool.annotations.as_ref());
        let spec = ToolSpec { name: name.as_str().into(), description, parameters };
        let offered = Offered::new(spec, effect, reach, self.plan.name.clone());
        self.tools.insert(name, Listed { raw, offered, changed: false });
    }

    /// What was collected, by the names that models see, and how many tools were left out.
    pub(super) fn end(self) -> (BTreeMap<String, Listed>, usize) {
        (self.tools, self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_every_provider_and_no_two_tools_share_one() {
        assert_eq!(exposed("files", "read_file"), "mcp__files__read_file");
        let long = "x".repeat(80);
        let odd = ["a.b", "a b", "a/b", "a_b", "", "\u{1b}[31mred", "dzień", &long, &format!("{long}y")];
        let names: BTreeSet<String> = odd.iter().map(|raw| exposed("files", raw)).collect();
        assert_eq!(names.len(), odd.len(), "{names:?}");
        for name in &names {
            assert!((1..=64).contains(&name.len()), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'), "{name}");
            assert!(name.starts_with("mcp__files__"), "{name}");
        }
        assert_eq!(exposed("files", "a.b"), exposed("files", "a.b"), "the same in every process");
    }

    #[test]
    fn a_server_can_make_its_tools_less_trusted_and_not_more() {
        let hints = |read: Option<bool>, destroy: Option<bool>, repeat: Option<bool>| {
            ToolAnnotations::from_raw(None, read, destroy, repeat, None)
        };
        let untrusted = Trust { annotations: false, read_only: ["named".to_owned()].into() };
        let trusted = Trust { annotations: true, ..untrusted.clone() };
        let (write, read) = ((EffectPolicy::Ambiguous, Reach::Writes), (EffectPolicy::SafeToRepeat, Reach::Reads));
        let reads = hints(Some(true), None, None);
        let table = [
            (&untrusted, "other", Some(reads.clone()), write),
            (&untrusted, "other", Some(hints(Some(false), None, Some(true))), write),
            (&untrusted, "other", None, write),
            (&untrusted, "named", None, read),
            (&untrusted, "named", Some(reads.clone()), read),
            (&untrusted, "named", Some(hints(Some(false), None, None)), write),
            (&untrusted, "named", Some(hints(None, Some(true), None)), write),
            (&trusted, "other", Some(reads), read),
            (&trusted, "other", Some(hints(None, None, Some(true))), (EffectPolicy::SameKey, Reach::Writes)),
            (&trusted, "other", None, write),
        ];
        for (index, (trust, name, hints, expected)) in table.into_iter().enumerate() {
            assert_eq!(belief(trust, name, hints.as_ref()), expected, "row {index}");
        }
    }
}
