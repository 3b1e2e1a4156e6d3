//! Commands that end, and servers that stay, as processes of their own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The binary in a directory, without whatever the environment of the tests says about it.
pub fn binary(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentic-fleet"));
    let names =
        ["OPENAI_API_KEY", "OPENAI_BASE_URL", "MAX_CONCURRENT_WORKFLOWS", "LOG_JSON", "LOG_LEVEL", "TAVILY_API_KEY"];
    for name in names.iter().copied().chain(["FLEET_CONFIG", "FLEET_PROFILE", "FLEET_DATA_DIR"]) {
        command.env_remove(name);
    }
    // One agent without phases around it: a run is one model call.
    for phase in ["ANALYSIS", "ROUTING", "PROGRESS", "QUALITY"] {
        command.env(format!("FLEET_PIPELINE__{phase}"), "false");
    }
    command.args(arguments).current_dir(dir).stdin(Stdio::null());
    command
}

/// What a command that ended said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The one line that it failed with.
    pub fn failed(&self, code: i32, with: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(with), "expected `{with}`: {self:?}");
        assert!(self.err.lines().count() <= 2 && !self.err.contains("panicked"), "{self:?}");
    }
}

/// A place to run commands in: a directory with a model of its own, and perhaps a server.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub model: String,
    environment: Vec<(String, String)>,
    server: Option<(Process, String)>,
    _model: Process,
}

impl Place {
    /// With a model that answers at once.
    pub fn new() -> Self {
        Self::with_model(0, 0)
    }

    pub fn with_model(latency_ms: u32, tokens_per_second: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (latency, pace) = (latency_ms.to_string(), tokens_per_second.to_string());
        let arguments = ["simulate-llm", "--port", "0", "--latency-ms", &latency, "--tokens-per-second", &pace];
        let (process, model) = Process::start(binary(dir.path(), &arguments), "OPENAI_BASE_URL=");
        Self { dir, model, environment: Vec::new(), server: None, _model: process }
    }

    /// Two of them, the second with a server: what a command does must not depend on which it is in.
    pub fn both() -> [Self; 2] {
        let mut served = Self::new();
        served.serve();
        [Self::new(), served]
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.dir.path(), arguments);
        command.env("OPENAI_BASE_URL", &self.model);
        // Where code cannot be run, a run has to say so, and nothing here is about that.
        command.envs(["PYTHON", "JAVASCRIPT"].map(|language| (format!("FLEET_TOOLS__{language}__ENABLED"), "false")));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command in the data directory.
    pub fn local(&self, arguments: &[&str]) -> Said {
        ended(self.command(arguments))
    }

    /// Runs a command through the server if there is one, else in the data directory.
    pub fn cli(&self, arguments: &[&str]) -> Said {
        ended(self.reach(arguments))
    }

    pub fn reach(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        if let Some((_, url)) = &self.server {
            command.args(["--server", url]);
        }
        command
    }

    pub fn serve(&mut self) -> String {
        self.serve_with(&[])
    }

    pub fn serve_with(&mut self, arguments: &[&str]) -> String {
        let arguments = [&["serve", "--port", "0"], arguments].concat();
        let (process, docs) = Process::start(self.command(&arguments), "browser:");
        let url = docs.trim_end_matches("/docs").to_owned();
        self.server = Some((process, url.clone()));
        url
    }

    /// A server whose database may stand elsewhere.
    pub fn serve_with_database(&mut self, data_dir: &str, database: &str) -> String {
        let mut command = self.command(&["serve", "--port", "0", "--data-dir", data_dir]);
        command.env("FLEET_STORAGE__DATABASE_PATH", database);
        let (process, docs) = Process::start(command, "browser:");
        let url = docs.trim_end_matches("/docs").to_owned();
        self.server = Some((process, url.clone()));
        url
    }

    pub fn url(&self) -> &str {
        &self.server.as_ref().unwrap().1
    }

    pub fn server(&self) -> &Process {
        &self.server.as_ref().unwrap().0
    }

    /// Tells the server to stop; what it ends with.
    pub fn stopped(&mut self) -> Option<i32> {
        let (mut server, _) = self.server.take().unwrap();
        server.signal("-TERM");
        server.exit_code()
    }

    /// Ends the server with -9.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Runs a message to its end; the execution's id.
    pub fn ran(&self, message: &str) -> String {
        let run = self.cli(&["run", "--json", "-m", message]);
        assert_eq!(run.code, 0, "{run:?}");
        run.json()["execution_id"].as_str().unwrap().to_owned()
    }

    /// Where the model tells its counts.
    pub fn stats(&self) -> String {
        format!("{}/admin/stats", self.model.trim_end_matches("/v1"))
    }

    /// What the model counted, under `name`.
    pub async fn counted(&self, name: &str) -> u64 {
        get(&self.stats()).await[name].as_u64().unwrap()
    }

    /// Waits until the model is called.
    pub async fn until_called(&self) {
        get_until(&self.stats(), |stats| stats["live"] == 1).await;
    }
}

pub fn ended(mut command: Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap_or(-1);
    Said { code, out: text(output.stdout), err: text(output.stderr) }
}

/// A process of ours; killed with -9 when dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts it and answers with the word that stands behind `mark` on its first lines.
    pub fn start(mut command: Command, mark: &str) -> (Self, String) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let process = Self::reading(child);
        for line in lines.take(5) {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once(mark) {
                let word = rest.split_whitespace().next().unwrap_or_default().to_owned();
                return (process, word);
            }
        }
        panic!("it did not say `{mark}`: {}", process.log());
    }

    /// Takes a process over and reads its log, so that it never waits for a reader.
    pub fn reading(mut child: Child) -> Self {
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, read) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = read.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        signal_to(self.child.id(), signal);
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log has `count` lines with these words.
    pub fn wait_for(&self, words: &str, count: usize) {
        until(words, || self.log().lines().filter(|line| line.contains(words)).count() >= count);
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10)); // allow-sleep: polls a condition under a deadline
        }
        panic!("it does not end: {}", self.log());
    }
}

pub fn signal_to(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: never");
        std::thread::sleep(Duration::from_millis(10)); // allow-sleep: polls a condition under a deadline
    }
}

/// A client that no proxy of the environment sees.
pub fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub async fn get(url: &str) -> Value {
    http().get(url).send().await.unwrap().json().await.unwrap()
}

/// Asks until the answer fits.
pub async fn get_until(url: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = get(url).await;
        if fits(&answer) {
            return answer;
        }
        assert!(Instant::now() < end, "{url} stayed {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await; // allow-sleep: polls a condition under a deadline
    }
}
