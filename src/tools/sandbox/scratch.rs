//! The directory of one run of code: what it is given (`code`) and what it may write (`work`).
//!
//! What stands in `work` was made by the program: only ordinary files are taken out of it, links are not followed, and
//! nothing is taken before the last of its processes is gone.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

/// Somebody who owns nothing.
pub(super) const NOBODY: u32 = 65_534;

/// What such a directory in the system's temporary one is called, before a digest of the data directory.
const TEMPORARY: &str = "agentic-fleet-scratch-";
/// One that nobody holds and that was not changed for so long is of a process that was killed.
const STALE_AFTER: Duration = Duration::from_secs(600);

/// Where the directories of runs are made.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) path: PathBuf,
    /// Whom programs run as, where this process is root.
    pub(super) identity: Option<u32>,
    /// It stands outside of the data directory.
    moved: bool,
    /// Locked as long as this process uses it.
    _held: Arc<File>,
}

impl Base {
    /// In the data directory; or, if this process is root and [`NOBODY`] cannot get there, in the system's temporary one.
    /// Empties it: what stands there is of a process that is gone.
    pub(super) fn make(data_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(data_dir)?;
        let data_dir = fs::canonicalize(data_dir)?;
        let root = rustix::process::geteuid().is_root();
        let moved = root && !open_to_all(&data_dir);
        let path = if moved {
            let temporary = std::env::temp_dir();
            remove_stale(&temporary);
            let digest = fleet_actors::journal::digest(data_dir.as_os_str().as_encoded_bytes());
            temporary.join(format!("{TEMPORARY}{digest}"))
        } else {
            data_dir.join(crate::settings::data_dir::SCRATCH)
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
        // Whoever looks for what nobody holds leaves what is new alone, so nothing came between.
        let held = File::open(&path)?;
        held.try_lock()?;
        Ok(Self { path, identity: root.then_some(NOBODY), moved, _held: Arc::new(held) })
    }

    /// At the end of the process: the next one knows to empty what stands in its data directory, and may never look elsewhere.
    pub(super) fn leave(&self) {
        if self.moved {
            remove(&self.path);
        }
    }
}

/// Removes what processes that were killed have left in `temporary`.
fn remove_stale(temporary: &Path) {
    let us = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY));
        let stale = |found: fs::Metadata| {
            found.is_dir()
                && found.uid() == us
                && found.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= STALE_AFTER))
        };
        // Without following a link.
        if ours && entry.metadata().is_ok_and(stale) && File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok())
        {
            remove(&entry.path());
        }
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

/// Removes a tree made by strangers: of any depth, with directories closed to their owner. No link in it is followed, and
/// no path in it grows: what stands inside of a directory is moved up to the top before the directory goes.
fn remove(path: &Path) {
    let mut moved = 0_u64;
    loop {
        let Ok(entries) = fs::read_dir(path) else { break };
        let mut done_something = false;
        for dir in entries.flatten().map(|entry| entry.path()) {
            if fs::remove_file(&dir).is_ok() {
                done_something = true;
                continue;
            }
            let _ = open_up(&dir);
            for inner in fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if fs::remove_file(&inner).is_ok() {
                    continue;
                }
                // A directory that is closed to its owner cannot be moved.
                let _ = open_up(&inner);
                moved += 1;
                let _ = fs::rename(&inner, path.join(format!("moved-{moved}-{:08x}", fastrand::u32(..))));
            }
            done_something |= fs::remove_dir(&dir).is_ok();
        }
        if !done_something {
            break;
        }
    }
    let _ = fs::remove_dir(path).or_else(|_| fs::remove_file(path));
}

/// Lets the owner of a directory into it; does nothing to what a link leads to.
fn open_up(dir: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = rustix::fs::open(dir, flags, Mode::empty())?;
    // The mode of what was opened, whatever stands under its name by now.
    fs::set_permissions(format!("/proc/self/fd/{}", found.as_raw_fd()), Permissions::from_mode(0o700))
}

/// How much stands in a directory, counted up to one more than `entries_max`; none if a part of it cannot be read, as one
/// whose path is longer than the system takes.
pub(super) fn measure(dir: &Path, entries_max: usize) -> Option<(usize, u64)> {
    let (mut entries, mut bytes, mut dirs) = (0, 0, vec![dir.to_owned()]);
    while let Some(inner) = dirs.pop() {
        let found = match fs::read_dir(&inner) {
            Ok(found) => found,
            // Files and directories come and go while this looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound && inner != dir => continue,
            Err(_) => return None,
        };
        for entry in found.flatten() {
            entries += 1;
            if entries > entries_max {
                return Some((entries, bytes));
            }
            let found = match fs::symlink_metadata(entry.path()) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => return None,
            };
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

    /// A chain of `depth` directories with long names, a file in each, made from within as a program would.
    fn chain(top: &Path, depth: usize, mode: u32) {
        let name = "d".repeat(250);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(top, flags, Mode::empty()).expect("the top");
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, &*name, Mode::from_raw_mode(0o700)).expect("a directory");
            let inner = rustix::fs::openat(&at, &*name, flags, Mode::empty()).expect("opened");
            let file = rustix::fs::openat(&inner, "f", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600));
            rustix::io::write(file.expect("a file"), &[0; 1_000]).expect("written");
            rustix::fs::fchmod(&inner, Mode::from_raw_mode(mode)).expect("its mode");
            at = inner;
        }
    }

    #[test]
    fn a_chain_of_directories_too_deep_for_a_path_is_over_the_limit_and_can_be_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let top = dir.path().join("run");
        fs::create_dir(&top).expect("made");
        // 16 long names make a path that the system does not take; far fewer entries than are allowed.
        chain(&top, 3_000, 0o700);
        assert_eq!(measure(&top, 10_000), None, "what lies deeper than a path reaches was not counted");
        remove(&top);
        assert!(!top.exists(), "it is still there");
    }

    #[test]
    fn removal_opens_what_is_closed_and_follows_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (top, outside) = (dir.path().join("run"), dir.path().join("outside"));
        fs::create_dir_all(top.join("work")).expect("made");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("kept"), "x").expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("it stands").permissions().mode() & 0o777;
        let before = mode(&outside);
        std::os::unix::fs::symlink(&outside, top.join("work/link")).expect("linked");
        std::os::unix::fs::symlink(&outside, top.join("link")).expect("linked");
        fs::create_dir(top.join("work/moved-1-00000000")).expect("made");
        chain(&top.join("work"), 40, 0o500);
        fs::set_permissions(top.join("work"), Permissions::from_mode(0o000)).expect("closed");
        assert!(open_up(&top.join("link")).is_err(), "a link was opened up");
        remove(&top);
        assert!(!top.exists() && outside.join("kept").exists(), "removed too little or too much");
        assert_eq!(mode(&outside), before, "the mode of something outside was changed");
    }

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
        drop(base);
        let base = Base::make(dir.path()).unwrap();
        assert_eq!(fs::read_dir(&base.path).unwrap().count(), 0);
        assert_eq!(fs::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o640);
        fs::remove_dir_all(&base.path).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_held_new_or_of_another_name_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str, age: u64| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.join("run/work")).unwrap();
            let at = fs::metadata(&path).unwrap().modified().unwrap() - Duration::from_secs(age);
            File::open(&path).unwrap().set_modified(at).unwrap();
            path
        };
        let stale = place("agentic-fleet-scratch-1", 700);
        let held = place("agentic-fleet-scratch-2", 700);
        let lock = File::open(&held).unwrap();
        lock.try_lock().unwrap();
        let (new, other) = (place("agentic-fleet-scratch-3", 10), place("somebody-else", 700));
        let link = dir.path().join("agentic-fleet-scratch-4");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        remove_stale(dir.path());
        let stand = [&stale, &held, &new, &other, &link].map(|path| fs::symlink_metadata(path).is_ok());
        assert_eq!(stand, [false, true, true, true, true]);
        drop(lock);
        remove_stale(dir.path());
        assert!(!held.exists() && other.join("run/work").exists());
    }
}
