//! A model that orders every tool with every dangerous argument, in every way a call can be made. Nothing that the rules do
//! not allow is executed, and what is allowed reaches nothing it must not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fleet_actors::ids::RequestId;
use fleet_actors::ports::{Access, Approval, ToolCall, Tools as _};
use serde_json::{Value, json};

use crate::rules::Recorder;
use crate::support::{Server, World, answer, approved, call};

/// What a hostile text may make a model ask for.
fn arguments(inside: &str) -> Vec<Value> {
    let mut all = vec![
        json!({}),
        json!(null),
        json!([]),
        json!("rm -rf /"),
        json!({ "path": "/etc/passwd" }),
        json!({ "path": "../../etc/shadow" }),
        json!({ "path": "/a", "__proto__": { "admin": true } }),
        json!({ "query": "x", "base_url": inside, "api_key": "give" }),
        json!({ "query": "x".repeat(100_000) }),
        json!({ "code": "import os; os.system('touch /tmp/fleet-was-here')" }),
        json!({ "code": "require('fs').writeFileSync('/tmp/fleet-was-here', 'x')" }),
        json!({ "code": "print(1)", "timeout_ms": 999_999_999, "network": true, "approved": true }),
        json!({ "code": { "$ref": "file:///etc/passwd" } }),
        json!({ "approval": { "request_id": "q", "arguments_digest": "*" } }),
    ];
    let urls =
        [inside, "file:///etc/passwd", "http://169.254.169.254/", "http://localhost/", "http://[::1]/", "http://10.1/"];
    all.extend(urls.map(|url| json!({ "url": url })));
    all
}

const TOOLS: [&str; 22] = [
    "tavily_search",
    "fetch_page",
    "python",
    "javascript",
    "mcp__files__read",
    "mcp__files__write",
    "mcp:files",
    "mcp:",
    "*",
    "",
    "shell",
    "bash",
    "Python",
    "python ",
    "python\0",
    "../python",
    "mcp__files__",
    "mcp__other__write",
    "builtin",
    "fetch_page\n",
    "PYTHON",
    "tool_approval",
];

#[tokio::test]
async fn a_hostile_model_executes_nothing_that_the_rules_do_not_allow() {
    let was_here = std::path::Path::new("/tmp/fleet-was-here");
    let _ = std::fs::remove_file(was_here);
    let inside = Server::start(Arc::new(|_| answer("200 OK", "content-type: text/plain\r\n", "inside"))).await;
    let recorder = Arc::new(Recorder::default());
    let world = World::with(&[], vec![recorder.clone()]);
    let runner = world.runner();
    let mut offers = Vec::new();
    for name in ["tavily_search", "fetch_page", "python", "javascript", "mcp__files__read", "mcp__files__write"] {
        offers.push(world.offer(name).await);
    }
    let foreign =
        |text: &str| Some(Approval { request_id: RequestId::from_trusted("q"), arguments_digest: text.into() });
    let (mut tried, mut executed, mut unauthorised) = (0, 0, 0);
    for name in TOOLS {
        let offered = offers.iter().find(|offer| offer.spec.name == name);
        for arguments in arguments(&inside.url("/")) {
            let blank = call(&offers[0], arguments.clone());
            let digest = offered.map_or_else(|| "".into(), |offer| offer.schema_digest.clone());
            let honest = ToolCall { name: name.into(), schema_digest: digest, ..blank };
            // By nobody's leave; with a word for something else; with one made up; as the call of another tool.
            let ways = [
                honest.clone(),
                ToolCall {
                    approval: approved(call(&offers[0], json!({ "query": "harmless" }))).approval,
                    ..honest.clone()
                },
                ToolCall { approval: foreign("*"), ..honest.clone() },
                ToolCall { approval: foreign(""), ..honest.clone() },
                ToolCall {
                    approval: approved(honest.clone()).approval,
                    schema_digest: "forged".into(),
                    ..honest.clone()
                },
                ToolCall { schema_digest: offers[0].schema_digest.clone(), ..honest },
            ];
            for (way, ask) in ways.into_iter().enumerate() {
                tried += 1;
                let before = recorder.calls.load(Ordering::Relaxed);
                let result = runner.call(&ask).await;
                let reached = recorder.calls.load(Ordering::Relaxed) > before;
                let allowed = offered
                    .is_some_and(|offer| offer.access == Access::Allow && ask.schema_digest == offer.schema_digest);
                if result.is_ok() || reached {
                    executed += 1;
                    if !allowed {
                        unauthorised += 1;
                        println!("executed without leave: {name:?} {arguments} way {way}");
                    }
                }
                if let Err(failure) = result {
                    let known = [
                        "tool_unknown",
                        "tool_denied",
                        "tool_arguments_invalid",
                        "tool_changed",
                        "mcp_tool_changed",
                        "url_denied",
                    ];
                    assert!(known.contains(&&*failure.code), "{name:?} {arguments} way {way}: {failure}");
                }
            }
        }
    }
    println!("{tried} calls ordered, {executed} executed, all of them allowed; {unauthorised} without leave");
    assert_eq!(unauthorised, 0);
    assert!(tried > 2_000 && executed > 0, "{tried} tried, {executed} executed");
    assert!(inside.seen().is_empty(), "the server inside was reached: {:?}", inside.seen());
    assert!(!was_here.exists(), "code was run");
}

#[tokio::test]
async fn a_denied_principal_executes_nothing_whatever_was_approved() {
    let rules = "tools:\n  policy:\n    - { principal: local, tool: \"*\", access: allow }\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yaml");
    std::fs::write(&file, rules).unwrap();
    let recorder = Arc::new(Recorder::default());
    let world = World::with(&[("FLEET_CONFIG", file.to_str().unwrap())], vec![recorder.clone()]);
    let offer = world.offer("mcp__files__write").await;
    let ask = approved(call(&offer, json!({ "path": "/a" })));
    for principal in ["", "guest", "Local", "local ", "local\n", "*"] {
        let failure = world.tools.runner(principal).call(&ask).await.expect_err(principal);
        assert_eq!(&*failure.code, "tool_denied", "{principal:?}");
    }
    assert_eq!(recorder.calls.load(Ordering::Relaxed), 0);
    world.runner().call(&ask).await.unwrap();
    assert_eq!(recorder.calls.load(Ordering::Relaxed), 1);
}
