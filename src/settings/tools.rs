//! Tools: which exist, under which rule, and what each may use.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::units::{Bytes, Count, HttpUrl, Millis};

/// What the tools need. Keys, units and defaults: `config/workflow_config.yaml`, section `tools`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolSettings {
    /// One call of any tool, from its dispatch.
    pub call_timeout_ms: Millis<100, 3_600_000>,
    /// The arguments of one call, as JSON.
    pub arguments_bytes_max: Bytes<64, 16_777_216>,
    /// The rules, the first that fits applies; a call that none fits is denied.
    pub policy: Vec<PolicyRule>,
    /// Web search.
    pub tavily_search: TavilySettings,
    /// Reading a page.
    pub fetch_page: FetchSettings,
    /// What running code may use.
    pub sandbox: SandboxSettings,
    /// Running Python.
    pub python: InterpreterSettings,
    /// Running JavaScript.
    pub javascript: InterpreterSettings,
}

/// What may be done about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessRule {
    /// It is made.
    Allow,
    /// A human approves these very arguments first.
    Ask,
    /// It is never made.
    Deny,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// Whose calls: a name, the beginning of names and `*`, or `*`.
    pub principal: Pattern,
    /// Which tools: likewise.
    pub tool: Pattern,
    /// Only tools that say that they only read (true), or that do not (false); none means both.
    #[serde(default)]
    pub read_only: Option<bool>,
    /// What may be done.
    pub access: AccessRule,
}

/// A name, or the beginning of names and `*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Whether `name` fits.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => self.0 == name,
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let name = text.strip_suffix('*').unwrap_or(&text);
        let fits = !text.is_empty() && text.len() <= 128 && !name.contains('*') && !name.contains(char::is_control);
        if fits { Ok(Self(text)) } else { Err("expected a name, or the beginning of names and *") }
    }
}

/// Section `tools.tavily_search`. The key is `TAVILY_API_KEY`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TavilySettings {
    /// Whether it exists.
    pub enabled: bool,
    /// The service.
    pub base_url: HttpUrl,
    /// One search.
    pub timeout_ms: Millis<10, 600_000>,
    /// Results of one search.
    pub results_max: Count<1, 20>,
    /// One answer of the service.
    pub response_bytes_max: Bytes<1_024, 67_108_864>,
}

/// Section `tools.fetch_page`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchSettings {
    /// Whether it exists.
    pub enabled: bool,
    /// One fetch, its redirects included.
    pub timeout_ms: Millis<10, 600_000>,
    /// One body.
    pub body_bytes_max: Bytes<1_024, 67_108_864>,
    /// Text that the model is shown.
    pub text_chars_max: Count<100, 1_000_000>,
    /// Redirects of one fetch.
    pub redirects_max: Count<0, 20>,
    /// Ports that may be asked.
    pub ports: Vec<Count<1, 65_535>>,
    /// Places that may be asked although their address or port is not public.
    pub allow_hosts: Vec<HostPort>,
}

/// A host, in lower case, and its port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// Whether this is the place. `host` is as a URL has it, with brackets around an IPv6 address.
    #[must_use]
    pub fn is(&self, host: &str, port: u16) -> bool {
        self.port == port && self.host.eq_ignore_ascii_case(host)
    }
}

impl From<HostPort> for String {
    fn from(place: HostPort) -> Self {
        format!("{}:{}", place.host, place.port)
    }
}

impl TryFrom<String> for HostPort {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const EXPECTED: &str = "expected a host and a port, such as wiki.internal:8080";
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(EXPECTED)?;
        let url = reqwest::Url::parse(&format!("http://{host}:{port}/")).map_err(|_| EXPECTED)?;
        let host = url.host_str().ok_or(EXPECTED)?.to_owned();
        Ok(Self { host, port })
    }
}

/// Section `tools.sandbox`: what one run of code may use.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxSettings {
    /// The program that isolates.
    pub bwrap: PathBuf,
    /// Programs that run at the same time; further ones wait.
    pub concurrent_max: Count<1, 256>,
    /// From start to end.
    pub timeout_ms: Millis<100, 600_000>,
    /// Processor time of one process.
    pub cpu_s: Count<1, 600>,
    /// Memory of all its processes together.
    pub memory_bytes_max: Bytes<67_108_864, 4_294_967_295>,
    /// Processes and threads.
    pub processes_max: Count<16, 4_096>,
    /// What it may print.
    pub output_bytes_max: Bytes<1_024, 16_777_216>,
    /// Files and directories it may leave.
    pub files_max: Count<0, 1_000>,
    /// Bytes of them all.
    pub files_bytes_max: Bytes<4_096, 1_073_741_824>,
}

/// Sections `tools.python` and `tools.javascript`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterpreterSettings {
    /// Whether it exists.
    pub enabled: bool,
    /// The interpreter, somewhere in `/usr`.
    pub interpreter: PathBuf,
}
