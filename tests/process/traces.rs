//! Traces as a collector takes them from the real binary, and what a collector that takes none may cost.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use futures_util::SinkExt as _;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::answers::{next, socket_with};
use crate::collector::{Collector, Taken, attribute};
use crate::process::{ONE_AGENT, client, log, simulate, spawn, until};

/// The assistant and the writer work at the same time, and then the writer puts it together. The assistant may read pages.
const SETTINGS: &str = "agents: { assistant: { tools: [fetch_page] } }\n";
const TASK: &str =
    r#"please compare canary-word [[sim:tool name=fetch_page args={"url":"http://10.0.0.1/canary-path"}]]"#;

fn command(dir: &Path, model: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let file = dir.join("fleet.yaml");
    std::fs::write(&file, SETTINGS).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentic-fleet"));
    command.args(arguments).arg("--config").arg(file).current_dir(dir).envs(ONE_AGENT);
    for proxy in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(proxy);
    }
    command.env("OPENAI_BASE_URL", model).env_remove("OPENAI_API_KEY").envs(environment.iter().copied());
    command
}

/// Everything that a run's client has of it.
async fn ask(url: &str, traceparent: Option<&str>) -> Value {
    let body = json!({ "task": TASK, "mode": "parallel" });
    let mut request = client().post(format!("{url}/api/v1/run")).json(&body);
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 201);
    response.json().await.unwrap()
}

/// The spans as lines, children below their parents and in the order of their names.
fn tree(spans: &[Span], parent: &[u8], depth: usize) -> Vec<String> {
    let mut children: Vec<Vec<String>> = Vec::new();
    for span in spans.iter().filter(|span| span.parent_span_id == parent) {
        let failed = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
        let error = attribute(&span.attributes, "error.type").map(|code| format!(" {code}")).unwrap_or_default();
        assert_eq!(failed, !error.is_empty(), "{span:?}");
        let outcome = attribute(&span.attributes, "fleet.outcome").unwrap();
        let mut lines = vec![format!("{}{}: {outcome}{error}", "  ".repeat(depth), span.name)];
        lines.extend(tree(spans, &span.span_id, depth + 1));
        children.push(lines);
    }
    children.sort();
    children.concat()
}

#[tokio::test]
async fn a_team_of_two_at_once_with_a_tool_is_one_tree_at_the_collector_that_says_no_word_unless_it_may() {
    for captured in [false, true] {
        let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start());
        let (_model, model) = simulate(dir.path(), 150, 0);
        let environment = [
            ("FLEET_TRACING__ENABLED", "true"),
            ("FLEET_TRACING__CAPTURE_SENSITIVE", if captured { "true" } else { "false" }),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20canary-key"),
            ("OTEL_SERVICE_NAME", "fleet-under-test"),
        ];
        let command = command(dir.path(), &model, &["serve", "--port", "0"], &environment);
        let (server, docs) = spawn(command, dir.path(), "browser:");
        let url = docs.unwrap_or_else(|| panic!("{}", log(dir.path()))).trim_end_matches("/docs").to_owned();
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let answer = ask(&url, Some(parent)).await;
        server.stop().await;

        let taken = collector.take();
        let (about, spans): (Vec<Vec<KeyValue>>, Vec<Span>) = taken.spans().into_iter().unzip();
        let parent_span = 0xb7ad_6b71_6920_3331_u64.to_be_bytes();
        assert_eq!(
            tree(&spans, &parent_span, 0),
            [
                "invoke_workflow SupervisorWorkflow: completed",
                "  invoke_agent assistant: completed",
                "    chat gpt-5-mini: completed",
                "    chat gpt-5-mini: completed",
                "    execute_tool fetch_page: failed url_denied",
                "  invoke_agent writer: completed",
                "    chat gpt-5-mini: completed",
                "  invoke_agent writer: completed",
                "    chat gpt-5-mini: completed",
            ],
            "{}",
            log(dir.path())
        );
        assert_eq!(spans.len(), 9, "and nothing else");
        for (about, span) in about.iter().zip(&spans) {
            assert_eq!(attribute(about, "service.name").as_deref(), Some("fleet-under-test"));
            assert_eq!(span.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
            let kind = if span.name.starts_with("chat ") { SpanKind::Client } else { SpanKind::Internal };
            assert_eq!(span.kind(), kind, "{}", span.name);
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        }
        let root = spans.iter().find(|span| span.parent_span_id == parent_span).unwrap();
        let said =
            |span: &Span, key: &str| attribute(&span.attributes, key).unwrap_or_else(|| panic!("{key}: {span:?}"));
        assert_eq!(Some(said(root, "fleet.workflow.id").as_str()), answer["execution_id"].as_str());
        assert_eq!((said(root, "fleet.mode"), said(root, "fleet.life")), ("parallel".to_owned(), "0".to_owned()));
        for chat in spans.iter().filter(|span| span.name.starts_with("chat ")) {
            assert_eq!(said(chat, "gen_ai.operation.name"), "chat");
            assert_eq!(said(chat, "gen_ai.provider.name"), "openai");
            assert!(said(chat, "gen_ai.usage.input_tokens").parse::<u64>().unwrap() > 0);
            assert!(said(chat, "gen_ai.response.finish_reasons").contains("to"), "stop or tool_calls");
        }
        // The two worked at the same time, and neither took the other's calls.
        let agent = |n: usize, name: &str| {
            let mut named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
            named.sort_by_key(|span| span.start_time_unix_nano);
            named[n]
        };
        let (one, other) = (agent(0, "invoke_agent assistant"), agent(0, "invoke_agent writer"));
        assert!(
            one.start_time_unix_nano < other.end_time_unix_nano && other.start_time_unix_nano < one.end_time_unix_nano
        );

        let bytes: Vec<u8> = taken.requests.iter().flat_map(|(_, body)| body.clone()).collect();
        let holds = |word: &str| bytes.windows(word.len()).any(|window| window == word.as_bytes());
        let result: String = answer["result"].as_str().unwrap().chars().take(20).collect();
        for word in ["canary-word", "canary-path", &result] {
            assert_eq!(holds(word), captured, "{word}");
        }
        for (head, _) in &taken.requests {
            assert_eq!(head[0], "POST /v1/traces HTTP/1.1");
            assert!(head.iter().any(|line| line.eq_ignore_ascii_case("authorization: Bearer canary-key")), "{head:?}");
        }
        let log = log(dir.path());
        assert!(!log.contains("canary-key"));
        assert!(log.contains("0af7651916cd43dd8448eb211c80319c"), "a line of the run has its trace: {log}");
    }
}

#[tokio::test]
async fn every_door_goes_on_in_the_trace_of_its_client_and_a_header_that_is_none_changes_nothing() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start());
    let (_model, model) = simulate(dir.path(), 0, 0);
    let tracing = [("FLEET_TRACING__ENABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str())];
    let command = command(dir.path(), &model, &["serve", "--port", "0"], &tracing);
    let (server, docs) = spawn(command, dir.path(), "browser:");
    let url = docs.unwrap_or_else(|| panic!("{}", log(dir.path()))).trim_end_matches("/docs").to_owned();
    let parent = |n: u8| format!("00-{:032x}-00000000000000{n:02x}-01", u128::from(n));
    let http = client();
    ask(&url, Some(&parent(1))).await;
    let body = json!({ "task": "please work" });
    let submitted = http.post(format!("{url}/api/v1/runs")).json(&body).header("traceparent", parent(2)).send().await;
    let submitted: Value = submitted.unwrap().json().await.unwrap();
    let history = format!("{url}/api/v1/history/{}", submitted["workflow_id"].as_str().unwrap());
    until(&http, history, |entry| entry["status"] == "completed").await;
    let chat = format!("{url}/api/chat/talk/stream?message=please%20work");
    let events = http.get(chat).header("traceparent", parent(3)).send().await.unwrap().text().await.unwrap();
    assert!(events.contains("\"done\""), "{events}");
    // The header of a socket's handshake is that of every run that the socket starts.
    let mut v1 = socket_with(&url, &[("traceparent", &parent(4))]).await;
    v1.send(Message::text(json!({ "message": "please work" }).to_string())).await.unwrap();
    next(&mut v1, |event| event["type"] == "done").await;
    let mut v2 = socket_with(&url, &[("traceparent", &parent(5)), ("sec-websocket-protocol", "fleet.v2")]).await;
    for _ in 0..2 {
        let send = json!({ "type": "chat.send", "message": "please work" });
        v2.send(Message::text(send.to_string())).await.unwrap();
        next(&mut v2, |event| event["type"] == "done").await;
    }
    let own = ask(&url, Some("00-zero-one-01")).await;
    server.stop().await;

    let roots = collector.take().spans().into_iter().map(|(_, span)| span);
    let roots: Vec<Span> = roots.filter(|span| span.name.starts_with("invoke_workflow ")).collect();
    let mut traces: Vec<u128> =
        roots.iter().map(|root| u128::from_be_bytes(root.trace_id.clone().try_into().unwrap())).collect();
    traces.sort_unstable();
    let own = own["execution_id"].as_str().unwrap().replace('-', "");
    assert_eq!(traces, [1, 2, 3, 4, 5, 5, u128::from_str_radix(&own, 16).unwrap()]);
    assert_eq!(roots.iter().filter(|root| root.parent_span_id.is_empty()).count(), 1);
}

/// What Azure Monitor was sent: each span, and the lines of the heads.
fn envelopes(taken: &Taken) -> Vec<Value> {
    let unzipped = |body: &[u8]| {
        let mut text = String::new();
        flate2::read::GzDecoder::new(body).read_to_string(&mut text).unwrap();
        serde_json::from_str::<Vec<Value>>(&text).unwrap()
    };
    taken.requests.iter().flat_map(|(_, body)| unzipped(body)).collect()
}

#[tokio::test]
async fn azure_monitor_takes_what_a_collector_takes_beside_one_or_alone() {
    const KEY: &str = "00000000-cafe-cafe-cafe-000000000000";
    for beside in [true, false] {
        let (dir, collector, azure) = (tempfile::tempdir().unwrap(), Collector::start(), Collector::start());
        let (_model, model) = simulate(dir.path(), 0, 0);
        let connection = format!("InstrumentationKey={KEY};IngestionEndpoint={}/", azure.url);
        let environment = [
            ("APPLICATIONINSIGHTS_CONNECTION_STRING", connection.as_str()),
            ("FLEET_TRACING__ENABLED", if beside { "true" } else { "false" }),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
            ("OTEL_SERVICE_NAME", "fleet-under-test"),
        ];
        let (output, _) = once(dir.path(), &model, &environment);
        assert!(output.status.success(), "{output:?}");
        let (taken, sent) = (collector.take(), azure.take());
        let mut names: Vec<_> = taken.spans().into_iter().map(|(_, span)| span.name).collect();
        let envelopes = envelopes(&sent);
        let told = |envelope: &Value| envelope["data"]["baseData"]["name"].as_str().unwrap().to_owned();
        let mut azures: Vec<_> = envelopes.iter().map(told).collect();
        names.sort();
        azures.sort();
        assert_eq!(
            azures,
            ["chat gpt-5-mini", "invoke_agent assistant", "invoke_workflow SupervisorWorkflow"],
            "{envelopes:?}"
        );
        assert_eq!(names, if beside { azures } else { Vec::new() });
        // One tree: the run above the agent above the call.
        let of = |name: &str| envelopes.iter().find(|envelope| told(envelope).starts_with(name)).unwrap();
        let parent = |name: &str| of(name)["tags"]["ai.operation.parentId"].clone();
        let id = |name: &str| of(name)["data"]["baseData"]["id"].clone();
        assert_eq!(parent("chat"), id("invoke_agent"));
        assert_eq!(parent("invoke_agent"), id("invoke_workflow"));
        let run = &of("invoke_workflow")["data"]["baseData"]["properties"]["fleet.workflow.id"];
        let trace = run.as_str().unwrap().replace('-', "");
        for envelope in &envelopes {
            assert_eq!(envelope["iKey"], KEY);
            assert_eq!(envelope["tags"]["ai.operation.id"], trace.as_str());
            assert_eq!(envelope["tags"]["ai.cloud.role"], "fleet-under-test");
            assert_eq!(envelope["data"]["baseData"]["resultCode"], "0");
        }
        assert!(sent.requests.iter().all(|(head, _)| head[0] == "POST /v2/track HTTP/1.1"));
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!log.contains("cafe-cafe") && !log.contains("WARN"), "{log}");
    }
}

/// Runs one message as a command that ends.
fn once(dir: &Path, model: &str, environment: &[(&str, &str)]) -> (Output, Duration) {
    let mut command = command(dir, model, &["run", "-m", "please work", "--mode", "delegated"], environment);
    let began = Instant::now();
    let output = command.output().unwrap();
    (output, began.elapsed())
}

#[tokio::test]
async fn a_command_that_ends_exports_first_and_nothing_is_connected_to_unless_it_is_enabled() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start());
    let (_model, model) = simulate(dir.path(), 0, 0);
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str());
    for (enabled, spans) in [("true", 3), ("false", 0)] {
        let (output, _) = once(dir.path(), &model, &[("FLEET_TRACING__ENABLED", enabled), endpoint]);
        assert!(output.status.success(), "{output:?}");
        let taken = collector.take();
        let names: Vec<_> = taken.spans().into_iter().map(|(_, span)| span.name).collect();
        assert_eq!((names.len(), taken.connections > 0), (spans, spans > 0), "{names:?}");
        // The trace of a run is named after it.
        let traces: BTreeSet<_> = taken.spans().into_iter().map(|(_, span)| span.trace_id).collect();
        assert_eq!(traces.len(), usize::from(spans > 0));
    }
}

#[tokio::test]
async fn a_collector_that_is_down_or_hangs_changes_no_answer_and_the_end_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 0, 0);
    let (usual, _) = once(dir.path(), &model, &[]);
    assert!(usual.status.success(), "{usual:?}");
    let hangs = Collector::that_hangs();
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (name, endpoint, word) in [
        ("down", format!("http://{down}"), "spans are lost"),
        ("hangs", hangs.url.clone(), "the last spans were not exported"),
    ] {
        let tracing = [("FLEET_TRACING__ENABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
        let (output, took) = once(dir.path(), &model, &tracing);
        assert_eq!((output.status.code(), &output.stdout), (Some(0), &usual.stdout), "{name}: {output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(errors.matches(word).count(), 1, "{name}: {errors}");
        assert!(!errors.contains("panicked"), "{name}: {errors}");
        assert!(took < Duration::from_secs(12), "{name}: {took:?}");

        // A server whose batches fail all the time says so once, and answers as ever.
        let mut environment = tracing.to_vec();
        environment.push(("OTEL_BSP_SCHEDULE_DELAY", "50"));
        let place = tempfile::tempdir().unwrap();
        let command = command(place.path(), &model, &["serve", "--port", "0"], &environment);
        let (server, docs) = spawn(command, place.path(), "browser:");
        let url = docs.unwrap().trim_end_matches("/docs").to_owned();
        for _ in 0..20 {
            ask(&url, None).await;
        }
        let began = Instant::now();
        server.stop().await;
        assert!(began.elapsed() < Duration::from_secs(8), "{name}: {:?}", began.elapsed());
        let log = log(place.path());
        assert!(log.matches("spans are lost").count() <= 1 && !log.contains("panicked"), "{name}: {log}");
        println!("{name}: one message took {took:?}, a server stopped in {:?}", began.elapsed());
    }
    assert!(hangs.take().connections > 0, "it was asked at all");
}
