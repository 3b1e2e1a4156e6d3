//! The bytes of an entry: one group of appends as it was written, and when.
//!
//! Lengths stand before whatever has any, so that a body is copied and not quoted. What the store keeps as JSON is JSON here,
//! too. A large shared body that was said before, or that the database has, is named by its hash: nearly every run is pinned
//! to the same one.
//! Absent on purpose: a checksum. The file has one for all of an entry.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fleet_actors::ids::{Epoch, Position, RequestId, Seq, Timestamp, WorkflowId};
use fleet_actors::ports::{Append, Claim, NewChild, RecordBody, RecordRow};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::append::Moment;
use super::super::columns::from_json;
use super::super::fault::Fault;
use super::super::record::{INLINE_BYTES, hash_of};

/// Large shared bodies that are remembered.
const KNOWN_MAX: usize = 8;

/// Large shared bodies that the database has, as its writer last saw it, or an entry in front of it. Cleared behind every change that is no append.
#[derive(Default)]
pub(super) struct Known(Vec<(RecordBody, [u8; 32])>);

impl Known {
    /// The hash of a body that is known; one that is said now is from here on.
    fn find(&mut self, body: &RecordBody) -> Option<[u8; 32]> {
        let same = |known: &&(RecordBody, [u8; 32])| Arc::ptr_eq(&known.0.bytes, &body.bytes);
        if let Some((_, hash)) = self.0.iter().find(same) {
            return Some(*hash);
        }
        if self.0.len() == KNOWN_MAX {
            self.0.remove(0);
        }
        self.0.push((body.clone(), hash_of(body)));
        None
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Writes an entry behind what is in `out`.
///
/// # Errors
/// What cannot be JSON.
pub(super) fn encode(
    out: &mut Vec<u8>,
    appends: &[Arc<Append>],
    at: Moment,
    known: &mut Known,
) -> serde_json::Result<()> {
    let mut to = Encoder { out, known };
    to.number(at.opening.cast_unsigned());
    to.number(at.now.0.cast_unsigned());
    to.number(appends.len() as u64);
    appends.iter().try_for_each(|append| to.append(append))
}

/// Finds the bytes of a stored body by its hash.
type Find<'a> = &'a dyn Fn(&[u8]) -> Result<Vec<u8>, Fault>;

/// Large shared bodies by their hashes: those of the entries that were read, which need not be written yet, and those that are
/// stored.
pub(super) struct Bodies<'a> {
    said: HashMap<[u8; 32], Arc<[u8]>>,
    stored: Find<'a>,
}

impl<'a> Bodies<'a> {
    pub fn new(stored: Find<'a>) -> Self {
        Self { said: HashMap::new(), stored }
    }

    fn keep(&mut self, body: &RecordBody) {
        if body.bytes.len() > INLINE_BYTES {
            self.said.insert(hash_of(body), body.bytes.clone());
        }
    }

    fn find(&self, hash: &[u8]) -> Result<Arc<[u8]>, Fault> {
        self.said.get(hash).map_or_else(|| Ok((self.stored)(hash)?.into()), |bytes| Ok(bytes.clone()))
    }
}

/// Reads an entry.
///
/// # Errors
/// [`StoreError::Damaged`](fleet_actors::ports::StoreError::Damaged) when it is none or names a body that is nowhere.
pub(super) fn decode(bytes: &[u8], bodies: &mut Bodies<'_>) -> Result<(Moment, Vec<Append>), Fault> {
    let mut from = Decoder { bytes, bodies };
    let at = Moment { opening: from.number()?.cast_signed(), now: Timestamp(from.number()?.cast_signed()) };
    let appends = from.list(Decoder::append)?;
    if from.bytes.is_empty() { Ok((at, appends)) } else { Err(broken()) }
}

fn broken() -> Fault {
    Fault::damaged("an entry of the redo log cannot be read")
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    known: &'a mut Known,
}

impl Encoder<'_> {
    fn number(&mut self, number: u64) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// Room for a number that is known later; where it is.
    fn later(&mut self) -> usize {
        let at = self.out.len();
        self.number(0);
        at
    }

    fn json(&mut self, value: &impl Serialize) -> serde_json::Result<()> {
        let at = self.later();
        serde_json::to_writer(&mut *self.out, value)?;
        let length = (self.out.len() - at - 8) as u64;
        self.out[at..at + 8].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    fn append(&mut self, append: &Append) -> serde_json::Result<()> {
        let Append { claim, after, create, records, messages, opened, closed, runtime, children, next } = append;
        self.bytes(claim.workflow.as_str().as_bytes());
        self.number(claim.epoch.0.into());
        self.number(after.0);
        self.json(create)?;
        self.records(records);
        self.json(messages)?;
        self.json(opened)?;
        self.json(closed)?;
        self.number(u64::try_from(runtime.as_millis()).unwrap_or(u64::MAX));
        self.number(children.len() as u64);
        for NewChild { workflow, made, records } in children {
            self.bytes(workflow.as_str().as_bytes());
            self.json(made)?;
            self.records(records);
        }
        self.json(next)
    }

    fn records(&mut self, records: &[RecordRow]) {
        self.number(records.len() as u64);
        for RecordRow { position, epoch, seq, kind, path, head, body } in records {
            self.number(position.0);
            self.number(epoch.0.into());
            self.number(seq.map_or(0, |seq| seq.0 + 1));
            self.bytes(kind.as_bytes());
            self.bytes(path.as_bytes());
            self.bytes(head);
            self.body(body.as_ref());
        }
    }

    fn body(&mut self, body: Option<&RecordBody>) {
        let Some(body) = body else { return self.number(Body::None as u64) };
        if !body.shared {
            self.number(Body::Own as u64);
        } else if body.bytes.len() > INLINE_BYTES
            && let Some(hash) = self.known.find(body)
        {
            self.number(Body::Stored as u64);
            return self.bytes(&hash);
        } else {
            self.number(Body::Shared as u64);
        }
        self.bytes(&body.bytes);
    }
}

/// How a record's body stands in an entry.
#[derive(Clone, Copy)]
enum Body {
    None = 0,
    Own = 1,
    Shared = 2,
    /// Shared, and said before or in the database: its hash.
    Stored = 3,
}

struct Decoder<'a, 'b, 'c> {
    bytes: &'a [u8],
    bodies: &'b mut Bodies<'c>,
}

impl<'a> Decoder<'a, '_, '_> {
    fn number(&mut self) -> Result<u64, Fault> {
        let (number, rest) = self.bytes.split_first_chunk().ok_or_else(broken)?;
        self.bytes = rest;
        Ok(u64::from_le_bytes(*number))
    }

    fn epoch(&mut self) -> Result<Epoch, Fault> {
        u32::try_from(self.number()?).map(Epoch).map_err(|_| broken())
    }

    fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let length = usize::try_from(self.number()?).map_err(|_| broken())?;
        let (bytes, rest) = self.bytes.split_at_checked(length).ok_or_else(broken)?;
        self.bytes = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(|_| broken())
    }

    fn json<T: DeserializeOwned>(&mut self) -> Result<T, Fault> {
        from_json(self.bytes()?).map_err(|_| broken())
    }

    fn list<T>(&mut self, one: impl Fn(&mut Self) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
        let count = self.number()?;
        (0..count).map(|_| one(self)).collect()
    }

    fn append(&mut self) -> Result<Append, Fault> {
        Ok(Append {
            claim: Claim { workflow: WorkflowId::from_trusted(self.text()?), epoch: self.epoch()? },
            after: Position(self.number()?),
            create: self.json()?,
            records: self.list(Self::record)?,
            messages: self.json()?,
            opened: self.json()?,
            closed: self.json::<Vec<RequestId>>()?,
            runtime: Duration::from_millis(self.number()?),
            children: self.list(Self::child)?,
            next: self.json()?,
        })
    }

    fn child(&mut self) -> Result<NewChild, Fault> {
        Ok(NewChild {
            workflow: WorkflowId::from_trusted(self.text()?),
            made: self.json()?,
            records: self.list(Self::record)?,
        })
    }

    fn record(&mut self) -> Result<RecordRow, Fault> {
        Ok(RecordRow {
            position: Position(self.number()?),
            epoch: self.epoch()?,
            seq: self.number()?.checked_sub(1).map(Seq),
            kind: self.text()?.into(),
            path: self.text()?.into(),
            head: self.bytes()?.to_vec(),
            body: self.body()?,
        })
    }

    fn body(&mut self) -> Result<Option<RecordBody>, Fault> {
        let kind = self.number()?;
        let is = |body: Body| body as u64 == kind;
        if is(Body::None) {
            return Ok(None);
        }
        let bytes = self.bytes()?;
        if is(Body::Stored) {
            return Ok(Some(RecordBody { bytes: self.bodies.find(bytes)?, shared: true }));
        }
        if !is(Body::Own) && !is(Body::Shared) {
            return Err(broken());
        }
        let body = RecordBody { bytes: bytes.into(), shared: is(Body::Shared) };
        if body.shared {
            self.bodies.keep(&body);
        }
        Ok(Some(body))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
    use fleet_actors::event::{Question, RunOutcome};
    use fleet_actors::ids::ConversationId;
    use fleet_actors::ports::{
        FinishReason, MessageRow, NewWorkflow, Next, OnDisconnect, OpenedQuestion, Quality, ReasoningEffort,
        RequestKey, Rest, Role,
    };
    use fleet_actors::testing::plain;
    use serde_json::json;

    use super::*;

    const NOW: Moment = Moment { opening: 3, now: Timestamp(-1) };

    fn id(name: &str) -> WorkflowId {
        WorkflowId::from_trusted(name)
    }

    fn made() -> NewWorkflow {
        NewWorkflow {
            conversation: Some(ConversationId::from_trusted("c")),
            effort: Some(ReasoningEffort::Maximal),
            request: Some(RequestKey { key: "a key".into(), digest: "a digest".into() }),
            on_disconnect: OnDisconnect::Continue,
            child_of: Some(id("parent")),
            ..plain::made("chat", "a task \u{1f30a}", Timestamp(7))
        }
    }

    fn records(bodies: Vec<Option<RecordBody>>) -> Vec<RecordRow> {
        let record = |(at, body): (u64, Option<RecordBody>)| RecordRow {
            position: Position(at),
            epoch: Epoch(2),
            seq: at.checked_sub(2).map(Seq),
            kind: "kind".into(),
            path: "a/b#1".into(),
            head: vec![0, 255, 10],
            body,
        };
        (1..).zip(bodies).map(record).collect()
    }

    fn body(byte: u8, bytes: usize, shared: bool) -> Option<RecordBody> {
        Some(RecordBody { bytes: vec![byte; bytes].into(), shared })
    }

    /// An append that has something of everything.
    fn full(name: &str, shared: Option<&RecordBody>) -> Append {
        let own = vec![None, body(1, 10, false), body(2, 40_000, false), body(3, 10, true), shared.cloned()];
        let request = RequestId::from_trusted("r");
        let question = Question {
            request_id: request.clone(),
            request_type: "tool_approval".into(),
            request: json!({ "a": [1, null, "x"] }),
            answer_schema: Some(json!({ "type": "object" })),
            expires_at: Timestamp(9),
        };
        let message = MessageRow {
            id: "m".into(),
            conversation: ConversationId::from_trusted("c"),
            role: Role::Assistant,
            content: "text".into(),
            created_at: Timestamp(5),
            author: Some("Writer".into()),
            agent_id: Some("writer".into()),
            workflow: Some(id(name)),
            finish_reason: Some(FinishReason::Stop),
            quality: Some(Quality::not_scored()),
        };
        Append {
            claim: Claim { workflow: id(name), epoch: Epoch(2) },
            after: Position(11),
            create: Some(Box::new(made())),
            records: records(own),
            messages: vec![message.clone(), MessageRow { author: None, quality: None, ..message }],
            opened: vec![OpenedQuestion { question, asked_at: Timestamp(8) }],
            closed: vec![request],
            runtime: Duration::from_millis(1_234),
            children: vec![NewChild {
                workflow: id("child"),
                made: Box::new(made()),
                records: records(vec![shared.cloned()]),
            }],
            next: Next::Ended(Arc::new(plain::entry(id(name), &made(), Timestamp(6)))),
        }
    }

    fn appends() -> [Append; 5] {
        let shared = body(4, 40_000, true).unwrap();
        let (a, b) = (full("a", Some(&shared)), full("b", Some(&shared)));
        let plain = plain::append(a.claim.clone(), Position(0), Vec::new());
        let parked = Append { next: Next::Parked { wake_at: Some(Timestamp(4)) }, ..plain.clone() };
        [a, b, Append { next: Next::Resting(Rest::Quarantined), ..plain.clone() }, parked, plain]
    }

    #[test]
    fn whatever_an_append_holds_is_read_as_it_was_written() {
        let (mut bytes, mut known) = (Vec::new(), Known::default());
        encode(&mut bytes, &appends().map(Arc::new), NOW, &mut known).unwrap();
        let nothing = |_: &[u8]| Err(broken());
        let (at, read) = decode(&bytes, &mut Bodies::new(&nothing)).unwrap();
        assert_eq!((at.opening, at.now), (NOW.opening, NOW.now));
        assert_eq!(read, appends());
        assert!(read.iter().any(|one| matches!(&one.next, Next::Ended(row) if row.status == RunOutcome::Completed)));
    }

    #[test]
    fn a_large_shared_body_is_said_once_and_found_in_an_entry_before_or_in_the_database() {
        let shared = body(4, 40_000, true).unwrap();
        let (mut known, mut entries) = (Known::default(), Vec::new());
        for name in ["a", "b"] {
            let mut bytes = Vec::new();
            encode(&mut bytes, &[full(name, Some(&shared)).into()], NOW, &mut known).unwrap();
            entries.push(bytes);
        }
        assert!(entries[1].len() + 39_900 < entries[0].len());
        let nothing = |_: &[u8]| Err(broken());
        let mut bodies = Bodies::new(&nothing);
        for (name, bytes) in ["a", "b"].iter().zip(&entries) {
            assert_eq!(decode(bytes, &mut bodies).unwrap().1, [full(name, Some(&shared))]);
        }
        let stored = |hash: &[u8]| if *hash == hash_of(&shared) { Ok(shared.bytes.to_vec()) } else { Err(broken()) };
        assert_eq!(decode(&entries[1], &mut Bodies::new(&stored)).unwrap().1, [full("b", Some(&shared))]);
        assert!(decode(&entries[1], &mut Bodies::new(&nothing)).is_err(), "and nowhere else");
    }

    #[test]
    fn an_entry_that_is_cut_short_or_has_something_behind_it_is_none() {
        let (mut bytes, mut known) = (Vec::new(), Known::default());
        encode(&mut bytes, &appends().map(Arc::new), NOW, &mut known).unwrap();
        let nothing = |_: &[u8]| Err(broken());
        let reads = |bytes: &[u8]| decode(bytes, &mut Bodies::new(&nothing)).is_ok();
        assert!(reads(&bytes));
        assert!((0..bytes.len()).step_by(97).all(|length| !reads(&bytes[..length])));
        bytes.push(0);
        assert!(!reads(&bytes));
    }
}
