//! What is never shown, and what does not start although every value is fine.

use agentic_fleet::settings::{Flags, Provider, SECRET_NAMES, report};

use crate::start;

#[test]
fn secrets_come_only_from_the_environment_and_are_never_shown() {
    const CANARY: &str = "canary-7f3a";
    // The one that has a form.
    let connection = format!("InstrumentationKey={CANARY}");
    let secret = |name: &str| if name.starts_with("APPLICATION") { connection.clone() } else { CANARY.to_owned() };
    let start = SECRET_NAMES.iter().fold(start(), |start, name| start.env(name, &secret(name)));
    let start = start.file("# api_key: canary-7f3a\n");
    let effective = start.effective();
    assert!(!format!("{effective:?} {:?}", start.sources).contains(CANARY));
    assert!(!report(&effective).contains(CANARY));
    for name in SECRET_NAMES {
        assert_eq!(start.report()[name], format!("[redacted]  # env {name}"));
    }
    assert_eq!(self::start().report()["TAVILY_API_KEY"], "(unset)  # env TAVILY_API_KEY");
    assert!(!effective.settings.simulated());
}

#[test]
fn a_secret_in_a_file_is_refused_without_showing_it() {
    for yaml in [
        "llm:\n  api_key: canary-7f3a\n",
        "llm: { openai_api_key: canary-7f3a }\n",
        "OPENAI_API_KEY: canary-7f3a\n",
        "\"OPENAI_API_KEY\": \"canary-7f3a\n",
        "agents: { bob: { auth-token: canary-7f3a } }\n",
        "llm:\n  base_url: https://me:canary-7f3a@example.com/v1\n",
    ] {
        let error = start().file(yaml).error();
        assert!(!error.to_string().contains("canary"), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
    let refusal = start().file("llm:\n  api_key: canary-7f3a\n").refusal();
    assert!(refusal.contains("llm.api_key: expected no secret here: they come only from the environment"), "{refusal}");
    assert!(refusal.contains(" 2 |   api_key: [redacted]"), "{refusal}");
}

#[test]
fn a_line_that_is_shown_tells_nothing_of_a_url_but_where_it_leads() {
    let urls = [
        ("http://u:canary@host/mcp?token=canary", "http://[redacted]@host/mcp?[redacted]"),
        ("http://host/mcp?token=canary", "http://host/mcp?[redacted]"),
        ("http://host/mcp?canary", "http://host/mcp?[redacted]"),
        ("http://host/mcp#canary", "http://host/mcp#[redacted]"),
        ("http://host/mcp?to=a@b&key=canary", "http://[redacted]"),
        ("http://u:canary@host/mcp?to=a@b&key=canary", "http://[redacted]"),
        ("http://u:canary?canary@host/mcp", "http://[redacted]"),
        ("http://u:c@nary@host/mcp", "http://[redacted]@host/mcp"),
        ("host/mcp?token=canary", "host/mcp?[redacted]"),
    ];
    for (url, shown) in urls {
        let lines = [
            format!("mcp_servers: {{ h: {{ transport: http, url: \"{url}\" }} }}"),
            format!("llm:\n  base_url: '{url}'\n"),
            format!("llm:\n  base_url: {url} # see http://host/docs?canary\n"),
            format!("mcp_servers: {{ h: {{ transport: http, url: \"{url}\", token: canary }} }}"),
        ];
        for line in lines {
            let error = start().file(&line).error();
            assert!(error.to_string().contains(shown), "{error}");
            assert!(!error.to_string().contains("nary") && !format!("{error:?}").contains("nary"), "{error:?}");
        }
    }
    let refusal = start().file("agents: { bob: { description: what is this? } }").refusal();
    assert!(refusal.contains("what is this? } }"), "{refusal}");
}

#[test]
fn a_file_cannot_pull_a_secret_out_of_the_environment() {
    for reference in ["${OPENAI_API_KEY}", "${OPENAI_API_KEY:-x}", "${X:-${OPENAI_API_KEY}}"] {
        let start = start().env("OPENAI_API_KEY", "canary-7f3a").file(&format!("llm:\n  model: {reference}\n"));
        let refusal = start.refusal();
        assert!(refusal.contains("OPENAI_API_KEY is a secret and is read from the environment"), "{refusal}");
        assert!(!refusal.contains("canary"), "{refusal}");
    }
}

#[test]
fn no_value_of_a_variable_is_shown_in_a_refusal() {
    let keys = [
        "SERVER__PORT",
        "SERVER__HOST",
        "LLM__PROVIDER",
        "LLM__BASE_URL",
        "LOGGING__LEVEL",
        "NO__SUCH",
        "SERVER",
        "LLM__API_KEY",
        "SESSIONS__ON_DISCONNECT",
        "SERVER__CORS_ALLOWED_ORIGINS",
        "TRACING__ENABLED",
        "LLM__SIMULATED__JITTER",
    ];
    let start = keys.iter().fold(start(), |start, key| start.env(&format!("FLEET_{key}"), "canary-7f3a"));
    let error = start.error();
    assert_eq!(error.problems().len(), keys.len(), "{error}");
    assert!(!error.to_string().contains("canary"), "{error}");
}

#[test]
fn production_refuses_to_start_without_a_key_and_names_the_variable() {
    for start in [
        start().profile("production"),
        start().profile("production").env("FLEET_LLM__PROVIDER", "auto"),
        start().profile("production").env("OPENAI_BASE_URL", "http://127.0.0.1:9/v1"),
    ] {
        let refusal = start.refusal();
        assert!(refusal.starts_with("1 mistake"), "{refusal}");
        assert!(refusal.contains("environment variable OPENAI_API_KEY: is not set"), "{refusal}");
    }
    let settings = start().profile("production").env("OPENAI_API_KEY", "k").settings();
    assert_eq!(settings.llm.provider, Provider::Openai);
    assert!(start().profile("production").env("FLEET_LLM__PROVIDER", "simulated").settings().simulated());
}

#[test]
fn a_connection_string_that_is_none_is_refused_by_its_name_and_not_shown() {
    const NAME: &str = "APPLICATIONINSIGHTS_CONNECTION_STRING";
    for text in [
        "canary",
        "IngestionEndpoint=https://canary.example/",
        "InstrumentationKey=canary;IngestionEndpoint=no url",
        "InstrumentationKey=canary;IngestionEndpoint=*",
        "InstrumentationKey=canary;ingestionendpoint=/canary",
    ] {
        let refusal = start().env(NAME, text).refusal();
        assert!(refusal.starts_with("1 mistake"), "{refusal}");
        assert!(refusal.contains(&format!("environment variable {NAME}: is no connection string")), "{refusal}");
        assert!(!refusal.contains("canary"), "{refusal}");
    }
    start()
        .env(NAME, "InstrumentationKey=k;IngestionEndpoint=https://a.example/;LiveEndpoint=https://b.example/")
        .settings();
}

#[test]
fn a_key_that_no_header_can_carry_is_refused_by_its_name_and_not_shown() {
    for name in ["OPENAI_API_KEY", "TAVILY_API_KEY"] {
        for key in ["canary\nhost: evil", "canary key", "canar\u{fd}"] {
            let refusal = start().env(name, key).refusal();
            assert!(refusal.starts_with("1 mistake"), "{refusal}");
            assert!(refusal.contains(&format!("environment variable {name}: has a character that no")), "{refusal}");
            assert!(!refusal.contains("canar"), "{refusal}");
        }
    }
}

#[test]
fn openai_needs_a_key_or_a_base_url() {
    let refusal = start().env("FLEET_LLM__PROVIDER", "openai").refusal();
    assert!(
        refusal.contains("environment variable OPENAI_API_KEY: is not set: llm.provider: openai needs"),
        "{refusal}"
    );
    assert!(refusal.contains("= llm.provider was set by: env FLEET_LLM__PROVIDER"), "{refusal}");
    let local = start().env("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/").settings();
    assert!(!local.simulated() && local.llm.chat_completions());
    assert_eq!(local.llm.base_url.as_ref().map(|url| url.as_str()), Some("http://127.0.0.1:9/v1"));
    assert!(!start().env("OPENAI_API_KEY", "k").settings().llm.chat_completions());
}

#[test]
fn an_address_that_others_can_reach_is_refused_unless_explicitly_allowed() {
    for host in ["0.0.0.0", "192.168.1.5", "::", "::ffff:10.0.0.1"] {
        let flags = || Flags { host: Some(host.to_owned()), ..Flags::default() };
        let refusal = start().flags(flags()).refusal();
        assert!(refusal.contains("flag --host: server.host: expected a loopback address or"), "{refusal}");
        start().flags(flags()).env("FLEET_SERVER__ALLOW_UNAUTHENTICATED", "true").settings();
    }
    for host in ["localhost", "127.0.0.2", "::1"] {
        start().env("FLEET_SERVER__HOST", host).settings();
    }
}
