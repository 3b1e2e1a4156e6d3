//! Settings as an operator meets them: which layer wins, what a mistake looks like, what is never shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use agentic_fleet::settings::{
    Effective, Flags, OPERATOR_NAMES, Profile, Provider, SECRET_NAMES, Settings, SettingsError, Sources, report,
};

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
        Settings::load(&self.sources).err().expect("a refusal")
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

#[test]
fn zz_probe() {
    println!("{}", report(&start().effective()));
    for yaml in ["", "# only a comment\n", "server:\n", "- 1\n", "server:\n  port: eighty\n  prot: 1\n  port2: 3\nsessions:\n  max_concurrent_workflows: 0\n",
        "server:\n  port: 1\n  port: 2\n", "server: [1\n", "server:\n  port: \"1\n", "server:\n  port: ${PORT:-9}\n", "server:\n  port: ${PORT}\n", "llm:\n  api_key: sk-canary\n", "llm:\n  base_url: ${OPENAI_API_KEY}\n", "server:\n  frame_bytes_max: 2097152\n", "server: 3\n", "agents:\n  bob: {description: x}\n", "a: &x [*x]\n",
        "server:\n\tport: 3\n", "llm:\n  base_url: https://me:canary@host/v1\n", "llm: {simulated: {jitter: .nan}}\n", "llm: {simulated: {seed: -1}}\n", "llm: {model: 5}\n", "llm: {model: null}\n", "---\nserver: {}\n---\nserver: {}\n", "llm: {provider: azure}\n", "server: {allow_unauthenticated: yes}\n"] {
        let s = start().file(yaml);
        match Settings::load(&s.sources) {
            Ok(e) => println!("OK {yaml:?} port {}", e.settings.server.port),
            Err(_) => println!("ERR {yaml:?}\n{}\n", s.refusal()),
        }
    }
    let _ = (BTreeSet::<u8>::new(), PathBuf::new(), OPERATOR_NAMES, SECRET_NAMES, Profile::Local, Provider::Auto);
}
