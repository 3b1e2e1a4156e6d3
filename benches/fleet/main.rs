//! Figures of the optimised binary, each beside its baseline, taken in turns in the same run. `scripts/bench [name]`.
//!
//! What each measures and what it must reach stands in docs/benchmarks.md. The simulated model and the server are
//! processes of their own; this one is the client. Ratios are what counts: the machine's own pace differs by the hour.
//!
//! Absent on purpose: a statistic over many machines, and a failure of the command for a figure that was missed unless
//! `--strict` asks for it. A figure says `MISSED`.

mod appends;
mod chats;
mod chats_clients;
#[path = "../../tests/process/crowd.rs"]
#[expect(dead_code, reason = "the tests of processes use more of it")]
mod crowd;
mod figure;
mod footprint;
#[path = "../../tests/journal/house.rs"]
#[expect(dead_code, reason = "the tests of journals use more of it")]
mod house;
mod http;
mod mailbox;
mod parked;
mod process;
mod refusals;
mod replay;
mod teams;

use figure::Table;

type Bench = (&'static str, fn(&mut Table));

const BENCHES: [Bench; 8] = [
    ("chats", chats::run),
    ("refusals", refusals::run),
    ("appends", appends::run),
    ("mailbox", mailbox::run),
    ("footprint", footprint::run),
    ("replay", replay::run),
    ("teams", teams::run),
    ("parked", parked::run),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == refusals::BARE) {
        return refusals::serve_bare();
    }
    // `cargo test --all-targets` runs bench targets, too, and means no measurement.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("nothing measured: run scripts/bench");
        return;
    }
    let names: Vec<&str> = arguments.iter().map(String::as_str).filter(|name| !name.starts_with("--")).collect();
    let known: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        eprintln!("there is no bench `{unknown}`; there are {}", known.join(", "));
        std::process::exit(2);
    }
    let mut table = Table::new();
    for (name, run) in BENCHES {
        if names.is_empty() || names.contains(&name) {
            run(&mut table);
        }
    }
    let missed = table.print();
    if missed > 0 && arguments.iter().any(|argument| argument == "--strict") {
        std::process::exit(1);
    }
}
