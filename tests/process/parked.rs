//! Two thousand runs that wait for a person's word in a house of ten places: they cost nobody a place, no chat its time and
//! the process no memory, they outlive a kill, and each goes on when it is answered.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use crate::crowd::{allow, chat_p50, finished, http, open, parked, resident, settings, submit, until};
use crate::process::{Process, get, simulate, start};

const RUNS: usize = 2_000;
/// Before anything is compared: workers, connections and the store's page caches have their size then.
const WARM: usize = 300;
/// What the process may hold beyond what it held before them. The optimised binary is held to 10 MB by the bench `parked`.
const MORE_BYTES: f64 = 20e6;

pub fn serve(dir: &Path, model: &str) -> (Process, String) {
    serve_with(dir, model, &[])
}

/// The same with more variables, which win.
pub fn serve_with(dir: &Path, model: &str, more: &[(&'static str, &str)]) -> (Process, String) {
    let (file, mut environment) = settings(model);
    environment.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let config = dir.join("fleet.yaml");
    std::fs::write(&config, file).unwrap();
    let arguments = ["serve", "--port", "0", "--config", config.to_str().unwrap()];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (server, docs) = start(&arguments, &environment, dir, "browser:");
    (server, docs.trim_end_matches("/docs").to_owned())
}

#[tokio::test(flavor = "current_thread")]
async fn two_thousand_parked_approvals_cost_disk_only_outlive_a_kill_and_all_finish_when_they_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 0, 0);
    let (server, url) = serve(dir.path(), &model);
    let http = http();
    let warm = submit(&http, &url, &model, WARM).await;
    let questions = parked(&http, &url, WARM).await;
    assert_eq!(allow(&http, &url, &questions).await.len(), WARM);
    finished(&http, &url, &warm.into_iter().collect()).await;
    let chat_before = chat_p50(&http, &url, 60, "before").await;
    let before = resident(server.pid());

    let began = Instant::now();
    let all: BTreeSet<String> = submit(&http, &url, &model, RUNS).await.into_iter().collect();
    let questions = parked(&http, &url, RUNS).await;
    let parking = began.elapsed();
    let asked: BTreeSet<String> =
        questions.iter().map(|question| question["workflow_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(asked, all, "each run has one question, and no page of the list repeats or leaves out one");
    assert!(questions.is_sorted_by_key(|question| question["asked_at"].as_str().unwrap().to_owned()));
    for (filter, expected) in [("&request_type=tool_approval", RUNS), ("&request_type=plan_review", 0)] {
        assert_eq!(open(&http, &url, filter).await.len(), expected, "{filter}");
    }
    let talk = open(&http, &url, "&conversation_id=talk-3").await;
    assert_eq!(talk.len(), (0..RUNS).filter(|n| n % 7 == 3).count());

    let chat_with = chat_p50(&http, &url, 60, "with").await;
    until("the memory comes back", async || resident(server.pid()) <= before + MORE_BYTES).await;
    let with = resident(server.pid());
    println!(
        "{RUNS} parked in {parking:?}; chat p50 {chat_before:.1} ms before, {chat_with:.1} ms with them; {:.1} MB before, \
         {:+.1} MB with them",
        before / 1e6,
        (with - before) / 1e6
    );
    // The machine may be busy with other things between the two.
    assert!(chat_with <= 2.0 * chat_before + 10.0, "a chat took {chat_before} ms, now {chat_with} ms");

    // A third of them is answered while the server is killed.
    let (third, rest) = questions.split_at(RUNS / 3);
    let mut accepted = allow(&http, &url, &third[..third.len() / 2]).await;
    let killed = async {
        until("some go on", async || {
            get(
                &http,
                format!(
                    "{url}/api/v1/approvals?limit=1&workflow_id={}",
                    third[third.len() / 2 + 20]["workflow_id"].as_str().unwrap()
                ),
            )
            .await
            .as_array()
            .is_none_or(Vec::is_empty)
        })
        .await;
        drop(server);
    };
    let (more, ()) = futures_util::future::join(allow(&http, &url, &third[third.len() / 2..]), killed).await;
    accepted.extend(more);
    assert!(accepted.len() >= third.len() / 2 && accepted.len() < RUNS / 2, "{}", accepted.len());

    let (server, url) = serve(dir.path(), &model);
    let still = open(&http, &url, "").await;
    let still_open: BTreeSet<&str> = still.iter().map(|question| question["workflow_id"].as_str().unwrap()).collect();
    assert!(accepted.iter().all(|workflow| !still_open.contains(workflow.as_str())), "an accepted answer was lost");
    for question in rest {
        assert!(still.contains(question), "an open question was lost or changed: {question}");
    }
    let began = Instant::now();
    let chats = chat_p50(&http, &url, 30, "meanwhile");
    let (answered, chat_meanwhile) = futures_util::future::join(allow(&http, &url, &still), chats).await;
    let unanswered = open(&http, &url, "").await;
    assert_eq!((answered.len(), unanswered.len()), (still.len(), 0), "{unanswered:?}");
    let answering = began.elapsed();
    finished(&http, &url, &all).await;
    println!(
        "killed behind {} answers; the other {} answered in {answering:?}, all finished in {:?}; chat p50 {chat_meanwhile:.1} ms \
         meanwhile; {:.1} MB at the end",
        accepted.len(),
        still.len(),
        began.elapsed(),
        resident(server.pid()) / 1e6
    );
    let workflow = all.first().unwrap();
    let entry = get(&http, format!("{url}/api/v1/history/{workflow}")).await;
    assert_eq!((&entry["model_calls"], &entry["tool_calls"]), (&2.into(), &1.into()), "{entry}");
}
