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

/// Removes up to `max` of what a conversation has, live workflows and forks included, and itself when that was all; nothing is
/// said while there is more.
///
/// Forks go before what they come from, so the store is whole behind each part.
pub(super) fn conversation(db: &Connection, id: &ConversationId, max: u32) -> Result<Option<Written>, Fault> {
    let mut find = db.prepare_cached("SELECT num FROM conversations WHERE tenant = 'local' AND id = ?1")?;
    let Some(num) = find.query_row([id.as_str()], |row| row.get::<_, i64>(0)).optional()? else {
        return Ok(Some(Written::NotFound));
    };
    let mut left = max as usize;
    let mut workflows = db.prepare_cached(
        "SELECT num, id FROM workflows WHERE tenant = 'local' AND conversation = ?1 ORDER BY num DESC LIMIT ?2",
    )?;
    let workflows = workflows.query_map(params![id.as_str(), left], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let workflows: Vec<(i64, String)> = workflows.collect::<Result<_, _>>()?;
    for (workflow, id) in &workflows {
        forget(db, *workflow)?;
        history::remove(db, id)?;
    }
    left -= workflows.len();
    // History outlives a swept journal, so it is asked for the conversation by itself.
    let mut entries =
        db.prepare_cached("SELECT workflow FROM history WHERE tenant = 'local' AND conversation = ?1 LIMIT ?2")?;
    let entries = entries.query_map(params![id.as_str(), left], |row| row.get(0))?;
    let entries: Vec<String> = entries.collect::<Result<_, _>>()?;
    for workflow in &entries {
        history::remove(db, workflow)?;
    }
    left -= entries.len();
    left -= db
        .prepare_cached(
            "DELETE FROM messages WHERE num IN (SELECT num FROM messages WHERE conversation = ?1 ORDER BY num LIMIT ?2)",
        )?
        .execute(params![num, left])?;
    if left > 0 {
        db.prepare_cached("DELETE FROM conversations WHERE num = ?1")?.execute([num])?;
    }
    sweep_shared(db)?;
    Ok((left > 0).then_some(Written::Done))
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
    let mut removed = 0;
    for id in &found {
        removed += u64::from(retire(db, id)? == Written::Done);
    }
    sweep_shared(db)?;
    Ok(Written::Removed(removed))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
    use fleet_actors::ids::{Epoch, Position, Seq};
    use fleet_actors::ports::{Claim, NewWorkflow, Next, Outcome, RecordBody, RecordRow};
    use fleet_actors::testing::plain;

    use super::super::append::{self, Moment};
    use super::super::{change, schema};
    use super::*;

    const AT: Moment = Moment { opening: 1, now: Timestamp(1) };

    fn talk(name: &str) -> ConversationId {
        ConversationId::from_trusted(name)
    }

    /// A run of a conversation that is over, with a body of its own and one that all have.
    fn run(db: &Connection, name: &str, conversation: &str) {
        let made =
            NewWorkflow { conversation: Some(talk(conversation)), ..plain::made("chat", "a task", Timestamp(1)) };
        let id = WorkflowId::from_trusted(name);
        let record = |at: u64, letter: u8, shared: bool| RecordRow {
            position: Position(at),
            epoch: Epoch(0),
            seq: Some(Seq(at)),
            kind: "began".into(),
            path: "".into(),
            head: b"{}".to_vec(),
            body: Some(RecordBody { bytes: vec![letter; 20_000].into(), shared }),
        };
        let ended = plain::entry(id.clone(), &made, Timestamp(2));
        let records = vec![record(1, name.as_bytes()[0], false), record(2, b'p', true)];
        let claim = Claim { workflow: id, epoch: Epoch(0) };
        let append = fleet_actors::ports::Append {
            create: Some(Box::new(made)),
            next: Next::Ended(ended.into()),
            ..plain::append(claim, Position(0), records)
        };
        assert_eq!(append::append(db, &append, AT).unwrap(), Outcome::Done { head: Position(2) });
        let message = "INSERT INTO messages (id, conversation, role, content, created_at, workflow) \
                       SELECT 'm-' || ?1, num, 'user', 'hello', 1, ?1 FROM conversations WHERE id = ?2";
        assert_eq!(db.execute(message, [name, conversation]).unwrap(), 1);
    }

    fn count(db: &Connection, sql: &str) -> i64 {
        db.query_row(&format!("SELECT count(*) FROM {sql}"), [], |row| row.get(0)).unwrap()
    }

    /// Nothing stands alone that belongs to something.
    fn assert_whole(db: &Connection, part: usize) {
        for orphans in [
            "workflows f WHERE parent IS NOT NULL AND NOT EXISTS (SELECT 1 FROM workflows p WHERE p.num = f.parent)",
            "journal WHERE workflow NOT IN (SELECT num FROM workflows)",
            "lives WHERE num NOT IN (SELECT num FROM workflows)",
            "payloads WHERE root NOT IN (SELECT root FROM workflows)",
            "journal WHERE scope = 1 AND body_hash NOT IN (SELECT hash FROM payloads)",
            "journal WHERE scope = 2 AND body_hash NOT IN (SELECT hash FROM shared_payloads)",
            "history WHERE workflow NOT IN (SELECT id FROM workflows)",
            "messages WHERE conversation NOT IN (SELECT num FROM conversations)",
        ] {
            assert_eq!(count(db, orphans), 0, "behind part {part}: {orphans}");
        }
        assert_eq!(history::count(db).unwrap().cast_signed(), count(db, "history"), "behind part {part}");
    }

    #[test]
    fn a_conversation_that_is_removed_in_parts_leaves_a_whole_store_behind_each_and_nothing_behind_the_last() {
        for max in [1, 2, 3, u32::MAX] {
            let dir = tempfile::tempdir().unwrap();
            let db = schema::open_writer(&dir.path().join("fleet.db"), None).unwrap();
            ["a", "b", "c"].into_iter().for_each(|name| run(&db, name, "talk"));
            run(&db, "other", "another");
            let (from, fork) = (WorkflowId::from_trusted("a"), WorkflowId::from_trusted("fork"));
            let forked = change::fork(&db, &from, Some(Position(1)), &fork, Timestamp(3), AT).unwrap();
            assert_eq!(forked, Written::Done);
            assert_whole(&db, 0);
            let mut parts = 1;
            while conversation(&db, &talk("talk"), max).unwrap().is_none() {
                assert_whole(&db, parts);
                parts += 1;
            }
            assert_whole(&db, parts);
            // Four runs, three messages, and a last part for the conversation.
            assert_eq!(parts, (7 / max as usize) + 1, "{max} at once");
            assert_eq!(conversation(&db, &talk("talk"), max).unwrap(), Some(Written::NotFound));
            let left = ["workflows", "history", "messages", "conversations", "payloads", "shared_payloads"];
            assert_eq!(left.map(|table| count(&db, table)), [1; 6], "the other one's, {max} at once");
            assert_eq!(count(&db, "export_queue"), 7, "four entries, and three that are gone");
        }
    }
}
