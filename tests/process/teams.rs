//! Runs of whole teams, many at once, as their clients see them: each is watched to its end, and nothing of one may be seen
//! in another.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::client::{Seen, read};
use crate::process::{client, get, start};

const TEAMS: usize = 200;
/// A debug build spends milliseconds on a call, 200 teams make 1,400 of them, and a test has one part of the machine: at
/// 50 ms that is what would be measured. The bench `teams` takes 50 ms and the optimised binary.
const LATENCY: Duration = Duration::from_millis(2_000);

/// How a run went.
struct Team {
    workflow: String,
    seen: Seen,
    took: Duration,
}

/// The word that stands in one run's task and in no other.
fn word(n: usize) -> String {
    format!("zq{n}qz")
}

/// Every such word of a text.
fn words(text: &str) -> BTreeSet<&str> {
    let apart = text.split(|c: char| !c.is_ascii_alphanumeric());
    apart.filter(|word| word.len() > 4 && word.starts_with("zq") && word.ends_with("qz")).collect()
}

/// The time of a run that spends it in model calls alone. Analysis, routing and progress are one call each and follow one
/// another. In between, a sequence of three agents is three calls; three agents in parallel are one call's time, for they
/// work at the same time, and then the synthesis is one. So of the calls that the journal counts, all stand on the critical
/// path of a sequence, and all but `agents - 1` on that of a parallel run. The score is another run's.
fn critical_calls(account: &Value) -> u64 {
    let calls = account["model_calls"].as_u64().unwrap();
    let agents = account["agents"].as_array().unwrap().len() as u64;
    match account["mode"].as_str().unwrap() {
        "parallel" => calls - (agents - 1),
        _ => calls,
    }
}

/// Ticks of all processors.
struct Ticks {
    idle: f64,
    all: f64,
}

fn idle() -> Ticks {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks: Vec<f64> = stat.lines().next().unwrap().split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    Ticks { idle: ticks[3] + ticks[4], all: ticks.iter().take(8).sum() }
}

impl Ticks {
    /// The part of the time since then in which nothing ran.
    fn share_since(&self, before: &Self) -> f64 {
        (self.idle - before.idle) / (self.all - before.all)
    }
}

async fn run(http: &reqwest::Client, url: &str, n: usize) -> Team {
    // Spread over one call's time: those that begin together would wait for one another's turns at the processor.
    tokio::time::sleep(LATENCY.mul_f64(n as f64 / TEAMS as f64)).await; // allow-sleep: the moment of the start
    let mode = if n.is_multiple_of(2) { "parallel" } else { "sequential" };
    let task = format!("Compare {} and others and write a brief", word(n));
    let began = Instant::now();
    let body = json!({ "task": task, "mode": mode });
    let response = http.post(format!("{url}/api/v1/runs")).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let answer: Value = response.json().await.unwrap();
    let workflow = answer["workflow_id"].as_str().unwrap().to_owned();
    let (mut seen, events) = (Seen::default(), format!("{url}/api/v1/workflows/{workflow}/events?version=2"));
    while !seen.is_done() {
        let after = (seen.last > 0).then_some(seen.last);
        read(http, &events, after, &mut seen).await;
        assert!(began.elapsed() < Duration::from_secs(120), "{workflow} has no end");
    }
    Team { workflow, seen, took: began.elapsed() }
}

#[tokio::test(flavor = "current_thread")]
async fn two_hundred_teams_at_once_all_complete_no_event_of_one_reaches_another_and_little_time_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let latency = u32::try_from(LATENCY.as_millis()).unwrap();
    let model_arguments =
        ["simulate-llm", "--port", "0", "--latency-ms", &latency.to_string(), "--tokens-per-second", "0"];
    let jitter = ["--jitter", "0"];
    let (_model, model) = start(&[&model_arguments[..], &jitter].concat(), &[], dir.path(), "OPENAI_BASE_URL=");
    let environment = [("OPENAI_BASE_URL", model.as_str()), ("MAX_CONCURRENT_WORKFLOWS", "200")];
    let (_server, docs) = start(&["serve", "--port", "0"], &environment, dir.path(), "browser:");
    let url = docs.trim_end_matches("/docs").to_owned();
    let http = client();
    let (began, idle_before) = (Instant::now(), idle());
    let teams = join_all((0..TEAMS).map(|n| run(&http, &url, n))).await;
    let (took, idle) = (began.elapsed(), idle().share_since(&idle_before));
    let (mut ideal, mut spent, mut calls) = (Duration::ZERO, Duration::ZERO, 0);
    for (n, team) in teams.iter().enumerate() {
        let own = word(n);
        let warnings = team.seen.events.iter().filter(|event| !event["data"]["warning"].is_null());
        assert_eq!(warnings.collect::<Vec<_>>(), Vec::<&Value>::new(), "nothing fails on the way");
        assert_eq!(team.seen.events.last().unwrap()["status"], "completed", "{:#?}", team.seen.events);
        for event in &team.seen.events {
            assert_eq!(event["workflow_id"], team.workflow.as_str(), "{event}");
            let text = event.to_string();
            assert!(words(&text).iter().all(|word| *word == own), "{own} has seen something else: {text}");
        }
        let answer = team.seen.events.iter().find(|event| event["type"] == "response.completed").unwrap();
        assert!(answer["message"].as_str().unwrap().contains(&own), "the answer is about the task: {answer}");
        let entry = get(&http, format!("{url}/api/v1/history/{}", team.workflow)).await;
        assert_eq!(words(&entry.to_string()).into_iter().collect::<Vec<_>>(), [own.as_str()]);
        // Without the score, which may have been made by now.
        let account = &entry["metadata"];
        assert_eq!(account["agents"].as_array().map(Vec::len), Some(3), "{entry}");
        let critical = critical_calls(account);
        ideal += LATENCY * u32::try_from(critical).unwrap();
        spent += team.took;
        calls += account["model_calls"].as_u64().unwrap();
    }
    // With so many at once throughput is their number over the mean time of one, so the ratio of times is that of rates.
    let ratio = ideal.as_secs_f64() / spent.as_secs_f64();
    println!(
        "{TEAMS} teams, {calls} calls beside their scores in {took:?}: {ratio:.3} of calls x latency, the machine {idle:.2} idle"
    );
    // Where others keep the processors busy, theirs is the time that is measured.
    assert!(ratio >= 0.85 || idle < 0.4, "{ratio}");
}
