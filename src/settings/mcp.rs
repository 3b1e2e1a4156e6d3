//! MCP servers: which, how they are reached, how long and how much.
//!
//! Absent on purpose: values of variables. Entries name variables; what those hold never enters the settings.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::units::{Bytes, Count, HttpUrl, Millis};

/// What holds for every server. Keys, units and defaults: `config/workflow_config.yaml`, section `mcp`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpSettings {
    /// From no connection to one whose handshake is done.
    pub connect_timeout_ms: Millis<10, 600_000>,
    /// To list all tools; also how long a run waits for a server that is not ready.
    pub list_timeout_ms: Millis<10, 600_000>,
    /// One call, its wait for a place included.
    pub call_timeout_ms: Millis<10, 86_400_000>,
    /// Calls of one server at once.
    pub calls_max: Count<1, 1_024>,
    /// Calls of one server that wait for a place.
    pub queue_max: Count<0, 65_536>,
    /// Tools of one server.
    pub tools_max: Count<1, 10_000>,
    /// Names, descriptions and schemas of one server's tools together.
    pub tools_bytes_max: Bytes<1_024, 16_777_216>,
    /// One message of a server.
    pub message_bytes_max: Bytes<1_024, 67_108_864>,
    /// What is kept of one result.
    pub result_bytes_max: Bytes<1_024, 16_777_216>,
    /// Calls in a row without an answer, after which a server is started anew.
    pub timeouts_max: Count<1, 1_000>,
    /// Until a server that failed is tried again; doubles.
    pub backoff_ms: Millis<10, 600_000>,
    /// The longest wait before any try.
    pub backoff_ms_max: Millis<10, 600_000>,
}

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum McpTransport {
    /// A child process, over its standard input and output.
    Stdio,
    /// Streamable HTTP.
    Http,
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum McpProtocol {
    /// With `initialize`, as version 2025-11-25 and those before it.
    #[default]
    Handshake,
    /// With `server/discover`, as version 2026-07-28.
    Stateless,
}

/// One server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpServerSettings {
    /// How it is reached.
    pub transport: McpTransport,
    /// For stdio: the program, looked for in `PATH`.
    #[serde(default)]
    pub command: Option<String>,
    /// For stdio: its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// For stdio: the variables it sees besides `PATH`.
    #[serde(default)]
    pub env: Vec<Variable>,
    /// For stdio: where it runs; none means where this process runs.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// For HTTP: its address.
    #[serde(default)]
    pub url: Option<McpUrl>,
    /// For HTTP: header names and the variables that hold their values.
    #[serde(default)]
    pub headers_env: BTreeMap<String, Variable>,
    /// How a connection begins.
    #[serde(default)]
    pub protocol: McpProtocol,
    /// Whether it is used.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Its names of tools that only read.
    #[serde(default)]
    pub read_only: Vec<String>,
    /// Whether what it says about its tools is believed.
    #[serde(default)]
    pub trust_annotations: bool,
    /// Digests of changed tools that an operator has accepted.
    #[serde(default)]
    pub accepted_digests: Vec<String>,
    /// Instead of [`McpSettings::connect_timeout_ms`].
    #[serde(default)]
    pub connect_timeout_ms: Option<Millis<10, 600_000>>,
    /// Instead of [`McpSettings::list_timeout_ms`].
    #[serde(default)]
    pub list_timeout_ms: Option<Millis<10, 600_000>>,
    /// Instead of [`McpSettings::call_timeout_ms`].
    #[serde(default)]
    pub call_timeout_ms: Option<Millis<10, 86_400_000>>,
    /// Instead of [`McpSettings::calls_max`].
    #[serde(default)]
    pub calls_max: Option<Count<1, 1_024>>,
    /// Instead of [`McpSettings::queue_max`].
    #[serde(default)]
    pub queue_max: Option<Count<0, 65_536>>,
    /// Instead of [`McpSettings::tools_max`].
    #[serde(default)]
    pub tools_max: Option<Count<1, 10_000>>,
}

fn yes() -> bool {
    true
}

/// An [`HttpUrl`] that keeps a slash at its end: some servers know only the one form, and redirects are not followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct McpUrl(String);

impl McpUrl {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for McpUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        HttpUrl::try_from(text.clone()).map(|_| Self(text))
    }
}

/// The name of a server. It is followed by `__` in names of tools, so it holds none and ends with no `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct McpServerName(String);

impl McpServerName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for McpServerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for McpServerName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let fits = (1..=32).contains(&text.len())
            && text.bytes().all(plain)
            && !text.contains("__")
            && !text.starts_with('_')
            && !text.ends_with('_');
        if text == "builtin" {
            return Err("`builtin` is what the tools of this program are called, no server may pass for them");
        }
        if fits { Ok(Self(text)) } else { Err("expected 1 to 32 characters from a-z, 0-9, - and single _ inside") }
    }
}

/// The name of an environment variable: `[A-Z_][A-Z0-9_]{0,127}`. Few secrets look like one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Variable(String);

impl Variable {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Variable {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let fits = (1..=128).contains(&text.len())
            && text.bytes().all(plain)
            && !text.starts_with(|c: char| c.is_ascii_digit());
        if fits { Ok(Self(text)) } else { Err("expected the name of an environment variable, from A-Z, 0-9 and _") }
    }
}
