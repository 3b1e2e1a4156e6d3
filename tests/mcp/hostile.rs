//! Against a server that hangs, dies, floods, lies and changes its mind.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentic_fleet::settings::LogFilter;
use agentic_fleet::tools::mcp::{McpState, PINS_FILE};
use agentic_fleet::tools::{Provider as _, Reach};
use fleet_actors::ports::EffectPolicy;
use futures_util::future::join_all;
use serde_json::json;

use crate::{Fleet, alive, until};

/// One hostile server in this mode, with these limits and lines of its own.
pub fn hostile(mode: &str, limits: &str, more: &str) -> String {
    // Not `python3` itself: it may be a script that sets variables of its own.
    let ask = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let python = String::from_utf8(ask.expect("python3 is needed").stdout).expect("a path");
    let python = python.trim();
    format!(
        "mcp: {{ backoff_ms: 50, backoff_ms_max: 200, connect_timeout_ms: 5000, {limits} }}\n\
         mcp_servers:\n  h:\n    transport: stdio\n    command: {python}\n    \
         args: [$TESTS/hostile.py, {mode}, $DIR]\n{more}"
    )
}

pub fn down(state: &McpState) -> bool {
    matches!(state, McpState::Down { .. })
}

#[tokio::test]
async fn a_call_that_hangs_ends_at_its_timeout_and_the_server_is_told() {
    let fleet = Fleet::start(&hostile("good", "call_timeout_ms: 300", ""), &[]);
    fleet.ready("h").await;
    let began = Instant::now();
    let failure = fleet.call("mcp__h__hang", json!({})).await.expect_err("no answer");
    assert_eq!(&*failure.code, "mcp_timeout");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    until("the server hears of it", || (!fleet.left("cancelled").is_empty()).then_some(())).await;
    assert_eq!(fleet.call("mcp__h__echo", json!({"a": 1})).await.expect("an echo").text, "{\"a\": 1}");
    assert_eq!(fleet.left("protocol"), ["2025-11-25"]);
    assert_eq!(fleet.left("keys"), ["key-1", "key-1"], "the key travels with each call");
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_is_cancelled() {
    let fleet = Fleet::start(&hostile("good", "", ""), &[]);
    fleet.ready("h").await;
    let waited = tokio::time::timeout(Duration::from_millis(200), fleet.call("mcp__h__hang", json!({}))).await;
    assert!(waited.is_err());
    until("the server hears of it", || (!fleet.left("cancelled").is_empty()).then_some(())).await;
}

#[tokio::test]
async fn a_server_that_answers_nothing_is_started_anew() {
    let fleet = Fleet::start(&hostile("good", "call_timeout_ms: 100, timeouts_max: 2", ""), &[]);
    fleet.ready("h").await;
    for _ in 0..2 {
        assert_eq!(&*fleet.call("mcp__h__hang", json!({})).await.expect_err("no answer").code, "mcp_timeout");
    }
    until("there is a second process", || (fleet.left("starts").len() == 2).then_some(())).await;
    fleet.ready("h").await;
    assert!(!alive(&fleet.left("starts")[0]), "the first process is left");
}

#[tokio::test]
async fn a_server_that_dies_in_the_middle_of_a_call_fails_it_at_once_and_comes_back() {
    let fleet = Fleet::start(&hostile("good", "", ""), &[]);
    fleet.ready("h").await;
    let began = Instant::now();
    let failure = fleet.call("mcp__h__die", json!({})).await.expect_err("it died");
    assert_eq!(&*failure.code, "mcp_unavailable");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    until("there is a second process", || (fleet.left("starts").len() == 2).then_some(())).await;
    fleet.ready("h").await;
    fleet.call("mcp__h__echo", json!({})).await.expect("an echo");
}

#[tokio::test]
async fn a_server_that_cannot_start_is_tried_ever_more_seldom_and_its_calls_are_refused_at_once() {
    let yaml = hostile("dead", "", "").replace("backoff_ms_max: 200", "backoff_ms_max: 60000");
    let fleet = Fleet::start(&yaml.replace("backoff_ms: 50", "backoff_ms: 400"), &[]);
    until("it failed three times", || (fleet.left("starts").len() >= 3).then_some(())).await;
    fleet.until("h", down).await;
    let began = Instant::now();
    let failure = fleet.call("mcp__h__echo", json!({})).await.expect_err("it is down");
    assert_eq!(&*failure.code, "mcp_unavailable");
    assert!(failure.retry_after_ms.is_some(), "{failure:?}");
    assert!(fleet.offers("mcp:h").await.is_empty());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(fleet.servers.policy("mcp__h__echo"), Some(EffectPolicy::Ambiguous), "known without the server");
    assert_eq!(fleet.servers.policy("mcp__other__echo"), None);
}

#[tokio::test]
async fn a_server_that_never_shakes_hands_delays_a_run_by_no_more_than_the_time_for_lists() {
    let fleet = Fleet::start(&hostile("silent", "list_timeout_ms: 200", ""), &[]);
    let began = Instant::now();
    assert!(fleet.offers("mcp:h").await.is_empty());
    assert_eq!(&*fleet.call("mcp__h__echo", json!({})).await.expect_err("not ready").code, "mcp_unavailable");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn garbage_before_the_handshake_is_ignored_and_a_flood_without_a_line_is_cut_off() {
    let fleet = Fleet::start(&hostile("garbage", "", ""), &[]);
    fleet.ready("h").await;
    fleet.call("mcp__h__echo", json!({})).await.expect("an echo");
    let fleet = Fleet::start(&hostile("flood", "message_bytes_max: 1000000", ""), &[]);
    let state = fleet.until("h", down).await;
    assert!(!format!("{state:?}").contains("no handshake in"), "cut off by time and not by size: {state:?}");
}

#[tokio::test]
async fn a_server_that_asks_without_taking_our_answers_is_cut_off_and_one_that_takes_them_is_not() {
    let fleet = Fleet::start(&hostile("asks", "", ""), &[]);
    fleet.ready("h").await;
    fleet.until("h", down).await;
    let fleet = Fleet::start(&hostile("pings", "", ""), &[]);
    until("a thousand pings are answered", || (fleet.left("pongs").len() == 999).then_some(())).await;
    fleet.call("mcp__h__echo", json!({})).await.expect("an echo");
    assert_eq!(fleet.left("starts").len(), 1);
}

#[tokio::test]
async fn ten_thousand_tools_are_a_hundred_and_endless_pages_end() {
    let fleet = Fleet::start(&hostile("many", "", "    tools_max: 100\n"), &[]);
    fleet.ready("h").await;
    assert_eq!(fleet.offers("mcp:h").await.len(), 100);
    assert_eq!(fleet.left("requests"), ["initialize", "tools/list"], "no page is asked for that has no room");
    let fleet = Fleet::start(&hostile("many", "tools_bytes_max: 16777216", "    tools_max: 10000\n"), &[]);
    fleet.ready("h").await;
    assert_eq!(fleet.offers("mcp:h").await.len(), 10_000);
    let fleet = Fleet::start(&hostile("endless", "list_timeout_ms: 5000", ""), &[]);
    fleet.until("h", |state| !matches!(state, McpState::Starting)).await;
    assert!(fleet.left("requests").len() <= 1_001);
    let fleet = Fleet::start(&hostile("fat", "", ""), &[]);
    fleet.ready("h").await;
    let names: Vec<_> = fleet.offers("mcp:h").await.into_iter().map(|offer| offer.spec.name.clone()).collect();
    assert_eq!(names, ["mcp__h__also_thin", "mcp__h__thin"], "one is too large, one is there twice");
}

#[tokio::test]
async fn a_huge_result_is_cut_and_one_beyond_a_message_ends_the_connection() {
    let limits = "result_bytes_max: 5000, message_bytes_max: 2000000";
    let fleet = Fleet::start(&hostile("good", limits, ""), &[]);
    fleet.ready("h").await;
    let output = fleet.call("mcp__h__huge", json!({"bytes": 1_000_000})).await.expect("the beginning");
    assert_eq!(output.text.len(), 5_000);
    assert!(output.degraded.is_some());
    let output = fleet.call("mcp__h__wide", json!({})).await.expect("the beginning");
    assert!(output.text.len() == 5_000 && output.data.is_null() && output.degraded.is_some());
    let failure = fleet.call("mcp__h__huge", json!({"bytes": 3_000_000})).await.expect_err("too large");
    assert_eq!(&*failure.code, "mcp_unavailable");
    until("there is a second process", || (fleet.left("starts").len() == 2).then_some(())).await;
    fleet.ready("h").await;
}

#[tokio::test]
async fn a_changed_tool_is_disabled_until_an_operator_accepts_it() {
    let yaml = hostile("good", "", "");
    let fleet = Fleet::start(&yaml, &[]);
    fleet.ready("h").await;
    let tool = "mcp__h__rewritten";
    let before = fleet.offer(tool).await;
    fleet.call(tool, json!({})).await.expect("unchanged");

    // Under the run's eyes.
    std::fs::write(fleet.dir.path().join("description"), "Reads a file and mails it.").expect("written");
    fleet.call("mcp__h__echo", json!({"announce": true})).await.expect("an echo");
    fleet.until("h", |state| matches!(state, McpState::Ready { changed: 1, .. })).await;
    let failure = fleet.call(tool, json!({})).await.expect_err("changed");
    assert_eq!(&*failure.code, "mcp_tool_changed");
    let after = fleet.offer(tool).await;
    assert!(after.unavailable.is_some());
    assert_ne!(before.schema_digest, after.schema_digest);
    fleet.call("mcp__h__echo", json!({})).await.expect("the others work");

    // And after a restart.
    let (dir, digest) = (fleet.dir.clone(), after.schema_digest);
    drop(fleet);
    let fleet = Fleet::again(&dir, &yaml, &[]);
    fleet.ready("h").await;
    assert_eq!(&*fleet.call(tool, json!({})).await.expect_err("changed").code, "mcp_tool_changed");
    drop(fleet);

    // By its digest in the settings; the new pin stays when the setting goes.
    let accepting = format!("{yaml}    accepted_digests: [\"{digest}\"]\n");
    let fleet = Fleet::again(&dir, &accepting, &[]);
    fleet.ready("h").await;
    fleet.call(tool, json!({})).await.expect("accepted");
    drop(fleet);
    let fleet = Fleet::again(&dir, &yaml, &[]);
    fleet.ready("h").await;
    fleet.call(tool, json!({})).await.expect("still accepted");

    // Or by deleting its entry, here that of all.
    std::fs::write(dir.path().join("description"), "Once more.").expect("written");
    std::fs::remove_file(dir.path().join(PINS_FILE)).expect("the pins");
    fleet.call("mcp__h__echo", json!({"announce": true})).await.expect("an echo");
    until("it is pinned anew", || dir.path().join(PINS_FILE).exists().then_some(())).await;
    fleet.call(tool, json!({})).await.expect("accepted");
}

#[tokio::test]
async fn pins_that_cannot_be_read_offer_nothing() {
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    std::fs::write(dir.path().join(PINS_FILE), "{\"version\": 1, \"servers\": ").expect("written");
    let fleet = Fleet::again(&dir, &hostile("good", "", ""), &[]);
    let state = fleet.until("h", down).await;
    assert!(format!("{state:?}").contains(PINS_FILE), "{state:?}");
    assert!(fleet.offers("mcp:h").await.is_empty());
}

#[tokio::test]
async fn what_a_server_claims_about_its_tools_is_not_believed() {
    let fleet = Fleet::start(&hostile("good", "", "    read_only: [echo]\n"), &[]);
    fleet.ready("h").await;
    let claims = fleet.offer("mcp__h__claims").await;
    assert_eq!((claims.effect, claims.reach), (EffectPolicy::Ambiguous, Reach::Writes));
    let echo = fleet.offer("mcp__h__echo").await;
    assert_eq!((echo.effect, echo.reach), (EffectPolicy::SafeToRepeat, Reach::Reads), "the settings say so");
}

#[tokio::test]
async fn a_server_sees_only_the_variables_it_was_given_and_cannot_repeat_them() {
    let variables = [("CANARY_TOKEN", "canary-7731"), ("OTHER_SECRET", "other-5512")];
    let fleet = Fleet::start(&hostile("good", "", "    env: [CANARY_TOKEN]\n"), &variables);
    fleet.ready("h").await;
    let seen = fleet.call("mcp__h__environment", json!({})).await.expect("its environment");
    let seen: std::collections::BTreeMap<String, String> = serde_json::from_str(&seen.text).expect("JSON");
    // Python adds the last one by itself where no locale is set.
    let names: Vec<&str> = seen.keys().map(String::as_str).filter(|name| *name != "LC_CTYPE").collect();
    assert_eq!(names, ["CANARY_TOKEN", "PATH"]);
    assert_eq!(seen["CANARY_TOKEN"], "[redacted]", "it came through, and not back");
    let shout = fleet.call("mcp__h__shout", json!({})).await.expect("a text");
    assert_eq!(shout.text, "the canary is [redacted]");
    assert!(!fleet.yaml.contains("canary-7731") && fleet.environment.contains_key("OTHER_SECRET"));
}

/// Everything logged by this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("the log").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_a_server_writes_to_its_standard_error_is_logged_encoded_capped_and_without_secrets() {
    let log = Log::default();
    let writer = log.clone();
    let filter = LogFilter::try_from("debug".to_owned()).expect("a level").filter();
    let json = tracing_subscriber::fmt().with_env_filter(filter).json().flatten_event(true);
    let json = json.with_writer(move || writer.clone());
    json.try_init().expect("nobody else logs in this process");
    let fleet = Fleet::start(&hostile("good", "", "    env: [CANARY_TOKEN]\n"), &[("CANARY_TOKEN", "canary-7731")]);
    fleet.ready("h").await;
    fleet.call("mcp__h__shout", json!({})).await.expect("a text");
    let line = until("the line is logged", || {
        let text = String::from_utf8(log.0.lock().expect("the log").clone()).expect("UTF-8");
        assert!(!text.contains("canary-7731"), "{text}");
        text.lines().find(|line| line.contains("mcp server says")).map(str::to_owned)
    });
    let line = line.await;
    assert!(line.contains("\\u001b[31mred\\u0007 [redacted]zzz"), "{line}");
    assert!(!line.contains('\u{1b}') && line.len() < 1_400, "{} bytes: {line}", line.len());
}

#[tokio::test]
async fn a_program_is_looked_for_in_the_path_and_one_that_is_not_there_is_named() {
    let server = |command: &str| format!("mcp_servers:\n  h:\n    transport: stdio\n    command: {command}\n");
    let found = server("python3") + "    args: [$TESTS/hostile.py, good, $DIR]\n";
    Fleet::start(&found, &[]).ready("h").await;
    let fleet = Fleet::start(&server("no-such-program-4711"), &[]);
    let state = fleet.until("h", down).await;
    assert!(format!("{state:?}").contains("no-such-program-4711"), "{state:?}");
}

#[tokio::test]
async fn a_missing_variable_is_named_and_nothing_is_started() {
    let fleet = Fleet::start(&hostile("good", "", "    env: [NOT_THERE]\n"), &[]);
    let state = fleet.until("h", down).await;
    assert!(format!("{state:?}").contains("the environment has no NOT_THERE"), "{state:?}");
    assert!(fleet.left("starts").is_empty());
}

#[tokio::test]
async fn calls_of_one_server_are_bounded_and_so_is_their_queue() {
    let limits = "calls_max: 1, queue_max: 2";
    let fleet = Fleet::start(&hostile("good", limits, ""), &[]);
    fleet.ready("h").await;
    let outcomes = join_all((0..6).map(|_| fleet.call("mcp__h__slow", json!({"seconds": 0.3})))).await;
    let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let busy = outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(|f| &*f.code == "mcp_busy")).count();
    assert_eq!((done, busy), (3, 3), "{outcomes:?}");
    assert_eq!(fleet.left("started").len(), 3, "a refused call reaches nobody");
}

#[tokio::test]
async fn a_server_that_ignores_its_end_is_killed_with_its_children() {
    let fleet = Fleet::start(&hostile("stubborn", "", ""), &[]);
    fleet.ready("h").await;
    let pids = [fleet.left("starts"), fleet.left("child")].concat();
    assert!(pids.len() == 2 && pids.iter().all(|pid| alive(pid)), "{pids:?}");
    let began = Instant::now();
    drop(fleet.servers.clone());
    assert!(pids.iter().all(|pid| alive(pid)), "a clone is not the last");
    let Fleet { servers, dir: _dir, .. } = fleet;
    drop(servers);
    let taken = began.elapsed();
    assert!(taken < Duration::from_secs(4), "{taken:?}");
    until("all of them are gone", || pids.iter().all(|pid| !alive(pid)).then_some(())).await;
}
