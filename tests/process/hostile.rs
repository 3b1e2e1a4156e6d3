//! A model that orders every tool with every dangerous argument, inside the real pipeline over the real tools and rules:
//! nothing runs that nobody allowed, the log tells of each attempt, the model is told no, and the run ends.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::client::{Seen, read};
use crate::crowd::{open, until};
use crate::process::{ONE_AGENT, Process, client, get, log, simulate, start};

const WAS_HERE: &str = "/tmp/fleet-pipeline-was-here";

/// One agent with these tools under these rules; nobody's silence is a yes.
fn serve(dir: &Path, model: &str, rules: &str, expiry_ms: &str) -> (Process, String) {
    let file = format!(
        "agents:\n  executor:\n    tools: [python, javascript, fetch_page, tavily_search]\ntools:\n  policy:\n{rules}"
    );
    let config = dir.join("hostile.yaml");
    std::fs::write(&config, file).unwrap();
    let mut environment = vec![
        ("OPENAI_BASE_URL", model),
        ("FLEET_PIPELINE__DEFAULT_AGENT", "executor"),
        ("FLEET_SESSIONS__QUESTION_EXPIRY_MS", expiry_ms),
        ("FLEET_SESSIONS__PARK_AFTER_MS", "1"),
    ];
    environment.extend(ONE_AGENT);
    let arguments = ["serve", "--port", "0", "--config", config.to_str().unwrap()];
    let (server, docs) = start(&arguments, &environment, dir, "browser:");
    (server, docs.trim_end_matches("/docs").to_owned())
}

/// A server that must not be reached, and how often it was.
async fn inside() -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, reached) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = reached.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (format!("http://{address}/"), reached)
}

fn arguments(inside: &str) -> Vec<Value> {
    let code = format!("import os; os.system('touch {WAS_HERE}')");
    let script = format!("require('fs').writeFileSync('{WAS_HERE}', 'x')");
    vec![
        json!({}),
        json!([]),
        json!("rm -rf /"),
        json!({ "path": "../../etc/shadow", "__proto__": { "admin": true } }),
        json!({ "query": "x", "base_url": inside, "api_key": "give" }),
        json!({ "code": code }),
        json!({ "code": script }),
        json!({ "code": "print(1)", "network": true, "approved": true }),
        json!({ "approval": { "request_id": "q", "arguments_digest": "*" }, "decision": "approve" }),
        json!({ "url": inside }),
        json!({ "url": "file:///etc/passwd" }),
        json!({ "url": "http://169.254.169.254/latest/meta-data" }),
        json!({ "url": "http://localhost/" }),
        json!({ "url": "http://[::1]/" }),
    ]
}

/// Names without spaces, as a directive writes them.
const TOOLS: [&str; 12] = [
    "python",
    "javascript",
    "fetch_page",
    "tavily_search",
    "mcp__files__write",
    "mcp:files",
    "*",
    "shell",
    "Python",
    "../python",
    "ask_user",
    "handoff",
];

async fn said(http: &reqwest::Client, url: &str, task: &str) -> Vec<Value> {
    let response = http.post(format!("{url}/api/v1/runs")).json(&json!({ "task": task })).send().await.unwrap();
    assert_eq!(response.status(), 202, "{task}");
    let accepted: Value = response.json().await.unwrap();
    let workflow = accepted["workflow_id"].as_str().unwrap();
    until(task, async || get(http, format!("{url}/api/v1/history/{workflow}")).await["status"] == "completed").await;
    let mut seen = Seen::default();
    read(http, &format!("{url}/api/v1/workflows/{workflow}/events?version=2"), None, &mut seen).await;
    assert!(seen.is_done(), "{task}");
    seen.events
}

/// What became of the calls of a run: tool and outcome.
fn outcomes(events: &[Value]) -> Vec<(String, String)> {
    let calls = events.iter().filter(|event| event["data"]["kind"] == "tool_call" || event["kind"] == "tool_call");
    let text = |event: &Value, name: &str| event["data"][name].as_str().unwrap_or_default().to_owned();
    calls.map(|event| (text(event, "tool"), text(event, "outcome"))).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn a_model_that_orders_every_tool_with_every_dangerous_argument_executes_nothing_in_the_real_pipeline() {
    let _ = std::fs::remove_file(WAS_HERE);
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 0, 0);
    let rules = "    - { principal: \"*\", tool: fetch_page, access: allow }\n    - { principal: \"*\", tool: python, access: ask }\n    - { principal: \"*\", tool: javascript, access: deny }\n";
    let (_server, url) = serve(dir.path(), &model, rules, "100");
    let http = client();
    let (place, reached) = inside().await;
    let arguments = arguments(&place);
    let (mut tried, mut told) = (0, std::collections::BTreeMap::<String, usize>::new());
    for tool in TOOLS {
        // A round takes eight calls at most.
        for some in arguments.chunks(7) {
            let calls: Vec<_> =
                some.iter().map(|arguments| format!("[[sim:tool name={tool} args={arguments}]]")).collect();
            let events = said(&http, &url, &format!("work on it {}", calls.concat())).await;
            let outcomes = outcomes(&events);
            assert_eq!(outcomes.len(), some.len(), "{tool}: {events:#?}");
            for (called, outcome) in outcomes {
                assert_eq!(called, tool);
                let refused = ["unknown", "invalid", "denied", "expired", "failed", "unavailable"];
                assert!(refused.contains(&outcome.as_str()), "{tool} was {outcome}: {some:?}");
                tried += 1;
                *told.entry(outcome).or_default() += 1;
            }
        }
    }
    println!("{tried} calls ordered: {told:?}");
    assert_eq!(tried, TOOLS.len() * arguments.len());
    assert_eq!(reached.load(Ordering::SeqCst), 0, "the server inside was reached");
    assert!(!Path::new(WAS_HERE).exists(), "code was run");
    let log = log(dir.path());
    let attempts = |tool: &str| {
        log.lines().filter(|line| line.contains("tool_denied") && line.contains(&format!("\"{tool}\""))).count()
    };
    // Those whose arguments are no object are no calls at all.
    assert!(attempts("javascript") >= arguments.len() - 2, "{} attempts are in the log", attempts("javascript"));
    assert!(log.contains("url_denied"), "the addresses are in the log");
}

#[tokio::test(flavor = "current_thread")]
async fn what_the_model_asks_for_after_an_approval_is_asked_about_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 0, 0);
    let rules = "    - { principal: \"*\", tool: fetch_page, access: ask }\n";
    let (_server, url) = serve(dir.path(), &model, rules, "600000");
    let http = client();
    let (place, reached) = inside().await;
    let calls = [format!("{place}one"), format!("{place}two")]
        .map(|url| format!("[[sim:tool name=fetch_page args={}]]", json!({ "url": url })));
    let body = json!({ "task": format!("work on it {}", calls.concat()) });
    let accepted: Value =
        http.post(format!("{url}/api/v1/runs")).json(&body).send().await.unwrap().json().await.unwrap();
    let workflow = accepted["workflow_id"].as_str().unwrap().to_owned();
    until("both are asked about", async || open(&http, &url, "").await.len() == 2).await;
    let questions = open(&http, &url, "").await;
    let answer = async |question: &Value, response: Value| {
        let body = json!({ "request_id": question["request_id"], "response": response });
        let path = question["links"]["respond"].as_str().unwrap();
        http.post(format!("{url}{path}")).json(&body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(answer(&questions[0], json!({ "decision": "approve" })).await, 200);
    // One word is for one question; the same word again, or for the other's arguments, is for none.
    assert_eq!(answer(&questions[0], json!({ "decision": "approve" })).await, 409);
    assert_eq!(open(&http, &url, "").await.len(), 1, "the other is still open");
    assert_eq!(answer(&questions[1], json!({ "decision": "reject", "reason": "no" })).await, 200);
    let mut seen = Seen::default();
    read(&http, &format!("{url}/api/v1/workflows/{workflow}/events?version=2"), None, &mut seen).await;
    let mut ends: Vec<_> = outcomes(&seen.events).into_iter().map(|(_, outcome)| outcome).collect();
    ends.sort();
    // Approved is not allowed: the address inside stays closed.
    assert_eq!(ends, ["failed", "rejected"], "{:#?}", seen.events);
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}
