//! Reads a web page as text. Which addresses may be asked is decided in [`guard`]; what a model is shown in [`text`].
//!
//! Redirects are followed here, one judged request each. No cookies, no proxy, no connection is kept: each fetch resolves
//! its names anew and speaks to the addresses that were judged.
//!
//! Absent on purpose: scripts. A page that is made by them has little text here, and says so.

pub mod guard;
pub mod text;
mod tree;

use std::sync::Arc;
use std::time::Duration;

use fleet_actors::event::Failure;
use fleet_actors::ports::{LocalFuture, ToolOutput, ToolSpec};
use futures_util::StreamExt as _;
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::guard::{Denied, Guard, Lookup, PublicOnly, Way};
use super::builtin::Tool;
use super::{Dispatch, Reach};
use crate::settings::FetchSettings;

/// Pages whose text is extracted at the same time.
const EXTRACTIONS_MAX: usize = 2;
const AGENT: &str = concat!("AgenticFleet/", env!("CARGO_PKG_VERSION"), " (fetch_page)");

/// The tool `fetch_page`.
pub struct FetchPage {
    settings: FetchSettings,
    guard: Guard,
    guarded: Client,
    named: Client,
    extractions: Arc<Semaphore>,
}

/// A body as it came.
struct Fetched {
    url: Url,
    media: Media,
    charset: Option<String>,
    body: Vec<u8>,
    cut: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Media {
    Html,
    Text,
}

impl FetchPage {
    /// Fetches as the settings say; names are resolved by `lookup`.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(settings: FetchSettings, lookup: Lookup) -> Result<Self, reqwest::Error> {
        let client = || {
            Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .referer(false)
                .pool_max_idle_per_host(0)
                .connect_timeout(Duration::from_secs(10))
                .user_agent(AGENT)
        };
        let guarded = client().dns_resolver(Arc::new(PublicOnly(lookup))).build()?;
        let ports = settings.ports.iter().filter_map(|port| u16::try_from(port.get()).ok()).collect();
        let guard = Guard { ports, named: settings.allow_hosts.clone() };
        let extractions = Arc::new(Semaphore::new(EXTRACTIONS_MAX));
        Ok(Self { settings, guard, guarded, named: client().build()?, extractions })
    }

    async fn fetch(&self, address: &str) -> Result<ToolOutput, Failure> {
        let limit = self.settings.timeout_ms.duration();
        let late = |_| Failure::new("tool_timeout", format!("the page took longer than {} ms", limit.as_millis()));
        let fetched = timeout(limit, self.follow(address)).await.map_err(late)??;
        self.read(fetched).await
    }

    async fn follow(&self, address: &str) -> Result<Fetched, Failure> {
        let mut url = Url::parse(address)
            .map_err(|error| Failure::new("url_denied", format!("this is no address of a page: {error}")))?;
        for _ in 0..=self.settings.redirects_max.get() {
            url.set_fragment(None);
            let client = match self.guard.judge(&url).map_err(denied)? {
                Way::Guarded => &self.guarded,
                Way::Named => &self.named,
            };
            let accept = "text/html, application/xhtml+xml, text/plain, application/json, application/xml;q=0.9";
            let response = client.get(url.clone()).header(ACCEPT, accept).send().await;
            let response = response.map_err(|error| match guard::denial(&error) {
                Some(refusal) => denied(refusal),
                None if error.is_connect() => Failure::new("tool_failed", "the page's host cannot be reached"),
                None => Failure::new("tool_failed", "the page's host broke off its answer"),
            })?;
            let Some(next) = redirect(&response, &url)? else { return self.body(url, response).await };
            url = next;
        }
        let max = self.settings.redirects_max;
        Err(Failure::new("tool_failed", format!("the page redirects more than {max} times")))
    }

    async fn body(&self, url: Url, response: Response) -> Result<Fetched, Failure> {
        let (status, headers) = (response.status(), response.headers().clone());
        if !status.is_success() {
            return Err(unsuccessful(status, &headers));
        }
        let (media, charset) = media(&headers)?;
        let max = self.settings.body_bytes_max.as_usize();
        let (mut body, mut cut, mut stream) = (Vec::new(), false, response.bytes_stream());
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| Failure::new("tool_failed", "the page's host broke off its answer"))?;
            let room = max - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                cut = true;
                break;
            }
        }
        Ok(Fetched { url, media, charset, body, cut })
    }

    async fn read(&self, fetched: Fetched) -> Result<ToolOutput, Failure> {
        let Fetched { url, media, charset, body, cut } = fetched;
        let place = self.extractions.clone().acquire_owned().await;
        let page = tokio::task::spawn_blocking(move || {
            let _place = place;
            let text = decoded(&body, charset.as_deref());
            match media {
                Media::Html => text::of_html(&text),
                Media::Text => Some(text::Page { title: None, text }),
            }
        });
        let page = page.await.ok().flatten();
        let page = page.ok_or_else(|| Failure::new("tool_failed", "the page cannot be read as text"))?;
        let max = self.settings.text_chars_max.as_usize();
        let shown: String = page.text.chars().take(max).collect();
        let truncated = cut || shown.len() < page.text.len();
        let degraded = truncated.then(|| "the page is longer than what is shown of it".to_owned());
        let title = page.title.as_deref().unwrap_or_default();
        let note = if truncated { "\n\n[The page is longer; the rest was left out.]" } else { "" };
        let empty = if shown.trim().is_empty() { "[The page has no text without its scripts.]" } else { "" };
        let text = format!("{title}\n{url}\n\n{shown}{empty}{note}").trim_start().to_owned();
        let data = json!({ "url": url.as_str(), "title": page.title, "truncated": truncated });
        Ok(ToolOutput { text, data, degraded, ..ToolOutput::default() })
    }
}

fn denied(denied: Denied) -> Failure {
    Failure::new("url_denied", denied.to_string())
}

/// Where a redirect leads; none if the response is none.
fn redirect(response: &Response, from: &Url) -> Result<Option<Url>, Failure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let nowhere = || Failure::new("tool_failed", "the page redirects to no address");
    let location = response.headers().get(LOCATION).ok_or_else(nowhere)?;
    let location = std::str::from_utf8(location.as_bytes()).map_err(|_| nowhere())?;
    from.join(location).map(Some).map_err(|_| nowhere())
}

fn unsuccessful(status: StatusCode, headers: &HeaderMap) -> Failure {
    let mut failure = Failure::new("tool_failed", format!("the page answered with status {}", status.as_u16()));
    if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        failure.retry_after_ms = seconds.map(|seconds: u64| seconds.min(86_400) * 1_000);
    }
    failure
}

/// What kind of text a body is, and in which charset.
fn media(headers: &HeaderMap) -> Result<(Media, Option<String>), Failure> {
    let encoded =
        headers.get(CONTENT_ENCODING).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        return Err(Failure::new("tool_failed", "the page is compressed although that was not asked for"));
    }
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = header.split(';');
    let kind = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    let charset = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_owned())
    });
    let media = match kind.as_str() {
        "text/html" | "application/xhtml+xml" => Media::Html,
        "text/plain" | "application/json" | "application/xml" | "text/xml" => Media::Text,
        other if other.ends_with("+json") || other.ends_with("+xml") => Media::Text,
        "" => return Err(Failure::new("tool_failed", "the page does not say what it is")),
        _ => {
            return Err(Failure::new(
                "tool_failed",
                "this is no page of text: only HTML, plain text, JSON and XML are read",
            ));
        }
    };
    Ok((media, charset))
}

/// Bytes as text: by the header, else by a mark at their start, else by what the page says of itself, else UTF-8.
fn decoded(body: &[u8], charset: Option<&str>) -> String {
    let declared = || {
        let head = String::from_utf8_lossy(&body[..body.len().min(1_024)]).to_ascii_lowercase();
        let rest = head.split_once("charset=")?.1;
        let name = rest.trim_start_matches(['"', '\'']).split(['"', '\'', '>', ' ', ';', '/']).next()?;
        encoding_rs::Encoding::for_label(name.as_bytes())
    };
    let encoding = charset.and_then(|name| encoding_rs::Encoding::for_label(name.as_bytes())).or_else(declared);
    encoding.unwrap_or(encoding_rs::UTF_8).decode(body).0.into_owned()
}

impl Tool for FetchPage {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "fetch_page".to_owned(),
            description:
                "Reads one public web page (HTML, plain text, JSON or XML) and gives its title and text, links \
                          as numbered notes. Scripts are not run. Use it to read a source before citing it."
                    .to_owned(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "url": {
                        "type": "string", "minLength": 8, "maxLength": 2048,
                        "description": "The whole address, with http:// or https://"
                    }
                },
                "required": ["url"],
                "additionalProperties": false
            }),
        }
    }

    fn reach(&self) -> Reach {
        Reach::Reads
    }

    fn call<'a>(&'a self, call: Dispatch<'a>) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        Box::pin(self.fetch(call.arguments["url"].as_str().unwrap_or_default()))
    }
}
