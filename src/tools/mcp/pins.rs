//! What tools looked like when they were first seen: `mcp-tools.json` in the data directory.
//!
//! Invariants: a tool is offered only if its digest is the pinned one, and a pin is on disk before its tool is offered.
//! Pins of tools that a server no longer lists stay, so that leaving and coming back changed is a change.
//! A file that cannot be read is an error and pins nothing: trusting everything anew is for an operator to decide, by
//! deleting it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::catalog::Listed;

/// Pins of one server: one that makes up new names for ever fills no disk.
const PINS_MAX: usize = 20_000;
/// A file larger than this is not ours.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The file.
#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    /// Held while the file is read, changed and written.
    writing: Mutex<()>,
}

/// Digests by server and by the name that models see.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    servers: BTreeMap<String, BTreeMap<String, String>>,
}

impl Pins {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, writing: Mutex::new(()) }
    }

    /// Pins what is new or accepted, and marks what has changed.
    ///
    /// # Errors
    /// The file cannot be read or written; nothing may be offered then.
    pub(super) fn check(
        &self,
        server: &str,
        accepted: &BTreeSet<String>,
        tools: &mut BTreeMap<String, Listed>,
    ) -> std::io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Read each time: an operator accepts a change by deleting an entry, while this runs.
        let mut content = read(&self.path)?;
        let pinned = content.servers.entry(server.to_owned()).or_default();
        let mut dirty = false;
        for (name, tool) in tools {
            let full = pinned.len() >= PINS_MAX;
            match pinned.get(name) {
                Some(digest) if **digest == *tool.offered.schema_digest => continue,
                Some(digest) if !accepted.contains(&*tool.offered.schema_digest) => {
                    tool.changed = true;
                    let (was, is, source) = (digest.as_str(), &*tool.offered.schema_digest, server);
                    tracing::warn!(sec.event = "mcp_tool_changed", source, name, was, is, "a tool has changed");
                    continue;
                }
                None if full => {
                    tool.changed = true;
                    continue;
                }
                Some(_) | None => {}
            }
            pinned.insert(name.clone(), tool.offered.schema_digest.to_string());
            dirty = true;
        }
        if dirty {
            content.version = 1;
            write(&self.path, &content)?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> std::io::Result<Content> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Content::default()),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other("the file is too large"));
    }
    let content: Content = serde_json::from_reader(std::io::BufReader::new(file))?;
    if content.version != 1 {
        return Err(std::io::Error::other(format!("version {} is not known, only 1", content.version)));
    }
    Ok(content)
}

/// A crash leaves the old file or the new one.
fn write(path: &Path, content: &Content) -> std::io::Result<()> {
    let beside = crate::settings::data_dir::next_pins(path);
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(&serde_json::to_vec_pretty(content)?)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}
