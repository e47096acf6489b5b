use std::net::{IpAddr, SocketAddr};

use super::{FULL, parse};
use crate::{BindDecision, ConnectDecision, Credentials, Errno, Flags, Limits, NameAnswer, Policy, Proto};

const ALICE: &str = "sip:alice@example.org;gr=urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6";

/// The decision in one line: what happens, and by which rule.
fn connect(policy: &Policy, proto: Proto, dest: SocketAddr) -> (String, String) {
    match policy.connect(proto, dest) {
        ConnectDecision::Uri { uri, rule, .. } => (uri, rule),
        ConnectDecision::Refuse { errno, rule, .. } => (errno.to_string(), rule),
        ConnectDecision::Local { rule } => ("local".into(), rule),
    }
}

fn bind(policy: &Policy, proto: Proto, address: &str, port: u16) -> (String, String) {
    match policy.bind(proto, address.parse().unwrap(), port) {
        BindDecision::Publish { text, rule } => (format!("publish {}", text.unwrap_or_default()), rule),
        BindDecision::Accept { rule } => ("accept".into(), rule),
        BindDecision::Local { rule } => ("local".into(), rule),
        BindDecision::Deny { rule, .. } => ("deny".into(), rule),
    }
}

/// The virtual addresses of a name.
fn addresses(policy: &Policy, name: &str) -> [IpAddr; 2] {
    match policy.resolve(name) {
        NameAnswer::Known { v4, v6 } => [v4.into(), v6.into()],
        NameAnswer::Unknown => panic!("{name} is unknown"),
    }
}

#[test]
fn every_key_of_a_file_is_read() {
    let policy = parse(FULL);
    assert_eq!(policy.app().name.as_deref(), Some("minetest"));
    assert_eq!(policy.app().program.as_deref(), Some("/usr/games/minetest*"));
    let identity = policy.identity();
    assert_eq!(identity.aor.as_deref(), Some("sip:bob@example.org"));
    assert_eq!(identity.registrar.as_deref(), Some("sips:sip.example.org:5061;transport=tls"));
    assert_eq!(identity.credentials, Some(Credentials::Env("BOB_SIP".into())));
    assert_eq!(identity.expires, Some(600));
    assert_eq!(policy.limits(), Limits { sockets: 128, sessions: 16 });
    assert_eq!(policy.domain(), "example.org");
    let tls = parse("[identity]\ntls = { ca = \"/ca\", certificate = \"/c\", key = \"/k\" }\n").identity().tls.clone();
    assert_eq!((tls.ca, tls.certificate), (Some("/ca".into()), Some(("/c".into(), "/k".into()))));
    let file = parse("[identity]\ncredentials = { file = \"/run/key\" }\n").identity().credentials.clone();
    assert_eq!(file, Some(Credentials::File("/run/key".into())));
}

#[test]
fn an_empty_file_has_defaults() {
    let policy = parse("");
    assert_eq!(policy.limits(), Limits { sockets: 65536, sessions: 4096 });
    assert_eq!(policy.identity().aor, None);
    assert_eq!(connect(&policy, Proto::Tcp, "192.0.2.1:1".parse().unwrap()), ("EACCES".into(), "default".into()));
    assert_eq!(connect(&policy, Proto::Tcp, "[::1]:1".parse().unwrap()), ("local".into(), "default".into()));
    assert_eq!(bind(&policy, Proto::Tcp, "0.0.0.0", 1), ("local".into(), "default".into()));
}

#[test]
fn connects_by_the_full_policy() {
    use Proto::{Tcp, Udp};
    let policy = parse(FULL);
    let [game4, game6] = addresses(&policy, "game.example");
    let [chat4, _] = addresses(&policy, "chat.example");
    let default = "policy.toml:15 [default] connect = \"deny\"";
    let game = "policy.toml:19 [[connect]] to = \"game.example:30000-30010\"";
    let net = "policy.toml:25 [[connect]] to = \"10.0.0.0/8:5432\"";
    let docs = "policy.toml:30 [[connect]] to = \"[2001:db8::/32]:*\"";
    let mail = "policy.toml:34 [[connect]] to = \"*:25\"";
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let cases = [
        (Udp, game4, 30000, ALICE, game),
        (Udp, game6, 30010, ALICE, game),
        (Tcp, game4, 30000, "EACCES", default),
        (Udp, game4, 30011, "EACCES", default),
        (Udp, game4, 29999, "EACCES", default),
        (Udp, chat4, 30000, "EACCES", default),
        (Tcp, game6, 25, "EPERM", mail),
        (Tcp, ip("10.255.0.1"), 5432, "sip:db@example.org", net),
        (Tcp, ip("::ffff:10.1.1.1"), 5432, "sip:db@example.org", net),
        (Udp, ip("10.255.0.1"), 5432, "EACCES", default),
        (Tcp, ip("10.255.0.1"), 5433, "EACCES", default),
        (Tcp, ip("11.0.0.1"), 5432, "EACCES", default),
        (Tcp, ip("2001:db8:ffff::1"), 80, "ECONNREFUSED", docs),
        (Tcp, ip("2001:db8::1"), 25, "ECONNREFUSED", docs),
        (Udp, ip("2001:db9::1"), 80, "EACCES", default),
        (Udp, ip("192.0.2.1"), 25, "EPERM", mail),
        (Tcp, ip("127.0.0.1"), 80, "EACCES", default),
        (Tcp, ip("198.18.0.1"), 30000, "EACCES", default),
    ];
    for (proto, address, port, outcome, rule) in cases {
        let dest = SocketAddr::new(address, port);
        assert_eq!(connect(&policy, proto, dest), (outcome.into(), rule.into()), "{proto} {dest}");
    }
    let decision = policy.connect(Udp, SocketAddr::new(game4, 30000));
    assert!(matches!(decision, ConnectDecision::Uri { ref flows, .. } if flows.cleartext));
    let decision = policy.connect(Tcp, "10.0.0.1:5432".parse().unwrap());
    assert!(matches!(decision, ConnectDecision::Uri { ref flows, .. } if !flows.cleartext));
}

#[test]
fn defaults_decide_what_no_rule_does() {
    let cases = [
        ("deny", "192.0.2.1:1", "EACCES"),
        ("deny", "127.0.0.1:1", "EACCES"),
        ("refuse", "192.0.2.1:1", "ECONNREFUSED"),
        ("refuse", "[::1]:1", "ECONNREFUSED"),
        ("allow-local", "192.0.2.1:1", "EACCES"),
        ("allow-local", "127.9.9.9:1", "local"),
        ("allow-local", "[::1]:1", "local"),
        ("allow-local", "0.0.0.0:1", "local"),
        ("allow-local", "[::]:1", "local"),
        ("allow-local", "[::ffff:127.0.0.1]:1", "local"),
        ("allow-local", "[::ffff:0.0.0.0]:1", "local"),
        ("callers", "192.0.2.1:1", "EACCES"),
        ("callers", "127.9.9.9:1", "local"),
    ];
    for (default, dest, outcome) in cases {
        let policy = parse(&format!("[default]\nconnect = \"{default}\"\n"));
        let rule = format!("policy.toml:2 [default] connect = \"{default}\"");
        assert_eq!(connect(&policy, Proto::Tcp, dest.parse().unwrap()), (outcome.into(), rule), "{default} {dest}");
    }
}

/// Who has called may be called back, where nothing else is said.
#[test]
fn callers() {
    let dest = "198.18.7.7:2000".parse().unwrap();
    let back = |text: &str| match parse(text).connect_to(Proto::Tcp, dest, Some("sip:bob@Example.org;transport=tcp")) {
        ConnectDecision::Uri { uri, rule, .. } => (uri, rule),
        ConnectDecision::Refuse { errno, rule, .. } => (errno.to_string(), rule),
        ConnectDecision::Local { rule } => ("local".into(), rule),
    };
    assert_eq!(back(""), ("sip:bob@example.org".into(), "default: has called".into()));
    let said = "[default]\nconnect = \"callers\"\n";
    assert_eq!(back(said).1, "policy.toml:2 [default] connect = \"callers\": has called");
    for word in ["deny", "allow-local"] {
        assert_eq!(back(&format!("[default]\nconnect = \"{word}\"\n")).0, "EACCES", "{word}");
    }
    let rule = "[[connect]]\nto = \"198.18.7.7:2000\"\n";
    assert_eq!(back(&format!("{rule}refuse = \"ECONNREFUSED\"\n")).0, "ECONNREFUSED");
    assert_eq!(back(&format!("{rule}uri = \"sip:carol@example.org\"\n")).0, "sip:carol@example.org");
}

#[test]
fn names_of_errors() {
    for (word, errno) in Errno::WORDS {
        let text = format!("[[connect]]\nto = \"*\"\nrefuse = \"{word}\"\n");
        let decision = parse(&text).connect(Proto::Udp, "192.0.2.1:1".parse().unwrap());
        assert!(matches!(decision, ConnectDecision::Refuse { errno: got, .. } if got == errno), "{word}");
        assert_eq!(errno.to_string(), word);
    }
}

/// What the advice says, when followed, allows the call.
#[test]
fn advice_is_right() {
    let policy = parse(FULL);
    let [game4, _] = addresses(&policy, "game.example");
    let cases = [
        (SocketAddr::new(game4, 1), "add to policy.toml:", "to = \"game.example:1\"", "sip:alice@example.org"),
        ("192.0.2.1:1".parse().unwrap(), "add to policy.toml:", "to = \"192.0.2.1:1\"", "sip:PEER@example.org"),
        (
            "[2001:db8::7]:1".parse().unwrap(),
            "put before policy.toml:30",
            "to = \"[2001:db8::7]:1\"",
            "sip:PEER@example.org",
        ),
    ];
    for (dest, place, to, uri) in cases {
        let ConnectDecision::Refuse { advice, .. } = policy.connect(Proto::Tcp, dest) else { panic!("{dest}") };
        assert!(advice.contains(place) && advice.contains(to), "{advice}");
        let (_, lines) = advice.split_once('\n').unwrap();
        let mended = FULL.replacen("[[connect]]", &format!("{lines}\n\n[[connect]]"), 1);
        assert_eq!(connect(&parse(&mended), Proto::Tcp, dest).0, uri, "{advice}");
    }
    let flags = Flags::default();
    let policy = Policy::from_flags(&flags).unwrap();
    for dest in ["192.0.2.1:1", "[2001:db8::7]:65535"] {
        let dest = dest.parse().unwrap();
        let ConnectDecision::Refuse { advice, .. } = policy.connect(Proto::Udp, dest) else { panic!("{dest}") };
        let map = advice.split('\'').nth(1).unwrap().to_owned();
        assert!(advice.ends_with(&format!("--map '{map}'")), "{advice}");
        let policy = Policy::from_flags(&Flags { maps: vec![map], ..flags.clone() }).unwrap();
        assert_eq!(connect(&policy, Proto::Udp, dest).0, "sip:PEER@sipbox.invalid");
    }
    // A name that leads somewhere at one port most likely leads there at another.
    let maps = vec!["db.example:5432=db".to_owned()];
    let policy = Policy::from_flags(&Flags { maps, ..flags }).unwrap();
    let [db, _] = addresses(&policy, "db.example");
    let ConnectDecision::Refuse { advice, .. } = policy.connect(Proto::Tcp, SocketAddr::new(db, 80)) else { panic!() };
    assert!(advice.ends_with("--map 'db.example:80=sip:db@sipbox.invalid'"), "{advice}");
    let policy = parse("[default]\nbind = \"deny\"\n");
    for port in [80, 0] {
        let BindDecision::Deny { advice, .. } = policy.bind(Proto::Udp, "0.0.0.0".parse().unwrap(), port) else {
            panic!("{port} is not denied")
        };
        let (_, lines) = advice.split_once('\n').unwrap();
        let mended = parse(&format!("[default]\nbind = \"deny\"\n{lines}\n"));
        assert_eq!(bind(&mended, Proto::Udp, "0.0.0.0", port).0, "accept", "{advice}");
    }
}

#[test]
fn binds_by_the_full_policy() {
    use Proto::{Tcp, Udp};
    let policy = parse(FULL);
    let game = "policy.toml:38 [[bind]] port = 30000";
    let web = "policy.toml:44 [[bind]] port = 8000-8010";
    let rest = "policy.toml:48 [[bind]] port = *";
    let default = "policy.toml:16 [default] bind = \"local\"";
    let cases = [
        (Udp, "0.0.0.0", 30000, "publish Bob's world", game),
        (Udp, "::", 30000, "publish Bob's world", game),
        (Udp, "127.0.0.1", 30000, "publish Bob's world", game),
        (Tcp, "0.0.0.0", 30000, "deny", rest),
        (Tcp, "0.0.0.0", 8005, "accept", web),
        (Udp, "0.0.0.0", 8010, "accept", web),
        (Udp, "0.0.0.0", 8011, "local", default),
        (Tcp, "0.0.0.0", 0, "deny", rest),
    ];
    for (proto, address, port, outcome, rule) in cases {
        assert_eq!(bind(&policy, proto, address, port), (outcome.into(), rule.into()), "{proto} {address} {port}");
    }
}

#[test]
fn defaults_of_bind() {
    let named = Flags { as_uri: Some("echo".into()), ..Flags::default() };
    let nobody = Flags::default();
    let cases = [
        ("", &nobody, "0.0.0.0", "local", "default"),
        ("", &named, "0.0.0.0", "accept", "--as echo"),
        ("", &named, "192.0.2.1", "accept", "--as echo"),
        ("", &named, "127.0.0.1", "local", "bound to the loopback"),
        ("", &named, "::ffff:127.0.0.1", "local", "bound to the loopback"),
        ("[default]\nbind = \"accept\"\n", &nobody, "::", "accept", "policy.toml:2 [default] bind = \"accept\""),
        ("[default]\nbind = \"publish\"\n", &nobody, "::", "publish ", "policy.toml:2 [default] bind = \"publish\""),
        ("[default]\nbind = \"publish\"\n", &nobody, "::1", "local", "bound to the loopback"),
        ("[default]\nbind = \"deny\"\n", &named, "::", "deny", "policy.toml:2 [default] bind = \"deny\""),
        ("[default]\nbind = \"local\"\n", &named, "::", "local", "policy.toml:2 [default] bind = \"local\""),
    ];
    for (text, flags, address, outcome, rule) in cases {
        let policy = Policy::parse_with_flags("policy.toml", text, flags).unwrap();
        assert_eq!(bind(&policy, Proto::Tcp, address, 7), (outcome.into(), rule.into()), "{text} {address}");
    }
}

#[test]
fn what_is_published_by_the_command_line() {
    let flags = |publish: &str| Flags { as_uri: Some("bob".into()), publish: Some(publish.into()), ..Flags::default() };
    let policy = Policy::from_flags(&flags(" Bob's world ")).unwrap();
    assert_eq!(bind(&policy, Proto::Udp, "::", 7), ("publish Bob's world".into(), "--publish".into()));
    assert_eq!(bind(&policy, Proto::Udp, "::1", 7).0, "local");
    assert!(policy.may_publish() && policy.visible_to(Proto::Udp, 7).is_none());
    let text = "[default]\nbind = \"deny\"\n[[bind]]\nport = 8\naccept = true\n";
    let policy = Policy::parse_with_flags("policy.toml", text, &flags("x")).unwrap();
    assert_eq!(
        (bind(&policy, Proto::Tcp, "::", 7).0, bind(&policy, Proto::Tcp, "::", 8).0),
        ("publish x".into(), "accept".into())
    );
    let long = "x".repeat(513);
    for (flags, words) in [
        (flags(""), "description is empty"),
        (flags(&long), "513 characters, and 512 are shown"),
        (Flags { as_uri: None, ..flags("x") }, "add --as NAME"),
    ] {
        let error = Policy::from_flags(&flags).unwrap_err().to_string();
        assert!(error.starts_with("--publish") && error.contains(words), "{error}");
    }
    assert!(!Policy::from_flags(&Flags::default()).unwrap().may_publish());
}

#[test]
fn who_may_see() {
    let text = "[[bind]]\nport = 7\npublish = \"x\"\nvisible-to = [\"carol\", \"sips:B%6fb@X.org\", \"*\"]\n";
    let policy = parse(text);
    let patterns = policy.visible_to(Proto::Tcp, 7).unwrap();
    assert_eq!(patterns, ["sip:carol@sipbox.invalid", "sips:Bob@x.org", "*"]);
    assert_eq!(policy.visible_to(Proto::Tcp, 8), None);
    assert!(policy.may_publish() && policy.accept_from(Proto::Tcp, 7, "sip:anyone@anywhere.net"));
}

#[test]
fn who_may_call() {
    use Proto::{Tcp, Udp};
    let policy = parse(FULL);
    let cases = [
        (Udp, 30000, "sip:alice@example.org", true),
        (Udp, 30000, "sip:alice@example.net", false),
        (Udp, 30000, "sips:alice@a.example.net", true),
        (Udp, 30000, "sip:alice@a.example.net", false),
        (Udp, 30000, "nonsense", false),
        (Tcp, 30000, "sip:alice@example.org", false),
        (Tcp, 8000, "sip:anyone@anywhere.net", true),
        (Udp, 9, "sip:alice@example.org", false),
    ];
    for (proto, port, peer, may) in cases {
        assert_eq!(policy.accept_from(proto, port, peer), may, "{proto} {port} {peer}");
    }
    let named = Flags { as_uri: Some("echo".into()), ..Flags::default() };
    assert!(Policy::from_flags(&named).unwrap().accept_from(Tcp, 7, "sip:anyone@anywhere.net"));
    assert!(!Policy::from_flags(&Flags::default()).unwrap().accept_from(Tcp, 7, "sip:anyone@anywhere.net"));
    let carol = "[[bind]]\nport = 1\naccept = true\naccept-from = [\"carol\"]\n";
    assert!(parse(carol).accept_from(Tcp, 1, "sip:carol@sipbox.invalid"));
    assert!(!parse(carol).accept_from(Tcp, 1, "sip:carol@example.org"));
}

#[test]
fn the_flow_and_its_servers() {
    let policy = parse(super::FULL);
    assert_eq!(policy.flows(), &crate::Flows::default());
    let shown = |servers: &[crate::IceServer]| servers.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&policy.ice().stun), ["stun.example.org:3478", "192.0.2.1:3479"]);
    assert_eq!(shown(&policy.ice().turn), ["192.0.2.1:3478 over TCP"]);
    assert_eq!(policy.ice().credentials, Some(crate::Credentials::Env("BOB_TURN".into())));
    let flags = Flags { flow: Some("quic".into()), stun: vec!["127.0.0.1:1".into()], ..Flags::default() };
    let policy = Policy::parse_with_flags("policy.toml", super::FULL, &flags).unwrap();
    assert_eq!(policy.flows().words(), "\"quic\"");
    assert_eq!(shown(&policy.ice().stun), ["127.0.0.1:1"]);
    assert_eq!(shown(&policy.ice().turn), ["192.0.2.1:3478 over TCP"]);
    assert_eq!(Policy::from_flags(&Flags::default()).unwrap().ice(), &crate::Ice::default());
}

#[test]
fn flows_in_order_of_preference() {
    let decided = |policy: &Policy, to: &str| match policy.connect(Proto::Tcp, to.parse().unwrap()) {
        ConnectDecision::Uri { flows, .. } => {
            format!("{}{}", flows.words(), if flows.cleartext { " clear" } else { "" })
        }
        other => panic!("{other:?}"),
    };
    let rules = "[[connect]]\nto = \"192.0.2.1:*\"\nuri = \"a\"\nflows = [\"tls\", \"quic\"]\n\
                 [[connect]]\nto = \"192.0.2.2:*\"\nuri = \"a\"\ncleartext = true\n\
                 [[connect]]\nto = \"192.0.2.3:*\"\nuri = \"a\"\ncleartext = false\n\
                 [[connect]]\nto = \"*\"\nuri = \"a\"\n";
    let quic = Flags { flow: Some("quic".into()), ..Flags::default() };
    let clear = Flags { flow: Some("direct".into()), cleartext: true, ..Flags::default() };
    let cases = [
        (
            "",
            Flags::default(),
            [
                "\"tls\", \"quic\"",
                "\"direct\", \"quic\", \"datachannel\", \"tls\" clear",
                "\"direct\", \"quic\", \"datachannel\", \"tls\"",
                "\"direct\", \"quic\", \"datachannel\", \"tls\"",
            ],
        ),
        (
            "flows = [\"direct\", \"tls\"]\ncleartext = true",
            Flags::default(),
            ["\"tls\", \"quic\"", "\"direct\", \"tls\" clear", "\"direct\", \"tls\"", "\"direct\", \"tls\" clear"],
        ),
        ("flow = \"tls\"", quic, ["\"quic\""; 4]),
        ("flow = \"tls\"", clear, ["\"direct\" clear"; 4]),
    ];
    for (default, flags, wanted) in cases {
        let text = format!("[default]\n{default}\n{rules}");
        let policy = Policy::parse_with_flags("policy.toml", &text, &flags).unwrap();
        for (n, wanted) in wanted.into_iter().enumerate() {
            assert_eq!(decided(&policy, &format!("192.0.2.{}:1", n + 1)), wanted, "{default} {flags:?} rule {n}");
        }
    }
}
