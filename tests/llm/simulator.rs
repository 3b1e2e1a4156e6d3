//! The simulated model as a server: what it gives, what it counts, what it saw.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Duration;

use agentic_fleet::llm::simulate::{FaultRates, Simulation};
use agentic_fleet::llm::simulate_server::{Simulator, SimulatorConfig, start};
use agentic_fleet::llm::{Api, LlmConfig, Provider, code};
use fleet_actors::ports::{FinishReason, ModelClient, OutputForm, ReasoningEffort, ToolSpec};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::support::{code_of, config, make, run, say, until};

const BOTH: [Api; 2] = [Api::ChatCompletions, Api::Responses];

pub fn quick() -> Simulation {
    Simulation { latency: Duration::ZERO, tokens_per_second: None, ..Simulation::default() }
}

fn simulator(simulation: Simulation) -> Simulator {
    start(SimulatorConfig { workers: NonZeroUsize::new(1), simulation, ..SimulatorConfig::default() })
        .expect("a free port")
}

fn client(simulator: &Simulator, api: Api, effort: Option<ReasoningEffort>) -> Rc<dyn ModelClient> {
    make(&config(api, &simulator.base_url())).client(effort)
}

async fn get(simulator: &Simulator, path: &str) -> Value {
    let url = format!("http://{}{path}", simulator.addr());
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    client.get(url).send().await.expect("answers").json().await.expect("JSON")
}

async fn post(simulator: &Simulator, path: &str, body: Value) -> (u16, Value) {
    let url = format!("http://{}{path}", simulator.addr());
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let response = client.post(url).json(&body).send().await.expect("answers");
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}

#[tokio::test]
async fn in_process_and_over_either_protocol_the_model_says_the_same() {
    let simulator = simulator(quick());
    let inside = make(&LlmConfig { provider: Provider::Simulated, simulated: quick(), ..LlmConfig::default() });
    let mut with_tool = say("please [[sim:tool name=find args={\"q\": [1, \"é\"]}]]");
    with_tool.request.tools =
        [ToolSpec { name: "find".into(), description: String::new(), parameters: json!({"type": "object"}) }.into()]
            .into();
    let mut limited = say("a long story");
    limited.request.max_output_tokens = Some(3);
    for call in [say("Hello \"there\" 👋"), say("[[sim:tokens=50]]"), with_tool, limited] {
        for effort in [None, Some(ReasoningEffort::Minimal), Some(ReasoningEffort::Maximal)] {
            let mut expected = run(&*inside.client(effort), &call).await.expect("no fault");
            assert!(expected.simulated);
            assert_eq!(expected.reasoning.is_empty(), effort != Some(ReasoningEffort::Maximal));
            expected.simulated = false;
            for api in BOTH {
                let reply = run(&*client(&simulator, api, effort), &call).await.expect("no fault");
                assert_eq!(reply, expected, "{api:?}");
            }
        }
    }
    let stats = simulator.stats();
    assert_eq!((stats.calls, stats.completed, stats.aborted, stats.live), (24, 24, 0, 0));
}

#[tokio::test]
async fn whole_answers_say_what_streams_say() {
    let simulator = simulator(quick());
    let mut call = say("hello");
    call.request.max_output_tokens = Some(7);
    let streamed = run(&*client(&simulator, Api::ChatCompletions, None), &call).await.expect("no fault");
    assert_eq!(streamed.finish_reason, FinishReason::Length);
    let messages = json!([{"role": "user", "content": [{"type": "text", "text": "hello"}]}]);
    let (_, chat) =
        post(&simulator, "/v1/chat/completions", json!({"model": "simulated", "messages": messages, "max_tokens": 7}))
            .await;
    assert_eq!(chat["choices"][0]["message"]["content"], streamed.text.as_str());
    assert_eq!(chat["choices"][0]["finish_reason"], "length");
    let (_, responses) =
        post(&simulator, "/v1/responses", json!({"model": "simulated", "input": "hello", "max_output_tokens": 7}))
            .await;
    assert_eq!(responses["output"][0]["content"][0]["text"], streamed.text.as_str());
    assert_eq!(responses["status"], "incomplete");
    assert_eq!(post(&simulator, "/v1/responses", json!({"model": 1})).await.0, 400);
    assert_eq!(get(&simulator, "/v1/models").await["data"][0]["id"], "simulated");
}

#[tokio::test]
async fn every_fault_that_a_message_asks_for_strikes_and_is_counted() {
    for api in BOTH {
        let simulator = simulator(quick());
        let client = client(&simulator, api, None);
        for (directive, expected) in [
            ("[[sim:429 retry_after=7]]", code::RATE_LIMITED),
            ("[[sim:500]]", code::UNAVAILABLE),
            ("[[sim:cut after=5]]", code::INCOMPLETE),
            ("[[sim:garbage]]", code::MALFORMED),
            ("[[sim:drip ms=1]]", "ok"),
        ] {
            let outcome = run(&*client, &say(directive)).await;
            assert_eq!(code_of(&outcome), expected, "{directive} over {api:?}");
            if let Err(error) = outcome {
                let after = (expected == code::RATE_LIMITED).then_some(7_000);
                assert_eq!(error.failure.retry_after_ms, after);
            }
        }
        let stats = get(&simulator, "/admin/stats").await;
        assert_eq!(stats["faults"], json!({"rate_limited": 1, "server_error": 1, "cut": 1, "garbage": 1, "drip": 1}));
        assert_eq!((&stats["calls"], &stats["completed"], &stats["faulted"]), (&json!(5), &json!(1), &json!(4)));
    }
}

#[tokio::test]
async fn a_cut_stream_delivers_the_pieces_before_the_cut() {
    let simulator = simulator(quick());
    let inside = make(&LlmConfig { provider: Provider::Simulated, simulated: quick(), ..LlmConfig::default() });
    let cut = say("[[sim:cut after=5]]");
    let (mut pieces, mut got) = (Vec::new(), String::new());
    let expected = inside.client(None).call(&cut, &mut |delta| pieces.push(delta.text)).await;
    let client = client(&simulator, Api::ChatCompletions, None);
    let outcome = client.call(&cut, &mut |delta| got.push_str(&delta.text)).await;
    assert_eq!((code_of(&expected).as_str(), pieces.len()), (code::INCOMPLETE, 5));
    assert_eq!((code_of(&outcome).as_str(), got), (code::INCOMPLETE, pieces.concat()));
}

#[tokio::test]
async fn a_slow_stream_is_sent_once_and_only_as_its_pieces_are_due() {
    let simulator = simulator(quick());
    let message = "[[sim:drip ms=3]] [[sim:tokens=30]]";
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    for (path, body, head) in [
        ("chat/completions", json!({"messages": [{"content": message}]}), "\"role\":\"assistant\""),
        ("responses", json!({"input": message}), "event: response.created"),
    ] {
        let mut body = body;
        body["model"] = "simulated".into();
        body["stream"] = true.into();
        let began = std::time::Instant::now();
        let url = format!("{}/{path}", simulator.base_url());
        let sent = client.post(url).json(&body).send().await.expect("answers").text().await.expect("whole");
        assert!(began.elapsed() >= Duration::from_millis(60), "{:?}", began.elapsed());
        assert_eq!(sent.matches(head).count(), 1, "{sent}");
    }
}

#[tokio::test]
async fn a_fault_with_times_spares_the_attempt_after() {
    let simulator = simulator(quick());
    let client = client(&simulator, Api::Responses, None);
    let mut call = say("hello [[sim:500 times=2]]");
    let mut codes = Vec::new();
    for attempt in 1..=3 {
        call.attempt = attempt;
        codes.push(code_of(&run(&*client, &call).await));
    }
    assert_eq!(codes, [code::UNAVAILABLE, code::UNAVAILABLE, "ok"]);
}

#[tokio::test]
async fn dropping_a_call_closes_its_connection_and_the_model_sees_each_one() {
    for api in BOTH {
        let simulator = simulator(quick());
        let clients = make(&config(api, &simulator.base_url()));
        // Leave warm connections behind, so that dropped calls run on reused ones too.
        let warm: Vec<_> = (0..10).map(|_| clients.client(None)).collect();
        let hello = say("hello");
        join_all(warm.iter().map(|client| run(&**client, &hello))).await;
        for (round, directive) in ["[[sim:hang]]", "[[sim:latency=60000]]", "[[sim:drip ms=20000]]"].iter().enumerate()
        {
            let call = say(directive);
            let waiting: Vec<_> = (0..20).map(|_| clients.client(None)).collect();
            let all = join_all(waiting.iter().map(|client| run(&**client, &call)));
            tokio::select! {
                _ = all => panic!("{directive} answered"),
                () = until("all calls are live", || simulator.stats().live == 20) => {}
            }
            let expected = 20 * (round as u64 + 1);
            until("every call was aborted", || simulator.stats().aborted == expected).await;
            assert_eq!(simulator.stats().live, 0);
        }
        let stats = simulator.stats();
        assert_eq!((stats.calls, stats.completed, stats.aborted), (70, 10, 60));
    }
}

#[tokio::test]
async fn two_sessions_with_different_efforts_never_mix_them() {
    for api in BOTH {
        let simulator = simulator(quick());
        let clients = make(&config(api, &simulator.base_url()));
        let low = clients.client(Some(ReasoningEffort::Minimal));
        let high = clients.client(Some(ReasoningEffort::Maximal));
        let (to_low, to_high) = (say("from the low session"), say("from the high session"));
        for _ in 0..100 {
            let (a, b) = tokio::join!(run(&*low, &to_low), run(&*high, &to_high));
            assert!(a.is_ok() && b.is_ok());
        }
        let seen = get(&simulator, "/admin/requests").await;
        let seen = seen["requests"].as_array().expect("a list");
        assert_eq!(seen.len(), 200);
        for request in seen {
            let text = request["messages"][0]["content"].as_str().expect("text");
            let expected = if text.contains("low") { "minimal" } else { "high" };
            assert_eq!(request["effort"], expected, "{request}");
        }
    }
}

#[tokio::test]
async fn the_model_shows_what_it_was_sent_but_no_credentials() {
    let simulator = simulator(quick());
    let client = client(&simulator, Api::ChatCompletions, Some(ReasoningEffort::Medium));
    run(&*client, &say("first")).await.expect("no fault");
    run(&*client, &say("second")).await.expect("no fault");
    let all = get(&simulator, "/admin/requests").await;
    let last = get(&simulator, "/admin/requests?after=1").await;
    assert_eq!(all["requests"].as_array().map(Vec::len), Some(2));
    let request = &last["requests"][0];
    assert_eq!(request["n"], 2);
    assert_eq!(request["idempotency_key"], "run-1/step-1");
    assert_eq!((&request["model"], &request["effort"]), (&json!("simulated"), &json!("medium")));
    assert_eq!(request["messages"], json!([{"role": "user", "content": "second"}]));
    assert!(!all.to_string().contains("canary"));
    assert_eq!(post(&simulator, "/admin/reset", Value::Null).await.0, 204);
    assert_eq!(get(&simulator, "/admin/requests").await["requests"], json!([]));
    assert_eq!(simulator.stats().calls, 0);
}

#[tokio::test]
async fn remembered_requests_are_bounded() {
    let config = SimulatorConfig {
        workers: NonZeroUsize::new(1),
        simulation: quick(),
        requests_max: 3,
        ..SimulatorConfig::default()
    };
    let simulator = start(config).expect("a free port");
    let client = client(&simulator, Api::ChatCompletions, None);
    for _ in 0..5 {
        run(&*client, &say("hi")).await.expect("no fault");
    }
    let seen = get(&simulator, "/admin/requests").await;
    let numbers: Vec<_> =
        seen["requests"].as_array().into_iter().flatten().map(|request| request["n"].clone()).collect();
    assert_eq!(numbers, [json!(3), json!(4), json!(5)]);
}

#[tokio::test]
async fn faults_by_rate_can_be_set_while_it_runs() {
    let simulator = simulator(quick());
    let client = client(&simulator, Api::ChatCompletions, None);
    assert_eq!(post(&simulator, "/admin/faults", json!({"server_error": 0.5})).await.0, 200);
    for _ in 0..200 {
        let _ = run(&*client, &say("hi")).await;
    }
    let failed = simulator.stats().faulted;
    assert!((60..=140).contains(&failed), "{failed} of 200");
    assert_eq!(post(&simulator, "/admin/faults", json!({"typo": 1.0})).await.0, 400);
    post(&simulator, "/admin/faults", json!({})).await;
    run(&*client, &say("hi")).await.expect("no fault any more");
    let always = Simulation { faults: FaultRates { rate_limited: 1.0, ..FaultRates::default() }, ..quick() };
    let inside = make(&LlmConfig { provider: Provider::Simulated, simulated: always, ..LlmConfig::default() });
    assert_eq!(code_of(&run(&*inside.client(None), &say("hi")).await), code::RATE_LIMITED);
}

#[tokio::test]
async fn a_schema_asked_over_http_comes_back_filled() {
    let simulator = simulator(quick());
    let mut call = say("rate this");
    let schema = json!({"type": "object", "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 3}, "note": {"type": "string"}}});
    call.request.output = OutputForm::Json { name: "rating".into(), schema: schema.clone().into() };
    for api in BOTH {
        let reply = run(&*client(&simulator, api, None), &call).await.expect("no fault");
        let value: Value = serde_json::from_str(&reply.text).expect("JSON");
        let strict = agentic_fleet::llm::schema::strict(&schema).expect("strict");
        super::simulation::check(&strict, &value);
    }
}

#[tokio::test]
async fn connections_are_reused_after_whole_answers() {
    let simulator = simulator(quick());
    let clients = make(&config(Api::ChatCompletions, &simulator.base_url()));
    let client = clients.client(None);
    for _ in 0..50 {
        run(&*client, &say("hi")).await.expect("no fault");
        tokio::task::yield_now().await;
    }
    let connections = open_ports(simulator.addr().port()).len();
    assert!(connections <= 5, "{connections} connections for 50 calls in a row");
}

/// Local ports with a connection to `port`, in any state, by the kernel's table.
fn open_ports(port: u16) -> BTreeSet<u16> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let hex = |text: &str| text.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
    let rows = table.lines().skip(1).filter_map(|row| {
        let mut words = row.split_whitespace().skip(1);
        Some((hex(words.next()?)?, hex(words.next()?)?))
    });
    rows.filter(|(_, remote)| *remote == port).map(|(local, _)| local).collect()
}
