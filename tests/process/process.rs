//! The real binary in processes of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A process of ours; killed with -9 when dropped.
pub struct Process(Child);

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
    command.args(arguments).current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command.env_remove("OPENAI_API_KEY").envs(environment.iter().copied());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.take(5) {
        let line = line.unwrap();
        if let Some((_, rest)) = line.split_once(mark) {
            let value = rest.split_whitespace().next().unwrap_or_default().to_owned();
            return (Process(child), value);
        }
    }
    panic!("{arguments:?} did not say `{mark}`");
}

/// One agent without phases around it: a run is one model call.
pub const ONE_AGENT: [(&str, &str); 4] = [
    ("FLEET_PIPELINE__ANALYSIS", "false"),
    ("FLEET_PIPELINE__ROUTING", "false"),
    ("FLEET_PIPELINE__PROGRESS", "false"),
    ("FLEET_PIPELINE__QUALITY", "false"),
];

/// A server of [`ONE_AGENT`].
pub fn serve(dir: &Path, model: &str) -> (Process, String) {
    serve_with(dir, model, &ONE_AGENT)
}

/// The fleet as it is shipped, but for these settings.
pub fn serve_with(dir: &Path, model: &str, settings: &[(&str, &str)]) -> (Process, String) {
    let mut environment = vec![("OPENAI_BASE_URL", model), ("MAX_CONCURRENT_WORKFLOWS", "64")];
    environment.extend(settings);
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
