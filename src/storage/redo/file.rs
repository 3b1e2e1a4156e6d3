//! The file of the redo log: pages that are written whole, and synced.
//!
//! It is written past the page cache where the file system can do that: a write that is synced at once has no use for it, and
//! the way through it is a third of the time of a sync.
//! Absent on purpose: what stands in the pages.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Bytes of the file, filled from the start so that no entry changes its length.
pub(super) const CAPACITY: usize = 2 << 20;
/// Whatever is written begins at a multiple of this, and fills whole ones.
pub(super) const PAGE: usize = 4_096;
/// The file has a whole number of these.
const ERASED_AT_ONCE: usize = 256 << 10;

/// The file as its only writer has it.
pub(super) struct LogFile {
    file: File,
    pages: Pages,
}

impl LogFile {
    /// Makes the file, or erases what is in it. Not synced, and neither is its directory.
    ///
    /// # Errors
    /// The system's. The file may be there then, with a part of what it held.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() != CAPACITY as u64 {
            file.set_len(0)?;
            file.set_len(CAPACITY as u64)?;
        }
        // Refused where the file system has no such writes; where it has none of single pages, the first of them says so.
        let _ = fcntl_setfl(&file, OFlags::DIRECT);
        let mut made = Self { file, pages: Pages::default() };
        made.erase(CAPACITY)?;
        Ok(made)
    }

    /// Writes these bytes, and zeros up to the end of their last page. Not synced.
    ///
    /// # Errors
    /// The system's; any part of it may be written then.
    pub fn write(&mut self, bytes: &[u8], at: usize) -> io::Result<()> {
        let pages = self.pages.of(bytes);
        match self.file.write_all_at(pages, at as u64) {
            Err(error) if is_no_way_past_the_cache(&error) && go_through_the_cache(&self.file) => {
                self.file.write_all_at(pages, at as u64)
            }
            written => written,
        }
    }

    /// Syncs what was written.
    ///
    /// # Errors
    /// The system's: what was written may be lost, and no later sync would say so.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Writes zeros over the first `used` bytes. Not synced.
    ///
    /// # Errors
    /// The system's.
    pub fn erase(&mut self, used: usize) -> io::Result<()> {
        let zeros = vec![0; used.min(ERASED_AT_ONCE)];
        (0..used).step_by(ERASED_AT_ONCE).try_for_each(|at| self.write(&zeros, at))
    }
}

/// What stands in the file; nothing if there is none.
///
/// # Errors
/// The system's.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut left = Vec::new();
    match path.metadata() {
        // A pipe would wait for its other end.
        Ok(there) if !there.is_file() => Err(io::Error::other("it is not a file; move it away")),
        Ok(_) => File::open(path)?.take(CAPACITY as u64).read_to_end(&mut left).map(|_| left),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(left),
        Err(error) => Err(error),
    }
}

fn is_no_way_past_the_cache(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::OPNOTSUPP))
}

/// Writes go through the page cache from here on; false if they did already.
fn go_through_the_cache(file: &File) -> bool {
    let was_past = fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::DIRECT));
    let goes = was_past && fcntl_setfl(file, OFlags::empty()).is_ok();
    if goes {
        tracing::info!("the file system writes the redo log through the page cache alone");
    }
    goes
}

/// Memory in which whole pages begin where a write past the page cache may begin.
#[derive(Default)]
struct Pages(Vec<u8>);

impl Pages {
    /// These bytes, and zeros up to the end of their last page.
    fn of(&mut self, bytes: &[u8]) -> &[u8] {
        let length = bytes.len().next_multiple_of(PAGE);
        if self.0.len() < length + PAGE {
            self.0.resize(length + PAGE, 0);
        }
        let from = self.0.as_ptr().align_offset(PAGE);
        let pages = &mut self.0[from..from + length];
        pages[..bytes.len()].copy_from_slice(bytes);
        pages[bytes.len()..].fill(0);
        pages
    }
}

#[cfg(test)]
impl LogFile {
    /// Writes to this from here on; one that was opened to be read fails each write.
    pub fn swap(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
    use super::*;

    fn is_past_the_cache(log: &LogFile) -> bool {
        fcntl_getfl(&log.file).unwrap().contains(OFlags::DIRECT)
    }

    #[test]
    fn pages_begin_where_a_write_past_the_cache_may_and_keep_nothing_of_what_was_written_before() {
        let mut pages = Pages::default();
        for length in [3 * PAGE, 1, PAGE, 64 * PAGE + 1, PAGE - 1] {
            let bytes = vec![7; length];
            let written = pages.of(&bytes);
            assert_eq!((written.as_ptr().align_offset(PAGE), written.len()), (0, length.next_multiple_of(PAGE)));
            assert_eq!(written[..length], bytes);
            assert!(written[length..].iter().all(|byte| *byte == 0), "behind {length}");
        }
    }

    #[test]
    fn the_file_is_written_past_the_page_cache_where_the_file_system_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = LogFile::open(&path).unwrap();
        let flag = OFlags::DIRECT.bits().cast_signed();
        let can = OpenOptions::new().write(true).custom_flags(flag).open(&path).is_ok();
        assert_eq!(is_past_the_cache(&log), can);
    }

    #[test]
    fn a_file_system_that_comes_to_refuse_writes_past_the_page_cache_is_written_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path).unwrap();
        let could = is_past_the_cache(&log);
        log.write(&[1; 10], 0).unwrap();
        assert_eq!(is_past_the_cache(&log), could, "the control");
        // No write past the page cache may begin here.
        log.write(&[2; 10], PAGE + 1).unwrap();
        assert!(!is_past_the_cache(&log));
        log.write(&[3; 10], 3 * PAGE).unwrap();
        log.sync().unwrap();
        let left = read(&path).unwrap();
        assert_eq!((left[0], left[PAGE + 1], left[3 * PAGE], left.len()), (1, 2, 3, CAPACITY));
        log.erase(4 * PAGE).unwrap();
        log.sync().unwrap();
        assert!(read(&path).unwrap().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_opening_erases_a_file_of_any_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for length in [0, 1, PAGE + 1, CAPACITY, CAPACITY + 1] {
            std::fs::write(&path, vec![7; length]).unwrap();
            LogFile::open(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), vec![0; CAPACITY], "{length}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("move it away"));
        assert!(read(&dir.path().join("nothing")).unwrap().is_empty());
    }
}
