//! MCP servers as the fleet meets them: one made with the official Python SDK, over both transports, and one that
//! misbehaves in every way it can.

mod fleet;
mod hostile;
mod http;
mod real;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentic_fleet::settings::{Settings, Sources};
use agentic_fleet::tools::mcp::{McpServers, McpState};
use agentic_fleet::tools::{Dispatch, Offered, Provider as _};
use fleet_actors::event::Failure;
use fleet_actors::ids::WorkflowId;
use fleet_actors::ports::ToolOutput;
use serde_json::Value;

/// How long anything may take that is expected to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Servers under test, with their data directory.
struct Fleet {
    dir: Arc<tempfile::TempDir>,
    yaml: String,
    settings: Settings,
    environment: BTreeMap<String, String>,
    servers: McpServers,
}

impl Fleet {
    /// Starts the servers of `yaml`, in which `$DIR` and `$TESTS` stand for the data directory and this directory.
    fn start(yaml: &str, variables: &[(&str, &str)]) -> Self {
        Self::again(&Arc::new(tempfile::tempdir().expect("a directory")), yaml, variables)
    }

    /// The same in a directory that another one left.
    fn again(dir: &Arc<tempfile::TempDir>, yaml: &str, variables: &[(&str, &str)]) -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp/servers");
        let at = |path: &Path| path.display().to_string();
        let yaml = yaml.replace("$DIR", &at(dir.path())).replace("$TESTS", &at(&tests));
        let mut environment: BTreeMap<String, String> = std::env::vars().filter(|(name, _)| name == "PATH").collect();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let file = dir.path().join("fleet.yaml");
        std::fs::write(&file, &yaml).expect("the file is written");
        let mut sources = Sources::default();
        sources.flags.config = Some(file);
        let settings = Settings::load(&sources).unwrap_or_else(|error| panic!("{error}")).settings;
        let began = Instant::now();
        let servers = McpServers::start(&settings.mcp, &settings.mcp_servers, &environment, dir.path());
        assert!(began.elapsed() < Duration::from_secs(1), "starting waited for a server");
        Self { dir: dir.clone(), yaml, settings, environment, servers: servers.expect("a thread") }
    }

    fn state(&self, server: &str) -> McpState {
        self.servers.states().remove(server).expect("a server of that name")
    }

    async fn until(&self, server: &str, what: impl Fn(&McpState) -> bool) -> McpState {
        until(&format!("{server} gets there"), || Some(self.state(server)).filter(&what)).await
    }

    async fn ready(&self, server: &str) {
        self.until(server, |state| matches!(state, McpState::Ready { .. })).await;
    }

    async fn offers(&self, name: &str) -> Vec<Offered> {
        self.servers.offers(name).await
    }

    async fn offer(&self, name: &str) -> Offered {
        self.offers(name).await.pop().unwrap_or_else(|| panic!("{name} is not offered"))
    }

    async fn call(&self, tool: &str, arguments: Value) -> Result<ToolOutput, Failure> {
        let workflow = WorkflowId::generate();
        let (arguments, idempotency_key) = (&arguments, "key-1");
        self.servers.call(Dispatch { workflow: &workflow, tool, arguments, idempotency_key, attempt: 1 }).await
    }

    /// What a server left behind.
    fn left(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Polls until there is something.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "in {PATIENCE:?} it did not happen that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await; // allow-sleep: polls a condition under a deadline
    }
}

/// Whether a process runs; a zombie does not.
fn alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(PathBuf::from("/proc").join(pid).join("stat")).unwrap_or_default();
    let state = status.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Whether a process runs that was started with this word among its arguments.
fn running(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("the processes").flatten();
    processes
        .filter(|process| alive(&process.file_name().to_string_lossy()))
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .any(|arguments| String::from_utf8_lossy(&arguments).split('\0').any(|argument| argument == word))
}
