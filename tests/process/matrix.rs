//! The crash matrix: the server is killed at each place before and after something becomes durable, is acknowledged or is
//! dispatched, for three kinds of work.
//!
//! Each place is tried the first time a run reaches it, the second, and so on until a run ends before. After the restart:
//! what was acknowledged is there, the run ends, whoever came back after number N has what one has who reads the log from
//! its beginning, and a model call whose result was durable was not made again.

use std::path::Path;
use std::time::Duration;

use fleet_actors::failpoint::FailPoint;
use serde_json::{Value, json};

use crate::client::{Seen, read};
use crate::process::{client, get, serve_with, simulate};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    /// One model call, the first message of its conversation.
    FastChat,
    /// One agent, in a conversation that has an exchange already.
    AgentChat,
    /// A run that nobody needs to watch.
    Background,
}

/// Places that a run reaches in its first life.
const FIRST_LIFE: &[FailPoint] = &[
    FailPoint::Register,
    FailPoint::BeforeCommit,
    FailPoint::AfterCommit,
    FailPoint::BeforeAck,
    FailPoint::AfterAck,
    FailPoint::BeforeDispatch,
    FailPoint::AfterDispatch,
    FailPoint::BeforeFinal,
    FailPoint::AfterFinal,
];
/// Places behind its end: reached within moments after it.
const BEHIND_THE_END: &[FailPoint] = &[FailPoint::BeforeExport, FailPoint::AfterExport, FailPoint::AfterExportCursor];
/// Places that the process after a kill reaches while it takes the run over.
const TAKEOVER: &[FailPoint] = &[
    FailPoint::Adopt,
    FailPoint::BeforeTakeover,
    FailPoint::BeforeCommit,
    FailPoint::AfterCommit,
    FailPoint::BeforeAck,
    FailPoint::AfterTakeover,
    FailPoint::BeforeDispatch,
];
/// Every number that a run's events can have in its first life is below this.
const SECOND_LIFE: u64 = 1_000_000_000;

/// One run, its client, and what both know.
struct Case<'a> {
    workload: Workload,
    dir: &'a Path,
    model: &'a str,
    http: reqwest::Client,
    name: String,
    seen: Seen,
    /// The run's id, once it was acknowledged.
    workflow: Option<String>,
    /// Calls of the model at the last kill.
    calls: u64,
}

impl Case<'_> {
    fn message(&self) -> String {
        match self.workload {
            Workload::FastChat => format!("hello {}", self.name),
            Workload::AgentChat | Workload::Background => format!("write about {}", self.name),
        }
    }

    /// Does what a client does: asks, or comes back to what it has. True when it saw the end.
    async fn visit(&mut self, url: &str) -> bool {
        let http = self.http.clone();
        let after = self.workflow.is_some().then_some(self.seen.last);
        let stream = if self.workload == Workload::Background {
            if self.workflow.is_none() {
                let request = http.post(format!("{url}/api/v1/runs")).header("idempotency-key", self.name.clone());
                let Ok(response) = request.json(&json!({ "task": self.message() })).send().await else { return false };
                assert_eq!(response.status(), 202, "{}", self.name);
                let Ok(accepted) = response.json::<Value>().await else { return false };
                self.workflow = accepted["workflow_id"].as_str().map(str::to_owned);
            }
            format!("{url}/api/v1/workflows/{}/events?version=2", self.workflow.as_deref().unwrap())
        } else {
            let message = self.message().replace(' ', "+");
            format!("{url}/api/chat/{}/stream?version=2&client_message_id={}&message={message}", self.name, self.name)
        };
        let connection = read(&http, &stream, after, &mut self.seen).await;
        if let Some(workflow) = connection.workflow {
            assert!(self.workflow.as_ref().is_none_or(|known| *known == workflow), "{}: another run", self.name);
            self.workflow = Some(workflow);
        }
        assert!(connection.errors.is_empty(), "{}: {:?}", self.name, connection.errors);
        self.seen.is_done()
    }

    /// Calls that reached the model with this run's message as the last one.
    async fn calls(&self) -> u64 {
        let (mut after, mut calls) = (0, 0);
        let message = self.message();
        loop {
            let admin = format!("{}/admin/requests?after={after}", self.model.trim_end_matches("/v1"));
            let page = get(&self.http, admin).await;
            let requests = page["requests"].as_array().unwrap();
            let Some(last) = requests.last() else { return calls };
            after = last["n"].as_u64().unwrap();
            let of_us = |request: &&Value| {
                let messages = request["messages"].as_array();
                messages.and_then(|all| all.last()).is_some_and(|last| last["content"].as_str() == Some(&message))
            };
            let ours: Vec<_> = requests.iter().filter(of_us).collect();
            calls += ours.len() as u64;
            // Instructions, the exchange before, the message.
            let told = if self.workload == Workload::AgentChat { 4 } else { 2 };
            for request in ours {
                assert_eq!(request["messages"].as_array().map(Vec::len), Some(told), "{}: {request}", self.name);
            }
        }
    }

    /// Starts the server, which is to die at `point`; false when it did not because the run ended before.
    async fn life(&mut self, point: FailPoint, at: u32) -> bool {
        let armed = format!("{}=kill@{at}", point.name());
        let (mut server, url) = serve_with(self.dir, self.model, &[("AGENTIC_FLEET_FAIL_POINT", &armed)]);
        let done = match url {
            Some(url) => self.visit(&url).await,
            None => false,
        };
        if done && !BEHIND_THE_END.contains(&point) {
            // The client may know of the end a moment before the process is dead.
            let ended = server.ended(Duration::from_millis(100)).await;
            self.calls = self.calls().await;
            return ended.is_some();
        }
        let status = server.ended(Duration::from_secs(15)).await;
        let status = status.unwrap_or_else(|| panic!("{}: the server lives, {:?}", self.name, self.seen));
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "{}", self.name);
        self.calls = self.calls().await;
        true
    }

    /// Lets the last life end the run, and checks everything.
    async fn judge(mut self) -> Verdict {
        let (_server, url) = serve_with(self.dir, self.model, &[]);
        let url = url.unwrap_or_else(|| panic!("{}: it does not start any more", self.name));
        if !self.seen.is_done() {
            assert!(self.visit(&url).await, "{}: no end: {:?}", self.name, self.seen);
        }
        let workflow = self.workflow.clone().unwrap();
        let mut whole = Seen::default();
        let log = format!("{url}/api/v1/workflows/{workflow}/events?version=2");
        read(&self.http, &log, None, &mut whole).await;
        assert_eq!(self.seen, whole, "{}: whoever left has another run", self.name);
        assert_eq!(whole.events.last().unwrap()["status"], "completed", "{}", self.name);
        // A call whose result was durable is not made again, any other once more.
        let result = whole.events.iter().find(|event| event["type"] == "step.completed").unwrap();
        // Without a call before the kill there was none; the first life may even have left no trace at all.
        let result_was_durable = self.calls > 0 && result["seq"].as_u64().unwrap() < SECOND_LIFE;
        let more = u64::from(!result_was_durable);
        let calls = self.calls().await;
        assert_eq!(calls, self.calls + more, "{}: calls of the model, {} at the kill", self.name, self.calls);
        assert_eq!(whole.count("step.completed"), 1, "{}", self.name);
        self.once_in_history(&url, &workflow).await;
        if self.workload != Workload::Background {
            self.once_in_the_conversation(&url, result["text"].as_str().unwrap()).await;
        }
        Verdict { result_was_durable }
    }

    async fn once_in_history(&self, url: &str, workflow: &str) {
        let entry = get(&self.http, format!("{url}/api/v1/history/{workflow}")).await;
        assert_eq!(entry["status"], "completed", "{}: {entry}", self.name);
        let export = self.dir.join(".var/logs/execution_history.jsonl");
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while !std::fs::read_to_string(&export).is_ok_and(|text| text.contains(workflow)) {
            assert!(std::time::Instant::now() < end, "{}: it is not in the history file", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await; // allow-sleep: polls a condition under a deadline
        }
        for line in std::fs::read_to_string(&export).unwrap().lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.name));
        }
    }

    async fn once_in_the_conversation(&self, url: &str, answer: &str) {
        let talk = get(&self.http, format!("{url}/api/v1/conversations/{}", self.name)).await;
        let messages = talk["messages"].as_array().unwrap();
        let mine: Vec<_> = messages.iter().rev().take(2).map(|message| message["content"].as_str().unwrap()).collect();
        assert_eq!(mine, [answer, &self.message()], "{}: {talk}", self.name);
        let before = if self.workload == Workload::AgentChat { 2 } else { 0 };
        assert_eq!(messages.len(), before + 2, "{}: {talk}", self.name);
    }
}

struct Verdict {
    result_was_durable: bool,
}

/// Runs one case; nothing when the run ended before the last kill.
async fn case(workload: Workload, model: &str, kills: &[(FailPoint, u32)]) -> Option<Verdict> {
    let dir = tempfile::tempdir().unwrap();
    let places: Vec<_> = kills.iter().map(|(point, at)| format!("{}-{at}", point.name())).collect();
    let name = format!("{}-{}", format!("{workload:?}").to_lowercase(), places.join("-"));
    let (seen, http) = (Seen::default(), client());
    let mut case = Case { workload, dir: dir.path(), model, http, name, seen, workflow: None, calls: 0 };
    if workload == Workload::AgentChat {
        let (server, url) = serve_with(dir.path(), model, &[]);
        let url = url.unwrap();
        let first = format!("{url}/api/chat/{}/stream?version=2&message=hello", case.name);
        let mut seen = Seen::default();
        read(&case.http, &first, None, &mut seen).await;
        assert!(seen.is_done());
        // Its history line is not what the case is about: a drain waits for it.
        server.stop().await;
    }
    for (point, at) in kills {
        if !case.life(*point, *at).await {
            return None;
        }
    }
    Some(case.judge().await)
}

async fn every_place(workload: Workload) {
    let models = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(models.path(), 5, 2_000);
    let (mut killed, mut kept) = (0, 0);
    let mut count = |verdict: &Verdict| {
        killed += 1;
        kept += u32::from(verdict.result_was_durable);
    };
    for point in FIRST_LIFE {
        for at in 1.. {
            match case(workload, &model, &[(*point, at)]).await {
                Some(verdict) => count(&verdict),
                None => {
                    assert!(at > 1, "no run reaches {}", point.name());
                    break;
                }
            }
        }
    }
    for point in BEHIND_THE_END {
        count(&case(workload, &model, &[(*point, 1)]).await.unwrap());
    }
    for point in TAKEOVER {
        let kills = [(FailPoint::AfterDispatch, 1), (*point, 1)];
        count(&case(workload, &model, &kills).await.unwrap_or_else(|| panic!("no takeover reaches {}", point.name())));
    }
    println!("{workload:?}: killed at {killed} places, {kept} times behind the durable result");
    assert!(killed >= 20 && kept >= 6 && kept < killed, "{killed} {kept}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_fast_chat_survives_a_kill_at_every_durable_boundary() {
    every_place(Workload::FastChat).await;
}

#[tokio::test(flavor = "current_thread")]
async fn an_agent_with_a_conversation_survives_a_kill_at_every_durable_boundary() {
    every_place(Workload::AgentChat).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_background_run_survives_a_kill_at_every_durable_boundary() {
    every_place(Workload::Background).await;
}
