//! What is wrong, said in one line, with the same exit code in the data directory and through a server.

use crate::process::{Place, binary, ended};

#[tokio::test]
async fn what_does_not_exist_exits_1_and_what_is_typed_wrong_exits_2_here_and_through_a_server() {
    for place in Place::both() {
        place.ran("please make a database");
        let nobody = "0198c0de-0000-7000-8000-000000000000";
        let missing: [&[&str]; 7] = [
            &["history", "show", nobody],
            &["history", "delete", nobody],
            &["checkpoints", "list", nobody],
            &["checkpoints", "show", nobody],
            &["checkpoints", "show", "0198c0de-0000-7000-8000-000000000000:4"],
            &["checkpoints", "resume", nobody],
            &["checkpoints", "fork", nobody],
        ];
        for command in missing {
            place.cli(command).failed(1, nobody);
            assert!(place.cli(command).err.contains("not_found: there is no such "), "{command:?}");
        }
        let wrong: [&[&str]; 10] = [
            &["run", "-m", "  "],
            &["run"],
            &["run", "-m", "x", "--reasoning-effort", "much"],
            &["run", "-m", "x", "--conversation", "a b"],
            &["history", "list", "--limit", "0"],
            &["history", "list", "--limit", "101"],
            &["history", "list", "--before", "zzz"],
            &["history", "show", "a/b"],
            &["history", "delete"],
            &["checkpoints", "resume", "a:b"],
        ];
        for command in wrong {
            let said = place.cli(command);
            assert!(said.code == 2 && !said.err.is_empty() && said.out.is_empty(), "{command:?}: {said:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_or_is_another_one_is_named() {
    let place = Place::new();
    place
        .local(&["history", "list", "--server", "http://127.0.0.1:1"])
        .failed(1, "http://127.0.0.1:1: Connection refused");
    for command in [&["history", "list"][..], &["run", "-m", "please"]] {
        let said = place.local(&[command, &["--server", "http://me:canary@127.0.0.1:1"]].concat());
        said.failed(1, "http://me:...@127.0.0.1:1: Connection refused");
    }
    place
        .local(&["history", "list", "--server", "http://me:canary@127.0.0.1:1?x"])
        .failed(2, "--server: `http://me:...@127.0.0.1:1/?x` is no address of a server");
    place
        .local(&["history", "list", "--server", "nonsense"])
        .failed(2, "--server: `nonsense` is no address of a server");
    let model = place.model.trim_end_matches("/v1");
    for command in [["history", "list"], ["checkpoints", "list"]] {
        let said = place.local(&[&command[..], &["--server", model]].concat());
        said.failed(1, "not as an agentic-fleet server does");
    }
    let both = place.local(&["history", "list", "--server", "http://127.0.0.1:1", "--data-dir", "x"]);
    assert_eq!(both.code, 2, "{both:?}");
}

#[tokio::test]
async fn a_directory_in_which_nothing_ran_and_wrong_settings_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let said = ended(binary(dir.path(), &["history", "list"]));
    said.failed(1, "fleet.db: there is no such database; nothing ran in this data directory yet");
    assert!(!dir.path().join(".var").exists(), "reading makes nothing");
    std::fs::write(dir.path().join("bad.yaml"), "sessions: { max_task_length: many }\n").unwrap();
    for command in [&["history", "list"][..], &["run", "-m", "x"], &["checkpoints", "fork", "x"]] {
        let said = ended(binary(dir.path(), &[command, &["--config", "bad.yaml"]].concat()));
        assert!(said.code == 2 && said.err.contains("sessions.max_task_length"), "{said:?}");
    }
}

#[test]
fn every_command_has_a_help_with_examples() {
    let dir = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 8] = [
        &["run"],
        &["history", "list"],
        &["history", "show"],
        &["history", "delete"],
        &["checkpoints", "list"],
        &["checkpoints", "show"],
        &["checkpoints", "resume"],
        &["checkpoints", "fork"],
    ];
    for command in commands {
        let said = ended(binary(dir.path(), &[command, &["--help"]].concat()));
        assert!(said.code == 0 && said.out.contains("Examples:"), "{said:?}");
        let example = format!("  agentic-fleet {}", command.join(" "));
        assert!(said.out.contains(&example) && said.out.contains("--server <URL>"), "{said:?}");
    }
    for command in [&["serve"][..], &["simulate-llm"], &["config", "check"], &["history"], &["checkpoints"]] {
        let said = ended(binary(dir.path(), &[command, &["--help"]].concat()));
        assert!(said.code == 0 && said.out.contains("Usage: agentic-fleet"), "{said:?}");
    }
}
