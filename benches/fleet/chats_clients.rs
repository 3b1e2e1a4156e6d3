//! Clients of each door, closed loops: who gets an answer asks again at once, with words that were not said before.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::http::{Http, find, post};

/// What the clients of one measurement share.
pub struct Load {
    pub address: SocketAddr,
    /// Answers count from here on.
    pub from: Instant,
    pub until: Instant,
    /// Milliseconds of each answer that counted.
    pub took: RefCell<Vec<f64>>,
    /// Makes conversations and message ids unique.
    pub run: u64,
    pub count: Cell<u64>,
}

impl Load {
    fn over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn next(&self) -> u64 {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    fn answered(&self, began: Instant) {
        let now = Instant::now();
        if now >= self.from && now < self.until {
            self.took.borrow_mut().push((now - began).as_secs_f64() * 1e3);
        }
    }
}

/// The model itself.
pub async fn direct(load: Rc<Load>) {
    let run = load.run;
    requests(load, 200, &|n| {
        let said = format!(r#"{{"role":"user","content":"hello {run} {n}"}}"#);
        post("/v1/chat/completions", &format!(r#"{{"model":"m","stream":true,"messages":[{said}]}}"#))
    })
    .await;
}

pub async fn http(load: Rc<Load>) {
    let run = load.run;
    requests(load, 201, &|n| post("/api/v1/run", &format!(r#"{{"task":"hello {run} {n}"}}"#))).await;
}

/// Server-sent events: a conversation for each message, because the same one again would join a run that was left.
pub async fn sse(load: Rc<Load>) {
    let run = load.run;
    requests(load, 200, &|n| {
        let message = format!("hello+{run}+{n}");
        format!("GET /api/chat/b{run}-{n}/stream?message={message} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
    })
    .await;
}

async fn requests(load: Rc<Load>, expected: u16, request: &dyn Fn(u64) -> Vec<u8>) {
    let mut http = Http::connect(load.address).await.expect("a connection");
    while !load.over() {
        let request = request(load.next());
        let began = Instant::now();
        let status = http.exchange(&request).await.expect("an answer");
        assert_eq!(status, expected, "{}", String::from_utf8_lossy(http.answer()));
        assert!(find(http.answer(), b"\"type\":\"error\"").is_none(), "{}", String::from_utf8_lossy(http.answer()));
        load.answered(began);
    }
}

pub type Socket = WebSocketStream<TcpStream>;

pub async fn open(address: SocketAddr, protocol: Option<&'static str>) -> Socket {
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket option");
    let mut request = format!("ws://{address}/api/ws/chat").into_client_request().expect("a request");
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().expect("a header"));
    }
    client_async(request, stream).await.expect("an upgrade").0
}

/// The next text frame; `None` when the server closed.
async fn text(socket: &mut Socket) -> Option<String> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) => return Some(text.as_str().to_owned()),
            Message::Close(_) => return None,
            Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_) => {}
        }
    }
}

fn is(event: &str, kind: &str) -> bool {
    event.get(..64.min(event.len())).unwrap_or(event).contains(&format!("\"type\":\"{kind}\""))
}

/// Version 1: a socket for each message. Like every other door's, its time counts from the message, on a connection that is open.
pub async fn v1(load: Rc<Load>) {
    while !load.over() {
        let mut socket = open(load.address, None).await;
        let message = format!(r#"{{"message":"hello {} {}"}}"#, load.run, load.next());
        let began = Instant::now();
        socket.send(Message::text(message)).await.expect("sent");
        loop {
            let event = text(&mut socket).await.expect("an event before the close");
            assert!(!is(&event, "error"), "{event}");
            if is(&event, "done") {
                break;
            }
        }
        load.answered(began);
        // The server closes; a client that waits for it leaves nothing behind.
        while text(&mut socket).await.is_some() {}
    }
}

/// `fleet.v2`: one socket that holds `chats` messages at once, begun spread over `spread`. A socket may send 100 frames a second.
pub async fn v2(load: Rc<Load>, chats: usize, spread: Duration) {
    let mut socket = open(load.address, Some("fleet.v2")).await;
    let (mut sent, mut runs) = (HashMap::new(), HashMap::new());
    let begin = async |socket: &mut Socket, sent: &mut HashMap<String, Instant>| {
        let (run, n) = (load.run, load.next());
        let key = format!("b{run}-{n}");
        let message = format!(r#"{{"type":"chat.send","client_message_id":"{key}","message":"hello {run} {n}"}}"#);
        sent.insert(key, Instant::now());
        socket.send(Message::text(message)).await.expect("sent");
    };
    let (opened, mut begun) = (Instant::now(), 0);
    while begun < chats || !sent.is_empty() || !runs.is_empty() {
        let due = opened + spread.mul_f64(begun as f64 / chats as f64);
        let event = tokio::select! {
            event = text(&mut socket) => event.expect("an event"),
            () = tokio::time::sleep_until(due.into()), if begun < chats => {
                begun += 1;
                begin(&mut socket, &mut sent).await;
                continue;
            }
        };
        assert!(!is(&event, "error"), "{event}");
        if is(&event, "connected") {
            let began = field(&event, "client_message_id").and_then(|key| sent.remove(key));
            let run = field(&event, "workflow_id").map(str::to_owned);
            runs.insert(run.expect("a run"), began.expect("one of ours"));
        } else if is(&event, "done") {
            let began = field(&event, "workflow_id").and_then(|run| runs.remove(run));
            load.answered(began.expect("one of ours"));
            if !load.over() {
                begin(&mut socket, &mut sent).await;
            }
        }
    }
}

/// A field whose value is a string without escapes.
fn field<'a>(event: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = event.split_once(&format!("\"{name}\":\""))?;
    rest.split('"').next()
}
