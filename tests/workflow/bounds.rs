//! What goes wrong on the way, and how each ends: as specified, and in time.

use std::time::Duration;

use agentic_fleet::workflow::{OnExpiry, WorkflowConfig};
use fleet_actors::event::RunOutcome;
use fleet_actors::testing::script::{Ran, Reply};
use serde_json::{Value, json};

use crate::support::{Asked, config, down, plan, progress, quality, routing, script, told, wants};

fn run(config: &WorkflowConfig, model: impl Fn(&Asked<'_>) -> Reply + 'static) -> Ran {
    let ran = script(config).model(move |call| model(&Asked::of(call))).run();
    ran.replay();
    ran
}

#[test]
fn in_parallel_one_that_fails_one_that_is_late_and_one_that_does_not_exist_take_nothing_from_the_others() {
    let parts = [("wizard", "Conjure"), ("researcher", "Find out"), ("analyst", "Compare"), ("reviewer", "Check")];
    let plan = routing("parallel", &parts);
    let ran = run(&config(), move |asked| match (asked.name, asked.agent) {
        ("", "analyst") => down("provider_unavailable"),
        // The researcher has 20 s.
        ("", "researcher") => Reply::from("late").after(Duration::from_secs(90)),
        ("", "writer") => {
            assert!(asked.text.contains("Report of reviewer:\nreviewer says its part."), "{}", asked.text);
            assert!(asked.text.contains("Missing: analyst gave no report on:\nCompare"), "{}", asked.text);
            "The brief.".into()
        }
        _ => asked.sensible(&plan),
    });
    assert_eq!(ran.result().text, "The brief.");
    assert_eq!(told(&ran, "warning"), ["unknown_agent", "agent_failed", "agent_failed"]);
    assert!(told(&ran, "code").contains(&"step_timeout") && told(&ran, "code").contains(&"provider_unavailable"));
    assert!((20..22).contains(&ran.took.as_secs()), "{:?}", ran.took);
}

#[test]
fn an_agent_whose_call_is_late_before_itself_is_told_with_the_limit_of_the_call() {
    for (call_s, said) in
        [(5, "got no whole answer: the model call took longer than 5000 ms"), (60, "took longer than 20000 ms")]
    {
        let ran = script(&config())
            .model(move |call| match Asked::of(call) {
                asked if asked.name.is_empty() => Reply::from("late").after(Duration::from_secs(90)),
                asked => asked.sensible(&routing("delegated", &[("researcher", "Find out")])),
            })
            .limits(move |limits| limits.model_timeout = Duration::from_secs(call_s))
            .run();
        ran.replay();
        let error = ran.history.error.as_ref().unwrap();
        assert_eq!((&*error.code, &*error.message), ("step_timeout", &*format!("researcher {said}")));
    }
}

#[test]
fn when_nobody_answers_the_run_says_who_failed_and_why() {
    for (mode, code) in
        [("parallel", "no_agent_answered"), ("sequential", "no_agent_answered"), ("delegated", "provider_rate_limited")]
    {
        let ran = run(&config(), move |asked| match asked.name {
            "" => down("provider_rate_limited"),
            _ => asked.sensible(&plan(mode)),
        });
        assert_eq!(ran.outcome(), RunOutcome::Failed, "{mode}");
        let error = ran.history.error.as_ref().unwrap();
        assert_eq!(&*error.code, code, "{mode}");
        assert!(ran.emitted().any(|event| event["status"] == "failed"), "{mode}");
        assert!(mode == "delegated" || error.message.contains("analyst: it is down"), "{}", error.message);
    }
}

#[test]
fn in_a_sequence_one_that_fails_is_left_out() {
    let ran = run(&config(), |asked| match (asked.name, asked.agent) {
        ("", "analyst") => "   ".into(),
        ("", "writer") => {
            assert!(asked.text.contains("What researcher made:\nresearcher says its part."), "{}", asked.text);
            "The brief.".into()
        }
        _ => asked.sensible(&plan("sequential")),
    });
    assert_eq!((ran.result().text.as_str(), told(&ran, "warning")), ("The brief.", vec!["agent_failed"]));
    let last = run(&config(), |asked| match (asked.name, asked.agent) {
        ("", "writer") => down("provider_unavailable"),
        _ => asked.sensible(&plan("sequential")),
    });
    assert_eq!(last.result().text, "analyst says its part.");
}

#[test]
fn a_failed_synthesis_leaves_the_reports_as_the_answer() {
    let ran = run(&config(), |asked| match (asked.name, asked.agent) {
        ("", "writer") if asked.text.contains("Report of") => down("provider_unavailable"),
        _ => asked.sensible(&plan("parallel")),
    });
    let text = &ran.result().text;
    assert!(text.contains("## Report of researcher\n\nresearcher says its part."), "{text}");
    assert!(told(&ran, "phase").contains(&"synthesis"));
}

#[test]
fn agents_that_pass_control_round_and_round_end_after_max_rounds() {
    let ran = run(&config(), |asked| match asked.name {
        "" if asked.offers("handoff") => {
            let to = if asked.agent == "writer" { "researcher" } else { "writer" };
            wants(&[("handoff", json!({ "to_agent": to, "reason": "not mine", "work_completed": "" }))])
        }
        _ => asked.sensible(&plan("handoff")),
    });
    assert_eq!(told(&ran, "to_agent").len(), 10, "five passes, each told twice: {:?}", told(&ran, "to_agent"));
    assert_eq!(ran.result().text, "writer says its part.");
}

#[test]
fn an_agent_that_hands_over_to_nobody_is_told_so_and_one_that_fails_hands_back() {
    let ran = run(&config(), |asked| match (asked.name, asked.agent, asked.results.len()) {
        ("", "researcher", 0) if asked.offers("handoff") => {
            wants(&[("handoff", json!({ "to_agent": "wizard", "reason": "magic", "work_completed": "" }))])
        }
        ("", "researcher", 1) if asked.offers("handoff") => {
            assert!(asked.results[0].contains("handoff_invalid"), "{:?}", asked.results);
            wants(&[("handoff", json!({ "to_agent": "writer", "reason": "words", "work_completed": "all facts" }))])
        }
        ("", "writer", _) => down("provider_unavailable"),
        ("", "researcher", _) => {
            assert!(asked.text.contains("all facts"), "it goes on from what it handed over: {}", asked.text);
            "researcher ends it.".into()
        }
        _ => asked.sensible(&plan("handoff")),
    });
    assert_eq!(ran.result().text, "researcher ends it.");
    assert_eq!(told(&ran, "warning"), ["agent_failed"]);
}

#[test]
fn a_discussion_that_repeats_itself_ends_after_max_stalls() {
    let ran = run(&config(), |asked| match (asked.name, asked.agent) {
        ("GroupChatSpeakerSelection", _) => r#"{"next_speaker":"analyst","reasoning":"again"}"#.into(),
        ("", "analyst") => "X is better.".into(),
        _ => asked.sensible(&plan("discussion")),
    });
    assert_eq!(told(&ran, "warning"), ["discussion_stalled"]);
    let speeches = ran.model_steps().iter().filter(|step| step.contains("speech")).count();
    assert_eq!(speeches, 4, "one that says something, three that do not");
    assert_eq!(ran.result().text, "writer says its part.");
}

#[test]
fn a_discussion_whose_moderator_talks_nonsense_goes_round_the_table_and_ends() {
    let ran = run(&config(), |asked| match asked.name {
        "GroupChatSpeakerSelection" => "I would rather not say".into(),
        "" if asked.agent != "writer" => {
            format!("{} has a point about {} others", asked.agent, asked.text.len()).into()
        }
        _ => asked.sensible(&plan("discussion")),
    });
    assert_eq!(ran.outcome(), RunOutcome::Completed);
    let warnings = told(&ran, "warning");
    assert_eq!(warnings.iter().filter(|warning| **warning == "phase_degraded").count(), 3);
    assert_eq!(warnings.last(), Some(&"discussion_stalled"));
}

#[test]
fn a_speaker_ends_a_discussion_with_its_last_word() {
    let ran = run(&config(), |asked| match asked.name {
        "GroupChatSpeakerSelection" => r#"{"next_speaker":"analyst","reasoning":"start"}"#.into(),
        "" if asked.agent == "analyst" => "It is settled: X.\nTERMINATE".into(),
        "" if asked.agent == "writer" => {
            assert!(asked.text.contains("analyst said:\nIt is settled: X.") && !asked.text.contains("X.\nTERMINATE"));
            "X.".into()
        }
        _ => asked.sensible(&plan("discussion")),
    });
    assert_eq!((ran.result().text.as_str(), told(&ran, "next_speaker").len()), ("X.", 1));
}

#[test]
fn a_refined_answer_is_kept_only_if_it_is_better_by_enough() {
    for (second, kept, flag, warned) in [
        (8.0, "second", "refined", 0),
        (5.4, "first", "below_threshold", 1),
        (2.0, "first", "below_threshold", 1),
        (5.5, "second", "below_threshold", 0),
    ] {
        let ran = run(&config(), move |asked| match asked.name {
            "QualityAssessment" => quality(if asked.text.contains("second") { second } else { 5.0 }).into(),
            "" if asked.text.contains("What must change:\nadd what is missing: the price of Y") => "second".into(),
            "" => "first".into(),
            _ => asked.sensible(&plan("delegated")),
        });
        let result = ran.result();
        assert_eq!((result.text.as_str(), &result.metadata["quality_flag"]), (kept, &json!(flag)), "{second}");
        assert_eq!(told(&ran, "warning").len(), warned, "{second}");
        assert_eq!(result.metadata["model_calls"], 7, "one refinement round: two more calls");
    }
}

#[test]
fn work_that_is_sent_back_is_done_again_and_comes_whole() {
    let ran = run(&config(), |asked| match asked.name {
        "ProgressEvaluation" if asked.text.contains("first") => progress("refine", "name the price").into(),
        "" if asked.text.contains("What must change:\nname the price") => "second".into(),
        "" => "first".into(),
        _ => asked.sensible(&plan("delegated")),
    });
    assert_eq!((ran.result().text.as_str(), &ran.result().metadata["rounds"]), ("second", &json!(2)));
    assert_eq!(told(&ran, "action"), ["refine", "complete"]);
}

#[test]
fn work_that_gets_nowhere_is_planned_anew_and_then_ends() {
    let mut config = config();
    config.pipeline.max_rounds = 20;
    config.pipeline.routing_cache_ttl_seconds = 60;
    let ran = run(&config, |asked| match asked.name {
        "ProgressEvaluation" => progress("continue", "more").into(),
        _ => asked.sensible(&plan("delegated")),
    });
    assert_eq!(told(&ran, "warning"), ["plan_reset", "stalled"]);
    let routings = ran.model_steps().iter().filter(|step| step.contains("/routing#")).count();
    assert_eq!(routings, 2, "a plan that did not work is not taken from the cache");
    assert_eq!(
        (&ran.result().metadata["rounds"], &ran.result().metadata["ended_early"]),
        (&json!(7), &json!("stalled"))
    );

    config.pipeline.max_rounds = 3;
    let ran = run(&config, |asked| match asked.name {
        "ProgressEvaluation" => progress("continue", "more").into(),
        "" => format!("round of {}", asked.text.len()).into(),
        _ => asked.sensible(&plan("delegated")),
    });
    assert_eq!((told(&ran, "warning"), &ran.result().metadata["rounds"]), (vec!["rounds_exhausted"], &json!(3)));
}

#[test]
fn who_rejects_the_new_plan_of_a_reset_gets_the_answer_that_there_is_and_no_more_work() {
    let mut config = config();
    let rules = &mut config.pipeline;
    (rules.max_rounds, rules.max_stalls, rules.plan_review) = (9, 0, true);
    (rules.quality, rules.quality_in_background, rules.refinement) = (true, false, true);
    config.question_expiry_ms = 60_000;
    let run = |config: &WorkflowConfig, second: Option<Value>| {
        let seen = std::rc::Rc::new(std::cell::Cell::new(0));
        let ran = script(config)
            .model(|call| {
                let asked = Asked::of(call);
                match asked.name {
                    "ProgressEvaluation" => progress("continue", "more").into(),
                    "QualityAssessment" => quality(3.0).into(),
                    "" => "the draft".into(),
                    _ => asked.sensible(&plan("delegated")),
                }
            })
            .human(move |question| {
                assert_eq!(&*question.request_type, "plan_review");
                seen.set(seen.get() + 1);
                if seen.get() == 1 { Some(true.into()) } else { second.clone() }
            })
            .run();
        ran.replay();
        ran
    };
    let no = json!({ "decision": "reject", "reason": "that is enough" });
    for (answer, why) in [(Some(no.clone()), "a person rejected the plan: that is enough"), (None, "counts as a no")] {
        let ran = run(&config, answer);
        assert_eq!(ran.outcome(), RunOutcome::Completed, "{:?}", ran.history.error);
        let result = ran.result();
        assert_eq!((result.text.as_str(), &result.metadata["ended_early"]), ("the draft", &json!("plan_rejected")));
        assert_eq!(result.metadata["quality_flag"], "below_threshold", "it is judged");
        assert_eq!(told(&ran, "warning"), ["plan_reset", "plan_rejected"]);
        let told: Vec<_> = ran.emitted().filter(|event| event["data"]["warning"] == "plan_rejected").collect();
        assert!(told[0]["message"].as_str().unwrap().contains(why), "{told:?}");
        assert!(!ran.model_steps().iter().any(|step| step.contains("refinement")), "{:?}", ran.model_steps());
    }
    // Where silence is to end the run, it does.
    config.approvals.on_expiry = OnExpiry::Fail;
    assert_eq!(&*run(&config, None).history.error.as_ref().unwrap().code, "approval_expired");
    // A first plan that is rejected leaves nothing to answer with.
    config.approvals.on_expiry = OnExpiry::Reject;
    let ran =
        script(&config).model(|call| Asked::of(call).sensible(&plan("delegated"))).human(move |_| Some(no.clone()));
    assert_eq!(&*ran.run().history.error.as_ref().unwrap().code, "plan_rejected");
}

#[test]
fn rounds_stalls_and_resets_end_where_the_settings_say() {
    for (max_rounds, max_stalls, max_resets, rounds, warnings) in [
        (1, 2, 1, 1, &["rounds_exhausted"][..]),
        (9, 0, 0, 2, &["stalled"]),
        (9, 0, 2, 4, &["plan_reset", "plan_reset", "stalled"]),
        (3, 0, 9, 3, &["plan_reset", "rounds_exhausted"]),
    ] {
        let mut config = config();
        let rules = &mut config.pipeline;
        (rules.max_rounds, rules.max_stalls, rules.max_resets) = (max_rounds, max_stalls, max_resets);
        let ran = run(&config, |asked| match asked.name {
            "ProgressEvaluation" => progress("continue", "more").into(),
            _ => asked.sensible(&plan("delegated")),
        });
        let what = (max_rounds, max_stalls, max_resets);
        assert_eq!(
            (&ran.result().metadata["rounds"], told(&ran, "warning")),
            (&json!(rounds), warnings.to_vec()),
            "{what:?}"
        );
    }
}

#[test]
fn a_round_that_fails_leaves_what_there_was_and_counts_as_a_stall() {
    let ran = run(&config(), |asked| match asked.name {
        "ProgressEvaluation" => progress("refine", "name the price").into(),
        "" if asked.text.contains("What must change") => down("provider_unavailable"),
        "" => "first".into(),
        _ => asked.sensible(&plan("delegated")),
    });
    assert_eq!(ran.result().text, "first");
    let degraded = told(&ran, "phase");
    assert!(degraded.len() > 2 && degraded.iter().all(|phase| *phase == "round"), "{degraded:?}");
    assert!(told(&ran, "warning").contains(&"plan_reset"));
}

#[test]
fn a_discussion_ends_after_max_rounds_however_much_there_is_to_say() {
    let mut config = config();
    config.pipeline.max_rounds = 4;
    (config.pipeline.progress, config.pipeline.quality) = (false, false);
    let ran = run(&config, |asked| match (asked.name, asked.agent) {
        ("GroupChatSpeakerSelection", _) => r#"{"next_speaker":"analyst","reasoning":"go on"}"#.into(),
        ("", "analyst") => format!("a point after {} characters", asked.text.len()).into(),
        _ => asked.sensible(&plan("discussion")),
    });
    let speeches = ran.model_steps().iter().filter(|step| step.contains("speech")).count();
    assert_eq!((speeches, told(&ran, "warning").len()), (4, 0));
    assert_eq!(ran.result().text, "writer says its part.");
}

#[test]
fn refinement_goes_on_while_it_gets_better_and_no_longer_than_it_may() {
    // The scores of the first answer and of each further one.
    for (scores, tries, kept, refined) in [
        (&[3.0, 5.0, 8.0, 9.9][..], 5, 2, "refined"),
        (&[3.0, 4.0, 5.0, 6.0], 2, 2, "below_threshold"),
        (&[3.0, 4.0, 4.1, 9.9], 5, 1, "below_threshold"),
    ] {
        let mut config = config();
        config.pipeline.max_refinement_rounds = tries;
        let ran = run(&config, move |asked| match asked.name {
            "QualityAssessment" => {
                let version = (0..scores.len()).find(|n| asked.text.contains(&format!("version {n}"))).unwrap();
                quality(scores[version]).into()
            }
            "" => {
                let before = (0..scores.len()).find(|n| asked.text.contains(&format!("so far:\nversion {n}")));
                format!("version {}", before.map_or(0, |before| before + 1)).into()
            }
            _ => asked.sensible(&plan("delegated")),
        });
        let result = ran.result();
        let flag = &result.metadata["quality_flag"];
        assert_eq!((result.text.clone(), flag), (format!("version {kept}"), &json!(refined)), "{scores:?}");
    }
}

#[test]
fn a_refinement_that_fails_or_that_nobody_can_judge_leaves_the_answer_as_it_was() {
    for unjudged in [false, true] {
        let ran = run(&config(), move |asked| match asked.name {
            "QualityAssessment" if asked.holds("second") => "I cannot say".into(),
            "QualityAssessment" => quality(5.0).into(),
            "" if asked.text.contains("What must change") && !unjudged => down("provider_unavailable"),
            "" if asked.text.contains("What must change") => "second".into(),
            "" => "first".into(),
            _ => asked.sensible(&plan("delegated")),
        });
        let result = ran.result();
        assert_eq!((result.text.as_str(), &result.metadata["quality"]["score"]), ("first", &json!(5.0)), "{unjudged}");
        assert_eq!(told(&ran, "phase"), [if unjudged { "quality" } else { "refinement" }]);
    }
}

#[test]
fn a_discussion_in_which_everybody_only_wants_to_end_it_stalls_and_says_who_said_nothing() {
    let ran = run(&config(), |asked| match asked.name {
        "" => "**TERMINATE**".into(),
        _ => asked.sensible(&plan("discussion")),
    });
    let error = ran.history.error.as_ref().unwrap();
    assert_eq!((&*error.code, told(&ran, "warning")), ("no_agent_answered", vec!["discussion_stalled"]));
    assert!(error.message.contains("analyst said nothing"), "{}", error.message);
}
