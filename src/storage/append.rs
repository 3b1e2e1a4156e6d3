//! Judging an append, and writing it.
//!
//! Every refusal is decided before anything of its append is written, so one refused append leaves the others of its
//! transaction alone. Appends of one workflow in one batch see each other.

use fleet_actors::ids::{Epoch, Position, Timestamp, WorkflowId};
use fleet_actors::ports::{
    Append, Claim, ConversationRow, HistoryRow, MessageRow, NewChild, NewWorkflow, Next, OpenedQuestion, Outcome,
    Quality, RecordRow, Rest, StoreError,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::columns::to_text;
use super::fault::Fault;
use super::history;
use super::record::{FORMAT, INLINE_BYTES, Scope, seal};

/// What the writer knows of the world when it writes.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// Which opening of the store this is.
    pub opening: i64,
    /// Now.
    pub now: Timestamp,
}

/// A workflow that may be appended to.
struct Place {
    num: i64,
    root: i64,
    /// It runs already, by the word of this opening.
    runs_here: bool,
}

/// What becomes of an append, without writing it. Whoever judges several must know that none changes what another stands on.
pub(super) fn foresee(db: &Connection, append: &Append, at: Moment) -> Result<Foreseen, Fault> {
    Ok(match judge(db, append, at)? {
        Verdict::Refused(outcome) => Foreseen::Refused(outcome),
        Verdict::Known(_) | Verdict::New(_) => Foreseen::Written(Outcome::Done { head: head_of(append) }),
    })
}

/// What will become of an append.
pub(super) enum Foreseen {
    /// It is not written, or was before.
    Refused(Outcome),
    /// It will be written.
    Written(Outcome),
}

fn head_of(append: &Append) -> Position {
    append.records.last().map_or(append.after, |record| record.position)
}

/// Judges and writes one append within the open transaction.
pub(super) fn append(db: &Connection, append: &Append, at: Moment) -> Result<Outcome, Fault> {
    let place = match judge(db, append, at)? {
        Verdict::Refused(outcome) => return Ok(outcome),
        Verdict::Known(place) => place,
        Verdict::New(made) => create(db, &append.claim, made, at)?,
    };
    let id = append.claim.workflow.as_str();
    insert_records(db, &place, id, &append.records)?;
    for message in &append.messages {
        insert_message(db, message)?;
    }
    for opened in &append.opened {
        insert_question(db, place.num, opened)?;
    }
    for request in &append.closed {
        db.prepare_cached(
            "INSERT INTO questions (workflow, request, expires_at, state) VALUES (?1, ?2, 0, 'closed') \
             ON CONFLICT DO UPDATE SET state = 'closed', question = NULL",
        )?
        .execute(params![place.num, request.as_str()])?;
        db.prepare_cached("DELETE FROM inbox WHERE workflow = ?1 AND request = ?2")?
            .execute(params![place.num, request.as_str()])?;
    }
    let head = head_of(append);
    move_on(db, &place, append, head, at)?;
    if let Next::Ended(row) = &append.next {
        db.prepare_cached("DELETE FROM inbox WHERE workflow = ?1")?.execute([place.num])?;
        db.prepare_cached(
            "UPDATE questions SET state = 'closed', question = NULL WHERE workflow = ?1 AND state <> 'closed'",
        )?
        .execute([place.num])?;
        match parent_of(db, place.num)? {
            Some(parent) => end_child(db, &parent, row)?,
            None => history::insert(db, row)?,
        }
    }
    for child in &append.children {
        bear(db, child, at)?;
    }
    Ok(Outcome::Done { head })
}

/// Writes an append that was acknowledged, and may be written already.
pub(super) fn again(db: &Connection, one: &Append, at: Moment) -> Result<(), Fault> {
    let outcome = append(db, one, at)?;
    if !matches!(outcome, Outcome::Done { .. }) {
        tracing::error!(workflow = %one.claim.workflow, ?outcome, "an append that was acknowledged does not fit the store");
    }
    Ok(())
}

enum Verdict<'a> {
    Refused(Outcome),
    Known(Place),
    New(&'a NewWorkflow),
}

fn judge<'a>(db: &Connection, append: &'a Append, at: Moment) -> Result<Verdict<'a>, Fault> {
    let id = append.claim.workflow.as_str();
    let mut find = db.prepare_cached(
        "SELECT w.num, w.root, l.epoch, l.head, l.ended_at IS NOT NULL OR w.hidden, l.state = 'running' AND l.opening = ?2 \
         FROM workflows w JOIN lives l USING (num) WHERE w.id = ?1",
    )?;
    let known = find.query_row(params![id, at.opening], |row| {
        let place = Place { num: row.get(0)?, root: row.get(1)?, runs_here: row.get(5)? };
        Ok((place, Epoch(row.get(2)?), Position(row.get(3)?), row.get::<_, bool>(4)?))
    });
    let Some((place, epoch, head, over)) = known.optional()? else { return judge_first(db, append) };
    let claimed = append.claim.epoch;
    if claimed == epoch
        && let (Some(first), Some(last)) = (append.records.first(), append.records.last())
        && last.position == head
        && is_written(db, &place, id, last)?
        && is_written(db, &place, id, first)?
    {
        return Ok(Verdict::Refused(Outcome::Done { head }));
    }
    if over || claimed < epoch {
        return Ok(Verdict::Refused(Outcome::Fenced { epoch }));
    }
    if append.after != head || !is_dense(append) {
        return Ok(Verdict::Refused(Outcome::Gap { head }));
    }
    let begins = append.records.first().is_some_and(|record| &*record.kind == "began");
    if claimed > epoch && !begins {
        return Ok(Verdict::Refused(Outcome::Fenced { epoch }));
    }
    Ok(Verdict::Known(place))
}

fn judge_first<'a>(db: &Connection, append: &'a Append) -> Result<Verdict<'a>, Fault> {
    let Some(made) = append.create.as_deref() else { return Ok(Verdict::Refused(Outcome::Unknown)) };
    if append.after != Position(0) || !is_dense(append) {
        return Ok(Verdict::Refused(Outcome::Gap { head: Position(0) }));
    }
    if let Some(asked) = &made.request {
        let mut find =
            db.prepare_cached("SELECT workflow, digest FROM requests WHERE tenant = 'local' AND key = ?1")?;
        let given = find.query_row([&asked.key], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
        if let Some((workflow, digest)) = given.optional()? {
            let workflow = WorkflowId::from_trusted(workflow);
            return Ok(Verdict::Refused(Outcome::Duplicate { workflow, same_body: *digest == *asked.digest }));
        }
    }
    Ok(Verdict::New(made))
}

/// Whether the records follow `after` without a hole and belong to the life that brings them.
fn is_dense(append: &Append) -> bool {
    let places = (append.after.0 + 1..).map(Position);
    append.records.iter().zip(places).all(|(record, at)| record.position == at && record.epoch == append.claim.epoch)
}

/// Whether this very record is written already. An append whose last record is at the head and whose first, which names
/// its owner when it begins a life, is written too was durable, and only its answer was lost. The last alone does not
/// tell: two owners that take one epoch may end alike.
fn is_written(db: &Connection, place: &Place, id: &str, record: &RecordRow) -> Result<bool, Fault> {
    let mut find = db.prepare_cached("SELECT checksum FROM journal WHERE workflow = ?1 AND position = ?2")?;
    let stored: Option<u32> = find.query_row(params![place.num, record.position.0], |row| row.get(0)).optional()?;
    Ok(stored == Some(seal(id, record).checksum))
}

fn create(db: &Connection, claim: &Claim, made: &NewWorkflow, at: Moment) -> Result<Place, Fault> {
    if let Some(conversation) = &made.conversation {
        db.prepare_cached(
            "INSERT INTO conversations (id, created_at, updated_at) VALUES (?1, ?2, ?2) ON CONFLICT DO NOTHING",
        )?
        .execute(params![conversation.as_str(), made.created_at.0])?;
    }
    if let Some(asked) = &made.request {
        db.prepare_cached("INSERT INTO requests (key, workflow, digest, given_at) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![asked.key, claim.workflow.as_str(), asked.digest, made.created_at.0])?;
    }
    let mut insert = db.prepare_cached(
        "INSERT INTO workflows (id, root, name, version, conversation, task, effort, request_key, request_digest, \
         on_disconnect, created_at, child_of) VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    let num = insert.insert(params![
        claim.workflow.as_str(),
        made.name,
        made.version,
        made.conversation.as_ref().map(|id| id.as_str()),
        made.task,
        made.effort.as_ref().map(to_text),
        made.request.as_ref().map(|asked| &asked.key),
        made.request.as_ref().map(|asked| &asked.digest),
        to_text(&made.on_disconnect),
        made.created_at.0,
        made.child_of.as_ref().map(|id| id.as_str()),
    ])?;
    db.prepare_cached("UPDATE workflows SET root = num WHERE num = ?1")?.execute([num])?;
    db.prepare_cached(
        "INSERT INTO lives (num, epoch, head, runtime_ms, state, opening, updated_at, child) \
         VALUES (?1, ?2, 0, 0, 'running', ?3, ?4, ?5)",
    )?
    .execute(params![num, claim.epoch.0, at.opening, at.now.0, made.child_of.is_some()])?;
    Ok(Place { num, root: num, runs_here: true })
}

fn insert_records(db: &Connection, place: &Place, id: &str, records: &[RecordRow]) -> Result<(), Fault> {
    let mut insert = db.prepare_cached(
        "INSERT INTO journal (workflow, position, epoch, seq, format, kind, path, head, body, body_hash, scope, checksum) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    for record in records {
        let seal = seal(id, record);
        let bytes = record.body.as_ref().map(|body| &*body.bytes);
        let (inline, hash) = match (bytes, seal.body_hash) {
            (Some(bytes), Some(hash)) if bytes.len() > INLINE_BYTES => {
                keep_payload(db, place, &hash, bytes, seal.scope)?;
                (None, Some(hash))
            }
            (bytes, _) => (bytes, None),
        };
        insert.execute(params![
            place.num,
            record.position.0,
            record.epoch.0,
            record.seq.map(|seq| seq.0),
            FORMAT,
            record.kind,
            record.path,
            record.head,
            inline,
            hash,
            seal.scope as u8,
            seal.checksum,
        ])?;
    }
    Ok(())
}

fn keep_payload(db: &Connection, place: &Place, hash: &[u8], bytes: &[u8], scope: Scope) -> Result<(), Fault> {
    if scope == Scope::Everybody {
        // Nearly every run is pinned to what is there already, and it is large: it is not even bound then.
        let mut find = db.prepare_cached("SELECT 1 FROM shared_payloads WHERE tenant = 'local' AND hash = ?1")?;
        if !find.exists([hash])? {
            db.prepare_cached("INSERT INTO shared_payloads (hash, bytes) VALUES (?1, ?2)")?
                .execute(params![hash, bytes])?;
        }
        db.prepare_cached("INSERT INTO shared_refs (hash, workflow) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute(params![hash, place.num])?;
    } else {
        db.prepare_cached("INSERT INTO payloads (root, hash, bytes) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
            .execute(params![place.root, hash, bytes])?;
    }
    Ok(())
}

fn insert_question(db: &Connection, workflow: i64, opened: &OpenedQuestion) -> Result<(), Fault> {
    let question = &opened.question;
    let text = serde_json::to_string(question).map_err(|e| Fault::damaged(format!("a question: {e}")))?;
    db.prepare_cached(
        "INSERT INTO questions (workflow, request, expires_at, state, asked_at, request_type, question) \
         VALUES (?1, ?2, ?3, 'open', ?4, ?5, ?6) ON CONFLICT DO NOTHING",
    )?
    .execute(params![
        workflow,
        question.request_id.as_str(),
        question.expires_at.0,
        opened.asked_at.0,
        question.request_type,
        text,
    ])?;
    Ok(())
}

fn quality_json(quality: &Quality) -> String {
    serde_json::to_string(quality).unwrap_or_default()
}

fn parent_of(db: &Connection, num: i64) -> Result<Option<String>, Fault> {
    let mut find = db.prepare_cached("SELECT child_of FROM workflows WHERE num = ?1")?;
    Ok(find.query_row([num], |row| row.get(0)).optional()?.flatten())
}

/// The entry of a child's parent; none if it was deleted meanwhile, or cannot be read: the child's own end is to be kept.
fn entry_of_parent(db: &Connection, parent: &str) -> Result<Option<HistoryRow>, Fault> {
    match history::entry(db, &WorkflowId::from_trusted(parent)) {
        Err(Fault(StoreError::Damaged(what))) => {
            tracing::error!(%parent, what, "the entry of a parent is left as it is");
            Ok(None)
        }
        found => found,
    }
}

/// Changes the message and the entry of a child's parent.
fn end_child(db: &Connection, parent: &str, child: &HistoryRow) -> Result<(), Fault> {
    db.prepare_cached("UPDATE messages SET quality = ?2 WHERE workflow = ?1 AND quality IS NOT NULL")?
        .execute(params![parent, child.quality.as_ref().map(quality_json)])?;
    let Some(mut entry) = entry_of_parent(db, parent)? else { return Ok(()) };
    entry.take_child(child);
    history::insert(db, &entry)
}

/// A child that will not go on by itself says nothing more of its parent: nobody waits for its word any longer. Should it
/// end after all, its end counts.
pub(super) fn leave_parent(db: &Connection, num: i64, rest: Rest) -> Result<(), Fault> {
    if !matches!(rest, Rest::Quarantined | Rest::VersionUnavailable) {
        return Ok(());
    }
    let Some(parent) = parent_of(db, num)? else { return Ok(()) };
    let not_scored = Quality::not_scored();
    db.prepare_cached("UPDATE messages SET quality = ?2 WHERE workflow = ?1 AND quality IS NOT NULL")?
        .execute(params![parent, quality_json(&not_scored)])?;
    let Some(mut entry) = entry_of_parent(db, &parent)? else { return Ok(()) };
    entry.quality = Some(not_scored);
    history::insert(db, &entry)
}

/// Makes a child, parked and due at once.
fn bear(db: &Connection, child: &NewChild, at: Moment) -> Result<(), Fault> {
    let claim = Claim { workflow: child.workflow.clone(), epoch: Epoch(0) };
    let place = create(db, &claim, &child.made, at)?;
    insert_records(db, &place, claim.workflow.as_str(), &child.records)?;
    let head = child.records.last().map_or(0, |record| record.position.0);
    db.prepare_cached("UPDATE lives SET head = ?2, state = 'parked', wake_at = ?3 WHERE num = ?1")?
        .execute(params![place.num, head, child.made.created_at.0])?;
    Ok(())
}

fn insert_message(db: &Connection, message: &MessageRow) -> Result<(), Fault> {
    let mut find = db.prepare_cached("SELECT num FROM conversations WHERE tenant = 'local' AND id = ?1")?;
    let found = find.query_row([message.conversation.as_str()], |row| row.get(0)).optional()?;
    let Some(conversation): Option<i64> = found else { return Ok(()) };
    db.prepare_cached(
        "INSERT INTO messages (id, conversation, role, content, created_at, author, agent_id, workflow, finish_reason, quality) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
    )?
    .execute(params![
        message.id,
        conversation,
        to_text(&message.role),
        message.content,
        message.created_at.0,
        message.author,
        message.agent_id,
        message.workflow.as_ref().map(|id| id.as_str()),
        message.finish_reason.as_ref().map(to_text),
        message.quality.as_ref().map(quality_json),
    ])?;
    db.prepare_cached(
        "UPDATE conversations SET title = coalesce(title, ?2), updated_at = max(updated_at, ?3) WHERE num = ?1",
    )?
    .execute(params![conversation, ConversationRow::title_from(&message.content), message.created_at.0])?;
    Ok(())
}

fn move_on(db: &Connection, place: &Place, append: &Append, head: Position, at: Moment) -> Result<(), Fault> {
    let runtime = u64::try_from(append.runtime.as_millis()).unwrap_or(u64::MAX >> 1);
    let (id, epoch, now) = (place.num, append.claim.epoch.0, at.now.0);
    if place.runs_here && append.next == Next::Running {
        // Most appends. No column of an index is named, so no index is written.
        db.prepare_cached("UPDATE lives SET epoch = ?2, head = ?3, runtime_ms = ?4, updated_at = ?5 WHERE num = ?1")?
            .execute(params![id, epoch, head.0, runtime, now])?;
        return Ok(());
    }
    let (state, detail, wake_at, ended_at) = match &append.next {
        Next::Running => ("running", None, None, None),
        Next::Parked { wake_at } => ("parked", None, *wake_at, None),
        Next::Resting(rest) => ("resting", Some(to_text(rest)), None, None),
        Next::Ended(row) => ("ended", Some(to_text(&row.status)), None, Some(row.completed_at)),
    };
    db.prepare_cached(
        "UPDATE lives SET epoch = ?2, head = ?3, runtime_ms = ?4, state = ?5, detail = ?6, wake_at = ?7, opening = ?8, \
         ended_at = ?9, updated_at = ?10 WHERE num = ?1",
    )?
    .execute(params![
        id,
        epoch,
        head.0,
        runtime,
        state,
        detail,
        wake_at.map(|at| at.0),
        at.opening,
        ended_at.map(|at| at.0),
        now,
    ])?;
    if let Next::Resting(rest) = &append.next {
        leave_parent(db, id, *rest)?;
    }
    Ok(())
}
