//! What is understood of an answer, and that nothing that a model can say breaks it.

use agentic_fleet::prompts::signatures::*;
use agentic_fleet::prompts::{ParseError, Signature, parse};
use serde_json::{Value, json};

use super::examples as given;

fn quality(text: &str) -> Result<Quality, ParseError> {
    parse::<QualityAssessment>(text, &given::quality())
}

fn routing(text: &str) -> Result<Routing, ParseError> {
    parse::<TaskRouting>(text, &given::routing())
}

fn progress(text: &str) -> Result<Progress, ParseError> {
    parse::<ProgressEvaluation>(text, &given::progress())
}

#[test]
fn every_way_to_write_the_same_answer_is_read_as_that_answer() {
    let plain =
        r#"{"score": 8, "missing_elements": ["price"], "required_improvements": [], "reasoning": "a \"good\" one"}"#;
    let expected = quality(plain).unwrap();
    assert_eq!((expected.score, expected.reasoning.as_str()), (8.0, "a \"good\" one"));
    let ways = [
        format!("```json\n{plain}\n```"),
        format!("```\n{plain}\n```\nHope this helps!"),
        format!("Sure! Here {{as asked}} is the JSON you wanted:\n\n{plain}\n\nLet me know {{if}} it fits."),
        format!("<think>maybe {{\"score\": 2}}? no.</think>{plain}"),
        format!("\u{feff}  {plain}"),
        format!("{{\"QualityAssessment\": {plain}}}"),
        format!("[{plain}]"),
        plain.replace('}', ",}").replace("[]", "[,]"),
        plain.replace("\"score\"", "score"),
        plain.replace("\"score\"", "\"Score\"").replace("missing_elements", "missingElements"),
        plain.replace("8,", "8.0, // out of ten\n"),
        plain.replace("8,", "\"8\","),
        plain.replace("8,", "\"8/10\","),
        plain.replace("[\"price\"]", "\"price\""),
        plain.replace("\"required_improvements\": [], ", ""),
        plain.replace("\"required_improvements\": []", "\"required_improvements\": null"),
        plain.replace("\"required_improvements\": []", "\"required_improvements\": \"none\""),
        plain.replace("a \\\"good\\\" one", "a \"good\" one"),
        "{'score': 8, 'missing_elements': ['price'], 'required_improvements': [], 'reasoning': 'a \"good\" one'}"
            .to_owned(),
        "{“score”: 8, “missing_elements”: [“price”], “required_improvements”: [], “reasoning”: “a \"good\" one”}"
            .to_owned(),
        format!("{}, \"confidence\": 0.9}}", &plain[..plain.len() - 1]),
    ];
    for text in ways {
        assert_eq!(quality(&text).as_ref(), Ok(&expected), "{text}");
    }
}

#[test]
fn choices_are_read_without_regard_to_case_and_separators() {
    for word in ["complete", "Complete", "COMPLETE", " complete ", "com-plete", "[\"complete\"]"] {
        let word = if word.starts_with('[') { word.to_owned() } else { format!("{word:?}") };
        let read = progress(&format!(r#"{{"action": {word}, "feedback": "", "reasoning": ""}}"#)).unwrap();
        assert_eq!(read.action, ProgressAction::Complete, "{word}");
    }
    let text = r#"{"assigned_to": "Researcher, WRITER", "execution_mode": "Sequential", "subtasks":
        {"agent": "WRITER", "task": "write"}, "tool_requirements": "Tavily Search", "tool_goals": null,
        "latency_budget": "LOW", "handoff_strategy": ["a", "b"]}"#;
    let read = routing(text).unwrap();
    assert_eq!(read.assigned_to, ["researcher", "writer"]);
    assert_eq!((read.execution_mode, read.latency_budget), (ExecutionMode::Sequential, Level::Low));
    assert_eq!(read.subtasks, [Subtask { agent: "writer".into(), task: "write".into() }]);
    assert_eq!((read.tool_requirements.as_slice(), read.tool_plan.len()), (["tavily_search".to_owned()].as_slice(), 0));
    assert_eq!((read.tool_goals.as_str(), read.handoff_strategy.as_str()), ("", "a\nb"));
}

#[test]
fn meaning_that_is_missing_is_an_error_that_says_what() {
    let table: [(&str, &str); 9] = [
        ("", "it is empty"),
        ("   \n ", "it is empty"),
        ("I would say eight out of ten.", "it has no JSON object"),
        (r#"{"score": 8, "reasoning": "ok""#, "its JSON object does not end"),
        (r#"{"reasoning": "ok"}"#, "missing field `score`"),
        (r#"{"score": "high", "reasoning": "ok"}"#, "invalid type: string \"high\""),
        (r#"{"score": 11, "reasoning": "ok"}"#, "score must be 0 to 10, not 11"),
        (r#"{"score": -0.1, "reasoning": "ok"}"#, "score must be 0 to 10, not -0.1"),
        (r#"{"score": 1e308, "reasoning": "ok"}"#, "score must be 0 to 10, not 1"),
    ];
    for (text, error) in table {
        let got = quality(text).unwrap_err().to_string();
        assert!(got.contains(error), "{text:?} gives {got:?}");
    }
    let error = progress(r#"{"action": "maybe", "feedback": "", "reasoning": ""}"#).unwrap_err().to_string();
    assert!(error.contains("unknown variant `maybe`, expected one of `complete`, `refine`, `continue`"), "{error}");
    let error = progress(r#"{"action": "refine", "feedback": " ", "reasoning": ""}"#).unwrap_err().to_string();
    assert!(error.contains("feedback is empty"), "{error}");
}

#[test]
fn what_an_answer_leaves_out_is_read_where_its_absence_can_mean_one_thing_only() {
    let read = routing(r#"{"assigned_to": ["researcher", "writer"], "execution_mode": "sequential"}"#).unwrap();
    assert_eq!((read.tool_goals.as_str(), read.handoff_strategy.as_str()), ("", ""));
    assert_eq!((read.latency_budget, read.subtasks.len(), read.reasoning.as_str()), (Level::Medium, 0, ""));
    let subtasks = r#"{"assigned_to": ["writer"], "execution_mode": "delegated", "subtasks": [{"task": "write"}]}"#;
    assert_eq!(routing(subtasks).unwrap().subtasks, [Subtask { agent: String::new(), task: "write".into() }]);
    let analysis = r#"{"complexity": "low", "estimated_steps": 1, "needs_web_search": false}"#;
    let analysed = parse::<TaskAnalysis>(analysis, &given::analysis()).unwrap();
    assert_eq!((analysed.urgency, analysed.intent, analysed.search_query), (Level::Medium, None, None));
    // A mode that was demanded is the only one that the schema leaves.
    let both = format!(r#"{{"analysis": {analysis}, "routing": {{"assigned_to": ["writer"]}}}}"#);
    let both = parse::<AnalysisAndRouting>(&both, &given::merged()).unwrap();
    assert_eq!(both.routing.execution_mode, ExecutionMode::Parallel);
    assert_eq!(progress(r#"{"action": "complete"}"#).unwrap().feedback, "");
    let passed = r#"{"to_agent": "writer", "work_completed": "the facts"}"#;
    assert_eq!(parse::<HandoffDecision>(passed, &given::handoff()).unwrap().reason, "");
}

#[test]
fn a_decision_that_is_left_out_is_missed() {
    let missing = |error: ParseError| error.to_string();
    let error = missing(routing(r#"{"assigned_to": ["writer"]}"#).unwrap_err());
    assert!(error.contains("missing field `execution_mode`"), "{error}");
    let error = missing(routing(r#"{"execution_mode": "delegated"}"#).unwrap_err());
    assert!(error.contains("assigned_to is empty"), "{error}");
    let error = missing(progress(r#"{"feedback": "more"}"#).unwrap_err());
    assert!(error.contains("missing field `action`"), "{error}");
    let error = missing(progress(r#"{"action": "continue"}"#).unwrap_err());
    assert!(error.contains("feedback is empty"), "{error}");
    let error = missing(
        parse::<TaskAnalysis>(r#"{"complexity": "low", "estimated_steps": 1}"#, &given::analysis()).unwrap_err(),
    );
    assert!(error.contains("missing field `needs_web_search`"), "{error}");
    let error =
        missing(parse::<HandoffDecision>(r#"{"to_agent": "writer", "reason": ""}"#, &given::handoff()).unwrap_err());
    assert!(error.contains("missing field `work_completed`"), "{error}");
}

#[test]
fn only_agents_that_exist_are_taken() {
    let text = |agents: Value| {
        json!({ "assigned_to": agents, "execution_mode": "delegated", "latency_budget": "low", "tool_goals": "",
                "handoff_strategy": "" })
        .to_string()
    };
    let error = routing(&text(json!(["ghost"]))).unwrap_err().to_string();
    assert_eq!(error, "there is no agent `ghost`; the agents are researcher, analyst, writer");
    assert!(routing(&text(json!([]))).unwrap_err().to_string().contains("assigned_to is empty"));
    let mixed = routing(&text(json!(["ghost", "Writer"]))).unwrap();
    assert_eq!(mixed.assigned_to, ["ghost", "writer"], "the pipeline drops the one that does not exist, and says so");
    let speaker = |name: &str| {
        parse::<GroupChatSpeakerSelection>(
            &json!({ "next_speaker": name, "reasoning": "" }).to_string(),
            &given::speaker(),
        )
    };
    assert!(speaker("terminate").unwrap().terminates());
    assert_eq!(speaker("ANALYST").unwrap().next_speaker, "analyst");
    assert!(speaker("nobody").unwrap_err().to_string().ends_with("or TERMINATE"));
    let decide = |text: &str| parse::<HandoffDecision>(text, &given::handoff());
    let passes = decide(r#"{"to_agent": "Writer", "reason": "words", "work_completed": ["a", "b"]}"#).unwrap();
    assert_eq!((passes.to_agent.as_str(), passes.work_completed.as_str()), ("writer", "a\nb"));
    assert!(passes.remaining_objectives.is_empty() && passes.success_criteria.is_empty());
    let error = decide(r#"{"to_agent": "ghost", "reason": "", "work_completed": ""}"#).unwrap_err().to_string();
    assert_eq!(error, "there is no agent `ghost`; the agents are analyst, writer");
}

#[test]
fn confidence_is_a_share_and_a_percentage_is_read_as_one() {
    let read = |confidence: &str| {
        let text = format!(r#"{{"intent": "Question", "confidence": {confidence}, "reasoning": ""}}"#);
        parse::<IntentClassification>(&text, &given::intent()).map(|intent| intent.confidence)
    };
    assert_eq!(read("0.9"), Ok(0.9));
    assert_eq!(read("\"90%\""), Ok(0.9));
    assert_eq!(read("\"0.9\""), Ok(0.9));
    assert!(read("90").is_err() && read("-1").is_err() && read("\"sure\"").is_err());
}

#[test]
fn a_question_with_one_text_as_its_answer_may_be_answered_by_that_text() {
    let read = |text: &str| parse::<SimpleResponse>(text, &given::simple()).map(|answer| answer.answer);
    assert_eq!(read("Four."), Ok("Four.".to_owned()));
    assert_eq!(read("```text\nFour.\n```"), Ok("Four.".to_owned()));
    assert_eq!(read(r#"{"answer": "Four."}"#), Ok("Four.".to_owned()));
    assert!(read(r#"{"answer": ""}"#).is_err());
}

/// What no reader should be given: each is asked of every signature, and of every prefix of a good answer too.
fn absurd() -> Vec<String> {
    let mut texts: Vec<String> = [
        "{",
        "}",
        "[",
        "{{",
        "{}",
        "{\"",
        "{\"a",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":}",
        "{,}",
        "{:}",
        "{a:b:c}",
        "{\\",
        "{\"\\u",
        "{\"\\ud83d\":1}",
        "{\"\\ud83d\\u0041\":1}",
        "null",
        "true",
        "1e308",
        "-",
        "{\"score\":1e999}",
        "{\"score\":-1e999}",
        "{\"score\":NaN}",
        "{\"score\":Infinity}",
        "{\"score\":0x10}",
        "{\"score\":--1}",
        "{\"score\":\"\"}",
        "{\"score\":[8]}",
        "{\"score\":{}}",
        "{\"estimated_steps\":1e308}",
        "{\"estimated_steps\":18446744073709551616}",
        "{\"estimated_steps\":-1}",
        "{\"entities\":[[[]]]}",
        "{\"entities\":{\"a\":1}}",
        "{\"assigned_to\":{\"a\":[]}}",
        "{\"subtasks\":[1,2,3]}",
        "{\"subtasks\":\"all of it\"}",
        "</think>",
        "<think>",
        "/*",
        "{/*",
        "{//",
        "{“",
        "{“a”:„b”}",
        "\u{0}",
        "{\"a\":\"\u{0}\"}",
        "🦀",
        "{🦀}",
        "{\"🦀\":🦀}",
        "%%%",
        "```",
        "```json\n```",
        "```json",
    ]
    .map(str::to_owned)
    .to_vec();
    for (open, close) in [("{\"a\":", "}"), ("[", "]"), ("{\"subtasks\":[", "]}"), ("{", "}")] {
        texts.push(open.repeat(10_000));
        texts.push(format!("{}1{}", open.repeat(10_000), close.repeat(10_000)));
        texts.push(format!("{{\"score\":{}1{}}}", open.repeat(10_000), close.repeat(10_000)));
    }
    texts.push("\"".repeat(100_000));
    texts.push(format!("{{\"a\":\"{}", "\" ".repeat(100_000)));
    texts.push(format!("{{{}", " ".repeat(500_000)));
    texts.push("{//".repeat(100_000));
    texts.push("x".repeat(3 << 20));
    // Random bytes of the characters that mean something, from a fixed seed.
    let alphabet: Vec<char> = "{}[]\":,\\/*'“”_-+.eE0189antrufls \n\u{2019}é🦀".chars().collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..2_000 {
        let mut text = String::from("{");
        for _ in 0..40 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push(alphabet[(state % alphabet.len() as u64) as usize]);
        }
        texts.push(text);
    }
    texts
}

/// Reads every absurd text; gives how many were understood and the slowest time.
fn survives<S: Signature>(inputs: &S::Inputs, texts: &[String]) -> (usize, std::time::Duration) {
    let mut slowest = std::time::Duration::ZERO;
    let understood = texts.iter().filter(|text| {
        let began = std::time::Instant::now();
        let read = parse::<S>(text, inputs);
        slowest = slowest.max(began.elapsed());
        read.is_ok()
    });
    (understood.count(), slowest)
}

#[test]
fn absurd_answers_are_errors_and_never_more_than_that() {
    let texts = absurd();
    let (analysis, a) = survives::<TaskAnalysis>(&given::analysis(), &texts);
    let (routed, b) = survives::<TaskRouting>(&given::routing(), &texts);
    let (judged, c) = survives::<QualityAssessment>(&given::quality(), &texts);
    let (merged, d) = survives::<AnalysisAndRouting>(&given::merged(), &texts);
    let (decided, e) = survives::<HandoffDecision>(&given::handoff(), &texts);
    assert_eq!((analysis, routed, merged, decided), (0, 0, 0, 0));
    // `{"score": [8]}` is no score.
    assert_eq!(judged, 0);
    let _ = survives::<EntityExtraction>(&given::entities(), &texts);
    let _ = survives::<SimpleResponse>(&given::simple(), &texts);
    let slowest = a.max(b).max(c).max(d).max(e);
    println!("{} absurd answers, the slowest took {slowest:?}", texts.len());
    assert!(slowest < std::time::Duration::from_secs(5), "reading is not linear: {slowest:?}");
}

#[test]
fn a_good_answer_cut_anywhere_is_an_error_and_damaged_anywhere_never_a_panic() {
    let good = json!({
        "analysis": { "complexity": "low", "required_capabilities": ["x"], "estimated_steps": 2, "preferred_tools": [],
            "needs_web_search": false, "search_query": null, "urgency": "medium", "reasoning": "é 🦀 \\ \"q\"" },
        "routing": { "assigned_to": ["writer"], "execution_mode": "parallel", "subtasks": [{"agent": "writer", "task": "t"}],
            "tool_requirements": [], "tool_plan": [], "tool_goals": "", "latency_budget": "low", "handoff_strategy": "",
            "reasoning": "" },
    })
    .to_string();
    let inputs = given::merged();
    parse::<AnalysisAndRouting>(&good, &inputs).unwrap();
    for (at, _) in good.char_indices() {
        assert!(parse::<AnalysisAndRouting>(&good[..at], &inputs).is_err(), "cut at {at}");
        for damage in ["", "\"", "{", "}", "\\", ","] {
            let rest = &good[at..];
            let rest = &rest[rest.chars().next().map_or(0, char::len_utf8)..];
            let _ = parse::<AnalysisAndRouting>(&format!("{}{damage}{rest}", &good[..at]), &inputs);
        }
    }
}
