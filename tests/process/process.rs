//! The real binary in processes of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A process of ours; killed with -9 when dropped.
pub struct Process(Child);

impl Process {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal, as `TERM`, and waits for its end.
    pub fn end(&mut self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
        self.0.wait().unwrap();
    }

    /// Ends it as an operator does, and waits for it.
    pub async fn stop(mut self) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let status = self.ended(Duration::from_secs(20)).await;
        assert_eq!(status.and_then(|status| status.code()), Some(0));
    }

    /// How it ended, if it does so in time.
    pub async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status);
            }
            if Instant::now() >= end {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // allow-sleep: polls a condition under a deadline
        }
    }
}

/// What the processes that worked in `dir` wrote to standard error.
pub fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("stderr")).unwrap_or_default()
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the simulated model in a process of its own; answers with its base URL.
pub fn simulate(dir: &Path, latency_ms: u32, tokens_per_second: u32) -> (Process, String) {
    let (latency, pace) = (latency_ms.to_string(), tokens_per_second.to_string());
    let arguments = ["simulate-llm", "--port", "0", "--latency-ms", &latency, "--tokens-per-second", &pace];
    start(&arguments, &[], dir, "OPENAI_BASE_URL=")
}

/// Starts the binary and answers with what stands behind `mark` on its first lines.
pub fn start(arguments: &[&str], environment: &[(&str, &str)], dir: &Path, mark: &str) -> (Process, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentic-fleet"));
    command.args(arguments).envs(environment.iter().copied());
    let (process, value) = spawn(command, dir, mark);
    (process, value.unwrap_or_else(|| panic!("{arguments:?} did not say `{mark}`: {}", log(dir))))
}

/// Starts a command and answers with what stands behind `mark` on its first lines, if it says so before it ends.
pub fn spawn(mut command: Command, dir: &Path, mark: &str) -> (Process, Option<String>) {
    let errors = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("stderr")).unwrap();
    command.current_dir(dir).stdout(Stdio::piped()).stderr(errors).env_remove("OPENAI_API_KEY");
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.take(5) {
        let Ok(line) = line else { break };
        if let Some((_, rest)) = line.split_once(mark) {
            let value = rest.split_whitespace().next().unwrap_or_default().to_owned();
            return (Process(child), Some(value));
        }
    }
    (Process(child), None)
}

/// One agent without phases around it: a run is one model call.
pub const ONE_AGENT: [(&str, &str); 4] = [
    ("FLEET_PIPELINE__ANALYSIS", "false"),
    ("FLEET_PIPELINE__ROUTING", "false"),
    ("FLEET_PIPELINE__PROGRESS", "false"),
    ("FLEET_PIPELINE__QUALITY", "false"),
];

/// The server of [`ONE_AGENT`]. With these variables, as an armed fail
/// point; without an address when it died before it listened.
pub fn serve_with(dir: &Path, model: &str, environment: &[(&str, &str)]) -> (Process, Option<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentic-fleet"));
    command.args(["serve", "--port", "0"]).env("OPENAI_BASE_URL", model).env("MAX_CONCURRENT_WORKFLOWS", "64");
    command.envs(ONE_AGENT);
    command.envs(environment.iter().copied());
    let (process, docs) = spawn(command, dir, "browser:");
    (process, docs.map(|docs| docs.trim_end_matches("/docs").to_owned()))
}

/// The same without a word more.
pub fn serve(dir: &Path, model: &str) -> (Process, String) {
    let (process, url) = serve_with(dir, model, &[]);
    (process, url.unwrap_or_else(|| panic!("the server did not say where it listens: {}", log(dir))))
}

/// The fleet as it is shipped.
pub fn serve_fleet(dir: &Path, model: &str) -> (Process, String) {
    let environment = [("OPENAI_BASE_URL", model), ("MAX_CONCURRENT_WORKFLOWS", "64")];
    let (server, docs) = start(&["serve", "--port", "0"], &environment, dir, "browser:");
    (server, docs.trim_end_matches("/docs").to_owned())
}

pub async fn get(http: &reqwest::Client, url: String) -> Value {
    http.get(url).send().await.unwrap().json().await.unwrap()
}

/// Asks until the answer fits, for at most 20 seconds.
pub async fn until(http: &reqwest::Client, url: String, fits: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = get(http, url.clone()).await;
        if fits(&answer) {
            return answer;
        }
        assert!(Instant::now() < end, "{url} stayed {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await; // allow-sleep: polls a condition under a deadline
    }
}

/// A client that no proxy of the environment sees.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}
