//! The binary: reads the command line and runs the command.

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    let code = agentic_fleet::cli::run(agentic_fleet::cli::Cli::parse());
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(1))
}
