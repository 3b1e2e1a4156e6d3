//! Cheap clients: one connection each, no pool.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::world::DEADLINE;

/// A whole HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    /// Chunk sizes are left in it.
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a request and gives its connection.
pub async fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads a whole answer.
pub async fn receive(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("an answer in time").unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer but {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    receive(send(address, method, path, body).await).await
}

/// The events of an SSE answer.
pub fn events(answer: &Answer) -> Vec<Value> {
    let data = answer.body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|json| serde_json::from_str(json).unwrap()).filter(|event: &Value| event["type"] != "heartbeat").collect()
}

/// A WebSocket.
pub struct Ws(pub WebSocketStream<TcpStream>);

pub async fn ws(address: SocketAddr, headers: &[(&'static str, &'static str)]) -> Result<Ws, Error> {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut request = format!("ws://{address}/api/ws/chat").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    let opened = timeout(DEADLINE, tokio_tungstenite::client_async(request, stream)).await.expect("a handshake");
    opened.map(|(socket, _)| Ws(socket))
}

pub async fn v2(address: SocketAddr) -> Ws {
    ws(address, &[("sec-websocket-protocol", "fleet.v2")]).await.unwrap()
}

impl Ws {
    pub async fn send(&mut self, json: Value) {
        self.0.send(Message::text(json.to_string())).await.unwrap();
    }

    /// The next event, heartbeats left out; `Err` is the close code.
    pub async fn next(&mut self) -> Result<Value, u16> {
        loop {
            match timeout(DEADLINE, self.0.next()).await.expect("an event in time") {
                Some(Ok(Message::Text(text))) => {
                    let event: Value = serde_json::from_str(&text).unwrap();
                    if event["type"] != "heartbeat" {
                        return Ok(event);
                    }
                }
                Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) => return Err(code.into()),
                Some(Ok(Message::Close(None))) => return Err(1005),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => {}
                Some(Err(_)) | None => return Err(1006),
            }
        }
    }

    /// Events up to the first that fits.
    pub async fn find(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        let mut before = Vec::new();
        loop {
            match self.next().await {
                Ok(event) if fits(&event) => return event,
                Ok(event) => before.push(event),
                Err(code) => panic!("closed with {code}: {before:#?}"),
            }
        }
    }

    /// Everything until the close, and its code.
    pub async fn rest(&mut self) -> (Vec<Value>, u16) {
        let mut events = Vec::new();
        loop {
            match self.next().await {
                Ok(event) => events.push(event),
                Err(code) => return (events, code),
            }
        }
    }

    /// Whether the socket still serves.
    pub async fn serves(&mut self) -> bool {
        self.send(json!({ "type": "ping" })).await;
        self.next().await.is_ok_and(|event| event["type"] == "pong")
    }
}
