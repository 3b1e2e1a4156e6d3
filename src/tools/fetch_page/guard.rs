//! Which addresses of the world may be asked for a page. Everything that is not plainly public is not.
//!
//! A URL is judged before each request, redirects included; the addresses of a name are judged where they are resolved,
//! and the connection goes to those very addresses, so a name cannot point elsewhere in between.
//!
//! Invariant: no connection is made to an address that was not judged. A place of `allow_hosts` is judged by its name and
//! port alone, by a client of its own.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::settings::HostPort;

/// Why a page is not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// `file:`, `ftp:` and the like.
    #[error("only http and https addresses are fetched")]
    Scheme,
    /// `http://user:password@host/`.
    #[error("an address with a user or a password in it is not fetched")]
    Credentials,
    /// A port that the settings do not name.
    #[error("port {0} is not fetched")]
    Port(u16),
    /// A private, local or reserved address, whether written or resolved.
    #[error("the address {0} is not public")]
    Address(IpAddr),
    /// No host at all.
    #[error("there is no host in the address")]
    Host,
}

/// How a judged URL may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its resolved addresses are judged, too.
    Guarded,
    /// `allow_hosts` names it.
    Named,
}

/// The ports and named places of the settings.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Ports that may be asked.
    pub ports: Vec<u16>,
    /// Places that may be asked whatever their address.
    pub named: Vec<HostPort>,
}

impl Guard {
    /// Judges a URL as it stands, before anything is resolved.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn judge(&self, url: &Url) -> Result<Way, Denied> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Denied::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Denied::Credentials);
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(Denied::Host)?;
        let port = url.port_or_known_default().ok_or(Denied::Host)?;
        if self.named.iter().any(|place| place.is(host, port)) {
            return Ok(Way::Named);
        }
        // The parser has already made one form of decimal, octal, hexadecimal and short addresses.
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        if let Some(ip) = literal.filter(|ip| !public(*ip)) {
            return Err(Denied::Address(ip));
        }
        if !self.ports.contains(&port) {
            return Err(Denied::Port(port));
        }
        Ok(Way::Guarded)
    }
}

/// Networks that are not public: IANA's special-purpose registry, with multicast and the reserved rest.
const PRIVATE_V4: [(Ipv4Addr, u32); 18] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(192, 175, 48, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Whether everybody can have this address.
#[must_use]
pub fn public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => public_v4(ip),
        IpAddr::V6(ip) => public_v6(ip),
    }
}

fn public_v4(ip: Ipv4Addr) -> bool {
    PRIVATE_V4.iter().all(|(network, bits)| (u32::from(ip) ^ u32::from(*network)) >> (32 - bits) != 0)
}

fn public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, ..] = ip.segments();
    let last = |ip: Ipv6Addr| {
        let [.., w, x, y, z] = ip.octets();
        Ipv4Addr::new(w, x, y, z)
    };
    // An IPv4 address in IPv6 clothes is what it is underneath: mapped, and NAT64 (RFC 6052).
    if (a, b, c, d, e) == (0, 0, 0, 0, 0) && f == 0xffff {
        return public_v4(last(ip));
    }
    if (a, b, c, d, e, f) == (0x64, 0xff9b, 0, 0, 0, 0) {
        return public_v4(last(ip));
    }
    // Global unicast is 2000::/3. Of it: protocol assignments with Teredo and ORCHID (2001::/23), documentation
    // (2001:db8::/32, 3fff::/20), 6to4 (2002::/16, whose relays are gone), and ISATAP's addresses within any prefix.
    let global = a & 0xe000 == 0x2000;
    let assigned = a == 0x2001 && b & 0xfe00 == 0;
    let documentation = (a == 0x2001 && b == 0x0db8) || (a == 0x3fff && b & 0xf000 == 0);
    let isatap = f == 0x5efe && matches!(e, 0 | 0x0200);
    global && !assigned && !documentation && a != 0x2002 && !isatap
}

/// Turns a name into addresses; for tests it may be another than the system's.
pub type Lookup = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync>;

/// Asks the system.
#[must_use]
pub fn system_lookup() -> Lookup {
    Arc::new(|host| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// Resolves a name for one connection, and only to public addresses.
pub struct PublicOnly(pub Lookup);

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let found = (self.0)(name.as_str().to_owned());
        Box::pin(async move {
            let found = found.await?;
            // One bad address among good ones is a trap, not a fallback.
            if let Some(ip) = found.iter().find(|ip| !public(**ip)) {
                return Err(Denied::Address(*ip).into());
            }
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

/// The refusal inside of a failed request.
#[must_use]
pub fn denial(error: &reqwest::Error) -> Option<Denied> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(denied) = error.downcast_ref::<Denied>() {
            return Some(*denied);
        }
        cause = error.source();
    }
    None
}
