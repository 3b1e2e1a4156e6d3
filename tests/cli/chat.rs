//! `chat` and `list-agents`, and what `run` says of how an answer came about.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::process::{Place, Said};

/// What `chat` says to these lines.
fn chat(place: &Place, arguments: &[&str], lines: impl AsRef<[u8]>) -> Said {
    let mut command = place.reach(&[&["chat"], arguments].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_ref()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

#[tokio::test]
async fn a_chat_goes_on_turn_by_turn_and_its_commands_are_no_messages_here_and_through_a_server() {
    for place in Place::both() {
        let lines =
            "/help\n/effort much\n/mode no-such\n/what\nmy first question\n\n/effort minimal\nmy second question\n";
        let said = chat(&place, &["--conversation", "talk-2"], lines);
        assert_eq!(said.code, 0, "{said:?}");
        for told in ["conversation talk-2", "/effort NAME", "one of minimal", "one of auto", "no command /what"] {
            assert!(said.err.contains(told), "{told}: {said:?}");
        }
        let entries = place.cli(&["history", "list", "--json"]).json();
        let tasks: Vec<_> = entries["executions"].as_array().unwrap().iter().map(|entry| &entry["task"]).collect();
        assert_eq!(tasks, ["my second question", "my first question"]);
        for entry in entries["executions"].as_array().unwrap() {
            assert_eq!(entry["conversation_id"], "talk-2");
            assert!(said.out.contains(entry["result"].as_str().unwrap().lines().next().unwrap()), "{said:?}");
        }
        assert_eq!(entries["executions"][0]["reasoning_effort"], "minimal");
        let said = chat(&place, &["--enable-checkpointing", "false"], "my third question\n");
        assert_eq!(said.code, 0, "{said:?}");
        let entries = place.cli(&["history", "list", "--json"]).json();
        let listed = |n: usize| {
            let id = entries["executions"][n]["workflow_id"].as_str().unwrap();
            place.cli(&["checkpoints", "list", id, "--json"]).json()["checkpoints"].as_array().unwrap().len()
        };
        assert_eq!((listed(0), listed(1) > 0), (0, true), "a chat may decline checkpoints");
    }
}

fn tasks(place: &Place) -> Vec<String> {
    let listed = place.cli(&["history", "list", "--json"]).json();
    let tasks = listed["executions"].as_array().unwrap().iter().map(|entry| entry["task"].as_str().unwrap().to_owned());
    tasks.collect()
}

#[tokio::test]
async fn a_line_that_can_be_no_message_is_refused_and_those_after_it_are_turns_here_and_through_a_server() {
    for place in Place::both() {
        let said = chat(&place, &[], b"hello one\nhello caf\xe9\nhello three\n");
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("line 2 of standard input is not UTF-8"), "{said:?}");
        assert_eq!(tasks(&place), ["hello three", "hello one"]);

        let long = "x".repeat(40_000);
        let said = chat(&place, &[], format!("{long}\nhello four\r\n\u{e9}t\u{e9}"));
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains(": has 40000 characters"), "{said:?}");
        assert_eq!(tasks(&place)[..2], ["\u{e9}t\u{e9}", "hello four"]);
    }
}

#[test]
fn a_line_that_is_not_utf_8_answers_no_question() {
    let place = careful();
    let said = chat(&place, &[], [FETCH.as_bytes(), b"\n\xff\nn not that host\n"].concat());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("line 2 of standard input is not UTF-8"), "{said:?}");
    let entry = &place.cli(&["history", "list", "--json"]).json()["executions"][0];
    assert!(entry["result"].as_str().unwrap().contains("not that host"), "{entry}");
}

#[test]
fn an_input_that_cannot_be_read_is_told() {
    let place = Place::new();
    let mut command = place.command(&["chat"]);
    command.stdin(std::fs::File::open(place.dir.path()).unwrap());
    let said = crate::process::ended(command);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("standard input cannot be read: Is a directory"), "{said:?}");
}

#[tokio::test]
async fn an_approval_is_asked_and_answered_in_place_here_and_through_a_server() {
    let rule = r#"tools: { policy: [{ principal: "*", tool: fetch_page, access: ask }] }
agents: { assistant: { tools: [fetch_page] } }
pipeline: { default_agent: assistant }
"#;
    for served in [false, true] {
        let mut place = Place::new();
        let file = place.dir.path().join("rules.yaml");
        std::fs::write(&file, rule).unwrap();
        place.set("FLEET_CONFIG", file.to_str().unwrap());
        if served {
            place.serve();
        }
        let order = r#"look there [[sim:tool name=fetch_page args={"url":"https://127.0.0.1/"}]]"#;
        let said = chat(&place, &[], format!("{order}\nokay\nnot that host\nn not that host\n{order}\ny\n"));
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(said.err.matches("wants to call fetch_page").count(), 2, "{said:?}");
        assert_eq!(said.err.matches("no clear yes and no clear no").count(), 2, "what is only like an answer is none");
        // The first is refused by the person; the second is allowed, and the guard on addresses has its say.
        assert!(said.err.contains("fetch_page") && said.err.contains("rejected"), "{said:?}");
        assert!(said.err.contains("failed after") || said.err.contains("denied after"), "{said:?}");
        let entries = place.cli(&["history", "list", "--json"]).json();
        let calls: Vec<_> = entries["executions"].as_array().unwrap().iter().map(|e| e["status"].clone()).collect();
        assert_eq!(calls, ["completed", "completed"]);
    }
}

/// Plays a script at a terminal of its own: what to wait for, what to type then, or behind a `!` what to run elsewhere. Prints the exit code and all that was seen.
const TERMINAL: &str = r#"
import os, pty, signal, subprocess, sys
def late(*_):
    os.kill(pid, signal.SIGKILL)
    sys.exit("too late\n" + seen)
signal.signal(signal.SIGALRM, late)
signal.alarm(20)
script = [line.split("\t") for line in sys.stdin.read().split("\n") if line]
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen, at = "", 0
def more():
    global seen
    try:
        got = os.read(fd, 4096).decode(errors="replace")
    except OSError:
        got = ""
    seen += got
    return got
for wait, keys in script:
    while seen.find(wait, at) < 0:
        if not more():
            sys.exit("it ended before: " + wait + "\n" + seen)
    at = seen.find(wait, at) + len(wait)
    if keys.startswith("!"):
        # A command of another terminal.
        subprocess.run(keys[1:], shell=True, check=True, stdout=subprocess.DEVNULL)
        continue
    os.write(fd, keys.encode().decode("unicode_escape").encode())
while more():
    pass
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(seen)
"#;

fn at_a_terminal(place: &Place, script: &[(&str, &str)]) -> Said {
    let chat = place.reach(&["chat"]);
    let mut command = Command::new("python3");
    command.args(["-c", TERMINAL]).arg(chat.get_program()).args(chat.get_args()).current_dir(place.dir.path());
    for (name, value) in chat.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines: String = script.iter().map(|(wait, keys)| format!("{wait}\t{keys}\n")).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

#[tokio::test]
async fn ctrl_c_at_a_terminal_stops_the_turn_and_not_the_program_here_and_through_a_server() {
    for place in Place::both() {
        let script = [
            ("you> ", "please [[sim:hang]] wait\\n"),
            ("begins", "\\x03"),
            ("you> ", "please go on\\n"),
            ("you> ", "\\x03"),
            ("/quit or Ctrl-D leaves", ""),
            ("you> ", "/quit\\n"),
        ];
        let said = at_a_terminal(&place, &script);
        assert!(said.code == 0 && said.out.starts_with("0\n"), "{said:?}");
        let listed = place.cli(&["history", "list", "--json"]).json();
        let ends: Vec<_> = listed["executions"].as_array().unwrap().iter().map(|entry| &entry["status"]).collect();
        assert_eq!(ends, ["completed", "cancelled"], "{said:?}");
    }
}

/// A place whose assistant asks before it fetches a page.
fn careful() -> Place {
    let mut place = Place::new();
    let rule = r#"tools: { policy: [{ principal: "*", tool: fetch_page, access: ask }] }
agents: { assistant: { tools: [fetch_page] } }
pipeline: { default_agent: assistant }
sessions: { park_after_ms: 50 }
"#;
    let file = place.dir.path().join("rules.yaml");
    std::fs::write(&file, rule).unwrap();
    place.set("FLEET_CONFIG", file.to_str().unwrap());
    place
}

const FETCH: &str = r#"please [[sim:tool name=fetch_page args={"url":"https://127.0.0.1:7/"}]]"#;

#[tokio::test]
async fn a_chat_that_waits_for_an_answer_goes_on_when_somebody_else_gives_it() {
    let mut place = careful();
    let url = place.serve();
    let answer = format!(
        "{} approvals list --server {url} --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"approvals\"][0][\"request_id\"])' \
         | xargs -I ID {} approvals answer ID --reject 'not from here' --server {url}",
        env!("CARGO_BIN_EXE_agentic-fleet"),
        env!("CARGO_BIN_EXE_agentic-fleet"),
    );
    let script = [
        ("you> ", format!("{FETCH}\\n")),
        ("n and why not, or other arguments as JSON> ", format!("!{answer}")),
        ("it was answered elsewhere", String::new()),
        // The model was told why.
        ("not from here", String::new()),
        ("you> ", "/quit\\n".to_owned()),
    ];
    let script: Vec<(&str, &str)> = script.iter().map(|(wait, keys)| (*wait, keys.as_str())).collect();
    let said = at_a_terminal(&place, &script);
    assert!(said.code == 0 && said.out.starts_with("0\n"), "{said:?}");
    assert_eq!(said.out.matches("wants to call fetch_page").count(), 1, "{said:?}");
    assert_eq!(said.out.matches("127.0.0.1:7").count(), 3, "typed, asked, and in the line of the call: {said:?}");
}

#[tokio::test]
async fn a_chat_asks_again_after_an_answer_that_does_not_fit_and_parks_meanwhile_here_and_through_a_server() {
    for served in [false, true] {
        let mut place = careful();
        if served {
            place.serve();
        }
        let ask = "n and why not, or other arguments as JSON> ";
        let order = format!("{FETCH}\\n");
        let script = [
            ("you> ", order.as_str()),
            (ask, "\\n"),
            (ask, "sure\\n"),
            ("no clear yes and no clear no", ""),
            (ask, r#"{"url": 7}\n"#),
            ("response/arguments/url", ""),
            (ask, r#"{"url": "https://127.0.0.1:9/changed"}\n"#),
            ("127.0.0.1:9/changed", ""),
            ("you> ", "/quit\\n"),
        ];
        let said = at_a_terminal(&place, &script);
        assert!(said.code == 0 && said.out.starts_with("0\n"), "{said:?}");
        assert_eq!(place.counted("completed").await, 2, "{said:?}");
    }
}

#[tokio::test]
async fn a_chat_that_is_left_at_a_question_leaves_it_open_here_and_through_a_server() {
    for served in [false, true] {
        let mut place = careful();
        if served {
            place.serve();
        }
        for (leave, code) in [("/quit\\n", "0\n"), ("\\x04", "1\n")] {
            let open = || place.cli(&["approvals", "list", "--json"]).json()["approvals"].as_array().unwrap().clone();
            let order = format!("{FETCH}\\n");
            let script = [
                ("you> ", order.as_str()),
                ("n and why not, or other arguments as JSON> ", leave),
                ("it stays open: ", ""),
            ];
            let said = at_a_terminal(&place, &script);
            assert!(said.code == 0 && said.out.starts_with(code), "{leave}: {said:?}");
            let [question] = &open()[..] else { panic!("{leave}: one question is open: {:?}", open()) };
            let text = |name: &str| question[name].as_str().unwrap().to_owned();
            let answer = format!("agentic-fleet approvals answer {}", text("request_id"));
            let go_on = format!("agentic-fleet checkpoints resume {}", text("workflow_id"));
            assert!(said.out.contains(&answer) && said.out.contains(&go_on), "{leave}: {said:?}");
            assert_eq!(said.out.matches(" --server ").count(), if served { 2 } else { 0 }, "{leave}: {said:?}");
            // The ways that it names lead on.
            let answered = place.cli(&["approvals", "answer", &text("request_id"), "--reject", "not from here"]);
            assert_eq!(answered.code, 0, "{answered:?}");
            let resumed = place.cli(&["checkpoints", "resume", &text("workflow_id")]);
            assert!(resumed.code == 0 && resumed.out.contains("not from here"), "{leave}: {resumed:?}");
            assert_eq!(open(), Vec::<serde_json::Value>::new());
        }
    }
}

#[tokio::test]
async fn a_chat_in_which_a_tool_has_no_key_says_so_and_answers_all_the_same() {
    let mut place = Place::new();
    place.set("FLEET_PIPELINE__DEFAULT_AGENT", "researcher");
    let order = r#"please [[sim:tool name=tavily_search args={"query":"rust"}]]"#;
    let said = chat(&place, &[], format!("{order}\n"));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("degraded (TAVILY_API_KEY is not set"), "{said:?}");
    assert!(said.out.contains("TAVILY_API_KEY is not set: the web cannot be searched"), "{said:?}");
}

#[tokio::test]
async fn a_chat_whose_server_dies_says_how_to_go_on_and_that_gives_the_whole_answer() {
    let mut place = Place::with_model(0, 20);
    place.set("FLEET_SESSIONS__DISCONNECT_GRACE_MS", "0");
    place.serve();
    let script = [
        ("you> ", "please tell me more\\n".to_owned()),
        ("begins", format!("!kill -9 {}", place.server().id())),
        ("to go on: agentic-fleet checkpoints resume ", String::new()),
        ("you> ", "/quit\\n".to_owned()),
    ];
    let script: Vec<(&str, &str)> = script.iter().map(|(wait, keys)| (*wait, keys.as_str())).collect();
    let said = at_a_terminal(&place, &script);
    let (_, hint) = said.out.split_once("to go on: agentic-fleet ").unwrap_or_else(|| panic!("{said:?}"));
    let hint: Vec<&str> = hint.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(hint[3], "--server", "{said:?}");
    place.serve();
    let resumed = place.cli(&hint[..3]);
    assert_eq!(resumed.code, 0, "{resumed:?}");
    let entry = place.cli(&["history", "show", hint[2], "--json"]).json();
    assert!(resumed.out.trim_end().ends_with(entry["result"].as_str().unwrap()), "{resumed:?}");
}

#[tokio::test]
async fn the_agents_are_listed_by_name_here_and_through_a_server() {
    for place in Place::both() {
        let agents = place.cli(&["list-agents", "--json"]).json();
        let names: Vec<_> = agents.as_array().unwrap().iter().map(|agent| agent["name"].as_str().unwrap()).collect();
        for name in ["researcher", "analyst", "writer", "reviewer", "coder", "planner"] {
            assert!(names.contains(&name), "{names:?}");
        }
        let said = place.cli(&["list-agents"]);
        assert!(said.out.starts_with("NAME") && said.out.lines().count() == names.len() + 1, "{said:?}");
    }
}

#[tokio::test]
async fn a_run_in_a_mode_tells_of_its_agents_and_its_costs_when_asked_here_and_through_a_server() {
    for place in Place::both() {
        let said = place.cli(&["run", "-m", "compare tea and coffee", "--mode", "parallel", "--verbose"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.err.contains("begins") && said.err.contains("completed"), "{said:?}");
        assert!(said.err.contains("model calls") && said.err.contains("tokens in"), "{said:?}");
        let entry = &place.cli(&["history", "list", "--json"]).json()["executions"][0];
        assert_eq!(
            (&entry["metadata"]["mode"], said.out.trim_end()),
            (&"parallel".into(), entry["result"].as_str().unwrap())
        );
    }
    let said = Place::new().local(&["run", "-m", "hello", "--mode", "sideways"]);
    assert_eq!(said.code, 2, "{said:?}");
}
