//! History: the entries, the counts that make any page cost the same, and the export queue.
//!
//! Entries are ordered by workflow id. A block counts neighbouring entries: an offset is found by adding up counts, then
//! at most [`BLOCK_MAX`] steps in an index, wherever it lies. A block that grows beyond that is split.
//! Invariant: the counts add up to the number of entries; every entry lies in exactly one block.

use fleet_actors::ids::WorkflowId;
use fleet_actors::ports::{ExportEntry, HistoryRow, PageFrom};
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::columns::from_json;
use super::fault::Fault;

/// Entries of a block that is followed by another.
const BLOCK: u32 = 1_000;
/// Entries of a block that got more in its middle before it is split.
const BLOCK_MAX: u32 = 2 * BLOCK;

/// Adds an entry, or puts it in its old version's place, and queues it for export.
pub(super) fn insert(db: &Connection, row: &HistoryRow) -> Result<(), Fault> {
    let id = row.workflow_id.as_str();
    let entry = serde_json::to_string(row).map_err(|e| Fault::damaged(format!("history of {id}: {e}")))?;
    let conversation = row.conversation_id.as_ref().map(|id| id.as_str());
    let replaced = db
        .prepare_cached("UPDATE history SET entry = ?2, conversation = ?3 WHERE tenant = 'local' AND workflow = ?1")?
        .execute(params![id, entry, conversation])?;
    if replaced == 0 {
        db.prepare_cached("INSERT INTO history (workflow, conversation, entry) VALUES (?1, ?2, ?3)")?
            .execute(params![id, conversation, entry])?;
        count_in(db, id)?;
    }
    queue(db, id)
}

/// Removes an entry and queues its tombstone; false if there is none.
pub(super) fn remove(db: &Connection, id: &str) -> Result<bool, Fault> {
    let removed = db.prepare_cached("DELETE FROM history WHERE tenant = 'local' AND workflow = ?1")?.execute([id])? > 0;
    if removed {
        count_out(db, id)?;
        queue(db, id)?;
    }
    Ok(removed)
}

fn queue(db: &Connection, id: &str) -> Result<(), Fault> {
    db.prepare_cached("INSERT INTO export_queue (workflow) VALUES (?1)")?.execute([id])?;
    Ok(())
}

/// The block that an id lies in: its first id and its count.
fn block_of(db: &Connection, id: &str) -> Result<Option<(String, u32)>, Fault> {
    let mut find = db.prepare_cached(
        "SELECT first, entries FROM history_blocks WHERE tenant = 'local' AND first <= ?1 ORDER BY first DESC LIMIT 1",
    )?;
    Ok(find.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// Counts an entry that just came into the table.
fn count_in(db: &Connection, id: &str) -> Result<(), Fault> {
    let Some((first, entries)) = block_of(db, id)?.map_or_else(|| reach_back(db, id), |found| Ok(Some(found)))? else {
        return open_block(db, id, 1);
    };
    if entries >= BLOCK {
        let mut later = db.prepare_cached("SELECT 1 FROM history WHERE tenant = 'local' AND workflow > ?1")?;
        if !later.exists([id])? {
            return open_block(db, id, 1);
        }
    }
    if entries < BLOCK_MAX {
        return set_entries(db, &first, entries + 1);
    }
    let mut upper = db.prepare_cached(
        "SELECT workflow FROM history WHERE tenant = 'local' AND workflow >= ?1 ORDER BY workflow LIMIT 1 OFFSET ?2",
    )?;
    let middle: String = upper.query_row(params![first, BLOCK], |row| row.get(0))?;
    set_entries(db, &first, BLOCK)?;
    open_block(db, &middle, entries + 1 - BLOCK)
}

/// Lets the first block begin at `id`, which is before it; none if there is no block.
fn reach_back(db: &Connection, id: &str) -> Result<Option<(String, u32)>, Fault> {
    let mut reach = db.prepare_cached(
        "UPDATE history_blocks SET first = ?1 WHERE tenant = 'local' AND first = \
         (SELECT min(first) FROM history_blocks WHERE tenant = 'local')",
    )?;
    reach.execute([id])?;
    block_of(db, id)
}

fn open_block(db: &Connection, first: &str, entries: u32) -> Result<(), Fault> {
    db.prepare_cached("INSERT INTO history_blocks (first, entries) VALUES (?1, ?2)")?
        .execute(params![first, entries])?;
    Ok(())
}

fn set_entries(db: &Connection, first: &str, entries: u32) -> Result<(), Fault> {
    db.prepare_cached("UPDATE history_blocks SET entries = ?2 WHERE tenant = 'local' AND first = ?1")?
        .execute(params![first, entries])?;
    Ok(())
}

fn count_out(db: &Connection, id: &str) -> Result<(), Fault> {
    let Some((first, entries)) = block_of(db, id)? else {
        return Err(Fault::damaged(format!("history of {id} lies in no block")));
    };
    if entries > 1 {
        return set_entries(db, &first, entries - 1);
    }
    db.prepare_cached("DELETE FROM history_blocks WHERE tenant = 'local' AND first = ?1")?.execute([first])?;
    Ok(())
}

/// A page, newest first.
pub(super) fn page(db: &Connection, from: &PageFrom, limit: u32) -> Result<Vec<HistoryRow>, Fault> {
    match from {
        PageFrom::Before(id) => rows(
            db,
            "SELECT entry FROM history WHERE tenant = 'local' AND workflow < ?1 ORDER BY workflow DESC LIMIT ?2",
            params![id.as_str(), limit],
        ),
        PageFrom::Offset(offset) => match locate(db, *offset)? {
            None => Ok(Vec::new()),
            // The inner query steps over entries in the index alone; entries themselves may be large.
            Some((None, skip)) => rows(
                db,
                "SELECT entry FROM history WHERE tenant = 'local' AND workflow IN (SELECT workflow FROM history \
                 WHERE tenant = 'local' ORDER BY workflow DESC LIMIT ?1 OFFSET ?2) ORDER BY workflow DESC",
                params![limit, skip],
            ),
            Some((Some(bound), skip)) => rows(
                db,
                "SELECT entry FROM history WHERE tenant = 'local' AND workflow IN (SELECT workflow FROM history \
                 WHERE tenant = 'local' AND workflow < ?3 ORDER BY workflow DESC LIMIT ?1 OFFSET ?2) \
                 ORDER BY workflow DESC",
                params![limit, skip, bound],
            ),
        },
    }
}

/// Where the entry at `offset` from the newest is: below which id, and how many further down.
fn locate(db: &Connection, offset: u64) -> Result<Option<(Option<String>, u64)>, Fault> {
    let mut blocks =
        db.prepare_cached("SELECT first, entries FROM history_blocks WHERE tenant = 'local' ORDER BY first DESC")?;
    let mut rows = blocks.query([])?;
    let (mut bound, mut skip) = (None, offset);
    while let Some(row) = rows.next()? {
        let entries: u64 = row.get(1)?;
        if skip < entries {
            return Ok(Some((bound, skip)));
        }
        skip -= entries;
        bound = Some(row.get(0)?);
    }
    Ok(None)
}

pub(super) fn entry(db: &Connection, id: &WorkflowId) -> Result<Option<HistoryRow>, Fault> {
    let found = rows(db, "SELECT entry FROM history WHERE tenant = 'local' AND workflow = ?1", [id.as_str()])?;
    Ok(found.into_iter().next())
}

pub(super) fn count(db: &Connection) -> Result<u64, Fault> {
    let mut sum = db.prepare_cached("SELECT coalesce(sum(entries), 0) FROM history_blocks WHERE tenant = 'local'")?;
    Ok(sum.query_row([], |row| row.get(0))?)
}

/// Entries behind `after` in the order of their ids.
pub(super) fn scan(db: &Connection, after: Option<&WorkflowId>, limit: u32) -> Result<Vec<HistoryRow>, Fault> {
    rows(
        db,
        "SELECT entry FROM history WHERE tenant = 'local' AND workflow > ?1 ORDER BY workflow LIMIT ?2",
        params![after.map_or("", |id| id.as_str()), limit],
    )
}

fn rows(db: &Connection, sql: &str, params: impl Params) -> Result<Vec<HistoryRow>, Fault> {
    let mut statement = db.prepare_cached(sql)?;
    let mut found = statement.query(params)?;
    let mut entries = Vec::new();
    while let Some(row) = found.next()? {
        entries.push(parse(&row.get::<_, String>(0)?)?);
    }
    Ok(entries)
}

fn parse(entry: &str) -> Result<HistoryRow, Fault> {
    from_json(entry.as_bytes()).map_err(|e| Fault::damaged(format!("an entry of history is unreadable: {e}")))
}

const EXPORTED: &str = "history_exported";

/// The stored cursor and the entries behind it.
pub(super) fn export_queue(db: &Connection, limit: u32) -> Result<(u64, Vec<ExportEntry>), Fault> {
    let cursor = super::schema::meta(db, EXPORTED)?.unwrap_or(0).unsigned_abs();
    let mut waiting = db.prepare_cached(
        "SELECT q.cursor, q.workflow, h.entry FROM export_queue q \
         LEFT JOIN history h ON h.tenant = q.tenant AND h.workflow = q.workflow \
         WHERE q.cursor > ?1 ORDER BY q.cursor LIMIT ?2",
    )?;
    let mut rows = waiting.query(params![cursor, limit])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(ExportEntry {
            cursor: row.get(0)?,
            workflow: WorkflowId::from_trusted(row.get::<_, String>(1)?),
            row: row.get::<_, Option<String>>(2)?.map(|entry| parse(&entry)).transpose()?,
        });
    }
    Ok((cursor, entries))
}

/// Everything up to `cursor` stands in the file.
pub(super) fn exported(db: &Connection, cursor: u64) -> Result<(), Fault> {
    let known = super::schema::meta(db, EXPORTED)?.unwrap_or(0);
    super::schema::set_meta(db, EXPORTED, known.max(i64::try_from(cursor).unwrap_or(i64::MAX)))?;
    db.prepare_cached("DELETE FROM export_queue WHERE cursor <= ?1")?.execute([cursor])?;
    Ok(())
}
