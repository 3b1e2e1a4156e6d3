//! Which layer wins.

use std::path::PathBuf;

use agentic_fleet::settings::{Flags, OPERATOR_NAMES, Profile};

use crate::start;

#[test]
fn without_any_source_the_defaults_hold_in_the_local_profile() {
    let settings = start().settings();
    assert_eq!(settings.profile, Profile::Local);
    assert!(settings.server.host.is_loopback());
    assert_eq!(settings.server.port.as_u16(), 8000);
    assert_eq!(settings.storage.data_dir, PathBuf::from(".var"));
    assert_eq!(settings.sessions.max_concurrent_workflows.get(), 10);
    assert!(settings.simulated());
    assert!(settings.agents.contains_key("assistant"));
}

#[test]
fn a_profile_wins_over_the_defaults_a_file_over_the_profile_the_environment_over_the_file_and_a_flag_over_all() {
    let test = start().profile("test");
    assert_eq!(test.report()["server.port"], "0  # config/test.yaml (built in):3");

    let file = test.file("server:\n  port: 1001\n  workers: 2\n");
    assert_eq!(file.report()["server.port"], "1001  # fleet.yaml:2");

    let env = file.env("FLEET_SERVER__PORT", "1002");
    assert_eq!(env.report()["server.port"], "1002  # env FLEET_SERVER__PORT");

    let flag = env.flags(Flags { port: Some(1003), profile: Some("test".to_owned()), ..Flags::default() });
    let report = flag.report();
    assert_eq!(report["server.port"], "1003  # flag --port");
    assert_eq!(report["server.workers"], "2  # fleet.yaml:3");
    assert_eq!(report["server.page_max"], "100  # default");
    assert_eq!(report["profile"], "test  # flag --profile");
}

#[test]
fn every_name_that_operators_know_sets_its_key() {
    let values = [
        ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1"),
        ("LOG_JSON", "0"),
        ("LOG_LEVEL", "warn,fleet_actors=debug"),
        ("MAX_CONCURRENT_WORKFLOWS", "7"),
        ("CORS_ALLOWED_ORIGINS", "https://a.example, http://b.example:8080"),
        ("WS_ALLOW_LOCALHOST", "0"),
        ("FLEET_DATA_DIR", "/srv/fleet"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_SERVICE_NAME", "chats"),
    ];
    let report = values.iter().fold(start(), |start, (name, value)| start.env(name, value)).report();
    assert_eq!(values.map(|(name, _)| name), OPERATOR_NAMES.map(|(name, _)| name));
    for (name, key) in OPERATOR_NAMES {
        assert!(report[key].ends_with(&format!("# env {name}")), "{key} = {}", report[key]);
    }
    assert!(report["logging.json"].starts_with("false "));
    assert!(report["server.ws_allow_localhost"].starts_with("false "));
    assert!(report["server.cors_allowed_origins"].starts_with(r#"["https://a.example","http://b.example:8080"] "#));
}

#[test]
fn a_fleet_variable_wins_over_the_older_name_of_its_key() {
    let start = start().env("MAX_CONCURRENT_WORKFLOWS", "7").env("FLEET_SESSIONS__MAX_CONCURRENT_WORKFLOWS", "8");
    assert_eq!(start.settings().sessions.max_concurrent_workflows.get(), 8);
}

#[test]
fn an_empty_variable_counts_as_unset_and_null_means_none() {
    let start = start()
        .env("LOG_LEVEL", "")
        .env("OPENAI_API_KEY", " ")
        .env("FLEET_STORAGE__HISTORY_RETENTION_DAYS", "9")
        .env("FLEET_LLM__OUTPUT_TOKENS_MAX", "null");
    let settings = start.settings();
    assert_eq!(settings.logging.level.as_str(), "info");
    assert!(settings.secrets.openai_api_key.is_none());
    assert_eq!(settings.storage.history_retention_days.map(|days| days.get()), Some(9));
    assert!(settings.llm.output_tokens_max.is_none());
}

#[test]
fn config_and_profile_can_be_named_by_the_environment_and_flags_win_over_that() {
    let named = start().file("server: { port: 1 }");
    let file = named.sources.flags.config.clone().expect("a file");
    let named = start().env("FLEET_CONFIG", file.to_str().expect("UTF-8")).env("FLEET_PROFILE", "test");
    assert_eq!(named.settings().server.port.as_u16(), 1);
    assert_eq!(named.settings().profile, Profile::Test);
    assert_eq!(named.profile("local").settings().profile, Profile::Local);
}

#[test]
fn a_file_may_be_empty_or_hold_an_empty_section() {
    for yaml in ["", "# nothing yet\n", "server:\n", "---\n"] {
        assert_eq!(start().file(yaml).settings().server.port.as_u16(), 8000, "{yaml:?}");
    }
}

#[test]
fn a_variable_in_a_file_is_replaced_or_its_default_taken() {
    let yaml = "server:\n  port: ${APP_PORT:-9001}\nstorage:\n  data_dir: ${HOME}/fleet\n";
    let unset = start().env("HOME", "/home/ada").file(yaml).settings();
    assert_eq!(unset.server.port.as_u16(), 9001);
    assert_eq!(unset.storage.data_dir, PathBuf::from("/home/ada/fleet"));
    let set = start().env("HOME", "/").env("APP_PORT", "9002").file(yaml).settings();
    assert_eq!(set.server.port.as_u16(), 9002);
}

#[test]
fn a_file_can_add_an_agent_and_change_one_key_of_another() {
    let yaml =
        "agents:\n  assistant: { temperature: 0.5 }\n  writer:\n    description: Writes\n    instructions: Write.\n";
    let settings = start().file(yaml).settings();
    assert_eq!(settings.agents["assistant"].temperature.map(|t| t.get()), Some(0.5));
    assert!(settings.agents["assistant"].instructions.contains("helpful"));
    assert_eq!(settings.agents["writer"].instructions, "Write.");
}
