//! Models that answer nothing, nonsense or never, in every phase and mode: each run ends as specified, and in time.

use std::time::Duration;

use agentic_fleet::workflow::WorkflowConfig;
use fleet_actors::event::RunOutcome;
use fleet_actors::testing::script::Reply;
use serde_json::{Value, json};

use crate::support::{Asked, MODES, config, plan, script, told, wants};

/// The settings under which every question is asked that there is.
fn all_phases(merged: bool) -> WorkflowConfig {
    let mut config = config();
    let rules = &mut config.pipeline;
    (rules.handoff_packages, rules.narrative, rules.merge_analysis_and_routing) = (true, true, merged);
    config
}

#[test]
fn empty_and_absurd_answers_in_every_phase_end_in_an_answer() {
    let nonsense = [
        "",
        "no",
        "{}",
        "[[[[",
        r#"{"score": 900, "action": "dance", "assigned_to": ["wizard"], "next_speaker": 7, "execution_mode": "chaos"}"#,
        r#"{"assigned_to": [], "execution_mode": "parallel", "subtasks": [{"agent": "x", "task": ""}]}"#,
        r#"{"narrative": "", "work_completed": "  ", "checklist": 1e999, "score": "NaN", "action": ["refine"]}"#,
    ];
    for (mode, merged) in MODES.into_iter().flat_map(|mode| [(mode, false), (mode, true)]) {
        for said in nonsense {
            let ran = script(&all_phases(merged))
                .input(|input| input.mode = Some(mode.to_owned()))
                .model(move |call| {
                    let asked = Asked::of(call);
                    match asked.name {
                        "" => format!("{} works on {} characters", asked.agent, asked.text.len()).into(),
                        _ => Reply::from(said),
                    }
                })
                .run();
            let what = format!("{mode} {said:?} {merged}");
            assert_eq!(ran.outcome(), RunOutcome::Completed, "{what}: {:?}", ran.history.error);
            assert!(ran.result().text.contains("works on"), "{what}");
            let routing = if merged { "analysis_and_routing" } else { "routing" };
            let degraded = told(&ran, "phase");
            for phase in [routing, "progress", "quality"] {
                assert!(degraded.contains(&phase), "{what}: {degraded:?}");
            }
            // Two agents are at work in every mode but one.
            let account = degraded.contains(&"narrative") || said == "no" || said == "[[[[";
            assert!(mode == "delegated" || account, "{what}: {degraded:?}");
            assert!(mode != "sequential" || degraded.contains(&"handoff_package"), "{what}: {degraded:?}");
            assert!(mode != "discussion" || degraded.contains(&"speaker selection"), "{what}: {degraded:?}");
            assert!(ran.took < Duration::from_secs(5), "{what} took {:?}", ran.took);
            ran.replay();
        }
    }
}

#[test]
fn a_phase_that_hangs_costs_its_time_and_nothing_else() {
    for (phase, mode, times) in [
        ("TaskAnalysis", "delegated", 1),
        ("TaskRouting", "delegated", 1),
        ("AnalysisAndRouting", "delegated", 1),
        ("ProgressEvaluation", "delegated", 1),
        ("QualityAssessment", "delegated", 1),
        ("HandoffProtocol", "sequential", 2),
        ("GroupChatSpeakerSelection", "discussion", 6),
        ("WorkflowNarration", "sequential", 1),
    ] {
        let ran = script(&all_phases(phase == "AnalysisAndRouting"))
            .model(move |call| {
                let asked = Asked::of(call);
                match asked.name {
                    name if name == phase => Reply::from("{}").after(Duration::from_secs(86_400)),
                    // Each speaker has something new to say.
                    "" if mode == "discussion" => format!("{} said {}", asked.agent, asked.text.len()).into(),
                    _ => asked.sensible(&plan(mode)),
                }
            })
            .limits(|limits| limits.runtime_max = Duration::from_secs(86_400))
            .run();
        assert_eq!(ran.outcome(), RunOutcome::Completed, "{phase}: {:?}", ran.history.error);
        let late = told(&ran, "code").iter().filter(|code| **code == "step_timeout").count();
        assert!((1..=times).contains(&late), "{phase}: {late} times");
        let spent = late as u64 * 30;
        assert!((spent..spent + 1).contains(&ran.took.as_secs()), "{phase}: {:?}", ran.took);
        ran.replay();
    }
}

#[test]
fn where_every_agent_answers_nothing_the_run_fails_with_a_code_in_every_mode() {
    for mode in MODES.into_iter().chain(["fast_path"]) {
        for said in ["", " \n\t "] {
            let ran = script(&config())
                .input(|input| input.mode = Some(mode.to_owned()))
                .model(move |call| {
                    let asked = Asked::of(call);
                    if asked.name.is_empty() { said.into() } else { asked.sensible(&plan(mode)) }
                })
                .run();
            assert_eq!(ran.outcome(), RunOutcome::Failed, "{mode} {said:?}");
            assert_eq!(&*ran.history.error.as_ref().unwrap().code, "no_agent_answered", "{mode} {said:?}");
            assert!(ran.emitted().any(|event| event["status"] == "failed"), "{mode} {said:?}");
            assert!(ran.took < Duration::from_secs(5), "{mode} {said:?} took {:?}", ran.took);
            ran.replay();
        }
    }
}

#[test]
fn a_handover_is_read_however_it_is_written_and_one_that_cannot_be_read_is_told_why() {
    let given = |to: Value| json!({ "to_agent": to, "reason": "words", "work_completed": "all" });
    for (arguments, why) in [
        (given("writer".into()), ""),
        (given(" Writer".into()), ""),
        (json!({ "to_agent": "WRITER", "reason": "words", "work_completed": ["a", "b"], "more": 1 }), ""),
        (json!({ "to_agent": "writer", "work_completed": "all" }), ""),
        (given("wizard".into()), "there is no agent `wizard`; the agents are writer"),
        (given("researcher".into()), "there is no agent `researcher`"),
        (given(json!(7)), "invalid type: integer `7`"),
        (json!({}), "missing field"),
        (json!({ "to_agent": "writer" }), "missing field `work_completed`"),
        (json!("writer"), "the arguments are no JSON object"),
        (json!([["writer"]]), "the arguments are no JSON object"),
    ] {
        let call = arguments.clone();
        let ran = script(&config())
            .model(move |call_| {
                let asked = Asked::of(call_);
                match (asked.name, asked.agent, asked.results.first()) {
                    ("", "researcher", None) if asked.offers("handoff") => wants(&[("handoff", call.clone())]),
                    ("", "researcher", Some(result)) => format!("told: {result}").into(),
                    _ => asked.sensible(&plan("handoff")),
                }
            })
            .run();
        ran.replay();
        let text = &ran.result().text;
        match why {
            "" => {
                assert_eq!((text.as_str(), told(&ran, "from_agent").len()), ("writer says its part.", 1), "{arguments}")
            }
            why => assert!(text.contains(why), "{arguments}: {text}"),
        }
    }
}
