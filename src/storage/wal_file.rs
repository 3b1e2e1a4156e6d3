//! The file of the database's own log, to sync it and to keep room for it.
//!
//! Absent on purpose: what stands in it. SQLite writes that.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use fleet_actors::ports::StoreError;

use super::fault::Fault;
use super::{OpenError, beside, is_without_room};

/// Room behind the end of the database's log that is taken from the disk before anything is acknowledged that has yet to be
/// committed, bytes; half of it is there at any time, besides what was acknowledged.
const ROOM: u64 = 16 << 20;

/// Bytes of it that are written again at once.
const AT_ONCE: usize = 256 << 10;

/// The database's log, to sync it, whoever wrote it, and to keep room for it.
pub(super) struct WalFile {
    file: File,
    /// SQLite's index of it. Never opened: to close it again would give up SQLite's locks on it.
    index: PathBuf,
}

impl WalFile {
    pub fn open(database: &Path) -> Result<Self, OpenError> {
        let (path, index) = (beside(database, "-wal"), beside(database, "-shm"));
        match File::options().read(true).write(true).open(&path) {
            Ok(file) => Ok(Self { file, index }),
            Err(error) => Err(OpenError::Io { path, error }),
        }
    }

    /// Gives the room behind its end back, which the last process kept for what it acknowledged.
    pub fn give_back(database: &Path) {
        let log = File::options().write(true).open(beside(database, "-wal"));
        // It is for want of room that it is asked, and there is no harm in a log without that room.
        let _ = log.and_then(|log| log.set_len(log.metadata()?.len()));
    }

    /// Makes durable what was written, whoever wrote it.
    ///
    /// # Errors
    /// A sync that failed.
    pub fn sync(&self) -> Result<(), Fault> {
        synced(self.file.sync_data())
    }

    /// Writes what stands in it once more, and syncs it.
    ///
    /// A sync that failed in the last process may have left in the system's memory alone what can be read, and no later sync
    /// would say so; of what was written since then it does. (Rebello et al., Can Applications Recover from fsync Failures?,
    /// USENIX ATC 2020.)
    ///
    /// # Errors
    /// A sync that failed, or a write that was refused.
    pub fn sync_again(&self) -> Result<(), Fault> {
        self.write_again().map_err(|error| {
            Fault(if is_without_room(&error) { StoreError::Full } else { StoreError::Unwritable(error.to_string()) })
        })?;
        self.sync()
    }

    fn write_again(&self) -> io::Result<()> {
        let (mut bytes, mut at) = (vec![0; AT_ONCE], 0);
        loop {
            let read = self.file.read_at(&mut bytes, at)?;
            if read == 0 {
                return Ok(());
            }
            self.file.write_all_at(&bytes[..read], at)?;
            at += read as u64;
        }
    }

    /// Whether this many bytes more can be committed, however full the disk gets. A file system that cannot promise room is
    /// believed to have it.
    pub fn has_room(&self, bytes: u64) -> bool {
        let Ok(now) = self.file.metadata() else { return false };
        let end = now.len() + bytes;
        // The index must not have to grow either; it does so with the group that finds too little.
        if self.index.metadata().is_ok_and(|index| index.len() < index_bytes(end)) {
            return false;
        }
        // As the file system has it: a log that is cut short loses its room.
        if end + ROOM / 2 <= now.blocks() * 512 {
            return true;
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, end + ROOM) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => true,
            Err(_) => false,
        }
    }
}

/// Bytes of the index of a log of so many bytes: 32 KiB for 4,096 pages, of which the first part has 34 fewer
/// (<https://www.sqlite.org/walformat.html>).
fn index_bytes(log: u64) -> u64 {
    let pages = log / (4_096 + 24);
    (1 + pages.saturating_sub(4_062).div_ceil(4_096)) * (32 << 10)
}

fn synced(done: io::Result<()>) -> Result<(), Fault> {
    done.map_err(|error| Fault::failed(format!("the log of the database was not synced: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_log_has_room_for_as_many_pages_as_sqlite_says() {
        let bytes = |pages: u64| index_bytes(32 + pages * 4_120) >> 10;
        assert_eq!([bytes(0), bytes(1), bytes(4_062)], [32; 3]);
        assert_eq!([bytes(4_063), bytes(4_062 + 4_096)], [64; 2]);
        assert_eq!(bytes(4_063 + 4_096), 96);
    }
}
