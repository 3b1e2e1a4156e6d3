//! The redo log: what is acknowledged and not yet synced in the database's own log.
//!
//! A group of appends changes a dozen pages and says a few kilobytes. So an acknowledgement waits for the few kilobytes, and
//! the pages of many groups are committed together. At the next start, groups that the database does not have are done again.
//!
//! Entries are numbered for ever, and stand one behind the other from the beginning of the file in pages of their own, so
//! that no later write touches a page of an acknowledged one. The database says which number it has seen; when that is
//! synced, the file begins anew. An entry counts if all before it in the file do and its checksum is right, so neither a
//! torn one nor what is left of an earlier round counts.
//!
//! An opening erases the file: the numbers of entries that were left out are given again.
//! Absent on purpose: when the database commits, and what an append means.

mod entry;
mod file;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleet_actors::ports::{Append, StoreError};
use rusqlite::{Connection, OptionalExtension as _};

use self::entry::{Bodies, Known, decode, encode};
use self::file::{CAPACITY, LogFile, PAGE, read};
use super::append::Moment;
use super::fault::Fault;
use super::kept::Kept;
use super::schema::{meta, set_meta};
use super::{OpenError, beside, dir_of, is_without_room, sync_dir};

/// Begins every entry; the digit is the version of its form.
const MAGIC: [u8; 8] = *b"FLTREDO1";
/// Magic, id of the database, number, length, checksum; then the entry.
const HEADER: usize = 8 + 8 + 8 + 8 + 4;

/// The number of the last entry that the database has seen.
const SEEN: &str = "redo_seen";
/// Tells the log of this database from that of another.
const ID: &str = "redo_id";

/// Where the log of a database lies.
pub(super) fn path_of(database: &Path) -> PathBuf {
    beside(database, "-redo")
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logged {
    /// It is durable.
    Durable,
    /// There is no room for it, or it could not be written: the database must be committed and synced instead.
    NotLogged,
}

/// The log as its only writer knows it.
pub(super) struct Redo {
    path: PathBuf,
    file: LogFile,
    id: u64,
    /// The number of the last entry.
    last: u64,
    /// The number that the database has noted, committed.
    noted: u64,
    /// Where the next one begins.
    at: usize,
    /// A write failed: a part of it, or all, may stand in the file. What came behind that would not count.
    broken: bool,
    /// Behind the last byte that may not be zero.
    used: usize,
    known: Known,
    buffer: Vec<u8>,
}

impl Redo {
    /// Opens the log of a database that is synced, and erases what stands in it; none if there is no room for it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(done: Done) -> Result<Option<Self>, OpenError> {
        let Done { path, id, last, .. } = done;
        match LogFile::open(&path) {
            Ok(file) => match synced(file.sync().and_then(|()| sync_dir(dir_of(&path)))) {
                Ok(()) => {
                    let (known, buffer) = (Known::default(), Vec::new());
                    Ok(Some(Self { path, file, id, last, noted: last, at: 0, broken: false, used: 0, known, buffer }))
                }
                Err(Fault(error)) => Err(OpenError::Store { path, error }),
            },
            Err(error) if is_without_room(&error) => {
                tracing::warn!(%error, path = %path.display(), "there is no room for the redo log: commits take longer");
                remove(&path);
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(OpenError::Refused { path, why: format!("{error}; let this user read and write it") })
            }
            Err(error) => Err(OpenError::Io { path, error }),
        }
    }

    /// Writes the appends of a group that were done, and syncs them.
    ///
    /// # Errors
    /// A sync that failed: nothing may be acknowledged any more.
    pub fn log(&mut self, appends: &[Arc<Append>], at: Moment) -> Result<Logged, Fault> {
        self.buffer.clear();
        self.buffer.resize(HEADER, 0);
        if self.broken || encode(&mut self.buffer, appends, at, &mut self.known).is_err() {
            return Ok(Logged::NotLogged);
        }
        let end = self.at + self.buffer.len().next_multiple_of(PAGE);
        if end > CAPACITY {
            // It is as large as the group was.
            self.buffer = Vec::new();
            return Ok(Logged::NotLogged);
        }
        // Whatever becomes of it now, its number and its place are used.
        self.last += 1;
        self.used = self.used.max(end);
        seal(&mut self.buffer, self.id, self.last);
        if let Err(error) = self.file.write(&self.buffer, self.at) {
            tracing::warn!(%error, "the redo log was not written: the database is synced instead");
            self.broken = true;
            return Ok(Logged::NotLogged);
        }
        synced(self.file.sync())?;
        self.at = end;
        Ok(Logged::Durable)
    }

    /// Whether the database must note the number of a write that failed, so that it is never done again.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether it is time to sync the database and begin anew.
    pub fn is_spent(&self) -> bool {
        self.broken || self.at > CAPACITY / 2
    }

    /// Notes in the database what it has seen. Part of the transaction that brings it.
    pub fn note(&self, db: &Connection) -> Result<(), Fault> {
        set_meta(db, SEEN, self.last.cast_signed())
    }

    /// That transaction was committed.
    pub fn noted(&mut self) {
        self.noted = self.last;
    }

    /// The database is synced and has everything. The first entry of a log must follow the number that the database has noted.
    pub fn begin_anew(&mut self) {
        if self.noted == self.last {
            (self.at, self.broken) = (0, false);
        }
    }

    /// The database may have lost a shared body.
    pub fn forget_known(&mut self) {
        self.known.clear();
    }

    /// Writes zeros over everything that was used since the last time, when the database has it: what was removed there must
    /// not be left here.
    ///
    /// # Errors
    /// A sync that failed: nothing may be acknowledged any more.
    pub fn scrub(&mut self) -> Result<(), Fault> {
        if self.used == 0 || self.at > 0 {
            return Ok(());
        }
        if let Err(error) = self.file.erase(self.used) {
            tracing::warn!(%error, "what was removed may still stand in the redo log");
            return Ok(());
        }
        synced(self.file.sync())?;
        self.used = 0;
        Ok(())
    }

    /// Copies the file for whoever mends the database: something that it holds could not be written there.
    ///
    /// # Errors
    /// It was not.
    pub fn set_aside(&self) -> Result<(), Fault> {
        set_aside(&self.path, self.last)
    }

    /// Removes the file, when the database has everything and is synced.
    pub fn remove(self) {
        remove(&self.path);
    }
}

fn synced(done: io::Result<()>) -> Result<(), Fault> {
    done.map_err(|error| Fault::failed(format!("the redo log was not synced: {error}")))
}

/// A database that has everything of its log, and must be synced before that is used.
pub(super) struct Done {
    path: PathBuf,
    id: u64,
    last: u64,
    gave_way: bool,
}

impl Done {
    /// Whether something of the log could not be done again.
    pub fn gave_way(&self) -> bool {
        self.gave_way
    }

    /// Removes the log, when the database is synced.
    pub fn remove(self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "the redo log was not removed");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Does again what the database has not seen, in one transaction behind that of its id, which the caller must sync before it opens the log.
///
/// # Errors
/// [`OpenError`]; nothing of the log is given up then.
pub(super) fn do_again(db: &mut Connection, database: &Path) -> Result<Done, OpenError> {
    let path = path_of(database);
    let left = read(&path).map_err(|error| OpenError::Io { path: path.clone(), error })?;
    let (id, unseen) = replay(db, &path, &left).map_err(|fault| super::schema::explain_fault(database, fault))?;
    Ok(Done { path, id, last: unseen.last, gave_way: unseen.gave_way })
}

/// Whether a database has something in its log that it has not seen itself.
pub(super) fn is_behind(db: &Connection, database: &Path) -> Result<bool, Fault> {
    let left =
        read(&path_of(database)).map_err(|error| Fault::damaged(format!("the redo log cannot be read: {error}")))?;
    let (id, seen) = (meta(db, ID)?.unwrap_or(0), meta(db, SEEN)?.unwrap_or(0));
    Ok(Entries::new(&left, id.cast_unsigned()).any(|(number, _)| number > seen.cast_unsigned()))
}

/// Does again what the database has not seen; the database's id and what that was.
fn replay(db: &mut Connection, path: &Path, left: &[u8]) -> Result<(u64, Unseen), Fault> {
    // At once: whoever reads first is not let wait for another writer.
    let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let id = match meta(&tx, ID)? {
        Some(id) => id,
        None => {
            let id = fastrand::i64(1..);
            set_meta(&tx, ID, id)?;
            id
        }
    };
    let seen = meta(&tx, SEEN)?.unwrap_or(0).cast_unsigned();
    let mut unseen = unseen(&tx, left, id.cast_unsigned(), seen)?;
    tx.commit()?;
    loop {
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let failed = unseen.kept.iter_mut().find_map(|one| one.write(&tx).err().map(|fault| (one, fault)));
        let Some((one, fault)) = failed else {
            set_meta(&tx, SEEN, unseen.last.cast_signed())?;
            if unseen.gave_way {
                // Before the database says that it has seen it.
                set_aside(path, unseen.last)?;
            }
            tx.commit()?;
            break;
        };
        if !fault.is_damaged() {
            return Err(fault);
        }
        one.give_way(&fault);
        unseen.gave_way = true;
    }
    if !unseen.kept.is_empty() {
        tracing::info!(appends = unseen.kept.len(), "what the last process acknowledged last was done again");
    }
    Ok((id.cast_unsigned(), unseen))
}

/// What the database has not seen.
struct Unseen {
    kept: Vec<Kept>,
    /// The number of the last entry.
    last: u64,
    /// Something of it cannot be written, or read.
    gave_way: bool,
}

fn unseen(db: &Connection, left: &[u8], id: u64, seen: u64) -> Result<Unseen, Fault> {
    let stored = |hash: &[u8]| shared_payload(db, hash);
    let (mut bodies, mut unseen) = (Bodies::new(&stored), Unseen { kept: Vec::new(), last: seen, gave_way: false });
    for (number, bytes) in Entries::new(left, id).filter(|(number, _)| *number > seen) {
        if number != unseen.last + 1 {
            // Somebody put an older database beside it.
            tracing::warn!(seen, number, "the redo log does not follow the database and is left out");
            break;
        }
        match decode(bytes, &mut bodies) {
            Ok((at, appends)) => unseen.kept.extend(appends.into_iter().map(|one| Kept::new(one.into(), at))),
            Err(fault) if fault.is_damaged() => {
                tracing::error!(number, error = %fault.0, "what was acknowledged in an entry of the redo log cannot be read");
                unseen.gave_way = true;
            }
            Err(fault) => return Err(fault),
        }
        unseen.last = number;
    }
    Ok(unseen)
}

/// Copies the log for whoever mends the database: something that it holds could not be written there.
///
/// # Errors
/// It was not: nothing of it may be given up then.
fn set_aside(path: &Path, last: u64) -> Result<(), Fault> {
    let aside = beside(path, &format!("-left-{last}"));
    let copied = std::fs::copy(path, &aside).and_then(|_| File::open(&aside)?.sync_all());
    match copied.and_then(|()| sync_dir(dir_of(path))) {
        Ok(()) => {
            tracing::error!(path = %aside.display(), "what was acknowledged and could not be written is kept here");
            Ok(())
        }
        Err(error) => {
            let _ = std::fs::remove_file(&aside);
            let text =
                format!("what was acknowledged and cannot be written was not kept as {}: {error}", aside.display());
            Err(Fault(if is_without_room(&error) { StoreError::Full } else { StoreError::Unavailable(text) }))
        }
    }
}

fn shared_payload(db: &Connection, hash: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut find = db.prepare_cached("SELECT bytes FROM shared_payloads WHERE tenant = 'local' AND hash = ?1")?;
    let bytes = find.query_row([hash], |row| row.get(0)).optional()?;
    bytes.ok_or_else(|| Fault::damaged("the redo log names a payload that is not stored"))
}

fn seal(entry: &mut [u8], id: u64, number: u64) {
    let length = (entry.len() - HEADER) as u64;
    entry[..8].copy_from_slice(&MAGIC);
    entry[8..16].copy_from_slice(&id.to_le_bytes());
    entry[16..24].copy_from_slice(&number.to_le_bytes());
    entry[24..32].copy_from_slice(&length.to_le_bytes());
    let checksum = checksum(&entry[..32], &entry[HEADER..]);
    entry[32..HEADER].copy_from_slice(&checksum.to_le_bytes());
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(body);
    crc.finalize()
}

/// The entries that count, with their numbers.
struct Entries<'a> {
    left: &'a [u8],
    id: u64,
    last: Option<u64>,
}

impl<'a> Entries<'a> {
    fn new(left: &'a [u8], id: u64) -> Self {
        Self { left, id, last: None }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, rest) = self.left.split_at_checked(HEADER)?;
        let word = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let (id, number, length) = (word(8)?, word(16)?, usize::try_from(word(24)?).ok()?);
        let body = rest.get(..length)?;
        let follows = self.last.is_none_or(|last| number == last + 1);
        if header[..8] != MAGIC
            || id != self.id
            || !follows
            || checksum(&header[..32], body).to_le_bytes() != header[32..]
        {
            return None;
        }
        self.left = self.left.get((HEADER + length).next_multiple_of(PAGE)..).unwrap_or_default();
        self.last = Some(number);
        Some((number, body))
    }
}

#[cfg(test)]
impl Redo {
    /// Writes to this from here on.
    pub fn swap(&mut self, file: std::fs::File) -> std::fs::File {
        self.file.swap(file)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
    use fleet_actors::ids::Timestamp;

    use super::*;

    const AT: Moment = Moment { opening: 1, now: Timestamp(0) };

    /// An empty log behind this number.
    fn empty(dir: &Path, last: u64) -> Redo {
        Redo::open(Done { path: dir.join("log"), id: 7, last, gave_way: false }).unwrap().unwrap()
    }

    fn numbers(redo: &Redo) -> Vec<u64> {
        let left = read(&redo.path).unwrap();
        Entries::new(&left, redo.id).map(|(number, _)| number).collect()
    }

    fn fail_to_log(redo: &mut Redo) {
        let writable = redo.swap(File::open(&redo.path).unwrap());
        assert_eq!(redo.log(&[], AT).unwrap(), Logged::NotLogged);
        redo.swap(writable);
    }

    #[test]
    fn behind_a_write_that_failed_nothing_is_logged_until_the_database_has_seen_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let mut redo = empty(dir.path(), 3);
        assert_eq!(redo.log(&[], AT).unwrap(), Logged::Durable);
        fail_to_log(&mut redo);
        redo.begin_anew();
        assert_eq!(redo.log(&[], AT).unwrap(), Logged::NotLogged, "the database has not noted it");
        assert_eq!(numbers(&redo), [4]);
        redo.noted();
        redo.begin_anew();
        assert_eq!(redo.log(&[], AT).unwrap(), Logged::Durable);
        assert_eq!(numbers(&redo), [redo.last]);
        assert_eq!((redo.last, redo.noted), (6, 5));
    }

    #[test]
    fn a_scrub_erases_also_what_a_write_that_failed_may_have_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut redo = empty(dir.path(), 0);
        assert_eq!(redo.log(&[], AT).unwrap(), Logged::Durable);
        fail_to_log(&mut redo);
        redo.file.write(b"a part of it", PAGE).unwrap();
        redo.scrub().unwrap();
        assert_ne!(read(&redo.path).unwrap(), vec![0; CAPACITY], "the database has not noted it");
        redo.noted();
        redo.begin_anew();
        redo.scrub().unwrap();
        assert_eq!(read(&redo.path).unwrap(), vec![0; CAPACITY]);
    }
}
