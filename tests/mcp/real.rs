//! Against the official Python SDK, installed by name from PyPI into `target/mcp-venv` when it is not there.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use agentic_fleet::tools::Reach;
use agentic_fleet::tools::mcp::McpState;
use fleet_actors::ports::EffectPolicy;
use serde_json::json;

use crate::{Fleet, running};

/// What is installed.
const PACKAGE: &str = "mcp==2.3.0";

/// The Python that has the SDK; none where it cannot be had, which is said loudly.
fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(install).as_deref()
}

fn install() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.to_owned();
    // Tests are processes of their own: one of them installs, the others wait.
    let lock = std::fs::File::create(target.join("mcp-venv.lock")).expect("a file in target");
    lock.lock().expect("the lock");
    let venv = target.join("mcp-venv");
    let python = venv.join("bin/python");
    let has = |python: &Path| {
        let imports = Command::new(python).args(["-c", "from mcp.server import MCPServer"]).output();
        imports.is_ok_and(|output| output.status.success())
    };
    if has(&python) {
        return Some(python);
    }
    let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).output();
    let installed = Command::new(&python).args(["-m", "pip", "install", "-q", PACKAGE]).output();
    if has(&python) {
        return Some(python);
    }
    eprintln!("NOT RUN: {PACKAGE} cannot be installed from PyPI\n{made:?}\n{installed:?}");
    // On a machine that must have it, a silent gap would be a failure.
    assert!(std::env::var_os("CI").is_none(), "the tests against a real MCP server did not run");
    None
}

/// A server over HTTP, killed on drop.
struct Http {
    child: Child,
    port: u16,
}

impl Http {
    fn start(python: &Path, kind: &str, port: u16, authorization: &str) -> Self {
        let mut child = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp/servers/real.py"))
            .args([kind, &port.to_string()])
            .env("EXPECTED_AUTHORIZATION", authorization)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("its port");
        Self { child, port: line.trim().parse().expect("a port") }
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stdio(python: &Path, more: &str) -> String {
    let python = python.display();
    format!(
        "mcp_servers:\n  real:\n    transport: stdio\n    command: {python}\n    args: [$TESTS/real.py, stdio, $DIR]\n{more}"
    )
}

fn http(port: u16, more: &str) -> String {
    format!("mcp_servers:\n  real:\n    transport: http\n    url: http://127.0.0.1:{port}/mcp\n{more}")
}

/// What holds over every transport.
async fn works(fleet: &Fleet) {
    fleet.ready("real").await;
    let offers = fleet.offers("mcp:real").await;
    let names: Vec<&str> = offers.iter().map(|offer| offer.spec.name.as_str()).collect();
    assert!(names.contains(&"mcp__real__add") && names.contains(&"mcp__real__describe"), "{names:?}");
    let add = fleet.offer("mcp__real__add").await;
    assert_eq!(add.spec.description, "Adds two numbers.");
    assert_eq!(add.spec.parameters["properties"]["a"]["type"], "integer");
    assert_eq!((&*add.source, &add.unavailable), ("real", &None));
    assert_eq!((add.effect, add.reach), (EffectPolicy::Ambiguous, Reach::Writes), "its word alone counts for nothing");

    let sum = fleet.call("mcp__real__add", json!({"a": 2, "b": 40})).await.expect("a sum");
    assert_eq!((sum.text.as_str(), &sum.degraded), ("42", &None));
    let thing = fleet.call("mcp__real__describe", json!({"name": "x", "tags": ["a", "b"]})).await.expect("a thing");
    assert_eq!(thing.data, json!({"name": "x", "tags": ["a", "b"], "count": 2}));
    let odd = names.iter().find(|name| name.starts_with("mcp__real__odd_name_tool_")).expect("a name that was changed");
    assert_eq!(fleet.call(odd, json!({"text": "abc"})).await.expect("a text").text, "cba");
    let picture = fleet.call("mcp__real__picture", json!({})).await.expect("a note");
    assert!(picture.text.contains("image/png") && picture.text.len() < 100, "{}", picture.text);
    assert_eq!(fleet.call("mcp__real__key", json!({})).await.expect("the key").text, "key-1");

    let failure = fleet.call("mcp__real__fail", json!({"reason": "no such thing"})).await.expect_err("a failure");
    assert_eq!(&*failure.code, "tool_failed");
    let wrong = fleet.call("mcp__real__add", json!({"a": "x"})).await.expect_err("wrong arguments");
    assert_eq!(&*wrong.code, "tool_failed");
    let unknown = fleet.call("mcp__real__nothing", json!({})).await.expect_err("no such tool");
    assert_eq!(&*unknown.code, "tool_unknown");
}

#[tokio::test]
async fn a_real_server_over_stdio_is_listed_and_called() {
    let Some(python) = python() else { return };
    let fleet = Fleet::start(&stdio(python, ""), &[]);
    works(&fleet).await;
    let names = fleet.call("mcp__real__environment", json!({})).await.expect("names").text;
    assert!(names.contains("PATH") && !names.contains("HOME") && !names.contains("CARGO"), "{names}");
}

#[tokio::test]
async fn a_real_server_over_streamable_http_is_listed_and_called() {
    let Some(python) = python() else { return };
    for kind in ["http", "http-json"] {
        let server = Http::start(python, kind, 0, "Bearer sesame-0451");
        let yaml = http(server.port, "    headers_env: { Authorization: REAL_AUTH }\n");
        works(&Fleet::start(&yaml, &[("REAL_AUTH", "Bearer sesame-0451")])).await;
    }
}

#[tokio::test]
async fn a_real_server_speaks_the_stateless_protocol_over_both_transports() {
    let Some(python) = python() else { return };
    works(&Fleet::start(&stdio(python, "    protocol: stateless\n"), &[])).await;
    let server = Http::start(python, "http", 0, "");
    works(&Fleet::start(&http(server.port, "    protocol: stateless\n"), &[])).await;
}

#[tokio::test]
async fn a_wrong_key_leaves_the_server_down_and_appears_nowhere() {
    let Some(python) = python() else { return };
    let server = Http::start(python, "http", 0, "Bearer sesame-0451");
    let yaml = http(server.port, "    headers_env: { Authorization: REAL_AUTH }\n");
    let fleet = Fleet::start(&yaml, &[("REAL_AUTH", "Bearer canary-8842")]);
    let state = fleet.until("real", |state| matches!(state, McpState::Down { .. })).await;
    assert!(!format!("{state:?}").contains("canary-8842"), "{state:?}");
    let failure = fleet.call("mcp__real__add", json!({})).await.expect_err("it is down");
    assert_eq!(&*failure.code, "mcp_unavailable");
    assert!(!failure.message.contains("canary-8842"), "{}", failure.message);
}

#[tokio::test]
async fn trusted_annotations_decide_what_a_crash_means() {
    let Some(python) = python() else { return };
    let fleet = Fleet::start(&stdio(python, "    trust_annotations: true\n"), &[]);
    fleet.ready("real").await;
    let add = fleet.offer("mcp__real__add").await;
    assert_eq!((add.effect, add.reach), (EffectPolicy::SafeToRepeat, Reach::Reads));
    let describe = fleet.offer("mcp__real__describe").await;
    assert_eq!((describe.effect, describe.reach), (EffectPolicy::SameKey, Reach::Writes));
    assert_eq!(fleet.offer("mcp__real__fail").await.effect, EffectPolicy::Ambiguous);
}

#[tokio::test]
async fn a_server_over_http_that_comes_back_is_found_again() {
    let Some(python) = python() else { return };
    let server = Http::start(python, "http", 0, "");
    let port = server.port;
    let fleet = Fleet::start(&format!("mcp: {{ backoff_ms: 50, backoff_ms_max: 200 }}\n{}", http(port, "")), &[]);
    works(&fleet).await;
    drop(server);
    let failure = fleet.call("mcp__real__add", json!({"a": 1, "b": 1})).await.expect_err("nobody is there");
    assert_eq!(&*failure.code, "mcp_unavailable");
    fleet.until("real", |state| matches!(state, McpState::Down { .. })).await;
    let _server = Http::start(python, "http", port, "");
    works(&fleet).await;
}

#[tokio::test]
async fn nothing_of_a_real_server_is_left_after_the_shutdown() {
    let Some(python) = python() else { return };
    let fleet = Fleet::start(&stdio(python, ""), &[]);
    fleet.ready("real").await;
    let place = fleet.dir.path().display().to_string();
    assert!(running(&place));
    fleet.servers.shutdown();
    assert!(!running(&place), "it runs on after the shutdown");
}
