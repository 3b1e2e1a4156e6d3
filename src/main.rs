//! The binary: reads the command line and runs the command.

use agentic_fleet::cli::{Cli, explain, run};
use clap::Parser as _;

fn main() -> std::process::ExitCode {
    let code = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(told) => explain(&told),
    };
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(1))
}
