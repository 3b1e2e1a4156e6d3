//! The commands of the binary, one file each.

mod agents;
mod approvals;
mod chat;
mod checkpoints;
mod client;
mod config;
mod failure;
mod fleet;
mod history;
mod run;
mod screen;
mod serve;
mod simulate;
mod terminal;

use std::path::PathBuf;

use clap::builder::RangedI64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use fleet_actors::ports::ReasoningEffort;

use self::failure::CommandError;
use self::terminal::{complain, ended, note};
use crate::settings::{Effective, Flags, Settings, Sources, process_environment};

/// AgenticFleet: serves multi-agent LLM workflows over WebSocket, SSE and HTTP, durably, with exact backpressure.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve chats and workflow submissions.
    ///
    /// Ends with 0 after a drain, 2 with wrong settings or usage, 70 when a service panicked, 74 when the disk failed, 75 when another
    /// process owns the data directory, else 1.
    Serve(Serve),
    /// Run one message in this terminal, without a server or through one.
    Run(run::Run),
    /// A conversation in this terminal, without a server or through one.
    Chat(chat::Chat),
    /// The agents there are.
    ListAgents(agents::ListAgents),
    /// Finished executions: list, show, delete.
    History {
        #[command(subcommand)]
        command: history::History,
    },
    /// Positions of runs: list, show, resume, fork.
    Checkpoints {
        #[command(subcommand)]
        command: checkpoints::Checkpoints,
    },
    /// Questions that runs wait on: list, answer.
    Approvals {
        #[command(subcommand)]
        command: approvals::Approvals,
    },
    /// Look at the settings.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Serve the simulated model as an OpenAI-compatible server.
    SimulateLlm(Simulate),
}

/// Where settings come from.
#[derive(Debug, Clone, Args)]
struct Where {
    /// A YAML file over the built-in defaults [env: FLEET_CONFIG].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Built-in profile: local, production or test [default: local].
    #[arg(long)]
    profile: Option<String>,
    /// The one directory that is written to [default: .var].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Serve {
    /// Address to listen on [default: 127.0.0.1].
    #[arg(long)]
    host: Option<String>,
    /// Port to listen on; 0 takes a free one [default: 8000].
    #[arg(long)]
    port: Option<u16>,
    #[command(flatten)]
    from: Where,
}

/// The data directory, or a server.
#[derive(Debug, Args)]
struct Reach {
    /// Go through this running server instead of the data directory, as http://127.0.0.1:8000.
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "profile", "data_dir"])]
    server: Option<String>,
    #[command(flatten)]
    from: Where,
}

/// How much a model thinks.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Effort {
    Minimal,
    Medium,
    Maximal,
}

impl From<Effort> for ReasoningEffort {
    fn from(effort: Effort) -> Self {
        match effort {
            Effort::Minimal => Self::Minimal,
            Effort::Medium => Self::Medium,
            Effort::Maximal => Self::Maximal,
        }
    }
}

/// Entries of a page, as the HTTP API bounds them.
fn page_limit() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=100)
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective settings and where each value comes from; exit 2 when they are wrong.
    Check(Serve),
}

#[derive(Debug, Args)]
struct Simulate {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8001)]
    port: u16,
    /// Other seeds give other answers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Milliseconds before the first token.
    #[arg(long, default_value_t = 200)]
    latency_ms: u64,
    /// Tokens a second; 0 sends them at once.
    #[arg(long, default_value_t = 60)]
    tokens_per_second: u32,
    /// Share, 0 to 1, by which times vary.
    #[arg(long, default_value_t = 0.2)]
    jitter: f64,
    /// Tokens of an answer; what it has to say when absent.
    #[arg(long)]
    tokens: Option<u32>,
}

/// Runs the command and gives the process's exit code: 0 done, 1 failed, 2 wrong settings or usage, 70 a service panicked, 74 storage failed, 75
/// the data directory is in use.
#[must_use]
pub fn run(cli: Cli) -> i32 {
    match cli.command {
        Command::Serve(serve) => {
            let flags = serve.flags();
            with_settings(&flags, |effective| serve::serve(effective, &flags))
        }
        Command::Run(options) => finish(run::run(&options)),
        Command::Chat(options) => finish(chat::run(&options)),
        Command::ListAgents(options) => finish(agents::run(&options)),
        Command::History { command } => finish(history::run(&command)),
        Command::Checkpoints { command } => finish(checkpoints::run(&command)),
        Command::Approvals { command } => finish(approvals::run(&command)),
        Command::Config { command: ConfigCommand::Check(serve) } => ended(with_settings(&serve.flags(), config::check)),
        Command::SimulateLlm(simulate) => simulate::serve(&simulate),
    }
}

/// Prints the help, the version, or what is wrong with the command line, and gives the process's exit code.
#[must_use]
pub fn explain(told: &clap::Error) -> i32 {
    let printed = told.print();
    if !told.use_stderr() {
        note(printed);
    }
    ended(told.exit_code())
}

/// Runs a command to its end; a failure is one line on standard error.
fn finish(command: impl Future<Output = Result<i32, CommandError>>) -> i32 {
    ended(actix_web::rt::System::new().block_on(command).unwrap_or_else(|error| {
        complain(&error.to_string());
        error.exit_code()
    }))
}

fn with_settings(flags: &Flags, then: impl FnOnce(Effective) -> i32) -> i32 {
    match Settings::load(&sources(flags)) {
        Ok(effective) => then(effective),
        Err(error) => {
            complain(&error.to_string());
            2
        }
    }
}

fn sources(flags: &Flags) -> Sources {
    Sources { flags: flags.clone(), environment: process_environment() }
}

impl Where {
    fn flags(&self) -> Flags {
        let (config, profile, data_dir) = (self.config.clone(), self.profile.clone(), self.data_dir.clone());
        Flags { host: None, port: None, config, profile, data_dir }
    }
}

impl Serve {
    fn flags(&self) -> Flags {
        Flags { host: self.host.clone(), port: self.port, ..self.from.flags() }
    }
}
