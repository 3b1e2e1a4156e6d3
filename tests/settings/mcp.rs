//! MCP servers in the settings: what an entry needs, and that no secret fits in.

use agentic_fleet::settings::{McpProtocol, McpTransport};

use crate::start;

const STDIO: &str =
    "mcp_servers:\n  files:\n    transport: stdio\n    command: npx\n    args: [-y, files]\n    env: [FILES_TOKEN]\n";

#[test]
fn an_entry_needs_little_and_there_is_none_by_default() {
    assert!(start().settings().mcp_servers.is_empty());
    let settings = start().file(STDIO).settings();
    let server = &settings.mcp_servers["files"];
    assert_eq!(
        (server.transport, server.protocol, server.enabled),
        (McpTransport::Stdio, McpProtocol::Handshake, true)
    );
    assert!(!server.trust_annotations && server.call_timeout_ms.is_none());
    let http = "mcp_servers:\n  web: { transport: http, url: https://mcp.example/x/, headers_env: { Authorization: WEB_AUTH } }\n";
    let settings = start().file(http).settings();
    let url = settings.mcp_servers["web"].url.as_ref().expect("a url");
    assert_eq!(url.as_str(), "https://mcp.example/x/", "a slash at the end may matter");
    assert_eq!(settings.mcp_servers["web"].headers_env["Authorization"].as_str(), "WEB_AUTH");
}

#[test]
fn the_report_names_variables_and_shows_none() {
    let report = start().file(STDIO).env("FILES_TOKEN", "canary-3310").report();
    assert_eq!(report["mcp_servers.files.env"], "[\"FILES_TOKEN\"]  # fleet.yaml:6");
    assert!(report.values().all(|line| !line.contains("canary-3310")));
}

#[test]
fn a_wrong_entry_is_refused_with_its_place() {
    let cases = [
        ("a: { transport: stdio }", "2:19: mcp_servers.a.transport: expected a command beside transport: stdio"),
        ("a: { transport: http }", "mcp_servers.a.transport: expected a url beside transport: http"),
        ("a: { transport: stdio, command: x, url: http://h }", "expected no url and no headers_env beside"),
        ("a: { transport: http, url: http://h, env: [X] }", "expected no command, args, cwd and env beside"),
        ("a: { transport: pipe }", "mcp_servers.a.transport: expected one of stdio, http"),
        ("a: { transport: http, url: http://u:p@h }", "mcp_servers.a.url: expected a URL without user and password"),
        ("a: { transport: stdio, command: x, tools_max: 0 }", "expected a whole number from 1 to 10000"),
        ("a: { transport: stdio, command: x, tool_max: 1 }", "unknown key, expected tools_max?"),
        ("a__b: { transport: stdio, command: x }", "expected 1 to 32 characters from a-z, 0-9, - and single _ inside"),
        ("builtin: { transport: stdio, command: x }", "no server may pass for them"),
        ("A: { transport: stdio, command: x }", "expected 1 to 32 characters from a-z, 0-9, - and single _ inside"),
    ];
    for (entry, expected) in cases {
        let refusal = start().file(&format!("mcp_servers:\n  {entry}\n")).refusal();
        assert!(refusal.contains(expected), "{entry}: {refusal}");
    }
}

#[test]
fn a_secret_pasted_where_a_variable_is_named_is_refused() {
    let header =
        "mcp_servers:\n  a: { transport: http, url: http://h, headers_env: { Authorization: Bearer ghp_canary7 } }\n";
    assert!(start().file(header).refusal().contains("expected the name of an environment variable"));
    let variable = "mcp_servers:\n  a: { transport: stdio, command: x, env: [TOKEN=canary7] }\n";
    assert!(start().file(variable).refusal().contains("expected the name of an environment variable"));
    let elsewhere = "mcp_servers:\n  a: { transport: stdio, command: x, api_key: canary7 }\n";
    assert!(start().file(elsewhere).refusal().contains("expected no secret here"));
}
