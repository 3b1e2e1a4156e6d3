//! The processes of one run of code: what they hold, and their end.
//!
//! All of them live in one process namespace, whose first process is the child of bubblewrap's own: when that one is
//! killed the kernel kills the others and bubblewrap ends.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// A run of bubblewrap, by the number of its own process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    pub(super) outer: u32,
}

impl Tree {
    /// Kills every process of it.
    pub(super) fn kill(self) {
        let mut inner = children(self.outer);
        if inner.is_empty() {
            // It has not come to start anything.
            inner.push(self.outer);
        }
        for pid in inner {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // One that is gone already is as good as killed.
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        }
    }

    /// Memory that its processes hold, each shared page once, in bytes.
    pub(super) fn memory(self) -> u64 {
        let (mut total, mut left) = (0, children(self.outer));
        while let Some(pid) = left.pop() {
            total += held(pid);
            left.extend(children(pid));
        }
        total
    }
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).ok();
    let found: Vec<String> = tasks.flatten().filter_map(of_task).collect();
    found.iter().flat_map(|pids| pids.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

fn held(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    let proportional = rollup.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    // A process can hide its map, but not its size.
    let resident = || {
        let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    proportional.map_or_else(|| resident().unwrap_or(0) * 4_096, |kib| kib * 1_024)
}
