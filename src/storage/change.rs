//! Changes of the store that are neither appends nor removals.

use fleet_actors::event::Answer;
use fleet_actors::ids::{ConversationId, Epoch, Position, RequestId, Timestamp, WorkflowId};
use fleet_actors::ports::{Command, Posted, Rest, Written};
use rusqlite::{Connection, OptionalExtension, params};

use super::append::Moment;
use super::columns::to_text;
use super::fault::Fault;
use super::journal;

/// Puts a command in a workflow's inbox, if it may still matter. The first answer of a question takes it.
pub(super) fn post(db: &Connection, id: &WorkflowId, command: &Command, now: Timestamp) -> Result<Posted, Fault> {
    let mut find = db.prepare_cached(
        "SELECT w.num, l.ended_at IS NOT NULL FROM workflows w JOIN lives l USING (num) WHERE w.id = ?1 AND w.hidden = 0",
    )?;
    let found = find.query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((num, over)): Option<(i64, bool)> = found else { return Ok(Posted::Unknown) };
    let request = match command {
        Command::Answer { request_id, answer } => match take(db, num, request_id, answer, now)? {
            Posted::Accepted => request_id.as_str(),
            refused @ (Posted::Closed | Posted::Unknown | Posted::NotYet) => return Ok(refused),
        },
        Command::Cancel { .. } if over => return Ok(Posted::Closed),
        Command::Cancel { .. } => "",
    };
    let text = serde_json::to_string(command).map_err(|e| Fault::damaged(format!("a command for {id}: {e}")))?;
    db.prepare_cached("INSERT INTO inbox (workflow, request, command) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
        .execute(params![num, request, text])?;
    Ok(Posted::Accepted)
}

fn take(db: &Connection, num: i64, request: &RequestId, answer: &Answer, now: Timestamp) -> Result<Posted, Fault> {
    let mut find =
        db.prepare_cached("SELECT state = 'open', expires_at FROM questions WHERE workflow = ?1 AND request = ?2")?;
    let found = find.query_row(params![num, request.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((open, expires_at)): Option<(bool, i64)> = found else { return Ok(Posted::Unknown) };
    let over = expires_at <= now.0;
    match answer {
        _ if !open => return Ok(Posted::Closed),
        Answer::Given(_) if over => return Ok(Posted::Closed),
        Answer::Expired if !over => return Ok(Posted::NotYet),
        Answer::Given(_) | Answer::Expired => {}
    }
    db.prepare_cached("UPDATE questions SET state = 'taken' WHERE workflow = ?1 AND request = ?2")?
        .execute(params![num, request.as_str()])?;
    Ok(Posted::Accepted)
}

/// Makes a workflow that shares a prefix of another's journal.
pub(super) fn fork(
    db: &Connection,
    from: &WorkflowId,
    position: Option<Position>,
    fork: &WorkflowId,
    made_at: Timestamp,
    at: Moment,
) -> Result<Written, Fault> {
    let mut find = db.prepare_cached(
        "SELECT w.num, l.head FROM workflows w JOIN lives l USING (num) WHERE w.id = ?1 AND w.hidden = 0",
    )?;
    let found = find.query_row([from.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((parent, head)): Option<(i64, u64)> = found else { return Ok(Written::NotFound) };
    let position = position.map_or(head, |position| position.0);
    let Some(epoch) = journal::epoch_at(db, from, position)? else { return Ok(Written::NotFound) };
    let mut known = db.prepare_cached("SELECT parent, parent_position FROM workflows WHERE id = ?1")?;
    let known = known.query_row([fork.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    if let Some(shared) = known {
        return Ok(if shared == (Some(parent), Some(position)) { Written::Done } else { Written::Conflict });
    }
    let num = db
        .prepare_cached(
            "INSERT INTO workflows (tenant, id, root, parent, parent_position, name, version, conversation, task, effort, \
             on_disconnect, created_at) SELECT tenant, ?2, root, num, ?3, name, version, conversation, task, effort, \
             on_disconnect, ?4 FROM workflows WHERE num = ?1",
        )?
        .insert(params![parent, fork.as_str(), position, made_at.0])?;
    db.prepare_cached(
        "INSERT INTO lives (num, epoch, head, runtime_ms, state, detail, opening, updated_at) \
         VALUES (?1, ?2, ?3, 0, 'resting', ?4, ?5, ?6)",
    )?
    .execute(params![num, epoch, position, to_text(&Rest::Interrupted), at.opening, made_at.0])?;
    Ok(Written::Done)
}

pub(super) fn create_conversation(
    db: &Connection,
    id: &ConversationId,
    title: Option<&str>,
    at: Timestamp,
) -> Result<Written, Fault> {
    let made = db
        .prepare_cached(
            "INSERT INTO conversations (id, title, created_at, updated_at) VALUES (?1, ?2, ?3, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![id.as_str(), title, at.0])?;
    Ok(if made > 0 { Written::Done } else { Written::Conflict })
}

/// Puts a workflow without an owner to rest.
pub(super) fn rest(
    db: &Connection,
    id: &WorkflowId,
    epoch: Epoch,
    rest: Rest,
    now: Timestamp,
) -> Result<Written, Fault> {
    let mut find = db.prepare_cached(
        "SELECT w.num, l.epoch, l.ended_at IS NOT NULL FROM workflows w JOIN lives l USING (num) \
         WHERE w.id = ?1 AND w.hidden = 0",
    )?;
    let found = find.query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((num, stored, over)): Option<(i64, u32, bool)> = found else { return Ok(Written::NotFound) };
    if over || stored != epoch.0 {
        return Ok(Written::Conflict);
    }
    set_resting(db, num, rest, now)?;
    super::append::leave_parent(db, num, rest)?;
    Ok(Written::Done)
}

/// Puts a workflow to rest that the life `epoch` owns or was about to; its parent is told of it if `tells`.
pub(super) fn quarantine(
    db: &Connection,
    id: &WorkflowId,
    epoch: Epoch,
    now: Timestamp,
    tells: bool,
) -> Result<(), Fault> {
    let mut find = db.prepare_cached(
        "SELECT w.num FROM workflows w JOIN lives l USING (num) WHERE w.id = ?1 AND l.ended_at IS NULL AND l.epoch <= ?2",
    )?;
    let found = find.query_row(params![id.as_str(), epoch.0], |row| row.get(0)).optional()?;
    let Some(num) = found else { return Ok(()) };
    set_resting(db, num, Rest::Quarantined, now)?;
    if tells { super::append::leave_parent(db, num, Rest::Quarantined) } else { Ok(()) }
}

fn set_resting(db: &Connection, num: i64, rest: Rest, now: Timestamp) -> Result<(), Fault> {
    db.prepare_cached(
        "UPDATE lives SET state = 'resting', detail = ?2, wake_at = NULL, updated_at = ?3 WHERE num = ?1",
    )?
    .execute(params![num, to_text(&rest), now.0])?;
    Ok(())
}

/// Bytes that a probe asks of the disk.
const PROBE_BYTES: u32 = 64 * 1024;

/// Writes a row, or removes it again; two transactions, so that the bytes really reach the disk.
pub(super) fn probe(db: &Connection, stay: bool) -> Result<Written, Fault> {
    if stay {
        db.prepare_cached("INSERT INTO probe (filler) VALUES (zeroblob(?1))")?.execute([PROBE_BYTES])?;
    } else {
        db.prepare_cached("DELETE FROM probe")?.execute([])?;
    }
    Ok(Written::Done)
}
