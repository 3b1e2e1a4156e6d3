//! Where paths lead, so that two spellings of one file are one.
//!
//! Invariant: a file that is not there yet has a place, too: two keys may name it before anybody makes it. For that, links
//! are followed by hand, also those to nothing.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The system follows no more.
const LINKS_MAX: usize = 40;

/// The path from the root, without links, `.` and `..`; a relative one is told from the current directory.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let parts =
        |path: &Path| path.components().rev().map(|part| part.as_os_str().to_owned()).collect::<Vec<OsString>>();
    let mut rest = parts(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    let mut real = PathBuf::new();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            real.pop();
        } else if part != "." {
            real.push(part);
            if links < LINKS_MAX
                && let Ok(target) = std::fs::read_link(&real)
            {
                links += 1;
                real.pop();
                rest.extend(parts(&target));
            }
        }
    }
    real
}

/// `path` with `suffix` at the end of its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What a path names, by the system's numbers: another spelling, a link, a second name or mount of it is the same.
#[derive(Debug)]
pub(crate) struct Place {
    /// Of the file, then of each directory above it.
    parts: Vec<Part>,
}

/// The nearest thing that is there, and what is not below it.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    device: u64,
    inode: u64,
    below: PathBuf,
}

impl Place {
    pub(crate) fn of(path: &Path) -> Self {
        let part = |path: &Path| {
            path.ancestors().find_map(|there| {
                let found = there.metadata().ok()?;
                let below = path.strip_prefix(there).ok()?.to_owned();
                Some(Part { device: found.dev(), inode: found.ino(), below })
            })
        };
        Self { parts: resolved(path).ancestors().filter_map(part).collect() }
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        self.parts.first().is_some_and(|own| other.parts.first() == Some(own))
    }

    /// Whether both are one, or one would have to be a directory for the other to be in it.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let within = |inner: &Self, outer: &Self| outer.parts.first().is_some_and(|part| inner.parts.contains(part));
        within(self, other) || within(other, self)
    }
}
