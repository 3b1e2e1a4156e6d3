//! The tools `python` and `javascript`: code in, text and files out.
//!
//! Whether they can run is found out once, beside the start; until that is known, those who ask wait for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fleet_actors::event::Failure;
use fleet_actors::ports::{Artifact, LocalFuture, ToolOutput, ToolSpec};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Ended, Program, Sandbox, SandboxGuard, make};
use crate::settings::{InterpreterSettings, SandboxSettings};
use crate::tools::artifacts::Artifacts;
use crate::tools::builtin::Tool;
use crate::tools::{Dispatch, Reach};

/// Characters of the code of one call.
const CODE_CHARS_MAX: usize = 200_000;

/// How long somebody waits to hear whether code can run.
const TRIAL_MAX: Duration = Duration::from_secs(10);

/// A language that can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// By CPython.
    Python,
    /// By Node.js.
    Javascript,
}

impl Language {
    fn tool(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Javascript => "javascript",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Python => "main.py",
            Self::Javascript => "main.js",
        }
    }

    fn flags(self, memory: u64) -> Vec<String> {
        match self {
            Self::Python => vec!["-I".to_owned(), "-B".to_owned(), "-u".to_owned()],
            // The rest of the memory is for what is not JavaScript's own.
            Self::Javascript => vec![format!("--max-old-space-size={}", memory / 2 / 1_048_576)],
        }
    }

    fn trial(self) -> &'static str {
        match self {
            Self::Python => "print(6 * 7)",
            Self::Javascript => "console.log(6 * 7)",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Python => {
                "Runs a Python 3 program in a sandbox without network and gives what it prints. Print what you want to \
                 see. Files it writes to its working directory are kept for the user."
            }
            Self::Javascript => {
                "Runs a JavaScript program (Node.js, CommonJS) in a sandbox without network and gives what it prints. \
                 Log what you want to see. Files it writes to its working directory are kept for the user."
            }
        }
    }
}

/// A sandbox, or why there is none.
pub type Found = Result<Sandbox, String>;

/// One code tool.
pub struct CodeTool {
    language: Language,
    settings: InterpreterSettings,
    memory: u64,
    artifacts: Artifacts,
    found: watch::Receiver<Option<Found>>,
}

impl CodeTool {
    /// The tools of `wanted`, which share a sandbox near `data_dir`. It is made and tried in a thread of its own, and the
    /// log says of each language that cannot run why.
    #[must_use]
    pub fn start(
        wanted: Vec<(Language, InterpreterSettings)>,
        sandbox: &SandboxSettings,
        data_dir: &Path,
        artifacts: &Artifacts,
        guard: &SandboxGuard,
    ) -> Vec<Arc<dyn Tool>> {
        let memory = sandbox.memory_bytes_max.get();
        let (mut tools, mut trials): (Vec<Arc<dyn Tool>>, Vec<_>) = (Vec::new(), Vec::new());
        for (language, settings) in wanted {
            let (say, found) = watch::channel(None);
            trials.push((language, settings.clone(), say));
            tools.push(Arc::new(Self { language, settings, memory, artifacts: artifacts.clone(), found }));
        }
        if trials.is_empty() {
            return tools;
        }
        let (sandbox, data_dir, ground) = (sandbox.clone(), data_dir.to_owned(), guard.0.clone());
        let trial = std::thread::Builder::new().name("sandbox-trial".to_owned());
        let spawned = trial.spawn(move || {
            let made = make(&ground, sandbox, &data_dir);
            for (language, settings, say) in trials {
                let found = made.clone().and_then(|sandbox| tried(language, &settings, memory, sandbox));
                if let Err(reason) = &found {
                    tracing::warn!(tool = language.tool(), reason, "the tool is not offered");
                }
                say.send_replace(Some(found));
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "code is not run: no thread to try the sandbox in");
        }
        tools
    }

    /// Waits until it is known whether it can run.
    async fn found(&self) -> Found {
        let mut found = self.found.clone();
        let known = timeout(TRIAL_MAX, found.wait_for(Option::is_some)).await;
        let known = known.ok().and_then(|known| known.ok().and_then(|found| found.clone()));
        known.unwrap_or_else(|| Err("the sandbox could not be tried".to_owned()))
    }

    async fn run(&self, call: Dispatch<'_>) -> Result<ToolOutput, Failure> {
        let sandbox = self.found().await.map_err(|reason| Failure::new("tool_unavailable", reason))?;
        let program = Program {
            interpreter: &self.settings.interpreter,
            flags: &self.language.flags(self.memory),
            file: self.language.file(),
            code: call.arguments["code"].as_str().unwrap_or_default(),
        };
        let ended = sandbox.run(program).await?;
        let (workflow, artifacts, files) = (call.workflow.clone(), self.artifacts.clone(), ended.files.clone());
        // Syncing files takes time that others should not wait for.
        let kept = tokio::task::spawn_blocking(move || {
            files.iter().map(|left| artifacts.keep(&workflow, &left.path, &left.content)).collect()
        });
        let kept: std::io::Result<Vec<Artifact>> = kept.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let kept = kept.map_err(|error| Failure::new("tool_failed", format!("its files cannot be kept: {error}")))?;
        Ok(shown(&ended, kept))
    }
}

fn tried(language: Language, settings: &InterpreterSettings, memory: u64, sandbox: Sandbox) -> Found {
    if !settings.interpreter.starts_with("/usr") {
        return Err(format!("{} is not in /usr, which is all a program sees", settings.interpreter.display()));
    }
    let flags = language.flags(memory);
    let trial = language.trial();
    let program = Program { interpreter: &settings.interpreter, flags: &flags, file: language.file(), code: trial };
    sandbox.probe(program, "42").map(|()| sandbox)
}

fn shown(ended: &Ended, artifacts: Vec<Artifact>) -> ToolOutput {
    let Ended { exit_code, stdout, stderr, passed_over, .. } = ended;
    let mut text = stdout.trim_end().to_owned();
    if !stderr.trim().is_empty() {
        text.push_str(&format!("\n\nstandard error:\n{}", stderr.trim_end()));
    }
    if *exit_code != 0 {
        text.push_str(&format!("\n\nThe program ended with exit code {exit_code}."));
    }
    for artifact in &artifacts {
        text.push_str(&format!("\n\nFile {} ({} bytes): {}", artifact.name, artifact.bytes, artifact.url));
    }
    if *passed_over > 0 {
        text.push_str(&format!("\n\n{passed_over} things it left are no ordinary files and were thrown away."));
    }
    if text.trim().is_empty() {
        text = "The program printed nothing.".to_owned();
    }
    let data = json!({ "exit_code": exit_code, "stdout": stdout, "stderr": stderr, "passed_over": passed_over });
    ToolOutput { text: text.trim_start().to_owned(), data, artifacts, ..ToolOutput::default() }
}

impl Tool for CodeTool {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: self.language.tool().to_owned(),
            description: self.language.description().to_owned(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "code": {
                        "type": "string", "minLength": 1, "maxLength": CODE_CHARS_MAX,
                        "description": "The whole program"
                    }
                },
                "required": ["code"],
                "additionalProperties": false
            }),
        }
    }

    fn reach(&self) -> Reach {
        Reach::Writes
    }

    fn unavailable(&self) -> LocalFuture<'_, Option<String>> {
        Box::pin(async move { self.found().await.err() })
    }

    fn call<'a>(&'a self, call: Dispatch<'a>) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        Box::pin(self.run(call))
    }
}
