//! Numbers that carry their bounds, and text that was checked once.
//!
//! A limit's bounds stand in the type of its field and nowhere else: a value outside them cannot be held.
//! Absent on purpose: default values. They stand in `config/workflow_config.yaml`.

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident, $of:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name<const MIN: u64, const MAX: u64>(u64);

        impl<const MIN: u64, const MAX: u64> $name<MIN, MAX> {
            /// `value`, if it lies within the bounds.
            #[must_use]
            pub const fn new(value: u64) -> Option<Self> {
                if value >= MIN && value <= MAX { Some(Self(value)) } else { None }
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl<const MIN: u64, const MAX: u64> fmt::Display for $name<MIN, MAX> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for $name<MIN, MAX> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Within<const MIN: u64, const MAX: u64>;

                impl<const MIN: u64, const MAX: u64> Visitor<'_> for Within<MIN, MAX> {
                    type Value = u64;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, concat!("a whole number ", $of, "from {} to {}"), MIN, MAX)
                    }

                    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
                        if (MIN..=MAX).contains(&value) {
                            Ok(value)
                        } else {
                            Err(E::invalid_value(Unexpected::Unsigned(value), &self))
                        }
                    }

                    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
                        match u64::try_from(value) {
                            Ok(value) => self.visit_u64(value),
                            Err(_) => Err(E::invalid_value(Unexpected::Signed(value), &self)),
                        }
                    }
                }

                deserializer.deserialize_u64(Within::<MIN, MAX>).map(Self)
            }
        }
    };
}

bounded! {
    /// How many of something, from `MIN` to `MAX`.
    Count, ""
}
bounded! {
    /// A time in milliseconds, from `MIN` to `MAX`.
    Millis, "of milliseconds "
}
bounded! {
    /// A size in bytes, from `MIN` to `MAX`.
    Bytes, "of bytes "
}

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    /// The number as the width most interfaces take.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        const { assert!(MAX <= u32::MAX as u64) };
        self.0 as u32
    }

    /// The number as a length.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        const { assert!(MAX <= u32::MAX as u64) };
        self.0 as usize
    }
}

impl<const MIN: u64, const MAX: u64> Millis<MIN, MAX> {
    /// The time.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> Bytes<MIN, MAX> {
    /// The size as a length.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        const { assert!(MAX <= u32::MAX as u64) };
        self.0 as usize
    }
}

/// A TCP port; 0 asks the system for a free one.
pub type Port = Count<0, 65_535>;

impl Port {
    /// The port as sockets take it.
    #[must_use]
    pub const fn as_u16(self) -> u16 {
        self.0 as u16
    }
}

/// A part of a whole, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64")]
pub struct Ratio(f64);

impl Ratio {
    /// The part.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Ratio {
    type Error = &'static str;

    fn try_from(value: f64) -> Result<Self, Self::Error> {
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err("expected a number from 0 to 1") }
    }
}

/// A sampling temperature, 0 to 2.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64")]
pub struct Temperature(f64);

impl Temperature {
    /// The temperature as requests carry it.
    #[must_use]
    pub const fn get(self) -> f32 {
        self.0 as f32
    }
}

impl TryFrom<f64> for Temperature {
    type Error = &'static str;

    fn try_from(value: f64) -> Result<Self, Self::Error> {
        if (0.0..=2.0).contains(&value) { Ok(Self(value)) } else { Err("expected a number from 0 to 2") }
    }
}

/// A score or a difference of two, 0 to 10.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64")]
pub struct Score(f64);

impl Score {
    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Score {
    type Error = &'static str;

    fn try_from(value: f64) -> Result<Self, Self::Error> {
        if (0.0..=10.0).contains(&value) { Ok(Self(value)) } else { Err("expected a number from 0 to 10") }
    }
}

/// US dollars for a million tokens, 0 to 100,000.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64")]
pub struct TokenPrice(f64);

impl TokenPrice {
    /// The dollars.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for TokenPrice {
    type Error = &'static str;

    fn try_from(value: f64) -> Result<Self, Self::Error> {
        if (0.0..=100_000.0).contains(&value) { Ok(Self(value)) } else { Err("expected a number from 0 to 100000") }
    }
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

checked_text! {
    /// A name for people or providers: 1 to 128 characters, none of them a control character, no space at either end.
    Name
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = (1..=128).contains(&text.chars().count())
            && text.trim().len() == text.len()
            && !text.chars().any(char::is_control);
        if fits { Ok(Self(text)) } else { Err("expected a name of 1 to 128 printable characters") }
    }
}

checked_text! {
    /// A name that is also a key and a path of steps: `[a-z0-9_-]{1,64}`.
    Slug
}

impl TryFrom<String> for Slug {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if fits { Ok(Self(text)) } else { Err("expected 1 to 64 characters from a-z, 0-9, _ and -") }
    }
}

checked_text! {
    /// A word or a few, in lower case, to look for in a message.
    Phrase
}

impl TryFrom<String> for Phrase {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let text = text.trim().to_lowercase();
        if text.is_empty() { Err("expected a word or a few") } else { Ok(Self(text)) }
    }
}

checked_text! {
    /// An `http` or `https` URL without credentials, query or fragment, and without a slash at its end. What has no
    /// credentials can be shown.
    HttpUrl
}

impl TryFrom<String> for HttpUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let url = reqwest::Url::parse(&text).map_err(|_| "expected a URL such as http://127.0.0.1:8080/v1")?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("expected a URL that begins with http:// or https://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("expected a URL without user and password: keys come from the environment");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("expected a URL without ? and #");
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

/// The address to listen on: an IP address, or `localhost` for 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenHost(IpAddr);

impl ListenHost {
    /// The address.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.0
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self.0.to_canonical().is_loopback()
    }
}

impl TryFrom<String> for ListenHost {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "localhost" {
            return Ok(Self(IpAddr::from([127, 0, 0, 1])));
        }
        text.parse().map(Self).map_err(|_| "expected an IP address such as 127.0.0.1, or localhost")
    }
}
