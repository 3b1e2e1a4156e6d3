//! Files that tools made: kept under the data directory, `artifacts/<workflow>/<digest>/<name>`, until their run is gone.
//!
//! A file is written beside its place, synced and renamed, so one that can be found is whole. Its digest is part of its
//! address: what stands there never changes.
//!
//! Invariant: no part of a path comes from outside unchecked; a name is one that [`file_name`] gives.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use fleet_actors::ids::WorkflowId;
use fleet_actors::journal::digest;
use fleet_actors::ports::{Artifact, Store, StoreError};

/// Characters of a file's name.
const NAME_CHARS_MAX: usize = 100;
/// Media type of what nobody knows.
const UNKNOWN: &str = "application/octet-stream";

/// Where artifacts are kept.
#[derive(Clone, Debug)]
pub struct Artifacts {
    root: PathBuf,
}

impl Artifacts {
    /// Under this data directory.
    #[must_use]
    pub fn in_data_dir(data_dir: &Path) -> Self {
        Self { root: data_dir.join(crate::settings::data_dir::ARTIFACTS) }
    }

    /// Keeps a file of a run.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn keep(&self, workflow: &WorkflowId, name: &str, content: &[u8]) -> io::Result<Artifact> {
        let (name, digest) = (file_name(name), digest(content));
        let id = segment(workflow.as_str()).ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.root.join(id).join(&*digest);
        let place = dir.join(&name);
        if !place.exists() {
            fs::create_dir_all(&dir)?;
            let draft = dir.join(format!(".{name}.{:016x}", fastrand::u64(..)));
            let written = write(&draft, content).and_then(|()| fs::rename(&draft, &place));
            if let Err(error) = written {
                let _ = fs::remove_file(&draft);
                return Err(error);
            }
            File::open(&dir)?.sync_all()?;
        }
        let media_type = media_type(&name);
        let bytes = content.len() as u64;
        let url = format!("/api/v1/workflows/{id}/artifacts/{digest}/{name}");
        Ok(Artifact { name, media_type, bytes, url })
    }

    /// The content of an artifact; none if there is none of that address.
    ///
    /// # Errors
    /// The disk does not give it.
    pub fn read(&self, workflow: &str, digest: &str, name: &str) -> io::Result<Option<Vec<u8>>> {
        let (Some(workflow), Some(digest)) = (segment(workflow), segment(digest)) else { return Ok(None) };
        if file_name(name) != name {
            return Ok(None);
        }
        match fs::read(self.root.join(workflow).join(digest).join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the artifacts of runs that neither the journals nor the history know any more; how many runs that were.
    ///
    /// # Errors
    /// The store cannot say. A directory that cannot be removed is left for the next time.
    pub async fn sweep(&self, store: &dyn Store) -> Result<usize, StoreError> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Ok(0) };
        let mut removed = 0;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(workflow) = name.to_str().and_then(|name| name.parse::<WorkflowId>().ok()) else { continue };
            if store.workflow(&workflow).await?.is_some() || store.history_entry(&workflow).await?.is_some() {
                continue;
            }
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => removed += 1,
                Err(error) => tracing::warn!(%workflow, %error, "artifacts of a removed run are still there"),
            }
        }
        Ok(removed)
    }
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The media type a name promises.
#[must_use]
pub fn media_type(name: &str) -> String {
    mime_guess::from_path(name).first_raw().unwrap_or(UNKNOWN).to_owned()
}

/// One part of a path that leads nowhere else: letters, digits, `-` and `_`.
fn segment(text: &str) -> Option<&str> {
    let fits =
        (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    fits.then_some(text)
}

/// `name` as a file's name in every system and URL: letters, digits, `.`, `-` and `_`, not beginning with a dot.
#[must_use]
pub fn file_name(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let safe: String = name.chars().map(|c| if fits(c) { c } else { '_' }).take(NAME_CHARS_MAX).collect();
    let safe = safe.trim_start_matches('.');
    if safe.is_empty() { "file".to_owned() } else { safe.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else_and_stays_itself_when_asked_again() {
        let names =
            ["../../etc/passwd", "..", ".", "", "a/b.txt", "x\0y", "ü.png", "a b.csv", "%2e%2e", "\r\nset-cookie: x"];
        for name in names {
            let safe = file_name(name);
            assert!(!safe.contains(['/', '\0', '%', '\r', '\n', ' ']) && !safe.starts_with('.'), "{name:?} -> {safe}");
            assert_eq!(file_name(&safe), safe);
        }
    }

    #[test]
    fn what_is_kept_is_found_by_its_whole_address_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let artifacts = Artifacts::in_data_dir(dir.path());
        let workflow = WorkflowId::from_trusted("w-1");
        let kept = artifacts.keep(&workflow, "plot.png", b"png").expect("kept");
        assert_eq!((kept.name.as_str(), kept.media_type.as_str(), kept.bytes), ("plot.png", "image/png", 3));
        let parts: Vec<&str> = kept.url.rsplit('/').collect();
        let digest = parts[1];
        assert_eq!(artifacts.read("w-1", digest, "plot.png").expect("read"), Some(b"png".to_vec()));
        std::fs::write(dir.path().join("secret"), b"no").expect("written");
        for (workflow, digest, name) in [
            ("w-2", digest, "plot.png"),
            ("w-1", digest, "other.png"),
            ("..", "..", "secret"),
            ("w-1", "..", "secret"),
            ("w-1", digest, "../../../secret"),
            ("w-1", digest, ".."),
            ("", "", ""),
        ] {
            assert_eq!(artifacts.read(workflow, digest, name).expect("read"), None, "{workflow}/{digest}/{name}");
        }
    }
}
