//! What a mistake looks like.

use std::collections::BTreeSet;

use agentic_fleet::settings::{Flags, Sources};

use crate::{Start, start};

#[test]
fn an_unknown_key_is_shown_with_its_place_and_the_key_that_was_meant() {
    assert_eq!(
        start().file("server:\n  prot: 1\n").refusal(),
        "1 mistake in the settings\n\n\
         fleet.yaml:2:3: server.prot: unknown key, expected port?\n   |\n 2 |   prot: 1\n   |   ^"
    );
    let refusal = start().file("zebra: 1\n").refusal();
    assert!(refusal.contains("fleet.yaml:1:1: zebra: unknown key, expected one of server, sessions,"), "{refusal}");
}

#[test]
fn a_value_of_the_wrong_type_or_beyond_its_bounds_is_shown_with_what_was_expected() {
    let cases = [
        ("server: { port: eighty }", "1:17: server.port: expected a whole number from 0 to 65535, found text"),
        ("server: { port: 65536 }", "1:17: server.port: expected a whole number from 0 to 65535"),
        ("server: { port: -1 }", "server.port: expected a whole number from 0 to 65535"),
        ("server: { page_max: 1.5 }", "server.page_max: expected a whole number from 1 to 100, found a number with"),
        ("sessions: { max_concurrent_workflows: 0 }", "expected a whole number from 1 to 1048575"),
        ("sessions: { on_disconnect: stop }", "sessions.on_disconnect: expected one of cancel, continue"),
        ("server: { allow_unauthenticated: yes }", "expected true or false, found text"),
        ("server: { host: example.com }", "server.host: expected an IP address such as 127.0.0.1, or localhost"),
        ("server: { cors_allowed_origins: [https://a.example/x] }", "expected * or an origin such as"),
        ("llm: { model: 5 }", "llm.model: expected text (put it in quotes if it looks like something else), found a"),
        ("llm: { base_url: ftp://a }", "llm.base_url: expected a URL that begins with http:// or https://"),
        ("llm: { models: { \"g*t\": { temperature: true, reasoning_effort: true } } }", "expected a model's name"),
        (
            "llm: { models: { g: { temperature: true, reasoning_effort: true, price: { input: -1, output: 1 } } } }",
            "expected a number from 0 to 100000",
        ),
        ("llm: { simulated: { jitter: 2 } }", "llm.simulated.jitter: expected a number from 0 to 1"),
        ("logging: { level: verbose }", "logging.level: expected error, warn, info, debug, trace or off"),
        ("agents: { Bob: { description: x, instructions: y } }", "expected 1 to 64 characters from a-z, 0-9, _ and -"),
        ("agents: { bob: { description: x } }", "agents.bob: instructions is missing"),
        ("ui_routing: { agnet.start: {} }", "expected one of orchestrator.message,"),
        ("server: 3", "server: expected a section, found a plain value"),
        ("- 1", "1:1: expected a mapping of sections"),
    ];
    for (yaml, expected) in cases {
        let refusal = start().file(yaml).refusal();
        assert!(refusal.contains(expected), "{yaml}\n{refusal}");
        assert!(refusal.contains(&format!(" 1 | {yaml}\n")), "{yaml}\n{refusal}");
    }
}

#[test]
fn a_file_that_is_no_yaml_is_shown_with_its_place() {
    let cases = [
        ("server:\n  port: 1\n  port: 2\n", "fleet.yaml:3:3: duplicate mapping key"),
        ("server: [1\n", "fleet.yaml:1:9: unclosed bracket"),
        ("server:\n  port: \"1\n", "fleet.yaml:2:9: unclosed quote"),
        ("server:\n\tport: 1\n", "fleet.yaml:2:2: tabs disallowed"),
        ("server:\n  port: ${PORT}\n", "fleet.yaml:2:9: the environment has no PORT: expected it to be set, or a def"),
        ("server: {}\n---\nserver: {}\n", "fleet.yaml:3:1: only single YAML document expected"),
    ];
    for (yaml, expected) in cases {
        let refusal = start().file(yaml).refusal();
        assert!(refusal.contains(expected), "{yaml}\n{refusal}");
        assert!(!refusal.contains("Options") && !refusal.contains("from_str"), "advice for programmers: {refusal}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once_and_each_by_file_variable_or_flag() {
    let start = start()
        .file("server:\n  prot: 1\n  page_max: 0\n")
        .env("FLEET_SERVER__WORKERS", "many")
        .env("FLEET_SERVRE__PORT", "1")
        .env("FLEET_SERVER", "x")
        .env("LOG_JSON", "perhaps")
        .flags(Flags { host: Some("nowhere".to_owned()), profile: Some("prod".to_owned()), ..Flags::default() });
    let error = start.error();
    let places: BTreeSet<&str> =
        error.problems().iter().map(|p| p.place().rsplit('/').next().unwrap_or_default()).collect();
    let expected = [
        "fleet.yaml:2:3",
        "fleet.yaml:3:13",
        "environment variable FLEET_SERVER__WORKERS",
        "environment variable FLEET_SERVRE__PORT",
        "environment variable FLEET_SERVER",
        "environment variable LOG_JSON",
        "flag --host",
        "flag --profile",
    ];
    assert_eq!(places, BTreeSet::from(expected), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_who_named_it() {
    let flags = Flags { config: Some("/nowhere/fleet.yaml".into()), ..Flags::default() };
    let refusal = Start { sources: Sources { flags, ..Sources::default() }, file: None }.refusal();
    assert!(refusal.contains("flag --config: /nowhere/fleet.yaml cannot be read: "), "{refusal}");
    let refusal = start().env("FLEET_CONFIG", "/nowhere.yaml").refusal();
    assert!(refusal.contains("environment variable FLEET_CONFIG: /nowhere.yaml cannot be read"), "{refusal}");
    let refusal = start().file(&"#".repeat((1 << 20) + 1)).refusal();
    assert!(refusal.contains("expected at most 1048576 bytes"), "{refusal}");
}

#[cfg(unix)]
#[test]
fn what_is_not_a_regular_file_is_refused_as_such_without_waiting_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let other = "a pipe, a socket or a device";
    for (file, found) in
        [(dir.path(), "a directory"), (&pipe, other), (&socket, other), (std::path::Path::new("/dev/zero"), other)]
    {
        let flags = Flags { config: Some(file.to_owned()), ..Flags::default() };
        let refusal = Start { sources: Sources { flags, ..Sources::default() }, file: None }.refusal();
        let expected = format!("{} cannot be read: expected a regular file, found {found}", file.display());
        assert!(refusal.contains("flag --config: ") && refusal.contains(&expected), "{refusal}");
        let refusal = start().env("FLEET_CONFIG", file.to_str().unwrap()).refusal();
        assert!(refusal.contains("variable FLEET_CONFIG: ") && refusal.contains(&expected), "{refusal}");
    }
}

#[test]
fn each_wrong_item_of_a_list_is_reported_once_at_its_place_and_those_beside_it_as_well() {
    let rules = "tools:\n  policy:\n    - { principal: a, tool: b, access: maybe }\n    - { principal: a, tool: b, access: ask }\n    \
                 - { principal: a, tool: b, acess: ask }\n    - { principal: a, tool: \"*b\", access: deny }\n    - 7\n    \
                 - { principal: a, access: ask }\n";
    let refusal = start().file(rules).refusal();
    assert!(refusal.starts_with("5 mistakes in the settings\n"), "{refusal}");
    for expected in [
        "fleet.yaml:3:40: tools.policy.access: expected one of allow, ask, deny",
        "fleet.yaml:5:32: tools.policy.acess: unknown key, expected access?",
        "fleet.yaml:6:29: tools.policy.tool: expected a name, or the beginning of names and *",
        "fleet.yaml:7:7: tools.policy: expected a section, found a whole number",
        "fleet.yaml:8:7: tools.policy: tool is missing",
    ] {
        assert_eq!(refusal.matches(expected).count(), 1, "{expected}\n{refusal}");
    }
    let refusal = start().env("FLEET_TOOLS__FETCH_PAGE__PORTS", "443,many").refusal();
    assert!(refusal.starts_with("1 mistake in the settings\n"), "{refusal}");
}

#[test]
fn values_that_contradict_each_other_are_shown_where_the_higher_layer_set_one_of_them() {
    let refusal = start().file("server:\n  frame_bytes_max: 2097152\n").refusal();
    let expected = "fleet.yaml:2:20: server.frame_bytes_max: \
                    expected at most server.message_bytes_max (1048576), found 2097152";
    assert!(refusal.contains(expected), "{refusal}");
    assert!(refusal.contains("= server.message_bytes_max was set by: default"), "{refusal}");

    let start = start().file("server:\n  frame_bytes_max: 2097152\n").env("FLEET_SERVER__MESSAGE_BYTES_MAX", "1100000");
    let refusal = start.refusal();
    let expected = "environment variable FLEET_SERVER__MESSAGE_BYTES_MAX: server.message_bytes_max: \
                    expected at least server.frame_bytes_max (2097152), found 1100000\n   \
                    = server.frame_bytes_max was set by: fleet.yaml:2";
    assert!(refusal.contains(expected), "{refusal}");
}

#[test]
fn every_contradiction_is_found_in_one_start() {
    let contradictions = [
        ("FLEET_AGENTS__ASSISTANT__TIMEOUT_MS", "300001"),
        ("FLEET_FAST_PATH__MAX_CHARS", "1000000"),
        ("FLEET_LLM__CONNECT_TIMEOUT_MS", "300002"),
        ("FLEET_LLM__EVENT_BYTES_MAX", "67108864"),
        ("FLEET_LLM__REQUEST_TIMEOUT_MS", "300001"),
        ("FLEET_LLM__RETRY__BACKOFF_MS", "20001"),
        ("FLEET_LLM__STREAM_IDLE_TIMEOUT_MS", "300002"),
        ("FLEET_SERVER__CORS_ALLOWED_ORIGINS", "*,https://a.example"),
        ("FLEET_SERVER__FRAME_BYTES_MAX", "2000000"),
        ("FLEET_SERVER__HEARTBEAT_INTERVAL_MS", "120000"),
        ("FLEET_SERVER__HOST", "0.0.0.0"),
        ("FLEET_SERVER__PAGE_DEFAULT", "51"),
        ("FLEET_SERVER__PING_INTERVAL_MS", "50000"),
        ("FLEET_SERVER__REFUSED_BODY_BYTES_MAX", "1048576"),
        ("FLEET_SESSIONS__MAX_TASK_LENGTH", "999999"),
        ("FLEET_SESSIONS__RUN_IDLE_TIMEOUT_MS", "300001"),
        ("FLEET_STORAGE__REQUEST_KEY_RETENTION_HOURS", "721"),
        ("FLEET_STORAGE__WAL_PAGES_MAX", "16385"),
    ];
    let counterparts = "server: { page_max: 50, body_bytes_max: 999999, message_bytes_max: 999999 }";
    let start = contradictions.iter().fold(start(), |start, (name, value)| start.env(name, value));
    let error = start.file(counterparts).error();
    let places: BTreeSet<&str> = error.problems().iter().map(|problem| problem.place()).collect();
    let expected: Vec<String> = contradictions.iter().map(|(name, _)| format!("environment variable {name}")).collect();
    assert_eq!(places, expected.iter().map(String::as_str).collect(), "{error}");
}

#[test]
fn a_contradiction_with_a_value_that_was_already_refused_is_not_reported() {
    let refusal = start().file("server: { message_bytes_max: lots, frame_bytes_max: 2097152 }").refusal();
    assert!(refusal.starts_with("1 mistake"), "{refusal}");
}
