//! Paths that lead to one file, however they are written.

use std::os::unix::fs::symlink;
use std::path::Path;

use agentic_fleet::settings::Flags;

use crate::{Start, start};

const DATABASE: &str = "FLEET_STORAGE__DATABASE_PATH";
const HISTORY: &str = "FLEET_STORAGE__HISTORY_PATH";

/// With this data directory. Where both keys of a mistake are set by one layer, it is shown at the path.
fn start_in(dir: &Path) -> Start {
    start().env("FLEET_DATA_DIR", dir.to_str().expect("UTF-8"))
}

fn refused(start: &Start, keys: [&str; 2], what: &str) {
    let refusal = start.refusal();
    assert!(refusal.starts_with("1 mistake") && refusal.contains(what), "{refusal}");
    assert!(keys.iter().all(|key| refusal.contains(key)), "{refusal}");
}

#[test]
fn no_two_paths_lead_to_one_file_of_the_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [data, history, database] = ["storage.data_dir", "storage.history_path", "storage.database_path"];
    let files = [
        ("lock", "found the lock"),
        ("reserve", "found the reserve"),
        ("mcp-tools.json", "found the pins of tools"),
        ("mcp-tools.json.new", "found the next pins of tools"),
        ("artifacts/x.jsonl", "found the files that runs make"),
        ("scratch/x.jsonl", "found the place where code runs"),
    ];
    for (file, what) in files {
        for (variable, key) in [(HISTORY, history), (DATABASE, database)] {
            let start = start_in(dir.path()).env(variable, &at(file));
            refused(&start, [key, data], what);
        }
    }
    // Then the directory would have to be a file.
    let refusal = start_in(dir.path()).env(HISTORY, dir.path().to_str().unwrap()).refusal();
    assert!(refusal.contains("found the database") && refusal.contains("found the lock"), "{refusal}");
    let files = [
        ("fleet.db", "found the database"),
        ("fleet.db-wal", "found the log of the database"),
        ("fleet.db-shm", "found the index of the database's log"),
        ("fleet.db-journal", "found the journal of the database"),
        ("fleet.db-redo", "found the redo log of the database"),
    ];
    for (file, what) in files {
        refused(&start_in(dir.path()).env(HISTORY, &at(file)), [history, database], what);
    }
    // The history's own files, from the database's side.
    for file in ["execution_history.jsonl", "execution_history.jsonl.new", "execution_history.000001.jsonl"] {
        refused(&start_in(dir.path()).env(DATABASE, &at(&format!("logs/{file}"))), [history, database], "history file");
    }
    let elsewhere = at("elsewhere/x.db");
    let both = |history: &str| start_in(dir.path()).env(DATABASE, &elsewhere).env(HISTORY, history);
    refused(&both(&elsewhere), [history, database], "found the database");
    refused(&both(&format!("{elsewhere}.lock")), [history, database], "found the lock of the database");
    both(&format!("{elsewhere}.jsonl")).settings();
    for file in ["history.jsonl", "lock.jsonl", "artifacts.jsonl", "other/lock"] {
        start_in(dir.path()).env(HISTORY, &at(file)).settings();
    }
}

#[test]
fn a_file_is_found_under_every_spelling_and_before_it_is_there() {
    let here = std::env::current_dir().unwrap();
    let here = here.to_str().unwrap();
    let keys = ["storage.history_path", "storage.database_path"];
    for path in
        [".var/fleet.db", "./.var/../.var/./fleet.db", ".var/none/../fleet.db", &format!("{here}/.var/fleet.db")]
    {
        refused(&start().env(HISTORY, path), keys, "found the database");
    }
    let flags = Flags { data_dir: Some("hp".into()), ..Flags::default() };
    refused(&start().file("storage: { history_path: hp/fleet.db }").flags(flags), keys, "1:26: ");
    refused(&start().env(DATABASE, "a/b.db").env(HISTORY, "a/../a/b.db"), keys, "found the database");

    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("data")).unwrap();
    std::fs::create_dir_all(at("deep/below")).unwrap();
    symlink("data", at("directory")).unwrap();
    symlink("data/fleet.db", at("dangling")).unwrap();
    symlink(at("deep/below"), at("data/deep")).unwrap();
    let refused_as = |name: &str| {
        let start = start_in(&at("data")).env(HISTORY, at(name).to_str().unwrap());
        refused(&start, keys, "found the database");
    };
    refused_as("directory/fleet.db");
    refused_as("dangling");
    std::fs::write(at("data/fleet.db"), "").unwrap();
    std::fs::hard_link(at("data/fleet.db"), at("second")).unwrap();
    for name in ["directory/fleet.db", "dangling", "second"] {
        refused_as(name);
    }
    // `..` behind a link leads to where the link does.
    start_in(&at("data")).env(HISTORY, at("data/deep/../fleet.db").to_str().unwrap()).settings();
}

#[test]
fn a_path_without_a_name_is_refused() {
    for (key, path) in [("database_path", "a file"), ("history_path", "a file"), ("data_dir", "a directory")] {
        let refusal = start().file(&format!("storage: {{ {key}: \"\" }}")).refusal();
        assert!(refusal.contains(&format!("storage.{key}: expected {path}, found nothing")), "{refusal}");
        assert!(refusal.starts_with("1 mistake"), "{refusal}");
    }
}
