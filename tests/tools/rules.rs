//! Who may call what, and what has to hold before a call is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentic_fleet::tools::{Dispatch, Offered, Provider, Reach};
use fleet_actors::event::Failure;
use fleet_actors::ports::{Access, EffectPolicy, LocalFuture, ToolCall, ToolOutput, ToolSpec, Tools as _};
use serde_json::{Value, json};

use crate::support::{Log, World, approved, call};

/// A server's two tools, of which one only reads; counts what is really called. Its schema can change.
#[derive(Default)]
pub struct Recorder {
    pub calls: AtomicUsize,
    pub generation: AtomicUsize,
}

impl Recorder {
    fn offered(&self, name: &str, reach: Reach) -> Offered {
        let parameters = json!({
            "type": "object",
            "properties": { "path": { "type": "string", "pattern": "^/[a-z/]*$" }, "count": { "type": "integer", "maximum": 9 } },
            "required": ["path"],
            "additionalProperties": false,
        });
        let description = format!("version {}", self.generation.load(Ordering::Relaxed));
        let spec = ToolSpec { name: format!("mcp__files__{name}"), description, parameters };
        Offered::new(spec, EffectPolicy::Ambiguous, reach, "files".into())
    }
}

impl Provider for Recorder {
    fn offers<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Vec<Offered>> {
        let all = [self.offered("read", Reach::Reads), self.offered("write", Reach::Writes)];
        let wanted = all.into_iter().filter(|offered| name == "mcp:files" || offered.spec.name == name).collect();
        Box::pin(std::future::ready(wanted))
    }

    fn policy(&self, tool: &str) -> Option<EffectPolicy> {
        tool.starts_with("mcp__files__").then_some(EffectPolicy::Ambiguous)
    }

    fn call<'a>(&'a self, _: Dispatch<'a>) -> LocalFuture<'a, Result<ToolOutput, Failure>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Ok(ToolOutput::text("done"))))
    }
}

fn recorded() -> (World, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    (
        World::with(
            &[("FLEET_TOOLS__PYTHON__ENABLED", "false"), ("FLEET_TOOLS__JAVASCRIPT__ENABLED", "false")],
            vec![recorder.clone()],
        ),
        recorder,
    )
}

async fn refused(world: &World, call: &ToolCall) -> String {
    let failure = world.runner().call(call).await.expect_err("it was made");
    failure.code.to_string()
}

#[tokio::test]
async fn the_defaults_allow_search_and_pages_ask_for_code_and_for_what_writes_and_deny_the_rest() {
    let recorder: Arc<dyn Provider> = Arc::new(Recorder::default());
    let world = World::with(&[], vec![recorder]);
    let names = ["tavily_search", "fetch_page", "python", "javascript", "mcp:files", "nobody_knows_it"];
    let offers = world.runner().offers(&names.map(str::to_owned)).await;
    let found: Vec<(&str, Access)> = offers.iter().map(|offer| (offer.spec.name.as_str(), offer.access)).collect();
    let expected = [
        ("tavily_search", Access::Allow),
        ("fetch_page", Access::Allow),
        ("python", Access::Ask),
        ("javascript", Access::Ask),
        ("mcp__files__read", Access::Allow),
        ("mcp__files__write", Access::Ask),
    ];
    assert_eq!(found, expected);
    for offer in &offers {
        assert_eq!(offer.spec.parameters["additionalProperties"], false, "{}", offer.spec.name);
        assert!(!offer.schema_digest.is_empty());
    }
}

#[tokio::test]
async fn the_first_rule_that_fits_a_principal_and_a_tool_applies() {
    let rules = r#"
tools:
  policy:
    - { principal: guest, tool: "*", access: deny }
    - { principal: "team-*", tool: fetch_page, access: ask }
    - { principal: "*", tool: "fetch*", access: allow }
"#;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yaml");
    std::fs::write(&file, rules).unwrap();
    let world = World::new(&[("FLEET_CONFIG", file.to_str().unwrap())]);
    let names = ["fetch_page".to_owned(), "tavily_search".to_owned()];
    for (principal, expected) in [
        ("guest", [Access::Deny, Access::Deny]),
        ("team-a", [Access::Ask, Access::Deny]),
        ("somebody", [Access::Allow, Access::Deny]),
    ] {
        let offers = world.tools.runner(principal).offers(&names).await;
        let found: Vec<Access> = offers.iter().map(|offer| offer.access).collect();
        assert_eq!(found, expected, "{principal}");
    }
}

#[tokio::test]
async fn a_call_that_needs_approval_is_made_only_with_a_word_for_these_very_arguments() {
    let (world, recorder) = recorded();
    let offer = world.offer("mcp__files__write").await;
    let plain = call(&offer, json!({ "path": "/notes" }));
    assert_eq!(refused(&world, &plain).await, "tool_denied");

    let mut changed = approved(plain.clone());
    changed.arguments = json!({ "path": "/secrets" });
    assert_eq!(refused(&world, &changed).await, "tool_denied");
    // An approval of another tool with the same arguments is none for this one.
    let read = world.offer("mcp__files__read").await;
    let mut other = plain.clone();
    other.approval = approved(call(&read, plain.arguments.clone())).approval;
    assert_eq!(refused(&world, &other).await, "tool_denied");
    assert_eq!(recorder.calls.load(Ordering::Relaxed), 0);

    world.runner().call(&approved(plain)).await.unwrap();
    assert_eq!(recorder.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_tool_that_its_server_has_changed_is_refused_until_it_is_offered_anew() {
    let (world, recorder) = recorded();
    let offer = world.offer("mcp__files__read").await;
    recorder.generation.store(1, Ordering::Relaxed);
    assert_eq!(refused(&world, &call(&offer, json!({ "path": "/a" }))).await, "mcp_tool_changed");
    let mut nameless = call(&offer, json!({ "path": "/a" }));
    nameless.schema_digest = "".into();
    assert_eq!(refused(&world, &nameless).await, "mcp_tool_changed");
    assert_eq!(recorder.calls.load(Ordering::Relaxed), 0);
    let anew = world.offer("mcp__files__read").await;
    world.runner().call(&call(&anew, json!({ "path": "/a" }))).await.unwrap();

    let mut built_in = call(&world.offer("fetch_page").await, json!({ "url": "http://127.0.0.1/" }));
    built_in.schema_digest = "another".into();
    assert_eq!(refused(&world, &built_in).await, "tool_changed");
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_refused_with_a_text_that_says_what_is_wrong() {
    let (world, recorder) = recorded();
    let offer = world.offer("mcp__files__read").await;
    let table: [(Value, &str); 7] = [
        (json!({}), "\"path\" is a required property"),
        (json!({ "path": 5 }), "/path: 5 is not of type \"string\""),
        (json!({ "path": "notes" }), "does not match"),
        (json!({ "path": "/a", "count": 10 }), "/count: 10 is greater than the maximum of 9"),
        (json!({ "path": "/a", "more": 1 }), "'more' was unexpected"),
        (json!("a string"), "is not of type \"object\""),
        (json!(null), "is not of type \"object\""),
    ];
    for (arguments, text) in table {
        let failure = world.runner().call(&call(&offer, arguments.clone())).await.expect_err("it was made");
        assert_eq!(&*failure.code, "tool_arguments_invalid", "{arguments}");
        assert!(failure.message.contains(text), "{arguments}: {}", failure.message);
    }
    let long = json!({ "path": "/a".repeat(200_000) });
    let failure = world.runner().call(&call(&offer, long)).await.expect_err("it was made");
    assert!(failure.message.contains("at most 262144"), "{}", failure.message);
    assert_eq!(recorder.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_refusal_is_a_security_event_on_one_line_without_what_was_sent() {
    let (world, _) = recorded();
    let log = Log::capture();
    let offer = world.offer("mcp__files__write").await;
    let mut hostile = call(&offer, json!({ "path": "/canaryinarguments" }));
    assert_eq!(refused(&world, &hostile).await, "tool_denied");
    hostile.name = "x\r\nlevel=ERROR forged\u{1b}[31m\u{2028}".into();
    let failure = world.tools.runner("eve\nforged").call(&hostile).await.expect_err("it was made");
    assert_eq!(&*failure.code, "tool_unknown");
    let text = log.text();
    let events: Vec<&str> = text.lines().filter(|line| line.contains("tool call refused")).collect();
    assert_eq!(events.len(), 2, "{text}");
    assert!(events[0].contains("sec.event=\"tool_denied\"") && events[0].contains("principal=local"), "{}", events[0]);
    assert!(events[0].contains("tool=mcp__files__write") && events[0].contains("workflow=0197f000"), "{}", events[0]);
    assert!(
        events[1].contains("sec.event=\"tool_unknown\"") && events[1].contains("\\u{d}\\u{a}level"),
        "{}",
        events[1]
    );
    assert!(!text.contains("canaryinarguments") && !text.contains('\u{1b}') && !text.contains('\u{2028}'), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("level=") || line.starts_with("forged")), "{text}");
}

#[tokio::test]
async fn each_call_is_a_span_with_its_tool_outcome_and_time_and_without_its_arguments() {
    let (world, _) = recorded();
    let log = Log::capture();
    let offer = world.offer("mcp__files__read").await;
    let output = world.runner().call(&call(&offer, json!({ "path": "/canary" }))).await.unwrap();
    let text = log.text();
    let closed = text.lines().find(|line| line.contains("close")).unwrap_or_default();
    for part in ["execute_tool", "gen_ai.tool.name=\"mcp__files__read\"", "outcome=\"ok\"", "duration_ms="] {
        assert!(closed.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("canary"), "{text}");
    assert!(output.duration.as_secs() < 1);
}
