//! Settings as an operator meets them: which layer wins, what a mistake looks like, what is never shown.

mod components;
mod documentation;
mod files;
mod mcp;
mod mistakes;
mod precedence;
mod refusals;

use std::collections::BTreeMap;

use agentic_fleet::settings::{Effective, Flags, Settings, SettingsError, Sources, report};

/// What one start is given.
#[derive(Default)]
struct Start {
    sources: Sources,
    file: Option<tempfile::TempDir>,
}

fn start() -> Start {
    Start::default()
}

impl Start {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn file(mut self, yaml: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fleet.yaml");
        std::fs::write(&path, yaml).expect("the file is written");
        self.sources.flags.config = Some(path);
        self.file = Some(dir);
        self
    }

    fn flags(mut self, flags: Flags) -> Self {
        let config = self.sources.flags.config.take();
        self.sources.flags = Flags { config, ..flags };
        self
    }

    fn profile(mut self, name: &str) -> Self {
        self.sources.flags.profile = Some(name.to_owned());
        self
    }

    fn effective(&self) -> Effective {
        Settings::load(&self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    fn settings(&self) -> Settings {
        self.effective().settings
    }

    fn error(&self) -> SettingsError {
        Settings::load(&self.sources).expect_err("a refusal")
    }

    /// The refusal as it is printed, with the directory of the file cut away.
    fn refusal(&self) -> String {
        let text = self.error().to_string();
        match &self.file {
            Some(dir) => text.replace(&format!("{}/", dir.path().display()), ""),
            None => text,
        }
    }

    /// The report as a map from key to `value  # source`.
    fn report(&self) -> BTreeMap<String, String> {
        let text = report(&self.effective()).replace(
            &self.file.as_ref().map_or_else(|| "\0".to_owned(), |dir| format!("{}/", dir.path().display())),
            "",
        );
        text.lines()
            .map(|line| line.split_once(" = ").expect("key = value"))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }
}
