//! Resuming a run of 1,000 tool calls at its end: from the ask to the first call that is not in its journal.

use std::time::Instant;

use super::figure::{Bar, Table, median, setting};
use super::house::House;

pub fn run(table: &mut Table) {
    table.about("replay: resume at the end of a run");
    for (calls, mode, bar) in [
        (100, None, Bar::None),
        (1_000, None, Bar::AtMost(50.0)),
        // A model speaks before each call: 2,000 steps and a context of 2,000 messages.
        (1_000, Some("rounds"), Bar::None),
    ] {
        let name = format!("resume behind {calls} tool calls{}", if mode.is_some() { " and model calls" } else { "" });
        table.alone(name, "ms", resume_ms(calls, mode), bar);
    }
}

fn resume_ms(calls: u64, mode: Option<&str>) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    actix::System::new().block_on(async {
        let house = House::open(dir.path());
        let workflow = house.run_to_its_end(calls, mode).await;
        house.close().await;
        let mut times = Vec::new();
        for _ in 0..setting("BENCH_ROUNDS", 3).max(5) {
            let house = House::open(dir.path());
            let began = Instant::now();
            house.sessions.resume(&workflow, None).await.expect("resumed");
            house.world.at_its_end().await;
            times.push(began.elapsed().as_secs_f64() * 1e3);
            assert!(house.world.looks().is_empty(), "no call was made again");
            house.close().await;
        }
        median(times)
    })
}
