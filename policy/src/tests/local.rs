//! `[local]`: which sockets of others are reached, and what is said of the others.

use super::{mistakes, parse};
use crate::{Flags, LocalDecision, Policy, UnixName};

fn allows(policy: &Policy, name: UnixName<'_>) -> bool {
    matches!(policy.unix(name), LocalDecision::Allow { .. })
}

fn advice(decision: LocalDecision) -> (String, String) {
    match decision {
        LocalDecision::Refuse { rule, advice } => (rule, advice),
        LocalDecision::Allow { rule } => panic!("allowed by {rule}"),
    }
}

#[test]
fn patterns() {
    let cases: &[(&str, UnixName<'_>, bool)] = &[
        ("/run/user/*/pulse/*", UnixName::Path(b"/run/user/1000/pulse/native"), true),
        ("/run/user/*/pulse/*", UnixName::Path(b"/run/user/1000/pulse/"), true),
        ("/run/user/*/pulse/*", UnixName::Path(b"/run/user/1000/x/pulse/native"), false),
        ("/run/user/*/pulse/*", UnixName::Path(b"/run/user/1000/pulse/x/native"), false),
        ("/run/user/*/pulse/*", UnixName::Path(b"/run/user/1000/pulse"), false),
        ("/run/a*b*c", UnixName::Path(b"/run/abbbxbc"), true),
        ("/run/a*b*c", UnixName::Path(b"/run/abc"), true),
        ("/run/a*b*c", UnixName::Path(b"/run/ab/c"), false),
        ("/run/a*b*c", UnixName::Path(b"/run/acb"), false),
        ("/run/x", UnixName::Path(b"/run/x"), true),
        ("/run/x", UnixName::Path(b"/run/xy"), false),
        ("/run/x", UnixName::Path(b"/run/"), false),
        ("/run/x", UnixName::Abstract(b"/run/x"), false),
        ("@/run/x", UnixName::Abstract(b"/run/x"), true),
        ("@/run/x", UnixName::Path(b"/run/x"), false),
        ("@bus-*", UnixName::Abstract(b"bus-1\0\xff"), true),
        ("/run/\u{fc}*", UnixName::Path("/run/\u{fc}1".as_bytes()), true),
    ];
    for (pattern, name, fits) in cases {
        let policy = parse(&format!("[local]\nunix = [\"/none\", \"{pattern}\"]\n"));
        assert_eq!(allows(&policy, *name), *fits, "{pattern} {name:?}");
    }
    let (all, none) = (parse("[local]\nunix = \"allow\"\n"), parse("[local]\nunix = \"deny\"\n"));
    for (_, name, _) in cases {
        assert!(allows(&all, *name) && !allows(&none, *name));
        assert!(!allows(&Policy::from_flags(&Flags::default()).unwrap(), *name));
    }
    assert!(all.reaches_local_sockets() && !none.reaches_local_sockets());
}

#[test]
fn a_long_pattern_takes_no_time() {
    let policy = parse(&format!("[local]\nunix = [\"/{}b\"]\n", "a*".repeat(2000)));
    assert!(!allows(&policy, UnixName::Path(format!("/{}", "a".repeat(100)).as_bytes())));
}

#[test]
fn the_lines_that_would_allow_it() {
    let socket = UnixName::Path(b"/run/x\"y");
    let (rule, said) = advice(parse("").unix(socket));
    assert_eq!(rule, "default");
    assert!(said.ends_with("add to policy.toml:\n[local]\nunix = ['/run/x\"y']"), "{said}");
    let (_, said) = advice(parse("[local]\nnetlink = \"deny\"\n").unix(socket));
    assert!(said.ends_with("add to [local] of policy.toml:\nunix = ['/run/x\"y']"), "{said}");
    let text = "[local]\nunix = [\"/run/a\", \"@b\"]\n";
    let (rule, said) = advice(parse(text).unix(UnixName::Abstract(b"c\0\xff")));
    assert_eq!(rule, "policy.toml:2 [local] unix");
    assert!(
        said.ends_with("in the place of policy.toml:2 [local] unix:\nunix = [\"/run/a\", \"@b\", \"@c*\"]"),
        "{said}"
    );
    // What is said is a policy that allows it.
    let line = said.lines().last().unwrap();
    assert!(allows(&parse(&format!("[local]\n{line}\n")), UnixName::Abstract(b"c\0\xff")));
    // All of a struct sockaddr_un, as programs give it that do not count.
    let padded = [&b"c"[..], &[0; 106]].concat();
    let (_, said) = advice(parse("").unix(UnixName::Abstract(&padded)));
    let line = said.lines().last().unwrap();
    assert_eq!(line, "unix = [\"@c*\"]");
    assert!(allows(&parse(&format!("[local]\n{line}\n")), UnixName::Abstract(&padded)));
    let (_, said) = advice(Policy::from_flags(&Flags::default()).unwrap().unix(socket));
    assert!(said.contains("--policy FILE:\n[local]\nunix = "), "{said}");
}

#[test]
fn netlink() {
    assert!(matches!(parse("").netlink(), LocalDecision::Allow { .. }));
    assert!(matches!(parse("[local]\nnetlink = \"allow\"\n").netlink(), LocalDecision::Allow { .. }));
    let (rule, said) = advice(parse("[local]\nnetlink = \"deny\"\n").netlink());
    assert!(rule.contains("policy.toml:2") && said.ends_with("netlink = \"allow\""), "{rule} {said}");
}

#[test]
fn mistakes_in_patterns_are_placed() {
    for (value, column, width, words) in [
        ("\"/run/x\"", 8, 8, "unix = [\"/run/x\"]"),
        ("\"alow\"", 8, 6, "did you mean \"allow\"?"),
        ("true", 8, 4, "a list of texts"),
        ("[]", 8, 2, "write \"deny\""),
        ("[\"\"]", 9, 2, "fits no socket"),
        ("[\"run/x\"]", 9, 7, "write \"/run/x\""),
        ("[\"@\"]", 9, 3, "is no name of a socket"),
        ("[\"/a\", \"/run/../x\"]", 15, 11, "fits no path"),
        ("[\"/run//x\"]", 9, 9, "fits no path"),
        ("[\"/run/*\", \"/run/a*\"]", 19, 9, "never met"),
        ("[\"/a\", 7]", 15, 1, "not a whole number"),
    ] {
        let found = mistakes(&format!("[local]\nunix = {value}\n"));
        let shown = found[0].to_string();
        assert_eq!((found.len(), found[0].line, found[0].column, found[0].width), (1, 2, column, width), "{shown}");
        assert!(shown.contains(words), "{shown}");
    }
    let found = mistakes("[local]\nnetlink = \"no\"\nunx = \"deny\"\n");
    assert!(
        found[0].to_string().contains("\"deny\", \"allow\"") && found[1].to_string().contains("did you mean `unix`?")
    );
}
