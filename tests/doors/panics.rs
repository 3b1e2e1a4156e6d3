//! Workflows that panic: rebuilt as long as there is hope, then quarantined, and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agentic_fleet::settings::units::Count;
use fleet_actors::event::{Audience, Failure};
use fleet_actors::journal::Context;
use fleet_actors::ports::{
    ChatMessage, LocalFuture, ModelRequest, OutputForm, Role, RunOutput, TaskInput, WorkflowFn, Workflows,
};
use fleet_actors::turn::{StepResult, Turn};
use serde_json::Value;

use crate::app::{TestApp, until};
use crate::client::Sse;

/// One table for all names: the message says what happens.
struct Panicking;

impl Workflows for Panicking {
    fn find(&self, _: &str, _: u32) -> Option<WorkflowFn> {
        Some(panicking as WorkflowFn)
    }
}

static ONCE: AtomicU32 = AtomicU32::new(0);
static LIVES: AtomicU32 = AtomicU32::new(0);

fn panicking<'a>(turn: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let text = match input.message.as_str() {
            "panics once" => {
                let parts = turn.parallel("parts", 2, vec![0, 1], async |turn, part| {
                    if part == 0 {
                        return Ok(turn.model("slow", request("wait")).await?.text);
                    }
                    turn.sleep("soon", Duration::from_millis(50)).await;
                    assert!(ONCE.fetch_add(1, Ordering::SeqCst) > 0, "on purpose, once");
                    Ok(String::new())
                });
                parts.await.into_iter().collect::<Result<Vec<_>, Failure>>()?.concat()
            }
            "panics with progress" => {
                for _ in 0..=LIVES.fetch_add(1, Ordering::SeqCst) {
                    turn.model("quick", request("hello")).await?;
                }
                panic!("on purpose, in every life")
            }
            "panics at once" => panic!("on purpose, before anything is durable"),
            other => turn.model("calm", request(other)).await?.text,
        };
        Ok(RunOutput { text, ..RunOutput::default() })
    })
}

fn request(message: &str) -> ModelRequest {
    ModelRequest {
        model: "scripted".into(),
        agent: None,
        audience: Audience::User,
        context: Context::of([ChatMessage::new(Role::User, message.to_owned())]),
        tools: Arc::from([]),
        output: OutputForm::Text,
        temperature: None,
        max_output_tokens: None,
    }
}

async fn app(rebuilds_max: u64) -> TestApp {
    let workflows = Arc::new(Panicking);
    TestApp::with_workflows(workflows, |s| s.sessions.rebuilds_max = Count::new(rebuilds_max).expect("in range")).await
}

fn stream(message: &str) -> String {
    format!("/api/chat/{}/stream?version=2&message={}", message.replace(' ', "-"), message.replace(' ', "+"))
}

#[actix_web::test]
async fn a_workflow_that_panics_once_is_rebuilt_and_its_client_sees_only_a_voided_step() {
    let app = app(3).await;
    let mut client = Sse::new(app.get(&stream("panics once"), &[]).await);
    let mut before = Vec::new();
    while let Some((_, event)) = client.next().await {
        let voided = event["type"] == "step.voided";
        before.push(event);
        if voided {
            break;
        }
    }
    let voided = before.last().expect("events");
    assert_eq!((&voided["reason"], &voided["attempt"]), (&"restarted".into(), &1.into()), "{voided}");
    assert!(before.iter().any(|event| event["delta"] == "one "), "the client had some of the text");
    app.script.gate.open();
    let rest: Vec<_> = client.rest().await.into_iter().map(|(_, event)| event).collect();
    let all = || before.iter().chain(&rest);
    assert!(all().all(|event| event["type"] != "error"), "{rest:?}");
    let completed = rest.iter().find(|event| event["type"] == "step.completed").expect("a result");
    assert_eq!((&completed["attempt"], &completed["text"]), (&2.into(), &"one two".into()));
    assert_eq!(rest.last().expect("done")["status"], "completed");
    until("the permit", || app.live() == 0).await;
    assert_eq!((app.calls(), ONCE.load(Ordering::SeqCst)), (2, 2));
    app.stop().await;
}

#[actix_web::test]
async fn a_workflow_that_panics_in_every_life_is_quarantined_and_nobody_else_notices() {
    let app = app(2).await;
    let mut other = Sse::new(app.get(&stream("wait"), &[]).await);
    assert_eq!(other.next().await.expect("connected").1["type"], "connected");
    let events = Sse::new(app.get(&stream("panics with progress"), &[]).await).rest().await;
    let (id, error) = events.last().expect("an error");
    assert_eq!((&error["type"], &error["data"]["code"]), (&"error".into(), &"quarantined".into()), "{error}");
    assert_eq!(*id, None, "it is the stream's own");
    assert!(error["error"].as_str().is_some_and(|text| text.contains("panicked 3 times")), "{error}");
    assert_eq!(LIVES.load(Ordering::SeqCst), 3, "one life and two rebuilds");
    until("the permit", || app.live() == 1).await;
    app.script.gate.open();
    let rest = other.rest().await;
    assert_eq!(rest.last().expect("done").1["status"], "completed");
    assert!(rest.iter().all(|(_, event)| event["type"] != "step.voided" && event["type"] != "error"));
    until("the other permit", || app.live() == 0).await;
    app.stop().await;
}

#[actix_web::test]
async fn a_workflow_that_panics_before_anything_is_durable_is_refused_as_quarantined() {
    let app = app(3).await;
    let refused = app.get(&stream("panics at once"), &[]).await;
    assert_eq!(refused.status().as_u16(), 500);
    let problem: Value = refused.json().await.expect("json");
    assert_eq!(problem["code"], "quarantined", "{problem}");
    until("the permit", || app.live() == 0).await;
    app.stop().await;
}
