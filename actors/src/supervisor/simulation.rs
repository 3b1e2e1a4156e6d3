//! Seeded simulation of lives: random workflows over a store in memory and scripted ports on paused time, killed at
//! random polls, with lost acknowledgements, refused commits, zombies, parks, retries and two answers to each question.
//!
//! Checked: a recorded call is never made again and every dispatch has a durable intent; every client, whatever number it
//! resumes from, has the text and the ordered events of one who never left; the result is that of a run without faults;
//! and the checks themselves are strong enough to catch ten ways to get it wrong.

mod client;
mod program;
mod world;

use std::time::Duration;

use crate::event::RunOutcome;
use crate::mutant::{self, Mutant};

use self::world::{Faults, World};

/// Runs one seed to its end and checks it; the error names what broke.
fn check(seed: u64) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let limit = Duration::from_secs(60);
        let faulty = tokio::time::timeout(limit, World::new(seed, Faults::Drawn).run()).await;
        let faulty = faulty.map_err(|_| "the run with faults did not end".to_owned())??;
        if faulty.timing_free {
            let calm = tokio::time::timeout(limit, World::new(seed, Faults::None).run()).await;
            let calm = calm.map_err(|_| "the run without faults did not end".to_owned())??;
            if (faulty.outcome, &faulty.result) != (calm.outcome, &calm.result) {
                return Err(format!("faults changed the result: {:?} is not {:?}", faulty.result, calm.result));
            }
        }
        Ok(())
    })
}

fn seeds(default: u64) -> u64 {
    std::env::var("FLEET_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(default)
}

#[test]
fn random_workflows_with_crashes_at_random_steps_give_every_client_the_same_run() {
    let seeds = seeds(2_000);
    let broken: Vec<_> =
        (0..seeds).filter_map(|seed| check(seed).err().map(|broken| format!("seed {seed}: {broken}"))).collect();
    println!("{seeds} seeds, {} broken", broken.len());
    assert!(
        broken.is_empty(),
        "{} of {seeds} seeds broke:\n{}",
        broken.len(),
        broken[..broken.len().min(8)].join("\n")
    );
}

#[test]
fn one_seed_twice_is_the_same_run_to_the_byte() {
    for seed in 0..50 {
        let run = || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move { World::new(seed, Faults::Drawn).run().await.map(|end| end.bytes) })
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}

#[test]
fn the_simulation_catches_every_broken_rule() {
    let mutants = [
        Mutant::SeqFollowsDurable,
        Mutant::EpochNotTaken,
        Mutant::VisibleBeforeDurable,
        Mutant::DeltasOvertake,
        Mutant::NoVoidsAtTakeover,
        Mutant::NoVoidsForLosers,
        Mutant::CompletedWithoutText,
        Mutant::RaceNotRecorded,
        Mutant::StorageErrorShown,
        Mutant::AmbiguousRepeated,
    ];
    let limit = seeds(4_000);
    for mutant in mutants {
        mutant::activate(Some(mutant));
        // A broken rule may also break an assertion of ours, which counts as caught.
        let caught = (0..limit).find(|seed| {
            let quiet = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {}));
            let result = std::panic::catch_unwind(|| check(*seed));
            std::panic::set_hook(quiet);
            !matches!(result, Ok(Ok(())))
        });
        mutant::activate(None);
        println!("{mutant:?}: caught at seed {caught:?}");
        assert!(caught.is_some(), "{mutant:?} lives after {limit} seeds");
    }
}

/// What a finished simulation says.
struct End {
    outcome: RunOutcome,
    result: Option<String>,
    timing_free: bool,
    bytes: Vec<u8>,
}
