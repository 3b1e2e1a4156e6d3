//! Room that is kept for a full disk: deleting needs space, too, and so does moving the log into the database.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fleet_actors::trouble::Trouble;

/// Between two tries to take it back.
const PAUSE: Duration = Duration::from_secs(5);

/// A file of zeros that is given up when a removal finds the disk full, and lent when that keeps the log from being moved.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: bool,
    /// Not before this.
    next_try: Instant,
    /// Why there is none.
    missing: Trouble,
}

impl Reserve {
    /// The reserve at `path`; of no bytes, there is none and none is missed.
    pub fn new(path: PathBuf, bytes: u64) -> Self {
        let held = path.metadata().is_ok_and(|file| file.len() == bytes);
        Self { path, bytes, held, next_try: Instant::now(), missing: Trouble::default() }
    }

    /// Gives the room up; false if there was none.
    pub fn give_up(&mut self) -> bool {
        self.next_try = Instant::now() + PAUSE;
        std::mem::take(&mut self.held) && std::fs::remove_file(&self.path).is_ok()
    }

    /// Whether an idle moment would be used.
    pub fn is_missing(&self) -> bool {
        !self.held && self.bytes > 0
    }

    /// Bytes that giving it up would free.
    pub fn held(&self) -> u64 {
        if self.held { self.bytes } else { 0 }
    }

    /// Takes the room back if it is time and there is any.
    pub fn restore(&mut self) {
        if self.is_missing() && Instant::now() >= self.next_try {
            self.take_back();
        }
    }

    /// Takes the room back now, if there is any.
    pub fn take_back(&mut self) {
        self.next_try = Instant::now() + PAUSE;
        match fill(&self.path, self.bytes) {
            Ok(()) => {
                self.held = true;
                if self.missing.is_over() {
                    tracing::info!("there is a reserve file again");
                }
            }
            Err(error) => {
                // A part of it would only make the disk fuller.
                let removed = std::fs::remove_file(&self.path);
                let gone = removed.is_ok() || removed.is_err_and(|e| e.kind() == ErrorKind::NotFound);
                if self.missing.shows(&error) {
                    tracing::warn!(%error, gone, "there is no room for the reserve file; it is tried again");
                }
            }
        }
    }
}

/// Real bytes: a hole would reserve nothing. Synced, because the promise is about blocks, not about a length.
fn fill(path: &std::path::Path, bytes: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    std::io::copy(&mut std::io::repeat(0).take(bytes), &mut file)?;
    file.sync_data()
}
