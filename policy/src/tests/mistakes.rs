//! Every mistake in a file is found at its exact place, and the message says what is right.

use super::{mistakes, parse};
use crate::{Error, Policy};

/// A rule that is right, for files that need one.
const RULE: &str = "[[connect]]\nto = \"a.example:1\"\nuri = \"echo\"\n";

/// Text of a file, the places of its mistakes (line, column, width), and words of the message of the first.
type Case<'c> = (&'c str, &'c [(usize, usize, usize)], &'c [&'c str]);

const CASES: &[Case<'_>] = &[
    // Syntax.
    ("schema = \n", &[(1, 10, 1)], &["must be quoted"]),
    ("schema = 1\nschema = 1\n", &[(2, 1, 6)], &["duplicate key"]),
    ("[default\nconnect = \"deny\"\n", &[(1, 9, 1)], &["unclosed table"]),
    // Unknown keys, with the nearest right one.
    ("[default]\nconect = \"deny\"\n", &[(2, 1, 6)], &["unknown key `conect` in [default]", "did you mean `connect`?"]),
    ("[default]\n  bnid = \"deny\"\n", &[(2, 3, 4)], &["did you mean `bind`?"]),
    ("[defaults]\nconnect = \"deny\"\n", &[(1, 2, 8)], &["in the policy", "did you mean `default`?"]),
    ("[lan]\ngroup = \"x\"\n", &[(1, 2, 3)], &["unknown key `lan`", "schema, app, identity"]),
    ("[[bind]]\nport = 1\naccept = true\naccept_from = [\"*\"]\n", &[(4, 1, 11)], &["did you mean `accept-from`?"]),
    ("[limits]\nsocket = 3\n", &[(2, 1, 6)], &["did you mean `sockets`?"]),
    ("[app]\nPROGRAM = \"x\"\n", &[(2, 1, 7)], &["did you mean `program`?"]),
    ("[identity]\ncredentials = { evn = \"X\" }\n", &[(2, 17, 3)], &["did you mean `env`?"]),
    ("[[connect]]\ntoo = \"*\"\nurl = \"echo\"\n", &[(2, 1, 3), (3, 1, 3)], &["did you mean `to`?"]),
    ("[[bind]]\nprt = 1\naccpet = true\n", &[(2, 1, 3), (3, 1, 6)], &["did you mean `port`?"]),
    ("[addresses]\nv5 = \"x\"\n", &[(2, 1, 2)], &["did you mean `v4`?"]),
    // Wrong types.
    ("schema = \"1\"\n", &[(1, 10, 3)], &["`schema` must be a whole number", "not a text"]),
    ("app = 3\n", &[(1, 7, 1)], &["`app` must be a table, not a whole number", "write [app]"]),
    ("[connect]\nto = \"*\"\n", &[(1, 1, 9)], &["a list of tables", "write [[connect]]"]),
    ("[[default]]\nconnect = \"deny\"\n", &[(1, 1, 11)], &["must be a table, not a list", "write [default]"]),
    ("connect = [1]\n", &[(1, 12, 1)], &["must be a table, not a whole number"]),
    (
        "[default]\nconnect = true\n",
        &[(2, 11, 4)],
        &["`connect` of [default] must be a text in quotes, not true or false"],
    ),
    (
        "[[connect]]\nto = 80\nuri = \"echo\"\n",
        &[(2, 6, 2)],
        &["must be a text in quotes", "to = \"game.example:30000\""],
    ),
    ("[[bind]]\nport = 1.5\naccept = true\n", &[(2, 8, 3)], &["not a number with a point"]),
    ("[[bind]]\nport = 1\naccept = \"yes\"\n", &[(3, 10, 5)], &["must be true or false, not a text"]),
    ("[[bind]]\nport = 1\naccept = true\naccept-from = \"*\"\n", &[(4, 15, 3)], &["must be a list of texts"]),
    ("[[bind]]\nport = 1\naccept = true\naccept-from = [\"*\", 7]\n", &[(4, 21, 1)], &["not a whole number"]),
    ("[names]\ngame.example = \"echo\"\n", &[(2, 1, 4)], &["not a table", "stands in quotes"]),
    ("[app]\nname = 2024-01-01\n", &[(2, 8, 10)], &["not a date"]),
    // Bad values.
    ("schema = 2\n", &[(1, 10, 1)], &["schema 2 is not known", "write schema = 1"]),
    ("[app]\nname = \"\"\n", &[(2, 8, 2)], &["is empty"]),
    ("[default]\nconnect = \"prompt\"\n", &[(2, 11, 8)], &["not built yet", "write \"deny\""]),
    ("[default]\nconnect = \"denny\"\n", &[(2, 11, 7)], &["did you mean \"deny\"?", "\"refuse\", \"allow-local\""]),
    ("[default]\nbind = \"public\"\n", &[(2, 8, 8)], &["did you mean \"publish\"?"]),
    ("[default]\nbind = \"Deny\"\n", &[(2, 8, 6)], &["did you mean \"deny\"?"]),
    ("[identity]\naor = \"sip:example.org\"\n", &[(2, 7, 17)], &["no user", "sip:USER@example.org"]),
    ("[identity]\naor = \"sip:b@x.org;gr=1\"\n", &[(2, 7, 18)], &["no parameters", "write sip:b@x.org"]),
    ("[identity]\naor = \"mailto:bob\"\n", &[(2, 7, 12)], &["`mailto:` is not a scheme"]),
    ("[identity]\nregistrar = \"sip.example.org\"\n", &[(2, 13, 17)], &["write sip:sip.example.org or sips:"]),
    ("[identity]\nregistrar = \"sip:bob@x.org:5070\"\n", &[(2, 13, 20)], &["write sip:x.org:5070"]),
    ("[identity]\nexpires = 0\n", &[(2, 11, 1)], &["from 1 to 4294967295 seconds, not 0"]),
    ("[identity]\nexpires = -5\n", &[(2, 11, 2)], &["not -5"]),
    ("[identity]\nexpires = 99999999999999999999\n", &[(2, 11, 20)], &["from 1 to"]),
    ("[identity]\ntls = { fingerprint = \"AB\" }\n", &[(2, 23, 4)], &["not the SHA-256 of a certificate"]),
    ("[identity]\ntls = { key = \"/k\" }\n", &[(2, 15, 4)], &["go together"]),
    ("[identity]\ntls = { cert = \"/k\" }\n", &[(2, 9, 4)], &["cert"]),
    ("[identity]\ncredentials = {}\n", &[(2, 15, 2)], &["do not say where the password is"]),
    ("[identity]\ncredentials = { env = \"A=B\" }\n", &[(2, 23, 5)], &["not the name of an environment variable"]),
    ("[identity]\ncredentials = { env = \"A\", file = \"/f\" }\n", &[(2, 35, 4)], &["not both"]),
    ("[[connect]]\nto = \"game.example\"\nuri = \"echo\"\n", &[(2, 6, 14)], &["has no port", "game.example:*"]),
    ("[[connect]]\nto = \"\"\nuri = \"echo\"\n", &[(2, 6, 2)], &["is empty"]),
    ("[[connect]]\nto = \"a:99999\"\nuri = \"echo\"\n", &[(2, 6, 9)], &["`99999` is not a port"]),
    ("[[connect]]\nto = \"a:+80\"\nuri = \"echo\"\n", &[(2, 6, 7)], &["is not a port"]),
    ("[[connect]]\nto = \"a:0\"\nuri = \"echo\"\n", &[(2, 6, 5)], &["port 0"]),
    ("[[connect]]\nto = \"a:9-3\"\nuri = \"echo\"\n", &[(2, 6, 7)], &["wrong way round", "write 3-9"]),
    ("[[connect]]\nto = \"10.0.0.256:1\"\nuri = \"echo\"\n", &[(2, 6, 14)], &["`10.0.0.256` is not an IP address"]),
    ("[[connect]]\nto = \"10.1.2.3/8:1\"\nuri = \"echo\"\n", &[(2, 6, 14)], &["beyond its prefix", "write 10.0.0.0/8"]),
    ("[[connect]]\nto = \"10.0.0.0/33:1\"\nuri = \"echo\"\n", &[(2, 6, 15)], &["from 0 to 32"]),
    (
        "[[connect]]\nto = \"2001:db8::1\"\nuri = \"echo\"\n",
        &[(2, 6, 13)],
        &["more than one `:`", "write [2001:db8::1]:PORT"],
    ),
    ("[[connect]]\nto = \"[10.0.0.1]:1\"\nuri = \"echo\"\n", &[(2, 6, 14)], &["brackets are for IPv6"]),
    ("[[connect]]\nto = \"[::1:1\"\nuri = \"echo\"\n", &[(2, 6, 8)], &["has no port"]),
    ("[[connect]]\nto = \"*.example:1\"\nuri = \"echo\"\n", &[(2, 6, 13)], &["* alone for every host"]),
    ("[[connect]]\nto = \"a b:1\"\nuri = \"echo\"\n", &[(2, 6, 7)], &["not a host name"]),
    ("[[connect]]\nto = \"a:1\"\nuri = \"http://x\"\n", &[(3, 7, 10)], &["`http:` is not a scheme"]),
    ("[[connect]]\nto = \"a:1\"\nuri = \"sip:a:b@c\"\n", &[(3, 7, 11)], &["password does not belong"]),
    ("[[connect]]\nto = \"a:1\"\nproto = \"sctp\"\nuri = \"echo\"\n", &[(3, 9, 6)], &["\"tcp\", \"udp\""]),
    ("[[connect]]\nto = \"a:1\"\nrefuse = \"ECONREFUSED\"\n", &[(3, 10, 13)], &["did you mean \"ECONNREFUSED\"?"]),
    ("[[connect]]\nto = \"a:1\"\n", &[(1, 1, 11)], &["does not say where it leads"]),
    ("[[connect]]\nuri = \"echo\"\n", &[(1, 1, 11)], &["what it is about"]),
    ("[[connect]]\nto = \"a:1\"\nuri = \"b\"\nrefuse = \"EPERM\"\n", &[(4, 1, 6)], &["not both"]),
    ("[[connect]]\nto = \"a:1\"\nrefuse = \"EPERM\"\ncleartext = true\n", &[(4, 1, 9)], &["cleartext means nothing"]),
    ("[default]\nflows = [\"qiuc\"]\n", &[(2, 10, 6)], &["did you mean \"quic\"?"]),
    ("[default]\nflows = [\"tls\", \"tls\"]\n", &[(2, 17, 5)], &["twice"]),
    ("[default]\nflows = [\"tls\", \"direct\"]\n", &[(2, 17, 8)], &["direct", "comes first"]),
    ("[default]\nflows = []\n", &[(2, 9, 2)], &["nothing can be connected"]),
    ("[default]\nflow = \"tls\"\nflows = [\"tls\"]\n", &[(3, 9, 7)], &["two ways"]),
    ("[[connect]]\nto = \"a:1\"\nrefuse = \"EPERM\"\nflows = [\"tls\"]\n", &[(4, 1, 5)], &["flows means nothing"]),
    ("[[bind]]\naccept = true\n", &[(1, 1, 8)], &["which port"]),
    ("[[bind]]\nport = 1\n", &[(1, 1, 8)], &["does not say what happens"]),
    ("[[bind]]\nport = 70000\naccept = true\n", &[(2, 8, 5)], &["`70000` is not a port"]),
    ("[[bind]]\nport = -1\naccept = true\n", &[(2, 8, 2)], &["is not a port"]),
    ("[[bind]]\nport = 1\naccept = true\ndeny = true\n", &[(4, 1, 4)], &["accept and deny say different things"]),
    ("[[bind]]\nport = 1\naccept = false\n", &[(3, 10, 5)], &["write deny = true"]),
    ("[[bind]]\nport = 1\ndeny = true\naccept-from = [\"*\"]\n", &[(4, 1, 11)], &["accept-from means nothing"]),
    ("[[bind]]\nport = 1\naccept = true\naccept-from = []\n", &[(4, 15, 2)], &["lets nobody in"]),
    ("[[bind]]\nport = 1\naccept = true\naccept-from = [\"sip:x.org\"]\n", &[(4, 16, 11)], &["no user in the pattern"]),
    ("[[bind]]\nport = 1\naccept = true\naccept-from = [\"sip:*@x;lr\"]\n", &[(4, 16, 12)], &["write \"sip:*@x\""]),
    ("[[bind]]\nport = 1\npublish = \" \"\n", &[(3, 11, 3)], &["description is empty", "Bob's world"]),
    ("[[bind]]\nport = 1\npublish = \"a\\nb\"\n", &[(3, 11, 6)], &["control characters", "one line"]),
    ("[[bind]]\nport = 1\npublish = true\n", &[(3, 11, 4)], &["must be a text in quotes"]),
    ("[[bind]]\nport = 1\naccept = true\nvisible-to = [\"*\"]\n", &[(4, 1, 10)], &["visible-to means nothing"]),
    ("[[bind]]\nport = 1\npublish = \"x\"\nvisible-to = []\n", &[(4, 14, 2)], &["shows it to nobody"]),
    ("[[bind]]\nport = 1\npublish = \"x\"\nvisible-to = [\"sip:x\"]\n", &[(4, 15, 7)], &["no user in the pattern"]),
    ("[[bind]]\nport = 1\npublish = \"x\"\nvisible_to = [\"*\"]\n", &[(4, 1, 10)], &["did you mean `visible-to`?"]),
    ("[names]\n\"a b\" = \"echo\"\n", &[(2, 1, 5)], &["not a host name"]),
    ("[names]\n\"a\" = \"sip:\"\n", &[(2, 7, 6)], &["no host"]),
    ("[names]\n\"10.0.0.1\" = \"echo\"\n", &[(2, 1, 10)], &["an address of its own"]),
    ("[names]\nlocalhost = \"echo\"\n", &[(2, 1, 9)], &["an address of its own"]),
    ("[names]\na = \"echo\"\nA = \"echo\"\n", &[(3, 1, 1)], &["there twice"]),
    ("[names]\nresolve-others = true\n", &[(2, 18, 4)], &["not built yet"]),
    ("[addresses]\nv4 = \"198.18.0.0\"\n", &[(2, 6, 12)], &["from /8 to /24"]),
    ("[addresses]\nv4 = \"127.0.0.0/8\"\n", &[(2, 6, 13)], &["a meaning of its own"]),
    ("[addresses]\nv4 = \"2001:2::/48\"\n", &[(2, 6, 13)], &["is not IPv4"]),
    ("[addresses]\nv6 = \"ff00::/8\"\n", &[(2, 6, 10)], &["a meaning of its own"]),
    ("[addresses]\nv6 = \"2001:2::/128\"\n", &[(2, 6, 14)], &["from /8 to /96"]),
    ("[limits]\nsessions = 0\n", &[(2, 12, 1)], &["from 1 to 1048576 sessions, not 0"]),
    // Places: tabs and multibyte characters count as one column, CRLF is no part of the line.
    ("[app]\n\tname = 3\n", &[(2, 9, 1)], &["must be a text"]),
    ("[app]\nname = \"ü\" # ñ\r\nprogrm = 1\r\n", &[(3, 1, 6)], &["did you mean `program`?"]),
    ("app = { name = \"日本\", nam = 1 }\n", &[(1, 22, 3)], &["did you mean `name`?"]),
    // All mistakes at once, in the order of the file.
    ("[default]\nx-ray = 1\nbind = 2\n[app]\nnme = 3\n", &[(2, 1, 5), (3, 8, 1), (5, 1, 3)], &["x-ray"]),
];

#[test]
fn mistakes_are_placed_and_explained() {
    let mut wrong = Vec::new();
    for (text, places, words) in CASES {
        let found = mistakes(text);
        let got: Vec<_> = found.iter().map(|mistake| (mistake.line, mistake.column, mistake.width)).collect();
        let shown = found[0].to_string();
        if got != *places || !words.iter().all(|word| shown.contains(word)) {
            wrong.push(format!("{text}\n{got:?} instead of {places:?}\n{words:?} in\n{shown}\n"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

#[test]
fn a_mistake_looks_like_this() {
    let error = Policy::parse("policy.toml", "[default]\n\tbnid = \"deny\"\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "policy.toml:2:2: unknown key `bnid` in [default]\n  |\n2 | \tbnid = \"deny\"\n  | \t^^^^\n  = did you mean `bind`?"
    );
}

#[test]
fn rules_that_are_never_met() {
    let cases = [
        ("*", None, "a.example:1", None),
        ("*:80", None, "a.example:80", Some("tcp")),
        ("*:*", Some("udp"), "10.0.0.1:9", Some("udp")),
        ("a.example:1-10", None, "A.example.:3-4", None),
        ("10.0.0.0/8:*", None, "10.2.0.0/16:5", None),
        ("10.0.0.0/8:5", None, "10.2.3.4:5", None),
        ("[2001:db8::/32]:*", None, "[2001:db8::1]:5", None),
        ("[::/0]:*", None, "[2001:db8::1]:5", None),
    ];
    for (first, first_proto, second, second_proto) in cases {
        let rule = |to: &str, proto: Option<&str>| {
            let proto = proto.map_or(String::new(), |proto| format!("proto = \"{proto}\"\n"));
            format!("[[connect]]\nto = \"{to}\"\nuri = \"echo\"\n{proto}")
        };
        let before = rule(first, first_proto);
        let found = mistakes(&format!("{before}{}", rule(second, second_proto)));
        let line = before.lines().count() + 2;
        assert_eq!((found.len(), found[0].line, found[0].column), (1, line, 6), "{first} {second}");
        let words = format!("never met: policy.toml:2 [[connect]] to = \"{first}\" comes first");
        assert!(found[0].what.contains(&words), "{}", found[0]);
        parse(&format!("{}{}", rule(second, second_proto), rule(first, first_proto)));
    }
    let overlapping = [
        ("a.example:1-10", None, "a.example:10-11", None),
        ("a.example:1", Some("tcp"), "a.example:1", None),
        ("a.example:1", Some("tcp"), "a.example:1", Some("udp")),
        ("0.0.0.0/0:1", None, "a.example:1", None),
        ("10.0.0.0/8:1", None, "[2001:db8::1]:1", None),
        ("10.2.0.0/16:1", None, "10.0.0.0/8:1", None),
    ];
    for (first, first_proto, second, second_proto) in overlapping {
        let rule = |to: &str, proto: Option<&str>| {
            let proto = proto.map_or(String::new(), |proto: &str| format!("proto = \"{proto}\"\n"));
            format!("[[connect]]\nto = \"{to}\"\nuri = \"echo\"\n{proto}")
        };
        parse(&format!("{}{}", rule(first, first_proto), rule(second, second_proto)));
    }
}

#[test]
fn bind_rules_that_are_never_met() {
    let text = "[[bind]]\nport = \"*\"\naccept = true\n[[bind]]\nport = 80\nproto = \"udp\"\ndeny = true\n";
    let found = mistakes(text);
    assert_eq!((found.len(), found[0].line, found[0].column, found[0].width), (1, 5, 8, 2));
    assert!(found[0].what.contains("policy.toml:2 [[bind]] port = *"), "{}", found[0]);
}

#[test]
fn a_rule_with_a_mistake_shadows_nothing() {
    let text = format!("[[connect]]\nto = \"*\"\nproto = \"tpc\"\nuri = \"echo\"\n{RULE}");
    let found = mistakes(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].line, 3);
}

#[test]
fn secrets_stay_out_of_messages() {
    let texts = [
        "[identity]\ncredentials = \"hunter2\"\n",
        "[identity]\npassword = \"hunter2\"\n",
        "[identity]\ncredentials = { password = \"hunter2\" }\n",
        "[identity.credentials]\nsecret = \"hunter2\"\n",
        "[identity]\ncredentials = hunter2\n",
    ];
    for text in texts {
        let error = Policy::parse("policy.toml", text).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let error = Policy::parse("policy.toml", texts[0]).unwrap_err().to_string();
    assert!(error.contains("never written in a policy"), "{error}");
}

#[test]
fn all_mistakes_are_shown() {
    let Err(error) = Policy::parse("p", "a = 1\nb = 2\n") else { panic!("no mistake") };
    assert!(matches!(&error, Error::File { mistakes } if mistakes.len() == 2));
    assert!(error.to_string().contains("p:1:1") && error.to_string().contains("p:2:1"));
}

#[test]
fn a_flood_of_mistakes_is_cut_off() {
    let text: String = (0..5000).map(|n| format!("unknown{n} = 1\n")).collect();
    assert_eq!(mistakes(&text).len(), 100);
}
