//! Calls a provider over HTTP: one request, one answer, streamed or whole.
//!
//! What all sessions share (breaker, retry budget, connections as far as they are on one thread) is the [`Service`]; what belongs to one session (its
//! effort) is its [`SessionClient`], so an effort cannot leak. Nobody's answer is trusted: bytes, events and depth are
//! capped while they arrive, redirects are not followed, and nothing is decompressed.
//! Absent on purpose: waiting before a retry (the caller makes the next attempt, as a step it can journal) and a
//! deadline for the whole call (the caller drops the future, which closes the connection).

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fleet_actors::ports::{
    AgentClients, LocalFuture, ModelCall, ModelClient, ModelDelta, ModelError, ModelReply, ReasoningEffort,
};
use futures_util::FutureExt as _;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Response, Url};
use secrecy::{ExposeSecret, SecretString};

use super::answer::{Answer, Flow};
use super::breaker::{Breaker, Retries};
use super::config::{Api, Caps, LlmConfig, ModelRule};
use super::connections::{Connections, connection_of};
use super::failure::{Fault, Health};
use super::responses::ResponsesDecoder;
use super::schema::StrictForms;
use super::sse::SseDecoder;
use super::{ConfigError, chat, responses};

/// How long the usage and the end of the stream may follow the terminator.
const TAIL: Duration = Duration::from_secs(2);
/// The part of a refusal's body that is read.
const REFUSAL_BYTES: usize = 16 * 1024;
/// Idle connections that a thread keeps to the provider.
const IDLE_CONNECTIONS: usize = 1_024;

/// One provider, shared by all sessions.
pub(super) struct Service {
    http: Connections,
    url: Url,
    api: Api,
    key: Option<SecretString>,
    authorization: Option<HeaderValue>,
    caps: Caps,
    output_tokens_max: Option<u32>,
    models: Vec<ModelRule>,
    effort: Option<ReasoningEffort>,
    forms: StrictForms,
    breaker: Breaker,
    retries: Retries,
}

impl Service {
    /// A service of what `config` says; `api` and `base_url` are resolved.
    pub(super) fn new(config: &LlmConfig, api: Api, base_url: &str) -> Result<Self, ConfigError> {
        let path = if api == Api::Responses { "responses" } else { "chat/completions" };
        let mut url = Url::parse(base_url).map_err(|error| ConfigError::BaseUrl(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ConfigError::BaseUrl("only http and https are spoken".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ConfigError::BaseUrl("credentials belong in the key, not in the url".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(ConfigError::BaseUrl("it must end with its path".to_owned()));
        }
        url.set_path(&format!("{}/{path}", url.path().trim_end_matches('/')));
        let key = config.api_key.clone().filter(|key| !key.expose_secret().is_empty());
        let authorization = match &key {
            None => None,
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
                    .map_err(|_| ConfigError::ApiKey)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let (connect_timeout, silence_timeout, idle) =
            (config.connect_timeout, config.silence_timeout, config.idle_timeout);
        let loopback = is_loopback(&url);
        let http = Connections::new(idle.saturating_add(TAIL), move || {
            let http = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(connect_timeout)
                .read_timeout(silence_timeout)
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .pool_idle_timeout(idle)
                .user_agent(concat!("agentic-fleet/", env!("CARGO_PKG_VERSION")));
            if loopback { http.no_proxy().build() } else { http.build() }
        });
        Ok(Self {
            http: http.map_err(|_| ConfigError::HttpClient)?,
            url,
            api,
            key,
            authorization,
            caps: config.caps,
            output_tokens_max: config.output_tokens_max,
            models: config.models.clone(),
            effort: config.reasoning_effort,
            forms: StrictForms::default(),
            breaker: Breaker::new(config.breaker),
            retries: Retries::new(config.retry),
        })
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Makes each session its client of one provider.
pub(super) struct ProviderClients(pub(super) Arc<Service>);

impl AgentClients for ProviderClients {
    fn client(&self, effort: Option<ReasoningEffort>) -> Rc<dyn ModelClient> {
        Rc::new(SessionClient { service: Arc::clone(&self.0), effort: effort.or(self.0.effort) })
    }
}

/// On what terms a request is put.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    /// What the model takes.
    pub(super) rule: &'a ModelRule,
    /// The provider's word for the session's effort, if the model takes one.
    pub(super) effort: Option<&'a str>,
    /// The most tokens of answer.
    pub(super) output_tokens: Option<u32>,
    /// The forms in which answers are demanded.
    pub(super) forms: &'a StrictForms,
}

struct SessionClient {
    service: Arc<Service>,
    effort: Option<ReasoningEffort>,
}

impl ModelClient for SessionClient {
    fn call<'a>(
        &'a self,
        call: &'a ModelCall,
        deltas: &'a mut dyn FnMut(ModelDelta),
    ) -> LocalFuture<'a, Result<ModelReply, ModelError>> {
        Box::pin(async move {
            let outcome = self.admitted(call, deltas).await;
            outcome.map_err(|fault| self.service.retries.judge(fault, call.attempt))
        })
    }
}

impl SessionClient {
    async fn admitted(&self, call: &ModelCall, deltas: &mut dyn FnMut(ModelDelta)) -> Result<ModelReply, Fault> {
        let pass = self.service.breaker.admit().map_err(Fault::circuit_open)?;
        self.service.retries.began(call.attempt);
        let outcome = self.exchange(call, deltas).await;
        pass.end(outcome.as_ref().map_or_else(|fault| fault.health, |_| Health::Well));
        outcome
    }

    async fn exchange(&self, call: &ModelCall, deltas: &mut dyn FnMut(ModelDelta)) -> Result<ModelReply, Fault> {
        let service = &*self.service;
        let pool = service.http.here();
        let request = self.request(&pool.client, call)?.build().map_err(|error| Fault::unanswered(&error))?;
        let response = pool.send(request).await.map_err(|error| Fault::unanswered(&error))?;
        let (status, headers, connection) = (response.status(), response.headers().clone(), connection_of(&response));
        if !status.is_success() {
            let mut body = Vec::new();
            // What arrives of it is enough: the status has said what matters.
            if read(response, REFUSAL_BYTES, &mut body).await.is_ok() {
                pool.keeps(connection);
            }
            return Err(Fault::status(status, &headers, &body, service.key.as_ref()));
        }
        let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let mut answer = Answer::new(&call.request.model, deltas);
        let mut decoder = Decoder::new(service);
        match kind.as_str() {
            "application/json" => {
                let mut body = Vec::new();
                read(response, service.caps.bytes_max, &mut body).await?;
                decoder.whole(&body, &mut answer)?;
            }
            // Some servers stream without saying so.
            "text/event-stream" | "" | "text/plain" | "application/octet-stream" => {
                let streamed = stream(response, service.caps, &mut decoder, &mut answer).await;
                // Also what came before it failed.
                answer.tell();
                streamed?;
            }
            _ => return Err(Fault::malformed("the provider answered with neither an event stream nor JSON")),
        }
        pool.keeps(connection);
        let mut reply = answer.into_reply(service.caps.json_depth_max)?;
        // By the name that was asked for: providers answer with dated names that no price list has.
        ModelRule::charge(&service.models, &call.request.model, &mut reply);
        Ok(reply)
    }

    fn request(&self, http: &reqwest::Client, call: &ModelCall) -> Result<reqwest::RequestBuilder, Fault> {
        let (service, request) = (&*self.service, &call.request);
        let none = ModelRule::plain("*");
        let rule = ModelRule::of(&service.models, &request.model).unwrap_or(&none);
        let terms = Terms {
            rule,
            effort: self.effort.and_then(|effort| rule.efforts.word(effort)),
            output_tokens: request.max_output_tokens.or(service.output_tokens_max),
            forms: &service.forms,
        };
        let mut post = http
            .post(service.url.clone())
            .header(ACCEPT, "text/event-stream, application/json")
            .header("Idempotency-Key", &*call.idempotency_key);
        if let Some(authorization) = &service.authorization {
            post = post.header(AUTHORIZATION, authorization.clone());
        }
        Ok(match service.api {
            Api::Responses => post.json(&responses::body(request, terms)?),
            Api::ChatCompletions | Api::Auto => post.json(&chat::body(request, terms)?),
        })
    }
}

/// The protocol's reader.
enum Decoder<'a> {
    Chat(&'a Service, chat::Around),
    Responses(&'a Service, ResponsesDecoder),
}

impl<'a> Decoder<'a> {
    fn new(service: &'a Service) -> Self {
        match service.api {
            Api::Responses => Self::Responses(service, ResponsesDecoder::default()),
            Api::ChatCompletions | Api::Auto => Self::Chat(service, chat::Around::default()),
        }
    }

    fn event(&mut self, data: &[u8], answer: &mut Answer<'_>) -> Result<Flow, Fault> {
        match self {
            Self::Chat(service, around) => {
                chat::event(data, around, answer, service.caps.json_depth_max, service.key.as_ref())
            }
            Self::Responses(service, decoder) => {
                decoder.event(data, answer, service.caps.json_depth_max, service.key.as_ref())
            }
        }
    }

    fn whole(&mut self, body: &[u8], answer: &mut Answer<'_>) -> Result<(), Fault> {
        match self {
            Self::Chat(service, _) => chat::whole(body, answer, service.caps.json_depth_max, service.key.as_ref()),
            Self::Responses(service, decoder) => {
                decoder.whole(body, answer, service.caps.json_depth_max, service.key.as_ref())
            }
        }
    }
}

/// Reads a body of at most `max` bytes.
async fn read(mut response: Response, max: usize, body: &mut Vec<u8>) -> Result<(), Fault> {
    while let Some(chunk) = response.chunk().await.map_err(|error| Fault::cut(&error))? {
        if body.len() + chunk.len() > max {
            body.extend_from_slice(&chunk[..max - body.len()]);
            return Err(Fault::too_large(format!("the provider's answer is larger than {max} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(())
}

/// Reads a stream up to its terminator, and its tail if it comes soon.
async fn stream(
    mut response: Response,
    caps: Caps,
    decoder: &mut Decoder<'_>,
    answer: &mut Answer<'_>,
) -> Result<(), Fault> {
    let mut sse = SseDecoder::default();
    let (mut bytes, mut events) = (0usize, 0u32);
    loop {
        let chunk = if answer.finished() {
            answer.tell();
            match tokio::time::timeout(TAIL, response.chunk()).await {
                Ok(Ok(chunk)) => chunk,
                // The answer is whole; only what would have followed it is lost.
                Ok(Err(_)) | Err(_) => return Ok(()),
            }
        } else {
            let chunk = match response.chunk().now_or_never() {
                Some(ready) => ready,
                None => {
                    answer.tell();
                    response.chunk().await
                }
            };
            chunk.map_err(|error| Fault::cut(&error))?
        };
        let Some(chunk) = chunk else { return Ok(()) };
        bytes = bytes.saturating_add(chunk.len());
        if bytes > caps.bytes_max {
            return Err(Fault::too_large(format!("the provider's answer is larger than {} bytes", caps.bytes_max)));
        }
        let flow = sse.feed(&chunk, &mut |data| {
            events += 1;
            if events > caps.events_max {
                let message = format!("the provider's answer has more than {} events", caps.events_max);
                return ControlFlow::Break(Err(Fault::too_large(message)));
            }
            if data.len() > caps.event_bytes_max {
                return ControlFlow::Break(Err(event_too_large(caps)));
            }
            match decoder.event(data, answer) {
                Ok(Flow::More) => ControlFlow::Continue(()),
                Ok(Flow::Done) => ControlFlow::Break(Ok(())),
                Err(fault) => ControlFlow::Break(Err(fault)),
            }
        });
        if flow.is_continue() && sse.pending() > caps.event_bytes_max {
            return Err(event_too_large(caps));
        }
        if let ControlFlow::Break(end) = flow {
            if end.is_ok() {
                release(response);
            }
            return end;
        }
    }
}

fn event_too_large(caps: Caps) -> Fault {
    Fault::too_large(format!("an event of the provider's answer is larger than {} bytes", caps.event_bytes_max))
}

/// Lets the connection of a whole answer go back to the pool: it can once its last bytes are read, which the caller
/// need not wait for. A provider that keeps the stream open loses the connection.
fn release(response: Response) {
    let mut tail = Box::pin(read_tail(response));
    // Nearly always it came with the terminator.
    if (&mut tail).now_or_never().is_none() {
        tokio::spawn(tokio::time::timeout(TAIL, tail));
    }
}

async fn read_tail(mut response: Response) {
    let mut budget = REFUSAL_BYTES;
    while let Ok(Some(chunk)) = response.chunk().await {
        match budget.checked_sub(chunk.len()) {
            Some(left) => budget = left,
            None => break,
        }
    }
}
