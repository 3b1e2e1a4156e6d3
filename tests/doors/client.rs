//! Clients: a WebSocket that reads one JSON event at a time, and an EventSource.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::app::{DEADLINE, TestApp};

pub struct Ws(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl TestApp {
    pub async fn try_ws(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Ws, Error> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request()?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header");
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        tokio_tungstenite::connect_async(request).await.map(|(socket, _)| Ws(socket))
    }

    pub async fn ws(&self) -> Ws {
        self.try_ws("/api/ws/chat", &[]).await.expect("a socket")
    }

    pub async fn ws2(&self) -> Ws {
        self.try_ws("/api/ws/chat", &[("sec-websocket-protocol", "fleet.v2")]).await.expect("a socket")
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let mut request = reqwest::Client::new().get(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer")
    }
}

/// The status of a refused handshake.
pub fn status(refused: Result<Ws, Error>) -> u16 {
    match refused {
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
        Ok(_) => 101,
    }
}

impl Ws {
    pub async fn send(&mut self, json: Value) {
        self.send_text(&json.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("sent");
    }

    /// The next event, heartbeats left out; `Err` is the close code.
    pub async fn next(&mut self) -> Result<Value, u16> {
        loop {
            let message = timeout(DEADLINE, self.0.next()).await.expect("an event in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let event: Value = serde_json::from_str(&text).expect("json");
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

    /// The next event, heartbeats too.
    pub async fn raw(&mut self) -> Value {
        let message = timeout(DEADLINE, self.0.next()).await.expect("in time").expect("open").expect("a message");
        serde_json::from_str(message.to_text().expect("text")).expect("json")
    }

    /// Events up to one of this type, itself included.
    pub async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            match self.next().await {
                Ok(event) => {
                    events.push(event);
                    if events.last().is_some_and(|event| event["type"] == kind) {
                        return events;
                    }
                }
                Err(code) => panic!("closed with {code} before {kind}: {events:#?}"),
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
}

/// The types of events.
pub fn types(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["type"].as_str()).collect()
}

/// An EventSource.
pub struct Sse {
    response: reqwest::Response,
    text: String,
}

impl Sse {
    pub fn new(response: reqwest::Response) -> Self {
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event and its id, heartbeats left out; `None` at the end.
    pub async fn next(&mut self) -> Option<(Option<u64>, Value)> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let id = frame.lines().find_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().expect("id"));
                let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
                let event: Value = serde_json::from_str(data).expect("json");
                self.text = rest.to_owned();
                if event["type"] == "heartbeat" {
                    continue;
                }
                return Some((id, event));
            }
            let chunk = timeout(DEADLINE, self.response.chunk()).await.expect("in time").ok()??;
            self.text.push_str(std::str::from_utf8(&chunk).expect("utf-8"));
        }
    }

    pub async fn rest(&mut self) -> Vec<(Option<u64>, Value)> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}
