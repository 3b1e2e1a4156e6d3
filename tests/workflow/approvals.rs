//! People in the loop: approve, edit, reject, say nothing, answer late; ask the user; review the plan.

use std::sync::Arc;
use std::time::Duration;

use agentic_fleet::arguments::validator;
use agentic_fleet::workflow::{OnExpiry, WorkflowConfig};
use fleet_actors::event::{EventBody, RunOutcome};
use fleet_actors::ports::{ToolCall, ToolOutput};
use fleet_actors::testing::script::{Ran, Script};
use serde_json::{Value, json};

use crate::support::{Asked, config, offers, plan, result_of, routing, script, told, wants};

/// The researcher wants to run code and then says what it was told.
fn asks(config: &WorkflowConfig) -> Script {
    script(config).model(|call| {
        let asked = Asked::of(call);
        match (asked.name, asked.agent, asked.results.first()) {
            ("", "researcher", None) => wants(&[("python", json!({ "code": "1 + 1" }))]),
            ("", "researcher", Some(result)) => format!("I was told: {result}").into(),
            _ => asked.sensible(&plan("delegated")),
        }
    })
}

fn answered(answer: Value) -> Ran {
    let ran = asks(&config()).human(move |_| Some(answer.clone())).run();
    ran.replay();
    ran
}

#[test]
fn a_yes_in_any_words_runs_the_exact_call_that_was_asked_about() {
    let repeated = json!({ "decision": "approve", "arguments": { "code": "1 + 1" } });
    for yes in [json!({ "decision": "approve" }), json!(true), json!("approve"), json!("Approved"), repeated] {
        let ran = answered(yes.clone());
        let [call] = &ran.tool_calls[..] else { panic!("{yes}: {} calls", ran.tool_calls.len()) };
        let approval = call.approval.as_ref().unwrap();
        assert_eq!(call.arguments, json!({ "code": "1 + 1" }));
        assert_eq!(approval.arguments_digest, ToolCall::arguments_digest("python", &call.arguments));
        let asked = ran
            .events
            .iter()
            .find_map(|event| if let EventBody::Asked { question, .. } = &event.body { Some(question) } else { None });
        let asked = asked.unwrap();
        assert_eq!((&*asked.request_type, &asked.request_id), ("tool_approval", &approval.request_id));
        let request = json!({
            "tool": "python", "arguments": { "code": "1 + 1" }, "agent": "researcher", "description": "what python does"
        });
        assert_eq!(asked.request, request);
        assert!(ran.result().text.contains("python gave a result"));
    }
}

#[test]
fn changed_arguments_are_what_is_called_and_what_the_approval_binds_to() {
    let ran = answered(json!({ "decision": "edit", "arguments": { "code": "2 + 2" } }));
    let [call] = &ran.tool_calls[..] else { panic!("{} calls", ran.tool_calls.len()) };
    assert_eq!(call.arguments, json!({ "code": "2 + 2" }));
    let digest = ToolCall::arguments_digest("python", &json!({ "code": "2 + 2" }));
    assert_eq!(call.approval.as_ref().unwrap().arguments_digest, digest);
    assert!(ran.result().text.contains("a person changed the arguments"), "{}", ran.result().text);
}

#[test]
fn an_event_shows_the_arguments_that_were_called_and_not_those_that_a_person_replaced() {
    let ran = answered(json!({ "decision": "edit", "arguments": { "code": "2 + 2" } }));
    let told = ran.emitted().find(|event| event["data"]["kind"] == "tool_call").unwrap();
    assert_eq!(told["data"]["arguments_preview"], r#"{"code":"2 + 2"}"#);
}

#[test]
fn a_no_and_whatever_is_no_clear_yes_calls_nothing_and_the_model_learns_why() {
    let table = [
        (json!({ "decision": "reject", "reason": "not on my machine" }), "not on my machine"),
        (json!(false), "did not allow"),
        (json!("reject"), "did not allow"),
        (json!({ "decision": "edit" }), "changed arguments are missing"),
        (json!({ "decision": "maybe" }), "could not be read"),
        (json!(17), "could not be read"),
        (json!({ "approve": true }), "could not be read"),
        (json!({ "decision": "approve", "arguments": { "code": "2 + 2" } }), "is not what was asked for"),
        (json!("yes please, but carefully"), "could not be read"),
    ];
    for (no, why) in table {
        let ran = answered(no.clone());
        assert_eq!(ran.tool_calls.len(), 0, "{no}");
        assert!(ran.result().text.contains(why), "{no}: {}", ran.result().text);
        assert_eq!(told(&ran, "outcome"), ["rejected"], "{no}");
    }
}

#[test]
fn silence_fails_rejects_or_goes_on_as_the_settings_say_and_never_calls() {
    for (on_expiry, outcome, told_) in [
        (OnExpiry::Fail, RunOutcome::Failed, ""),
        (OnExpiry::Reject, RunOutcome::Completed, "counts as a no"),
        (OnExpiry::Continue, RunOutcome::Completed, "go on without it"),
    ] {
        let mut config = config();
        (config.approvals.on_expiry, config.question_expiry_ms) = (on_expiry, 3_600_000);
        let ran = asks(&config).run();
        ran.replay();
        assert_eq!((ran.outcome(), ran.tool_calls.len()), (outcome, 0), "{on_expiry:?}");
        assert!((3_600..3_602).contains(&ran.took.as_secs()), "{on_expiry:?}: {:?}", ran.took);
        match &ran.history.error {
            Some(error) => assert_eq!(&*error.code, "approval_expired"),
            None => assert!(ran.result().text.contains(told_), "{}", ran.result().text),
        }
    }
}

#[test]
fn an_answer_that_comes_hours_later_wakes_the_run_and_takes_no_time_from_the_agent() {
    // The researcher has 20 s for its turn, and waiting for people is none of it.
    let ran = asks(&config()).human_after(Duration::from_secs(7_200)).human(|_| Some(true.into())).run();
    ran.replay();
    assert_eq!(ran.outcome(), RunOutcome::Completed, "{:?}", ran.history.error);
    assert_eq!(ran.tool_calls.len(), 1);
    assert!(ran.records.iter().any(|entry| entry.record.kind() == "parked"), "it was parked meanwhile");
    assert!(ran.took >= Duration::from_secs(7_200));
}

#[test]
fn an_answer_after_the_expiry_changes_nothing() {
    let mut config = config();
    config.question_expiry_ms = 60_000;
    let ran = asks(&config).human_after(Duration::from_secs(120)).human(|_| Some(true.into())).run();
    ran.replay();
    assert_eq!((ran.outcome(), ran.tool_calls.len()), (RunOutcome::Completed, 0));
    assert_eq!(told(&ran, "outcome"), ["expired"]);
}

#[test]
fn in_parallel_a_silence_that_ends_the_run_ends_it_although_others_answered() {
    let mut config = config();
    (config.approvals.on_expiry, config.question_expiry_ms) = (OnExpiry::Fail, 60_000);
    let ran = script(&config)
        .model(|call| {
            let asked = Asked::of(call);
            match (asked.name, asked.agent) {
                ("", "researcher") => wants(&[("python", json!({ "code": "1" }))]),
                _ => asked.sensible(&plan("parallel")),
            }
        })
        .run();
    ran.replay();
    assert_eq!(&*ran.history.error.as_ref().unwrap().code, "approval_expired");
}

#[test]
fn an_agent_may_ask_the_user_where_the_settings_allow_it() {
    let mut config = config();
    config.approvals.ask_user = true;
    let model = |call: &fleet_actors::ports::ModelCall| {
        let asked = Asked::of(call);
        match (asked.name, asked.results.first()) {
            ("", None) if asked.offers("ask_user") => {
                wants(&[("ask_user", json!({ "question": "Which year?", "options": ["2025", "2026"] }))])
            }
            ("", Some(result)) => result.clone().into(),
            _ => asked.sensible(&plan("delegated")),
        }
    };
    let ran = script(&config).model(model).human(|question| {
        assert_eq!((&*question.request_type, &question.request["question"]), ("user_input", &json!("Which year?")));
        Some(json!("2026"))
    });
    let ran = ran.run();
    ran.replay();
    assert_eq!(ran.result().text, "The user answered: 2026");
    config.approvals.ask_user = false;
    let ran = script(&config).model(model).run();
    assert_eq!(ran.result().text, "researcher says its part.");
}

#[test]
fn a_plan_is_approved_edited_or_rejected_before_anybody_works() {
    let reviewed = |answer: Option<Value>, on_expiry| {
        let mut config = config();
        config.pipeline.plan_review = true;
        (config.approvals.on_expiry, config.question_expiry_ms) = (on_expiry, 60_000);
        let ran = script(&config)
            .model(|call| Asked::of(call).sensible(&routing("sequential", &[("researcher", "a"), ("writer", "b")])))
            .human(move |question| {
                assert_eq!(&*question.request_type, "plan_review");
                assert_eq!(question.request["assigned_to"], json!(["researcher", "writer"]));
                answer.clone()
            })
            .run();
        ran.replay();
        match &ran.history.error {
            Some(error) => format!("{}: {}", error.code, error.message),
            None => ran.result().metadata["agents"].to_string(),
        }
    };
    assert_eq!(reviewed(Some(true.into()), OnExpiry::Reject), r#"["researcher","writer"]"#);
    let edit =
        json!({ "decision": "edit", "plan": { "mode": "parallel", "assigned_to": ["analyst", "writer", "wizard"] } });
    assert_eq!(reviewed(Some(edit), OnExpiry::Reject), r#"["analyst","writer"]"#);
    let nobody = json!({ "decision": "edit", "plan": { "assigned_to": ["wizard"] } });
    assert_eq!(reviewed(Some(nobody), OnExpiry::Reject), r#"["assistant"]"#);
    let seen = json!({ "decision": "approve", "plan": { "mode": "sequential" } });
    assert_eq!(reviewed(Some(seen), OnExpiry::Reject), r#"["researcher","writer"]"#);
    let other = json!({ "decision": "approve", "plan": { "mode": "parallel" } });
    let unseen = "plan_rejected: what a person approved is not the plan that was shown";
    assert_eq!(reviewed(Some(other), OnExpiry::Reject), unseen);
    let unsaid = "plan_rejected: a person wanted another plan and gave none";
    assert_eq!(reviewed(Some(json!({ "decision": "edit" })), OnExpiry::Reject), unsaid);
    let reject = json!({ "decision": "reject", "reason": "too dear" });
    assert_eq!(reviewed(Some(reject), OnExpiry::Reject), "plan_rejected: a person rejected the plan: too dear");
    assert!(reviewed(None, OnExpiry::Reject).starts_with("plan_rejected"));
    assert!(reviewed(None, OnExpiry::Fail).starts_with("approval_expired"));
    assert_eq!(reviewed(None, OnExpiry::Continue), r#"["researcher","writer"]"#);
}

#[test]
fn a_question_about_a_call_says_what_its_tool_takes_however_the_tool_says_it() {
    let code = json!({ "type": "string", "minLength": 1 });
    let takes = |code: Value| json!({ "type": "object", "properties": { "code": code }, "required": ["code"], "additionalProperties": false });
    let with = |more: Value, schema: Value| {
        let mut schema = schema;
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema
    };
    let inside = || takes(json!({ "$ref": "#/$defs/code" }));
    let forms = [
        takes(code.clone()),
        with(json!({ "$defs": { "code": code } }), inside()),
        with(json!({ "$defs": { "code": code }, "$id": "https://tools.example/python" }), inside()),
        with(json!({ "$defs": { "code": code }, "$schema": "https://json-schema.org/draft/2020-12/schema" }), inside()),
        with(
            json!({ "definitions": { "code": code }, "$schema": "http://json-schema.org/draft-07/schema#" }),
            takes(json!({ "$ref": "#/definitions/code" })),
        ),
    ];
    for form in forms {
        let mut offers = offers();
        let python = offers.iter_mut().find(|offer| offer.spec.name == "python").unwrap();
        Arc::make_mut(&mut python.spec).parameters = form.clone();
        let ran = asks(&config())
            .tools(offers, Duration::ZERO, |call| Ok(ToolOutput::text(result_of(call))))
            .human(|_| Some(true.into()))
            .run();
        ran.replay();
        assert_eq!(ran.tool_calls.len(), 1, "{form}");
        let schema = ran.events.iter().find_map(|event| {
            if let EventBody::Asked { question, .. } = &event.body { question.answer_schema.clone() } else { None }
        });
        let judge = validator(&schema.unwrap()).unwrap_or_else(|| panic!("no schema comes of {form}"));
        for fits in [
            json!(true),
            json!("approve"),
            json!({ "decision": "approve" }),
            json!({ "decision": "approve", "arguments": { "code": "2" } }),
            json!({ "decision": "edit", "arguments": { "code": "2" } }),
            json!({ "decision": "reject", "reason": "no" }),
        ] {
            assert!(judge.is_valid(&fits), "{fits} does not fit {form}");
        }
        for (misfit, place) in [
            (json!({ "decision": "edit", "arguments": { "code": 2 } }), "/arguments/code"),
            (json!({ "decision": "approve", "arguments": { "code": "" } }), "/arguments/code"),
            (json!({ "decision": "edit", "arguments": {} }), "/arguments"),
            (json!({ "decision": "edit", "arguments": { "code": "2", "more": 1 } }), "/arguments"),
            (json!({ "decision": "edit", "arguments": "2" }), "/arguments"),
            (json!({ "decision": "edit" }), ""),
            (json!({ "decision": "edit", "arguments": null }), "/arguments"),
            (json!("edit"), ""),
            (json!(" Edited"), ""),
            (json!({ "decision": "maybe" }), "/decision"),
            (json!({}), ""),
            (json!(17), ""),
        ] {
            let error = judge.validate(&misfit).expect_err(&format!("{misfit} fits {form}"));
            assert_eq!(error.instance_path().to_string(), place, "{misfit}: {error}");
        }
    }
}

#[test]
fn a_question_about_a_plan_says_what_a_change_of_it_may_be() {
    let mut config = config();
    config.pipeline.plan_review = true;
    let ran = script(&config).model(|call| Asked::of(call).sensible(&plan("sequential"))).human(|_| Some(true.into()));
    let ran = ran.run();
    ran.replay();
    let schema = ran.events.iter().find_map(|event| {
        if let EventBody::Asked { question, .. } = &event.body { question.answer_schema.clone() } else { None }
    });
    let judge = validator(&schema.unwrap()).unwrap();
    let edit = |plan: Value| json!({ "decision": "edit", "plan": plan });
    for fits in [
        edit(json!({ "mode": "parallel" })),
        edit(json!({ "assigned_to": ["writer"] })),
        edit(json!({ "subtasks": [{ "agent": "writer", "task": "write" }] })),
        json!({ "decision": "approve" }),
    ] {
        assert!(judge.is_valid(&fits), "{fits}");
    }
    for (misfit, place) in [
        (json!({ "decision": "edit" }), ""),
        (json!("edit"), ""),
        (edit(json!({})), "/plan"),
        (edit(json!({ "mode": "chaos" })), "/plan/mode"),
        (edit(json!({ "assigned_to": [] })), "/plan/assigned_to"),
        (edit(json!({ "subtasks": ["write"] })), "/plan/subtasks/0"),
        (edit(json!({ "subtasks": [{ "agent": "writer" }] })), "/plan/subtasks/0"),
    ] {
        let error = judge.validate(&misfit).expect_err(&misfit.to_string());
        assert_eq!(error.instance_path().to_string(), place, "{misfit}: {error}");
    }
}
