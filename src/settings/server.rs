//! The doors: where they listen, who may use them, how much and how long each may cost.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::units::{Bytes, Count, ListenHost, Millis, Port};

/// What the doors need. Keys, units and defaults: `config/workflow_config.yaml`, section `server`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Address to listen on.
    pub host: ListenHost,
    /// Port to listen on; 0 takes a free one.
    pub port: Port,
    /// Whether an address that others can reach may be served without authentication.
    pub allow_unauthenticated: bool,
    /// Worker threads; 0 means one per core.
    pub workers: Count<0, 256>,
    /// Open connections, sockets that are only told "full" included.
    pub connections_max: Count<1, 1_000_000>,
    /// Origins that browsers may come from.
    pub cors_allowed_origins: AllowedOrigins,
    /// Whether any localhost origin may use the HTTP and SSE doors.
    pub cors_allow_localhost: bool,
    /// Whether any localhost origin may open a WebSocket.
    pub ws_allow_localhost: bool,
    /// From the upgrade to the first frame.
    pub handshake_timeout_ms: Millis<10, 600_000>,
    /// Between two heartbeat events.
    pub heartbeat_interval_ms: Millis<10, 600_000>,
    /// Without a client frame and without a watched unfinished run.
    pub socket_idle_timeout_ms: Millis<10, 86_400_000>,
    /// Between two WebSocket pings.
    pub ping_interval_ms: Millis<10, 600_000>,
    /// Without a pong, until the socket is closed.
    pub pong_timeout_ms: Millis<10, 600_000>,
    /// For one frame to leave, until the reader counts as gone.
    pub send_timeout_ms: Millis<10, 600_000>,
    /// `SO_SNDBUF` of accepted connections.
    pub send_buffer_bytes: Bytes<4_096, 4_194_304>,
    /// For a socket that was accepted only to be refused, to take the message.
    pub refusal_timeout_ms: Millis<10, 60_000>,
    /// Of a refused request's body, read and thrown away so that the connection stays usable.
    pub refused_body_bytes_max: Bytes<0, 1_048_576>,
    /// For a request's head to arrive.
    pub header_timeout_ms: Millis<10, 600_000>,
    /// For a request's body to arrive.
    pub body_timeout_ms: Millis<10, 600_000>,
    /// One WebSocket frame.
    pub frame_bytes_max: Bytes<1_024, 67_108_864>,
    /// One WebSocket message, all its frames.
    pub message_bytes_max: Bytes<1_024, 67_108_864>,
    /// One request body.
    pub body_bytes_max: Bytes<1_024, 67_108_864>,
    /// The `message` in the query of a GET.
    pub query_message_bytes_max: Bytes<1, 65_536>,
    /// Entries of a page when the client does not say.
    pub page_default: Count<1, 100>,
    /// Entries of a page at most.
    pub page_max: Count<1, 100>,
    /// What running turns get after SIGTERM.
    pub drain_timeout_ms: Millis<0, 3_600_000>,
}

impl ServerSettings {
    /// Whether a browser page of this origin may open a WebSocket.
    #[must_use]
    pub fn ws_origin_allowed(&self, origin: &str) -> bool {
        self.cors_allowed_origins.allows(origin) || self.ws_allow_localhost && is_localhost(origin)
    }

    /// Whether a browser page of this origin may use the HTTP and SSE doors.
    #[must_use]
    pub fn cors_origin_allowed(&self, origin: &str) -> bool {
        self.cors_allowed_origins.allows(origin) || self.cors_allow_localhost && is_localhost(origin)
    }

    /// Whether requests that ask for a host of this name, with or without a port, are meant for this server. Whoever owns a
    /// name can make it mean the machine of someone who visits their page, so where only this machine listens the name has
    /// to be an address, localhost, or that of an allowed origin.
    #[must_use]
    pub fn host_allowed(&self, host: &str) -> bool {
        if !self.host.is_loopback() || self.cors_allowed_origins.any() {
            return true;
        }
        // The parser makes one form of a name; what follows it would be no host.
        let url = reqwest::Url::parse(&format!("http://{host}/")).ok();
        let asked = url.filter(|_| !host.contains(['/', '\\', '?', '#', '@']));
        let Some(name) = asked.as_ref().and_then(reqwest::Url::host_str) else { return false };
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let named = |origin: &str| reqwest::Url::parse(origin).is_ok_and(|own| own.host_str() == Some(name));
        address.is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.cors_allowed_origins.iter().any(named)
    }
}

/// The origins of a list, compared whole; `*` stands for every one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AllowedOrigins(Vec<AllowedOrigin>);

impl AllowedOrigins {
    /// Whether `*` is in the list.
    #[must_use]
    pub fn any(&self) -> bool {
        self.0.contains(&AllowedOrigin(ANY.to_owned()))
    }

    /// Whether answers may allow credentials: never together with `*`.
    #[must_use]
    pub fn credentials(&self) -> bool {
        !self.any()
    }

    /// Whether the list allows this origin.
    #[must_use]
    pub fn allows(&self, origin: &str) -> bool {
        self.any() || canonical(origin).is_some_and(|origin| self.0.contains(&AllowedOrigin(origin)))
    }

    /// The entries.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|origin| origin.0.as_str())
    }
}

const ANY: &str = "*";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
struct AllowedOrigin(String);

impl TryFrom<String> for AllowedOrigin {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == ANY {
            return Ok(Self(text));
        }
        canonical(&text).map(Self).ok_or("expected * or an origin such as https://chat.example.com, without a path")
    }
}

/// An origin as it is compared: scheme and host in lower case, without the scheme's own port. None for what is no http
/// origin, `null` included.
fn canonical(origin: &str) -> Option<String> {
    let url = reqwest::Url::parse(origin).ok()?;
    let bare = origin.split_once("://")?.1;
    let whole = matches!(url.scheme(), "http" | "https") && !bare.contains(['/', '\\', '?', '#', '@']);
    whole.then(|| url.origin().ascii_serialization())
}

fn is_localhost(origin: &str) -> bool {
    let host = canonical(origin).and_then(|origin| reqwest::Url::parse(&origin).ok()?.host_str().map(str::to_owned));
    matches!(host.as_deref(), Some("localhost" | "127.0.0.1" | "[::1]"))
}
