//! A disk that breaks and a disk that is full, under the real server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agentic_fleet::runtime::SystemClock;
use fleet_actors::ports::Clock as _;
use serde_json::{Value, json};

use crate::process::{client, log, serve_with, simulate, spawn};

#[tokio::test(flavor = "current_thread")]
async fn a_sync_that_fails_ends_the_process_with_74_within_a_second_and_nothing_is_acknowledged_after_it() {
    let dir = tempfile::tempdir().unwrap();
    // Runs stay in their first call, so that one accepted run is one commit.
    let (_model, model) = simulate(dir.path(), 60_000, 0);
    let (redo, trace) = (dir.path().join(".var/fleet.db-redo"), dir.path().join("trace"));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-ttt", "-o"]).arg(&trace).arg("-P").arg(&redo);
    command.args(["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO:when=12"]);
    command.arg(env!("CARGO_BIN_EXE_agentic-fleet")).args(["serve", "--port", "0"]);
    command.env("OPENAI_BASE_URL", &model).env("MAX_CONCURRENT_WORKFLOWS", "64");
    if Command::new("strace").arg("-V").output().is_err() {
        println!("NOT RUN: strace is not installed");
        return;
    }
    let (mut server, docs) = spawn(command, dir.path(), "browser:");
    let url = docs.unwrap_or_else(|| panic!("{}", log(dir.path()))).trim_end_matches("/docs").to_owned();
    let http = client();
    let mut accepted: Vec<(i64, String)> = Vec::new();
    for n in 0..64 {
        let request = http.post(format!("{url}/api/v1/runs")).timeout(Duration::from_secs(10));
        let Ok(response) = request.json(&json!({ "task": format!("task {n}") })).send().await else { break };
        if response.status() != 202 {
            break;
        }
        let Ok(answer) = response.json::<Value>().await else { break };
        accepted.push((SystemClock.now().0, answer["workflow_id"].as_str().unwrap().to_owned()));
    }
    let status = server.ended(Duration::from_secs(10)).await;
    let ended = SystemClock.now().0;
    assert_eq!(status.and_then(|status| status.code()), Some(74), "{}", log(dir.path()));
    let trace = std::fs::read_to_string(trace).unwrap();
    let injected = trace.lines().find(|line| line.contains("INJECTED")).unwrap_or_else(|| panic!("{trace}"));
    let at: f64 = injected.split_whitespace().nth(1).unwrap().parse().unwrap();
    let at = (at * 1_000.0) as i64;
    assert!(ended - at < 1_000, "it took {} ms from the failed sync to the exit", ended - at);
    assert!(accepted.len() >= 3, "only {} runs were accepted", accepted.len());
    let late: Vec<_> = accepted.iter().filter(|(when, _)| *when > at + 1).collect();
    assert!(late.is_empty(), "acknowledged after the failed sync: {late:?}");
    let log = log(dir.path());
    assert_eq!(log.lines().filter(|line| line.contains("storage_failed")).count(), 1, "{log}");
    println!("{} accepted, exit 74 after {} ms", accepted.len(), ended - at);
    let (_server, url) = serve_with(dir.path(), &model, &[]);
    let url = url.unwrap();
    for (_, workflow) in &accepted {
        let page = http.get(format!("{url}/api/v1/workflows/{workflow}/events"));
        let page = page.header("accept", "application/json").send().await.unwrap();
        assert_eq!(page.status(), 200, "{workflow} is lost");
    }
}

#[test]
fn a_sync_that_fails_at_the_start_ends_every_command_with_74() {
    for command in [&["serve", "--port", "0"][..], &["run", "-m", "hello"]] {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join(".var/fleet.db-wal");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(&wal).args(["-e", "trace=fdatasync"]);
        // SQLite syncs the header of a new log; ours is the second.
        strace.args(["-e", "inject=fdatasync:error=EIO:when=2"]).arg(env!("CARGO_BIN_EXE_agentic-fleet")).args(command);
        let Ok(output) = strace.current_dir(dir.path()).output() else {
            println!("NOT RUN: strace is not installed");
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(74), "{command:?}: {said}");
        assert!(said.contains("was not synced"), "{said}");
    }
}

/// That of the directory at the first start is one, too; whoever starts again syncs it.
#[test]
fn a_directory_that_cannot_be_synced_at_the_first_start_ends_it_with_74() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join(".var");
    std::fs::create_dir(&data).unwrap();
    let trace = dir.path().join("trace");
    let start = |inject: &str| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o"]).arg(&trace).arg("-P").arg(&data).args(["-e", "trace=fsync", "-e", inject]);
        let output = strace.arg(env!("CARGO_BIN_EXE_agentic-fleet")).args(["run", "-m", "hello"]);
        output.current_dir(dir.path()).env_remove("OPENAI_API_KEY").envs(crate::process::ONE_AGENT).output()
    };
    let Ok(output) = start("inject=fsync:error=EIO:when=1") else {
        println!("NOT RUN: strace is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{said}");
    assert!(said.contains("its directory was not synced") && !said.contains("let this user"), "{said}");
    let output = start("inject=fsync:error=EIO:when=999").unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(std::fs::read_to_string(trace).unwrap().contains("fsync("), "the directory is synced");
}

/// A lock that is cut before it is written gives room away that a full disk may not give back.
#[tokio::test(flavor = "current_thread")]
async fn a_lock_that_has_no_room_to_say_who_holds_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, trace) = (dir.path().join(".var/lock"), dir.path().join("trace"));
    std::fs::create_dir(dir.path().join(".var")).unwrap();
    std::fs::write(&lock, "4194304\nan address of the process before\n").unwrap();
    let start = |inject: &str| {
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-qq", "-o"]).arg(&trace).arg("-P").arg(&lock);
        command.args(["-e", "trace=write,ftruncate", "-e", inject]);
        command.arg(env!("CARGO_BIN_EXE_agentic-fleet")).args(["serve", "--port", "0"]);
        spawn(command, dir.path(), "browser:")
    };
    if Command::new("strace").arg("-V").output().is_err() {
        println!("NOT RUN: strace is not installed");
        return;
    }
    let (server, url) = start("inject=write:error=ENOSPC");
    assert!(url.is_some(), "{}", log(dir.path()));
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), "", "nobody rather than somebody else");
    let second = Command::new(env!("CARGO_BIN_EXE_agentic-fleet")).arg("serve").current_dir(dir.path()).output();
    assert_eq!(second.unwrap().status.code(), Some(75), "it is held all the same");
    server.stop().await;
    std::fs::write(&lock, "4194304\nan address of the process before\n").unwrap();
    let (server, url) = start("inject=write:error=ENOSPC:when=999");
    let url = url.unwrap().trim_end_matches("/docs").to_owned();
    let said = std::fs::read_to_string(&lock).unwrap();
    assert_eq!(said.lines().nth(1), Some(&*url), "{said}");
    assert_eq!(said.lines().count(), 2, "nothing is left of what it said before: {said}");
    let trace = std::fs::read_to_string(trace).unwrap();
    let first = trace.lines().next().unwrap();
    assert!(first.contains("write("), "written over before it is cut: {trace}");
    server.stop().await;
}

/// One write of the log in a hundred and fifty is refused: a transaction that makes more finds no room, however often it is tried.
#[tokio::test(flavor = "current_thread")]
async fn a_removal_that_is_larger_than_the_free_room_is_made_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    if Command::new("strace").arg("-V").output().is_err() {
        println!("NOT RUN: strace is not installed");
        return;
    }
    let (_model, model) = simulate(dir.path(), 0, 0);
    let http = client();
    let (server, url) = serve_with(dir.path(), &model, &[]);
    let url = url.unwrap();
    for n in 0..60 {
        let mut run = json!({ "task": format!("task {n} {}", "x".repeat(2_000)) });
        if n % 2 == 0 {
            run["conversation_id"] = "talk".into();
        }
        let answer = http.post(format!("{url}/api/v1/run")).json(&run).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }
    server.stop().await;
    let reserve = dir.path().join(".var/reserve");
    std::fs::write(&reserve, vec![0; 16 << 20]).unwrap();
    let made = reserve.metadata().unwrap().modified().unwrap();
    let trace = dir.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-o"]).arg(&trace).arg("-P").arg(dir.path().join(".var/fleet.db-wal"));
    command.args(["-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC:when=150+150"]);
    command.arg(env!("CARGO_BIN_EXE_agentic-fleet")).args(["serve", "--port", "0"]);
    command.env("OPENAI_BASE_URL", &model).envs(crate::process::ONE_AGENT);
    let (_server, docs) = spawn(command, dir.path(), "browser:");
    let url = docs.unwrap_or_else(|| panic!("{}", log(dir.path()))).trim_end_matches("/docs").to_owned();
    let count = async || {
        let page = http.get(format!("{url}/api/v1/history")).send().await.unwrap();
        page.json::<Value>().await.unwrap().as_array().unwrap().len()
    };
    let refused = || std::fs::read_to_string(&trace).unwrap().matches("INJECTED").count();
    assert!(count().await > 0);
    let before = refused();
    let deleted = http.delete(format!("{url}/api/v1/conversations/talk")).send().await.unwrap();
    assert_eq!(deleted.status(), 204, "{}", deleted.text().await.unwrap());
    assert!(refused() > before, "the control: it was too large");
    let before = refused();
    let cleared = http.delete(format!("{url}/api/v1/history")).send().await.unwrap();
    assert_eq!(cleared.status(), 204, "{}", cleared.text().await.unwrap());
    assert!(refused() > before, "the control: it was too large");
    assert_eq!(count().await, 0);
    let talk = http.get(format!("{url}/api/v1/conversations/talk")).send().await.unwrap();
    assert_eq!(talk.status(), 404);
    assert_eq!(reserve.metadata().unwrap().modified().unwrap(), made, "the reserve was not touched");
}

#[tokio::test(flavor = "current_thread")]
async fn a_disk_that_refuses_writes_refuses_new_work_at_once_reads_go_on_and_it_heals_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    if Command::new("strace").arg("-V").output().is_err() {
        println!("NOT RUN: strace is not installed");
        return;
    }
    let (_model, model) = simulate(dir.path(), 0, 0);
    let mut command = Command::new("strace");
    // The process that is started is the server, and ends with its guard; who injects is apart.
    command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-P"]).arg(dir.path().join(".var/fleet.db-wal"));
    // Some runs get through before, and some tries are needed until one gets through again.
    command.args(["-e", "trace=pwrite64", "-e", "inject=pwrite64:error=EROFS:when=150..170"]);
    command.arg(env!("CARGO_BIN_EXE_agentic-fleet")).args(["serve", "--port", "0"]);
    command.env("OPENAI_BASE_URL", &model).env("FLEET_STORAGE__PROBE_INTERVAL_MS", "100");
    command.envs(crate::process::ONE_AGENT);
    let (_server, docs) = spawn(command, dir.path(), "browser:");
    let url = docs.unwrap_or_else(|| panic!("{}", log(dir.path()))).trim_end_matches("/docs").to_owned();
    let http = client();
    let ready = async || http.get(format!("{url}/readyz")).send().await.unwrap().status().as_u16();
    let (mut first, mut refused, mut unready) = (None, Vec::new(), 0);
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let asked = Instant::now();
        let response = http.post(format!("{url}/api/v1/runs")).json(&json!({ "task": "write" })).send().await.unwrap();
        let (status, answer) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
        match status {
            202 if refused.is_empty() => drop(first.get_or_insert(answer)),
            202 => break,
            503 => {
                assert_eq!(answer["code"], "storage_unavailable", "{answer}");
                assert!(answer["detail"].as_str().unwrap().contains("cannot be written"), "{answer}");
                refused.push(asked.elapsed());
                unready += u32::from(ready().await == 503);
                let first = first.as_ref().unwrap_or_else(|| panic!("none got through before"));
                let events = format!("{url}/api/v1/workflows/{}/events", first["workflow_id"].as_str().unwrap());
                let page = http.get(events).header("accept", "application/json").send().await.unwrap();
                assert_eq!(page.status(), 200, "reads go on");
            }
            other => panic!("{other}: {answer}"),
        }
        assert!(Instant::now() < end, "{} were refused: {}", refused.len(), log(dir.path()));
    }
    let slowest = refused.iter().max().copied().unwrap();
    assert!(unready > 0 && ready().await == 200, "{unready}");
    assert!(slowest < Duration::from_secs(2), "a refusal took {slowest:?}");
    for word in ["the store cannot be written", "the store can be written again"] {
        let told = log(dir.path()).matches(word).count();
        assert!(told >= 1 && told <= refused.len(), "{told}: {}", log(dir.path()));
    }
    println!("{} refused, the slowest in {slowest:?}", refused.len());
}

/// A file system of its own, as large as it says; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    /// Takes all of the room that is left.
    fn fill(&self) -> PathBuf {
        use std::io::Write as _;
        let path = self.0.join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 4 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_full_disk_refuses_new_work_reads_go_on_room_heals_it_without_a_restart_and_the_log_tells_of_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join(".var"), "40m") else {
        println!("NOT RUN: this user may not mount a file system");
        return;
    };
    let (_model, model) = simulate(dir.path(), 0, 0);
    let (mut server, url) = serve_with(dir.path(), &model, &[]);
    let url = url.unwrap();
    let http = client();
    let ask = async |task: String| {
        let request = http.post(format!("{url}/api/v1/runs")).timeout(Duration::from_secs(20));
        let asked = Instant::now();
        let response = request.json(&json!({ "task": task })).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap(), asked.elapsed())
    };
    let (status, first, _) = ask("first".to_owned()).await;
    assert_eq!(status, 202);
    let first = format!("{url}/api/v1/history/{}", first["workflow_id"].as_str().unwrap());
    crate::process::until(&http, first.clone(), |entry| entry["status"] == "completed").await;
    let ballast = disk.fill();
    // The log may have some room of its own left.
    let (mut accepted, mut refused) = (0, Vec::new());
    while refused.len() < 10 {
        assert!(accepted < 2_000, "the disk is not full");
        let (status, answer, took) = ask("x".repeat(20_000)).await;
        match status {
            202 => accepted += 1,
            503 => {
                assert_eq!(answer["code"], "storage_unavailable", "{answer}");
                refused.push(took);
            }
            // Runs that wait for room hold their places.
            429 => break,
            other => panic!("{other}: {answer}"),
        }
        assert_eq!(http.get(first.clone()).send().await.unwrap().status(), 200, "reads go on");
    }
    let slowest = refused.iter().max().copied().unwrap_or_else(|| panic!("nothing was refused for want of room"));
    assert!(slowest < Duration::from_secs(1), "a refusal took {slowest:?}");
    std::fs::remove_file(ballast).unwrap();
    let freed = Instant::now();
    loop {
        let (status, answer, _) = ask("after".to_owned()).await;
        if status == 202 {
            let entry = format!("{url}/api/v1/history/{}", answer["workflow_id"].as_str().unwrap());
            crate::process::until(&http, entry, |entry| entry["status"] == "completed").await;
            break;
        }
        assert!(freed.elapsed() < Duration::from_secs(5), "it does not heal: {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await; // allow-sleep: polls a condition under a deadline
    }
    println!("{} refused, the slowest in {slowest:?}; healed after {:?}", refused.len(), freed.elapsed());
    assert!(server.ended(Duration::ZERO).await.is_none(), "it is the same process");
    let told = |word: &str| log(dir.path()).lines().filter(|line| line.contains(word)).count();
    let stuck = "the write-ahead log cannot be moved";
    for word in ["the store is full", stuck, "no room for the reserve"] {
        assert!(told(word) <= 1, "{word}: {}", log(dir.path()));
    }
    // A log that is cut gives room back, and the export may have it for a moment.
    let (behind, over) = (told("the history export is behind"), told("the history export goes on"));
    assert!(behind <= over + 1, "{behind} begun, {over} over: {}", log(dir.path()));
    let end = Instant::now() + Duration::from_secs(20);
    while told("the write-ahead log is moved into the database again") < told(stuck) {
        assert!(Instant::now() < end, "nothing says that it is over: {}", log(dir.path()));
        tokio::time::sleep(Duration::from_millis(20)).await; // allow-sleep: polls a condition under a deadline
    }
    drop(server);
}

/// Whoever copies the database of a server that was stopped has everything, without the files beside it.
#[tokio::test(flavor = "current_thread")]
async fn a_clean_stop_leaves_everything_in_the_one_file() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_model, model) = simulate(dir.path(), 0, 0);
    let (server, url) = serve_with(dir.path(), &model, &[]);
    let run = client().post(format!("{}/api/v1/run", url.unwrap())).json(&json!({ "task": "hello" }));
    let answer: Value = run.send().await.unwrap().json().await.unwrap();
    server.stop().await;
    let wal = dir.path().join(".var/fleet.db-wal").metadata();
    assert!(wal.as_ref().is_ok_and(|wal| wal.len() == 0) || wal.is_err(), "{wal:?}");
    assert!(!dir.path().join(".var/fleet.db-redo").exists());
    std::fs::copy(dir.path().join(".var/fleet.db"), copy.path().join("fleet.db")).unwrap();
    let mut show = Command::new(env!("CARGO_BIN_EXE_agentic-fleet"));
    let id = answer["execution_id"].as_str().unwrap();
    let shown =
        show.args(["history", "show", id, "--data-dir"]).arg(copy.path()).current_dir(dir.path()).output().unwrap();
    assert!(shown.status.success() && String::from_utf8_lossy(&shown.stdout).contains(id), "{shown:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_run_whose_conversation_cannot_be_read_ends_at_its_limits() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 0, 0);
    let (server, _) = serve_with(dir.path(), &model, &[]);
    server.stop().await;
    let database = dir.path().join(".var/fleet.db");
    let db = rusqlite::Connection::open(&database).unwrap();
    db.execute_batch(
        "INSERT INTO conversations (id, created_at, updated_at) VALUES ('talk', 0, 0); \
         INSERT INTO messages (id, conversation, role, content, created_at, workflow) \
         SELECT 'm', num, 'user', printf('%.50000c', 'x'), 0, 'w' FROM conversations",
    )
    .unwrap();
    drop(db);
    // The pages behind its beginning lead nowhere: whoever reads the message finds that, and writing is not in its way.
    let mut bytes = std::fs::read(&database).unwrap();
    let full = bytes.chunks_mut(4_096).filter(|page| page[4..].iter().all(|byte| *byte == b'x'));
    assert!(full.map(|page| page[..4].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff])).count() > 2);
    std::fs::write(&database, bytes).unwrap();
    let (_server, url) = serve_with(dir.path(), &model, &[("FLEET_SESSIONS__RUN_IDLE_TIMEOUT_MS", "1000")]);
    let run = json!({ "task": "hello", "conversation_id": "talk" });
    let run = client().post(format!("{}/api/v1/run", url.unwrap())).json(&run);
    let answer = run.timeout(Duration::from_secs(30)).send().await.unwrap();
    let (status, body): (u16, Value) = (answer.status().as_u16(), answer.json().await.unwrap());
    assert_eq!((status, body["code"].as_str()), (504, Some("idle_timeout")), "{body} {}", log(dir.path()));
}

/// The server dies on the thread of its writer, when the second and last batch of its run is durable: nobody could write it into the
/// database behind that, so it stands in the redo log alone.
#[tokio::test(flavor = "current_thread")]
async fn a_command_that_reads_behind_a_killed_server_shows_what_stands_in_its_redo_log_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 0, 0);
    let armed = [("AGENTIC_FLEET_FAIL_POINT", "after-commit=kill@2")];
    let (mut server, url) = serve_with(dir.path(), &model, &armed);
    let run = client().post(format!("{}/api/v1/run", url.unwrap())).json(&json!({ "task": "the last words" }));
    assert!(run.send().await.is_err(), "it was killed before it answered");
    assert!(server.ended(Duration::from_secs(10)).await.is_some());
    let list = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentic-fleet"));
        let said = command.args(["history", "list", "--json"]).current_dir(dir.path()).output().unwrap();
        assert!(said.status.success(), "{said:?}");
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let first = list();
    assert!(first.contains("the last words") && first.contains("completed"), "{first}");
    assert_eq!(list(), first, "and again");
    assert!(!dir.path().join(".var/fleet.db-redo").exists(), "it was done again, and settled");
}
