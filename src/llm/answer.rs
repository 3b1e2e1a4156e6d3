//! An answer while it arrives, whichever protocol brings it.
//!
//! Invariants: the reply's text is exactly its text deltas in order, and its reasoning likewise, because both are written
//! by the same function. There is no reply before the protocol's terminator was seen.

use std::collections::{BTreeMap, BTreeSet};

use fleet_actors::event::{Channel, Usage};
use fleet_actors::ports::{FinishReason, ModelDelta, ModelReply, ToolRequest};
use serde_json::{Map, Value};

use super::failure::Fault;

/// A delta takes no more pieces when it has so many bytes.
const DELTA_BYTES: usize = 4_096;

/// Whether the protocol has more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    Done,
}

pub(super) struct Answer<'a> {
    deltas: &'a mut dyn FnMut(ModelDelta),
    /// Pieces that came together and were not told yet.
    untold: Option<ModelDelta>,
    reply: ModelReply,
    calls: BTreeMap<u64, PartialCall>,
    finish: Option<FinishReason>,
}

/// A tool call whose arguments still arrive.
#[derive(Debug, Default)]
struct PartialCall {
    id: String,
    name: String,
    arguments: String,
}

impl<'a> Answer<'a> {
    pub(super) fn new(model: &str, deltas: &'a mut dyn FnMut(ModelDelta)) -> Self {
        let reply = ModelReply { model: model.to_owned(), ..ModelReply::default() };
        Self { deltas, untold: None, reply, calls: BTreeMap::new(), finish: None }
    }

    /// Adds a piece of the answer or of the reasoning.
    pub(super) fn push(&mut self, channel: Channel, piece: &str) {
        if piece.is_empty() {
            return;
        }
        match channel {
            Channel::Text => self.reply.text.push_str(piece),
            Channel::Reasoning => self.reply.reasoning.push_str(piece),
        }
        match &mut self.untold {
            Some(last) if last.channel == channel && last.text.len() < DELTA_BYTES => last.text.push_str(piece),
            _ => {
                self.tell();
                self.untold = Some(ModelDelta { channel, text: piece.to_owned() });
            }
        }
    }

    /// Tells what has come so far. Pieces that arrive together are one delta: each costs a number in the run's log and a
    /// frame for each watcher, and nobody sees the first of them earlier than the last.
    pub(super) fn tell(&mut self) {
        if let Some(delta) = self.untold.take() {
            (self.deltas)(delta);
        }
    }

    pub(super) fn reasoned(&self) -> bool {
        !self.reply.reasoning.is_empty()
    }

    /// Adds to the tool call at `index`. Providers that repeat a name or an id mean the same call.
    pub(super) fn call(&mut self, index: u64, id: Option<&str>, name: Option<&str>, arguments: &str) {
        let call = self.calls.entry(index).or_default();
        for (field, given) in [(&mut call.id, id), (&mut call.name, name)] {
            if field.is_empty() {
                field.push_str(given.unwrap_or_default());
            }
        }
        call.arguments.push_str(arguments);
    }

    /// The arguments of the call at `index`, whole: they replace what was streamed.
    pub(super) fn call_arguments(&mut self, index: u64, arguments: &str) {
        self.calls.entry(index).or_default().arguments = arguments.to_owned();
    }

    /// The place of the last call, and of the next.
    pub(super) fn call_places(&self) -> (u64, u64) {
        let last = self.calls.last_key_value().map(|(index, _)| *index);
        (last.unwrap_or(0), last.map_or(0, |last| last.saturating_add(1)))
    }

    pub(super) fn usage(&mut self, usage: Usage) {
        self.reply.usage = Some(usage);
    }

    pub(super) fn model(&mut self, name: &str) {
        if !name.is_empty() && self.reply.model != name {
            name.clone_into(&mut self.reply.model);
        }
    }

    /// The terminator: the answer is whole, or says why it is not. The first one counts.
    pub(super) fn finish(&mut self, reason: FinishReason) {
        self.finish.get_or_insert(reason);
    }

    pub(super) fn finished(&self) -> bool {
        self.finish.is_some()
    }

    /// The reply.
    pub(super) fn into_reply(mut self, json_depth_max: u32) -> Result<ModelReply, Fault> {
        self.tell();
        let Self { mut reply, calls, finish, .. } = self;
        let Some(finish) = finish else {
            return Err(Fault::incomplete("the provider's answer ended without its terminator"));
        };
        let mut ids = Ids::of(calls.values());
        for (index, call) in calls {
            if call.name.is_empty() {
                return Err(Fault::malformed("the provider asked for a tool without naming it"));
            }
            let arguments = arguments(call.arguments, json_depth_max)?;
            let id = ids.distinct(index, call.id);
            reply.tool_calls.push(ToolRequest { id, name: call.name, arguments });
        }
        let wants_tools = finish == FinishReason::Stop && !reply.tool_calls.is_empty();
        reply.finish_reason = if wants_tools { FinishReason::ToolCalls } else { finish };
        Ok(reply)
    }
}

/// The ids of a reply's tool calls. Results are told apart by them, so no two are alike: the first call with an id keeps it,
/// and one that has none, or another's, gets one by its place, the same in every reading of the same answer.
struct Ids {
    given: BTreeSet<String>,
    taken: BTreeSet<String>,
}

impl Ids {
    fn of<'a>(calls: impl Iterator<Item = &'a PartialCall>) -> Self {
        Self { given: calls.map(|call| call.id.clone()).collect(), taken: BTreeSet::new() }
    }

    fn distinct(&mut self, index: u64, given: String) -> String {
        if !given.is_empty() && self.taken.insert(given.clone()) {
            return given;
        }
        let mut id = format!("call_{index}");
        for n in 2_u64.. {
            if !self.given.contains(&id) && self.taken.insert(id.clone()) {
                break;
            }
            id = format!("call_{index}_{n}");
        }
        id
    }
}

/// A tool call's arguments: JSON if they are, else the text for the tool to refuse.
fn arguments(text: String, json_depth_max: u32) -> Result<Value, Fault> {
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    check_depth(text.as_bytes(), json_depth_max)?;
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Reads JSON that a provider sent.
pub(super) fn parse(json: &[u8], depth_max: u32) -> Result<Value, Fault> {
    check_depth(json, depth_max)?;
    serde_json::from_slice(json).map_err(|_| Fault::malformed("the provider sent something that is not JSON"))
}

/// Refuses deep nesting before anything recurses over it.
fn check_depth(json: &[u8], max: u32) -> Result<(), Fault> {
    let (mut depth, mut in_string, mut escaped) = (0u32, false, false);
    for byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > max {
                    return Err(Fault::too_large(format!("the provider sent JSON nested deeper than {max}")));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Tokens as either protocol counts them; `None` when there is no count.
pub(super) fn usage(value: &Value) -> Option<Usage> {
    let count = |names: [&str; 2]| names.iter().find_map(|name| value.pointer(name)?.as_u64());
    Some(Usage {
        input_tokens: count(["/prompt_tokens", "/input_tokens"])?,
        output_tokens: count(["/completion_tokens", "/output_tokens"]).unwrap_or(0),
        reasoning_tokens: count([
            "/completion_tokens_details/reasoning_tokens",
            "/output_tokens_details/reasoning_tokens",
        ])
        .unwrap_or(0),
        cached_tokens: count(["/prompt_tokens_details/cached_tokens", "/input_tokens_details/cached_tokens"])
            .unwrap_or(0),
        cost_nanousd: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert!(check_depth(br#"{"a": "[[[[\"[[[[", "b": [[]]}"#, 3).is_ok());
        assert!(check_depth(br#"{"a": [[[]]]}"#, 3).is_err());
    }

    #[test]
    fn calls_with_one_id_or_none_get_distinct_ones_by_their_place() {
        let ids = |given: &[&str]| {
            let mut ignored = |_| {};
            let mut answer = Answer::new("m", &mut ignored);
            for (index, id) in (0..).zip(given) {
                answer.call(index, Some(id), Some("tool"), "");
            }
            answer.finish(FinishReason::ToolCalls);
            let reply = answer.into_reply(8).expect("whole");
            reply.tool_calls.into_iter().map(|call| call.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&["a", "b"]), ["a", "b"]);
        assert_eq!(ids(&["a", "a", "a"]), ["a", "call_1", "call_2"]);
        assert_eq!(ids(&["", "", "a"]), ["call_0", "call_1", "a"]);
        // What a provider gave is nobody else's, even if it comes later.
        assert_eq!(ids(&["call_1", "call_1", "call_1_2"]), ["call_1", "call_1_3", "call_1_2"]);
        assert_eq!(ids(&["", "call_0"]), ["call_0_2", "call_0"]);
    }

    #[test]
    fn arguments_that_are_not_json_stay_text() {
        assert_eq!(arguments(String::new(), 8).ok(), Some(Value::Object(Map::new())));
        assert_eq!(arguments("{oops".to_owned(), 8).ok(), Some(Value::String("{oops".to_owned())));
    }
}
