//! Files that would be one: what is written to the one destroys the other.

use std::path::Path;

use super::super::Settings;
use super::super::places::{Place, beside, resolved};
use super::super::storage::{data_dir, history_number, history_rewrite};
use super::Found;

/// What a key names, and what is kept beside it.
struct Owner {
    key: &'static str,
    files: Vec<(&'static str, Place)>,
}

impl Owner {
    fn new(key: &'static str) -> Self {
        Self { key, files: Vec::new() }
    }

    fn has(mut self, what: &'static str, path: &Path) -> Self {
        self.files.push((what, Place::of(path)));
        self
    }
}

pub(super) fn files(settings: &Settings, found: &mut Found) {
    let storage = &settings.storage;
    let named = [
        ("storage.data_dir", "a directory", Some(&storage.data_dir)),
        ("storage.database_path", "a file", storage.database_path.as_ref()),
        ("storage.history_path", "a file", storage.history_path.as_ref()),
    ];
    let nothing = named.into_iter().filter(|(_, _, path)| path.is_some_and(|path| path.as_os_str().is_empty()));
    let nothing: Vec<_> = nothing.map(|(key, expected, _)| (key, expected)).collect();
    if !nothing.is_empty() {
        nothing.iter().for_each(|(key, what)| found.add(&[(key, format!("expected {what}, found nothing"))]));
        return;
    }

    let dir = &storage.data_dir;
    let (file, history) = (resolved(&storage.database_file()), storage.history_file());
    let mut database = Owner::new("storage.database_path")
        .has("the database", &file)
        .has("the log of the database", &beside(&file, "-wal"))
        .has("the index of the database's log", &beside(&file, "-shm"))
        .has("the journal of the database", &beside(&file, "-journal"))
        .has("the redo log of the database", &beside(&file, "-redo"));
    if let Some(lock) = storage.own_database_lock() {
        database = database.has("the lock of the database", &lock);
    }
    let export = Owner::new("storage.history_path")
        .has("the history file", &history)
        .has("the next history file", &history_rewrite(&history));
    let pins = dir.join(data_dir::PINS);
    let directory = Owner::new("storage.data_dir")
        .has("the lock", &dir.join(data_dir::LOCK))
        .has("the reserve", &dir.join(data_dir::RESERVE))
        .has("the pins of tools", &pins)
        .has("the next pins of tools", &data_dir::next_pins(&pins))
        .has("the files that runs make", &dir.join(data_dir::ARTIFACTS))
        .has("the place where code runs", &dir.join(data_dir::SCRATCH));

    // What was put aside is read, and removed when it is obsolete.
    let above = |path: &Path| Place::of(path.parent().unwrap_or(path));
    if history_number(&history, &file).is_some() && above(&file).is(&above(&resolved(&history))) {
        clash(found, (export.key, "a history file that was put aside"), (database.key, "the database"));
    }
    for (one, other) in [(&export, &database), (&export, &directory), (&database, &directory)] {
        let pairs = one.files.iter().flat_map(|file| other.files.iter().map(move |beside| (file, beside)));
        let met = pairs.into_iter().find(|((_, file), (_, beside))| file.meets(beside));
        if let Some(((what, _), (met, _))) = met {
            clash(found, (one.key, what), (other.key, met));
        }
    }
}

fn clash(found: &mut Found, (key, what): (&str, &str), (other, met): (&str, &str)) {
    let message = |what, other, met| format!("expected {what} to be a file of its own, found {met} ({other}) there");
    found.add(&[(key, message(what, other, met)), (other, message(met, key, what))]);
}
