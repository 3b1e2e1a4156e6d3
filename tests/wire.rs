//! What clients are shown of each kind of event, whole: one log, both versions.

use agentic_fleet::api::wire::{Deltas, Renderer, Version};
use agentic_fleet::settings::{Settings, Sources, UiRouting};
use agentic_fleet::workflow::events::{AgentMoment, FleetEvent, RunStatus};
use fleet_actors::event::{
    Answer, Audience, Channel, EventBody, Failure, LogEvent, Question, RunOutcome, StepKind, Usage,
};
use fleet_actors::ids::{RequestId, Seq, Timestamp, WorkflowId};
use fleet_actors::ports::FinishReason;
use serde_json::{Value, json};

const START: i64 = 1_700_000_000_000;

fn routes() -> UiRouting {
    Settings::load(&Sources::default()).unwrap_or_else(|error| panic!("{error}")).settings.ui_routing
}

fn delta(step: &str, attempt: u32, channel: Channel, offset: u64, text: &str) -> EventBody {
    let (step, text, agent) = (step.into(), text.into(), Some("Writer".into()));
    EventBody::Delta { step, attempt, channel, offset, text, audience: Audience::User, agent }
}

fn completed(step: &str, audience: Audience, reasoning: &str) -> EventBody {
    EventBody::StepCompleted {
        step: step.into(),
        attempt: 1,
        kind: StepKind::Model,
        audience,
        agent: Some("Writer".into()),
        text: Some("Hello".into()),
        reasoning: Some(reasoning.into()),
        usage: Some(Usage {
            input_tokens: 7,
            output_tokens: 2,
            reasoning_tokens: 1,
            cached_tokens: 0,
            cost_nanousd: None,
        }),
        started_at: Timestamp(START),
    }
}

fn voided(step: &str) -> EventBody {
    EventBody::StepVoided { step: step.into(), attempt: 1, reason: "retry".into() }
}

fn emitted(event: &FleetEvent) -> EventBody {
    EventBody::Emitted { scope: "".into(), body: serde_json::to_string(event).expect("json").into() }
}

fn render(version: Version, deltas: Deltas, log: Vec<EventBody>) -> Vec<Value> {
    let mut renderer = Renderer::new(version, &WorkflowId::from_trusted("w"), deltas);
    let routes = routes();
    let number = |(n, body)| LogEvent { seq: Seq(n), at: Timestamp(START + n as i64), body };
    let log = (1..).zip(log).map(number);
    let shown = log.filter_map(|event| renderer.render(&event));
    shown.map(|event| serde_json::from_str(&event.encode(&routes)).expect("json")).collect()
}

/// One of everything.
fn log() -> Vec<EventBody> {
    let step = || "answer#1".into();
    let question = Question {
        request_id: RequestId::from_trusted("r"),
        request_type: "tool_approval".into(),
        request: json!({"tool": "mail"}),
        answer_schema: None,
        expires_at: Timestamp(START + 60_000),
    };
    let agent = |moment| FleetEvent::Agent {
        moment,
        agent_id: "writer".to_owned(),
        author: "Writer".to_owned(),
        message: "text".to_owned(),
        data: None,
    };
    vec![
        emitted(&FleetEvent::Status { status: RunStatus::InProgress }),
        emitted(&FleetEvent::Message {
            message: "on it".to_owned(),
            kind: Some("progress".to_owned()),
            data: Some(json!({"n": 1})),
        }),
        emitted(&FleetEvent::Thought {
            message: "routed".to_owned(),
            kind: "routing".to_owned(),
            data: json!({"mode": "delegated"}),
        }),
        emitted(&agent(AgentMoment::Start)),
        EventBody::StepStarted {
            step: step(),
            attempt: 1,
            kind: StepKind::Model,
            audience: Audience::User,
            agent: Some("Writer".into()),
        },
        delta("answer#1", 1, Channel::Reasoning, 0, "hm"),
        delta("answer#1", 1, Channel::Text, 0, "Hel"),
        completed("answer#1", Audience::User, "hm"),
        completed("judge/score#1", Audience::Workflow, "secret"),
        emitted(&agent(AgentMoment::Message)),
        emitted(&agent(AgentMoment::Output)),
        emitted(&agent(AgentMoment::Complete)),
        EventBody::Asked { step: step(), question },
        EventBody::Answered {
            step: step(),
            request_id: RequestId::from_trusted("r"),
            answer: Answer::Given(json!("yes")),
        },
        EventBody::StepFailed {
            step: "team/mail#1".into(),
            attempt: 2,
            kind: StepKind::Tool,
            audience: Audience::Workflow,
            error: Failure::new("tool_failed", "no mail"),
            started_at: Timestamp(START),
        },
        voided("team/other#1"),
        emitted(&FleetEvent::Answer {
            message: "Hello".to_owned(),
            author: Some("Writer".to_owned()),
            agent_id: Some("writer".to_owned()),
            finish_reason: FinishReason::Length,
            quality_pending: true,
            quality_score: None,
            quality_flag: None,
            spent: None,
        }),
        EventBody::Cancelled { reason: "client".into() },
        EventBody::Error { error: Failure { retry_after_ms: Some(1_500), ..Failure::new("provider_failed", "away") } },
        EventBody::Finished { outcome: RunOutcome::Failed },
    ]
}

#[test]
fn version_1_shows_what_existing_clients_know() {
    insta::assert_json_snapshot!(render(Version::V1, Deltas::Shown, log()));
}

#[test]
fn version_2_shows_every_event_with_its_number_and_step() {
    insta::assert_json_snapshot!(render(Version::V2, Deltas::Shown, log()));
}

#[test]
fn version_1_withholds_a_step_that_was_voided_after_text_of_it_was_shown() {
    let texts = |log| {
        let shown = render(Version::V1, Deltas::Shown, log);
        shown.iter().filter_map(|event| event["delta"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let text = |step, attempt, text| delta(step, attempt, Channel::Text, 0, text);
    assert_eq!(texts(vec![text("a", 1, "x"), voided("a"), text("a", 2, "y"), text("b", 1, "z")]), ["x", "z"]);
    assert_eq!(texts(vec![voided("a"), text("a", 2, "y")]), ["y"], "nothing was shown that would be contradicted");
}

#[test]
fn an_error_shows_what_had_been_reasoned() {
    let error = EventBody::Error { error: Failure::new("step_timeout", "too slow") };
    let log =
        vec![delta("a", 1, Channel::Reasoning, 0, "first, "), delta("a", 1, Channel::Reasoning, 7, "then"), error];
    let shown = render(Version::V1, Deltas::Hidden, log);
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["reasoning_partial"], "first, then");
}

#[test]
fn no_event_of_version_1_has_a_null_or_a_field_of_version_2() {
    for event in render(Version::V1, Deltas::Shown, log()) {
        let fields = event.as_object().expect("an object");
        assert!(fields.values().all(|value| !value.is_null()), "{event}");
        for field in ["seq", "step", "attempt", "step_info", "usage", "duration_ms", "offset", "reason"] {
            assert!(!fields.contains_key(field), "{field} in {event}");
        }
    }
}
