#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! SIP over WebSocket (RFC 7118): a page of ours in Chromium at the hub.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tests::browser::Site;
use tests::{Process, World, free_port, sip};

fn site() -> Site {
    Site::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join("web/sip.html"))
}

/// A hub for SIP and for pages of the site.
fn hub(world: &World, port: u16, web: &str, site: &Site, flags: &[&str]) -> Process {
    let (listen, origin) = (format!("127.0.0.1:{port}"), site.origin());
    let flags = [&["hub", "--listen", &listen, "--origin", &origin][..], &web.split(' ').collect::<Vec<_>>(), flags];
    let mut hub = world.sipbox(&flags.concat()).start();
    hub.wait_for_err("sipbox hub: ready");
    hub
}

/// The page registers, is found on its connection, and its binding is gone when it is.
#[test]
fn a_browser_registers_and_is_reached() {
    let world = World::new("web-ws");
    let (port, web, site) = (free_port(), free_port(), site());
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let _hub = hub(&world, port, &format!("--listen-ws 127.0.0.1:{web}"), &site, &[]);
    let page = site.open(&world, &format!("hub=ws://127.0.0.1:{web}&user=web"), &[]);
    page.wait_for("open sip");
    let registered = page.wait_for("REGISTER");
    assert!(registered.contains("200 OK") && registered.contains(".invalid;transport=ws>;expires="), "{registered}");
    page.wait_for("SUBSCRIBE SIP/2.0");
    let socket = sip::socket();
    let from = socket.local_addr().unwrap();
    let options = sip::request("OPTIONS", "sip:web@sipbox.invalid", "sip:web@sipbox.invalid", from, "");
    let answer = sip::ask(at, &options, &socket).unwrap();
    assert!(answer.starts_with("SIP/2.0 200 OK") && answer.contains("User-Agent: a page"), "{answer}");
    page.wait_for("asked OPTIONS");
    drop(page);
    sip::wait_for_bindings(at, "sip:web@sipbox.invalid", 0, Duration::from_secs(10));
    let answer =
        sip::ask(at, &sip::request("OPTIONS", "sip:web@sipbox.invalid", "sip:web@sipbox.invalid", from, ""), &socket);
    assert_eq!(sip::status(&answer.unwrap()), 480);
}

/// By TLS, with a password.
#[test]
fn a_browser_registers_by_wss_with_a_password() {
    let world = World::new("web-wss");
    let users = world.path("users").display().to_string();
    world.sipbox(&["hub", "user", "--users", &users, "add", "web"]).input("secret\n").finish().success();
    let (port, web, site) = (free_port(), free_port(), site());
    let hub = hub(&world, port, &format!("--listen-wss 127.0.0.1:{web}"), &site, &["--users", &users]);
    assert!(hub.stderr().contains("(WebSocket by TLS)"), "{}", hub.stderr());
    // The browser is told to believe the key of the hub's own certificate: its SHA-256 in base64.
    let script = "openssl x509 -in \"$0\" -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64";
    let key = world.native("sh").args(["-c", script]).arg(world.path("home/.config/sipbox/hub.crt")).finish().success();
    let believe = format!("--ignore-certificate-errors-spki-list={}", key.stdout.trim());
    let query = format!("hub=wss://127.0.0.1:{web}&user=web&password=secret");
    let page = site.open(&world, &query, &[believe]);
    let registered = page.wait_for("REGISTER");
    assert!(registered.contains("200 OK") && registered.contains("transport=ws"), "{registered}");
    page.wait_for("SUBSCRIBE SIP/2.0");
}

/// Pages of other sites are kept out: whoever looks at one does not let it call in his name.
#[test]
fn pages_of_other_sites_are_kept_out() {
    let world = World::new("web-origin");
    let (port, web, site, other) = (free_port(), free_port(), site(), self::site());
    let _hub = hub(&world, port, &format!("--listen-ws 127.0.0.1:{web}"), &site, &[]);
    let page = other.open(&world, &format!("hub=ws://127.0.0.1:{web}&user=web"), &[]);
    page.wait_for("closed");
    assert!(!page.said().iter().any(|line| line.starts_with("open")), "{:?}", page.said());
}
