//! What is kept, where, how safely and how long.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::places::{Place, beside, resolved};
use super::units::{Bytes, Count, Millis};

/// What stands in a data directory, by name. A path of the settings that leads to one of these is refused.
pub mod data_dir {
    use std::path::{Path, PathBuf};

    /// The database, unless it is elsewhere.
    pub const DATABASE: &str = "fleet.db";
    /// Held by the process that writes.
    pub const LOCK: &str = "lock";
    /// Given up when the disk is full.
    pub const RESERVE: &str = "reserve";
    /// What tools of MCP servers looked like when they were first seen.
    pub const PINS: &str = "mcp-tools.json";
    /// A directory: the files that runs made.
    pub const ARTIFACTS: &str = "artifacts";
    /// A directory: where code runs. What stands in it is removed.
    pub const SCRATCH: &str = "scratch";

    /// What is to take the place of `pins`.
    #[must_use]
    pub fn next_pins(pins: &Path) -> PathBuf {
        pins.with_extension("json.new")
    }
}

/// What an acknowledged commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Loss of power: every commit is synced before it is acknowledged.
    Power,
    /// The death of the process: the kernel has the bytes.
    Process,
}

/// What the store and the history export need. Keys, units and defaults: `config/workflow_config.yaml`, section
/// `storage`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageSettings {
    /// The one directory that is written to, unless a path below says otherwise.
    pub data_dir: PathBuf,
    /// What an acknowledged commit survives.
    pub durability: Durability,
    /// The database; see [`database_file`](Self::database_file).
    pub database_path: Option<PathBuf>,
    /// The history export; see [`history_file`](Self::history_file).
    pub history_path: Option<PathBuf>,
    /// How long journals of ended runs stay.
    pub journal_retention_days: Count<1, 36_500>,
    /// How long history entries stay; none means for ever.
    pub history_retention_days: Option<Count<1, 36_500>>,
    /// How long a request key finds the run it started.
    pub request_key_retention_hours: Count<1, 8_760>,
    /// The size at which the history export is rotated.
    pub history_file_bytes_max: Bytes<65_536, 4_294_967_295>,
    /// Appends that may wait for the writer.
    pub queue_asks_max: Count<1, 1_048_576>,
    /// Appends in one group that is synced together.
    pub batch_asks_max: Count<1, 4_096>,
    /// Bytes in one such a group.
    pub batch_bytes_max: Bytes<4_096, 268_435_456>,
    /// Pages of 4 KiB in the write-ahead log at which the writer checkpoints.
    pub wal_pages_max: Count<100, 1_000_000>,
    /// Write-ahead log above which new reads wait for a truncating checkpoint.
    pub wal_bytes_max: Bytes<1_048_576, 4_294_967_295>,
    /// How long one read may hold its snapshot.
    pub read_timeout_ms: Millis<1, 60_000>,
    /// A file given up when the disk is full, so that deleting and starting are possible.
    pub reserve_bytes: Bytes<0, 1_073_741_824>,
    /// Between two probe writes while the disk is full.
    pub probe_interval_ms: Millis<10, 60_000>,
    /// Between two sweeps of what is past its retention.
    pub sweep_interval_ms: Millis<10, 86_400_000>,
    /// Rows that one sweep deletes in one transaction.
    pub sweep_rows_max: Count<1, 100_000>,
}

impl StorageSettings {
    /// The database's file.
    #[must_use]
    pub fn database_file(&self) -> PathBuf {
        self.database_path.clone().unwrap_or_else(|| self.data_dir.join(data_dir::DATABASE))
    }

    /// The history export's file.
    #[must_use]
    pub fn history_file(&self) -> PathBuf {
        self.history_path.clone().unwrap_or_else(|| self.data_dir.join("logs").join("execution_history.jsonl"))
    }

    /// The lock that whoever writes the database holds, from whichever data directory. It depends on the database alone:
    /// beside one with the name that a data directory gives it, the lock of that data directory, else one of its own.
    #[must_use]
    pub fn database_lock(&self) -> PathBuf {
        let database = resolved(&self.database_file());
        match database.file_name() {
            Some(name) if name == data_dir::DATABASE => database.with_file_name(data_dir::LOCK),
            Some(_) | None => beside(&database, ".lock"),
        }
    }

    /// The same, if it is not the data directory's.
    #[must_use]
    pub fn own_database_lock(&self) -> Option<PathBuf> {
        let of_directory = Place::of(&self.data_dir.join(data_dir::LOCK));
        Some(self.database_lock()).filter(|lock| !Place::of(lock).is(&of_directory))
    }
}

/// Where a history file's successor is written.
pub(crate) fn history_rewrite(history: &Path) -> PathBuf {
    history.with_extension("jsonl.new")
}

/// The number of `path`, if it is called as a history file that was put aside.
pub(crate) fn history_number(history: &Path, path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let rest = name.strip_prefix(history.file_stem()?.to_str()?)?.strip_prefix('.')?;
    rest.strip_suffix(".jsonl")?.parse().ok()
}
