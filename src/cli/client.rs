//! Asks a running server over its HTTP API, for `--server URL`.
//!
//! Absent on purpose: retries. A refusal says when to come back, and a person or a script decides.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use reqwest::{Method, Response, Url};
use serde_json::Value;

use super::failure::{CommandError, told};
use crate::llm::sse::SseDecoder;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that vanished without a word is noticed by the kernel after a few of these.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// A server closes a connection without a request after 5 s; one that comes in that moment would be lost.
const IDLE: Duration = Duration::from_secs(4);
/// An event that is longer is none of ours.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// A running server.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    /// The same without a password.
    shown: String,
}

impl Client {
    /// # Errors
    /// The URL is no address of an HTTP server.
    pub fn new(url: &str) -> Result<Self, CommandError> {
        let usage =
            |url: &str, why: &str| CommandError::Usage(format!("--server: `{url}` is no address of a server: {why}"));
        let parsed: Url = url.parse().map_err(|_| usage(url, "expected a URL such as http://127.0.0.1:8000"))?;
        let text = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
        let mut shown = parsed.clone();
        if shown.password().is_some() {
            // Only a URL without a host has no place for one.
            let _ = shown.set_password(Some("..."));
        }
        let shown = text(&shown);
        if !matches!(parsed.scheme(), "http" | "https") || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(usage(&shown, "expected http:// or https://, a host and perhaps a port and a path"));
        }
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            .pool_idle_timeout(IDLE);
        let host = parsed.host_str().unwrap_or_default();
        if host == "localhost" || host.starts_with("127.") || host == "[::1]" {
            // A proxy would look for the server on its own machine.
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| CommandError::Failed(error.to_string()))?;
        Ok(Self { http, base: text(&parsed), shown })
    }

    /// Its address as it may be shown.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub async fn get(&self, path: &str) -> Result<Value, CommandError> {
        Ok(self.get_page(path).await?.0)
    }

    /// An answer and the cursor of the next page if there is one.
    pub async fn get_page(&self, path: &str) -> Result<(Value, Option<String>), CommandError> {
        let response = self.ask(Method::GET, path, None).await?;
        let next = response.headers().get("x-next-cursor").and_then(|cursor| cursor.to_str().ok()).map(str::to_owned);
        Ok((self.json(response).await?, next))
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, CommandError> {
        let response = self.ask(Method::POST, path, Some(body)).await?;
        self.json(response).await
    }

    pub async fn delete(&self, path: &str) -> Result<(), CommandError> {
        self.ask(Method::DELETE, path, None).await.map(drop)
    }

    pub async fn events(&self, path: &str) -> Result<Events, CommandError> {
        let response = self.ask(Method::GET, path, None).await?;
        Ok(Events { client: self.clone(), response, decoder: SseDecoder::default(), read: VecDeque::new() })
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response, CommandError> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.lost(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    async fn refused(&self, response: Response) -> CommandError {
        let status = response.status();
        let retry = response.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
        let problem: Value = response.json().await.unwrap_or_default();
        match (problem["code"].as_str(), problem["detail"].as_str()) {
            (Some(code), Some(detail)) => told(status.as_u16(), code, detail, retry),
            _ => CommandError::Failed(format!("{} answered {status}, not as an agentic-fleet server does", self.shown)),
        }
    }

    async fn json(&self, response: Response) -> Result<Value, CommandError> {
        response.json().await.map_err(|error| {
            if error.is_decode() {
                CommandError::Failed(format!("{} answers, but not as an agentic-fleet server does", self.shown))
            } else {
                self.lost(&error)
            }
        })
    }

    /// The innermost cause: what stands around it says nothing that the address does not.
    fn lost(&self, error: &reqwest::Error) -> CommandError {
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        CommandError::Failed(format!("{}: {cause}", self.shown))
    }
}

/// The events of a run, as the server shows them.
pub(super) struct Events {
    client: Client,
    response: Response,
    decoder: SseDecoder,
    read: VecDeque<Value>,
}

impl Events {
    /// The next event; `None` when the server ended the stream.
    ///
    /// # Cancel safety
    /// Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> Result<Option<Value>, CommandError> {
        loop {
            if let Some(event) = self.read.pop_front() {
                return Ok(Some(event));
            }
            let chunk = self.response.chunk().await.map_err(|error| self.client.lost(&error))?;
            let Some(chunk) = chunk else { return Ok(None) };
            let read = &mut self.read;
            let ControlFlow::Continue(()) = self.decoder.feed(&chunk, &mut |data| {
                read.extend(serde_json::from_slice::<Value>(data).ok());
                ControlFlow::<std::convert::Infallible>::Continue(())
            });
            if self.decoder.pending() > EVENT_BYTES_MAX {
                return Err(CommandError::Failed(format!("{} sends an event without an end", self.client.base)));
            }
        }
    }
}
