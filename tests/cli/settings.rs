//! Settings that only show over time or by number: each with what it does.

use std::sync::Arc;
use std::time::Duration;

use agentic_fleet::llm::LlmConfig;
use agentic_fleet::runtime::{workflow_config, writer_limits};
use agentic_fleet::settings::{Durability, Flags, Settings, Sources};
use agentic_fleet::storage::{SqliteOptions, SqliteStore};
use agentic_fleet::workflow::WorkflowConfig;
use fleet_actors::admission::Admission;
use fleet_actors::checkpoint::CheckpointActor;
use fleet_actors::event::{Answer, EventBody};
use fleet_actors::ids::{Epoch, Position, Seq, Timestamp, WorkflowId};
use fleet_actors::limits::RunLimits;
use fleet_actors::ports::{
    Append, Claim, Clock, LocalFuture, NewWorkflow, Next, OnDisconnect, Outcome, RecordRow, RunOutput, Store,
    TaskInput, WorkflowFn, Workflows,
};
use fleet_actors::sessions::{Sessions, StartTurn, StreamItem};
use fleet_actors::stream::Logs;
use fleet_actors::supervisor::Services;
use fleet_actors::testing::{ManualClock, MemoryStore, NoTools, plain};
use fleet_actors::turn::{StepResult, Turn};
use serde_json::{Value, json};

use crate::process::{Place, get, get_until, until};

fn with(variables: &[(&str, &str)]) -> Settings {
    let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Settings::load(&Sources { flags: Flags::default(), environment }).unwrap().settings
}

#[tokio::test]
async fn the_list_of_sessions_remembers_as_many_ended_runs_as_recent_max_says() {
    let mut place = Place::new();
    place.set("FLEET_SESSIONS__RECENT_MAX", "2");
    let url = place.serve();
    let mut made: Vec<String> = (0..4).map(|n| place.ran(&format!("please run {n}"))).collect();
    made.reverse();
    let sessions = get_until(&format!("{url}/api/v1/sessions"), |list| list.as_array().unwrap().len() == 2).await;
    let listed: Vec<&str> = sessions.as_array().unwrap().iter().map(|s| s["workflow_id"].as_str().unwrap()).collect();
    assert_eq!(listed, made[..2]);
    assert_eq!(get(&format!("{url}/api/v1/sessions/{}", made[3])).await["status"], "completed", "by id from the store");
}

#[test]
fn a_question_stays_open_as_long_as_the_settings_said_when_its_run_began() {
    let settings = with(&[("FLEET_SESSIONS__QUESTION_EXPIRY_MS", "1500")]);
    let pinned = workflow_config(&settings).unwrap();
    assert_eq!(pinned["question_expiry_ms"], 1500);
    let config: WorkflowConfig = serde_json::from_value(pinned.clone()).unwrap();
    let question = config.question("approval", json!({ "plan": "buy" }));
    assert_eq!((question.expires_in, &*question.request_type), (Duration::from_millis(1500), "approval"));
    assert_eq!(asked_under(&pinned), "nobody answered in time");

    // A run that was pinned before the key was there.
    let mut older = pinned;
    older.as_object_mut().unwrap().remove("question_expiry_ms");
    let config: WorkflowConfig = serde_json::from_value(older).unwrap();
    assert_eq!(config.question("approval", json!({})).expires_in, Duration::from_secs(86_400));
}

/// A workflow that asks as its pinned configuration says.
struct Asks;

impl Workflows for Asks {
    fn find(&self, _: &str, _: u32) -> Option<WorkflowFn> {
        Some(ask as WorkflowFn)
    }
}

fn ask<'a>(turn: &'a mut Turn, _: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let config = turn.pinned::<WorkflowConfig>()?;
        let text = match turn.ask_human("plan", config.question("approval", json!({ "plan": "buy" }))).await.answer {
            Answer::Given(answer) => answer.to_string(),
            Answer::Expired => "nobody answered in time".to_owned(),
        };
        Ok(RunOutput { text, ..RunOutput::default() })
    })
}

/// What a run says that asks a question under this configuration.
fn asked_under(config: &Value) -> String {
    actix_web::rt::System::new().block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(agentic_fleet::runtime::SystemClock);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        let arbiter = actix::Arbiter::current();
        let services = Services {
            meter: Arc::default(),
            tracer: None,
            checkpoints: CheckpointActor::start_on(&arbiter, store.clone(), Arc::new(|_| {})),
            store: store.clone(),
            clock: clock.clone(),
            agents: agentic_fleet::llm::clients(&LlmConfig::default()).unwrap(),
            tools: Arc::new(NoTools),
            cache: Arc::new(fleet_actors::cache::MemoryCache::new(
                Arc::new(fleet_actors::testing::ManualClock::default()),
                16,
            )),
            workflows: Arc::new(Asks),
            logs: Logs::new(8),
            limits: RunLimits::default(),
        };
        let sessions = Sessions::start_on(&arbiter, services, Admission::new(1));
        let workflow = WorkflowId::generate();
        let made = plain::made("asks", "ask", clock.now());
        let made = NewWorkflow { on_disconnect: OnDisconnect::Continue, ..made };
        let input = plain::task("ask");
        let (config, message) = (config.clone().into(), None);
        let turn = StartTurn { workflow: workflow.clone(), made, input, config, message, detached: true };
        let began = std::time::Instant::now();
        let mut events = sessions.start(turn, sessions.admit().unwrap()).await.unwrap();
        let mut asked = false;
        loop {
            match events.next().await.unwrap() {
                StreamItem::Event(event) => asked |= matches!(event.body, EventBody::Asked { .. }),
                StreamItem::End => break,
                StreamItem::Rests(rest, text) => panic!("{rest:?}: {text}"),
            }
        }
        assert!(asked && began.elapsed() >= Duration::from_millis(1_500), "{:?}", began.elapsed());
        store.history_entry(&workflow).await.unwrap().unwrap().result.unwrap().text
    })
}

#[test]
fn the_writer_is_bounded_by_what_the_settings_say() {
    let settings = with(&[
        ("FLEET_STORAGE__QUEUE_ASKS_MAX", "11"),
        ("FLEET_STORAGE__BATCH_ASKS_MAX", "12"),
        ("FLEET_STORAGE__BATCH_BYTES_MAX", "4097"),
        ("FLEET_STORAGE__PROBE_INTERVAL_MS", "14"),
    ]);
    let limits = writer_limits(&settings.storage);
    assert_eq!((limits.queue_max, limits.group_max, limits.group_bytes_max), (11, 12, 4_097));
    assert_eq!(limits.probe_interval, Duration::from_millis(14));
}

/// A workflow that ran and completed at this time.
fn completed(id: &str, at: Timestamp) -> Append {
    let record = RecordRow {
        position: Position(1),
        epoch: Epoch(0),
        seq: Some(Seq(1)),
        kind: "finished".into(),
        path: "".into(),
        head: b"{}".to_vec(),
        body: None,
    };
    let made = plain::made("SupervisorWorkflow", "an old task", at);
    let workflow = WorkflowId::from_trusted(id);
    let entry = plain::entry(workflow.clone(), &made, at);
    Append {
        create: Some(Box::new(made)),
        next: Next::Ended(Arc::new(entry)),
        ..plain::append(Claim { workflow, epoch: Epoch(0) }, Position(0), vec![record])
    }
}

#[tokio::test]
async fn history_past_its_retention_goes_with_its_journal_and_its_line_and_younger_history_stays() {
    const DAY: i64 = 86_400_000;
    let mut place = Place::new();
    let data = place.dir.path().join(".var");
    let now = agentic_fleet::runtime::SystemClock.now();
    let young: Vec<String> = (0..2).map(|n| format!("young-{n}")).collect();
    let old: Vec<String> = (0..25).map(|n| format!("old-{n}")).collect();
    {
        let options = SqliteOptions { durability: Durability::Process, ..SqliteOptions::new(&data) };
        let store = SqliteStore::open(&options, Arc::new(ManualClock::at(now))).unwrap();
        let old = old.iter().map(|id| completed(id, Timestamp(now.0 - 3 * DAY)));
        let young = young.iter().map(|id| completed(id, Timestamp(now.0 - DAY)));
        let outcomes = store.commit(old.chain(young).map(Arc::new).collect()).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done { .. })), "{outcomes:?}");
    }
    let file = data.join("logs/execution_history.jsonl");
    let lines = |word: &str| {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.lines().filter(|line| line.contains(word) && line.contains("an old task")).count()
    };
    // For ever, by default.
    place.set("FLEET_STORAGE__SWEEP_INTERVAL_MS", "20");
    let url = place.serve();
    until("the export has every line", || lines("-") == 27);
    assert_eq!(get(&format!("{url}/api/v1/history?limit=100")).await.as_array().unwrap().len(), 27);
    place.kill();
    // In transactions of ten rows.
    place.set("FLEET_STORAGE__HISTORY_RETENTION_DAYS", "2");
    place.set("FLEET_STORAGE__SWEEP_ROWS_MAX", "10");
    let url = place.serve();
    let left = get_until(&format!("{url}/api/v1/history?limit=100"), |list| list.as_array().unwrap().len() < 3).await;
    let left: Vec<&str> = left.as_array().unwrap().iter().map(|entry| entry["workflow_id"].as_str().unwrap()).collect();
    assert_eq!(left, ["young-1", "young-0"]);
    assert_eq!(get(&format!("{url}/api/v1/sessions/old-0")).await["code"], "not_found", "its journal went, too");
    assert_eq!(get(&format!("{url}/api/v1/sessions/young-0")).await["status"], "completed");
    until("the lines go", || (lines("old-"), lines("young-")) == (0, 2));
}

#[test]
fn settings_that_had_no_use_are_unknown_now() {
    let dir = tempfile::tempdir().unwrap();
    for key in ["stream_retention_ms", "watcher_queue_events_max"] {
        std::fs::write(dir.path().join("old.yaml"), format!("sessions:\n  {key}: 100\n")).unwrap();
        let said =
            crate::process::ended(crate::process::binary(dir.path(), &["config", "check", "--config", "old.yaml"]));
        assert!(said.code == 2 && said.err.contains(key) && said.err.contains("old.yaml:2"), "{said:?}");
    }
}
