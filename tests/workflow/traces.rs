//! The spans of a run: a tree that stands in no other order than its work, nothing twice, and no word of what was said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentic_fleet::workflow::OnExpiry;
use fleet_actors::event::RunOutcome;
use fleet_actors::meter::CallEnd;
use fleet_actors::testing::script::Script;
use fleet_actors::trace::{OUTCOME, Span, TraceParent, Tracer, trace_of};
use serde_json::{Value, json};

use crate::support::{Asked, config, plan, script, wants};

/// Keeps what it is told.
#[derive(Default)]
struct Kept {
    spans: Mutex<Vec<Span>>,
    texts: bool,
}

impl Tracer for Kept {
    fn ended(&self, span: Span) {
        self.spans.lock().unwrap().push(span);
    }

    fn tells_texts(&self) -> bool {
        self.texts
    }
}

impl Kept {
    fn of_texts(texts: bool) -> Arc<Self> {
        Arc::new(Self { texts, ..Self::default() })
    }

    fn take(&self) -> Vec<Span> {
        std::mem::take(&mut self.spans.lock().unwrap())
    }
}

fn said<'a>(span: &'a Span, key: &str) -> &'a Value {
    span.attributes.iter().find(|(name, _)| *name == key).map_or(&Value::Null, |(_, value)| value)
}

/// The spans as lines, children below their parents, in the order of their ends.
fn tree(spans: &[Span]) -> Vec<String> {
    fn below(spans: &[Span], parent: Option<u64>, depth: usize, lines: &mut Vec<String>) {
        for span in spans.iter().filter(|span| span.parent == parent) {
            let error = span.error.as_ref().map(|(code, _)| format!(" {code}")).unwrap_or_default();
            let outcome = said(span, OUTCOME).as_str().unwrap();
            lines.push(format!("{}{}: {outcome}{error}", "  ".repeat(depth), span.name));
            below(spans, Some(span.id), depth + 1, lines);
        }
    }
    let mut lines = Vec::new();
    below(spans, None, 0, &mut lines);
    assert_eq!(lines.len(), spans.len(), "a span stands below none of the others: {spans:#?}");
    lines
}

/// Three work at the same time; the researcher wants four calls in one round.
fn team() -> Script {
    team_in(OnExpiry::Reject)
}

fn team_in(on_expiry: OnExpiry) -> Script {
    let mut config = config();
    config.approvals.on_expiry = on_expiry;
    (config.pipeline.progress, config.pipeline.quality) = (false, false);
    script(&config)
        .model(|call| {
            let asked = Asked::of(call);
            match (asked.name, asked.agent, asked.results.len()) {
                ("", "researcher", 0) => wants(&[
                    ("search", json!({ "query": "canary" })),
                    ("python", json!({ "code": "canary 1" })),
                    ("python", json!({ "code": "canary 2" })),
                    ("forbidden", json!({ "key": "canary" })),
                ]),
                _ => asked.sensible(&plan("parallel")),
            }
        })
        .human(|question| Some(json!(question.request["arguments"]["code"] == "canary 1")))
}

#[test]
fn a_team_at_work_is_one_tree_in_which_each_call_is_below_its_agent_also_those_that_were_refused() {
    let kept = Kept::of_texts(false);
    let ran = team().tracer(kept.clone()).run();
    assert_eq!(ran.outcome(), RunOutcome::Completed);
    let mut spans = kept.take();
    // A name says which agent's the branch is; branches end in any order.
    spans.sort_by_key(|span| span.parent.is_some().then(|| span.name.clone()));
    let lines = tree(&spans);
    assert_eq!(
        lines,
        [
            "invoke_workflow scripted: completed",
            "  chat m: completed",
            "  chat m: completed",
            "  invoke_agent analyst: completed",
            "    chat m: completed",
            "  invoke_agent researcher: completed",
            "    chat m: completed",
            "    chat m: completed",
            "    execute_tool forbidden: denied tool_denied",
            "    execute_tool python: rejected tool_denied",
            "    execute_tool python: completed",
            "    execute_tool search: completed",
            "  invoke_agent writer: completed",
            "    chat m: completed",
            "  invoke_agent writer: completed",
            "    chat m: completed",
        ]
    );
    let trace = trace_of(&fleet_actors::ids::WorkflowId::from_trusted("scripted-run"), None);
    assert!(spans.iter().all(|span| span.trace == trace && !span.parent_is_remote));
    let ids: BTreeSet<_> = spans.iter().map(|span| span.id).collect();
    assert_eq!(ids.len(), spans.len(), "ids are unique");
    let searched = spans.iter().find(|span| span.name == "execute_tool search").unwrap();
    assert_eq!(searched.took, Duration::from_millis(5));
    assert_eq!(
        (said(searched, "gen_ai.tool.call.id"), said(searched, "gen_ai.agent.name")),
        (&"call_0".into(), &"researcher".into())
    );
    let whole = format!("{spans:?}");
    assert!(!whole.contains("canary") && !whole.contains("says its part"), "{whole}");
    let ends = |tool: &str, end| ran.used.tool_calls.get(&(tool.into(), end)).copied();
    let counted = [CallEnd::Completed, CallEnd::Rejected].map(|end| ends("python", end));
    assert_eq!((counted, ends("forbidden", CallEnd::Denied)), ([Some(1), Some(1)], Some(1)));
}

#[test]
fn what_was_said_is_told_when_the_settings_want_it() {
    let kept = Kept::of_texts(true);
    let ran = team().tracer(kept.clone()).run();
    let spans = kept.take();
    let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    assert_eq!(said(of("execute_tool search"), "gen_ai.tool.call.arguments"), r#"{"query":"canary"}"#);
    assert_eq!(
        said(of("execute_tool search"), "gen_ai.tool.call.result"),
        r#"search gave a result for {"query":"canary"}"#
    );
    let root = of("invoke_workflow scripted");
    assert!(said(root, "gen_ai.input.messages").as_str().unwrap().contains("one-page brief"));
    let text = &ran.result().text;
    let output: Value = serde_json::from_str(said(root, "gen_ai.output.messages").as_str().unwrap()).unwrap();
    assert_eq!(output, json!([{ "role": "assistant", "parts": [{ "type": "text", "content": text }] }]));
}

/// After any record of the journal: calls are told and counted once each over both lives, but those that a crash made twice.
#[test]
fn a_life_that_goes_on_tells_only_of_what_it_does_itself() {
    let kept = Kept::of_texts(false);
    let ran = team().tracer(kept.clone()).run();
    kept.take();
    let mut agents = BTreeMap::new();
    for records in 1..=ran.records.len() {
        let again = ran.crashed_after(records);
        let spans = kept.take();
        let count = |name: &str| spans.iter().filter(|span| span.name.starts_with(name)).count();
        assert_eq!((count("chat "), count("invoke_workflow ")), (again.model_calls.len(), 1), "after {records}");
        let refused: u64 =
            again.used.tool_calls.iter().filter(|((_, end), _)| *end > CallEnd::Retried).map(|(_, n)| n).sum();
        assert_eq!(count("execute_tool "), again.tool_calls.len() + refused as usize, "after {records}");
        let calls = count("chat ") + count("execute_tool ");
        assert!(calls > 0 || count("invoke_agent ") == 0, "an agent without a call, after {records}: {spans:#?}");
        tree(&spans);
        *agents.entry(count("invoke_agent ")).or_insert(0) += 1;
    }
    assert!(agents.keys().copied().eq(0..=4), "{agents:?}");
}

#[test]
fn a_question_that_parks_the_run_ends_the_life_without_an_error_and_silence_is_counted() {
    for (on_expiry, outcome) in [(OnExpiry::Fail, ("failed", true)), (OnExpiry::Reject, ("completed", false))] {
        let kept = Kept::of_texts(false);
        let ran = team_in(on_expiry).human(|_| None).tracer(kept.clone()).run();
        let spans = kept.take();
        let ends = |name: &str| -> Vec<(&str, bool)> {
            let named = spans.iter().filter(|span| span.name == name);
            named.map(|span| (said(span, OUTCOME).as_str().unwrap(), span.error.is_some())).collect()
        };
        assert_eq!(ends("invoke_workflow scripted"), [("parked", false), outcome]);
        assert_eq!(ends("invoke_agent researcher")[0], ("parked", false));
        assert_eq!(ends("execute_tool python"), [("expired", true); 2], "{spans:#?}");
        assert_eq!(ran.used.tool_calls[&("python".into(), CallEnd::Expired)], 2);
        assert_eq!(spans.iter().map(|span| span.trace).collect::<BTreeSet<_>>().len(), 1);
    }
}

#[test]
fn a_run_goes_on_in_the_trace_of_its_client_and_makes_no_spans_when_that_is_not_followed() {
    let parent: TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
    let kept = Kept::of_texts(false);
    let _ran = team().input(|input| input.traceparent = Some(parent)).tracer(kept.clone()).run();
    let spans = kept.take();
    assert!(spans.iter().all(|span| span.trace == 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c));
    let root = spans.iter().find(|span| span.parent_is_remote).unwrap();
    assert_eq!((root.parent, root.name.as_str()), (Some(0xb7ad_6b71_6920_3331), "invoke_workflow scripted"));
    let unfollowed: TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00".parse().unwrap();
    let _ran = team().input(|input| input.traceparent = Some(unfollowed)).tracer(kept.clone()).run();
    assert_eq!(kept.take(), []);
    for wrong in ["", "00", "00-0-0-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
        assert!(wrong.parse::<TraceParent>().is_err(), "{wrong}");
    }
    for wrong in [
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    ] {
        assert!(wrong.parse::<TraceParent>().is_err(), "{wrong}");
    }
    let later: TraceParent = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more".parse().unwrap();
    assert_eq!(later, parent);
}
