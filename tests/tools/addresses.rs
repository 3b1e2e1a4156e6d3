//! Which addresses `fetch_page` asks: a table of those it must not, of those it may, and names that lead astray.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentic_fleet::settings::FetchSettings;
use agentic_fleet::tools::Dispatch;
use agentic_fleet::tools::builtin::Tool as _;
use agentic_fleet::tools::fetch_page::FetchPage;
use agentic_fleet::tools::fetch_page::guard::{Guard, Lookup, Way, public};
use fleet_actors::event::Failure;
use fleet_actors::ids::WorkflowId;
use fleet_actors::ports::ToolOutput;
use serde_json::json;

use crate::support::{Server, answer, settings};

/// Each is refused before anything is asked, whatever its spelling.
const REFUSED: &[&str] = &[
    // This machine.
    "http://127.0.0.1/",
    "http://127.0.0.1:80/",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.255.255.254/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0x0.0x0.0x1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://0x7f.1/",
    "http://127.0.0.1./",
    "http://%31%32%37.0.0.1/",
    "http://127。0。0。1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://0/",
    "http://0.0.0.0/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://printer.localhost/",
    "https://127.0.0.1/",
    // Private networks.
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://0xa000001/",
    "http://167772161/",
    "http://012.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://192.168.1.1/admin",
    "http://3232235777/",
    "http://100.64.0.1/",
    "http://100.127.255.255/",
    // Link-local, with the metadata of clouds.
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.0.1/",
    "http://[fe80::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fc00::1]/",
    "http://[fec0::1]/",
    // Reserved, documentation, benchmarks, multicast, broadcast.
    "http://192.0.0.8/",
    "http://192.0.2.1/",
    "http://192.88.99.1/",
    "http://198.18.0.1/",
    "http://198.19.255.255/",
    "http://198.51.100.7/",
    "http://203.0.113.9/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[100::1]/",
    "http://[5f00::1]/",
    // IPv4 in IPv6 clothes: mapped, compatible, NAT64, 6to4, Teredo, ISATAP.
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a00:1]/",
    "http://[64:ff9b:1::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:c0a8:101::1]/",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "http://[2606:4700::5efe:192.168.0.1]/",
    "http://[2606:4700:0:0:200:5efe:7f00:1]/",
    // Not the web, not a public port, not without a name and password.
    "file:///etc/passwd",
    "ftp://example.com/",
    "gopher://example.com/_x",
    "data:text/html,hello",
    "javascript:alert(1)",
    "ws://example.com/",
    "unix:/var/run/docker.sock",
    "http://user@example.com/",
    "http://user:password@example.com/",
    "http://example.com@127.0.0.1/",
    "http://127.0.0.1#@example.com/",
    "http://127.0.0.1\\@example.com/",
    "http://example.com:22/",
    "http://example.com:6379/",
    "https://example.com:8443/",
    "http://example.com:0/",
    "http://8.8.8.8:25/",
    // Not addresses at all.
    "http://",
    "http:///",
    "http://999.1.1.1/",
    "http://0x1ffffffff/",
    "http://[::1/",
    "http://exa mple.com/",
    "//127.0.0.1/",
    "127.0.0.1/path",
    "http://127.0.0.1:99999/",
];

/// Each may be asked.
const ALLOWED: &[&str] = &[
    "http://example.com/",
    "https://example.com/a?b=c#d",
    "https://EXAMPLE.com./",
    "https://example.com:443/",
    "http://8.8.8.8/",
    "http://134744072/",
    "http://172.15.255.255/",
    "http://172.32.0.1/",
    "http://100.63.255.255/",
    "http://100.128.0.1/",
    "http://[2606:4700:4700::1111]/",
    "http://[::ffff:8.8.8.8]/",
    "http://[64:ff9b::8.8.8.8]/",
    "https://münchen.example/",
];

fn fetch(settings: FetchSettings, lookup: Lookup) -> FetchPage {
    FetchPage::new(settings, lookup).unwrap()
}

async fn ask(page: &FetchPage, url: &str) -> Result<ToolOutput, Failure> {
    let (workflow, arguments) = (WorkflowId::from_trusted("w"), json!({ "url": url }));
    let dispatch =
        Dispatch { workflow: &workflow, tool: "fetch_page", arguments: &arguments, idempotency_key: "k", attempt: 1 };
    page.call(dispatch).await
}

/// A resolver that knows every name by this address, and counts how often it was asked.
fn everything_is(addresses: &[&str]) -> (Lookup, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let lookup: Lookup = Arc::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        let found = addresses.clone();
        Box::pin(async move { Ok(found) })
    });
    (lookup, asked)
}

#[tokio::test]
async fn no_spelling_of_an_address_that_is_not_public_is_asked() {
    assert!(REFUSED.len() >= 60, "only {}", REFUSED.len());
    let (lookup, asked) = everything_is(&["8.8.8.8"]);
    let page = fetch(settings(&[]).tools.fetch_page, lookup);
    for url in REFUSED {
        let failure = ask(&page, url).await.expect_err(url);
        assert_eq!(&*failure.code, "url_denied", "{url}: {failure}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0, "a refused address was resolved");
    println!("{} addresses refused before anything was resolved or connected", REFUSED.len());
}

#[test]
fn public_addresses_may_be_asked() {
    let guard = Guard { ports: vec![80, 443], named: Vec::new() };
    for url in ALLOWED {
        let parsed = reqwest::Url::parse(url).unwrap();
        assert_eq!(guard.judge(&parsed), Ok(Way::Guarded), "{url}");
    }
}

#[test]
fn every_block_is_closed_at_both_its_ends_and_open_beside_them() {
    let blocks = [
        ("0.0.0.0", "0.255.255.255", "", "1.0.0.0"),
        ("10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"),
        ("100.64.0.0", "100.127.255.255", "100.63.255.255", "100.128.0.0"),
        ("127.0.0.0", "127.255.255.255", "126.255.255.255", "128.0.0.0"),
        ("169.254.0.0", "169.254.255.255", "169.253.255.255", "169.255.0.0"),
        ("172.16.0.0", "172.31.255.255", "172.15.255.255", "172.32.0.0"),
        ("192.168.0.0", "192.168.255.255", "192.167.255.255", "192.169.0.0"),
        ("198.18.0.0", "198.19.255.255", "198.17.255.255", "198.20.0.0"),
        ("224.0.0.0", "255.255.255.255", "223.255.255.255", ""),
        ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2000:ffff::", "2001:200::"),
        ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:ffff::", "2003::"),
    ];
    let is_public = |ip: &str| public(ip.parse().unwrap());
    for (first, last, before, after) in blocks {
        assert!(!is_public(first) && !is_public(last), "{first} to {last}");
        assert!(before.is_empty() || is_public(before), "{before}");
        assert!(after.is_empty() || is_public(after), "{after}");
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_refused_even_beside_a_public_one() {
    for addresses in [
        &["127.0.0.1"][..],
        &["8.8.8.8", "10.0.0.1"],
        &["169.254.169.254"],
        &["::1"],
        &["::ffff:192.168.0.1"],
        &["fd00::1", "8.8.8.8"],
    ] {
        let (lookup, asked) = everything_is(addresses);
        let page = fetch(settings(&[]).tools.fetch_page, lookup);
        let failure = ask(&page, "http://innocent.example/").await.expect_err("it was asked");
        assert_eq!(&*failure.code, "url_denied", "{addresses:?}: {failure}");
        assert_eq!(asked.load(Ordering::Relaxed), 1, "one connection resolves once");
    }
}

#[tokio::test]
async fn a_name_that_points_elsewhere_the_second_time_reaches_nothing() {
    let inside = Server::start(Arc::new(|_| answer("200 OK", "content-type: text/plain\r\n", "inside"))).await;
    let port = inside.address.port().to_string();
    let mut fetch_settings = settings(&[("FLEET_TOOLS__FETCH_PAGE__PORTS", &port)]).tools.fetch_page;
    fetch_settings.allow_hosts.clear();
    // First public (where nobody is asked, for the port is closed to us here), ever after this machine.
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let lookup: Lookup = Arc::new(move |_| {
        let first = counter.fetch_add(1, Ordering::Relaxed) == 0;
        let ip: IpAddr = if first { "240.0.0.1" } else { "127.0.0.1" }.parse().unwrap();
        Box::pin(async move { Ok(vec![ip]) })
    });
    let page = fetch(fetch_settings, lookup);
    let url = format!("http://rebinds.example:{port}/");
    for _ in 0..5 {
        assert_eq!(&*ask(&page, &url).await.expect_err("it was asked").code, "url_denied");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 5, "each fetch resolves once and judges what it got");
    assert!(inside.seen().is_empty(), "the server inside was reached");
}
