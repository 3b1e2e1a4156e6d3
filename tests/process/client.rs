//! A client of a run's event stream: reads it, loses it, comes back after the last number it saw, and knows what it has.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

/// What a client has of a run: the text of each attempt, and the ordered events that are no deltas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub last: u64,
    texts: BTreeMap<(String, u64, bool), String>,
    pub events: Vec<Value>,
}

impl Seen {
    /// Applies one numbered event of version 2.
    pub fn apply(&mut self, seq: u64, event: &Value) {
        assert!(seq > self.last, "number {seq} came after {}: {event}", self.last);
        self.last = seq;
        let step =
            (event["step"].as_str().unwrap_or_default().to_owned(), event["attempt"].as_u64().unwrap_or_default());
        let key = |reasoning| (step.0.clone(), step.1, reasoning);
        match event["type"].as_str().unwrap_or_default() {
            kind @ ("response.delta" | "reasoning.delta") => {
                let reasoning = kind == "reasoning.delta";
                let piece = event[if reasoning { "reasoning" } else { "delta" }].as_str().unwrap();
                let text = self.texts.entry(key(reasoning)).or_default();
                assert_eq!(event["offset"].as_u64(), Some(text.chars().count() as u64), "{event}");
                text.push_str(piece);
                return;
            }
            "step.completed" => {
                for (field, reasoning) in [("text", false), ("reasoning", true)] {
                    let text = event[field].as_str().unwrap_or_default().to_owned();
                    self.texts.insert(key(reasoning), text);
                }
            }
            "step.voided" | "step.failed" => {
                self.texts.remove(&key(false));
                self.texts.remove(&key(true));
            }
            _ => {}
        }
        self.events.push(event.clone());
    }

    pub fn is_done(&self) -> bool {
        self.events.last().is_some_and(|event| event["type"] == "done")
    }

    /// How often this kind of event was seen.
    pub fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|event| event["type"] == kind).count()
    }
}

/// What became of one connection.
#[derive(Debug, Default)]
pub struct Connection {
    /// The run's id, when `connected` came: the run was acknowledged.
    pub workflow: Option<String>,
    /// `error` frames of the socket's own.
    pub errors: Vec<Value>,
    pub status: u16,
}

/// Reads a stream until it ends, breaks or says `done`.
pub async fn read(http: &reqwest::Client, url: &str, after: Option<u64>, seen: &mut Seen) -> Connection {
    let mut connection = Connection::default();
    let mut request = http.get(url).header("accept", "text/event-stream").timeout(Duration::from_secs(20));
    if let Some(after) = after {
        request = request.header("last-event-id", after.to_string());
    }
    let Ok(mut response) = request.send().await else { return connection };
    connection.status = response.status().as_u16();
    // Bytes: a chunk may end within a character.
    let mut rest = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
            let frame: Vec<u8> = rest.drain(..end + 2).collect();
            let frame = std::str::from_utf8(&frame).unwrap();
            let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let id = field("id:").and_then(|id| id.parse().ok());
            let event: Value = serde_json::from_str(field("data:").unwrap()).unwrap();
            match (id, event["type"].as_str().unwrap()) {
                (Some(seq), _) => seen.apply(seq, &event),
                (None, "connected") => connection.workflow = event["workflow_id"].as_str().map(str::to_owned),
                (None, "error") => connection.errors.push(event),
                (None, _) => {}
            }
        }
        if seen.is_done() {
            break;
        }
    }
    connection
}
