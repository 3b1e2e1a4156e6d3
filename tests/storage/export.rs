//! The file of finished executions.

use std::path::Path;

use agentic_fleet::storage::{HistoryFile, JsonlExport};
use fleet_actors::ports::{ExportEntry, HistoryExport, StoreError};
use serde_json::{Value, json};

use crate::support::{block_on, make};

const BYTES_MAX: u64 = 1 << 30;

fn ran(cursor: u64, name: &str) -> ExportEntry {
    ExportEntry { cursor, workflow: make::id(name), row: Some(make::entry(name)) }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("the file");
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

#[test]
fn executions_are_lines_that_say_how_far_the_file_got() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("logs/execution_history.jsonl");
    let mut file = HistoryFile::new(&path, BYTES_MAX);
    assert_eq!(file.repair().expect("nothing to repair"), None);
    file.append(&[ran(1, "a"), ran(2, "b")]).expect("appended");
    file.append(&[ran(3, "c")]).expect("appended");
    let lines = lines(&path);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["workflow_id"], "a");
    assert_eq!(lines[0]["task"], "a task\nof two lines");
    assert_eq!(lines[0]["completed_at"], "1970-01-01T00:00:02.500Z");
    assert_eq!((&lines[2]["workflow_id"], &lines[2]["cursor"]), (&json!("c"), &json!(3)));
    assert_eq!(HistoryFile::new(&path, BYTES_MAX).repair().expect("whole"), Some(3));
}

#[test]
fn a_line_torn_at_any_byte_is_cut_off_and_the_whole_ones_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("history.jsonl");
    let mut file = HistoryFile::new(&path, BYTES_MAX);
    let mut long = ran(2, "b");
    // Longer than the step in which the end is searched.
    long.row.as_mut().expect("a row").task = "long ".repeat(30_000);
    file.append(&[ran(1, "a"), long]).expect("appended");
    let before = std::fs::read(&path).expect("the file");
    file.append(&[ran(3, "c")]).expect("appended");
    let whole = std::fs::read(&path).expect("the file");
    for cut in before.len()..whole.len() {
        std::fs::write(&path, &whole[..cut]).expect("torn");
        let mut file = HistoryFile::new(&path, BYTES_MAX);
        assert_eq!(file.repair().expect("repaired"), Some(2), "cut at {cut}");
        assert!(std::fs::read(&path).expect("the file") == before, "cut at {cut}");
        file.append(&[ran(3, "c")]).expect("appended");
        assert!(std::fs::read(&path).expect("the file") == whole, "cut at {cut}");
    }
    // A power cut may leave blocks of zeros, with a line feed behind them or not.
    for garbage in [&[0; 5_000][..], b"\0\0\0\n", b"\n\n", b"{\"workflow_id\":\"x\"}\n", b"\xff\xfe\n\0"] {
        std::fs::write(&path, [&whole[..], garbage].concat()).expect("spoilt");
        assert_eq!(HistoryFile::new(&path, BYTES_MAX).repair().expect("repaired"), Some(3));
        assert!(std::fs::read(&path).expect("the file") == whole, "{garbage:?}");
    }
    for nothing in [&b""[..], &[0; 70_000], b"\0\0\n", b"\n\n\n", b"{", b"{\"workflow_id\":\"x\"", b"{\"rewri"] {
        std::fs::write(&path, nothing).expect("spoilt");
        assert_eq!(HistoryFile::new(&path, BYTES_MAX).repair().expect("repaired"), None);
        assert_eq!(std::fs::read(&path).expect("the file"), b"");
    }
}

#[test]
fn a_file_of_somebody_else_is_neither_cut_nor_written_over_nor_removed() {
    let others: [&[u8]; 7] = [
        b"SQLite format 3\0 and pages",
        b"garbage",
        b"storage:\n  history_path: x\n",
        b"{\n  \"version\": 1\n}\n",
        b"{\"version\": 1}",
        b"[{\"cursor\":1}]\n",
        b"\0\0\0\x01",
    ];
    for other in others {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history.jsonl");
        let kept = |path: &Path| assert_eq!(std::fs::read(path).expect("it stays"), other, "{}", path.display());
        std::fs::write(&path, other).expect("written");
        let mut file = HistoryFile::new(&path, BYTES_MAX);
        let said = file.check().expect_err("it is refused").to_string();
        assert!(said.starts_with(&format!("{}: it is no history file", path.display())), "{said}");
        file.repair().expect_err("not cut");
        file.append(&[ran(1, "a")]).expect_err("not appended to");
        file.begin_rewrite(1).expect_err("not replaced");
        kept(&path);
        assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 1);

        // Where a rewrite is made, and where files are put aside.
        std::fs::remove_file(&path).expect("removed");
        let (next, aside) = (path.with_extension("jsonl.new"), path.with_extension("000001.jsonl"));
        std::fs::write(&next, other).expect("written");
        file.check().expect_err("it is refused");
        file.begin_rewrite(1).expect_err("not replaced");
        kept(&next);
        std::fs::rename(&next, &aside).expect("renamed");
        file.check().expect("all ours");
        file.begin_rewrite(1).expect("begun");
        file.finish_rewrite().expect("finished");
        kept(&aside);
        assert_eq!(lines(&path).len(), 1);
    }
}

#[test]
fn a_file_whose_keys_a_tool_has_sorted_is_still_the_history_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("history.jsonl");
    std::fs::write(&path, "{\"completed_at\": null, \"cursor\": 7}\n{\"torn").expect("written");
    let mut file = HistoryFile::new(&path, BYTES_MAX);
    file.check().expect("ours");
    assert_eq!(file.repair().expect("repaired"), Some(7));
    assert_eq!(lines(&path).len(), 1);
}

#[test]
fn a_file_without_repair_is_repaired_before_the_first_append() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("history.jsonl");
    HistoryFile::new(&path, BYTES_MAX).append(&[ran(1, "a")]).expect("appended");
    let whole = std::fs::read(&path).expect("the file");
    std::fs::write(&path, [&whole[..], b"{\"torn\":"].concat()).expect("torn");
    HistoryFile::new(&path, BYTES_MAX).append(&[ran(2, "b")]).expect("appended");
    assert_eq!(lines(&path).len(), 2);
}

#[test]
fn a_rewrite_takes_the_old_files_place_only_when_it_is_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("history.jsonl");
    block_on(async {
        let export = JsonlExport::new(&path, BYTES_MAX);
        export.append(vec![ran(1, "a"), ran(2, "b"), ran(3, "c")]).await.expect("appended");
        let old = std::fs::read(&path).expect("the file");
        export.rewrite(9).await.expect("begun");
        export.rows(vec![make::entry("b")]).await.expect("added");
        assert_eq!(std::fs::read(&path).expect("the file"), old);
        // Dies here; the next one begins anew.
        let export = JsonlExport::new(&path, BYTES_MAX);
        assert_eq!(export.repair().await, Ok(Some(3)));
        assert!(matches!(export.rows(vec![]).await, Err(StoreError::Unavailable(_))));
        export.rewrite(9).await.expect("begun");
        export.rows(vec![make::entry("b")]).await.expect("added");
        export.rows(vec![make::entry("c")]).await.expect("added");
        export.finish().await.expect("finished");
        export.append(vec![ran(10, "d")]).await.expect("appended");
        assert_eq!(export.repair().await, Ok(Some(10)));
    });
    let lines = lines(&path);
    assert_eq!(lines[0], json!({"rewritten": true, "cursor": 9}));
    let ids: Vec<_> = lines[1..].iter().map(|line| line["workflow_id"].clone()).collect();
    assert_eq!(ids, ["b", "c", "d"]);
    assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 1);
}

#[test]
fn a_large_file_is_put_aside_and_a_rewrite_makes_one_of_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("history.jsonl");
    let names = || {
        let files = std::fs::read_dir(dir.path()).expect("the directory");
        let mut names: Vec<_> =
            files.map(|file| file.expect("a file").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    };
    let mut file = HistoryFile::new(&path, 400);
    for cursor in 1..=9 {
        file.append(&[ran(cursor, &format!("run-{cursor}"))]).expect("appended");
    }
    assert!(names().len() > 3, "{:?}", names());
    let mut cursors = Vec::new();
    for name in names().iter().filter(|name| *name != "history.jsonl").map(String::as_str).chain(["history.jsonl"]) {
        cursors.extend(lines(&dir.path().join(name)).iter().map(|line| line["cursor"].as_u64()));
    }
    assert_eq!(cursors, (1..=9).map(Some).collect::<Vec<_>>(), "read in order they are one");
    // Put aside, and killed before the next line.
    std::fs::rename(&path, dir.path().join("history.000099.jsonl")).expect("renamed");
    std::fs::write(&path, b"").expect("made");
    assert_eq!(HistoryFile::new(&path, 400).repair().expect("whole"), Some(9));

    let old: Vec<_> =
        names().iter().map(|name| (name.clone(), std::fs::read(dir.path().join(name)).expect("read"))).collect();
    let mut file = HistoryFile::new(&path, 400);
    file.begin_rewrite(9).expect("begun");
    file.rewrite_rows(&[make::entry("run-3")]).expect("added");
    file.finish_rewrite().expect("finished");
    assert_eq!(names(), ["history.jsonl"]);
    // Killed before what is obsolete was removed: the next start removes it.
    for (name, bytes) in old.iter().filter(|(name, _)| name != "history.jsonl") {
        std::fs::write(dir.path().join(name), bytes).expect("written");
    }
    assert_eq!(HistoryFile::new(&path, 400).repair().expect("repaired"), Some(9));
    assert_eq!(names(), ["history.jsonl"]);
    assert_eq!(lines(&path).len(), 2);
}

#[test]
fn nobody_but_its_owner_reads_the_file_new_rotated_or_rewritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let mut file = HistoryFile::new(dir.path().join("logs/execution_history.jsonl"), 1);
    file.append(&[ran(1, "a")]).expect("appended");
    file.append(&[ran(2, "b")]).expect("appended");
    file.append(&[ran(3, "c")]).expect("appended");
    let files: Vec<_> = std::fs::read_dir(dir.path().join("logs")).expect("a directory").flatten().collect();
    assert!(files.len() > 1, "{files:?}");
    for entry in files {
        assert_eq!(entry.metadata().expect("there").permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
}
