//! The simulated model: a request and a seed give a script of what to say and when.
//!
//! [`Simulation::simulate`] does no I/O and knows no clock: the same request under the same seed gives the same script, whether
//! it is played inside the process or served over HTTP. It is no language model and says so; its answers are shaped like
//! one's, fit the schema they are asked in, and show what the model was sent.
//!
//! Directives in the *last user message* steer it. Several may stand in one message; they are left out of what is
//! quoted back. A word it does not know is answered as if it were plain text.
//!
//! | directive | what happens |
//! |---|---|
//! | `[[sim:429 retry_after=7]]` | refused with 429; `retry_after` in seconds is optional |
//! | `[[sim:500]]` | fails with 500 |
//! | `[[sim:hang]]` | never answers |
//! | `[[sim:cut after=5]]` | the stream breaks after 5 pieces |
//! | `[[sim:garbage]]` | the stream holds bytes that are no protocol |
//! | `[[sim:drip ms=200]]` | one piece each 200 ms |
//! | `[[sim:tool name=search args={"q":"x"}]]` | asks for a tool; without `args` they are made from its schema |
//! | `[[sim:tokens=200]]` | an answer of exactly 200 tokens (words) |
//! | `[[sim:latency=50]]` | the first piece after 50 ms |
//! | `[[sim:say=exact text]]` | exactly this text |
//!
//! In a question that a pipeline decides by (a schema with a known name, such as `TaskRouting`), only faults and latency
//! count: the rest is about the answer to the message. A fault may add `times=2`: it strikes the first two attempts of a call and spares the third. Once a tool has
//! answered, the message is answered in words, so a tool directive asks once.
//! Absent on purpose: `pattern` and `uniqueItems` over infinite sets in schemas.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::time::Duration;

use fleet_actors::event::{Channel, Usage};
use fleet_actors::ports::{FinishReason, ReasoningEffort, Role, ToolRequest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod directive;
mod fill;
mod judgement;
mod prose;

use directive::Directives;

/// How the simulated model behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Simulation {
    /// Other seeds give other answers.
    pub seed: u64,
    /// Before the first piece.
    pub latency: Duration,
    /// Speed of the pieces; `None` sends them all at once.
    pub tokens_per_second: Option<NonZeroU32>,
    /// By what share, from 0 to 1, times vary up and down.
    pub jitter: f64,
    /// Length of an answer in tokens; `None` is as long as it has something to say.
    pub tokens: Option<u32>,
    /// Faults that strike by chance.
    pub faults: FaultRates,
}

impl Default for Simulation {
    /// A model that a person can watch typing.
    fn default() -> Self {
        Self {
            seed: 0,
            latency: Duration::from_millis(200),
            tokens_per_second: NonZeroU32::new(60),
            jitter: 0.2,
            tokens: None,
            faults: FaultRates::default(),
        }
    }
}

/// Shares of calls, each from 0 to 1, that a fault strikes. At most one strikes a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultRates {
    /// 429 with `Retry-After: 1`.
    pub rate_limited: f64,
    /// 500.
    pub server_error: f64,
    /// No answer ever.
    pub hang: f64,
    /// A stream cut after three pieces.
    pub cut: f64,
    /// Bytes that are no protocol.
    pub garbage: f64,
    /// A piece each 200 ms.
    pub drip: f64,
}

impl FaultRates {
    /// Which fault strikes; `chance` is uniform in `0..1`.
    fn pick(&self, mut chance: f64) -> Option<SimulatedFault> {
        let rates = [
            (self.rate_limited, SimulatedFault::RateLimited { retry_after: Some(1) }),
            (self.server_error, SimulatedFault::ServerError),
            (self.hang, SimulatedFault::Hang),
            (self.cut, SimulatedFault::Cut { after: 3 }),
            (self.garbage, SimulatedFault::Garbage),
            (self.drip, SimulatedFault::Drip { gap: Duration::from_millis(200) }),
        ];
        for (rate, fault) in rates {
            if chance < rate {
                return Some(fault);
            }
            chance -= rate;
        }
        None
    }
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimulatedFault {
    /// 429.
    RateLimited {
        /// In seconds.
        retry_after: Option<u32>,
    },
    /// 500.
    ServerError,
    /// Nothing comes.
    Hang,
    /// The stream breaks.
    Cut {
        /// After so many pieces.
        after: u32,
    },
    /// Bytes that are no protocol.
    Garbage,
    /// All comes, slowly.
    Drip {
        /// Between pieces.
        gap: Duration,
    },
}

impl SimulatedFault {
    /// The fault as statistics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "rate_limited",
            Self::ServerError => "server_error",
            Self::Hang => "hang",
            Self::Cut { .. } => "cut",
            Self::Garbage => "garbage",
            Self::Drip { .. } => "drip",
        }
    }
}

/// What a model is sent, whichever protocol brought it.
#[derive(Clone, Debug, Default)]
pub struct SimulatedRequest<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The messages, oldest first.
    pub messages: Vec<(Role, Cow<'a, str>)>,
    /// Tools it may call, with the schemas of their arguments.
    pub tools: Vec<(&'a str, &'a Value)>,
    /// The schema its answer must fit.
    pub schema: Option<&'a Value>,
    /// That schema as text, from who has it at hand.
    pub schema_text: Option<&'a str>,
    /// What that schema is called; some names get answers that a pipeline can go on with.
    pub schema_name: &'a str,
    /// How much it should think.
    pub effort: Option<ReasoningEffort>,
    /// At most so many tokens.
    pub max_tokens: Option<u32>,
    /// Which attempt this is, from 1; only `times=` looks at it.
    pub attempt: u32,
}

/// What the simulated model does.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// Of the request and the seed; answers take their ids from it.
    pub digest: u64,
    /// What goes wrong.
    pub fault: Option<SimulatedFault>,
    /// Before the first piece.
    pub latency: Duration,
    /// What is said.
    pub pieces: Vec<Piece>,
    /// Tools it wants called.
    pub tool_calls: Vec<ToolRequest>,
    /// Tokens.
    pub usage: Usage,
    /// Why it stops.
    pub finish: FinishReason,
}

/// A piece of text and how long it takes to come.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Text or reasoning; all reasoning comes first.
    pub channel: Channel,
    /// Never empty.
    pub text: String,
    /// After the piece before it.
    pub gap: Duration,
}

impl Script {
    /// The whole of one channel.
    #[must_use]
    pub fn whole(&self, channel: Channel) -> String {
        self.pieces.iter().filter(|piece| piece.channel == channel).map(|piece| piece.text.as_str()).collect()
    }
}

impl Simulation {
    /// What the model does with `request`. `call` numbers the calls: faults by rate strike by it, so that an unlucky
    /// request is not unlucky for ever.
    #[must_use]
    pub fn simulate(&self, request: &SimulatedRequest<'_>, call: u64) -> Script {
        let digest = self.digest(request);
        let mut rng = fastrand::Rng::with_seed(digest);
        let last_user = request.messages.iter().rposition(|(role, _)| *role == Role::User);
        let text = last_user.map_or("", |at| &request.messages[at].1);
        let mut directives = Directives::read(text);
        let in_prompt = request.schema.is_none().then(|| schema_in_prompt(request)).flatten();
        let (name, schema) = match &in_prompt {
            Some((name, schema)) => (*name, Some(schema)),
            None => (request.schema_name, request.schema),
        };
        let judges = schema.is_some() && judgement::knows(name);
        if judges {
            // They are about the answer to the message, not about what is decided on the way to it.
            directives = Directives { say: None, tokens: None, tools: Vec::new(), ..directives };
        }
        let asked = directives.fault.filter(|_| directives.times.is_none_or(|times| request.attempt <= times));
        let fault =
            asked.or_else(|| self.faults.pick(fastrand::Rng::with_seed(self.seed ^ call.wrapping_mul(MIX)).f64()));

        // Once the conversation has moved on from the message, its wish for a tool is granted. A note is no move.
        let answered =
            last_user.is_none_or(|at| request.messages[at + 1..].iter().any(|(role, _)| *role != Role::System));
        let tool_calls = if answered { Vec::new() } else { wanted_tools(request, &directives, digest, &mut rng) };
        let length = directives.tokens.or(self.tokens);
        let mut words = match (&directives.say, schema) {
            _ if !tool_calls.is_empty() => Vec::new(),
            (Some(say), _) => prose::words(say),
            (None, Some(schema)) => {
                let judged = judgement::judge(name, schema, &question(request), &mut rng);
                let value = judged.unwrap_or_else(|| fill::fill(schema, &directives.rest, &mut rng)).to_string();
                let fenced = in_prompt.is_some();
                prose::chunks(&if fenced { format!("```json\n{value}\n```") } else { value })
            }
            (None, None) => prose::answer(request, &directives.rest, length, &mut rng),
        };
        let mut finish = if tool_calls.is_empty() { FinishReason::Stop } else { FinishReason::ToolCalls };
        if let Some(max) = request.max_tokens.map(|max| max as usize).filter(|max| words.len() > *max) {
            words.truncate(max);
            finish = FinishReason::Length;
        }
        let thoughts = match request.effort {
            Some(ReasoningEffort::Medium) => prose::thoughts(&directives.rest, 1, &mut rng),
            Some(ReasoningEffort::Maximal) => prose::thoughts(&directives.rest, 3, &mut rng),
            Some(ReasoningEffort::Minimal) | None => Vec::new(),
        };
        let usage = usage(request, thoughts.len(), words.len() + tool_calls.len());
        let thoughts = thoughts.into_iter().map(|text| (Channel::Reasoning, text));
        let pieces = thoughts.chain(words.into_iter().map(|text| (Channel::Text, text)));
        let pieces = pieces.map(|(channel, text)| Piece { channel, text, gap: self.gap(fault, &mut rng) }).collect();
        let latency = directives.latency.unwrap_or_else(|| self.vary(self.latency, &mut rng));
        Script { digest, fault, latency, pieces, tool_calls, usage, finish }
    }

    fn gap(&self, fault: Option<SimulatedFault>, rng: &mut fastrand::Rng) -> Duration {
        match (fault, self.tokens_per_second) {
            (Some(SimulatedFault::Drip { gap }), _) => gap,
            (_, Some(speed)) => self.vary(Duration::from_secs_f64(1.0 / f64::from(speed.get())), rng),
            (_, None) => Duration::ZERO,
        }
    }

    fn vary(&self, time: Duration, rng: &mut fastrand::Rng) -> Duration {
        time.mul_f64(1.0 + self.jitter.clamp(0.0, 1.0) * (2.0 * rng.f64() - 1.0))
    }

    fn digest(&self, request: &SimulatedRequest<'_>) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        };
        add(&self.seed.to_le_bytes());
        add(request.model.as_bytes());
        for (role, text) in &request.messages {
            add(&[*role as u8]);
            add(text.as_bytes());
        }
        for (name, _) in &request.tools {
            add(name.as_bytes());
        }
        if let Some(schema) = request.schema {
            let text = request.schema_text.map_or_else(|| schema.to_string().into(), Cow::Borrowed);
            add(text.as_bytes());
        }
        add(request.effort.map_or("", ReasoningEffort::as_str).as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(first)
    }
}

/// Spreads consecutive call numbers over all seeds (the odd constant of splitmix64).
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

/// What is asked about: the last user message with tags in it, since a repair call ends with one without.
fn question(request: &SimulatedRequest<'_>) -> String {
    let mut users = request.messages.iter().rev().filter(|(role, _)| *role == Role::User).map(|(_, text)| text);
    let last = users.clone().next();
    users.find(|text| text.contains("</")).or(last).map_or(String::new(), |text| Directives::read(text).rest)
}

/// The name and the schema that a prompt holds, for callers without structured output: the first line of the first
/// message is `# NAME`, and an object follows the words "JSON schema:".
fn schema_in_prompt<'a>(request: &'a SimulatedRequest<'_>) -> Option<(&'a str, Value)> {
    let (_, text) = request.messages.first().filter(|(role, _)| *role == Role::System)?;
    let name = text.lines().next()?.strip_prefix("# ")?.trim();
    let (_, schema) = text.split_once("JSON schema:")?;
    let mut values = serde_json::Deserializer::from_str(schema).into_iter::<Value>();
    values.next()?.ok().filter(Value::is_object).map(|schema| (name, schema))
}

/// The tool that a directive asks for, or that the message names.
fn wanted_tools(
    request: &SimulatedRequest<'_>,
    directives: &Directives,
    digest: u64,
    rng: &mut fastrand::Rng,
) -> Vec<ToolRequest> {
    let offered = |name: &str| request.tools.iter().find(|(tool, _)| *tool == name);
    let mut call = |name: &str, arguments: Option<&Value>| {
        let arguments = arguments.cloned().unwrap_or_else(|| match offered(name) {
            Some((_, schema)) => fill::fill(schema, &directives.rest, rng),
            None => Value::Object(serde_json::Map::new()),
        });
        ToolRequest { id: format!("call_{digest:016x}"), name: name.to_owned(), arguments }
    };
    if request.tools.is_empty() {
        return Vec::new();
    }
    let calls = directives.tools.iter().enumerate().map(|(n, (name, arguments))| {
        let mut call = call(name, arguments.as_ref());
        call.id = format!("{}_{n}", call.id);
        call
    });
    let calls: Vec<_> = calls.collect();
    if !calls.is_empty() || directives.say.is_some() {
        return calls;
    }
    let named =
        |tool: &str| directives.rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).any(|w| w == tool);
    request.tools.iter().find(|(tool, _)| named(tool)).map(|(tool, _)| call(tool, None)).into_iter().collect()
}

/// About what a tokenizer would count: four bytes a token of prompt, a piece a token of answer.
fn usage(request: &SimulatedRequest<'_>, thoughts: usize, words: usize) -> Usage {
    let bytes: usize = request.messages.iter().map(|(_, text)| text.len()).sum();
    Usage {
        input_tokens: (bytes as u64).div_ceil(4).max(1),
        output_tokens: (thoughts + words) as u64,
        reasoning_tokens: thoughts as u64,
        cached_tokens: 0,
        cost_nanousd: None,
    }
}
