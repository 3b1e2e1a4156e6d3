//! Reading journals, those of forks included.
//!
//! A fork's journal is a chain: its own records, before them its parent's up to the shared position, and so on. Nothing
//! is copied.
//! Invariant: what `read` answers is dense. A record that is missing is damage, not an end.

use std::time::{Duration, Instant};

use fleet_actors::ids::{Position, Seq, WorkflowId};
use fleet_actors::ports::RecordRow;
use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Fault;
use super::record::{self, COLUMNS};

/// The records of one workflow that belong to a journal: those in `(after, upto]`.
struct Segment {
    num: i64,
    id: String,
    after: u64,
    upto: u64,
}

struct Journal {
    /// Oldest first; the last is the workflow's own.
    segments: Vec<Segment>,
    root: i64,
    head: u64,
}

/// The largest position and number; SQLite's integers are signed.
const END: u64 = i64::MAX as u64;

fn journal(db: &Connection, id: &WorkflowId) -> Result<Option<Journal>, Fault> {
    let mut own = db.prepare_cached(
        "SELECT w.num, w.root, l.head FROM workflows w JOIN lives l USING (num) WHERE w.id = ?1 AND w.hidden = 0",
    )?;
    let found = own.query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((num, root, head)) = found else { return Ok(None) };
    let mut up = db.prepare_cached("SELECT id, parent, coalesce(parent_position, 0) FROM workflows WHERE num = ?1")?;
    let mut segments = Vec::new();
    let mut at = Some((num, END));
    while let Some((num, upto)) = at {
        let row = up.query_row([num], |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, u64>(2)?)));
        let (own, parent, shared) =
            row.optional()?.ok_or_else(|| Fault::damaged(format!("workflow {id}: its parent is missing")))?;
        segments.push(Segment { num, id: own, after: shared, upto });
        at = parent.map(|parent| (parent, shared.min(upto)));
    }
    segments.reverse();
    Ok(Some(Journal { segments, root, head }))
}

/// Records behind `after`, dense.
pub(super) fn read(db: &Connection, id: &WorkflowId, after: Position, page: Page) -> Result<Vec<RecordRow>, Fault> {
    match journal(db, id)? {
        Some(journal) => collect(db, id, &journal, after.0, page, |_| true),
        None => Ok(Vec::new()),
    }
}

/// Records that hold an event numbered above `after`. Those between them are read, too, so that a missing event is found
/// as any missing record is.
pub(super) fn read_events(db: &Connection, id: &WorkflowId, after: Seq, page: Page) -> Result<Vec<RecordRow>, Fault> {
    let Some(journal) = journal(db, id)? else { return Ok(Vec::new()) };
    // That event is read, too: its checksum vouches for the number that was searched for.
    let behind = last_event_at_most(db, &journal, after.0)?.saturating_sub(1);
    collect(db, id, &journal, behind, page, |record| record.seq.is_some_and(|seq| seq > after))
}

/// The position of the last event numbered `after` or less, 0 if there is none. Numbers grow with positions, so halving
/// finds it, without an index that every append would have to feed.
fn last_event_at_most(db: &Connection, journal: &Journal, after: u64) -> Result<u64, Fault> {
    let mut event_before = db.prepare_cached(
        "SELECT position, seq FROM journal WHERE workflow = ?1 AND position > ?2 AND position <= ?3 AND seq IS NOT NULL \
         ORDER BY position DESC LIMIT 1",
    )?;
    let (mut last, mut seen, mut unseen) = (0, 0, journal.head + 1);
    while seen + 1 < unseen {
        let middle = seen + (unseen - seen) / 2;
        let mut found = None;
        for segment in journal.segments.iter().rev() {
            let from = segment.after.max(seen);
            let event = event_before.query_row(params![segment.num, from, segment.upto.min(middle)], |row| {
                Ok((row.get::<_, u64>(0)?, row.get::<_, i64>(1)?))
            });
            found = event.optional()?;
            if found.is_some() {
                break;
            }
        }
        match found {
            Some((position, seq)) if seq.unsigned_abs() > after => unseen = position,
            // Whatever stands between it and the middle holds no event.
            Some((position, _)) => (last, seen) = (position, middle),
            None => seen = middle,
        }
    }
    Ok(last)
}

/// A page of the wanted records behind `after`; the others count neither as bytes nor as a page's first record.
fn collect(
    db: &Connection,
    id: &WorkflowId,
    journal: &Journal,
    after: u64,
    mut page: Page,
    wanted: impl Fn(&RecordRow) -> bool,
) -> Result<Vec<RecordRow>, Fault> {
    page.began = Instant::now();
    let mut expected = after.saturating_add(1);
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM journal j \
         LEFT JOIN payloads p ON j.scope = 1 AND p.root = ?4 AND p.hash = j.body_hash \
         LEFT JOIN shared_payloads s ON j.scope = 2 AND s.tenant = 'local' AND s.hash = j.body_hash \
         WHERE j.workflow = ?1 AND j.position > ?2 AND j.position <= ?3 ORDER BY j.position"
    ))?;
    for segment in &journal.segments {
        let from = segment.after.max(after.min(END));
        let mut rows = statement.query(params![segment.num, from, segment.upto, journal.root])?;
        while let Some(row) = rows.next()? {
            let record = record::open(&segment.id, row)?;
            if record.position.0 != expected {
                break;
            }
            expected += 1;
            if wanted(&record) && !page.take(record) {
                return Ok(page.records);
            }
        }
    }
    if expected <= journal.head {
        return Err(Fault::damaged(format!("workflow {id}, position {expected}: it is missing")));
    }
    Ok(page.records)
}

/// The epoch of the record at a position, its own or shared.
pub(super) fn epoch_at(db: &Connection, id: &WorkflowId, position: u64) -> Result<Option<u32>, Fault> {
    let Some(journal) = journal(db, id)? else { return Ok(None) };
    let Some(segment) = journal.segments.iter().find(|part| part.after < position && position <= part.upto) else {
        return Ok(None);
    };
    let mut statement = db.prepare_cached("SELECT epoch FROM journal WHERE workflow = ?1 AND position = ?2")?;
    Ok(statement.query_row(params![segment.num, position], |row| row.get(0)).optional()?)
}

/// Records until they are too many bytes or have taken too long, but at least one.
pub(super) struct Page {
    records: Vec<RecordRow>,
    bytes: usize,
    max_bytes: usize,
    began: Instant,
    /// So that no reader holds a checkpoint back for longer.
    patience: Duration,
}

impl Page {
    pub fn new(max_bytes: usize, patience: Duration) -> Self {
        Self { records: Vec::new(), bytes: 0, max_bytes, began: Instant::now(), patience }
    }

    /// Takes a record; false when the page is full, and then, unless it is the first, without this one.
    fn take(&mut self, record: RecordRow) -> bool {
        self.bytes += 1 + record.head.len() + record.body.as_ref().map_or(0, |body| body.bytes.len());
        if self.bytes > self.max_bytes && !self.records.is_empty() {
            return false;
        }
        self.records.push(record);
        self.bytes < self.max_bytes && self.began.elapsed() < self.patience
    }
}
