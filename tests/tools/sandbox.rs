//! Code that tries to break out, to break the machine or never to end: a typed answer within its limits, nothing left
//! behind, and the next call works.

use std::path::Path;
use std::time::{Duration, Instant};

use agentic_fleet::tools::sandbox::{Program, Sandbox};
use fleet_actors::event::Failure;
use fleet_actors::ports::ToolOutput;
use serde_json::json;

use crate::support::{Log, World, approved, call, settings};

/// Limits that are reached in a moment; only the time is long, for a machine may be busy.
const TIGHT: [(&str, &str); 6] = [
    ("FLEET_TOOLS__SANDBOX__TIMEOUT_MS", "40000"),
    ("FLEET_TOOLS__SANDBOX__CPU_S", "2"),
    ("FLEET_TOOLS__SANDBOX__MEMORY_BYTES_MAX", "268435456"),
    ("FLEET_TOOLS__SANDBOX__OUTPUT_BYTES_MAX", "20000"),
    ("FLEET_TOOLS__SANDBOX__FILES_MAX", "20"),
    ("FLEET_TOOLS__SANDBOX__FILES_BYTES_MAX", "1000000"),
];

/// A world with a sandbox; none where there cannot be one, which is said loudly.
pub async fn world(more: &[(&str, &str)]) -> Option<World> {
    let world = World::new(&[&TIGHT, more].concat());
    for tool in ["python", "javascript"] {
        if let Some(reason) = world.offer(tool).await.unavailable {
            println!("NOT RUN: {tool}: {reason}");
            return None;
        }
    }
    Some(world)
}

impl World {
    pub async fn python(&self, code: &str) -> Result<ToolOutput, Failure> {
        self.call("python", json!({ "code": code })).await
    }

    pub async fn javascript(&self, code: &str) -> Result<ToolOutput, Failure> {
        self.call("javascript", json!({ "code": code })).await
    }

    /// What stands in the directory of runs besides the filter.
    fn scratch(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("data/scratch"))
            .map_or(0, |entries| entries.flatten().filter(|entry| entry.file_name() != "seccomp.bpf").count())
    }

    fn processes(&self) -> usize {
        processes(self.dir.path())
    }

    /// Waits until no run has left anything.
    pub async fn clean(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.scratch() > 0 || self.processes() > 0 {
            assert!(Instant::now() < end, "{} directories and {} processes are left", self.scratch(), self.processes());
            tokio::time::sleep(Duration::from_millis(20)).await; // allow-sleep: polls a condition under a deadline
        }
    }
}

/// Living processes that run in the sandbox of this directory, or make one.
fn processes(dir: &Path) -> usize {
    let dir = dir.file_name().unwrap().to_str().unwrap();
    let names = |entry: &std::fs::DirEntry, file: &str| {
        let text = std::fs::read(entry.path().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(dir)
    };
    let inside = |entry: &std::fs::DirEntry| names(entry, "mountinfo") || names(entry, "cmdline");
    std::fs::read_dir("/proc").unwrap().flatten().filter(inside).count()
}

#[tokio::test]
async fn programs_print_and_the_files_they_write_come_back() {
    let Some(world) = world(&[]).await else { return };
    let output = world
        .python("import json, os\nprint(sum(range(10)))\nos.makedirs('out')\nopen('out/t.csv','w').write('a,b')\nopen('a.json','w').write('{}')")
        .await
        .unwrap();
    assert!(output.text.starts_with("45\n"), "{}", output.text);
    assert_eq!(output.data["exit_code"], 0);
    let files: Vec<_> =
        output.artifacts.iter().map(|file| (file.name.as_str(), file.media_type.as_str(), file.bytes)).collect();
    assert_eq!(files, [("a.json", "application/json", 2), ("out_t.csv", "text/csv", 3)]);
    let parts: Vec<&str> = output.artifacts[1].url.rsplit('/').collect();
    assert_eq!(world.artifacts.read(parts[3], parts[1], parts[0]).unwrap(), Some(b"a,b".to_vec()));

    let output =
        world.javascript("require('fs').writeFileSync('x.txt', 'hi'); console.log([1, 2, 3].map(x => x * x))").await;
    let output = output.unwrap();
    assert!(output.text.contains("[ 1, 4, 9 ]"), "{}", output.text);
    assert_eq!(output.artifacts[0].name, "x.txt");
    world.clean().await;
}

#[tokio::test]
async fn a_program_that_fails_gives_its_error_and_exit_code() {
    let Some(world) = world(&[]).await else { return };
    let output = world.python("print('before')\nraise ValueError('boom')").await.unwrap();
    assert_eq!(output.data["exit_code"], 1);
    assert!(output.text.contains("before") && output.text.contains("ValueError: boom"), "{}", output.text);
    let output = world.javascript("throw new Error('boom')").await.unwrap();
    assert!(output.text.contains("Error: boom") && output.data["exit_code"] == 1, "{}", output.text);
}

/// A time that is over soon.
const HASTY: [(&str, &str); 1] = [("FLEET_TOOLS__SANDBOX__TIMEOUT_MS", "1500")];

/// Programs that go on until they are ended, and what the failure says.
const ENDLESS: [(&str, &str, &str); 12] = [
    ("python", "while True: pass", "processor time"),
    ("javascript", "for (;;) {}", "processor time"),
    ("python", "import time\ntime.sleep(3600)", "longer than 1500 ms"),
    ("javascript", "setInterval(() => {}, 1000)", "longer than 1500 ms"),
    ("python", "while True: print('x' * 1000)", "printed more than"),
    ("python", "import sys\nwhile True: sys.stderr.write('x' * 1000)", "printed more than"),
    ("javascript", "for (;;) require('fs').writeSync(1, 'x'.repeat(1000))", "printed more than"),
    ("python", "n = 0\nwhile True:\n  open(f'f{n}', 'w').close(); n += 1", "files"),
    ("python", "import os\nwhile True:\n  os.mkdir('d'); os.chdir('d')", "files"),
    // Deeper than a path is long, in few entries: what lies there would be out of sight.
    (
        "python",
        "import os, time\nfor n in range(19):\n  os.mkdir('d' * 250); os.chdir('d' * 250)\ntime.sleep(60)",
        "cannot be read",
    ),
    (
        "python",
        "import time\nfor n in range(9): open(f'f{n}', 'w').write('x' * 300000)\ntime.sleep(60)",
        "bytes of files",
    ),
    (
        "python",
        "import os, signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n  except Exception: pass\nwhile True: pass",
        "was ended",
    ),
];

#[tokio::test]
async fn programs_that_do_not_end_are_ended_within_their_limits() {
    let Some(patient) = world(&[]).await else { return };
    let Some(hasty) = world(&HASTY).await else { return };
    for (tool, code, text) in ENDLESS {
        let begun = Instant::now();
        let world = if text.contains("longer") { &hasty } else { &patient };
        let failure = world.call(tool, json!({ "code": code })).await.expect_err(code);
        assert_eq!(&*failure.code, "sandbox_limit", "{code}: {failure}");
        assert!(failure.message.contains(text), "{code}: {}", failure.message);
        let longest = Duration::from_secs(if text.contains("longer") { 7 } else { 45 });
        assert!(begun.elapsed() < longest, "{code}: {:?}", begun.elapsed());
    }
    patient.clean().await;
    hasty.clean().await;
    println!("{} endless programs ended by their limits", ENDLESS.len());
}

#[tokio::test]
async fn memory_is_bounded_for_one_process_and_for_all_together() {
    let Some(world) = world(&[("FLEET_TOOLS__SANDBOX__CPU_S", "10")]).await else {
        return;
    };
    // One allocation of a thousand million bytes is refused to the program, which can say so.
    for code in ["b = bytearray(10**9)", "b = 'x' * 10**9", "b = [0] * 10**9"] {
        let output = world.python(code).await.unwrap();
        assert!(output.text.contains("MemoryError") && output.data["exit_code"] == 1, "{code}: {}", output.text);
    }
    let output = world.javascript("Buffer.alloc(1e9)").await.unwrap();
    assert!(output.text.contains("allocation failed"), "{}", output.text);
    // Bit by bit, in one process, in many, and in memory that belongs to none.
    let many = "import os, time\nfor _ in range(8):\n  if os.fork() == 0:\n    b = bytearray(60_000_000)\n    time.sleep(60)\ntime.sleep(60)";
    let shared =
        "import mmap, time\nm = mmap.mmap(-1, 10**9)\nfor n in range(0, 10**9, 4096): m[n] = 1\ntime.sleep(60)";
    for code in [many, shared] {
        let failure = world.python(code).await.expect_err(code);
        assert_eq!(&*failure.code, "sandbox_limit", "{failure}");
        assert!(failure.message.contains("memory"), "{code}: {}", failure.message);
    }
    let heap = world.javascript("const a = []; for (;;) a.push(new Array(1e5).fill(1.5))").await;
    let ended =
        heap.as_ref().map_or_else(|failure| &*failure.code == "sandbox_limit", |output| output.data["exit_code"] != 0);
    assert!(ended, "{heap:?}");
    for hidden in ["os.memfd_create('x')", "ctypes.CDLL(None, use_errno=True).shmget(1, 10**9, 0o1600)"] {
        let code = format!(
            "import os, ctypes\ntry:\n  r = {hidden}\n  print('made' if r >= 0 else 'refused')\nexcept OSError: print('refused')"
        );
        assert_eq!(world.python(&code).await.unwrap().text, "refused", "{hidden}");
    }
    world.clean().await;
}

#[tokio::test]
async fn a_fork_bomb_stays_in_its_sandbox_and_leaves_nothing() {
    let Some(world) = world(&[("FLEET_TOOLS__SANDBOX__TIMEOUT_MS", "4000")]).await else { return };
    let bombs = [
        ("python", "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"),
        (
            "python",
            "import os\ntry:\n  while True:\n    if os.fork() == 0:\n      os.setsid()\n      while True: pass\nexcept OSError as e: print(e)",
        ),
        (
            "javascript",
            "const { spawn } = require('child_process'); for (;;) { try { spawn('/usr/bin/sleep', ['3600'], { detached: true }) } catch {} }",
        ),
    ];
    for (tool, code) in bombs {
        let begun = Instant::now();
        let bomb = world.call(tool, json!({ "code": code }));
        tokio::pin!(bomb);
        let mut most = 0;
        let ended = loop {
            tokio::select! {
                ended = &mut bomb => break ended,
                () = tokio::time::sleep(Duration::from_millis(50)) => most = most.max(world.processes()),
            }
        };
        // The second one's first process ends by itself when it can make no more; the others die with it.
        if let Err(failure) = &ended {
            assert_eq!(&*failure.code, "sandbox_limit", "{failure}");
        }
        assert!(most <= 70, "{most} processes");
        assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
        world.clean().await;
    }
}

#[tokio::test]
async fn a_dropped_call_kills_every_process_of_its_program() {
    let Some(world) = world(&[]).await else { return };
    let offer = world.offer("python").await;
    let code = "import os, time\nos.fork()\nos.fork()\nif os.fork() == 0: os.setsid()\nprint('up', flush=True)\ntime.sleep(3600)";
    let runner = world.runner();
    let ask = approved(call(&offer, json!({ "code": code })));
    let running = runner.call(&ask);
    tokio::pin!(running);
    let end = Instant::now() + Duration::from_secs(30);
    while world.processes() < 9 {
        assert!(Instant::now() < end, "it did not come up: {}", world.processes());
        let _ = tokio::time::timeout(Duration::from_millis(20), &mut running).await;
    }
    let begun = Instant::now();
    running.set(Box::pin(std::future::pending()));
    world.clean().await;
    println!("gone after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_file_that_is_too_large_cannot_be_written() {
    let Some(world) = world(&[]).await else { return };
    let sparse = "f = open('big', 'wb')\nf.seek(10**12)\nf.write(b'x')\nf.flush()";
    let long = "f = open('big', 'wb')\nwhile True: f.write(b'x' * 100000)";
    for code in [sparse, long] {
        match world.python(code).await {
            Ok(output) => assert!(output.text.contains("File too large"), "{}", output.text),
            Err(failure) => assert_eq!(&*failure.code, "sandbox_limit"),
        }
    }
    let many = "for n in range(15): open(f'f{n}', 'wb').write(b'x' * 900000)";
    assert_eq!(&*world.python(many).await.expect_err("too much").code, "sandbox_limit");
    world.clean().await;
}

#[tokio::test]
async fn after_the_worst_the_next_call_works_and_programs_run_side_by_side() {
    let Some(world) = world(&[("FLEET_TOOLS__SANDBOX__CONCURRENT_MAX", "2")]).await else { return };
    let bad = world.python("while True: pass");
    let good = async {
        let mut texts = Vec::new();
        for n in 0..3 {
            texts.push(world.python(&format!("print({n} + 1)")).await.unwrap().text);
        }
        texts
    };
    let (bad, good) = tokio::join!(bad, good);
    assert_eq!(&*bad.expect_err("endless").code, "sandbox_limit");
    assert_eq!(good, ["1", "2", "3"]);
}

#[tokio::test]
async fn where_there_is_no_sandbox_the_tool_is_not_offered_and_the_log_says_why() {
    let missing = World::new(&[("FLEET_TOOLS__SANDBOX__BWRAP", "/nonexistent/bwrap")]);
    let offer = missing.offer("python").await;
    assert!(offer.unavailable.as_deref().unwrap_or_default().contains("/nonexistent/bwrap is not installed"));
    let failure = missing.python("print(1)").await.expect_err("it ran");
    assert_eq!(&*failure.code, "tool_unavailable");

    for (interpreter, text) in [("/usr/bin/false", "does not run in the sandbox"), ("/bin/sh", "is not in /usr")] {
        let world = World::new(&[("FLEET_TOOLS__PYTHON__INTERPRETER", interpreter)]);
        let reason = world.offer("python").await.unavailable.unwrap_or_default();
        // Where there is no bubblewrap that is the reason given.
        assert!(reason.contains(text) || !Path::new("/usr/bin/bwrap").exists(), "{reason}");
    }
}

#[tokio::test]
async fn reaching_a_limit_is_a_security_event_without_the_code() {
    let Some(world) = world(&[]).await else { return };
    let log = Log::capture();
    world.python("while True: print('canary-code')").await.expect_err("endless");
    let text = log.text();
    assert!(text.contains("sec.event=\"sandbox_limit\"") && !text.contains("canary-code"), "{text}");
}

#[tokio::test]
async fn a_data_directory_that_nobody_may_enter_moves_programs_to_the_temporary_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let canonical = dir.path().canonicalize().unwrap();
    let sandbox = match Sandbox::new(settings(&TIGHT).tools.sandbox, dir.path()) {
        Ok(sandbox) => sandbox,
        Err(reason) => return println!("NOT RUN: {reason}"),
    };
    let digest = fleet_actors::journal::digest(canonical.as_os_str().as_encoded_bytes());
    let moved = std::env::temp_dir().join(format!("agentic-fleet-scratch-{digest}"));
    let root = rustix::process::geteuid().is_root();
    assert_eq!((moved.exists(), canonical.join("scratch").exists()), (root, !root));
    let program = Program { interpreter: Path::new("/usr/bin/python3"), flags: &[], file: "m.py", code: "print(1)" };
    let ended = sandbox.run(program).await.unwrap();
    assert_eq!((ended.exit_code, ended.stdout.as_str(), ended.stderr.as_str()), (0, "1\n", ""));
    // While it is used nobody else uses it.
    let second = Sandbox::new(settings(&TIGHT).tools.sandbox, dir.path()).err().unwrap_or_default();
    assert!(second.contains("no directory to run code in"), "{second}");
    drop(sandbox);
    // What an earlier process left there is gone at the next start; what somebody else has put there is not used.
    let kept = if root { moved.clone() } else { canonical.join("scratch") };
    std::fs::create_dir_all(kept.join("left/work")).unwrap();
    Sandbox::new(settings(&TIGHT).tools.sandbox, dir.path()).unwrap();
    assert!(!kept.join("left").exists());
    std::fs::remove_dir_all(&kept).unwrap();
    std::os::unix::fs::symlink("/tmp", &kept).unwrap();
    let refused = Sandbox::new(settings(&TIGHT).tools.sandbox, dir.path()).err().unwrap_or_default();
    assert!(refused.contains("belongs to somebody else"), "{refused}");
    std::fs::remove_file(&kept).unwrap();
}
