//! Web search by Tavily.
//!
//! Without a key the tool stays: a search then answers that the key is missing, so that the model can go on with what it
//! knows and the user is told. The key goes into one header and nowhere else.

use std::time::Duration;

use fleet_actors::event::Failure;
use fleet_actors::ports::{LocalFuture, ToolOutput, ToolSpec};
use futures_util::StreamExt as _;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::builtin::Tool;
use super::{CONNECTION_IDLE, Dispatch, Reach};
use crate::settings::TavilySettings;

/// Characters of one result that the model is shown.
const RESULT_CHARS_MAX: usize = 2_000;

/// The tool `tavily_search`.
pub struct TavilySearch {
    settings: TavilySettings,
    key: Option<SecretString>,
    http: reqwest::Client,
}

#[derive(Deserialize)]
struct Arguments {
    query: String,
    #[serde(default)]
    max_results: Option<u64>,
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    search_depth: Option<String>,
}

#[derive(Serialize)]
struct Request<'a> {
    query: &'a str,
    max_results: u64,
    topic: &'a str,
    search_depth: &'a str,
    include_answer: bool,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    answer: Option<String>,
    #[serde(default)]
    results: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(default)]
    title: String,
    url: String,
    #[serde(default)]
    content: String,
    #[serde(default)]
    score: Option<f64>,
}

impl TavilySearch {
    /// A search as the settings say.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(settings: TavilySettings, key: Option<SecretString>) -> Result<Self, reqwest::Error> {
        // A redirect would carry the key to another host.
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(CONNECTION_IDLE)
            .build()?;
        Ok(Self { settings, key, http })
    }

    async fn search(&self, arguments: &Value) -> Result<ToolOutput, Failure> {
        let arguments = Arguments::deserialize(arguments)
            .map_err(|error| Failure::new("tool_arguments_invalid", format!("`tavily_search`: {error}")))?;
        let Some(key) = &self.key else { return Ok(keyless()) };
        let max = self.settings.results_max.get();
        let wanted = arguments.max_results.unwrap_or(5).clamp(1, max);
        let request = Request {
            query: &arguments.query,
            max_results: wanted,
            topic: arguments.topic.as_deref().unwrap_or("general"),
            search_depth: arguments.search_depth.as_deref().unwrap_or("basic"),
            include_answer: true,
        };
        let timeout = self.settings.timeout_ms.duration();
        let body = tokio::time::timeout(timeout, self.ask(key, &request)).await.unwrap_or_else(|_| {
            let text = format!("the search took longer than {} ms", timeout.as_millis());
            Err(Failure::new("tool_timeout", text))
        })?;
        let found: Found = serde_json::from_slice(&body)
            .map_err(|_| Failure::new("tool_failed", "the search service gave an answer that is not understood"))?;
        Ok(shown(found, usize::try_from(wanted).unwrap_or(usize::MAX)))
    }

    async fn ask(&self, key: &SecretString, request: &Request<'_>) -> Result<Vec<u8>, Failure> {
        let url = format!("{}/search", self.settings.base_url.as_str());
        let response = self.http.post(url).bearer_auth(key.expose_secret()).json(request).send().await;
        let response = response.map_err(|error| unreachable(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        if !status.is_success() {
            return Err(refused(status, &headers));
        }
        let max = self.settings.response_bytes_max.as_usize();
        let (mut body, mut stream) = (Vec::new(), response.bytes_stream());
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| unreachable(&error))?;
            if body.len() + chunk.len() > max {
                return Err(Failure::new("tool_failed", format!("the search's answer has more than {max} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// What a search gives where no key is set.
fn keyless() -> ToolOutput {
    let text = "TAVILY_API_KEY is not set: the web cannot be searched. Answer from what you know and say so.";
    ToolOutput {
        text: text.to_owned(),
        data: json!({ "results": [] }),
        degraded: Some("TAVILY_API_KEY is not set: web search is off".to_owned()),
        ..ToolOutput::default()
    }
}

/// The provider's own words are left out: some repeat the request, key and all.
fn unreachable(error: &reqwest::Error) -> Failure {
    let what = if error.is_connect() { "cannot be reached" } else { "broke off its answer" };
    Failure::new("tool_failed", format!("the search service {what}"))
}

fn refused(status: StatusCode, headers: &HeaderMap) -> Failure {
    let text = match status.as_u16() {
        401 | 403 => "the search service does not accept TAVILY_API_KEY".to_owned(),
        429 => "the search service takes no more searches for now".to_owned(),
        432 | 433 => "the search plan of TAVILY_API_KEY is used up".to_owned(),
        code => format!("the search service answered with status {code}"),
    };
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let mut failure = Failure::new("tool_failed", text);
    failure.retry_after_ms = seconds.map(|seconds: u64| seconds.min(86_400) * 1_000);
    failure
}

fn shown(found: Found, max: usize) -> ToolOutput {
    let results: Vec<Hit> = found.results.into_iter().take(max).collect();
    let mut text = String::new();
    if let Some(answer) = found.answer.as_deref().filter(|answer| !answer.is_empty()) {
        text.push_str(&format!("Summary: {answer}\n\n"));
    }
    for (index, hit) in results.iter().enumerate() {
        let content: String = hit.content.chars().take(RESULT_CHARS_MAX).collect();
        text.push_str(&format!("[{}] {}\n{}\n{content}\n\n", index + 1, hit.title, hit.url));
    }
    if results.is_empty() {
        text.push_str("No results.");
    }
    let listed: Vec<Value> =
        results.iter().map(|hit| json!({ "title": hit.title, "url": hit.url, "score": hit.score })).collect();
    let data = json!({ "answer": found.answer, "results": listed });
    ToolOutput { text: text.trim_end().to_owned(), data, ..ToolOutput::default() }
}

impl Tool for TavilySearch {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "tavily_search".to_owned(),
            description:
                "Searches the web. Gives a short summary and results with title, address and an excerpt; cite \
                          by address. Use it for what is recent, local or needs a source."
                    .to_owned(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "query": { "type": "string", "minLength": 1, "maxLength": 400, "description": "What to look for" },
                    "max_results": {
                        "type": "integer", "minimum": 1, "maximum": self.settings.results_max.get(),
                        "description": "How many results, 5 if left out"
                    },
                    "topic": {
                        "type": "string", "enum": ["general", "news", "finance"],
                        "description": "general if left out; news for what happened lately"
                    },
                    "search_depth": {
                        "type": "string", "enum": ["basic", "advanced"],
                        "description": "advanced is slower and finds more exact excerpts"
                    }
                },
                "required": ["query"],
                "additionalProperties": false
            }),
        }
    }

    fn reach(&self) -> Reach {
        Reach::Reads
    }

    fn call<'a>(&'a self, call: Dispatch<'a>) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        Box::pin(self.search(call.arguments))
    }
}
