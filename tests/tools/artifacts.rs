//! Files that runs made: fetched from the real server as downloads, and gone with their run.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentic_fleet::tools::artifacts::Artifacts;
use fleet_actors::ids::WorkflowId;
use serde_json::Value;

/// The real server in a directory of its own; killed when dropped.
struct Served {
    process: Child,
    url: String,
    dir: tempfile::TempDir,
    http: reqwest::Client,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Served {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentic-fleet"));
        command.args(["serve", "--port", "0", "--profile", "test"]).current_dir(dir.path());
        // No code is run here, so no sandbox has to be tried.
        command.envs([("FLEET_TOOLS__PYTHON__ENABLED", "false"), ("FLEET_TOOLS__JAVASCRIPT__ENABLED", "false")]);
        command.env_remove("OPENAI_API_KEY").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.starts_with("browser:")).unwrap_or_default();
        let url = line.split_whitespace().nth(1).unwrap_or_default().trim_end_matches("/docs").to_owned();
        Self { process, url, dir, http: reqwest::Client::new() }
    }

    fn kept(&self) -> Artifacts {
        Artifacts::in_data_dir(&self.dir.path().join(".var"))
    }

    /// One chat in a conversation of its own, to its end.
    async fn run(&self, conversation: &str) -> WorkflowId {
        self.get(&format!("/api/chat/{conversation}/stream?message=hello")).await.text().await.unwrap();
        let history: Value = self.get("/api/v1/history").await.json().await.unwrap();
        let rows = history.as_array().unwrap_or_else(|| panic!("{history}"));
        let row = rows.iter().find(|row| row["conversation_id"] == conversation);
        row.unwrap_or_else(|| panic!("{history}"))["workflow_id"].as_str().unwrap().parse().unwrap()
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    async fn delete(&self, path: &str) -> u16 {
        self.http.delete(format!("{}{path}", self.url)).send().await.unwrap().status().as_u16()
    }

    async fn until_gone(&self, path: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.get(path).await.status() != 404 {
            assert!(Instant::now() < end, "{path} is still there");
            tokio::time::sleep(Duration::from_millis(20)).await; // allow-sleep: polls a condition under a deadline
        }
    }
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

#[tokio::test]
async fn an_artifact_is_a_download_that_no_browser_shows_as_a_page() {
    let served = Served::start();
    let id = served.run("c-1").await;
    let kept = served.kept().keep(&id, "page.html", b"<script>alert(1)</script>").unwrap();
    let response = served.get(&kept.url).await;
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/html");
    assert_eq!(header("content-disposition"), "attachment; filename=\"page.html\"");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert!(header("content-security-policy").starts_with("sandbox"));
    assert_eq!(response.bytes().await.unwrap(), &b"<script>alert(1)</script>"[..]);

    std::fs::write(served.dir.path().join(".var/secret"), "canary").unwrap();
    let digest = kept.url.rsplit('/').nth(1).unwrap();
    let base = format!("/api/v1/workflows/{id}/artifacts");
    for path in [
        format!("{base}/{digest}/other.html"),
        format!("{base}/{digest}/..%2f..%2f..%2fsecret"),
        format!("{base}/..%2f..%2f../secret"),
        format!("{base}/%2e%2e/secret"),
        format!("/api/v1/workflows/..%2f..%2fx/artifacts/{digest}/page.html"),
        "/api/v1/workflows/%2e%2e/artifacts/%2e%2e/secret".to_owned(),
        format!("{base}/{digest}/page.html%00"),
        format!("{base}/{digest}/%0d%0ax: y"),
    ] {
        let response = served.get(&path).await;
        assert_eq!(response.status(), 404, "{path}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], "not_found", "{path}");
    }
}

#[tokio::test]
async fn artifacts_go_when_their_execution_or_conversation_or_all_history_is_deleted() {
    let served = Served::start();
    let (first, second, third) = (served.run("c-1").await, served.run("c-2").await, served.run("c-3").await);
    let artifacts = served.kept();
    let keep = |id: &WorkflowId| artifacts.keep(id, "a.txt", b"a").unwrap().url;
    let (a, b, c) = (keep(&first), keep(&second), keep(&third));
    assert_eq!(served.delete(&format!("/api/v1/history/{first}")).await, 204);
    served.until_gone(&a).await;
    assert_eq!(served.delete("/api/v1/conversations/c-2").await, 204);
    served.until_gone(&b).await;
    assert_eq!(served.get(&c).await.status(), 200, "another run's file went with them");
    assert_eq!(served.delete("/api/v1/history").await, 204);
    served.until_gone(&c).await;
    assert_eq!(count(&served.dir.path().join(".var/artifacts")), 0);
}
