//! How a store is opened.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::settings::{Durability, StorageSettings, data_dir as names};

/// Where a store lives and what bounds it. Defaults are those of the settings.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The database; its directory is made if there is none.
    pub database: PathBuf,
    /// The file that is given up when a removal finds the disk full.
    pub reserve: PathBuf,
    /// Its size in bytes; 0 keeps none.
    pub reserve_bytes: u64,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// Threads that read.
    pub readers: NonZeroUsize,
    /// A read of a journal ends its page after this long.
    pub read_timeout: Duration,
    /// A read that has no answer after this long is refused.
    pub read_patience: Duration,
    /// New pages of 4 KiB in the log at which the writer checkpoints under load.
    pub wal_pages_max: u32,
    /// Bytes of log above which new reads wait for a truncating checkpoint.
    pub wal_bytes_max: u64,
    /// Pages that the database may have; above them the store is full. `None` leaves it to the disk.
    pub pages_max: Option<u32>,
    /// Appends and bytes of one transaction.
    pub group: (usize, usize),
}

impl SqliteOptions {
    /// The defaults in a data directory.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self {
            database: data_dir.join(names::DATABASE),
            reserve: data_dir.join(names::RESERVE),
            reserve_bytes: 16 << 20,
            durability: Durability::Power,
            readers: NonZeroUsize::MIN.saturating_add(1),
            read_timeout: Duration::from_millis(50),
            read_patience: Duration::from_secs(10),
            wal_pages_max: 4_000,
            wal_bytes_max: 64 << 20,
            pages_max: None,
            group: (64, 1 << 20),
        }
    }
}

impl From<&StorageSettings> for SqliteOptions {
    fn from(settings: &StorageSettings) -> Self {
        Self {
            database: settings.database_file(),
            reserve_bytes: settings.reserve_bytes.get(),
            durability: settings.durability,
            read_timeout: settings.read_timeout_ms.duration(),
            wal_pages_max: settings.wal_pages_max.as_u32(),
            wal_bytes_max: settings.wal_bytes_max.get(),
            group: (settings.batch_asks_max.as_usize(), settings.batch_bytes_max.as_usize()),
            ..Self::new(&settings.data_dir)
        }
    }
}
