//! The directory of one run of code: what it is given (`code`) and what it may write (`work`).
//!
//! What stands in `work` was made by the program: only ordinary files are taken out of it, links are not followed, and
//! nothing is taken before the last of its processes is gone.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Somebody who owns nothing.
pub(super) const NOBODY: u32 = 65_534;

/// Where the directories of runs are made.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) path: PathBuf,
    /// Whom programs run as, where this process is root.
    pub(super) identity: Option<u32>,
}

impl Base {
    /// In the data directory; or, if this process is root and [`NOBODY`] cannot get there, in the system's temporary one.
    /// Empties it: what stands there is of a process that is gone.
    pub(super) fn make(data_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(data_dir)?;
        let data_dir = fs::canonicalize(data_dir)?;
        let root = rustix::process::geteuid().is_root();
        let own = data_dir.join("scratch");
        let path = if root && !open_to_all(&data_dir) {
            let digest = fleet_actors::journal::digest(data_dir.as_os_str().as_encoded_bytes());
            std::env::temp_dir().join(format!("agentic-fleet-scratch-{digest}"))
        } else {
            own
        };
        if fs::symlink_metadata(&path).is_ok() {
            // One that somebody else has put there is not ours to use.
            let found = fs::symlink_metadata(&path)?;
            if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
                return Err(io::Error::other(format!("{} belongs to somebody else", path.display())));
            }
            fs::read_dir(&path)?.flatten().for_each(|entry| remove(&entry.path()));
        } else {
            fs::create_dir(&path)?;
        }
        // Others may pass and not look around.
        fs::set_permissions(&path, Permissions::from_mode(if root { 0o711 } else { 0o700 }))?;
        Ok(Self { path, identity: root.then_some(NOBODY) })
    }
}

fn open_to_all(dir: &Path) -> bool {
    dir.ancestors().all(|part| fs::metadata(part).is_ok_and(|found| found.permissions().mode() & 0o001 != 0))
}

/// The directory of one run; removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(super) fn make(base: &Base, file: &str, code: &str) -> io::Result<Self> {
        let scratch = Self { path: base.path.join(format!("{:032x}", fastrand::u128(..))) };
        fs::create_dir(&scratch.path)?;
        fs::set_permissions(&scratch.path, Permissions::from_mode(0o711))?;
        fs::create_dir(scratch.code())?;
        fs::write(scratch.code().join(file), code)?;
        fs::set_permissions(scratch.code().join(file), Permissions::from_mode(0o644))?;
        fs::set_permissions(scratch.code(), Permissions::from_mode(0o755))?;
        fs::create_dir(scratch.work())?;
        fs::set_permissions(scratch.work(), Permissions::from_mode(0o700))?;
        if base.identity.is_some() {
            chown(scratch.work(), base.identity, base.identity)?;
        }
        Ok(scratch)
    }

    pub(super) fn code(&self) -> PathBuf {
        self.path.join("code")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.path.join("work")
    }
}

impl Drop for Scratch {
    /// Removes it, from a thread of its own: the last processes may still be dying, and this one has other things to do.
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let removal = std::thread::Builder::new().name("scratch-removal".to_owned());
        let spawned = removal.spawn(move || {
            for _ in 0..50 {
                remove(&path);
                if fs::symlink_metadata(&path).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            tracing::warn!(path = %path.display(), "a scratch directory is still there");
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "a scratch directory is left to the next start");
        }
    }
}

/// Removes a file, or a tree, of whose directories some may be closed to their owner.
fn remove(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir()) {
        let _ = fs::remove_file(path);
        return;
    }
    if fs::remove_dir_all(path).is_ok() {
        return;
    }
    let mut dirs = vec![path.to_owned()];
    while let Some(dir) = dirs.pop() {
        let _ = fs::set_permissions(&dir, Permissions::from_mode(0o700));
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let inner = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.extend(inner.map(|entry| entry.path()));
    }
    let _ = fs::remove_dir_all(path);
}

/// How much stands in a directory, counted up to one more than `entries_max`; none if a part of it cannot be read.
pub(super) fn measure(dir: &Path, entries_max: usize) -> Option<(usize, u64)> {
    let (mut entries, mut bytes, mut dirs) = (0, 0, vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).ok()?.flatten() {
            entries += 1;
            if entries > entries_max {
                return Some((entries, bytes));
            }
            // Files come and go while this looks.
            let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
            bytes += found.len().max(found.blocks() * 512);
            if found.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Some((entries, bytes))
}

/// A file that a program left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its path within the directory.
    pub path: String,
    /// What it holds.
    pub content: Vec<u8>,
}

/// The ordinary files of a directory, by path, and how many other things were passed over. Call it when nothing can write
/// there any more.
pub(super) fn collect(dir: &Path, bytes_max: u64) -> io::Result<(Vec<Left>, usize)> {
    let (mut left, mut passed_over, mut bytes, mut dirs) = (Vec::new(), 0, 0, vec![dir.to_owned()]);
    while let Some(inner) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&inner) else {
            passed_over += 1;
            continue;
        };
        for entry in entries.flatten() {
            let (path, found) = (entry.path(), fs::symlink_metadata(entry.path())?);
            if found.is_dir() {
                dirs.push(path);
                continue;
            }
            bytes += found.len();
            let content = if found.is_file() && bytes <= bytes_max { fs::read(&path).ok() } else { None };
            match content {
                Some(content) => {
                    let path = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
                    left.push(Left { path, content });
                }
                None => passed_over += 1,
            }
        }
    }
    left.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((left, passed_over))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_finds_nothing_of_the_one_before_it_be_it_a_file_a_link_or_a_closed_directory() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::make(dir.path()).unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "stays as it is").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o640)).unwrap();
        fs::write(base.path.join("seccomp.bpf"), "of a process that is gone").unwrap();
        std::os::unix::fs::symlink(&outside, base.path.join("link")).unwrap();
        fs::create_dir_all(base.path.join("run/work/closed")).unwrap();
        fs::set_permissions(base.path.join("run/work"), Permissions::from_mode(0o000)).unwrap();
        let base = Base::make(dir.path()).unwrap();
        assert_eq!(fs::read_dir(&base.path).unwrap().count(), 0);
        assert_eq!(fs::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o640);
        fs::remove_dir_all(&base.path).unwrap();
    }
}
