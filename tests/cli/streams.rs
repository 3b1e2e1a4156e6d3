//! Standard output and standard error: who reads them may leave, and logs are one or the other form.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::process::{Place, Process, get_until, signal_to};

/// Its exit code and what it said to standard error once nobody reads its standard output any more.
fn unread(mut child: Child) -> (Option<i32>, String) {
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (child.wait().unwrap().code(), err)
}

#[tokio::test]
async fn a_closed_pipe_is_no_failure_and_the_run_is_stored_whole() {
    for place in Place::both() {
        let commands: [&[&str]; 4] = [
            &["run", "-m", "please say something long"],
            &["run", "-m", "please say something long", "--json"],
            &["history", "list"],
            &["checkpoints", "list"],
        ];
        for command in commands {
            let mut command = place.reach(command);
            let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let (code, err) = unread(child);
            assert!(code == Some(0) && !err.contains("panicked"), "{command:?}: {code:?} {err}");
        }
        let listed = place.cli(&["history", "list", "--json"]).json();
        let states: Vec<&Value> = listed["executions"].as_array().unwrap().iter().map(|e| &e["status"]).collect();
        assert_eq!(states, ["completed", "completed"]);
        // Nobody hears why it failed either; the exit code still says it.
        let mut failing = place.reach(&["history", "show", "nobody"]);
        let mut child = failing.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }
}

/// A device that is always full.
fn full() -> Stdio {
    std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

#[tokio::test]
async fn output_that_cannot_be_written_makes_every_command_fail_once_and_undoes_nothing() {
    const TOLD: &str = "standard output cannot be written: No space left on device";
    for (place, served) in Place::both().into_iter().zip([false, true]) {
        place.ran("please be there");
        let everywhere: [&[&str]; 9] = [
            &["run", "-m", "please say something long"],
            &["run", "-m", "please say something long", "--json"],
            &["run", "-m", "please [[sim:500]] fail", "--json"],
            &["history", "list"],
            &["history", "list", "--json"],
            &["list-agents", "--json"],
            &["checkpoints", "list", "--json"],
            &["approvals", "list", "--json"],
            &["approvals", "list"],
        ];
        let here: [&[&str]; 4] = [&["config", "check"], &["--help"], &["--version"], &["run", "--help"]];
        let commands = everywhere.map(|command| place.reach(command)).into_iter();
        let commands = commands.chain(here.map(|command| place.command(command)).into_iter().filter(|_| !served));
        for mut command in commands {
            let ended = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
            let err = String::from_utf8(ended.stderr).unwrap();
            assert_eq!((ended.status.code(), err.matches(TOLD).count()), (Some(1), 1), "{command:?}: {err}");
        }
        let usage = place.command(&["run"]).stdout(full()).output().unwrap();
        assert_eq!(usage.status.code(), Some(2), "nothing was to be written there");
        let listed = place.cli(&["history", "list", "--json"]).json();
        let states: Vec<&Value> = listed["executions"].as_array().unwrap().iter().map(|e| &e["status"]).collect();
        assert_eq!(states, ["failed", "completed", "completed", "completed"]);
    }
}

/// Serves with such a standard output; a run through it completes, and it stops as any other.
fn serves(place: &Place, mut command: Command) {
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let mut server = Process::reading(child);
    server.wait_for("serving", 1);
    let owned = place.local(&["run", "-m", "please"]);
    owned.failed(75, "to go through it: --server http://");
    let url = owned.err.split_once("--server ").unwrap().1.trim().to_owned();
    let said = place.local(&["run", "--json", "--server", &url, "-m", "please"]);
    assert_eq!((said.code, &said.json()["status"]), (0, &"completed".into()), "{said:?}");
    signal_to(pid, "-TERM");
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
}

#[test]
fn a_server_whose_first_lines_cannot_be_written_serves_all_the_same() {
    let place = Place::new();
    let mut command = place.command(&["serve", "--port", "0"]);
    command.stdout(full());
    serves(&place, command);

    let wanted = place.command(&["serve", "--port", "0"]);
    let mut closed = Command::new("sh");
    closed.args(["-c", "exec \"$0\" \"$@\" >&-"]).arg(wanted.get_program()).args(wanted.get_args());
    for (name, value) in wanted.get_envs() {
        match value {
            Some(value) => closed.env(name, value),
            None => closed.env_remove(name),
        };
    }
    closed.current_dir(place.dir.path());
    serves(&place, closed);
}

#[tokio::test]
async fn a_server_whose_log_nobody_reads_any_more_goes_on_serving() {
    let place = Place::new();
    let mut command = place.command(&["serve", "--port", "0"]);
    command.env("LOG_LEVEL", "debug").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.find_map(|line| line.ok().filter(|line| line.starts_with("browser:"))).unwrap();
    let url = line.split_whitespace().nth(1).unwrap().trim_end_matches("/docs").to_owned();
    drop((lines, child.stderr.take()));
    get_until(&format!("{url}/readyz"), |answer| answer["status"] == "ok").await;
    for n in 0..3 {
        let said = place.local(&["run", "--json", "--server", &url, "-m", &format!("please log {n}")]);
        assert_eq!((said.code, &said.json()["status"]), (0, &"completed".into()), "{said:?}");
    }
    crate::process::signal_to(child.id(), "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn logs_are_json_lines_or_text_and_never_in_the_way_of_the_answer() {
    let place = Place::new();
    let with = |form: &str, level: &str| {
        let mut command = place.command(&["run", "-m", "please be logged"]);
        let said = crate::process::ended({
            command.env("LOG_JSON", form).env("LOG_LEVEL", level);
            command
        });
        assert_eq!(said.code, 0, "{said:?}");
        said
    };
    let (json, text) = (with("1", "debug"), with("0", "debug"));
    let is_json = |line: &&str| serde_json::from_str::<Value>(line).is_ok_and(|line| line["level"].is_string());
    let turn_ended = |line: &&str| line.contains("turn ended");
    assert_eq!(json.err.lines().filter(turn_ended).filter(is_json).count(), 1, "{json:?}");
    assert_eq!(text.err.lines().filter(turn_ended).filter(|line| !is_json(line)).count(), 1, "{text:?}");
    assert!(!json.out.is_empty() && !json.out.contains("turn ended") && !text.out.contains("turn ended"));
    let quiet = with("1", "info");
    assert_eq!(quiet.err.lines().filter(turn_ended).count(), 0, "{quiet:?}");
}

#[tokio::test]
async fn what_is_no_http_is_answered_and_fills_no_log() {
    use std::io::Write as _;
    let mut place = Place::new();
    let url = place.serve();
    for garbage in ["\0\0\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"] {
        let mut socket = std::net::TcpStream::connect(url.trim_start_matches("http://")).unwrap();
        socket.write_all(garbage.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{garbage:?}: {answer:?}");
    }
    place.server().signal("-HUP");
    place.server().wait_for("settings were read again", 1);
    let log = place.server().log();
    assert!(!log.contains("ERROR"), "{log}");
}
