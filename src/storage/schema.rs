//! Opening the database file: what is ours, what is too new, and how old data becomes today's.
//!
//! `user_version` counts the migrations that a file has seen. Each runs in a transaction of its own with its number.
//! Absent on purpose: a way back. A file that a newer binary wrote is refused.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use fleet_actors::ports::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::fault::Fault;
use super::{OpenError, beside, dir_of, is_without_room};

/// What turns a file that has seen `i` migrations into one that has seen `i + 1`.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/0001.sql"),
    include_str!("schema/0002.sql"),
    include_str!("schema/0003.sql"),
    include_str!("schema/0004.sql"),
];

/// `fLEt`: tells our files from other databases.
const APPLICATION_ID: i32 = 0x664c_4574;

/// Statements that a connection keeps prepared; more than there are.
const STATEMENTS: usize = 96;

/// Pages that the writer keeps, in KiB: more than a group of appends touches. Nobody else writes, so it loses none to others.
const WRITER_CACHE_KIB: u32 = 8_192;
/// Pages that a reader keeps, in KiB. It drops all of them at its first read behind a commit, so more would help nobody but
/// one long read, and what the allocator gave for that stays with the process. The system keeps the file's pages anyway.
const READER_CACHE_KIB: u32 = 1_024;

/// The connection that writes. Makes the file, readable by its owner alone, if there is none.
///
/// Its commits are not synced: [`Commits`](super::commits::Commits) does that.
pub(super) fn open_writer(path: &Path, pages_max: Option<u32>) -> Result<Connection, OpenError> {
    create(path)?;
    let explain = |error: rusqlite::Error| explain(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(explain)?;
    check_version(&db, path)?;
    // `busy_timeout` is how long a TRUNCATE checkpoint waits for readers.
    db.busy_timeout(Duration::from_millis(100)).map_err(explain)?;
    // Nothing is moved or removed when it closes, until it is known that everything is synced.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(explain)?;
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON; \
         PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = -1; PRAGMA cache_size = -{WRITER_CACHE_KIB};"
    ))
    .map_err(explain)?;
    if let Some(pages) = pages_max {
        db.execute_batch(&format!("PRAGMA max_page_count = {pages};")).map_err(explain)?;
    }
    keep_statements(&db).map_err(explain)?;
    migrate(&mut db, path)?;
    Ok(db)
}

/// A connection that moves the log into the database, and writes nothing else.
pub(super) fn open_mover(path: &Path) -> Result<Connection, OpenError> {
    let explain = |error: rusqlite::Error| explain(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(explain)?;
    // It needs no page but the one it moves, and must not move more when it goes.
    db.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 16;").map_err(explain)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(explain)?;
    Ok(db)
}

/// A connection that reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let explain = |error: rusqlite::Error| explain(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(explain)?;
    db.busy_timeout(Duration::from_millis(1_000)).map_err(explain)?;
    db.execute_batch(&format!("PRAGMA query_only = ON; PRAGMA cache_size = -{READER_CACHE_KIB};")).map_err(explain)?;
    keep_statements(&db).map_err(explain)?;
    let found = check_version(&db, path)?;
    if found < MIGRATIONS.len() {
        return Err(OpenError::Older { path: path.into(), found, known: MIGRATIONS.len() });
    }
    Ok(db)
}

/// Without a stable plan, SQLite prepares a statement anew for each value it is bound to, where a partial index might fit
/// one and not the other: that was two fifths of an append.
fn keep_statements(db: &Connection) -> rusqlite::Result<()> {
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn create(path: &Path) -> Result<(), OpenError> {
    let dir = dir_of(path);
    let refused = |error: io::Error| {
        let path = path.into();
        if is_without_room(&error) {
            OpenError::Store { path, error: StoreError::Full }
        } else {
            OpenError::Refused { path, why: format!("{error}; let this user make it") }
        }
    };
    std::fs::create_dir_all(dir).map_err(refused)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        // SQLite syncs the directory for the log, not for the database itself.
        Ok(_) => super::sync_dir(dir).map_err(|error| {
            let error = StoreError::Failed(format!("its directory was not synced: {error}"));
            OpenError::Store { path: path.into(), error }
        }),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

/// How many migrations the file has seen.
fn check_version(db: &Connection, path: &Path) -> Result<usize, OpenError> {
    let explain = |error: rusqlite::Error| explain(path, error);
    let pragma = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(explain);
    let found = usize::try_from(pragma("user_version")?).unwrap_or(usize::MAX);
    let owner = pragma("application_id")?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(explain)?;
    if owner != APPLICATION_ID && (tables > 0 || owner != 0 || found > 0) {
        return Err(OpenError::Foreign { path: path.into() });
    }
    if found > MIGRATIONS.len() {
        return Err(OpenError::Newer { path: path.into(), found, known: MIGRATIONS.len() });
    }
    Ok(found)
}

fn migrate(db: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let explain = |error: rusqlite::Error| explain(path, error);
    let found = check_version(db, path)?;
    for (seen, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        let tx = db.transaction().map_err(explain)?;
        tx.execute_batch(migration).map_err(explain)?;
        tx.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {};", seen + 1))
            .map_err(explain)?;
        tx.commit().map_err(explain)?;
    }
    Ok(())
}

fn explain(path: &Path, error: rusqlite::Error) -> OpenError {
    let alone = matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly));
    let fault = Fault::from(error);
    if alone && refusal(path, &fault).is_none() {
        return OpenError::Alone { path: path.into(), error: fault.0 };
    }
    explain_fault(path, fault)
}

pub(super) fn explain_fault(path: &Path, fault: Fault) -> OpenError {
    refusal(path, &fault).unwrap_or_else(|| OpenError::Store { path: path.into(), error: fault.0 })
}

/// SQLite does not say which of its files it cannot use, and not why.
fn refusal(path: &Path, fault: &Fault) -> Option<OpenError> {
    match &fault.0 {
        StoreError::Unavailable(_) | StoreError::Unwritable(_) => {
            ["", "-wal", "-shm", "-redo"].into_iter().find_map(|suffix| refused(path, suffix))
        }
        StoreError::Full | StoreError::Damaged(_) | StoreError::Failed(_) => None,
    }
}

/// Whether the system refuses a file that is there.
fn refused(database: &Path, suffix: &str) -> Option<OpenError> {
    let path = beside(database, suffix);
    // Never opened otherwise: a pipe would wait for its other end.
    let why = match path.metadata() {
        Ok(there) if !there.is_file() => Some("it is not a file; move it away".to_owned()),
        Ok(_) => match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => {
                Some(format!("{error}; let this user read and write it"))
            }
            Ok(_) | Err(_) => None,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{error}; let this user reach it")),
    };
    why.map(|why| OpenError::Refused { path, why })
}

/// Takes the next number of an opening of this store.
pub(super) fn next_opening(db: &Connection) -> Result<i64, Fault> {
    let opening = meta(db, "openings")?.unwrap_or(0) + 1;
    set_meta(db, "openings", opening)?;
    Ok(opening)
}

pub(super) fn meta(db: &Connection, key: &str) -> Result<Option<i64>, Fault> {
    let mut find = db.prepare_cached("SELECT value FROM meta WHERE tenant = 'local' AND key = ?1")?;
    Ok(find.query_row([key], |row| row.get(0)).optional()?)
}

pub(super) fn set_meta(db: &Connection, key: &str, value: i64) -> Result<(), Fault> {
    db.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value",
    )?
    .execute(params![key, value])?;
    Ok(())
}
