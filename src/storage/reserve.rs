//! Room that is kept for a full disk: deleting needs space, too, and so does moving the log into the database.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fleet_actors::trouble::Trouble;

/// Between two tries to make it whole.
const PAUSE: Duration = Duration::from_secs(5);
/// Lent beside what the database grows by, which is not all that the file system needs for it.
const LENT_MORE: u64 = 1 << 20;
/// Not lent for this long when it was no help: no file may grow, however much room there is, and it is written anew each time.
const LOAN_PAUSE: Duration = Duration::from_secs(60);

/// A file of zeros that is given up for a moment: when a removal finds the disk full, when that keeps the log from being moved, and
/// when it keeps the store from being opened.
pub(super) struct Reserve {
    path: PathBuf,
    /// Bytes that it should have.
    bytes: u64,
    /// Bytes that it has.
    held: u64,
    /// Bytes that it had when it was given up.
    given: u64,
    /// Bytes that a removal left of it.
    left: u64,
    /// Not before this.
    next_try: Instant,
    /// Not lent before this.
    next_loan: Instant,
    /// Why it is not whole.
    missing: Trouble,
}

impl Reserve {
    /// The reserve at `path`; of no bytes, there is none and none is missed.
    pub fn new(path: PathBuf, bytes: u64) -> Self {
        let held = there(&path);
        let held = if held <= bytes { held } else { 0 };
        let now = Instant::now();
        Self { path, bytes, held, given: 0, left: 0, next_try: now, next_loan: now, missing: Trouble::default() }
    }

    /// Gives the room up; false if there was none.
    pub fn give_up(&mut self) -> bool {
        self.next_try = Instant::now() + PAUSE;
        let is_there = self.bytes > 0 && std::fs::remove_file(&self.path).is_ok();
        if is_there {
            // A part may be lent already.
            self.given = self.given.max(self.held);
        }
        // Somebody may have removed it: it is made anew.
        self.held = there(&self.path);
        is_there
    }

    /// Whether it was given up and not taken back.
    pub fn is_given(&self) -> bool {
        self.given > 0
    }

    /// Gives so much of the room up for the log, and some more, unless it has less or was no help lately. The rest is there for the
    /// next start if the process is killed meanwhile.
    pub fn lend(&mut self, bytes: u64) -> bool {
        if self.held == 0 || self.held < bytes || Instant::now() < self.next_loan {
            return false;
        }
        let rest = self.held.saturating_sub(bytes + LENT_MORE);
        let Ok(rest) = cut(&self.path, rest) else {
            self.held = there(&self.path);
            return false;
        };
        (self.given, self.held) = (self.held, rest);
        true
    }

    /// The log could not be moved into the room that was lent for it.
    pub fn was_no_help(&mut self) {
        self.next_loan = Instant::now() + LOAN_PAUSE;
    }

    /// Bytes that it has.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Whether an idle moment would be used.
    pub fn is_missing(&self) -> bool {
        self.held < self.bytes
    }

    /// Makes it whole if it is time and there is room, beside what a removal left of it.
    pub fn restore(&mut self) {
        if !self.is_missing() || Instant::now() < self.next_try {
            return;
        }
        self.fill(self.bytes + self.left, self.held);
        if self.held > self.bytes {
            self.held = cut(&self.path, self.bytes).unwrap_or(0);
            self.left = 0;
        }
    }

    /// Takes the room back that was given up, as much as others left of it.
    pub fn take_back(&mut self) {
        let given = std::mem::take(&mut self.given);
        if given > 0 {
            self.fill(given, given);
        }
    }

    /// Takes most of the room back that a removal needed. The store goes on with the rest: pages that are free again can be
    /// written through the log alone, which needs some.
    pub fn take_most_back(&mut self) {
        self.left = self.bytes / 4;
        self.given = self.given.min(self.bytes - self.left);
        self.take_back();
    }

    /// Makes it as large as this; where there is no room for that it has at most so much: more would only make the disk fuller.
    fn fill(&mut self, bytes: u64, most: u64) {
        self.next_try = Instant::now() + PAUSE;
        match grow(&self.path, self.held, bytes) {
            Ok(()) => {
                self.held = bytes;
                if !self.is_missing() && self.missing.is_over() {
                    tracing::info!("there is a reserve file again");
                }
            }
            Err(error) => {
                self.held = cut(&self.path, most).unwrap_or(0);
                if self.held == 0 {
                    // There may be none.
                    let _ = std::fs::remove_file(&self.path);
                }
                if self.missing.shows(&error) {
                    tracing::warn!(%error, held = self.held, "there is no room for the reserve file; it is tried again");
                }
            }
        }
    }
}

/// Bytes of the file.
fn there(path: &Path) -> u64 {
    path.metadata().map_or(0, |file| file.len())
}

/// Real bytes: a hole would reserve nothing. Synced, because the promise is about blocks, not about a length.
fn grow(path: &Path, from: u64, to: u64) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(false).open(path)?;
    let from = from.min(file.metadata()?.len());
    file.set_len(from)?;
    file.seek(SeekFrom::Start(from))?;
    io::copy(&mut io::repeat(0).take(to - from), &mut file)?;
    file.sync_data()
}

/// Leaves at most this much of what is there; how much that is.
fn cut(path: &Path, most: u64) -> io::Result<u64> {
    let file = File::options().write(true).open(path)?;
    let left = file.metadata()?.len().min(most);
    file.set_len(left)?;
    file.sync_data()?;
    Ok(left)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_reserve_that_somebody_removed_or_cut_is_made_anew_of_real_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reserve");
        let mut reserve = Reserve::new(path.clone(), 1 << 20);
        reserve.restore();
        for somebody in [|path: &Path| std::fs::remove_file(path), |path: &Path| cut(path, 4_096).map(drop)] {
            let whole = || path.metadata().is_ok_and(|file| file.len() == 1 << 20 && file.blocks() * 512 >= 1 << 20);
            assert!(whole());
            somebody(&path).unwrap();
            reserve.give_up();
            reserve.next_try = Instant::now();
            reserve.restore();
            assert!(whole());
        }
    }
}
