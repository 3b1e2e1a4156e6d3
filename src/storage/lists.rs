//! Reading what is neither a journal nor history: workflows, inboxes, conversations and their messages.
//!
//! A row that cannot be read is an error where it was asked for by name; a list leaves it out and logs it, so that one
//! damaged row cannot keep the others from being adopted or shown.

use fleet_actors::ids::{ConversationId, RequestId, Timestamp, WorkflowId};
use fleet_actors::ports::{
    Command, ConversationRow, MessageRow, QuestionFilter, QuestionRow, RequestRow, StoreError, WorkflowFilter,
    WorkflowRow,
};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use super::columns::{self, MESSAGE, QUESTION, WORKFLOW, from_json};
use super::fault::Fault;

pub(super) fn workflow(db: &Connection, id: &WorkflowId) -> Result<Option<WorkflowRow>, Fault> {
    let mut find = db.prepare_cached(&format!("{WORKFLOW} WHERE w.id = ?1 AND w.hidden = 0"))?;
    let found = find.query_row([id.as_str()], columns::workflow).optional();
    found.map_err(|error| match Fault::from(error) {
        Fault(StoreError::Damaged(what)) => Fault::damaged(format!("workflow {id}: {what}")),
        fault @ Fault(
            StoreError::Full | StoreError::Unwritable(_) | StoreError::Failed(_) | StoreError::Unavailable(_),
        ) => fault,
    })
}

pub(super) fn workflows(db: &Connection, filter: &WorkflowFilter) -> Result<Vec<WorkflowRow>, Fault> {
    // By its own index: what is over may be a million rows.
    let unfinished = if filter.unfinished {
        "AND w.num IN (SELECT num FROM lives INDEXED BY lives_unfinished WHERE ended_at IS NULL)"
    } else {
        ""
    };
    let tail = "w.hidden = 0 AND w.child_of IS NULL AND w.tenant = 'local'";
    match &filter.conversation {
        Some(conversation) => list(
            db,
            &format!("{WORKFLOW} WHERE {tail} AND w.conversation = ?1 {unfinished} ORDER BY w.id DESC LIMIT ?2"),
            params![conversation.as_str(), filter.limit],
            columns::workflow,
        ),
        None => list(
            db,
            &format!("{WORKFLOW} WHERE {tail} {unfinished} ORDER BY w.id DESC LIMIT ?1"),
            params![filter.limit],
            columns::workflow,
        ),
    }
}

/// Three indexes find the candidates: those that an earlier opening left running, those whose time has come, and those
/// with something in their inbox.
pub(super) fn adoptable(db: &Connection, opening: i64, now: Timestamp, max: u32) -> Result<Vec<WorkflowRow>, Fault> {
    list(
        db,
        &format!(
            "{WORKFLOW} WHERE w.hidden = 0 AND w.child_of IS NULL AND w.num IN (\
             SELECT num FROM lives WHERE state = 'running' AND ended_at IS NULL AND opening < ?1 \
             UNION SELECT num FROM lives WHERE state = 'running' AND ended_at IS NULL AND opening > ?1 \
             UNION SELECT num FROM lives WHERE state = 'parked' AND wake_at <= ?2 \
             UNION SELECT num FROM lives WHERE state = 'parked' AND num IN (SELECT workflow FROM inbox)) \
             ORDER BY w.created_at, w.id LIMIT ?3"
        ),
        params![opening, now.0, max],
        columns::workflow,
    )
}

/// Those that are due, the new ones among them, and those that ran when an earlier process died. The index gives either kind in its
/// order, so a page costs the same however many wait behind it.
pub(super) fn adoptable_children(
    db: &Connection,
    opening: i64,
    now: Timestamp,
    max: u32,
) -> Result<Vec<WorkflowRow>, Fault> {
    let waiting = "SELECT c.num FROM lives c INDEXED BY lives_children JOIN workflows v ON v.num = c.num AND v.hidden = 0 \
                   WHERE c.child = 1 AND c.ended_at IS NULL";
    list(
        db,
        &format!(
            "{WORKFLOW} WHERE w.num IN (\
             SELECT num FROM ({waiting} AND c.state = 'parked' AND c.wake_at <= ?2 ORDER BY c.wake_at LIMIT ?3) UNION ALL \
             SELECT num FROM ({waiting} AND c.state = 'running' AND c.wake_at IS NULL AND c.opening <> ?1 \
             ORDER BY c.num LIMIT ?3)) \
             ORDER BY w.created_at, w.id LIMIT ?3"
        ),
        params![opening, now.0, max],
        columns::workflow,
    )
}

/// The index of open questions gives the longest waiting first; those of one workflow are found by their key, for an answer
/// looks for its question among all that are open.
pub(super) fn questions(db: &Connection, filter: &QuestionFilter) -> Result<Vec<QuestionRow>, Fault> {
    let of_one = match &filter.workflow {
        Some(_) => "q.workflow = (SELECT num FROM workflows WHERE id = ?1)",
        None => "?1 IS NULL",
    };
    list(
        db,
        &format!(
            "{QUESTION} WHERE q.state = 'open' AND q.question IS NOT NULL AND w.hidden = 0 AND {of_one} \
             AND (?2 IS NULL OR w.conversation = ?2) AND (?3 IS NULL OR q.request = ?3) \
             AND (?4 IS NULL OR q.request_type = ?4) ORDER BY q.asked_at, q.request LIMIT ?5 OFFSET ?6"
        ),
        params![
            filter.workflow.as_ref().map(|id| id.as_str()),
            filter.conversation.as_ref().map(|id| id.as_str()),
            filter.request.as_ref().map(|id| id.as_str()),
            filter.request_type,
            filter.limit,
            filter.offset.min(i64::MAX as u64),
        ],
        columns::question,
    )
}

/// Looks at every question there is: nobody but a person who asks for one by its id alone comes here.
pub(super) fn askers(db: &Connection, request: &RequestId) -> Result<Vec<WorkflowId>, Fault> {
    list(
        db,
        "SELECT w.id FROM questions q JOIN workflows w ON w.num = q.workflow \
         WHERE q.request = ?1 AND w.hidden = 0 ORDER BY w.id DESC",
        params![request.as_str()],
        |row| row.get(0).map(|id: String| WorkflowId::from_trusted(id)),
    )
}

pub(super) fn next_wake(db: &Connection) -> Result<Option<Timestamp>, Fault> {
    let mut find = db.prepare_cached("SELECT min(wake_at) FROM lives WHERE state = 'parked' AND child = 0")?;
    let at: Option<i64> = find.query_row([], |row| row.get(0))?;
    Ok(at.map(Timestamp))
}

pub(super) fn inbox(db: &Connection, id: &WorkflowId) -> Result<Vec<Command>, Fault> {
    let mut find = db.prepare_cached(
        "SELECT i.command FROM inbox i JOIN workflows w ON w.num = i.workflow \
         WHERE w.id = ?1 AND w.hidden = 0 ORDER BY i.num",
    )?;
    let mut rows = find.query([id.as_str()])?;
    let mut commands = Vec::new();
    while let Some(row) = rows.next()? {
        let command: String = row.get(0)?;
        let command = from_json(command.as_bytes());
        commands.push(command.map_err(|e| Fault::damaged(format!("workflow {id}: a posted command: {e}")))?);
    }
    Ok(commands)
}

pub(super) fn request(db: &Connection, key: &str) -> Result<Option<RequestRow>, Fault> {
    let mut find = db.prepare_cached("SELECT workflow, digest FROM requests WHERE tenant = 'local' AND key = ?1")?;
    let found = find.query_row([key], |row| {
        let workflow = WorkflowId::from_trusted(row.get::<_, String>(0)?);
        Ok(RequestRow { workflow, digest: row.get::<_, String>(1)?.into() })
    });
    Ok(found.optional()?)
}

/// Conversations with their last message, found without looking at the others.
const CONVERSATION: &str = "FROM conversations c \
     LEFT JOIN messages m ON m.num = (SELECT max(num) FROM messages WHERE conversation = c.num) \
     WHERE c.tenant = 'local'";

pub(super) fn conversation(db: &Connection, id: &ConversationId) -> Result<Option<ConversationRow>, Fault> {
    let mut find = db.prepare_cached(&format!(
        "SELECT c.id, c.title, c.created_at, c.updated_at, {MESSAGE} {CONVERSATION} AND c.id = ?1"
    ))?;
    Ok(find.query_row([id.as_str()], columns::conversation).optional()?)
}

pub(super) fn conversations(db: &Connection, limit: u32, offset: u64) -> Result<Vec<ConversationRow>, Fault> {
    list(
        db,
        &format!(
            "SELECT c.id, c.title, c.created_at, c.updated_at, {MESSAGE} {CONVERSATION} \
             ORDER BY c.updated_at DESC, c.id DESC LIMIT ?1 OFFSET ?2"
        ),
        params![limit, offset.min(i64::MAX as u64)],
        columns::conversation,
    )
}

pub(super) fn messages(
    db: &Connection,
    id: &ConversationId,
    limit: u32,
    except: Option<&WorkflowId>,
) -> Result<Vec<MessageRow>, Fault> {
    let mut newest = list(
        db,
        &format!(
            "SELECT {MESSAGE} FROM messages m JOIN conversations c ON c.num = m.conversation \
             WHERE c.tenant = 'local' AND c.id = ?1 AND (?2 IS NULL OR m.workflow IS NOT ?2) \
             ORDER BY m.num DESC LIMIT ?3"
        ),
        params![id.as_str(), except.map(|id| id.as_str()), limit],
        |row| columns::message(row, 0),
    )?;
    newest.reverse();
    Ok(newest)
}

fn list<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Fault> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match read(row) {
            Ok(value) => found.push(value),
            Err(error) => tracing::error!(%error, "a stored row is unreadable and was left out of a list"),
        }
    }
    Ok(found)
}
