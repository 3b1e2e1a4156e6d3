//! Tool calls: the rule of each tool, bounds, what the model is told, what is shown.

use std::sync::Arc;
use std::time::Duration;

use agentic_fleet::workflow::WorkflowConfig;
use fleet_actors::cache::MemoryCache;
use fleet_actors::event::{EventBody, Failure, RunOutcome};
use fleet_actors::ports::{Access, Artifact, ToolCall, ToolOutput};
use fleet_actors::testing::ManualClock;
use fleet_actors::testing::script::{Ran, Script};
use serde_json::{Value, json};

use crate::support::{
    Asked, Log, MODES, config, config_with_tools, offer, offers, plan, progress, quality, script, told, wants,
    with_tools,
};

/// The researcher makes these calls in its first round and then answers with what it was told.
fn calling(config: &WorkflowConfig, calls: Vec<(&'static str, Value)>) -> Script {
    script(config).model(move |call| {
        let asked = Asked::of(call);
        match (asked.name, asked.results.len()) {
            ("", 0) => wants(&calls),
            ("", _) => asked.results.join("\n").into(),
            _ => asked.sensible(&plan("delegated")),
        }
    })
}

#[test]
fn a_call_that_may_not_be_made_is_a_text_that_the_model_reads() {
    let calls = vec![
        ("forbidden", json!({})),
        ("of_another_agent", json!({})),
        ("search", json!("not an object")),
        ("handoff", json!({ "to_agent": "writer" })),
        ("ask_user", json!({ "question": "?" })),
    ];
    let ran = calling(&config(), calls).run();
    ran.replay();
    assert_eq!(ran.tool_calls.len(), 0);
    assert_eq!(told(&ran, "outcome"), ["denied", "unknown", "invalid", "unknown", "unknown"]);
    let text = &ran.result().text;
    assert!(text.contains("tool_denied: `forbidden`") && text.contains("there is: python, search"), "{text}");
    let offered = &ran.model_calls.iter().find(|call| call.request.agent.is_some()).unwrap().request.tools;
    let names: Vec<_> = offered.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, ["python", "search"], "a tool that may never be called is not offered");
}

#[test]
fn what_is_refused_before_it_is_called_is_a_security_event_that_a_replay_does_not_repeat() {
    let log = Log::capture();
    let long = "x\n".repeat(50_000);
    let long: &'static str = Box::leak(long.into_boxed_str());
    let calls = vec![("forbidden", json!({ "key": "canary-argument" })), (long, json!({}))];
    let ran = calling(&config(), calls).run();
    let refusals = |event: &str| log.text().matches(&format!("sec.event=\"{event}\"")).count();
    assert_eq!((refusals("tool_denied"), refusals("tool_unknown")), (1, 1), "{}", log.text());
    ran.replay();
    assert_eq!((refusals("tool_denied"), refusals("tool_unknown")), (1, 1), "a replay told of it again");
    assert!(!log.text().contains("canary-argument"), "the arguments are in the log");
    // A name that a model made up fills neither an event nor the next call.
    let largest = ran.emitted().map(|event| event.to_string().len()).max().unwrap();
    assert!(largest < 2_000, "an event of {largest} bytes");
}

#[test]
fn nobody_is_asked_about_arguments_that_do_not_fit_or_that_nobody_can_read() {
    let mut offers = offers();
    let python = offers.iter_mut().find(|offer| offer.spec.name == "python").unwrap();
    Arc::make_mut(&mut python.spec).parameters = json!({
        "type": "object", "properties": { "code": { "type": "string" } }, "required": ["code"],
        "additionalProperties": false
    });
    let huge = "#".repeat(10_000_000);
    let calls = vec![
        ("python", json!({ "code": 17 })),
        ("python", json!({ "command": "rm -rf /" })),
        ("python", json!({ "code": huge })),
    ];
    let ran = calling(&config(), calls)
        .tools(offers, Duration::ZERO, |_| Ok(ToolOutput::text("it ran")))
        .human(|_| Some(json!("approve")))
        .run();
    ran.replay();
    assert_eq!(told(&ran, "outcome"), ["failed", "failed", "failed"]);
    assert_eq!(ran.tool_calls.len(), 0);
    assert!(!ran.events.iter().any(|event| matches!(event.body, EventBody::Asked { .. })), "a person was asked");
    assert_eq!(ran.result().text.matches("tool_arguments_invalid").count(), 3, "{}", ran.result().text);
}

#[test]
fn calls_of_one_round_are_made_at_the_same_time_and_bounded() {
    let calls = |n: usize| (0..n).map(|n| ("search", json!({ "query": n }))).collect::<Vec<_>>();
    let ran = calling(&config(), calls(20))
        .tools(offers(), Duration::from_millis(500), |call| Ok(ToolOutput::text(call.arguments.to_string())))
        .run();
    ran.replay();
    assert_eq!(ran.tool_calls.len(), 8);
    assert!(ran.took < Duration::from_millis(700), "{:?}", ran.took);
    assert_eq!(ran.result().text.matches("only the first 8 tool calls").count(), 12);
}

#[test]
fn a_model_that_never_stops_calling_is_told_and_answers_without_tools() {
    let ran = script(&config())
        .model(|call| {
            let asked = Asked::of(call);
            match asked.name {
                "" if asked.offers("search") => wants(&[("search", json!({ "query": asked.results.len() }))]),
                "" => {
                    let messages = call.request.context.messages();
                    assert!(messages.last().unwrap().content.starts_with("limit_reached"));
                    "enough".into()
                }
                _ => asked.sensible(&plan("delegated")),
            }
        })
        .run();
    ran.replay();
    assert_eq!((ran.result().text.as_str(), ran.tool_calls.len()), ("enough", 8));
}

#[test]
fn a_tool_that_fails_or_hangs_is_told_and_the_agent_goes_on() {
    let failing = calling(&config(), vec![("search", json!({}))])
        .tools(offers(), Duration::from_millis(5), |_| Err(Failure::new("tool_failed", "no network")))
        .run();
    failing.replay();
    assert!(failing.result().text.contains("tool_failed: no network"));
    assert_eq!(told(&failing, "outcome"), ["failed"]);

    let mut slow = config();
    slow.roster = slow
        .roster
        .iter()
        .cloned()
        .map(|mut agent| {
            agent.timeout_ms = 3_000;
            agent
        })
        .collect();
    let hanging = calling(&slow, vec![("search", json!({}))])
        .tools(offers(), Duration::from_secs(30), |_| Ok(ToolOutput::text("late")))
        .run();
    hanging.replay();
    // Its whole time went into the tool, so there is none left to answer in.
    assert_eq!(hanging.outcome(), RunOutcome::Failed);
    assert!(hanging.history.error.as_ref().unwrap().message.contains("researcher took longer than 3000 ms"));
    assert!((3..4).contains(&hanging.took.as_secs()), "{:?}", hanging.took);
}

#[test]
fn what_a_call_gave_is_shown_with_its_time_its_files_and_what_it_lacks() {
    let ran = calling(&config(), vec![("search", json!({ "query": "x".repeat(500) }))])
        .tools(offers(), Duration::from_millis(42), |_| {
            let file = Artifact {
                name: "plot.png".to_owned(),
                media_type: "image/png".to_owned(),
                bytes: 7,
                url: "/api/v1/artifacts/1".to_owned(),
            };
            let degraded = Some("TAVILY_API_KEY is not set".to_owned());
            Ok(ToolOutput { artifacts: vec![file], degraded, ..ToolOutput::text("some") })
        })
        .run();
    ran.replay();
    let event = ran.emitted().find(|event| event["data"]["kind"] == "tool_call").unwrap();
    let data = &event["data"];
    assert_eq!(
        (&event["moment"], &data["tool"], &data["duration_ms"]),
        (&json!("message"), &json!("search"), &json!(42))
    );
    assert_eq!((&data["outcome"], &data["degraded"]), (&json!("degraded"), &json!("TAVILY_API_KEY is not set")));
    assert_eq!(data["artifacts"][0]["url"], "/api/v1/artifacts/1");
    assert!(data["arguments_preview"].as_str().unwrap().chars().count() <= 201);
    assert!(ran.result().text.contains("(file plot.png: /api/v1/artifacts/1)"));
    assert_eq!(ran.result().metadata["artifacts"], json!(["plot.png"]));
}

#[test]
fn a_tool_that_is_missing_its_key_is_named_and_the_agent_is_told_to_say_so() {
    let mut missing = offer("search", Access::Allow);
    missing.unavailable = Some("TAVILY_API_KEY is not set".to_owned());
    let ran = script(&config())
        .tools(vec![missing], Duration::ZERO, |_| Err(Failure::new("internal", "it was called")))
        .model(|call| {
            let asked = Asked::of(call);
            if asked.name.is_empty() {
                assert!(!asked.offers("search"));
                let messages = call.request.context.messages();
                assert!(messages.iter().any(|message| message.content.contains("say so in the first line")));
            }
            asked.sensible(&plan("delegated"))
        })
        .run();
    ran.replay();
    assert_eq!(told(&ran, "degraded"), ["TAVILY_API_KEY is not set"]);
}

#[test]
fn an_equal_search_within_its_time_is_not_made_again() {
    let clock = Arc::new(ManualClock::default());
    let cache = Arc::new(MemoryCache::new(clock.clone(), 8));
    let mut config = config();
    config.roster = config
        .roster
        .iter()
        .cloned()
        .map(|mut agent| {
            agent.cache_ttl_s = Some(60);
            agent
        })
        .collect();
    let run = |query: &'static str| -> Ran {
        let ran = calling(&config, vec![("search", json!({ "query": query }))]).cache(cache.clone()).run();
        ran.replay();
        ran
    };
    assert_eq!((run("x").tool_calls.len(), run("y").tool_calls.len()), (1, 1));
    let again = run("x");
    assert_eq!((again.tool_calls.len(), told(&again, "outcome")), (0, vec!["cached"]));
    assert_eq!(again.result().text, run("x").result().text);
    clock.advance(Duration::from_secs(61));
    assert_eq!(run("x").tool_calls.len(), 1);
}

/// A tool that leaves a file behind that is named after it.
fn leaves_a_file(call: &ToolCall) -> Result<ToolOutput, Failure> {
    let name = format!("{}.png", call.name);
    let file = Artifact { url: format!("/{name}"), name, media_type: "image/png".to_owned(), bytes: 7 };
    Ok(ToolOutput { artifacts: vec![file], ..ToolOutput::text("some") })
}

#[test]
fn files_that_any_agent_of_any_mode_made_are_named_at_the_end_of_the_run() {
    for mode in MODES {
        let config = config_with_tools();
        let script = with_tools(mode, &config).tools(offers(), Duration::from_millis(5), leaves_a_file);
        let ran = script.run();
        ran.replay();
        assert_eq!(ran.result().metadata["artifacts"], json!(["search.png", "python.png"]), "{mode}");
    }
}

#[test]
fn files_of_a_first_version_are_named_although_another_round_made_a_better_one() {
    for refined_by in ["progress", "quality"] {
        let mut config = config();
        let rules = &mut config.pipeline;
        (rules.progress, rules.quality, rules.max_rounds) = (refined_by == "progress", refined_by == "quality", 3);
        (rules.refinement, rules.quality_in_background) = (true, false);
        (rules.refinement_threshold, rules.refinement_min_improvement, rules.max_refinement_rounds) = (8.0, 0.5, 2);
        let script = script(&config).model(move |call| {
            let asked = Asked::of(call);
            let second = asked.text.contains("second version");
            match (asked.name, asked.results.len()) {
                ("", 0) if asked.text.contains("the price of Y") => "second version".into(),
                ("", 0) => wants(&[("search", json!({ "query": "X" }))]),
                ("", _) => "first version".into(),
                ("ProgressEvaluation", _) if !second => progress("refine", "add the price of Y").into(),
                ("QualityAssessment", _) => quality(if second { 9.0 } else { 5.0 }).into(),
                _ => asked.sensible(&plan("delegated")),
            }
        });
        let ran = script.tools(offers(), Duration::from_millis(5), leaves_a_file).run();
        ran.replay();
        assert_eq!(ran.result().text, "second version", "{refined_by}");
        assert_eq!(ran.result().metadata["artifacts"], json!(["search.png"]), "{refined_by}");
    }
}
