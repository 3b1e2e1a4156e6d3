//! Names of things, each its own type so that one cannot stand for another.
//!
//! Ids made here are UUIDv7 text: they sort by the time they were made, which is what pages and block counts rely on.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A new id, later in sort order than every id this process made before.
            #[must_use]
            pub fn generate() -> Self {
                Self(uuid::Uuid::now_v7().to_string().into())
            }

            /// Takes text from our own store or tests as it is.
            #[must_use]
            pub fn from_trusted(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = MalformedId;

            /// Accepts `[A-Za-z0-9_-]{1,64}`, the form of every id a client may give.
            fn from_str(text: &str) -> Result<Self, MalformedId> {
                let fits = (1..=64).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
                if fits { Ok(Self(text.into())) } else { Err(MalformedId) }
            }
        }
    };
}

/// The text is not `[A-Za-z0-9_-]{1,64}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 64 characters from A-Z, a-z, 0-9, _ and -")]
pub struct MalformedId;

text_id! {
    /// One run of a workflow, from its start to its `finished` record, across every life it takes.
    WorkflowId
}
text_id! {
    /// A conversation: the messages that several runs share.
    ConversationId
}
text_id! {
    /// A question that a step asked a human.
    RequestId
}

/// Which life of a workflow: start, takeover, rebuild, unpark and fork each take the next one. It fences old owners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch of the next life.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A place in a workflow's journal: the first record is 1, 0 is before it. Never shown as a [`Seq`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

/// The number of an event in a workflow's log: strictly increasing for ever, never dense, below 2^53.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Numbers that one life may give.
    pub const PER_EPOCH: u64 = 1_000_000_000;

    /// The `n`th number (from 1) of the life `epoch`.
    #[must_use]
    pub fn new(epoch: Epoch, n: u64) -> Self {
        debug_assert!(n < Self::PER_EPOCH);
        Self(u64::from(epoch.0) * Self::PER_EPOCH + n)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position of one workflow that a run can be continued or forked from, written `{workflow_id}:{position}`; without a
/// position it is the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointId {
    /// The workflow whose journal it is a position of.
    pub workflow: WorkflowId,
    /// The position; absent means the newest.
    pub position: Option<Position>,
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(Position(at)) => write!(f, "{}:{at}", self.workflow),
            None => self.workflow.fmt(f),
        }
    }
}

impl FromStr for CheckpointId {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let (workflow, position) = match text.split_once(':') {
            // A number's own reader takes a plus sign too.
            Some((_, at)) if at.starts_with('+') => return Err(MalformedId),
            Some((workflow, at)) => (workflow, Some(Position(at.parse().map_err(|_| MalformedId)?))),
            None => (text, None),
        };
        Ok(Self { workflow: workflow.parse()?, position })
    }
}

/// Milliseconds since the Unix epoch, from the [`Clock`](crate::ports::Clock) port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time `later` after this one.
    #[must_use]
    pub fn after(self, later: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(later.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The time `earlier` before this one.
    #[must_use]
    pub fn before(self, earlier: std::time::Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(earlier.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long from `earlier` to this; zero when it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 UTC with milliseconds and `Z`. The civil-from-days rule is Howard Hinnant's
    /// (<https://howardhinnant.github.io/date_algorithms.html>).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.div_euclid(86_400_000);
        let ms = self.0.rem_euclid(86_400_000);
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        let (h, m, s, milli) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{milli:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_utc_with_milliseconds() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(1_709_210_096_789).to_string(), "2024-02-29T12:34:56.789Z");
        assert_eq!(Timestamp(-1).to_string(), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_checkpoint_id_reads_back_what_it_writes_and_refuses_the_rest() {
        for text in ["abc:17", "abc"] {
            assert_eq!(text.parse::<CheckpointId>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
        for text in ["", ":1", "abc:", "abc:x", "abc:+1", "a b", "abc:1:2"] {
            assert!(text.parse::<CheckpointId>().is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_of_a_later_life_are_above_every_number_of_an_earlier_one() {
        assert!(Seq::new(Epoch(1), 1) > Seq::new(Epoch(0), Seq::PER_EPOCH - 1));
        assert!(Seq::new(Epoch(9_000_000), 1).0 < 1 << 53);
    }
}
