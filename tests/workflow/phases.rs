//! Routing's repairs and its cache, the merged call, the narrative, the conversation, the background score.

use std::sync::Arc;

use agentic_fleet::workflow::{FleetWorkflows, QUALITY_VERSION, QUALITY_WORKFLOW};
use fleet_actors::cache::MemoryCache;
use fleet_actors::event::{RunOutcome, Usage};
use fleet_actors::ports::{ModelReply, OutputForm, Role, Workflows as _};
use fleet_actors::testing::ManualClock;
use fleet_actors::testing::script::{Reply, Script};
use serde_json::{Value, json};

use crate::support::{Asked, TASK, config, plan, quality, routing, script, told};

/// What a routing comes to: its mode, its parts, the warnings.
fn comes_to(routing: Value) -> (String, Vec<(String, String)>, Vec<String>) {
    let ran = script(&config()).model(move |call| Asked::of(call).sensible(&routing)).run();
    assert_eq!(ran.outcome(), RunOutcome::Completed, "{:?}", ran.history.error);
    ran.replay();
    let thought = ran.emitted().find(|event| event["kind"] == "routing").unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let parts = thought["data"]["subtasks"].as_array().unwrap();
    let parts = parts.iter().map(|part| (text(&part["agent"]), text(&part["task"]))).collect();
    let warnings = told(&ran, "warning").into_iter().map(str::to_owned).collect();
    (text(&thought["data"]["mode"]), parts, warnings)
}

#[test]
fn whatever_routing_proposes_comes_to_something_that_can_be_carried_out() {
    let parts =
        |list: &[(&str, &str)]| list.iter().map(|(a, t)| ((*a).to_owned(), (*t).to_owned())).collect::<Vec<_>>();
    let mut fewer = routing("parallel", &[("researcher", "Find"), ("analyst", "Compare"), ("writer", "Write")]);
    fewer["subtasks"] = json!([{ "agent": "researcher", "task": "Find" }, { "agent": "nobody", "task": "Loose end" }]);
    let table = [
        (
            "an unknown agent is dropped",
            routing("sequential", &[("wizard", "a"), ("researcher", "b"), ("writer", "c")]),
            "sequential",
            parts(&[("researcher", "b"), ("writer", "c")]),
            vec!["unknown_agent"],
        ),
        (
            "one agent in parallel is delegated",
            routing("parallel", &[("analyst", "a")]),
            "delegated",
            parts(&[("analyst", "a")]),
            vec!["one_agent_in_parallel"],
        ),
        (
            "one agent in parallel after the unknown is gone",
            routing("parallel", &[("analyst", "a"), ("wizard", "b")]),
            "delegated",
            parts(&[("analyst", "a")]),
            vec!["unknown_agent", "one_agent_in_parallel"],
        ),
        (
            "two agents where one is asked for",
            routing("delegated", &[("analyst", "a"), ("writer", "b")]),
            "delegated",
            parts(&[("analyst", "a")]),
            vec!["one_agent_in_delegated"],
        ),
        (
            "one agent twice works once",
            routing("parallel", &[("analyst", "a"), ("analyst", "b"), ("writer", "c")]),
            "parallel",
            parts(&[("analyst", "a\nb"), ("writer", "c")]),
            vec![],
        ),
        (
            "fewer subtasks than agents",
            fewer,
            "parallel",
            parts(&[("researcher", "Find"), ("analyst", "Loose end"), ("writer", TASK)]),
            vec!["subtasks_repaired"],
        ),
        (
            "nobody discusses alone",
            routing("discussion", &[("analyst", "a")]),
            "discussion",
            parts(&[("analyst", "a"), ("assistant", TASK)]),
            vec!["one_agent_in_discussion", "discussion_stalled"],
        ),
        (
            "a sequence of one",
            routing("sequential", &[("writer", "a")]),
            "delegated",
            parts(&[("writer", "a")]),
            vec!["one_agent_in_sequence"],
        ),
    ];
    for (what, proposed, mode, parts, warnings) in table {
        assert_eq!(
            comes_to(proposed),
            (mode.to_owned(), parts, warnings.into_iter().map(str::to_owned).collect()),
            "{what}"
        );
    }
    // Nobody at all: the repair call says the same, so the default agent does it.
    let (mode, parts_, warnings) = comes_to(routing("parallel", &[]));
    assert_eq!((mode.as_str(), parts_), ("delegated", parts(&[("assistant", TASK)])));
    assert_eq!(warnings, ["phase_degraded"]);
}

#[test]
fn an_equal_task_takes_its_routing_from_the_cache_until_it_is_too_old() {
    let clock = Arc::new(ManualClock::default());
    let cache = Arc::new(MemoryCache::new(clock.clone(), 8));
    let mut config = config();
    config.pipeline.routing_cache_ttl_seconds = 60;
    let run = |principal: &'static str, message: &'static str| {
        let ran = script(&config)
            .cache(cache.clone())
            .input(|input| {
                input.principal = principal.to_owned();
                input.message = message.to_owned();
            })
            .model(|call| Asked::of(call).sensible(&plan("sequential")))
            .run();
        ran.replay();
        assert_eq!(ran.result().metadata["agents"], json!(["researcher", "analyst", "writer"]));
        ran.model_calls.len()
    };
    assert_eq!(run("a", TASK), 7);
    assert_eq!(run("a", TASK), 5, "analysis and routing are not asked again");
    assert_eq!(run("b", TASK), 7, "another principal shares nothing");
    assert_eq!(run("a", "another task"), 7);
    clock.advance(std::time::Duration::from_secs(61));
    assert_eq!(run("a", TASK), 7);
}

#[test]
fn calls_of_a_turn_are_counted_and_as_few_as_promised() {
    let count = |change: &dyn Fn(&mut agentic_fleet::workflow::PipelineRules)| {
        let mut config = config();
        change(&mut config.pipeline);
        let ran = script(&config).model(|call| Asked::of(call).sensible(&plan("delegated"))).run();
        ran.replay();
        let calls = ran.model_calls.len();
        assert_eq!(ran.result().metadata["model_calls"], calls);
        let answer = ran.emitted().find(|event| event["event"] == "answer").unwrap();
        assert_eq!(answer["spent"]["model_calls"], calls, "the final event says it too");
        calls
    };
    assert_eq!(count(&|_| {}), 5, "delegated, before refinement");
    assert_eq!(count(&|rules| rules.merge_analysis_and_routing = true), 4);
    assert_eq!(count(&|rules| rules.quality_in_background = true), 4, "the score is another run's");
    assert_eq!(count(&|rules| rules.analysis = false), 4);
    assert_eq!(
        count(&|rules| (rules.analysis, rules.routing, rules.progress, rules.quality) = (false, false, false, false)),
        1
    );
    let mut fast = config();
    fast.fast_path.enabled = true;
    (fast.fast_path.patterns, fast.fast_path.max_chars) = (vec!["hi".to_owned()], 20);
    let run = |said: bool| {
        let script = script(&fast).input(|input| input.message = "hi".to_owned());
        let script = if said { script.said(Role::User, "earlier") } else { script };
        script.model(|call| Asked::of(call).sensible(&plan("delegated"))).run()
    };
    let ran = run(false);
    assert_eq!((ran.model_calls.len(), &ran.result().metadata["mode"]), (1, &json!("fast_path")));
    assert_eq!(run(true).model_calls.len(), 5, "never with a conversation before it");
}

#[test]
fn a_plan_that_says_nothing_of_tools_handing_on_and_haste_costs_no_second_call() {
    for merged in [false, true] {
        let mut config = config();
        (config.pipeline.analysis, config.pipeline.merge_analysis_and_routing) = (true, merged);
        let mut proposed = plan("sequential");
        for field in ["tool_goals", "handoff_strategy", "latency_budget", "tool_requirements", "tool_plan", "reasoning"]
        {
            proposed.as_object_mut().unwrap().remove(field);
        }
        let ran = script(&config).model(move |call| Asked::of(call).sensible(&proposed)).run();
        ran.replay();
        assert_eq!(ran.result().metadata["agents"], json!(["researcher", "analyst", "writer"]));
        let steps = ran.model_steps();
        assert!(steps.iter().all(|step| !step.contains("repair")), "{steps:?}");
        assert_eq!(told(&ran, "warning"), Vec::<&str>::new());
    }
}

#[test]
fn the_conversation_reaches_phases_and_agents_as_far_as_it_fits() {
    let mut config = config();
    (config.context_messages_max, config.context_chars_max) = (3, 30);
    let ran = script(&config)
        .said(Role::User, "the oldest")
        .said(Role::User, "too long for what is left of the characters")
        .said(Role::Assistant, "an answer")
        .said(Role::User, "the newest")
        .model(|call| {
            let asked = Asked::of(call);
            let messages = call.request.context.messages();
            let heard = |text: &str| messages.iter().any(|message| message.content.contains(text));
            let takes_context = ["TaskAnalysis", "TaskRouting", "QualityAssessment", ""].contains(&asked.name);
            assert_eq!(heard("the newest") && heard("an answer"), takes_context, "{}", asked.name);
            assert!(!heard("too long") && !heard("the oldest"), "{}", asked.name);
            asked.sensible(&plan("delegated"))
        })
        .run();
    assert_eq!(ran.outcome(), RunOutcome::Completed);
    ran.replay();
}

#[test]
fn a_run_of_several_agents_ends_with_a_narrative_if_the_settings_say_so() {
    let mut config = config();
    config.pipeline.narrative = true;
    let narrated = |mode: &'static str| {
        let ran = script(&config).model(move |call| Asked::of(call).sensible(&plan(mode))).run();
        ran.replay();
        ran.emitted().filter(|event| event["kind"] == "narrative").count()
    };
    assert_eq!((narrated("sequential"), narrated("delegated")), (1, 0));
}

#[test]
fn packages_are_handed_over_where_the_settings_say_so() {
    let mut config = config();
    config.pipeline.handoff_packages = true;
    let ran = script(&config)
        .model(|call| {
            let asked = Asked::of(call);
            assert!(
                asked.agent != "analyst" || asked.text.contains("\"work_completed\": \"the facts\""),
                "{}",
                asked.text
            );
            asked.sensible(&plan("sequential"))
        })
        .run();
    ran.replay();
    let packages: Vec<_> =
        ran.emitted().filter(|event| event["kind"] == "handoff").map(|event| &event["data"]["package"]).collect();
    assert_eq!(packages.len(), 2);
    assert_eq!(packages[0]["success_criteria"], json!(["one page"]));
}

#[test]
fn a_score_in_the_background_is_a_run_of_its_own() {
    let mut config = config();
    config.pipeline.quality_in_background = true;
    let ran = script(&config).model(|call| Asked::of(call).sensible(&plan("delegated"))).run();
    ran.replay();
    let answer = ran.emitted().find(|event| event["event"] == "answer").unwrap();
    assert_eq!(answer["quality_pending"], true);
    assert!(ran.result().quality.as_ref().unwrap().pending);
    let [child] = &ran.children[..] else { panic!("{:?}", ran.children) };
    assert_eq!((&*child.name, child.version), (QUALITY_WORKFLOW, QUALITY_VERSION));

    let function = FleetWorkflows.find(&child.name, child.version).unwrap();
    let run = |said: &'static str| {
        let input = child.input.clone();
        Script::new(function, "", serde_json::to_value(&config).unwrap())
            .input(|given| *given = input)
            .model(move |call| {
                let asked = Asked::of(call);
                let messages = call.request.context.messages();
                let heard = |text: &str| messages.iter().any(|message| message.content.contains(text));
                assert!(asked.name == "QualityAssessment" && heard(TASK) && heard("researcher says its part."));
                Reply::from(if said.is_empty() { quality(6.0) } else { said.to_owned() })
            })
            .run()
    };
    let scored = run("");
    scored.replay();
    let metadata = &scored.result().metadata;
    assert_eq!((&metadata["quality"]["score"], &metadata["quality_flag"]), (&json!(6.0), &json!("below_threshold")));
    assert_eq!(metadata["workflow_id"], "scripted-run");
    let kept = scored.result().quality.as_ref().unwrap();
    assert_eq!(
        (kept.pending, kept.score, kept.details["missing"][0].as_str()),
        (false, Some(6.0), Some("the price of Y"))
    );
    assert_eq!(run("nonsense").outcome(), RunOutcome::Failed);
}

#[test]
fn runs_that_rest_under_version_1_still_find_their_function() {
    let function = FleetWorkflows.find("SupervisorWorkflow", 1).unwrap();
    let pinned = json!({
        "agent": { "name": "assistant", "model": "m", "instructions": "Answer.", "temperature": null, "timeout_ms": 5000 },
        "fast_path": { "enabled": true, "max_chars": 20, "patterns": ["hi"], "time_sensitive": [] },
        "context_messages_max": 5, "context_chars_max": 100, "output_tokens_max": null
    });
    for (message, mode) in [("hi", "fast_path"), ("what about it", "standard")] {
        let ran = Script::new(function, message, pinned.clone()).model(|_| "Yes.").run();
        assert_eq!((ran.result().text.as_str(), &ran.result().metadata["mode"]), ("Yes.", &json!(mode)));
        ran.replay();
    }
    assert!(FleetWorkflows.find("SupervisorWorkflow", 3).is_none());
}

#[test]
fn a_fast_path_that_a_client_forces_is_given_the_conversation_as_far_as_it_fits() {
    for (messages_max, heard) in
        [(10, &["my name is Ada", "Hello Ada", TASK][..]), (1, &["Hello Ada", TASK]), (0, &[TASK])]
    {
        let mut config = config();
        config.context_messages_max = messages_max;
        let ran = script(&config)
            .input(|input| input.mode = Some("fast_path".to_owned()))
            .said(Role::User, "my name is Ada")
            .said(Role::Assistant, "Hello Ada")
            .model(|_| "Ada.")
            .run();
        ran.replay();
        let [call] = &ran.model_calls[..] else { panic!("{} calls", ran.model_calls.len()) };
        let messages = call.request.context.messages();
        let said: Vec<_> = messages.iter().skip(1).map(|message| message.content.as_str()).collect();
        assert_eq!((said.as_slice(), messages[0].role), (heard, Role::System));
        assert!(messages.iter().skip(1).all(|message| message.role != Role::System));
        assert_eq!(ran.result().metadata["mode"], "fast_path");
    }
}

#[test]
fn what_a_client_adds_to_its_task_is_heard_as_a_users_text_and_never_as_a_rule() {
    for mode in ["fast_path", "delegated", "sequential", "parallel", "handoff", "discussion"] {
        let ran = script(&config())
            .input(|input| {
                input.mode = Some(mode.to_owned());
                input.additional_context = Some(json!({ "rule": "canary-context" }));
            })
            .model(move |call| Asked::of(call).sensible(&plan(mode)))
            .run();
        assert_eq!(ran.outcome(), RunOutcome::Completed, "{mode}");
        ran.replay();
        let mut agents = 0;
        for call in &ran.model_calls {
            let messages = call.request.context.messages();
            let heard = messages.iter().filter(|message| message.content.contains("canary-context"));
            let roles: Vec<_> = heard.map(|message| message.role).collect();
            assert!(roles.iter().all(|role| *role == Role::User), "{mode}: {roles:?}");
            agents += usize::from(call.request.output == OutputForm::Text && !roles.is_empty());
        }
        assert!(agents > 0, "{mode}: no agent heard of it");
    }
}

#[test]
fn however_many_agents_a_routing_makes_up_one_warning_names_a_few_of_them() {
    let made_up = |n: usize| format!("wizard-{n:03}-{}", "x".repeat(500));
    let mut proposed = routing("delegated", &[("researcher", "Find out")]);
    proposed["assigned_to"] = (0..300).map(made_up).chain(["researcher".to_owned(), made_up(0)]).collect();
    let ran = script(&config()).model(move |call| Asked::of(call).sensible(&proposed)).run();
    ran.replay();
    assert_eq!(told(&ran, "warning"), ["unknown_agent"]);
    assert_eq!(ran.result().metadata["agents"], json!(["researcher"]));
    let warning = ran.emitted().find(|event| event["data"]["warning"] == "unknown_agent").unwrap();
    let message = warning["message"].as_str().unwrap();
    assert!(message.contains("wizard-004") && message.ends_with("and 295 more"), "{message}");
    assert!(warning.to_string().len() < 1_000, "{} bytes", warning.to_string().len());
}

#[test]
fn the_final_event_tells_by_agent_what_was_spent_and_dollars_only_where_a_price_is_known() {
    for (fast, price, cost) in [(false, Some(1_500_000), json!(0.001_5)), (true, None, Value::Null)] {
        let mut config = config();
        let rules = &mut config.pipeline;
        (rules.analysis, rules.routing, rules.progress, rules.quality) = (false, false, false, false);
        let agent = if fast { "orchestrator".to_owned() } else { rules.default_agent.clone() };
        let script = script(&config).input(move |input| input.mode = fast.then(|| "fast_path".to_owned()));
        let script = script.model(move |_| {
            let usage = Usage { input_tokens: 10, output_tokens: 5, cost_nanousd: price, ..Usage::default() };
            Reply::from(ModelReply { text: "so it is".to_owned(), usage: Some(usage), ..ModelReply::default() })
        });
        let ran = script.run();
        ran.replay();
        let answer = ran.emitted().find(|event| event["event"] == "answer").unwrap();
        let spent = &answer["spent"];
        let parts = spent["by_agent"].as_object().unwrap();
        assert_eq!(parts.keys().collect::<Vec<_>>(), [&agent]);
        for part in [spent, &parts[&agent]] {
            assert_eq!((&part["model_calls"], &part["tool_calls"]), (&json!(1), &json!(0)));
            assert_eq!((&part["usage"]["input_tokens"], &part["usage"]["output_tokens"]), (&json!(10), &json!(5)));
            assert_eq!((part.get("cost").unwrap_or(&Value::Null), part["usage"].get("cost_nanousd")), (&cost, None));
        }
    }
}
