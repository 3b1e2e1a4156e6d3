//! A workflow with two parallel branches, a race of a tool with a timer and a question to a person, at every door: live,
//! parked, after its client has gone and after a restart.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentic_fleet::runtime::SystemClock;
use agentic_fleet::workflow::events::FleetEvent;
use agentic_fleet::workflow::{SUPERVISOR_VERSION, SUPERVISOR_WORKFLOW};
use fleet_actors::event::{Answer, Audience};
use fleet_actors::journal::Context;
use fleet_actors::limits::RunLimits;
use fleet_actors::ports::{
    ChatMessage, FinishReason, LocalFuture, ModelRequest, OutputForm, Role, RunOutput, Store, TaskInput, WorkflowFn,
    Workflows,
};
use fleet_actors::recovery;
use fleet_actors::testing::MemoryStore;
use fleet_actors::turn::{HumanRequest, StepResult, ToolAsk, Turn};
use serde_json::{Value, json};

use crate::client::{self, ask, events, receive, send};
use crate::world::{Recipe, Script, World, until};

struct Inquiries;

impl Workflows for Inquiries {
    fn find(&self, name: &str, version: u32) -> Option<WorkflowFn> {
        (name == SUPERVISOR_WORKFLOW && version == SUPERVISOR_VERSION).then_some(inquiry as WorkflowFn)
    }
}

fn view(side: &str, message: &str) -> ModelRequest {
    ModelRequest {
        model: "test".into(),
        agent: Some(side.into()),
        audience: Audience::Workflow,
        context: Context::default().with(ChatMessage::new(Role::User, format!("{side} of {message}"))),
        tools: Arc::from([]),
        output: OutputForm::Text,
        temperature: None,
        max_output_tokens: None,
    }
}

/// Two views at once, a tool that must be faster than a minute, and then a person decides. A `brief` question expires
/// soon; a `raced` one is withdrawn when a timer comes first.
fn inquiry<'a>(turn: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let message = input.message.as_str();
        let views = turn
            .parallel("views", 2, vec!["left", "right"], async |turn, side| turn.model(side, view(side, message)).await)
            .await;
        let views: Vec<_> = views.into_iter().filter_map(Result::ok).map(|reply| reply.text).collect();
        let counted = turn
            .race(
                "count",
                async |turn| {
                    turn.tool("tool", ToolAsk::new("count", json!({ "of": views }))).await.map(|output| output.text)
                },
                async |turn| {
                    turn.sleep("patience", Duration::from_secs(60)).await;
                    Ok("late".to_owned())
                },
            )
            .await?;
        let question = |expires_in| HumanRequest {
            request_type: "plan_review".into(),
            request: json!({ "views": views, "counted": counted }),
            answer_schema: None,
            expires_in,
        };
        let decided = match message {
            "brief" => turn.ask_human("approval", question(Duration::from_millis(150))).await.answer,
            "raced" => {
                turn.race(
                    "approval",
                    async |turn| Ok(turn.ask_human("ask", question(HOUR)).await.answer),
                    async |turn| {
                        turn.sleep("patience", Duration::from_millis(150)).await;
                        Ok(Answer::Expired)
                    },
                )
                .await?
            }
            _ => turn.ask_human("approval", question(HOUR)).await.answer,
        };
        let text = match decided {
            Answer::Given(answer) => format!("{} and {}, {counted}: {answer}", views[0], views[1]),
            Answer::Expired => "nobody decided".to_owned(),
        };
        turn.emit(&FleetEvent::Answer {
            message: text.clone(),
            author: None,
            agent_id: None,
            finish_reason: FinishReason::Stop,
            quality_pending: false,
            quality_score: None,
            quality_flag: None,
            spent: None,
        });
        Ok(RunOutput { text, ..RunOutput::default() })
    })
}

const HOUR: Duration = Duration::from_secs(3_600);
const DECIDED: &str = r#"yes: left of plan and yes: right of plan, 1 calls: "go""#;

fn world(store: Arc<dyn Store>, script: Arc<Script>, park_after: Duration) -> Rc<World> {
    let limits = RunLimits { park_after, disconnect_grace: Duration::from_millis(50), ..RunLimits::default() };
    let recipe = Recipe::over(store, Arc::new(SystemClock));
    let world = Rc::new(Recipe { workflows: Arc::new(Inquiries), limits, script, ..recipe }.serve());
    let sessions = world.sessions.clone();
    actix_web::rt::spawn(async move {
        recovery::adopt_at_start(&sessions).await.unwrap();
        recovery::wake_queue(&sessions).await;
    });
    world
}

fn memory() -> MemoryStore {
    MemoryStore::new(Arc::new(SystemClock))
}

/// Parks as soon as it may.
fn parking() -> Rc<World> {
    world(Arc::new(memory()), Arc::default(), Duration::from_millis(20))
}

fn is_question(event: &Value) -> bool {
    event["type"] == "orchestrator.message" && event["kind"] == "request"
}

fn question_id(event: &Value) -> String {
    assert_eq!(event["data"]["request_type"], "plan_review");
    assert_eq!(event["data"]["request"]["counted"], "1 calls", "{event}");
    event["data"]["request_id"].as_str().unwrap().to_owned()
}

async fn parked(world: &World) {
    until("the place is free", || world.sessions.admission().live() == 0).await;
}

fn assert_ran_once(world: &World) {
    assert_eq!((world.script.calls(), world.script.tools.load(Ordering::SeqCst)), (2, 1), "model calls, tool calls");
}

fn completed(events: &[Value]) -> &str {
    assert_eq!(events.last().unwrap()["type"], "done", "{events:#?}");
    let answer = events.iter().find(|event| event["type"] == "response.completed");
    answer.unwrap_or_else(|| panic!("{events:#?}"))["message"].as_str().unwrap()
}

#[actix_web::test]
async fn over_version_1_a_question_is_answered_live_or_parked_and_the_run_goes_on() {
    for park_after in [HOUR, Duration::from_millis(20)] {
        let world = world(Arc::new(memory()), Arc::default(), park_after);
        let mut socket = client::ws(world.address, &[]).await.unwrap();
        socket.send(json!({ "message": "plan" })).await;
        let id = question_id(&socket.find(is_question).await);
        if park_after < HOUR {
            parked(&world).await;
        }
        socket.send(json!({ "type": "workflow.response", "request_id": "nobody", "response": "go" })).await;
        assert_eq!(socket.next().await.unwrap()["data"]["code"], "request_unknown");
        socket.send(json!({ "type": "workflow.response", "request_id": id, "response": "go" })).await;
        let (events, code) = socket.rest().await;
        assert_eq!((completed(&events), code), (DECIDED, 1000));
        assert_ran_once(&world);
    }
}

#[actix_web::test]
async fn over_fleet_v2_the_first_answer_wins_and_the_second_is_told_that_the_request_is_closed() {
    let world = parking();
    let mut socket = client::v2(world.address).await;
    socket.send(json!({ "type": "chat.send", "message": "plan" })).await;
    let mut events = vec![socket.next().await.unwrap()];
    while !events.last().is_some_and(is_question) {
        events.push(socket.next().await.unwrap());
    }
    let asked = events.last().unwrap();
    let (workflow, id) = (asked["workflow_id"].clone(), question_id(asked));
    parked(&world).await;
    let respond = |workflow: &Value, id: &str, said: &str| json!({ "type": "chat.respond", "workflow_id": workflow, "request_id": id, "response": said });
    socket.send(respond(&workflow, &id, "go")).await;
    socket.send(respond(&workflow, &id, "stop")).await;
    // The second is told so before or after the end of the run that the first brought about.
    let mut closed = 0;
    while closed == 0 || events.last().unwrap()["type"] != "done" {
        let event = socket.next().await.unwrap_or_else(|code| panic!("closed with {code}: {events:#?}"));
        if event["data"]["code"] == "request_closed" {
            closed += 1;
        } else {
            events.push(event);
        }
    }
    assert_eq!(completed(&events), DECIDED);
    let ended: Vec<_> = events.iter().filter(|event| event["type"] == "step.completed").collect();
    assert!(ended.iter().any(|event| event["step"] == "count#0/a/tool#0"), "{ended:#?}");
    for (workflow, id, code) in
        [(&workflow, "nobody", "request_unknown"), (&json!("nobody"), id.as_str(), "request_unknown")]
    {
        socket.send(respond(workflow, id, "go")).await;
        assert_eq!(socket.next().await.unwrap()["data"]["code"], code);
    }
    assert_ran_once(&world);
}

#[actix_web::test]
async fn over_sse_a_question_is_answered_by_a_request_beside_the_stream() {
    let world = parking();
    let stream = send(world.address, "GET", "/api/chat/talk/stream?message=plan", "").await;
    let reading = actix_web::rt::spawn(receive(stream));
    parked_somewhere(&world).await;
    let session = ask(world.address, "GET", "/api/v1/sessions", "").await.json();
    let workflow = session[0]["workflow_id"].as_str().unwrap().to_owned();
    let id = open_question(&world, &workflow).await;
    let respond = |chat: &str, workflow: &str, id: &str| {
        let body = json!({ "request_id": id, "response": "go" }).to_string();
        let (path, address) = (format!("/api/chat/{chat}/respond?workflow_id={workflow}"), world.address);
        async move { ask(address, "POST", &path, &body).await }
    };
    for (chat, workflow, id, code) in [
        ("talk", workflow.as_str(), "nobody", "request_unknown"),
        ("talk", "nobody", id.as_str(), "not_found"),
        ("other", workflow.as_str(), id.as_str(), "not_found"),
    ] {
        let refused = respond(chat, workflow, id).await;
        assert_eq!((refused.status, &refused.json()["code"]), (404, &json!(code)), "{refused:?}");
    }
    let accepted = respond("talk", &workflow, &id).await;
    assert_eq!((accepted.status, accepted.json()), (200, json!({ "status": "ok", "request_id": id })));
    let again = respond("talk", &workflow, &id).await;
    assert_eq!((again.status, &again.json()["code"]), (409, &json!("request_closed")));
    assert_eq!(completed(&events(&reading.await.unwrap())), DECIDED);
    assert_ran_once(&world);
}

#[actix_web::test]
async fn a_run_that_parks_answers_202_with_links_and_an_answer_wakes_it() {
    let world = parking();
    let parked = ask(world.address, "POST", "/api/v1/run", r#"{"task":"plan"}"#).await;
    assert_eq!(parked.status, 202);
    let parked = parked.json();
    let workflow = parked["workflow_id"].as_str().unwrap();
    let link = |name: &str| parked["links"][name].as_str().unwrap_or_else(|| panic!("no link {name}: {parked}"));
    assert_eq!(ask(world.address, "GET", link("self"), "").await.json()["status"], "running");
    assert_eq!(ask(world.address, "GET", link("result"), "").await.status, 404, "there is none yet");
    let id = open_question(&world, workflow).await;
    let by_id = format!("/api/v1/approvals/{id}");
    let open = ask(world.address, "GET", &by_id, "").await.json();
    assert_eq!((&open["request_id"], &open["workflow_id"]), (&json!(id), &json!(workflow)));
    let body = json!({ "request_id": id, "response": "go" }).to_string();
    let accepted = ask(world.address, "POST", link("respond"), &body).await;
    assert_eq!((accepted.status, accepted.json()), (200, json!({ "status": "ok", "request_id": id })));
    // The stream of its events ends with its end.
    let log = events(&ask(world.address, "GET", link("events"), "").await);
    assert_eq!(completed(&log), DECIDED);
    assert_eq!(ask(world.address, "GET", link("result"), "").await.json()["result"], DECIDED);
    let again = ask(world.address, "POST", link("respond"), &body).await;
    assert_eq!((again.status, &again.json()["code"]), (409, &json!("request_closed")));
    let closed = ask(world.address, "GET", &by_id, "").await;
    assert_eq!((closed.status, &closed.json()["code"]), (409, &json!("request_closed")));
    assert_eq!(closed.json()["execution_id"], workflow, "it says whose it was");
    let nobodys = ask(world.address, "GET", "/api/v1/approvals/nobodys", "").await;
    assert_eq!((nobodys.status, &nobodys.json()["code"]), (404, &json!("request_unknown")));
    let unknown = ask(world.address, "POST", "/api/v1/workflows/nobody/respond", &body).await;
    assert_eq!((unknown.status, &unknown.json()["code"]), (404, &json!("not_found")));
    assert_ran_once(&world);
}

#[actix_web::test]
async fn a_parked_run_is_answered_after_a_restart_and_repeats_nothing() {
    let (store, script) = (memory(), Arc::<Script>::default());
    let first = world(Arc::new(store.clone()), script.clone(), Duration::from_millis(20));
    let parked = ask(first.address, "POST", "/api/v1/run", r#"{"task":"plan"}"#).await.json();
    let workflow = parked["workflow_id"].as_str().unwrap().to_owned();
    let id = open_question(&first, &workflow).await;
    first.sessions.drain(true).await.unwrap();
    first.server.stop(false).await;
    let second = world(Arc::new(store.restarted()), script, Duration::from_millis(20));
    assert_eq!(open_question(&second, &workflow).await, id);
    let body = json!({ "request_id": id, "response": "go" }).to_string();
    let path = format!("/api/v1/workflows/{workflow}/respond");
    assert_eq!(ask(second.address, "POST", &path, &body).await.status, 200);
    let path = format!("/api/v1/workflows/{workflow}/events");
    assert_eq!(completed(&events(&ask(second.address, "GET", &path, "").await)), DECIDED);
    assert_ran_once(&second);
}

#[actix_web::test]
async fn a_question_outlives_the_client_that_started_its_run() {
    let world = parking();
    let mut socket = client::ws(world.address, &[]).await.unwrap();
    socket.send(json!({ "message": "plan", "conversation_id": "talk" })).await;
    let asked = socket.find(is_question).await;
    let (workflow, id) = (asked["workflow_id"].as_str().unwrap(), question_id(&asked));
    drop(socket);
    parked(&world).await;
    until("the socket is gone", || world.api.connections.open() == 0).await;
    let body = json!({ "request_id": id, "response": "go" }).to_string();
    let path = format!("/api/chat/talk/respond?workflow_id={workflow}");
    assert_eq!(ask(world.address, "POST", &path, &body).await.status, 200);
    let path = format!("/api/v1/history/{workflow}");
    let entry = loop {
        let answer = ask(world.address, "GET", &path, "").await;
        if answer.status == 200 {
            break answer.json();
        }
        actix_web::rt::task::yield_now().await;
    };
    assert_eq!(entry["result"], DECIDED);
    let talk = ask(world.address, "GET", "/api/v1/conversations/talk", "").await.json();
    assert_eq!(talk["messages"][1]["content"], DECIDED);
    assert_ran_once(&world);
}

#[actix_web::test]
async fn an_expired_and_a_withdrawn_question_and_that_of_a_cancelled_run_are_closed() {
    for message in ["brief", "raced", "plan"] {
        let world = parking();
        let mut socket = client::v2(world.address).await;
        socket.send(json!({ "type": "chat.send", "message": message })).await;
        let asked = socket.find(is_question).await;
        let (workflow, id) = (asked["workflow_id"].clone(), asked["data"]["request_id"].clone());
        if message == "plan" {
            parked(&world).await;
            socket.send(json!({ "type": "chat.cancel", "workflow_id": workflow })).await;
            socket.find(|event| event["type"] == "cancelled").await;
        } else {
            let answer = socket.find(|event| event["type"] == "response.completed").await;
            assert_eq!(answer["message"], "nobody decided");
        }
        socket.find(|event| event["type"] == "done").await;
        let respond = json!({ "type": "chat.respond", "workflow_id": workflow, "request_id": id, "response": "go" });
        socket.send(respond).await;
        assert_eq!(socket.next().await.unwrap()["data"]["code"], "request_closed", "{message}");
        assert_eq!(world.sessions.admission().live(), 0);
    }
}

async fn parked_somewhere(world: &World) {
    until("the question", || world.script.tools.load(Ordering::SeqCst) == 1).await;
    parked(world).await;
}

/// The id of the run's question, as a page of its log shows it.
async fn open_question(world: &World, workflow: &str) -> String {
    let path = format!("http://{}/api/v1/workflows/{workflow}/events", world.address);
    let page = reqwest::Client::new().get(path).header("accept", "application/json").send().await.unwrap();
    let page: Value = page.json().await.unwrap();
    let question = page["events"].as_array().unwrap().iter().find(|event| is_question(event));
    question_id(question.unwrap_or_else(|| panic!("no question: {page:#}")))
}
