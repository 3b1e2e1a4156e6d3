//! Against a server over HTTP that hangs, redirects, answers nonsense or too much.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentic_fleet::tools::mcp::McpState;
use serde_json::json;

use crate::hostile::down;
use crate::{Fleet, PATIENCE, until};

/// The hostile server, killed on drop, and the fleet that is to use it.
struct Pair {
    child: Child,
    fleet: Fleet,
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pair(mode: &str, limits: &str) -> Pair {
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp/servers/hostile_http.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(mode).arg(dir.path()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("python3 is needed");
    let mut port = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut port).expect("its port");
    let yaml = format!(
        "mcp: {{ backoff_ms: 50, backoff_ms_max: 100, {limits} }}\nmcp_servers:\n  h:\n    transport: http\n    \
         url: http://127.0.0.1:{}/mcp\n    headers_env: {{ Authorization: H_AUTH }}\n",
        port.trim()
    );
    Pair { child, fleet: Fleet::again(&dir, &yaml, &[("H_AUTH", "Bearer sesame-77")]) }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_takes_no_key_elsewhere() {
    let pair = pair("redirect", "");
    pair.fleet.until("h", down).await;
    let paths = pair.fleet.left("paths");
    assert!(paths.iter().all(|path| path.starts_with("/mcp initialize Bearer sesame-77")), "{paths:?}");
    assert!(!paths.is_empty());
}

#[tokio::test]
async fn a_server_that_never_answers_or_answers_a_page_is_down() {
    let silent = pair("silent", "connect_timeout_ms: 300, list_timeout_ms: 200");
    let began = Instant::now();
    assert!(silent.fleet.offers("mcp:h").await.is_empty());
    silent.fleet.until("h", down).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    pair("html", "").fleet.until("h", down).await;
}

#[tokio::test]
async fn calls_that_hang_are_cancelled_and_leave_room_for_others() {
    let pair = pair("good", "call_timeout_ms: 200, timeouts_max: 1000, calls_max: 2");
    pair.fleet.ready("h").await;
    for _ in 0..8 {
        let failure = pair.fleet.call("mcp__h__hang", json!({})).await.expect_err("no answer");
        assert_eq!(&*failure.code, "mcp_timeout");
    }
    until("the server hears of each", || (pair.fleet.left("cancelled").len() == 8).then_some(())).await;
    assert_eq!(pair.fleet.call("mcp__h__echo", json!({})).await.expect("there is room").text, "x");
    assert!(matches!(pair.fleet.state("h"), McpState::Ready { .. }));
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_cut_off_fails_its_call_and_the_server_comes_back() {
    let pair = pair("good", "message_bytes_max: 1000000, call_timeout_ms: 20000");
    pair.fleet.ready("h").await;
    for tool in ["mcp__h__huge", "mcp__h__slam"] {
        let began = Instant::now();
        let failure = pair.fleet.call(tool, json!({})).await.expect_err("no answer of use");
        assert_eq!(&*failure.code, "mcp_unavailable", "{failure:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(!failure.message.contains("sesame"), "{failure:?}");
        let end = Instant::now() + PATIENCE;
        let mut echoed = pair.fleet.call("mcp__h__echo", json!({})).await;
        while echoed.is_err() && Instant::now() < end {
            pair.fleet.ready("h").await;
            echoed = pair.fleet.call("mcp__h__echo", json!({})).await;
        }
        echoed.expect("an echo");
    }
}
