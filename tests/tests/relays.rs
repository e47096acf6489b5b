#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! STUN and TURN servers that DNS names for the registrar's domain (RFC 8489 section 8, RFC 5928), and TURN over TLS: coturn and unbound in the public
//! network of a lab.

use tests::lab::{self, Kind, Lab, PUBLIC};
use tests::{Accounts, Coturn, Dns, Done, Kamailio, Launch, Registrar, Signalling, World, certificate};

/// Any address leads to the peer of `--to`: this one is nobody's.
const ANYWHERE: &str = "198.18.0.9";
const DOMAIN: &str = "voip.test";

/// The domain with a registrar, and these services at the host `helper`.
fn domain(world: &World, lab: &Lab, services: &[(&str, u16)]) -> Dns {
    Dns::start_in(world, lab, &records(services))
}

fn records(services: &[(&str, u16)]) -> Vec<String> {
    let mut records = vec![
        format!("_sip._udp.{DOMAIN}. 60 IN SRV 10 1 5060 sip.{DOMAIN}."),
        format!("sip.{DOMAIN}. 60 IN A {PUBLIC}"),
        format!("helper.{DOMAIN}. 60 IN A {PUBLIC}"),
    ];
    let service = |(name, port): &(&str, u16)| format!("{name}.{DOMAIN}. 60 IN SRV 10 1 {port} helper.{DOMAIN}.");
    records.extend(services.iter().map(service));
    records
}

/// A run of coturn's user at both.
fn run(world: &World, lab: &Lab, side: usize, flags: &[&str], program: &str) -> Launch {
    let user = ["alice", "bob"][side];
    let run = world.run(&[&["--trace", "--as", &format!("sip:{user}@sipbox.test")], flags].concat(), program);
    Registrar::with_passwords(run.inside(&lab.sides[side].host), user)
}

/// One connection between the sides; the trace of the caller.
fn talk(world: &World, lab: &Lab, flags: [&[&str]; 2]) -> String {
    let mut called = run(world, lab, 1, flags[1], "static-echo").args(["7000", "1"]).start();
    called.wait_for("listening on");
    let flags = [flags[0], &["--to", "sip:bob@sipbox.test"]].concat();
    let done = run(world, lab, 0, &flags, "static-client").args([ANYWHERE, "7000", "@200000"]).finish();
    assert_eq!(done.code(), 0, "{}\n--- called\n{}", done.stderr, called.stderr());
    done.stderr
}

fn netcheck(world: &World, lab: &Lab, flags: &[&str], password: Option<&str>) -> Done {
    let check = world.sipbox(&["netcheck"]).args(flags).inside(&lab.sides[0].host);
    match password {
        Some(password) => check.env("SIPBOX_TURN_PASSWORD", password).finish(),
        None => check.finish(),
    }
}

/// Two ends that only a relay connects, and that know a domain and their passwords.
#[test]
fn the_domain_names_its_servers() {
    if !lab::possible("the_domain_names_its_servers") {
        return;
    }
    let world = World::new("relays-srv");
    let lab = Lab::new([Kind::Symmetric, Kind::Symmetric]);
    let _kamailio = Kamailio::start_in(&world, &lab, tests::Algorithm::Sha256, &["alice", "bob"]);
    // What DNS names is not what is asked for in the certificate: that is the domain.
    let coturn = Coturn::start_tls(&world, &lab, &format!("DNS:{DOMAIN}"));
    let services =
        [("_stun._udp", 3478), ("_turn._udp", 3478), ("_turn._tcp", 3478), ("_turns._tcp", Coturn::TLS_PORT)];
    let dns = domain(&world, &lab, &services);
    let (at, registrar, ca) =
        (dns.address(), format!("sip:{DOMAIN}"), certificate::authority(&world).display().to_string());
    let flags = ["--registrar", &registrar, "--dns", &at, "--tls-ca", &ca];

    // The user of the address of record is the one at the TURN server.
    let asker = format!("sip:{}@sipbox.test", Coturn::USER);
    let asks = [&flags[..], &["--as", &asker]].concat();
    let said = netcheck(&world, &lab, &asks, Some(Coturn::PASSWORD)).success();
    let said = said.says(&format!("DNS _turn._udp.{DOMAIN}: {PUBLIC}:3478")).says("symmetric NAT");
    let said = said.says("by UDP     relay at").says("by TCP     relay at").says("by TLS     relay at");
    println!("$ sipbox netcheck {}\n{}", asks.join(" "), said.stdout);
    let json = netcheck(&world, &lab, &[&asks[..], &["--json"]].concat(), Some(Coturn::PASSWORD)).success().stdout;
    assert!(
        json.contains(&format!("\"dns\":[\"_stun._udp.{DOMAIN}: {PUBLIC}:3478\""))
            && json.contains("\"tls\":{\"relay\""),
        "{json}"
    );
    let without = netcheck(&world, &lab, &asks, None).success().says("symmetric NAT");
    without.complains("want a password: put it in SIPBOX_TURN_PASSWORD");

    // alice and bob are users of the registrar only; nobody knows them here, so there is no path.
    let refused = run(&world, &lab, 0, &[&flags[..], &["--to", "sip:bob@sipbox.test"]].concat(), "static-client");
    let mut called = run(&world, &lab, 1, &flags, "static-echo").args(["7000", "1"]).start();
    called.wait_for("listening on");
    refused.args([ANYWHERE, "7000"]).finish().complains("no path to the other end");
    drop(called);
    coturn.stop();
    let users = ["alice", "bob"].map(|user| format!("{user}:{}", Coturn::PASSWORD));
    let _coturn = Coturn::start_for(&world, &lab, &["-u", &users[0], "-u", &users[1]]);
    let trace = talk(&world, &lab, [&flags, &flags]);
    assert!(trace.contains(": relayed, "), "{trace}");
}

/// DNS does not answer for one kind of servers: those of the other kinds are used, by each connection, and the user is told once.
#[test]
fn one_kind_that_dns_does_not_answer_for() {
    if !lab::possible("one_kind_that_dns_does_not_answer_for") {
        return;
    }
    let world = World::new("relays-one-kind");
    let lab = Lab::new([Kind::Symmetric, Kind::Symmetric]);
    let _kamailio = Kamailio::start_in(&world, &lab, tests::Algorithm::Sha256, &["alice", "bob"]);
    let users = ["alice", "bob"].map(|user| format!("{user}:{}", Coturn::PASSWORD));
    let _coturn = Coturn::start_for(&world, &lab, &["-u", &users[0], "-u", &users[1]]);
    let services = [("_stun._udp", 3478), ("_turn._udp", 3478), ("_turn._tcp", 3478)];
    let dns = Dns::start_dropping(&world, &lab, &records(&services), &format!("_turns._tcp.{DOMAIN}."));
    let (at, registrar) = (dns.address(), format!("sip:{DOMAIN}"));
    let flags = ["--registrar", &registrar, "--dns", &at];
    let asks = [&flags[..], &["--as", "sip:alice@sipbox.test"]].concat();
    let said = netcheck(&world, &lab, &asks, Some(Coturn::PASSWORD)).success();
    let untold = format!("DNS does not say which _turns._tcp.{DOMAIN} servers there are");
    said.says("by UDP     relay at").says("by TCP     relay at").complains(&untold).complains("none is used");
    // Two peers, one after the other: each is reached by a relay, also while DNS is not asked for that kind again.
    let mut called = run(&world, &lab, 1, &flags, "static-echo").args(["7000", "2"]).start();
    called.wait_for("listening on");
    let to = [&flags[..], &["--to", "sip:bob@sipbox.test"]].concat();
    let both = format!("{0} {ANYWHERE} 7000 && {0} {ANYWHERE} 7000", world.program("static-client").display());
    let done = run(&world, &lab, 0, &to, "sh").args(["-c", &both]).finish();
    assert_eq!(done.code(), 0, "{}\n--- called\n{}", done.stderr, called.stderr());
    assert!(done.stderr.contains(": relayed, "), "{}", done.stderr);
    assert_eq!(done.stderr.matches(&untold).count(), 1, "{}", done.stderr);
}

/// `sipbox ping` is no registered agent, and uses the relays of the hub all the same: nothing else leads through these routers.
#[test]
fn a_ping_uses_the_hub_s_relays() {
    if !lab::possible("a_ping_uses_the_hub_s_relays") {
        return;
    }
    let world = World::new("relays-ping");
    let lab = Lab::new([Kind::Symmetric, Kind::Symmetric]);
    let hub = Registrar::start_relaying(&world, &lab);
    let home = format!("sip:{PUBLIC}:5060");
    let flags = |user: &str| ["--registrar".to_owned(), home.clone(), "--as".to_owned(), hub.aor(user)];
    let bob = flags("bob");
    let bob: Vec<&str> = bob.iter().map(String::as_str).collect();
    let called = Registrar::with_passwords(world.run(&bob, "static-echo").inside(&lab.sides[1].host), "bob");
    let mut called = called.arg("7000").start();
    called.wait_for("listening on");
    let ping = world.sipbox(&["ping", "-c", "2", &hub.aor("bob")]).args(flags("alice")).inside(&lab.sides[0].host);
    let done = Registrar::with_passwords(ping, "alice").finish().success();
    done.says("path      relayed: ").says("2 of 2 round trips");
}

/// A domain without such records, and one that says that it has no such service.
#[test]
fn a_domain_may_name_none() {
    if !lab::possible("a_domain_may_name_none") {
        return;
    }
    let world = World::new("relays-none");
    let lab = Lab::new([Kind::Masquerade, Kind::Open]);
    let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
    let dns = domain(&world, &lab, &[]);
    let at = dns.address();
    let registrar = format!("sip:{DOMAIN}");
    let none = netcheck(&world, &lab, &["--registrar", &registrar, "--dns", &at], None).ended_with(2);
    none.complains(&format!("DNS names no STUN and TURN servers for {DOMAIN}")).complains("--stun HOST:PORT");
    // A name without a port and without SRV is a host.
    let host = format!("helper.{DOMAIN}");
    netcheck(&world, &lab, &["--stun", &host, "--dns", &at], None).success().says("port-restricted cone NAT");
    dns.stop();
    let dns = Dns::start_in(
        &world,
        &lab,
        &[format!("_stun._udp.{DOMAIN}. 60 IN SRV 0 0 0 ."), format!("{DOMAIN}. 60 IN A {PUBLIC}")],
    );
    let declined = netcheck(&world, &lab, &["--stun", DOMAIN, "--dns", &dns.address()], None).ended_with(2);
    declined.complains("says in DNS that it has no such server");
}

/// Where nothing but TLS gets out; and a certificate that is for somebody else.
#[test]
fn a_relay_over_tls() {
    if !lab::possible("a_relay_over_tls") {
        return;
    }
    let world = World::new("relays-tls");
    let lab = Lab::new([Kind::UdpBlocked, Kind::Symmetric]);
    let registrar = Registrar::start(&world, &lab, Signalling::HubOverTcp);
    let coturn = Coturn::start_tls(&world, &lab, &format!("IP:{PUBLIC}"));
    let ca = certificate::authority(&world).display().to_string();
    let (home, turn) = (format!("sip:{PUBLIC}:5060;transport=tcp"), format!("turns:{}@{PUBLIC}", Coturn::USER));
    let flags = ["--registrar", &home, "--tls-ca", &ca, "--turn", &turn];
    let aors = ["alice", "bob"].map(|user| registrar.aor(user));
    let run = |side: usize, more: &[&str], program: &str| {
        let all = [&flags[..], &["--trace", "--as", &aors[side]], more].concat();
        let run = world.run(&all, program).inside(&lab.sides[side].host);
        Registrar::with_passwords(run, ["alice", "bob"][side])
    };
    let pair = || {
        let mut called = run(1, &[], "static-echo").args(["7000", "1"]).start();
        called.wait_for("listening on");
        (run(0, &["--to", &aors[1]], "static-client").args([ANYWHERE, "7000", "@200000"]).finish(), called)
    };
    let (done, called) = pair();
    assert_eq!(done.code(), 0, "{}\n--- called\n{}\n--- coturn\n{}", done.stderr, called.stderr(), coturn.log());
    assert!(done.stderr.contains(": relayed, "), "{}", done.stderr);
    drop(called);
    netcheck(&world, &lab, &["--turn", &turn, "--tls-ca", &ca], Some(Coturn::PASSWORD))
        .success()
        .says("by TLS     relay at")
        .says("expect: relayed");
    // Nobody of this machine's authorities vouches for it.
    netcheck(&world, &lab, &["--turn", &turn], Some(Coturn::PASSWORD))
        .ended_with(1)
        .says("no TLS: invalid peer certificate");

    coturn.stop();
    let _other = Coturn::start_tls(&world, &lab, "DNS:other.test");
    netcheck(&world, &lab, &["--turn", &turn, "--tls-ca", &ca], Some(Coturn::PASSWORD)).ended_with(1).says("no TLS: ");
    let (refused, _called) = pair();
    let refused = refused.complains(&format!("there is no connection to the TURN server at {PUBLIC}:5349"));
    assert!(refused.code() != 0 && refused.stderr.contains("certificate"), "{}", refused.stderr);
}

/// The registrar names a TURN server that is spoken to by TLS, and a password for it: nobody has to name one, also where nothing but TCP gets out.
#[test]
fn a_registrar_names_a_relay_over_tls() {
    if !lab::possible("a_registrar_names_a_relay_over_tls") {
        return;
    }
    let world = World::new("relays-link");
    let lab = Lab::new([Kind::UdpBlocked, Kind::Symmetric]);
    let coturn = Coturn::start_tls(&world, &lab, &format!("IP:{PUBLIC}"));
    let (user, password) = (Coturn::USER, Coturn::PASSWORD);
    let at = format!("turns:{PUBLIC}:{}?transport=tcp", Coturn::TLS_PORT);
    let link = format!(r#"<{at}>; rel="ice-server"; username="{user}"; credential="{password}""#);
    let link = format!(r#"{link}; credential-type="password""#);
    let kamailio = Kamailio::start_with_relay(&world, &lab, &["alice", "bob"], &link);
    let (home, ca) = (kamailio.registrar(true), certificate::authority(&world).display().to_string());
    let run = |side: usize, more: &[&str], program: &str| {
        let user = ["alice", "bob"][side];
        let aor = kamailio.aor(user);
        let flags = [&["--trace", "--registrar", &home, "--as", &aor], more].concat();
        let run = world.run(&flags, program).inside(&lab.sides[side].host);
        run.env("SIPBOX_PASSWORD", Kamailio::password(user))
    };
    let to = kamailio.aor("bob");
    let trusting = ["--tls-ca", &ca];
    let mut called = run(1, &trusting, "static-echo").args(["7000", "1"]).start();
    called.wait_for("listening on");
    let caller = run(0, &[&trusting[..], &["--to", &to]].concat(), "static-client");
    let done = caller.args([ANYWHERE, "7000", "@200000"]).finish();
    assert_eq!(done.code(), 0, "{}\n--- called\n{}\n--- coturn\n{}", done.stderr, called.stderr(), coturn.log());
    assert!(done.stderr.contains(": relayed, "), "{}", done.stderr);
    called.wait().success();

    // Its certificate is for somebody this host does not trust: that is said, and nothing leads there.
    let mut called = run(1, &[], "static-echo").args(["7000", "1"]).start();
    called.wait_for("listening on");
    let refused = run(0, &["--to", &to], "static-client").args([ANYWHERE, "7000"]).finish();
    assert_ne!(refused.code(), 0, "{}", refused.stderr);
    let refused = refused.complains(&format!("there is no connection to the TURN server at {PUBLIC}:5349"));
    refused.complains("certificate");
}
