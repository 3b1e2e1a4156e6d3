//! Children of ended runs: one that cannot go on is in nobody's way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agentic_fleet::runtime::SystemClock;
use agentic_fleet::workflow::{SUPERVISOR_VERSION, SUPERVISOR_WORKFLOW};
use fleet_actors::event::Audience;
use fleet_actors::ids::{Timestamp, WorkflowId};
use fleet_actors::journal::Context;
use fleet_actors::limits::RunLimits;
use fleet_actors::ports::{
    ChatMessage, ChildRun, LocalFuture, ModelRequest, OutputForm, Role, RunOutput, Store as _, StoreError, TaskInput,
    WorkflowFn, Workflows,
};
use fleet_actors::recovery;
use fleet_actors::testing::{CommitFault, MemoryStore};
use fleet_actors::turn::{StepResult, Turn};

use crate::client::ask;
use crate::world::{Recipe, until};

const CHILD: &str = "Child";
/// So many cannot go on.
const STUCK: usize = 5;

struct Family;

impl Workflows for Family {
    fn find(&self, name: &str, version: u32) -> Option<WorkflowFn> {
        match (name, version) {
            (SUPERVISOR_WORKFLOW, SUPERVISOR_VERSION) => Some(parent as WorkflowFn),
            (CHILD, 1) => Some(child),
            _ => None,
        }
    }
}

fn parent<'a>(_: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    let child = ChildRun { name: CHILD.into(), version: 1, input: input.clone() };
    Box::pin(async move { Ok(RunOutput { text: "done".to_owned(), children: vec![child], ..RunOutput::default() }) })
}

/// Asks a model once.
fn child<'a>(turn: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let request = ModelRequest {
            model: "test".into(),
            agent: None,
            audience: Audience::Workflow,
            context: Context::default().with(ChatMessage::new(Role::User, input.message.clone())),
            tools: Arc::from([]),
            output: OutputForm::Text,
            temperature: None,
            max_output_tokens: None,
        };
        let reply = turn.model("look", request).await?;
        Ok(RunOutput { text: reply.text, ..RunOutput::default() })
    })
}

#[actix_web::test]
async fn children_that_cannot_go_on_keep_the_one_behind_them_waiting_for_no_time() {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let limits = RunLimits { children_max: 1, ..RunLimits::default() };
    let recipe = Recipe::over(Arc::new(store.clone()), Arc::new(SystemClock));
    let world = Recipe { workflows: Arc::new(Family), limits, ..recipe }.serve();
    for _ in 0..=STUCK {
        let answer = ask(world.address, "POST", "/api/v1/run", r#"{"task":"go"}"#).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let born = store.adopt_children(Timestamp(i64::MAX), 100).await.unwrap();
    assert_eq!((born.len(), world.script.calls()), (STUCK + 1, 0));

    let stuck: BTreeSet<WorkflowId> = born[..STUCK].iter().map(|row| row.workflow.clone()).collect();
    let refused = Arc::new(AtomicU32::new(0));
    let count = refused.clone();
    store.on_commit(move |appends| {
        if appends.iter().any(|append| stuck.contains(&append.claim.workflow)) {
            count.fetch_add(1, Ordering::SeqCst);
            return CommitFault::RefuseBefore(StoreError::Full);
        }
        CommitFault::Proceed
    });
    let (sessions, began) = (world.sessions.clone(), Instant::now());
    actix_web::rt::spawn(async move { recovery::child_queue(&sessions).await });
    until("the last one asks its model", || world.script.calls() == 1).await;
    let took = began.elapsed();
    assert!(refused.load(Ordering::SeqCst) >= 5, "they were tried before it");
    assert!(took < Duration::from_secs(5), "it waited {took:?}");
}
