//! SIGHUP: the cap and the log level of a running server.

use std::io::Write as _;
use std::path::PathBuf;

use crate::process::{Place, Process, get, get_until, http, until};

/// A server whose settings are a file, with runs that stay.
struct Reloaded {
    place: Place,
    file: PathBuf,
    url: String,
    reloads: usize,
    live: Vec<String>,
}

impl Reloaded {
    fn start(cap: u32) -> Self {
        let mut place = Place::with_model(120_000, 0);
        let file = place.dir.path().join("fleet.yaml");
        std::fs::write(&file, cap_of(cap)).unwrap();
        let url = place.serve_with(&["--config", "fleet.yaml"]);
        Self { place, file, url, reloads: 0, live: Vec::new() }
    }

    /// Writes the file, tells the server, and waits until it says that it read it.
    fn reload(&mut self, settings: &str, said: &str) {
        std::fs::write(&self.file, settings).unwrap();
        self.reloads += 1;
        self.place.server().signal("-HUP");
        self.place.server().wait_for("settings were read again", self.reloads);
        let log = self.place.server().log();
        let last = log.lines().rev().find(|line| line.contains("settings were read again")).unwrap();
        assert!(last.contains(said), "expected `{said}`: {last}");
    }

    /// Starts runs until one is refused; how many were not.
    async fn fill(&mut self) -> usize {
        for started in 0..100 {
            let body = serde_json::json!({ "task": "please work for long" });
            let response = http().post(format!("{}/api/v1/runs", self.url)).json(&body).send().await.unwrap();
            if response.status() == 429 {
                return started;
            }
            assert_eq!(response.status(), 202);
            let answer: serde_json::Value = response.json().await.unwrap();
            self.live.push(answer["workflow_id"].as_str().unwrap().to_owned());
        }
        panic!("nobody is refused");
    }

    async fn end(&mut self, runs: usize) {
        for _ in 0..runs {
            let workflow = self.live.pop().unwrap();
            let url = format!("{}/api/v1/sessions/{workflow}", self.url);
            assert_eq!(http().delete(&url).send().await.unwrap().status(), 204);
            get_until(&url, |session| session["status"] == "cancelled").await;
        }
        let live = self.live.len();
        let metrics = format!("{}/metrics", self.url);
        let end = std::time::Instant::now() + crate::process::PATIENCE;
        loop {
            let page = http().get(&metrics).send().await.unwrap().text().await.unwrap();
            if page.lines().any(|line| line == format!("fleet_sessions_live {live}")) {
                return;
            }
            assert!(std::time::Instant::now() < end, "{page}");
            tokio::task::yield_now().await;
        }
    }
}

fn cap_of(cap: u32) -> String {
    format!("sessions: {{ max_concurrent_workflows: {cap} }}\n")
}

#[tokio::test]
async fn a_raised_and_a_lowered_cap_hold_exactly_while_runs_are_live() {
    let mut server = Reloaded::start(3);
    assert_eq!(server.fill().await, 3);
    server.reload(&cap_of(5), r#""cap":5"#);
    assert_eq!(server.fill().await, 2, "five now");
    server.reload(&cap_of(2), r#""cap":2"#);
    assert_eq!(server.fill().await, 0, "five live and two allowed: nobody new, and nobody is thrown out");
    assert_eq!(server.live.len(), 5);
    let sessions = get(&format!("{}/api/v1/sessions", server.url)).await;
    assert!(sessions.as_array().unwrap().iter().all(|session| session["status"] == "running"), "{sessions}");
    server.end(3).await;
    assert_eq!(server.fill().await, 0, "two live and two allowed");
    server.end(1).await;
    assert_eq!(server.fill().await, 1, "one place, and no more");
    server.reload(&cap_of(4), r#""cap":4"#);
    assert_eq!(server.fill().await, 2);
}

#[tokio::test]
async fn a_log_level_applies_at_once_and_other_changes_are_named() {
    let mut server = Reloaded::start(2);
    let debug_lines =
        |server: &Reloaded| server.place.server().log().lines().filter(|l| l.contains(r#""DEBUG""#)).count();
    assert_eq!(server.fill().await, 2);
    server.end(2).await;
    assert_eq!(debug_lines(&server), 0);
    let settings =
        |level: &str| format!("{}logging: {{ level: \"{level}\" }}\nserver: {{ page_default: 7 }}\n", cap_of(2));
    server.reload(&settings("debug"), r#"restart":"[\"server.page_default\"]""#);
    assert_eq!(server.fill().await, 2);
    server.end(2).await;
    server.place.server().wait_for("turn ended", 2);
    server.reload(&settings("warn,agentic_fleet=info"), r#""restart":"[\"server.page_default\"]""#);
    let before = debug_lines(&server);
    assert_eq!(server.fill().await, 2);
    server.end(2).await;
    server.reload(&settings("info"), r#""cap":2"#);
    assert_eq!(debug_lines(&server), before, "none since the level was lowered");
}

/// Its first lines wait in a full pipe, so the signal comes before they are out, whatever the machine is busy with.
#[test]
fn a_signal_before_the_first_line_is_out_is_a_reload_and_not_the_end() {
    let place = Place::new();
    let (mut reader, mut full) = std::io::pipe().unwrap();
    full.write_all(&[b' '; 65_536]).unwrap();
    let mut command = place.command(&["serve", "--port", "0"]);
    let child = command.stdout(full).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(command);
    let pid = child.id();
    let server = Process::reading(child);
    let caught = |signal: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (signal - 1)) != 0
    };
    for (name, signal) in [("SIGHUP", 1), ("SIGINT", 2), ("SIGTERM", 15)] {
        until(&format!("{name} has a handler"), || caught(signal));
    }
    server.signal("-HUP");
    let lines = std::thread::spawn(move || std::io::Read::read_to_string(&mut reader, &mut String::new()));
    server.wait_for("settings were read again", 1);
    drop(server);
    assert!(lines.join().unwrap().unwrap() > 65_536);
}

#[tokio::test]
async fn a_bad_file_keeps_what_held_and_the_log_says_what_is_wrong_with_it() {
    let mut server = Reloaded::start(2);
    let wrong = "sessions: { max_concurrent_workflows: 9, max_task_length: many }\n";
    server.reload(wrong, "sessions.max_task_length");
    let log = server.place.server().log();
    let line = log.lines().rev().find(|line| line.contains("settings were read again")).unwrap();
    assert!(line.contains("ERROR") && line.contains("nothing changed"), "{line}");
    assert_eq!(server.fill().await, 2, "the cap that held");
    std::fs::remove_file(&server.file).unwrap();
    server.reloads += 1;
    server.place.server().signal("-HUP");
    server.place.server().wait_for("settings were read again", server.reloads);
    assert_eq!(server.fill().await, 0);
    server.reload(&cap_of(3), r#""cap":3"#);
    assert_eq!(server.fill().await, 1, "a good file after it");
}
