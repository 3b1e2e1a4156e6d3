//! Data directories that cannot be used: one line that names the path and what to do, and the exit code of the runbook.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Place, Said, binary, ended};

const WRITES: [&[&str]; 3] = [&["serve", "--port", "0"], &["run", "-m", "please"], &["history", "delete", "--all"]];

/// Runs a command with this data directory.
fn with(dir: &Path, command: &[&str], data: &str) -> Said {
    ended(binary(dir, &[command, &["--data-dir", data]].concat()))
}

/// Every command that writes fails so.
fn refused(dir: &Path, data: &str, code: i32, says: &str) {
    for command in WRITES {
        let said = with(dir, command, data);
        said.failed(code, says);
        assert!(said.err.contains(data) && said.err.contains("--data-dir"), "{command:?}: {said:?}");
    }
}

#[test]
fn what_is_no_directory_is_said_to_be_none_and_what_leads_nowhere_to_do_so() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("file"), "kept").unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("round", at("round")).unwrap();
    refused(dir.path(), "file", 1, "the data directory file is not a directory; move what stands there");
    refused(dir.path(), "file/below", 1, "the data directory file/below has a file in its path; correct the path");
    refused(dir.path(), "dangling", 1, "is a link to what does not exist; make that directory");
    refused(dir.path(), "round", 1, "cannot be found: Too many levels of symbolic links");
    assert_eq!(std::fs::read_to_string(at("file")).unwrap(), "kept");
    assert!(!at("nowhere").exists(), "nothing is made where a link leads");
    for data in ["file", "file/below"] {
        let said = with(dir.path(), &["history", "list"], data);
        said.failed(1, &format!("{data}/fleet.db: Not a directory"));
    }
}

#[test]
fn files_in_the_way_of_the_lock_or_the_database_are_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("a/lock")).unwrap();
    refused(dir.path(), "a", 1, "cannot be locked: a/lock: Is a directory");
    std::fs::create_dir_all(dir.path().join("b/fleet.db")).unwrap();
    refused(dir.path(), "b", 1, "b/fleet.db: it is not a file; move it away");
    with(dir.path(), &["history", "list"], "b").failed(1, "b/fleet.db: it is not a file; move it away");
}

#[test]
fn a_history_path_that_leads_to_another_file_is_refused_and_the_file_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert_eq!(with(dir.path(), &["run", "-m", "please"], "hp").code, 0);
    let database = std::fs::read(at("hp/fleet.db")).unwrap();
    std::fs::write(at("same.yaml"), "storage: { history_path: hp/fleet.db }\n").unwrap();
    for command in [&["serve", "--port", "0"][..], &["config", "check"], &["run", "-m", "x"], &["history", "list"]] {
        let said = with(dir.path(), &[command, &["--config", "same.yaml"]].concat(), "hp");
        assert!(said.code == 2 && said.err.contains("same.yaml:1:26: storage.history_path: expected"), "{said:?}");
        assert!(said.err.contains("= storage.database_path was set by: default"), "{said:?}");
    }
    // That of another data directory is seen when it is met.
    for command in WRITES {
        let mut command = binary(dir.path(), &[command, &["--data-dir", "other"]].concat());
        command.env("FLEET_STORAGE__HISTORY_PATH", "hp/fleet.db");
        ended(command).failed(1, "hp/fleet.db: it is no history file of agentic-fleet; move it away, or name another");
    }
    assert!(std::fs::read(at("hp/fleet.db")).unwrap() == database, "it was written to");
    assert!(!at("other/fleet.db").exists());
}

/// Runs a command in another data directory with this database.
fn elsewhere(place: &Place, command: &[&str], database: &Path) -> Said {
    let mut command = place.command(&[command, &["--data-dir", "b"]].concat());
    command.env("FLEET_STORAGE__DATABASE_PATH", database);
    ended(command)
}

#[tokio::test]
async fn a_database_has_one_owner_whatever_the_data_directory_and_readers_work_beside_it() {
    for database in ["a/fleet.db", "shared/x.db", "a/sub/x.db"] {
        let mut place = Place::with_model(60_000, 0);
        let absolute = place.dir.path().join(database);
        let url = place.serve_with_database("a", database);
        let body = serde_json::json!({ "task": "please work for long" });
        let held = crate::process::http().post(format!("{url}/api/v1/runs")).json(&body).send().await.unwrap();
        assert_eq!(held.status(), 202);
        symlink(&absolute, place.dir.path().join("link.db")).unwrap();
        for path in [absolute.clone(), place.dir.path().join("link.db"), Path::new("b/../a/..").join(database)] {
            for command in WRITES {
                let said = elsewhere(&place, command, &path);
                said.failed(75, &format!("{} is in use by process {}", path.display(), place.server().id()));
                assert!(said.err.contains(&url), "{said:?}");
            }
            let unfinished = elsewhere(&place, &["checkpoints", "list", "--json"], &path);
            assert_eq!(unfinished.code, 0, "{unfinished:?}");
            let unfinished = unfinished.json();
            assert_eq!(unfinished["unfinished"][0]["task"], "please work for long", "{unfinished}");
            assert_ne!(unfinished["unfinished"][0]["status"], "interrupted", "{unfinished}");
        }
        place.kill();
        let said = elsewhere(&place, &["history", "delete", "--all"], &absolute);
        assert_eq!(said.code, 0, "{said:?}");
    }
}

#[test]
fn databases_in_one_directory_have_an_owner_each_and_a_file_that_is_no_lock_is_kept() {
    let mut one = Place::new();
    one.serve_with_database("a", "shared/x.db");
    let beside = |database: &str| elsewhere(&one, &["run", "-m", "please"], Path::new(database));
    assert_eq!(beside("shared/y.db").code, 0);
    assert_eq!(beside("bare.db").code, 0);
    std::fs::write(one.dir.path().join("z.lock"), "[[package]]").unwrap();
    beside("z").failed(1, "z.lock: a file that is no lock stands there");
    assert_eq!(std::fs::read(one.dir.path().join("z.lock")).unwrap(), b"[[package]]");
}

/// Something mounted; gone when dropped.
struct Mount(PathBuf);

impl Mount {
    fn make(at: &Path, options: &[&str]) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(options).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_at_the_start_is_said_to_be_full_wherever_it_is_met() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let Some(_disk) = Mount::make(&disk, &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]) else {
        println!("NOT RUN: this user may not mount a file system");
        return;
    };
    let fill = |left: usize| std::fs::write(disk.join("ballast"), vec![1; (1 << 20) - left]).unwrap();
    // Not even what the lock says; the lock, and no database; then a part of one.
    for left in [0, 4_096, 16_384, 65_536] {
        fill(left);
        refused(dir.path(), "disk", 1, "disk/fleet.db: storage is full; free space there");
        for entry in std::fs::read_dir(&disk).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}

#[test]
fn a_file_system_that_can_only_be_read_is_read_and_said_to_be_so_where_something_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let first = with(dir.path(), &["run", "-m", "please", "--json"], "disk");
    assert_eq!(first.code, 0, "{first:?}");
    let disk = dir.path().join("disk");
    let source = disk.to_str().unwrap();
    let Some(_disk) = Mount::make(&disk, &["--bind", "-o", "ro", source]) else {
        println!("NOT RUN: this user may not mount a file system");
        return;
    };
    if std::fs::write(disk.join("probe"), "").is_ok() {
        println!("NOT RUN: this system does not mount a directory to be read alone");
        return;
    }
    refused(dir.path(), "disk", 1, "is on a file system that can only be read; mount it for writing");
    refused(dir.path(), "disk/new", 1, "is on a file system that can only be read; mount it for writing");
    let listed = with(dir.path(), &["history", "list", "--json"], "disk");
    assert_eq!(listed.code, 0, "{listed:?}");
    assert_eq!(listed.json()["executions"].as_array().unwrap().len(), 1, "{listed:?}");
    for command in [&["checkpoints", "list"], &["approvals", "list"]] {
        assert_eq!(with(dir.path(), command, "disk").code, 0);
    }
}

/// Who may write everywhere is made somebody who may not.
fn as_nobody(dir: &Path, command: &[&str]) -> Option<Said> {
    // Where others may go, too.
    let copy = dir.join("agentic-fleet");
    if !copy.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_agentic-fleet"), &copy).unwrap();
    }
    // What is not refused as it must be would stay.
    let mut nobody = Command::new("timeout");
    nobody.args(["20", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy).args(command);
    nobody.current_dir(dir).env_remove("FLEET_CONFIG").env_remove("FLEET_DATA_DIR");
    let possible = Command::new("setpriv").args(["--reuid", "65534", "true"]).output();
    possible.is_ok_and(|output| output.status.success()).then(|| ended(nobody))
}

#[test]
fn a_directory_or_a_file_that_this_user_may_not_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("", 0o755);
    std::fs::create_dir(dir.path().join("shut")).unwrap();
    mode("shut", 0o700);
    let serve = |data: &str| as_nobody(dir.path(), &["serve", "--port", "0", "--data-dir", data]);
    let Some(said) = serve("shut") else {
        println!("NOT RUN: only root can become somebody else");
        return;
    };
    said.failed(1, "the data directory shut is not this user's to write: shut/lock: Permission denied");
    serve("new").unwrap().failed(1, "the data directory new is not this user's to write: new: Permission denied");
    let list = |data: &str| as_nobody(dir.path(), &["history", "list", "--data-dir", data]).unwrap();
    list("shut").failed(1, "shut/fleet.db: Permission denied");

    // Somebody else ran it once.
    assert_eq!(with(dir.path(), &["run", "-m", "please"], "used").code, 0);
    mode("used", 0o777);
    serve("used").unwrap().failed(1, "used/lock: Permission denied (os error 13); let this user write there");
    mode("used/lock", 0o666);
    serve("used").unwrap().failed(1, "used/fleet.db: Permission denied (os error 13); let this user read and write it");
    list("used").failed(1, "used/fleet.db: Permission denied");
    mode("used/fleet.db", 0o644);
    let alone =
        || ["fleet.db-wal", "fleet.db-shm"].map(|left| std::fs::remove_file(dir.path().join("used").join(left)));
    let _ = alone();
    serve("used").unwrap().failed(1, "used/fleet.db: Permission denied");
    mode("used/fleet.db", 0o666);
    mode("used", 0o755);
    let _ = alone();
    serve("used").unwrap().failed(1, "SQLite makes files beside it: let this user write there");
}
