//! The simulated model itself: deterministic, conversational, true to schemas.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::time::Duration;

use agentic_fleet::llm::simulate::{SimulatedRequest, Simulation};
use agentic_fleet::llm::{LlmConfig, Provider};
use fleet_actors::event::Channel;
use fleet_actors::ports::{FinishReason, Role};
use serde_json::{Value, json};

use super::simulator::quick;
use super::support::{make, run, say};

fn request<'a>(messages: &[(Role, &'a str)]) -> SimulatedRequest<'a> {
    SimulatedRequest {
        model: "simulated",
        messages: messages.iter().map(|(role, text)| (*role, Cow::Borrowed(*text))).collect(),
        attempt: 1,
        ..SimulatedRequest::default()
    }
}

fn text(simulation: &Simulation, request: &SimulatedRequest<'_>) -> String {
    simulation.simulate(request, 1).whole(Channel::Text)
}

#[test]
fn the_same_request_and_seed_give_the_same_script_and_other_seeds_another() {
    let hello = request(&[(Role::User, "hello")]);
    let one = Simulation::default();
    assert_eq!(one.simulate(&hello, 1), one.simulate(&hello, 1));
    assert_ne!(one.simulate(&hello, 1), one.simulate(&request(&[(Role::User, "hello!")]), 1));
    assert_ne!(one.simulate(&hello, 1), Simulation { seed: 1, ..one.clone() }.simulate(&hello, 1));
}

#[test]
fn an_answer_says_who_speaks_what_was_asked_and_how_much_came_before() {
    let first = text(&quick(), &request(&[(Role::System, "s"), (Role::User, "What is up?")]));
    assert!(
        first.contains("simulated model") && first.contains("“What is up?”") && first.contains("first message"),
        "{first}"
    );
    let later =
        text(&quick(), &request(&[(Role::User, "a"), (Role::Assistant, "b"), (Role::User, "c [[sim:latency=5]]")]));
    assert!(later.contains("the 2 messages before") && later.contains("“c”"), "{later}");
    let tool = text(&quick(), &request(&[(Role::User, "a"), (Role::Assistant, ""), (Role::Tool, "42 degrees")]));
    assert!(tool.contains("“42 degrees”"), "{tool}");
    let part = "How to go about it:\nSearch first.\n\nThe user's task:\nWhat is up?\n\nYour part of it:\nSearch.";
    let of_a_team = text(&quick(), &request(&[(Role::System, "s"), (Role::User, part)]));
    assert!(of_a_team.contains("“What is up?"), "the user's words, not what stands before them: {of_a_team}");
}

#[test]
fn directives_set_length_words_and_times() {
    let script = quick().simulate(&request(&[(Role::User, "[[sim:tokens=200]] [[sim:latency=50]]")]), 1);
    assert_eq!((script.pieces.len(), script.usage.output_tokens), (200, 200));
    assert_eq!((script.latency, script.finish), (Duration::from_millis(50), FinishReason::Stop));
    assert_eq!(text(&quick(), &request(&[(Role::User, "x [[sim:say=exact  text]]")])), "exact  text");
    let twenty = Simulation { tokens: Some(20), ..quick() };
    assert_eq!(twenty.simulate(&request(&[(Role::User, "hi")]), 1).pieces.len(), 20);
    let earlier = request(&[(Role::User, "[[sim:500]]"), (Role::Assistant, "no"), (Role::User, "again")]);
    assert_eq!(quick().simulate(&earlier, 1).fault, None, "only the last message steers");
}

#[test]
fn times_vary_within_the_jitter() {
    let simulation = Simulation {
        latency: Duration::from_millis(100),
        tokens_per_second: NonZeroU32::new(100),
        jitter: 0.5,
        ..Simulation::default()
    };
    let script = simulation.simulate(&request(&[(Role::User, "[[sim:tokens=100]]")]), 1);
    assert!((50..=150).contains(&script.latency.as_millis()));
    assert!(script.pieces.iter().all(|piece| (5..=15).contains(&piece.gap.as_millis())));
    assert!(script.pieces.iter().any(|piece| piece.gap != script.pieces[0].gap));
}

#[test]
fn a_tool_is_called_when_asked_for_or_named_and_only_once() {
    let schema = json!({"type": "object", "properties": {"query": {"type": "string"}, "max": {"type": "integer", "maximum": 5}}, "required": ["query"]});
    let ask = |messages: &[(Role, &'static str)]| {
        let mut request = request(messages);
        request.tools = vec![("web_search", &schema)];
        let script = quick().simulate(&request, 1);
        (script.tool_calls, script.finish)
    };
    let (calls, finish) = ask(&[(Role::User, "use web_search please")]);
    assert_eq!((calls.len(), finish), (1, FinishReason::ToolCalls));
    assert_eq!(calls[0].arguments["query"], "use web_search please");
    check(&schema, &calls[0].arguments);
    let (calls, _) =
        ask(&[(Role::User, "[[sim:tool name=web_search args={\"query\":\"x\"}]] [[sim:tool name=web_search]]")]);
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].arguments, json!({"query": "x"}));
    assert_ne!(calls[0].id, calls[1].id);
    assert_eq!(ask(&[(Role::User, "use web_search"), (Role::Assistant, ""), (Role::Tool, "done")]).0, []);
    assert_eq!(ask(&[(Role::User, "hello")]).0, []);
    let noted = ask(&[(Role::User, "use web_search"), (Role::System, "python is not available")]);
    assert_eq!(noted.0.len(), 1, "a note behind the message is no answer to it");
}

#[test]
fn answers_to_schemas_fit_them() {
    let schemas = [
        json!({"type": "object", "properties": {
            "mode": {"type": "string", "enum": ["delegated", "parallel"]},
            "score": {"type": "number", "minimum": 0.5, "maximum": 0.75},
            "over": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
            "count": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6},
            "fives": {"type": "integer", "multipleOf": 5, "minimum": 7},
            "negative": {"type": "integer", "maximum": -4},
            "short": {"type": "string", "maxLength": 4}, "long": {"type": "string", "minLength": 300},
            "at": {"type": "string", "format": "date-time"},
            "yes": {"const": true}, "maybe": {"type": ["string", "null"]},
            "list": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "minItems": 2, "maxItems": 3},
            "distinct": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 3, "uniqueItems": true},
            "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}]},
            "either": {"oneOf": [{"type": "integer"}, {"$ref": "#/$defs/Item"}]},
            "both": {"allOf": [{"$ref": "#/$defs/Item"}, {"type": "object", "properties": {"more": {"type": "null"}}, "required": ["more"]}]},
        }, "required": ["mode", "score"], "$defs": {
            "Item": {"type": "object", "properties": {"id": {"type": "integer", "minimum": 1}, "deep": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}}, "required": ["id"]},
        }}),
        json!({"type": "object", "properties": {"tree": {"$ref": "#/$defs/Node"}}, "required": ["tree"], "additionalProperties": false, "$defs": {
            "Node": {"type": "object", "properties": {
                "left": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            }, "required": ["left", "children"], "additionalProperties": false}}}),
        json!({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}, "required": ["next"]}}}),
    ];
    for schema in &schemas {
        for seed in 0..200 {
            let mut request = request(&[(Role::User, "Choose parallel work")]);
            request.schema = Some(schema);
            let answer = text(&Simulation { seed, ..quick() }, &request);
            let value: Value = serde_json::from_str(&answer).expect("JSON");
            check(schema, &value);
            if let Some(mode) = value.get("mode") {
                assert_eq!(mode, "parallel", "the message mentions it");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_process_a_hang_ends_when_it_is_dropped_and_typing_takes_its_time() {
    let simulated = Simulation {
        latency: Duration::from_secs(1),
        tokens_per_second: NonZeroU32::new(10),
        jitter: 0.0,
        ..Simulation::default()
    };
    let clients = make(&LlmConfig { provider: Provider::Simulated, simulated, ..LlmConfig::default() });
    let hang = say("[[sim:hang]]");
    let client = clients.client(None);
    assert!(tokio::time::timeout(Duration::from_secs(3_600), run(&*client, &hang)).await.is_err());
    let began = tokio::time::Instant::now();
    run(&*clients.client(None), &say("[[sim:tokens=20]]")).await.expect("no fault");
    let took = began.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_millis(3_100)).contains(&took), "{took:?}");
}

/// Panics unless `value` fits `schema`.
pub fn check(schema: &Value, value: &Value) {
    if let Err(why) = fits(schema, schema, value, "") {
        panic!("{why} in {value}");
    }
}

/// Where and why `value` does not fit `schema`.
fn fits(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let ensure = |holds: bool, rule: &str| if holds { Ok(()) } else { Err(format!("{at}: {rule} of {schema}")) };
    if let Some(reference) = schema["$ref"].as_str() {
        return fits(root, root.pointer(&reference[1..]).expect("a definition"), value, at);
    }
    if let Some(allowed) = schema.get("const") {
        ensure(value == allowed, "const")?;
    }
    if let Some(allowed) = schema["enum"].as_array() {
        ensure(allowed.contains(value), "enum")?;
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        fits(root, part, value, at)?;
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(parts) = schema[key].as_array() {
            ensure(parts.iter().any(|part| fits(root, part, value, at).is_ok()), key)?;
        }
    }
    let types = schema["type"].as_array().map_or(std::slice::from_ref(&schema["type"]), Vec::as_slice);
    let types: Vec<&str> = types.iter().filter_map(Value::as_str).collect();
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => value.is_null(),
    };
    ensure(types.is_empty() || types.into_iter().any(is), "type")?;
    if let Some(number) = value.as_f64() {
        let bound = |key: &str| schema[key].as_f64();
        ensure(bound("minimum").is_none_or(|least| number >= least), "minimum")?;
        ensure(bound("maximum").is_none_or(|most| number <= most), "maximum")?;
        ensure(bound("exclusiveMinimum").is_none_or(|least| number > least), "exclusiveMinimum")?;
        ensure(bound("exclusiveMaximum").is_none_or(|most| number < most), "exclusiveMaximum")?;
        ensure(bound("multipleOf").is_none_or(|step| number % step == 0.0), "multipleOf")?;
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        ensure(schema["minLength"].as_u64().is_none_or(|least| length >= least), "minLength")?;
        ensure(schema["maxLength"].as_u64().is_none_or(|most| length <= most), "maxLength")?;
    }
    if let Some(items) = value.as_array() {
        let length = items.len() as u64;
        ensure(schema["minItems"].as_u64().is_none_or(|least| length >= least), "minItems")?;
        ensure(schema["maxItems"].as_u64().is_none_or(|most| length <= most), "maxItems")?;
        let prefix = schema["prefixItems"].as_array().map_or(&[][..], Vec::as_slice);
        for (n, item) in items.iter().enumerate() {
            if let Some(schema) = prefix.get(n).or_else(|| schema.get("items")) {
                fits(root, schema, item, &format!("{at}/{n}"))?;
            }
            ensure(schema["uniqueItems"] != true || !items[..n].contains(item), "uniqueItems")?;
        }
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            ensure(object.contains_key(name), name)?;
        }
        for (name, member) in object {
            match schema["properties"].get(name) {
                Some(schema) => fits(root, schema, member, &format!("{at}/{name}"))?,
                None => ensure(schema["additionalProperties"] != false, name)?,
            }
        }
    }
    Ok(())
}
