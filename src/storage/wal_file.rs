//! The file of the database's own log, to sync it and to keep room for it.
//!
//! Absent on purpose: what stands in it. SQLite writes that.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::OpenError;
use super::fault::Fault;

/// Room behind the end of the database's log that is taken from the disk before anything is acknowledged that has yet to be
/// committed, bytes; half of it is there at any time, besides what was acknowledged.
const ROOM: u64 = 16 << 20;

/// Bytes of it that are written again at once.
const AT_ONCE: usize = 256 << 10;

/// The database's log, to sync it, whoever wrote it, and to keep room for it.
pub(super) struct WalFile(File);

impl WalFile {
    pub fn open(database: &Path) -> Result<Self, OpenError> {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        match File::options().read(true).write(true).open(&path) {
            Ok(file) => Ok(Self(file)),
            Err(error) => Err(OpenError::Io { path: path.into(), error }),
        }
    }

    /// Makes durable what was written, whoever wrote it.
    ///
    /// # Errors
    /// A sync that failed.
    pub fn sync(&self) -> Result<(), Fault> {
        synced(self.0.sync_data())
    }

    /// Writes what stands in it once more, and syncs it.
    ///
    /// A sync that failed in the last process may have left in the system's memory alone what can be read, and no later sync
    /// would say so; of what was written since then it does. (Rebello et al., Can Applications Recover from fsync Failures?,
    /// USENIX ATC 2020.)
    ///
    /// # Errors
    /// A sync that failed.
    pub fn sync_again(&self) -> Result<(), Fault> {
        synced(self.write_again().and_then(|()| self.0.sync_data()))
    }

    fn write_again(&self) -> io::Result<()> {
        let (mut bytes, mut at) = (vec![0; AT_ONCE], 0);
        loop {
            let read = self.0.read_at(&mut bytes, at)?;
            if read == 0 {
                return Ok(());
            }
            self.0.write_all_at(&bytes[..read], at)?;
            at += read as u64;
        }
    }

    /// Whether this many bytes more can be committed, however full the disk gets. A file system that cannot promise room is
    /// believed to have it.
    pub fn has_room(&self, bytes: u64) -> bool {
        let Ok(now) = self.0.metadata() else { return false };
        let end = now.len() + bytes;
        // As the file system has it: a log that is cut short loses its room.
        if end + ROOM / 2 <= now.blocks() * 512 {
            return true;
        }
        match rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, end + ROOM) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => true,
            Err(_) => false,
        }
    }
}

fn synced(done: io::Result<()>) -> Result<(), Fault> {
    done.map_err(|error| Fault::failed(format!("the log of the database was not synced: {error}")))
}
