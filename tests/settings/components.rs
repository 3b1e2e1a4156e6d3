//! What components read from their settings.

use agentic_fleet::runtime::workflow_config;
use agentic_fleet::settings::{Changes, EVENT_TYPES, Flags};

use crate::start;

#[test]
fn origins_are_compared_whole_and_star_never_goes_with_credentials() {
    let settings = start().profile("production").env("OPENAI_API_KEY", "k");
    let named = settings.env("CORS_ALLOWED_ORIGINS", "https://Chat.example.com").settings().server;
    for (origin, allowed) in [
        ("https://chat.example.com", true),
        ("https://chat.example.com:443", true),
        ("http://chat.example.com", false),
        ("https://chat.example.com.evil.org", false),
        ("https://chat.example.com:8443", false),
        ("https://chat.example.com@evil.org", false),
        ("https://chat.example.com/", false),
        ("http://localhost:5173", false),
        ("null", false),
        ("", false),
    ] {
        assert_eq!(named.ws_origin_allowed(origin), allowed, "{origin}");
        assert_eq!(named.cors_origin_allowed(origin), allowed, "{origin}");
    }
    assert!(named.cors_allowed_origins.credentials());
    let any = start().env("CORS_ALLOWED_ORIGINS", "*").settings().server.cors_allowed_origins;
    assert!(any.allows("https://anywhere.example") && !any.credentials());
}

#[test]
fn the_local_profile_lets_every_localhost_origin_use_every_door() {
    let server = start().settings().server;
    for origin in ["http://localhost:5173", "https://localhost", "http://127.0.0.1:3000", "http://[::1]:8000"] {
        assert!(server.ws_origin_allowed(origin) && server.cors_origin_allowed(origin), "{origin}");
    }
    for origin in
        ["http://localhost.evil.org", "http://evil.org/localhost", "ftp://localhost", "http://127.0.0.1.nip.io"]
    {
        assert!(!server.ws_origin_allowed(origin) && !server.cors_origin_allowed(origin), "{origin}");
    }
}

#[test]
fn a_model_takes_what_the_longest_fitting_rule_says() {
    let yaml = "llm: { models: { gpt-5-chat: { temperature: true, reasoning_effort: false } } }";
    let llm = start().file(yaml).settings().llm;
    let takes = |model: &str| (llm.rules(model).temperature, llm.rules(model).reasoning_effort);
    assert_eq!(takes("gpt-5-mini"), (false, true));
    assert_eq!(takes("gpt-5-chat"), (true, false));
    assert_eq!(takes("llama3"), (true, false));
    assert_eq!(llm.rules("o3-mini").minimal_effort.map(|name| name.as_str().to_owned()), Some("low".to_owned()));
}

#[test]
fn a_model_has_the_price_of_its_rule_and_others_have_none() {
    let yaml = "llm: { models: { gpt-5-mini: { temperature: false, reasoning_effort: true, price: { input: 0.25, output: 2 } } } }";
    let llm = start().file(yaml).settings().llm;
    let price = llm.rules("gpt-5-mini").price.expect("the file gives it one");
    assert_eq!((price.input.get(), price.cached_input, price.output.get()), (0.25, None, 2.0));
    assert_eq!(llm.rules("gpt-5-nano").price, None);
}

#[test]
fn phases_ask_in_the_form_that_the_rule_of_their_model_names_else_in_that_of_all() {
    let form = |yaml: &str| workflow_config(&start().file(yaml).settings()).expect("agents")["prompts"]["form"].clone();
    let small = "models: { small*: { temperature: true, reasoning_effort: false, structured_output: fenced } }";
    assert_eq!(form(""), "auto");
    assert_eq!(form("llm: { structured_output: schema }"), "schema");
    assert_eq!(form(&format!("llm: {{ model: smaller, structured_output: schema, {small} }}")), "fenced");
    assert_eq!(form(&format!("llm: {{ model: large, structured_output: schema, {small} }}")), "schema");
    assert_eq!(form(&format!("{{ llm: {{ model: large, {small} }}, pipeline: {{ model: small-1b }} }}")), "fenced");
}

#[test]
fn every_event_type_has_a_route_and_a_kind_its_own() {
    let routing = start().settings().ui_routing;
    for event in EVENT_TYPES {
        assert!(routing.route(event, Some("analysis")).is_some(), "{event}");
    }
    let icon = |kind| routing.route("orchestrator.thought", Some(kind)).and_then(|route| route.icon_hint.clone());
    assert_eq!(icon("handoff").as_deref(), Some("handoff"));
    assert!(routing.route("no.such.event", None).is_none());
}

#[test]
fn a_change_says_what_takes_effect_now_and_what_needs_a_restart() {
    let old = start().settings();
    assert_eq!(old.changes(&start().env("MAX_CONCURRENT_WORKFLOWS", "10").settings()), Changes::default());
    let next = start()
        .env("MAX_CONCURRENT_WORKFLOWS", "4")
        .env("LOG_LEVEL", "debug")
        .env("OPENAI_API_KEY", "k")
        .flags(Flags { port: Some(9), ..Flags::default() })
        .settings();
    let changes = old.changes(&next);
    assert_eq!(changes.applied, ["logging.level", "sessions.max_concurrent_workflows"]);
    assert_eq!(changes.restart, ["OPENAI_API_KEY", "server.port"]);
}
