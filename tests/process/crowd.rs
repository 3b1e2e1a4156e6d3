//! A crowd of runs that wait for people, as its clients see it: each asks for a page to be fetched, which a person must allow.
//!
//! Used by the tests of processes and by the benches. Knows the API and nothing of the server's inside.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

/// Clients at once, here and there.
const CLIENTS: usize = 12;
/// Whatever is waited for comes sooner, unless something is broken.
const DEADLINE: Duration = Duration::from_secs(300);

/// A house of ten places whose runs park at once, and whose one agent may fetch pages only when a person allows it.
pub fn settings(model: &str) -> (String, Vec<(&'static str, String)>) {
    let place = model.trim_start_matches("http://").trim_end_matches("/v1");
    let file = format!(
        "tools:\n  policy:\n    - {{ principal: \"*\", tool: fetch_page, access: ask }}\n  fetch_page:\n    allow_hosts: [\"{place}\"]\n"
    );
    let mut environment = vec![
        ("OPENAI_BASE_URL", model.to_owned()),
        ("MAX_CONCURRENT_WORKFLOWS", "10".to_owned()),
        ("FLEET_SESSIONS__PARK_AFTER_MS", "1".to_owned()),
        ("FLEET_PIPELINE__DEFAULT_AGENT", "executor".to_owned()),
    ];
    for phase in
        ["FLEET_PIPELINE__ANALYSIS", "FLEET_PIPELINE__ROUTING", "FLEET_PIPELINE__PROGRESS", "FLEET_PIPELINE__QUALITY"]
    {
        environment.push((phase, "false".to_owned()));
    }
    (file, environment)
}

/// Submits so many runs, each as soon as there is a place, and gives their ids.
pub async fn submit(http: &reqwest::Client, url: &str, model: &str, runs: usize) -> Vec<String> {
    let next = Rc::new(Cell::new(0));
    let page = format!("{}/admin/stats", model.trim_end_matches("/v1"));
    let client = |_| {
        let (next, page) = (next.clone(), &page);
        async move {
            let mut mine = Vec::new();
            while next.get() < runs {
                let n = next.replace(next.get() + 1);
                let call = json!({ "url": format!("{page}?n={n}") });
                let task = format!("work on number {n} [[sim:tool name=fetch_page args={call}]]");
                mine.push(one(http, url, &json!({ "task": task, "conversation_id": format!("talk-{}", n % 7) })).await);
            }
            mine
        }
    };
    join_all((0..CLIENTS).map(client)).await.concat()
}

/// Starts a background run, again and again until the house has a place for it.
async fn one(http: &reqwest::Client, url: &str, body: &Value) -> String {
    let end = Instant::now() + DEADLINE;
    loop {
        let response = http.post(format!("{url}/api/v1/runs")).json(body).send().await.expect("an answer");
        let status = response.status().as_u16();
        let answer: Value = response.json().await.expect("JSON");
        if status == 202 {
            return answer["workflow_id"].as_str().expect("an id").to_owned();
        }
        assert_eq!((status, answer["code"].as_str()), (429, Some("session_cap_reached")), "{answer}");
        assert!(Instant::now() < end, "no place came free");
        tokio::time::sleep(Duration::from_millis(2)).await; // allow-sleep: polls a condition under a deadline
    }
}

async fn get(http: &reqwest::Client, url: String) -> Value {
    http.get(url).send().await.expect("an answer").json().await.expect("JSON")
}

/// Every open question, page by page; `filter` begins with `&`.
pub async fn open(http: &reqwest::Client, url: &str, filter: &str) -> Vec<Value> {
    let mut all = Vec::new();
    loop {
        let page = get(http, format!("{url}/api/v1/approvals?limit=100&offset={}{filter}", all.len())).await;
        let page = page.as_array().unwrap_or_else(|| panic!("{page}"));
        all.extend(page.iter().cloned());
        if page.len() < 100 {
            return all;
        }
    }
}

/// Waits until so many questions are open and every run rests.
pub async fn parked(http: &reqwest::Client, url: &str, runs: usize) -> Vec<Value> {
    until("every run is parked", async || {
        let metrics = http.get(format!("{url}/metrics")).send().await.expect("an answer").text().await.expect("text");
        metrics.contains("fleet_sessions_live 0") && open(http, url, "").await.len() == runs
    })
    .await;
    open(http, url, "").await
}

/// A client that keeps no connection for as long as a server may close it.
pub fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().pool_idle_timeout(Duration::from_secs(1)).build().expect("a client")
}

/// Allows what these questions ask; gives the runs whose answer was accepted before the server died, if it did.
pub async fn allow(http: &reqwest::Client, url: &str, questions: &[Value]) -> BTreeSet<String> {
    let next = Rc::new(Cell::new(0));
    let client = |_| {
        let next = next.clone();
        async move {
            let mut mine = Vec::new();
            while let Some(question) = questions.get(next.replace(next.get() + 1)) {
                let path = question["links"]["respond"].as_str().expect("a link");
                let body = json!({ "request_id": question["request_id"], "response": { "decision": "approve" } });
                let Ok(response) = http.post(format!("{url}{path}")).json(&body).send().await else { break };
                assert_eq!(response.status(), 200, "{question}");
                mine.push(question["workflow_id"].as_str().expect("an id").to_owned());
            }
            mine
        }
    };
    join_all((0..CLIENTS).map(client)).await.concat().into_iter().collect()
}

/// Waits until all these runs ended well; each fetched its page.
pub async fn finished(http: &reqwest::Client, url: &str, workflows: &BTreeSet<String>) {
    for workflow in workflows {
        until(workflow, async || get(http, format!("{url}/api/v1/history/{workflow}")).await["status"] == "completed")
            .await;
    }
}

/// Milliseconds of so many chats, one after the other, that are no work for anybody; the middle one.
pub async fn chat_p50(http: &reqwest::Client, url: &str, chats: usize, name: &str) -> f64 {
    let mut took = Vec::new();
    for n in 0..chats {
        let began = Instant::now();
        let chat = format!("{url}/api/chat/{name}-{n}/stream?message=hello");
        let text = http.get(chat).send().await.expect("an answer").text().await.expect("text");
        assert!(text.contains("response.completed"), "{text}");
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}

/// Waits until something is so.
pub async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !so().await {
        assert!(Instant::now() < end, "{what}: it did not come");
        tokio::time::sleep(Duration::from_millis(10)).await; // allow-sleep: polls a condition under a deadline
    }
}

/// Bytes that a process holds in memory.
pub fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    rss.and_then(|text| text.trim().split(' ').next()?.parse::<f64>().ok()).expect("its size") * 1024.0
}
