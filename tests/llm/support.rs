//! A scripted server, calls, and waiting for conditions.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentic_fleet::llm::{Api, LlmConfig, Provider, clients};
use fleet_actors::event::{Audience, Channel};
use fleet_actors::journal::Context;
use fleet_actors::ports::{
    AgentClients, ChatMessage, ModelCall, ModelClient, ModelError, ModelReply, ModelRequest, OutputForm, Role,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request as the scripted server got it.
#[derive(Clone, Debug)]
pub struct Received {
    pub head: String,
    pub body: Value,
}

/// A server that writes given bytes to each connection and closes it.
pub struct Scripted {
    pub base_url: String,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Scripted {
    /// Answers the `n`th connection (from 0) with `answer(n)`.
    pub async fn start(answer: impl Fn(usize) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base_url = format!("http://{}/v1/", listener.local_addr().expect("bound"));
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&received);
        tokio::spawn(async move {
            for n in 0.. {
                let Ok((mut socket, _)) = listener.accept().await else { return };
                let (bytes, log) = (answer(n), Arc::clone(&log));
                tokio::spawn(async move {
                    let request = read_request(&mut socket).await;
                    log.lock().expect("no panic").push(request);
                    let _ = socket.write_all(&bytes).await;
                    let _ = socket.shutdown().await;
                });
            }
        });
        Self { base_url, received }
    }

    /// The only request so far.
    pub fn request(&self) -> Received {
        let received = self.received.lock().expect("no panic");
        assert_eq!(received.len(), 1, "exactly one request");
        received[0].clone()
    }

    pub fn requests(&self) -> usize {
        self.received.lock().expect("no panic").len()
    }
}

pub async fn read_request(socket: &mut TcpStream) -> Received {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
            if bytes.len() >= end + 4 + length.unwrap_or(0) {
                return Received { head, body: serde_json::from_slice(&bytes[end + 4..]).unwrap_or_default() };
            }
        }
        if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return Received { head: String::new(), body: Value::Null };
        }
    }
}

/// An answer that ends with its connection.
pub fn answer(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut bytes = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub fn event_stream(body: &[u8]) -> Vec<u8> {
    answer("200 OK", &[("content-type", "text/event-stream")], body)
}

pub fn json_answer(body: &Value) -> Vec<u8> {
    answer("200 OK", &[("content-type", "application/json")], body.to_string().as_bytes())
}

pub fn config(api: Api, base_url: &str) -> LlmConfig {
    LlmConfig {
        provider: Provider::OpenAi,
        api,
        base_url: Some(base_url.to_owned()),
        api_key: Some("sk-canary-7391".into()),
        breaker: None,
        ..LlmConfig::default()
    }
}

pub fn make(config: &LlmConfig) -> Arc<dyn AgentClients> {
    clients(config).expect("a usable config")
}

pub fn call(messages: &[(Role, &str)]) -> ModelCall {
    ModelCall {
        request: ModelRequest {
            model: "simulated".into(),
            agent: None,
            audience: Audience::User,
            context: Context::of(messages.iter().map(|(role, text)| ChatMessage::new(*role, *text))),
            tools: Arc::new([]),
            output: OutputForm::Text,
            temperature: None,
            max_output_tokens: None,
        },
        idempotency_key: "run-1/step-1".into(),
        attempt: 1,
    }
}

pub fn say(text: &str) -> ModelCall {
    call(&[(Role::User, text)])
}

/// Calls, and checks that the reply is exactly what was streamed.
pub async fn run(client: &dyn ModelClient, call: &ModelCall) -> Result<ModelReply, ModelError> {
    let (mut text, mut reasoning) = (String::new(), String::new());
    let mut deltas = |delta: fleet_actors::ports::ModelDelta| {
        assert!(!delta.text.is_empty(), "no delta is empty");
        match delta.channel {
            Channel::Text => text.push_str(&delta.text),
            Channel::Reasoning => reasoning.push_str(&delta.text),
        }
    };
    let reply = client.call(call, &mut deltas).await?;
    assert_eq!((&reply.text, &reply.reasoning), (&text, &reasoning), "the reply is what was streamed");
    Ok(reply)
}

/// One call to a scripted server that always gives `bytes`.
pub async fn ask(api: Api, bytes: Vec<u8>) -> Result<ModelReply, ModelError> {
    let server = Scripted::start(move |_| bytes.clone()).await;
    run(&*make(&config(api, &server.base_url)).client(None), &say("hi")).await
}

pub fn code_of(outcome: &Result<ModelReply, ModelError>) -> String {
    outcome.as_ref().map_or_else(|error| error.failure.code.to_string(), |_| "ok".to_owned())
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await; // allow-sleep: polls a condition under a deadline
    }
}
