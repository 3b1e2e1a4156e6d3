//! Connections that stay open between calls, and what becomes of a call that meets their close.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentic_fleet::llm::{Api, LlmConfig, code};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::support::{Received, code_of, config, make, read_request, run, say, until};

/// What a server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// Answers a request, and stays.
    Answer,
    /// Closes the connection, as nothing comes.
    Close,
    /// Reads a request and closes without a word.
    Drop,
    /// Closes as a request comes, and leaves it unread, which resets the connection.
    Ignore,
    /// Thinks about a request for a while, and closes.
    Die,
    /// Reads until the client closes.
    Wait,
}

/// A server that does as its script says: a list for each connection, in the order of their coming.
struct Keeping {
    base_url: String,
    seen: Arc<Mutex<Vec<(usize, Received)>>>,
    over: Arc<Mutex<Vec<usize>>>,
}

impl Keeping {
    async fn start(script: &'static [&'static [Deed]]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base_url = format!("http://{}/v1/", listener.local_addr().expect("bound"));
        let (seen, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let server = Self { base_url, seen: Arc::clone(&seen), over: Arc::clone(&over) };
        tokio::spawn(async move {
            for n in 0.. {
                let Ok((mut socket, _)) = listener.accept().await else { return };
                let (seen, over) = (Arc::clone(&seen), Arc::clone(&over));
                tokio::spawn(async move {
                    for deed in script.get(n).copied().unwrap_or_default() {
                        if let Some(request) = play(&mut socket, *deed).await {
                            seen.lock().expect("no panic").push((n, request));
                        }
                    }
                    drop(socket);
                    over.lock().expect("no panic").push(n);
                });
            }
        });
        server
    }

    /// The connection and the key of each request that came.
    fn requests(&self) -> Vec<(usize, String)> {
        let key = |head: &str| head.lines().find_map(|line| line.strip_prefix("idempotency-key: ").map(str::to_owned));
        let seen = self.seen.lock().expect("no panic");
        seen.iter().map(|(n, request)| (*n, key(&request.head).expect("each has a key"))).collect()
    }

    async fn closed(&self, n: usize) {
        until(&format!("connection {n} is closed"), || self.over.lock().expect("no panic").contains(&n)).await;
    }

    fn config(&self) -> LlmConfig {
        config(Api::ChatCompletions, &self.base_url)
    }
}

async fn play(socket: &mut TcpStream, deed: Deed) -> Option<Received> {
    match deed {
        Deed::Close => return None,
        Deed::Ignore => {
            let _ = socket.peek(&mut [0]).await;
            return None;
        }
        Deed::Answer | Deed::Drop | Deed::Die | Deed::Wait => {}
    }
    let request = read_request(socket).await;
    if deed == Deed::Answer {
        let body = br#"{"choices":[{"finish_reason":"stop","message":{"content":"hello"}}]}"#;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length";
        let _ = socket.write_all(format!("{head}: {}\r\n\r\n", body.len()).as_bytes()).await;
        let _ = socket.write_all(body).await;
    }
    if deed == Deed::Die {
        tokio::time::sleep(Duration::from_millis(5_100)).await; // allow-sleep: the time that the server thinks
    }
    (!request.head.is_empty()).then_some(request)
}

fn keys(requests: &[(usize, &str)]) -> Vec<(usize, String)> {
    requests.iter().map(|(n, key)| (*n, (*key).to_owned())).collect()
}

/// Two calls, one after the other, with keys `first` and `second`.
async fn two_calls(server: &Keeping) -> [String; 2] {
    let client = make(&server.config()).client(None);
    let mut codes = [const { String::new() }; 2];
    for (code, key) in codes.iter_mut().zip(["first", "second"]) {
        let call = fleet_actors::ports::ModelCall { idempotency_key: key.into(), ..say("hi") };
        *code = code_of(&run(&*client, &call).await);
    }
    codes
}

#[tokio::test]
async fn calls_that_follow_one_another_share_a_connection() {
    let server = Keeping::start(&[&[Deed::Answer, Deed::Answer]]).await;
    assert_eq!(two_calls(&server).await, ["ok", "ok"]);
    assert_eq!(server.requests(), keys(&[(0, "first"), (0, "second")]));
}

#[tokio::test]
async fn a_connection_that_the_provider_closed_while_nobody_called_costs_no_call() {
    let server = Keeping::start(&[&[Deed::Answer, Deed::Close], &[Deed::Answer]]).await;
    let client = make(&server.config()).client(None);
    assert_eq!(code_of(&run(&*client, &say("hi")).await), "ok");
    server.closed(0).await;
    assert_eq!(code_of(&run(&*client, &say("hi")).await), "ok");
    assert_eq!(server.requests().iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1]);
}

#[tokio::test]
async fn a_call_that_meets_the_close_of_a_kept_connection_is_made_once_more_under_the_same_key() {
    let server = Keeping::start(&[&[Deed::Answer, Deed::Drop], &[Deed::Answer]]).await;
    assert_eq!(two_calls(&server).await, ["ok", "ok"]);
    assert_eq!(server.requests(), keys(&[(0, "first"), (0, "second"), (1, "second")]));
    // As a server does whose keep-alive ran out in the moment in which the request came.
    let server = Keeping::start(&[&[Deed::Answer, Deed::Ignore], &[Deed::Answer]]).await;
    assert_eq!(two_calls(&server).await, ["ok", "ok"]);
    assert_eq!(server.requests(), keys(&[(0, "first"), (1, "second")]));
}

#[tokio::test]
async fn a_call_that_meets_two_closes_fails_and_is_not_made_a_third_time() {
    let server = Keeping::start(&[&[Deed::Answer, Deed::Drop], &[Deed::Drop], &[Deed::Answer]]).await;
    assert_eq!(two_calls(&server).await, ["ok", code::UNAVAILABLE]);
    assert_eq!(server.requests(), keys(&[(0, "first"), (0, "second"), (1, "second")]));
}

#[tokio::test]
async fn a_new_connection_that_is_closed_without_an_answer_fails_at_once() {
    for deed in [Deed::Drop, Deed::Ignore] {
        let script: &[&[Deed]] = if deed == Deed::Drop { &[&[Deed::Drop]] } else { &[&[Deed::Ignore]] };
        let server = Keeping::start(script).await;
        let client = make(&server.config()).client(None);
        assert_eq!(code_of(&run(&*client, &say("hi")).await), code::UNAVAILABLE, "{deed:?}");
        assert_eq!(server.requests().len(), usize::from(deed == Deed::Drop), "{deed:?}");
    }
}

#[tokio::test]
async fn a_provider_that_thought_about_a_call_before_it_closed_is_not_asked_again() {
    let server = Keeping::start(&[&[Deed::Answer, Deed::Die], &[Deed::Answer]]).await;
    assert_eq!(two_calls(&server).await, ["ok", code::UNAVAILABLE]);
    assert_eq!(server.requests(), keys(&[(0, "first"), (0, "second")]));
}

#[tokio::test]
async fn a_connection_that_was_idle_for_as_long_as_it_may_be_is_given_up_before_the_provider_does() {
    let server = Keeping::start(&[&[Deed::Answer, Deed::Wait], &[Deed::Answer]]).await;
    let client = make(&LlmConfig { idle_timeout: Duration::from_millis(20), ..server.config() }).client(None);
    assert_eq!(code_of(&run(&*client, &say("hi")).await), "ok");
    server.closed(0).await;
    assert_eq!(code_of(&run(&*client, &say("hi")).await), "ok");
    assert_eq!(server.requests().iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1]);
}
