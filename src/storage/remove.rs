//! Removals: a conversation, an execution, all of history, what is old.
//!
//! Invariant: no record goes while a fork shares it. A workflow that is deleted while it has forks is hidden and goes with
//! the last of them. A payload goes with the last record that names it.
//! Absent on purpose: marks for a later sweep. What was removed is gone when the removal is durable, and `secure_delete`
//! overwrites it; but SQLite may leave a part of a row in the room of a page that it moved that row from.

use fleet_actors::ids::{ConversationId, Timestamp, WorkflowId};
use fleet_actors::ports::Written;
use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Fault;
use super::history;

/// Removes a conversation and everything of it, live workflows and forks included.
pub(super) fn conversation(db: &Connection, id: &ConversationId) -> Result<Written, Fault> {
    let mut find = db.prepare_cached("SELECT num FROM conversations WHERE tenant = 'local' AND id = ?1")?;
    let Some(num) = find.query_row([id.as_str()], |row| row.get::<_, i64>(0)).optional()? else {
        return Ok(Written::NotFound);
    };
    for workflow in numbers(db, "SELECT num FROM workflows WHERE tenant = 'local' AND conversation = ?1", id.as_str())?
    {
        forget(db, workflow)?;
    }
    // History outlives a swept journal, so it is asked for the conversation by itself.
    let mut entries = db.prepare_cached("SELECT workflow FROM history WHERE tenant = 'local' AND conversation = ?1")?;
    let entries: Vec<String> = entries.query_map([id.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for workflow in entries {
        history::remove(db, &workflow)?;
    }
    db.prepare_cached("DELETE FROM messages WHERE conversation = ?1")?.execute([num])?;
    db.prepare_cached("DELETE FROM conversations WHERE num = ?1")?.execute([num])?;
    sweep_shared(db)?;
    Ok(Written::Done)
}

/// Removes one execution that is over.
pub(super) fn execution(db: &Connection, id: &WorkflowId) -> Result<Written, Fault> {
    let removed = retire(db, id.as_str())?;
    sweep_shared(db)?;
    Ok(removed)
}

/// The last entry of history so far, which bounds a removal of all of it.
pub(super) fn last_entry(db: &Connection) -> Result<i64, Fault> {
    let mut find = db.prepare_cached("SELECT coalesce(max(num), 0) FROM history")?;
    Ok(find.query_row([], |row| row.get(0))?)
}

/// Removes up to `max` executions behind `after` and up to `last`, in the order in which they ended; how many there were,
/// and the last of them.
pub(super) fn executions(db: &Connection, after: i64, last: i64, max: u32) -> Result<(u64, i64), Fault> {
    let mut find = db.prepare_cached(
        "SELECT num, workflow FROM history NOT INDEXED WHERE tenant = 'local' AND num > ?1 AND num <= ?2 \
         ORDER BY num LIMIT ?3",
    )?;
    let found = find.query_map(params![after, last, max], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found: Vec<(i64, String)> = found.collect::<Result<_, _>>()?;
    for (_, id) in &found {
        retire(db, id)?;
    }
    sweep_shared(db)?;
    Ok((found.len() as u64, found.last().map_or(last, |(num, _)| *num)))
}

/// Removes old journals and request keys.
pub(super) fn old(db: &Connection, ended: Timestamp, keys: Timestamp, max: u32) -> Result<Written, Fault> {
    db.prepare_cached(
        "DELETE FROM requests WHERE (tenant, key) IN (SELECT tenant, key FROM requests WHERE given_at < ?1 LIMIT ?2)",
    )?
    .execute(params![keys.0, max])?;
    let mut find = db.prepare_cached(
        "SELECT num FROM lives WHERE ended_at < ?1 AND NOT EXISTS (SELECT 1 FROM workflows f WHERE f.parent = lives.num) \
         ORDER BY ended_at LIMIT ?2",
    )?;
    let nums: Vec<i64> = find.query_map(params![ended.0, max], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for num in &nums {
        hide_or_forget(db, *num)?;
    }
    sweep_shared(db)?;
    Ok(Written::Removed(nums.len() as u64))
}

/// Removes up to `max` executions that completed before this. They are looked for among those that ended first, so that a
/// sweep never reads a history that is young.
pub(super) fn old_executions(db: &Connection, completed_before: Timestamp, max: u32) -> Result<Written, Fault> {
    let mut find = db.prepare_cached(
        "SELECT workflow FROM (SELECT num, workflow, entry FROM history NOT INDEXED WHERE tenant = 'local' \
         ORDER BY num LIMIT ?2) WHERE json_extract(entry, '$.completed_at') < ?1 ORDER BY num",
    )?;
    let found = find.query_map(params![completed_before.0, max], |row| row.get(0))?;
    let found: Vec<String> = found.collect::<Result<_, _>>()?;
    for id in &found {
        retire(db, id)?;
    }
    sweep_shared(db)?;
    Ok(Written::Removed(found.len() as u64))
}

fn retire(db: &Connection, id: &str) -> Result<Written, Fault> {
    let mut find = db.prepare_cached(
        "SELECT w.num, l.ended_at IS NOT NULL FROM workflows w JOIN lives l USING (num) WHERE w.id = ?1 AND w.hidden = 0",
    )?;
    let found: Option<(i64, bool)> = find.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    match found {
        Some((_, false)) => return Ok(Written::Conflict),
        Some((num, true)) => {
            for child in numbers(db, "SELECT num FROM workflows WHERE child_of = ?1", id)? {
                forget(db, child)?;
            }
            hide_or_forget(db, num)?;
        }
        None => {}
    }
    let listed = history::remove(db, id)?;
    Ok(if listed || found.is_some() { Written::Done } else { Written::NotFound })
}

/// Removes a workflow, or hides it while forks share its records; then whatever hidden ancestor nobody shares any more.
fn hide_or_forget(db: &Connection, num: i64) -> Result<(), Fault> {
    let mut next = Some(num);
    while let Some(num) = next.take() {
        let mut forks = db.prepare_cached("SELECT 1 FROM workflows WHERE parent = ?1")?;
        if forks.exists([num])? {
            db.prepare_cached("DELETE FROM requests WHERE workflow = (SELECT id FROM workflows WHERE num = ?1)")?
                .execute([num])?;
            db.prepare_cached("UPDATE workflows SET hidden = 1 WHERE num = ?1")?.execute([num])?;
            return Ok(());
        }
        let mut parent = db.prepare_cached(
            "SELECT p.num FROM workflows w JOIN workflows p ON p.num = w.parent WHERE w.num = ?1 AND p.hidden = 1",
        )?;
        next = parent.query_row([num], |row| row.get(0)).optional()?;
        forget(db, num)?;
    }
    Ok(())
}

/// The workflows of one root: itself, as long as it is there, and its forks.
const FAMILY: &str = "SELECT num FROM workflows WHERE num = ?1 \
     UNION ALL SELECT num FROM workflows WHERE root = ?1 AND parent IS NOT NULL";

/// Removes a workflow that no fork shares, or together with its forks; history and messages stay.
fn forget(db: &Connection, num: i64) -> Result<(), Fault> {
    let root: i64 =
        db.prepare_cached("SELECT root FROM workflows WHERE num = ?1")?.query_row([num], |row| row.get(0))?;
    for sql in [
        "DELETE FROM requests WHERE workflow = (SELECT id FROM workflows WHERE num = ?1)",
        "DELETE FROM journal WHERE workflow = ?1",
        "DELETE FROM shared_refs WHERE workflow = ?1 AND hash IN (SELECT hash FROM shared_payloads)",
        "DELETE FROM questions WHERE workflow = ?1",
        "DELETE FROM inbox WHERE workflow = ?1",
        "DELETE FROM lives WHERE num = ?1",
        "DELETE FROM workflows WHERE num = ?1",
    ] {
        db.prepare_cached(sql)?.execute([num])?;
    }
    let mut family = db.prepare_cached(FAMILY)?;
    if family.exists([root])? {
        db.prepare_cached(&format!(
            "DELETE FROM payloads WHERE root = ?1 AND hash NOT IN (SELECT body_hash FROM journal \
             WHERE workflow IN ({FAMILY}) AND scope = 1 AND body_hash IS NOT NULL)"
        ))?
        .execute([root])?;
    } else {
        db.prepare_cached("DELETE FROM payloads WHERE root = ?1")?.execute([root])?;
    }
    Ok(())
}

/// Removes shared payloads that no workflow refers to.
fn sweep_shared(db: &Connection) -> Result<(), Fault> {
    db.prepare_cached(
        "DELETE FROM shared_payloads WHERE NOT EXISTS (SELECT 1 FROM shared_refs r WHERE r.hash = shared_payloads.hash)",
    )?
    .execute([])?;
    Ok(())
}

fn numbers(db: &Connection, sql: &str, param: &str) -> Result<Vec<i64>, Fault> {
    let mut find = db.prepare_cached(sql)?;
    Ok(find.query_map([param], |row| row.get(0))?.collect::<Result<_, _>>()?)
}
