//! Settings from variables, a scripted web server, and calls as a workflow makes them.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use agentic_fleet::settings::{Settings, Sources};
use agentic_fleet::tools::artifacts::Artifacts;
use agentic_fleet::tools::sandbox::SandboxGuard;
use agentic_fleet::tools::{self, FleetTools, Provider};
use fleet_actors::event::Failure;
use fleet_actors::ids::{RequestId, WorkflowId};
use fleet_actors::ports::{Approval, ToolCall, ToolOffer, ToolOutput, ToolRunner, Tools as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Settings as these variables make them.
pub fn settings(variables: &[(&str, &str)]) -> Settings {
    let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Settings::load(&Sources { environment, ..Sources::default() }).unwrap_or_else(|error| panic!("{error}")).settings
}

/// Tools that run in a directory of their own.
pub struct World {
    pub dir: tempfile::TempDir,
    pub tools: FleetTools,
    pub artifacts: Artifacts,
    _guard: SandboxGuard,
}

impl World {
    pub fn new(variables: &[(&str, &str)]) -> Self {
        Self::with(variables, Vec::new())
    }

    pub fn with(variables: &[(&str, &str)], others: Vec<Arc<dyn Provider>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Programs in the sandbox are nobody, who must be able to pass.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let data_dir = dir.path().join("data");
        let mut variables = variables.to_vec();
        variables.push(("FLEET_DATA_DIR", data_dir.to_str().unwrap()));
        let settings = settings(&variables);
        let artifacts = Artifacts::in_data_dir(&settings.storage.data_dir);
        let (tools, guard) = tools::start(&settings, &artifacts, others).unwrap();
        Self { dir, tools, artifacts, _guard: guard }
    }

    pub fn runner(&self) -> Rc<dyn ToolRunner> {
        self.tools.runner("local")
    }

    /// The offer of one tool.
    pub async fn offer(&self, name: &str) -> ToolOffer {
        let offers = self.runner().offers(&[name.to_owned()]).await;
        offers.into_iter().next().unwrap_or_else(|| panic!("no tool {name}"))
    }

    /// A call as a well-behaved workflow makes it: with the digest of the offer, and approved.
    pub async fn call(&self, name: &str, arguments: Value) -> Result<ToolOutput, Failure> {
        let offer = self.offer(name).await;
        self.runner().call(&approved(call(&offer, arguments))).await
    }
}

/// A call of what was offered, by nobody's leave.
pub fn call(offer: &ToolOffer, arguments: Value) -> ToolCall {
    ToolCall {
        workflow: WorkflowId::from_trusted("0197f000-0000-7000-8000-000000000001"),
        agent: None,
        name: offer.spec.name.as_str().into(),
        arguments,
        schema_digest: offer.schema_digest.clone(),
        approval: None,
        idempotency_key: "key".into(),
        attempt: 1,
    }
}

/// The same call, with a human's word for exactly it.
pub fn approved(mut call: ToolCall) -> ToolCall {
    let arguments_digest = ToolCall::arguments_digest(&call.name, &call.arguments);
    call.approval = Some(Approval { request_id: RequestId::from_trusted("q"), arguments_digest });
    call
}

/// What a scripted server does with a request, given its first line, headers and body as text.
pub type Handler = Arc<dyn Fn(String) -> Answer + Send + Sync>;

/// One answer.
pub enum Answer {
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// These, then these again and again, with a pause between, until the other side hangs up.
    Forever { first: Vec<u8>, again: Vec<u8>, pause_ms: u64 },
}

/// An answer with a status line, headers and a body.
pub fn answer(status: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Bytes(
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}").into(),
    )
}

/// A server on a free port of loopback; counts the connections it was asked for.
pub struct Server {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub async fn start(handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, requests) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let seen = requests.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, handler.clone(), seen.clone()));
            }
        });
        Self { address, requests }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn seen(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(mut socket: TcpStream, handler: Handler, seen: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    loop {
        let mut buffer = [0; 4_096];
        let Ok(read) = socket.read(&mut buffer).await else { return };
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if read == 0 {
                return;
            }
            continue;
        };
        let length = head.to_ascii_lowercase();
        let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) || read == 0 {
            break;
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    seen.lock().unwrap().push(request.clone());
    match handler(request) {
        Answer::Bytes(bytes) => drop(socket.write_all(&bytes).await),
        Answer::Forever { first, again, pause_ms } => {
            let mut sent = socket.write_all(&first).await;
            while sent.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await; // allow-sleep: the pace of the server
                sent = socket.write_all(&again).await;
            }
        }
    }
}

/// What is logged on this thread while it lives.
pub struct Log {
    lines: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    /// Everything, as text for people: what is not encoded here is not encoded anywhere.
    pub fn capture() -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Sink(lines.clone());
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
            .with_writer(move || sink.clone())
            .finish();
        Self { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.lines.lock().unwrap().clone()).unwrap()
    }
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
