//! What an analysis and a plan say, and whom that reaches: intent, mode, tools, the way of working; compiled prompts.

use agentic_fleet::prompts::signatures::{HandoffDecision, SimpleResponse};
use agentic_fleet::prompts::{Artifact, Demo, Signature as _};
use fleet_actors::event::RunOutcome;
use fleet_actors::ports::{FinishReason, ModelReply, OutputForm, Role};
use fleet_actors::testing::script::Ran;
use serde_json::{Value, json};

use crate::support::{Asked, MODES, config, config_with_tools, plan, routing, script, told};

/// The thought of this kind.
fn thought<'a>(ran: &'a Ran, kind: &str) -> &'a Value {
    ran.emitted().find(|event| event["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn an_analysis_tells_what_the_user_wants_and_how_sure_that_is_where_the_model_says_so() {
    let analysed = |intent: Value, confidence: Value| {
        let ran = script(&config())
            .model(move |call| {
                let asked = Asked::of(call);
                if asked.name != "TaskAnalysis" {
                    return asked.sensible(&plan("delegated"));
                }
                let analysis = json!({
                    "complexity": "low", "estimated_steps": 1, "needs_web_search": false, "urgency": "low",
                    "intent": intent, "intent_confidence": confidence
                });
                analysis.to_string().into()
            })
            .run();
        ran.replay();
        let analysis = ran.emitted().find(|event| event["kind"] == "analysis");
        let data = analysis.map_or(Value::Null, |event| event["data"].clone());
        (data["complexity"].clone(), data.get("intent").cloned(), data.get("intent_confidence").cloned())
    };
    let low = || json!("low");
    assert_eq!(analysed(json!("plan_trip"), json!(0.8)), (low(), Some(json!("plan_trip")), Some(json!(0.8))));
    assert_eq!(analysed(json!("plan_trip"), json!("80%")), (low(), Some(json!("plan_trip")), Some(json!(0.8))));
    assert_eq!(analysed(json!("plan_trip"), Value::Null), (low(), Some(json!("plan_trip")), None));
    assert_eq!(analysed(Value::Null, Value::Null), (low(), None, None));
    assert_eq!(analysed(json!(" "), json!(0.3)), (low(), None, None));
    let (_, long, _) = analysed(json!("word ".repeat(10_000)), json!(1));
    assert!(long.unwrap().as_str().unwrap().len() < 100);
    assert_eq!(analysed(json!("plan_trip"), json!(7)).0, Value::Null, "out of bounds, twice, is no analysis");
}

#[test]
fn auto_takes_the_mode_that_routing_chose_knowing_the_analysis() {
    for mode in MODES {
        for said in [None, Some("auto"), Some("standard")] {
            let ran = script(&config())
                .input(|input| input.mode = said.map(str::to_owned))
                .model(move |call| {
                    let asked = Asked::of(call);
                    let knows =
                        asked.text.contains("compare_things") && asked.text.contains("\"complexity\":\"medium\"");
                    assert!(asked.name != "TaskRouting" || knows, "{}", asked.text);
                    asked.sensible(&plan(mode))
                })
                .run();
            assert_eq!(ran.result().metadata["mode"], mode, "{said:?}");
            ran.replay();
        }
    }
}

#[test]
fn a_routing_that_the_limit_of_tokens_cut_behind_its_agents_is_followed_in_a_demanded_mode() {
    let cut = r#"{"assigned_to": ["researcher", "writer", "wri"#;
    let ran = script(&config())
        .input(|input| input.mode = Some("sequential".to_owned()))
        .model(move |call| match Asked::of(call) {
            asked if asked.name == "TaskRouting" => {
                ModelReply { text: cut.to_owned(), finish_reason: FinishReason::Length, ..ModelReply::default() }.into()
            }
            asked => asked.sensible(&Value::Null),
        })
        .run();
    ran.replay();
    assert_eq!(thought(&ran, "routing")["data"]["assigned_to"], json!(["researcher", "writer"]));
    assert!(!ran.model_steps().iter().any(|step| step.contains("repair")), "{:?}", ran.model_steps());
    assert_eq!(told(&ran, "warning"), [""; 0]);
}

#[test]
fn what_a_plan_says_about_tools_and_handing_on_reaches_the_agents_that_it_is_for() {
    let mut proposed = routing("sequential", &[("researcher", "Find out"), ("writer", "Write it up")]);
    proposed["tool_plan"] = json!(["python", "forbidden", "hammer", "search"]);
    proposed["tool_requirements"] = json!(["search", "forbidden"]);
    proposed["tool_goals"] = json!("the prices of both");
    proposed["handoff_strategy"] = json!("figures with their sources");
    proposed["latency_budget"] = json!("low");
    let ran = script(&config())
        .model(move |call| {
            let asked = Asked::of(call);
            let said = |text: &str| asked.text.contains(text);
            if asked.name.is_empty() {
                let tools = said("Tools to use, in this order: python, search.") && said("the prices of both");
                assert_eq!(tools, asked.agent == "researcher", "{}", asked.text);
                assert!(said("handed on: figures with their sources"), "{}", asked.text);
                // A small model takes the last thing it reads for what it is to write.
                let at = |text: &str| asked.text.find(text).unwrap_or_else(|| panic!("{text}: {}", asked.text));
                assert!(at("How to go about it:") < at("The user's task:"), "{}", asked.text);
                let instructions = &call.request.context.messages()[0];
                assert!(instructions.role == Role::System && instructions.content.contains("The user is waiting"));
                assert!(!said("forbidden") && !said("hammer"), "{}", asked.text);
            }
            assert!(asked.name != "TaskRouting" || !said("forbidden"), "a tool that nobody may call is not offered");
            asked.sensible(&proposed)
        })
        .run();
    ran.replay();
    let data = &thought(&ran, "routing")["data"];
    assert_eq!((&data["tool_plan"], &data["tool_goals"]), (&json!(["python", "search"]), &json!("the prices of both")));
    assert_eq!(
        (&data["handoff_strategy"], &data["latency_budget"]),
        (&json!("figures with their sources"), &json!("low"))
    );
    assert_eq!(told(&ran, "warning"), ["tool_out_of_reach"]);
    let warning = ran.emitted().find(|event| event["data"]["warning"] == "tool_out_of_reach").unwrap();
    assert!(warning["message"].as_str().unwrap().ends_with("can use forbidden"), "{warning}");
}

#[test]
fn in_every_mode_agents_are_told_which_tools_the_plan_counts_on() {
    for mode in MODES {
        let mut proposed = plan(mode);
        (proposed["tool_plan"], proposed["tool_goals"]) = (json!(["search"]), json!("both prices"));
        let ran = script(&config_with_tools()).model(move |call| Asked::of(call).sensible(&proposed)).run();
        assert_eq!(ran.outcome(), RunOutcome::Completed, "{mode}");
        ran.replay();
        let advised = |call: &&fleet_actors::ports::ModelCall| {
            Asked::of(call).text.contains("How to go about it:\nTools to use, in this order: search.")
        };
        assert!(ran.model_calls.iter().any(|call| advised(&call)), "{mode}");
    }
}

#[test]
fn an_agent_is_asked_on_its_own_model_at_its_own_temperature_with_its_own_instructions() {
    let mut config = config();
    let own = |mut agent: agentic_fleet::agents::Agent| {
        if agent.name == "researcher" {
            (agent.model, agent.temperature) = ("its-own".to_owned(), Some(0.25));
        }
        agent
    };
    config.roster = config.roster.iter().cloned().map(own).collect();
    let ran = script(&config).model(|call| Asked::of(call).sensible(&plan("sequential"))).run();
    for call in &ran.model_calls {
        let (request, asked) = (&call.request, Asked::of(call));
        let expected = if asked.agent == "researcher" { ("its-own", Some(0.25)) } else { ("m", None) };
        assert_eq!((&*request.model, request.temperature), expected, "{}", asked.agent);
        let first = request.context.messages()[0];
        assert_eq!(first.role, Role::System);
        assert!(!asked.name.is_empty() || first.content == format!("You are the {}.", asked.agent));
    }
}

#[test]
fn a_compiled_prompt_replaces_the_words_of_the_fast_path_and_it_stays_one_streamed_call() {
    let demo = Demo { inputs: json!({ "task": "ping" }), output: json!({ "answer": "pong" }) };
    let artifact = Artifact { instruction: "Answer in verse.".to_owned(), demos: vec![demo] };
    let mut config = config();
    config.prompts.artifacts.insert(SimpleResponse::NAME.to_owned(), artifact);
    let ran = script(&config)
        .input(|input| input.mode = Some("fast_path".to_owned()))
        .said(Role::User, "earlier")
        .model(|_| "Roses are red.")
        .run();
    ran.replay();
    let [call] = &ran.model_calls[..] else { panic!("{} calls", ran.model_calls.len()) };
    assert_eq!((&call.request.output, call.request.audience), (&OutputForm::Text, fleet_actors::event::Audience::User));
    let said: Vec<_> = call.request.context.messages().iter().map(|message| message.content.clone()).collect();
    assert_eq!(said, ["Answer in verse.", "ping", "pong", "earlier", crate::support::TASK]);
}

#[test]
fn a_compiled_prompt_replaces_the_words_of_the_tool_that_hands_over() {
    let mut config = config();
    let artifact = Artifact { instruction: "Hand over early.".to_owned(), demos: Vec::new() };
    config.prompts.artifacts.insert(HandoffDecision::NAME.to_owned(), artifact);
    let ran = script(&config).model(|call| Asked::of(call).sensible(&plan("handoff"))).run();
    ran.replay();
    let tools = ran.model_calls.iter().flat_map(|call| call.request.tools.iter());
    let handoff: Vec<_> = tools.filter(|tool| tool.name == HandoffDecision::TOOL).collect();
    let [tool] = &handoff[..] else { panic!("{} times", handoff.len()) };
    assert!(tool.description.starts_with("Hand over early.") && tool.description.contains("\"name\":\"writer\""));
    assert_eq!(tool.parameters["properties"]["to_agent"]["enum"], json!(["writer"]));
}
