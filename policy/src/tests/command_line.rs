use crate::{ConnectDecision, Error, Flags, Policy, Proto};

fn maps(maps: &[&str]) -> Flags {
    Flags { maps: maps.iter().map(|map| map.to_string()).collect(), ..Flags::default() }
}

fn leads(policy: &Policy, dest: &str) -> (String, String) {
    match policy.connect(Proto::Tcp, dest.parse().unwrap()) {
        ConnectDecision::Uri { uri, rule, .. } => (uri, rule),
        other => (String::new(), format!("{other:?}")),
    }
}

#[test]
fn maps_are_split_at_the_right_place() {
    let cases = [
        ("192.0.2.1:80=echo", "192.0.2.1:80", "sip:echo@sipbox.invalid"),
        ("*:80=sip:a@b;x=y=z", "192.0.2.1:80", "sip:a@b;x=y=z"),
        ("192.0.2.1:*=sips:a@b:5061;gr=urn:uuid:1", "192.0.2.1:9", "sips:a@b:5061;gr=urn:uuid:1"),
        ("[2001:db8::1]:443=sip:a@[2001:db8::2]:5070", "[2001:db8::1]:443", "sip:a@[2001:db8::2]:5070"),
        ("10.0.0.0/8:5=a@b", "10.9.8.7:5", "sip:a@b"),
        ("192.0.2.1:80-90=echo", "192.0.2.1:85", "sip:echo@sipbox.invalid"),
        ("localhost:5432=db", "127.0.0.1:5432", "sip:db@sipbox.invalid"),
        ("localhost:5432=db", "[::1]:5432", "sip:db@sipbox.invalid"),
        ("127.0.0.1:5432=db", "0.0.0.0:5432", "sip:db@sipbox.invalid"),
        ("*=echo", "192.0.2.1:1", "sip:echo@sipbox.invalid"),
    ];
    for (map, dest, uri) in cases {
        let policy = Policy::from_flags(&maps(&[map])).unwrap();
        assert_eq!(leads(&policy, dest), (uri.to_owned(), format!("--map {map}")), "{map}");
    }
}

#[test]
fn maps_come_in_order_and_before_to() {
    let mut flags = maps(&["192.0.2.1:80=one", "192.0.2.0/24:*=two"]);
    flags.to = Some("three".into());
    let policy = Policy::from_flags(&flags).unwrap();
    assert_eq!(leads(&policy, "192.0.2.1:80").0, "sip:one@sipbox.invalid");
    assert_eq!(leads(&policy, "192.0.2.1:81").0, "sip:two@sipbox.invalid");
    assert_eq!(leads(&policy, "203.0.113.1:80"), ("sip:three@sipbox.invalid".into(), "--to three".into()));
    // The loopback is the program's own, whatever "any address" leads to.
    let own = policy.connect(Proto::Tcp, "127.0.0.1:80".parse().unwrap());
    assert!(matches!(own, ConnectDecision::Local { .. }), "{own:?}");
}

#[test]
fn wrong_flags_are_explained() {
    let as_flag = |text: &str| Flags { as_uri: Some(text.into()), ..Flags::default() };
    let to = |text: &str| Flags { to: Some(text.into()), ..Flags::default() };
    let registrar = |text: &str| Flags { registrar: Some(text.into()), ..Flags::default() };
    let cases = [
        (Flags { flow: Some("qiuc".into()), ..Flags::default() }, "--flow", "did you mean \"quic\"?"),
        (Flags { stun: vec!["turn:a".into()], ..Flags::default() }, "--stun", "write stun:a"),
        (Flags { turn: vec!["a:b@c".into()], ..Flags::default() }, "--turn", "SIPBOX_TURN_PASSWORD"),
        (Flags { stun: vec!["a".into(); 9], ..Flags::default() }, "--stun", "8 servers are enough"),
        (maps(&["game.example:30000"]), "--map", "no `=`"),
        (maps(&["game.example=echo"]), "--map", "`game.example` has no port; write game.example:PORT"),
        (maps(&["game.example:x=echo"]), "--map", "`x` is not a port"),
        (maps(&["game.example:0=echo"]), "--map", "port 0"),
        (maps(&["game.example:1="]), "--map", "empty"),
        (maps(&["=echo"]), "--map", "empty"),
        (maps(&[":80=echo"]), "--map", "there is no host"),
        (maps(&["a:1=http://b"]), "--map", "`http:` is not a scheme"),
        (maps(&["::1:80=echo"]), "--map", "more than one `:`"),
        (maps(&["a:1=b", "a:1=c"]), "--map", "never met: --map a:1=b comes first"),
        (as_flag(""), "--as", "empty"),
        (as_flag("sip:example.org"), "--as", "no user"),
        (as_flag("sip:bob@example.org;lr"), "--as", "write sip:bob@example.org"),
        (as_flag("*"), "--as", "`*`"),
        (to("a b"), "--to", "' '"),
        (to("ftp:x"), "--to", "`ftp:`"),
        (registrar("example.org"), "--registrar", "write sip:example.org"),
        (registrar("sip:bob@example.org"), "--registrar", "write sip:example.org"),
    ];
    for (flags, flag, words) in cases {
        let error = Policy::from_flags(&flags).unwrap_err();
        let shown = error.to_string();
        assert!(matches!(error, Error::Flag { flag: of, .. } if of == flag), "{shown}");
        assert!(shown.contains(words), "{words} in {shown}");
        assert!(shown.starts_with(flag) && shown.contains("\n  for example: --"), "{shown}");
    }
}

#[test]
fn examples_in_errors_are_right() {
    for (to, map) in [("echo", "game.example:30000=sip:alice@example.org"), ("sip:alice@example.org", "*:80=echo")] {
        let flags = Flags {
            as_uri: Some(to.into()),
            to: Some(to.into()),
            maps: vec![map.into()],
            registrar: Some("sip:sip.example.org".into()),
            ..Flags::default()
        };
        Policy::from_flags(&flags).unwrap();
    }
}

/// Who is meant by a bare name, by what the flags and the file say.
#[test]
fn bare_names_find_their_domain() {
    let file_both = "[identity]\naor = \"sip:bob@file.org\"\nregistrar = \"sip:reg.file.org\"\n";
    let file_registrar = "[identity]\nregistrar = \"sips:reg.file.org:5061\"\n";
    let file_bare = "[identity]\naor = \"bob\"\n";
    let cases = [
        ("", None, None, "sipbox.invalid", None),
        ("", Some("bob"), None, "sipbox.invalid", Some("sip:bob@sipbox.invalid")),
        ("", Some("bob@Flag.org"), None, "flag.org", Some("sip:bob@Flag.org")),
        ("", Some("bob"), Some("sip:reg.org:5070"), "reg.org", Some("sip:bob@reg.org")),
        ("", None, Some("sip:reg.org"), "reg.org", None),
        (file_both, None, None, "file.org", Some("sip:bob@file.org")),
        (file_both, Some("carol"), None, "file.org", Some("sip:carol@file.org")),
        (file_both, Some("sip:carol@flag.org"), None, "flag.org", Some("sip:carol@flag.org")),
        (file_both, None, Some("sip:reg.org"), "file.org", Some("sip:bob@file.org")),
        (file_both, Some("carol"), Some("sip:reg.org"), "reg.org", Some("sip:carol@reg.org")),
        (file_registrar, None, None, "reg.file.org", None),
        (file_registrar, Some("carol"), None, "reg.file.org", Some("sip:carol@reg.file.org")),
        (file_bare, None, None, "sipbox.invalid", Some("sip:bob@sipbox.invalid")),
        (file_bare, None, Some("sip:reg.org"), "reg.org", Some("sip:bob@reg.org")),
    ];
    for (text, as_uri, registrar, domain, aor) in cases {
        let flags = Flags {
            as_uri: as_uri.map(str::to_owned),
            registrar: registrar.map(str::to_owned),
            to: Some("echo".into()),
            ..Flags::default()
        };
        let policy = Policy::parse_with_flags("policy.toml", text, &flags).unwrap();
        let case = format!("{text} {as_uri:?} {registrar:?}");
        assert_eq!(policy.domain(), domain, "{case}");
        assert_eq!(policy.identity().aor.as_deref(), aor, "{case}");
        assert_eq!(leads(&policy, "192.0.2.1:1").0, format!("sip:echo@{domain}"), "{case}");
    }
}

#[test]
fn flags_come_before_the_file() {
    let text =
        "[identity]\nregistrar = \"sip:old.org\"\nexpires = 60\n[[connect]]\nto = \"192.0.2.1:1\"\nuri = \"file\"\n";
    let mut flags = maps(&["192.0.2.1:1=flag"]);
    flags.registrar = Some("sip:new.org".into());
    let policy = Policy::parse_with_flags("policy.toml", text, &flags).unwrap();
    assert_eq!(leads(&policy, "192.0.2.1:1").0, "sip:flag@new.org");
    assert_eq!(policy.identity().registrar.as_deref(), Some("sip:new.org"));
    assert_eq!(policy.identity().expires, Some(60));
}
