//! The form of a journal record on disk, and its checksum.
//!
//! Invariant: no record leaves the store unless its checksum, computed anew from everything that leaves, is the stored
//! one. A body's BLAKE3 hash is part of it, so a damaged payload is found as well as a damaged row.
//! Absent on purpose: what a record means. Head and body are bytes here.

use std::cell::RefCell;
use std::sync::Arc;

use fleet_actors::ids::{Epoch, Position, Seq};
use fleet_actors::ports::{RecordBody, RecordRow};
use rusqlite::Row;

use super::fault::Fault;

/// Format of the records this binary writes.
pub(super) const FORMAT: u8 = 1;

/// Bodies above this are kept once by content; smaller ones stand in their row.
pub(super) const INLINE_BYTES: usize = 1024;

/// What goes into a row besides the record itself.
pub(super) struct Seal {
    pub checksum: u32,
    pub body_hash: Option<[u8; 32]>,
    pub scope: Scope,
}

/// Who may hold the same copy of a body. The discriminant is what stands in the row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// There is no body.
    Nobody = 0,
    /// The root workflow and its forks.
    Root = 1,
    /// Everybody: it holds no user data.
    Everybody = 2,
}

/// A large shared body and its hash.
type Hashed = (Arc<[u8]>, [u8; 32]);

thread_local! {
    /// The last large shared body this thread hashed. Nearly every run of a process is pinned to the same one.
    static LAST_SHARED: RefCell<Option<Hashed>> = const { RefCell::new(None) };
}

/// The hash of a body. That of a large shared one is taken from the last if the bytes are the same: either they are
/// the same allocation, which cannot change while it is held here, or each is compared. So the hash stands for what is written
/// or read, not for what somebody says it is.
pub(super) fn hash_of(body: &RecordBody) -> [u8; 32] {
    if !body.shared || body.bytes.len() <= INLINE_BYTES {
        return *blake3::hash(&body.bytes).as_bytes();
    }
    LAST_SHARED.with_borrow_mut(|last| match last {
        Some((bytes, hash)) if Arc::ptr_eq(bytes, &body.bytes) || *bytes == body.bytes => *hash,
        Some(_) | None => {
            let hash = *blake3::hash(&body.bytes).as_bytes();
            *last = Some((body.bytes.clone(), hash));
            hash
        }
    })
}

/// The seal of `record` in the journal of `workflow`.
pub(super) fn seal(workflow: &str, record: &RecordRow) -> Seal {
    let body_hash = record.body.as_ref().map(hash_of);
    let scope = match &record.body {
        None => Scope::Nobody,
        Some(RecordBody { shared: false, .. }) => Scope::Root,
        Some(RecordBody { shared: true, .. }) => Scope::Everybody,
    };
    let mut crc = crc32fast::Hasher::new();
    // Everything of variable length carries its length, so that no byte can move from one field to the next unseen.
    let mut field = |bytes: &[u8]| {
        crc.update(&(bytes.len() as u64).to_le_bytes());
        crc.update(bytes);
    };
    field(&[FORMAT, scope as u8, u8::from(record.seq.is_some())]);
    field(workflow.as_bytes());
    field(&record.position.0.to_le_bytes());
    field(&record.epoch.0.to_le_bytes());
    field(&record.seq.map_or(0, |seq| seq.0).to_le_bytes());
    field(record.kind.as_bytes());
    field(record.path.as_bytes());
    field(&record.head);
    field(body_hash.as_ref().map_or(&[][..], |hash| &hash[..]));
    Seal { checksum: crc.finalize(), body_hash, scope }
}

/// The columns that [`open`] reads, of a journal row `j`, a payload `p` and a shared payload `s`.
pub(super) const COLUMNS: &str = "j.position, j.epoch, j.seq, j.format, j.kind, j.path, j.head, j.scope, j.checksum, \
     coalesce(j.body, p.bytes, s.bytes)";

/// A record read back from a row.
///
/// # Errors
/// [`StoreError::Damaged`](fleet_actors::ports::StoreError::Damaged), naming the workflow and the position.
pub(super) fn open(workflow: &str, row: &Row<'_>) -> Result<RecordRow, Fault> {
    let place: u64 = row.get(0)?;
    let damaged = |what: &str| Fault::damaged(format!("workflow {workflow}, position {place}: {what}"));
    let unreadable = |e: rusqlite::Error| damaged(&e.to_string());
    let format: u8 = row.get(3).map_err(unreadable)?;
    if format != FORMAT {
        return Err(damaged(&format!("record format {format}, this binary knows {FORMAT}")));
    }
    let scope: u8 = row.get(7).map_err(unreadable)?;
    let body = match (scope, row.get::<_, Option<Vec<u8>>>(9).map_err(unreadable)?) {
        (0, None) => None,
        (1, Some(bytes)) => Some(RecordBody { bytes: bytes.into(), shared: false }),
        (2, Some(bytes)) => Some(RecordBody { bytes: bytes.into(), shared: true }),
        _ => return Err(damaged("its body is missing")),
    };
    let record = RecordRow {
        position: Position(place),
        epoch: Epoch(row.get(1).map_err(unreadable)?),
        seq: row.get::<_, Option<u64>>(2).map_err(unreadable)?.map(Seq),
        kind: row.get::<_, String>(4).map_err(unreadable)?.into(),
        path: row.get::<_, String>(5).map_err(unreadable)?.into(),
        head: row.get(6).map_err(unreadable)?,
        body,
    };
    let stored: u32 = row.get(8).map_err(unreadable)?;
    if seal(workflow, &record).checksum != stored {
        return Err(damaged("its checksum differs"));
    }
    Ok(record)
}
