//! A full house refusing, beside a bare actix handler that answers the same status and as many bytes.
//!
//! Both are processes of their own with the same number of workers, asked by the same client in turns. A refused upgrade
//! ends its connection, with actix alone too, so its client connects for every request.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, post as on_post, route};
use actix_web::{App, HttpResponse, HttpServer};
use tokio::task::LocalSet;

use super::figure::{Bar, Table, median, quantile, setting};
use super::http::{Http, find, post};
use super::process::Process;

/// What this process is told in order to be the bare server.
pub const BARE: &str = "--bare-refusals";
const CLIENTS: usize = 64;

struct Round {
    per_s: f64,
    p99_us: f64,
    cpu_us: f64,
}

/// The doors' requests, and whether a connection serves one only.
fn requests() -> [(&'static str, Vec<u8>, bool); 3] {
    let upgrade = "GET /api/ws/chat HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    [
        ("http", post("/api/v1/run", r#"{"task":"hello"}"#), false),
        ("sse", b"GET /api/chat/c/stream?message=hello HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), false),
        ("ws", upgrade.as_bytes().to_vec(), true),
    ]
}

pub fn run(table: &mut Table) {
    table.about("refusals: a full house, 64 clients");
    let dir = tempfile::tempdir().expect("a directory");
    let model = Process::simulate(dir.path(), 3_600_000);
    let server = Process::serve(dir.path(), model.address, 1);
    let bare = Process::bare(dir.path(), BARE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut holder = Http::connect(server.address).await.expect("a connection");
        let status = holder.exchange(&post("/api/v1/runs", r#"{"task":"hello"}"#)).await.expect("an answer");
        assert_eq!(status, 202, "the one place is taken");
        for (door, request, once) in requests() {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..setting("BENCH_ROUNDS", 3) {
                theirs.push(measure(&bare, &request, once).await);
                ours.push(measure(&server, &request, once).await);
            }
            let of = |rounds: &[Round], pick: fn(&Round) -> f64| median(rounds.iter().map(pick));
            let name = |what: &str| format!("429 {door} {what}");
            table.beside(name("rate"), "/s", of(&ours, |r| r.per_s), of(&theirs, |r| r.per_s), Bar::RatioAtLeast(0.5));
            table.beside(name("p99"), "us", of(&ours, |r| r.p99_us), of(&theirs, |r| r.p99_us), Bar::RatioAtMost(2.0));
            table.beside(name("server cpu"), "us", of(&ours, |r| r.cpu_us), of(&theirs, |r| r.cpu_us), Bar::None);
        }
    });
}

async fn measure(server: &Process, request: &[u8], once: bool) -> Round {
    let length = Duration::from_secs(setting("BENCH_SECONDS", 3));
    let (from, request) = (Instant::now() + Duration::from_millis(300), Rc::<[u8]>::from(request));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::task::spawn_local(client(server.address, request.clone(), once, (from, from + length))))
        .collect();
    tokio::time::sleep_until(from.into()).await;
    let before = server.usage().cpu_s;
    tokio::time::sleep_until((from + length).into()).await;
    let cpu_s = server.usage().cpu_s - before;
    let mut took = Vec::new();
    for client in clients {
        took.append(&mut client.await.expect("a client"));
    }
    let answers = took.len() as f64;
    Round { per_s: answers / length.as_secs_f64(), p99_us: quantile(&mut took, 0.99), cpu_us: cpu_s * 1e6 / answers }
}

/// Microseconds of each answer in the measured time.
async fn client(address: SocketAddr, request: Rc<[u8]>, once: bool, (from, until): (Instant, Instant)) -> Vec<f64> {
    let mut http = Http::connect(address).await.expect("a connection");
    let mut took = Vec::with_capacity(100_000);
    loop {
        let began = Instant::now();
        if began >= until {
            return took;
        }
        if once {
            http = Http::connect(address).await.expect("a connection");
        }
        let status = http.exchange(&request).await.expect("an answer");
        assert_eq!(status, 429, "{}", String::from_utf8_lossy(http.answer()));
        assert!(find(http.answer(), b"retry-after").is_some(), "{}", String::from_utf8_lossy(http.answer()));
        if began >= from {
            took.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
}

/// As many bytes as a refusal of ours has.
const BODY: &str = r#"{"code":"session_cap_reached","detail":"1 of 1 runs are at work, as many as may be at once","status":429,"title":"Too Many Requests","type":"about:blank"}"#;

/// The bare server: says where it listens and answers every request with 429.
pub fn serve_bare() {
    let refuse = || {
        let mut answer = HttpResponse::build(StatusCode::TOO_MANY_REQUESTS);
        answer.insert_header(("retry-after", "2")).content_type("application/problem+json").body(BODY)
    };
    let served = actix_web::rt::System::new().block_on(async move {
        let server = HttpServer::new(move || {
            App::new()
                .route("/api/v1/run", on_post().to(move |_: Bytes| async move { refuse() }))
                .default_service(route().to(move || async move { refuse() }))
        })
        .bind(("127.0.0.1", 0))?;
        println!("bare: http://{}/", server.addrs()[0]);
        server.run().await
    });
    served.expect("served");
}
