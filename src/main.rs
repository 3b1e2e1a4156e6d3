//! The binary: reads the command line and runs the command.

use agentic_fleet::cli::{Cli, explain, run};
use clap::Parser as _;

/// A quarter of a busy server's time was glibc's allocator; see docs/decisions/0061-the-allocator-is-mimalloc.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let code = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(told) => explain(&told),
    };
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(1))
}
