//! `fetch_page` against a server: redirects, limits, kinds of pages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, Server, World, answer};

const HTML: &str = "content-type: text/html; charset=utf-8\r\n";

/// A server that answers by path, and tools that may ask it by its address.
async fn site(variables: &[(&str, &str)]) -> (Server, World) {
    let server = Server::start(Arc::new(|request: String| {
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let redirect = |to: &str| answer("302 Found", &format!("location: {to}\r\n"), "");
        match path.as_str() {
            "/" => answer("200 OK", HTML, "<title>Home</title><h1>Welcome</h1><script>bad()</script><p>Some text.</p>"),
            "/to-home" => redirect("/"),
            "/loop" => redirect("/loop"),
            "/nowhere" => redirect("http://"),
            "/json" => answer("200 OK", "content-type: application/json\r\n", "{\"a\":1}"),
            "/image" => answer("200 OK", "content-type: image/png\r\n", "PNG"),
            "/untyped" => answer("200 OK", "", "what"),
            "/gzip" => answer("200 OK", &format!("{HTML}content-encoding: gzip\r\n"), "x"),
            "/missing" => answer("404 Not Found", HTML, "no"),
            "/busy" => answer("429 Too Many Requests", "retry-after: 7\r\n", "no"),
            "/deep" => answer("200 OK", HTML, &"<b>".repeat(100_000)),
            "/latin" => {
                let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n".to_vec();
                bytes.extend_from_slice(b"<meta charset=\"iso-8859-1\"><p>caf\xe9</p>");
                Answer::Bytes(bytes)
            }
            "/endless" => Answer::Forever {
                first: format!("HTTP/1.1 200 OK\r\n{HTML}\r\n<p>begins").into(),
                again: "<p>and so on ".repeat(1_000).into(),
                pause_ms: 0,
            },
            "/drip" => Answer::Forever {
                first: format!("HTTP/1.1 200 OK\r\n{HTML}\r\n").into(),
                again: b"x".to_vec(),
                pause_ms: 20,
            },
            "/silent" => Answer::Forever { first: Vec::new(), again: Vec::new(), pause_ms: 20 },
            path => match path.strip_prefix("/to?") {
                Some(to) => redirect(to),
                None => answer("200 OK", HTML, "<p>other</p>"),
            },
        }
    }))
    .await;
    let host = server.address.to_string();
    let mut variables = variables.to_vec();
    variables.push(("FLEET_TOOLS__FETCH_PAGE__ALLOW_HOSTS", &host));
    let world = World::new(&variables);
    (server, world)
}

fn page(server: &Server, path: &str) -> Value {
    json!({ "url": server.url(path) })
}

#[tokio::test]
async fn a_page_comes_as_title_address_and_text_also_behind_a_redirect() {
    let (server, world) = site(&[]).await;
    for path in ["/", "/to-home", "/to-home#part"] {
        let output = world.call("fetch_page", page(&server, path)).await.unwrap();
        assert_eq!(output.data, json!({ "url": server.url("/"), "title": "Home", "truncated": false }));
        assert!(output.text.contains("Welcome") && output.text.contains("Some text."), "{}", output.text);
        assert!(!output.text.contains("bad()") && output.degraded.is_none(), "{}", output.text);
    }
    let output = world.call("fetch_page", page(&server, "/json")).await.unwrap();
    assert!(output.text.contains("{\"a\":1}"), "{}", output.text);
    let output = world.call("fetch_page", page(&server, "/latin")).await.unwrap();
    assert!(output.text.contains("café"), "{}", output.text);
}

#[tokio::test]
async fn a_redirect_to_a_place_that_is_not_public_is_refused_and_not_followed() {
    let (server, world) = site(&[]).await;
    let inside = Server::start(Arc::new(|_| answer("200 OK", HTML, "inside"))).await;
    let other_port = inside.url("/");
    let places = [
        other_port.as_str(),
        "http://127.0.0.1/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://0x7f000001/",
        "//192.168.1.1/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "http://user:secret@example.com/",
        "http://example.com:22/",
    ];
    for to in places {
        let failure = world.call("fetch_page", page(&server, &format!("/to?{to}"))).await.expect_err(to);
        assert_eq!(&*failure.code, "url_denied", "{to}: {failure}");
    }
    assert!(inside.seen().is_empty(), "{:?}", inside.seen());
    assert_eq!(server.seen().len(), places.len(), "each was asked once");
}

#[tokio::test]
async fn redirects_end_at_their_limit_and_where_they_lead_nowhere() {
    let (server, world) = site(&[]).await;
    let failure = world.call("fetch_page", page(&server, "/loop")).await.expect_err("a loop");
    assert_eq!((&*failure.code, &*failure.message), ("tool_failed", "the page redirects more than 5 times"));
    assert_eq!(server.seen().len(), 6);
    let failure = world.call("fetch_page", page(&server, "/nowhere")).await.expect_err("nowhere");
    assert_eq!(&*failure.code, "tool_failed");
}

#[tokio::test]
async fn an_endless_body_is_cut_at_its_limit_and_says_so() {
    let (server, world) = site(&[("FLEET_TOOLS__FETCH_PAGE__BODY_BYTES_MAX", "50000")]).await;
    let begun = Instant::now();
    let output = world.call("fetch_page", page(&server, "/endless")).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(output.text.contains("begins") && output.text.len() < 60_000, "{} bytes", output.text.len());
    assert!(output.degraded.is_some() && output.data["truncated"] == true);
}

#[tokio::test]
async fn a_page_that_drips_or_says_nothing_ends_at_its_time() {
    let (server, world) = site(&[("FLEET_TOOLS__FETCH_PAGE__TIMEOUT_MS", "400")]).await;
    for path in ["/drip", "/silent"] {
        let begun = Instant::now();
        let failure = world.call("fetch_page", page(&server, path)).await.expect_err(path);
        assert_eq!(&*failure.code, "tool_timeout");
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(900), "{path}: {took:?}");
    }
}

#[tokio::test]
async fn what_is_no_page_of_text_is_refused_by_kind() {
    let (server, world) = site(&[]).await;
    for path in ["/image", "/untyped", "/gzip", "/missing", "/deep"] {
        let failure = world.call("fetch_page", page(&server, path)).await.expect_err(path);
        assert_eq!(&*failure.code, "tool_failed", "{path}: {failure}");
    }
    let failure = world.call("fetch_page", page(&server, "/busy")).await.expect_err("busy");
    assert_eq!(failure.retry_after_ms, Some(7_000));
    let nobody = json!({ "url": "http://127.0.0.1:1/" });
    let world = World::new(&[("FLEET_TOOLS__FETCH_PAGE__ALLOW_HOSTS", "127.0.0.1:1")]);
    assert_eq!(&*world.call("fetch_page", nobody).await.expect_err("nobody").code, "tool_failed");
}
