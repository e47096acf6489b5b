#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! SIP by TLS: sipbox at a real Kamailio, openssl at sipbox's hub, and both ends of sipbox.

use nix::sys::signal::Signal;
use tests::{Kamailio, Launch, Process, World, certificate, free_port};

const ANYWHERE: &str = "198.18.0.9";

fn run(world: &World, registrar: &str, user: &str, flags: &[&str], program: &str) -> Launch {
    let aor = format!("sip:{user}@sipbox.test");
    let mut all = vec!["--registrar", registrar, "--as", &aor];
    all.extend(flags);
    world.run(&all, program).env("SIPBOX_PASSWORD", Kamailio::password(user))
}

/// Both ends register at Kamailio by TLS, and the call to bob goes back on his connection.
fn pair_over_kamailio(name: &str, names: &str, uri: impl Fn(u16) -> String) {
    let world = World::new(name);
    let kamailio = Kamailio::start_tls(&world, &["alice", "bob"], names, false);
    let registrar = uri(kamailio.tls_port());
    let authority = certificate::authority(&world).display().to_string();
    let trust = ["--tls-ca", &authority];
    let port = free_port().to_string();
    let mut server = run(&world, &registrar, "bob", &trust, "static-echo").args([&port, "2"]).start();
    server.wait_for("listening on");
    for _ in 0..2 {
        let flags = [&trust[..], &["--to", "sip:bob@sipbox.test"]].concat();
        let client = run(&world, &registrar, "alice", &flags, "static-client");
        client.args([ANYWHERE, &port]).finish().success().says("echo: hello over SIP");
    }
    server.wait().success();
    kamailio.stop();
}

#[test]
fn pair_over_kamailio_by_sips() {
    pair_over_kamailio("tls-sips", "URI:sip:127.0.0.1", |port| format!("sips:127.0.0.1:{port}"));
}

#[test]
fn pair_over_kamailio_by_a_name() {
    pair_over_kamailio("tls-name", "DNS:localhost", |port| format!("sip:localhost:{port};transport=tls"));
}

/// Whoever is not the domain that was asked for is not talked to (RFC 5922), and the user learns why.
#[test]
fn a_registrar_has_to_be_who_it_should_be() {
    let world = World::new("tls-wrong");
    // With a SIP URI in it the DNS name does not count.
    let kamailio = Kamailio::start_tls(&world, &["alice"], "DNS:localhost,URI:sip:other.example", false);
    let registrar = format!("sip:localhost:{};transport=tls", kamailio.tls_port());
    let authority = certificate::authority(&world).display().to_string();
    let call = |flags: &[&str]| {
        let flags = [flags, &["--to", "sip:bob@sipbox.test"]].concat();
        run(&world, &registrar, "alice", &flags, "static-client").args([ANYWHERE, "7000"]).finish().ended_with(3)
    };
    call(&["--tls-ca", &authority]).complains("its certificate is for another domain").complains("ENETUNREACH");
    call(&[]).complains("sipbox:");
    let wrong = "00:".repeat(31) + "00";
    call(&["--tls-fingerprint", &wrong]).complains("another fingerprint");
    // The right fingerprint needs no name: the call now fails for another reason.
    let text = world.native("openssl").args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]);
    let text = text.arg(world.path("kamailio.crt")).finish().success().stdout;
    let fingerprint = text.trim().split('=').nth(1).unwrap().to_owned();
    call(&["--tls-fingerprint", &fingerprint]).complains("EHOSTUNREACH");
    run(&world, &registrar, "alice", &["--tls-ca", "/nonexistent"], "true")
        .finish()
        .complains("/nonexistent cannot be read");
}

/// A server that asks for a certificate gets the one of the policy.
#[test]
fn client_certificates() {
    let world = World::new("tls-client");
    let kamailio = Kamailio::start_tls(&world, &["alice"], "DNS:localhost", true);
    certificate::issue(&world, "alice", "URI:sip:alice@sipbox.test");
    let policy = |certificate: &str| {
        let text = format!(
            "schema = 1\n[identity]\naor = \"sip:alice@sipbox.test\"\nregistrar = \"sip:localhost:{};transport=tls\"\n\
             tls = {{ ca = \"{}\"{certificate} }}\n[[connect]]\nto = \"*\"\nuri = \"sip:bob@sipbox.test\"\n",
            kamailio.tls_port(),
            world.path("ca.crt").display(),
        );
        world.write("policy.toml", text).display().to_string()
    };
    let call = |policy: &str| {
        let client =
            world.run(&["--policy", policy], "static-client").env("SIPBOX_PASSWORD", Kamailio::password("alice"));
        client.args([ANYWHERE, "7000"]).finish().ended_with(3)
    };
    call(&policy("")).complains("ENETUNREACH");
    let d = world.dir().display();
    let own = format!(", certificate = \"{d}/alice.crt\", key = \"{d}/alice.key\"");
    call(&policy(&own)).complains("EHOSTUNREACH");
}

fn hub(world: &World, port: u16, flags: &[&str]) -> Process {
    let mut hub = world.sipbox(&["hub", "--listen-tls", &format!("127.0.0.1:{port}")]).args(flags).start();
    hub.wait_for_err("sipbox hub: ready");
    hub
}

/// What `openssl s_client` gets for OPTIONS; nothing when the connection does not come about.
fn ask_by_openssl(world: &World, port: u16, flags: &[&str]) -> String {
    let options = format!(
        "OPTIONS sip:127.0.0.1:{port};transport=tls SIP/2.0\r\nVia: SIP/2.0/TLS client.invalid;branch=z9hG4bK1;rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:tester@client.invalid>;tag=1\r\nTo: <sip:127.0.0.1:{port}>\r\nCall-ID: 1@client\r\n\
         CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
    send_by_openssl(world, port, &options, flags)
}

/// What it gets for a request.
fn send_by_openssl(world: &World, port: u16, request: &str, flags: &[&str]) -> String {
    let at = format!("127.0.0.1:{port}");
    let client = world.native("openssl").args(["s_client", "-connect", &at, "-quiet", "-verify_return_error"]);
    let mut client = client.args(flags).talk().start();
    let _ = client.tell(request);
    tests::until("openssl to be answered or to end", || {
        (client.stdout().contains("\r\n\r\n") || client.ended()).then_some(())
    });
    let answer = client.stdout();
    client.stop();
    answer
}

const OK: &str = "SIP/2.0 200 OK\r\nVia: SIP/2.0/TLS";

/// A hub without a certificate makes one, keeps it, and says its fingerprint; openssl and sipbox believe it when told to.
#[test]
fn a_hub_makes_its_certificate() {
    let world = World::new("tls-hub");
    let port = free_port();
    let first = hub(&world, port, &[]);
    let said = first.stderr();
    let fingerprint = said.lines().find_map(|line| line.split("SHA-256 fingerprint ").nth(1)).unwrap().to_owned();
    let made = world.path("home/.config/sipbox/hub.crt").display().to_string();
    assert!(said.contains(&made), "{said}");
    assert!(ask_by_openssl(&world, port, &["-CAfile", &made]).contains(OK));
    assert_eq!(ask_by_openssl(&world, port, &["-CAfile", &made, "-tls1_1"]), "", "TLS 1.1 is not taken");

    let registrar = format!("sips:127.0.0.1:{port}");
    let tcp = free_port().to_string();
    let trust = ["--tls-fingerprint", &fingerprint];
    let server = world
        .run(&[&["--registrar", &registrar, "--as", "sip:bob@sipbox.invalid"][..], &trust].concat(), "static-echo");
    let mut server = server.args([&tcp, "2"]).start();
    server.wait_for("listening on");
    for trust in [trust, ["--tls-ca", &made]] {
        let client = world.run(
            &[&["--registrar", &registrar, "--to", "sip:bob@sipbox.invalid"][..], &trust].concat(),
            "static-client",
        );
        client.args([ANYWHERE, &tcp]).finish().success().says("echo: hello over SIP");
    }
    server.wait().success();
    // What does not speak TLS, or says nothing, is counted and no trouble.
    world.native("nc").args(["-N", "127.0.0.1", &port.to_string()]).input("OPTIONS sip:a SIP/2.0\r\n\r\n").finish();
    first.signal(Signal::SIGTERM);
    let ended = first.wait().success();
    assert!(ended.stderr.contains("failed_handshakes: 2"), "{}", ended.stderr);
    // The next hub is the same one.
    let second = hub(&world, port, &[]);
    assert!(second.stderr().contains(&fingerprint), "{}", second.stderr());
}

/// The operator's certificate, another one at SIGHUP, and clients that have to show theirs.
#[test]
fn a_hub_with_certificates_of_an_authority() {
    let world = World::new("tls-operator");
    let port = free_port();
    let (certificate, key) = certificate::issue(&world, "hub", "URI:sip:sipbox.invalid,IP:127.0.0.1");
    let (mine, my_key) = certificate::issue(&world, "mine", "URI:sip:tester@client.invalid");
    let [certificate, key, mine, my_key] = [certificate, key, mine, my_key].map(|path| path.display().to_string());
    let authority = certificate::authority(&world).display().to_string();
    let files = ["--tls-certificate", &certificate, "--tls-key", &key, "--tls-client-ca", &authority];
    let mut hub = hub(&world, port, &files);
    let believe = ["-CAfile", &authority];
    let with_mine = [&believe[..], &["-cert", &mine, "-key", &my_key]].concat();
    assert!(ask_by_openssl(&world, port, &with_mine).contains(OK));
    assert_eq!(ask_by_openssl(&world, port, &believe), "", "no certificate, no service");

    let before = hub.stderr();
    certificate::issue(&world, "hub", "URI:sip:sipbox.invalid,IP:127.0.0.1");
    hub.signal(Signal::SIGHUP);
    let fingerprints = |text: &str| text.matches("SHA-256 fingerprint").count();
    tests::until("the new certificate", || (fingerprints(&hub.stderr()) > fingerprints(&before)).then_some(()));
    let lines = hub.stderr();
    let told: Vec<&str> = lines.lines().filter_map(|line| line.split("SHA-256 fingerprint ").nth(1)).collect();
    assert_ne!(told[0], told[1]);
    assert!(ask_by_openssl(&world, port, &with_mine).contains(OK));

    world.write_mode("hub.key", "no key", 0o600);
    hub.signal(Signal::SIGHUP);
    hub.wait_for_err("the certificate stays as it was");
    assert!(ask_by_openssl(&world, port, &with_mine).contains(OK));
    world.write_mode("hub.key", "no key", 0o644);
    let refused = world.sipbox(&["hub", "--listen-tls", "127.0.0.1:0"]).args(files).finish();
    refused.ended_with(1).complains("chmod 600 it");
}

/// A certificate that speaks for two domains (RFC 5922 7.1): the users of both are let in, and nobody else's.
#[test]
fn a_certificate_for_two_domains() {
    let world = World::new("tls-two-domains");
    let port = free_port();
    let users = world.path("users").display().to_string();
    world.sipbox(&["hub", "user", "--users", &users, "add", "alice"]).input("secret\n").finish().success();
    let authority = certificate::authority(&world).display().to_string();
    let own = certificate::issue(&world, "hub", "URI:sip:sipbox.invalid,IP:127.0.0.1");
    let [certificate, key] = [own.0, own.1].map(|path| path.display().to_string());
    let files = ["--users", &users, "--tls-certificate", &certificate, "--tls-key", &key, "--foreign-ca", &authority];
    let domains = ["--foreign", "one.test", "--foreign", "two.test", "--foreign", "three.test"];
    let _hub = hub(&world, port, &[&files[..], &domains].concat());
    let ask = |flags: &[&str], domain: &str| {
        let request = format!(
            "MESSAGE sip:alice@sipbox.invalid SIP/2.0\r\nVia: SIP/2.0/TLS client.invalid;branch=z9hG4bK{domain};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:bob@{domain}>;tag=1\r\nTo: <sip:alice@sipbox.invalid>\r\nCall-ID: {domain}\r\n\
             CSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
        );
        tests::sip::status(&send_by_openssl(&world, port, &request, flags))
    };
    for (name, names, let_in) in [
        ("both", "URI:sip:one.test,URI:sip:two.test", &["one.test", "two.test"][..]),
        ("second", "DNS:two.test", &["two.test"]),
        ("other", "URI:sip:four.test", &[]),
    ] {
        let shown = certificate::issue(&world, name, names);
        let [shown, its_key] = [shown.0, shown.1].map(|path| path.display().to_string());
        for domain in ["one.test", "two.test", "three.test", "four.test", "sipbox.invalid"] {
            // Alice is known, and not there; who is not let in is asked for a password.
            let status = if let_in.contains(&domain) { 480 } else { 407 };
            let flags = ["-CAfile", &authority, "-cert", &shown, "-key", &its_key];
            assert_eq!(ask(&flags, domain), status, "{name} {domain}");
        }
    }
    assert_eq!(ask(&["-CAfile", &authority], "one.test"), 407);
}

/// A machine without certificates of authorities: the hub serves, and says what does not work, and what helps.
#[test]
fn a_hub_that_nobody_vouches_to() {
    let world = World::new("tls-no-authorities");
    let nothing = world.make_dir("no-certificates", 0o755).display().to_string();
    let none = world.write("none.pem", "").display().to_string();
    let [port, tls_port] = [free_port(), free_port()];
    let dns = tests::Dns::start(
        &world,
        &[
            "else.test. 60 IN NAPTR 10 10 \"s\" \"SIPS+D2T\" \"\" _sips._tcp.else.test.".to_owned(),
            format!("_sips._tcp.else.test. 60 IN SRV 10 1 {tls_port} one.else.test."),
            "one.else.test. 60 IN A 127.0.0.1".to_owned(),
        ],
    );
    let (listen, listen_tls, dns) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{tls_port}"), dns.address());
    let launch = |more: &[&str]| {
        let flags = ["hub", "--listen", &listen, "--listen-tls", &listen_tls, "--foreign", "else.test", "--dns", &dns];
        let hub = world.sipbox(&flags).args(more);
        let mut hub = hub.env("SSL_CERT_FILE", &none).env("SSL_CERT_DIR", &nothing).start();
        hub.wait_for_err("sipbox hub: ready");
        hub
    };
    let ask = |to: &str| {
        let socket = tests::sip::socket();
        let from = socket.local_addr().unwrap();
        let request =
            tests::sip::request("OPTIONS", to, to, from, "").replace("tester@127.0.0.1", "alice@sipbox.invalid");
        tests::sip::ask(listen.parse().unwrap(), &request, &socket).unwrap()
    };
    const WARNING: &str = "no certificates of authorities, so nobody can prove to be else.test";
    let first = launch(&[]);
    let said = first.stderr();
    assert!(said.contains(WARNING) && said.contains("--foreign-ca NAME.pem"), "{said}");
    assert_eq!(tests::sip::status(&ask("sip:sipbox.invalid")), 200);
    let refused = ask("sip:bob@else.test");
    assert!(refused.starts_with("SIP/2.0 502 ") && refused.contains("--foreign-ca"), "{refused}");
    first.stop();
    // What it says helps: it is asked by TLS now, and is nobody's domain.
    let authority = certificate::authority(&world).display().to_string();
    let second = launch(&["--foreign-ca", &authority]);
    assert!(!second.stderr().contains(WARNING), "{}", second.stderr());
    let refused = ask("sip:bob@else.test");
    assert!(refused.starts_with("SIP/2.0 502 That Domain Is Not Reachable"), "{refused}");
}
