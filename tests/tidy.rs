//! What the compiler does not check: the direction of dependencies, determinism of workflows, the size of files, the
//! licences of what we build on, and that every public error code has its heading in the runbook.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(under: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(under), &mut found);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        (name, std::fs::read_to_string(path).unwrap())
    };
    let all: Vec<_> = found.into_iter().map(read).collect();
    assert!(!all.is_empty(), "nothing under {under}");
    all
}

/// The code of a file without comments and without its tests.
fn code(text: &str) -> String {
    let shipped = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
    shipped.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn forbid(under: &str, words: &[&str]) {
    for (name, text) in sources(under) {
        let code = code(&text);
        for word in words {
            assert!(!code.contains(word), "{name} uses `{word}`");
        }
    }
}

#[test]
fn the_runtime_knows_no_http_no_vendor_and_no_config_format() {
    forbid("actors/src", &["actix_web", "reqwest", "serde_saphyr", "rusqlite", "std::fs", "clap::"]);
}

#[test]
fn workflows_know_nothing_of_what_is_above_them_or_carries_their_steps_out() {
    let above = ["api", "cli", "llm", "runtime", "settings", "startup", "storage", "telemetry", "tools"];
    for under in ["src/workflow", "src/prompts"] {
        for module in above {
            forbid(under, &[&format!("crate::{module}"), &format!("crate::{{{module}")]);
        }
    }
    let (_, pure) = sources("src").into_iter().find(|(name, _)| name == "src/agents.rs").expect("the roster");
    assert!(above.iter().all(|module| !code(&pure).contains(&format!("crate::{module}"))));
}

#[test]
fn workflows_and_prompts_reach_time_chance_and_io_only_through_the_turn() {
    let words = [
        "tokio",
        "actix",
        "reqwest",
        "futures",
        "std::fs",
        "Instant",
        "SystemTime",
        "std::cell",
        "HashMap",
        "HashSet",
        "Mutex",
        "RwLock",
        "rand::",
        "fastrand",
        "uuid",
        "std::env",
        "std::io",
        "std::net",
        "std::process",
        "std::thread",
        "thread_local",
        "OnceLock",
        "LazyLock",
        "Atomic",
        "UNIX_EPOCH",
        "static ",
    ];
    for module in ["workflow", "prompts"] {
        let mut files = sources(&format!("src/{module}"));
        for root_file in [format!("src/{module}.rs"), "src/agents.rs".to_owned()] {
            files.push((root_file.clone(), std::fs::read_to_string(root().join(root_file)).unwrap()));
        }
        for (name, text) in files {
            // A lifetime is no static.
            let code = code(&text).replace("'static ", "'life ");
            words.iter().for_each(|word| assert!(!code.contains(word), "{name} uses `{word}`"));
        }
    }
}

#[test]
fn modules_have_an_opening_line_and_none_is_called_utils() {
    for (name, text) in ["src", "actors/src"].iter().flat_map(|under| sources(under)) {
        assert!(text.starts_with("//!"), "{name} has no opening line");
        for word in ["utils", "common", "helpers", "mod.rs"] {
            assert!(!name.ends_with(&format!("/{word}.rs")) && !name.ends_with(word), "{name}");
        }
        let lines = text.lines().count();
        assert!(lines <= 600, "{name} has {lines} lines");
    }
}

#[test]
fn nothing_is_left_undone_or_ignored() {
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!("), concat!("#[", "ignore")];
    for (name, text) in ["src", "actors/src", "tests"].iter().flat_map(|under| sources(under)) {
        marks.iter().for_each(|mark| assert!(!text.contains(mark), "{name} has `{mark}`"));
    }
}

#[test]
fn sorted_json_keys_can_be_relied_on() {
    let value: serde_json::Value = serde_json::from_str(r#"{"b":1,"a":2}"#).unwrap();
    assert_eq!(value.to_string(), r#"{"a":2,"b":1}"#, "serde_json/preserve_order is on somewhere in the tree");
}

#[test]
fn every_dependency_has_an_allowed_licence_and_comes_from_the_registry() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let deny = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let allowed: BTreeSet<&str> = deny
        .lines()
        .find(|line| line.starts_with("allow = "))
        .map(|line| line.split('"').skip(1).step_by(2).collect())
        .unwrap();
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        for banned in ["openssl-sys", "sled", "serde_yaml", "actix-web-actors"] {
            assert_ne!(name, banned);
        }
        let Some(source) = package["source"].as_str() else { continue };
        assert!(source.starts_with("registry+"), "{name} comes from {source}");
        let licence = package["license"].as_str().unwrap_or("none").replace('/', " OR ");
        // One allowed choice of an `OR`, all parts of an `AND`.
        let fits = licence
            .replace(['(', ')'], "")
            .split(" AND ")
            .all(|part| part.split(" OR ").any(|choice| allowed.contains(choice.trim())));
        assert!(fits, "{name}: licence {licence}");
        seen += 1;
    }
    assert!(seen > 100, "only {seen} packages were looked at");
}

#[test]
fn every_public_error_code_has_a_heading_in_the_runbook() {
    let runbook = std::fs::read_to_string(root().join("docs/runbook.md")).unwrap();
    let mut codes = BTreeSet::new();
    let shipped = |(name, _): &(String, String)| !name.contains("simulation") && !name.contains("testing");
    let trees = ["src/api", "src/llm", "src/prompts", "src/tools", "src/workflow", "actors/src"];
    let prompts = std::fs::read_to_string(root().join("src/prompts.rs")).unwrap();
    let texts = trees.iter().flat_map(|under| sources(under)).chain([("src/prompts.rs".to_owned(), prompts)]);
    for (_, text) in texts.filter(shipped) {
        let code = code(&text);
        for call in ["Failure::new(", "ApiError::new(", "Self::new(StatusCode"] {
            for (at, _) in code.match_indices(call) {
                let arguments = &code[at..code.len().min(at + 220)];
                let literal = arguments.split('"').nth(1).unwrap_or_default();
                let is_code =
                    literal.contains('_') || ["internal", "draining", "cancelled", "overloaded"].contains(&literal);
                let before = arguments.split('"').next().unwrap_or_default();
                if is_code && !before.contains(';') && literal.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                    codes.insert(literal.to_owned());
                }
            }
        }
    }
    assert!(codes.len() > 15, "only {codes:?} were found");
    let missing: Vec<_> = codes.iter().filter(|code| !runbook.contains(&format!("## `{code}`"))).collect();
    assert!(missing.is_empty(), "without a heading: {missing:?}");
}

#[test]
fn each_decision_has_a_number_of_its_own() {
    let files = std::fs::read_dir(root().join("docs/decisions")).unwrap();
    let mut numbers: Vec<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()[..4].to_owned()).collect();
    let all = numbers.len();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), all, "{numbers:?}");
}

/// Cargo gives a test's build of the binary the features of what tests depend on, and every other build none of them.
#[test]
fn only_builds_for_tests_can_be_killed_at_a_fail_point() {
    let features = |edges: &str| {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--package", "agentic-fleet", "--edges", edges, "--invert", "fleet-actors"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let shipped = features("features,normal,build");
    assert!(shipped.contains("agentic-fleet"), "{shipped}");
    for feature in ["failpoints", "testing"] {
        assert!(!shipped.contains(feature), "the binary that ships has {feature}: {shipped}");
        assert!(features("features,normal,build,dev").contains(feature), "the tests have no {feature}");
    }
}
