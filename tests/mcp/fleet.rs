//! MCP tools behind the fleet's door: rules, approvals and pins together.

use std::rc::Rc;
use std::sync::Arc;

use agentic_fleet::tools::FleetTools;
use agentic_fleet::tools::mcp::McpState;
use agentic_fleet::tools::policy::Policy;
use fleet_actors::event::Failure;
use fleet_actors::ids::{RequestId, WorkflowId};
use fleet_actors::ports::{Access, Approval, ToolCall, ToolOffer, ToolOutput, ToolRunner, Tools as _};
use serde_json::{Value, json};

use crate::Fleet;
use crate::hostile::{down, hostile};

/// What a run sees of the servers under the rules that are the default.
fn runner(fleet: &Fleet) -> Rc<dyn ToolRunner> {
    FleetTools::new(vec![Arc::new(fleet.servers.clone())], Policy::new(&fleet.settings.tools.policy), 65_536)
        .runner("p")
}

async fn offers(runner: &dyn ToolRunner) -> Vec<ToolOffer> {
    runner.offers(&["mcp:h".to_owned()]).await
}

async fn call(
    runner: &dyn ToolRunner,
    offer: &ToolOffer,
    arguments: Value,
    approved: Option<&Value>,
) -> Result<ToolOutput, Failure> {
    let name: Arc<str> = offer.spec.name.as_str().into();
    let approval = approved.map(|arguments| Approval {
        request_id: RequestId::generate(),
        arguments_digest: ToolCall::arguments_digest(&name, arguments),
    });
    let call = ToolCall {
        workflow: WorkflowId::generate(),
        agent: None,
        name,
        arguments,
        schema_digest: offer.schema_digest.clone(),
        approval,
        idempotency_key: "key-2".into(),
        attempt: 1,
    };
    runner.call(&call).await
}

fn code(outcome: Result<ToolOutput, Failure>) -> String {
    outcome.expect_err("a refusal").code.to_string()
}

#[tokio::test]
async fn a_write_needs_a_humans_word_for_its_very_arguments_and_a_read_does_not() {
    let fleet = Fleet::start(&hostile("good", "", "    read_only: [echo]\n"), &[]);
    fleet.ready("h").await;
    let runner = runner(&fleet);
    let offers = offers(&*runner).await;
    let named = |name: &str| offers.iter().find(|offer| offer.spec.name == name).expect("an offer");
    let (echo, slow) = (named("mcp__h__echo"), named("mcp__h__slow"));
    assert_eq!((echo.access, slow.access, named("mcp__h__claims").access), (Access::Allow, Access::Ask, Access::Ask));
    assert_eq!(&*echo.source, "h");

    let arguments = json!({"seconds": 0});
    call(&*runner, echo, json!({"a": 1}), None).await.expect("a read");
    assert_eq!(code(call(&*runner, slow, arguments.clone(), None).await), "tool_denied");
    assert_eq!(code(call(&*runner, slow, arguments.clone(), Some(&json!({"seconds": 1}))).await), "tool_denied");
    assert!(fleet.left("started").is_empty(), "it was called without a word");
    call(&*runner, slow, arguments.clone(), Some(&arguments)).await.expect("approved");
    assert_eq!(fleet.left("started").len(), 1);
    assert_eq!(fleet.left("keys"), ["key-2", "key-2"]);
}

#[tokio::test]
async fn a_tool_that_changed_under_a_run_is_refused_although_it_was_approved() {
    let fleet = Fleet::start(&hostile("good", "", "    read_only: [echo, rewritten]\n"), &[]);
    fleet.ready("h").await;
    let runner = runner(&fleet);
    let before = offers(&*runner).await;
    let named = |offers: &[ToolOffer], name: &str| {
        offers.iter().find(|offer| offer.spec.name == name).expect("an offer").clone()
    };
    let old = named(&before, "mcp__h__rewritten");
    call(&*runner, &old, json!({}), None).await.expect("unchanged");
    std::fs::write(fleet.dir.path().join("description"), "Reads a file and mails it.").expect("written");
    call(&*runner, &named(&before, "mcp__h__echo"), json!({"announce": true}), None).await.expect("an echo");
    fleet.until("h", |state| matches!(state, McpState::Ready { changed: 1, .. })).await;
    assert_eq!(code(call(&*runner, &old, json!({}), Some(&json!({}))).await), "mcp_tool_changed");
    let new = named(&offers(&*runner).await, "mcp__h__rewritten");
    assert!(new.unavailable.as_ref().is_some_and(|reason| reason.contains(&*new.schema_digest)), "{new:?}");
    code(call(&*runner, &new, json!({}), Some(&json!({}))).await);
    assert_eq!(fleet.left("keys").len(), 2, "a refused call reached the server");
}

#[tokio::test]
async fn a_call_of_a_server_that_went_down_says_so_and_not_that_there_is_no_such_tool() {
    let yaml = hostile("good", "list_timeout_ms: 300", "    read_only: [echo, die]\n");
    let fleet = Fleet::start(
        &yaml.replace("backoff_ms: 50, backoff_ms_max: 200", "backoff_ms: 3000, backoff_ms_max: 3000"),
        &[],
    );
    fleet.ready("h").await;
    let runner = runner(&fleet);
    let offers = offers(&*runner).await;
    let named = |name: &str| offers.iter().find(|offer| offer.spec.name == name).expect("an offer");
    assert_eq!(code(call(&*runner, named("mcp__h__die"), json!({}), None).await), "mcp_unavailable");
    fleet.until("h", down).await;
    assert_eq!(code(call(&*runner, named("mcp__h__echo"), json!({}), None).await), "mcp_unavailable");
    fleet.ready("h").await;
    call(&*runner, named("mcp__h__echo"), json!({}), None).await.expect("it is back");
    // One that never came up.
    let dead = Fleet::start(&hostile("dead", "list_timeout_ms: 300", ""), &[]);
    dead.until("h", down).await;
    let runner = self::runner(&dead);
    assert_eq!(code(call(&*runner, named("mcp__h__echo"), json!({}), None).await), "mcp_unavailable");
}
