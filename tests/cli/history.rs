//! `history`: pages, entries and what is forgotten.

use serde_json::Value;

use crate::process::{Place, until};

fn ids(page: &Value) -> Vec<String> {
    page["executions"].as_array().unwrap().iter().map(|e| e["workflow_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn history_is_paged_newest_first_by_cursor_and_by_offset_here_and_through_a_server() {
    for place in Place::both() {
        let mut made: Vec<String> = (0..5).map(|n| place.ran(&format!("please do task {n}"))).collect();
        made.reverse();
        let first = place.cli(&["history", "list", "--limit", "2", "--json"]).json();
        assert_eq!(ids(&first), made[..2]);
        let cursor = first["next_before"].as_str().unwrap();
        let second = place.cli(&["history", "list", "--limit", "2", "--before", cursor, "--json"]).json();
        assert_eq!(ids(&second), made[2..4]);
        let last = place.cli(&["history", "list", "--limit", "2", "--offset", "4", "--json"]).json();
        assert_eq!((ids(&last), &last["next_before"]), (made[4..].to_vec(), &Value::Null));

        let said = place.cli(&["history", "list", "--limit", "2"]);
        let lines: Vec<&str> = said.out.lines().collect();
        assert!(lines[0].starts_with("EXECUTION") && lines.len() == 3, "{said:?}");
        assert!(lines[1].starts_with(&made[0]) && lines[1].ends_with("please do task 4"), "{said:?}");
        assert_eq!(said.err, format!("older ones: --before {}\n", made[1]));
    }
}

#[tokio::test]
async fn an_execution_is_shown_with_its_result_and_gone_with_its_line_once_deleted() {
    for place in Place::both() {
        let (kept, gone) = (place.ran("please keep this"), place.ran("please forget\u{1b}[2J this"));
        let shown = place.cli(&["history", "show", &gone]);
        assert!(shown.code == 0 && shown.out.contains("completed") && shown.out.contains("\nresult\n"), "{shown:?}");
        assert!(shown.out.contains("forget\u{fffd}[2J this") && !shown.out.contains('\u{1b}'), "{shown:?}");

        assert_eq!(place.cli(&["history", "delete", &gone]).out, format!("deleted {gone}\n"));
        place.cli(&["history", "delete", &gone]).failed(1, &format!("{gone}: not_found: "));
        place.cli(&["history", "show", &gone]).failed(1, &format!("{gone}: not_found: "));
        let listed = place.cli(&["history", "list", "--json"]).json();
        assert_eq!(ids(&listed), [kept.as_str()]);
        let file = place.dir.path().join(".var/logs/execution_history.jsonl");
        let read = || std::fs::read_to_string(&file).unwrap_or_default();
        until("the line of the history file goes", || !read().contains(&gone) && read().contains(&kept));

        let both = place.cli(&["history", "delete", &gone, &kept, "--json"]);
        assert_eq!(
            (both.code, both.json()),
            (1, serde_json::json!({ "deleted": [kept] })),
            "one was there, one was not"
        );
        place.ran("please go with the rest");
        assert_eq!(place.cli(&["history", "delete", "--all"]).out, "deleted all\n");
        assert!(ids(&place.cli(&["history", "list", "--json"]).json()).is_empty());
    }
}

#[tokio::test]
async fn reading_works_beside_a_server_and_writing_names_it() {
    let mut place = Place::new();
    let url = place.serve();
    let id = place.ran("please be there");
    let pid_and_address = format!(", which answers on {url}; to go through it: --server {url}");
    assert_eq!(place.local(&["history", "list", "--json"]).json()["executions"][0]["workflow_id"], id.as_str());
    assert_eq!(place.local(&["history", "show", &id, "--json"]).json()["status"], "completed");
    assert_eq!(place.local(&["checkpoints", "list", &id]).code, 0);
    let writing: [&[&str]; 4] = [
        &["history", "delete", &id],
        &["checkpoints", "resume", &id],
        &["checkpoints", "fork", &id],
        &["run", "-m", "please"],
    ];
    for command in writing {
        place.local(command).failed(75, &pid_and_address);
    }
    assert_eq!(place.cli(&["history", "show", &id]).code, 0, "nothing was deleted");
}

#[tokio::test]
async fn deleting_and_forking_in_the_data_directory_start_no_tool_and_no_server_of_tools() {
    let mut place = Place::new();
    let (id, gone) = (place.ran("please answer"), place.ran("please go"));
    let started = place.dir.path().join("started");
    let server = format!("{{ transport: stdio, command: sh, args: [-c, 'touch {}; cat'] }}", started.display());
    let agent = "{ description: d, instructions: i, tools: ['mcp:marker'] }";
    let config = format!(
        "mcp_servers:\n  marker: {server}\nagents:\n  assistant: {agent}\ntools:\n  python: {{ enabled: true }}\n"
    );
    let file = place.dir.path().join("fleet.yaml");
    std::fs::write(&file, config).unwrap();
    place.set("FLEET_CONFIG", file.to_str().unwrap());
    place.set("FLEET_TOOLS__PYTHON__ENABLED", "true");
    place.set("TMPDIR", place.dir.path().join("tmp").to_str().unwrap());
    std::fs::create_dir(place.dir.path().join("tmp")).unwrap();
    // Either is made by the first program that a process may run.
    let places = [".var/scratch", "tmp"].map(|name| place.dir.path().join(name));
    let ground = || places.iter().any(|place| std::fs::read_dir(place).is_ok_and(|mut found| found.next().is_some()));
    assert_eq!(place.local(&["history", "delete", &gone]).out, format!("deleted {gone}\n"));
    assert_eq!(place.local(&["checkpoints", "fork", &id]).code, 0);
    assert!(!started.exists() && !ground(), "a command that runs nothing started tools");
    // The same settings start what they say for a run.
    assert_eq!(place.local(&["run", "-m", "please"]).code, 0);
    assert!(started.exists());
}
