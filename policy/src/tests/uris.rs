use crate::uri::PeerPattern;
use crate::{Error, aor_form, expand_uri};

#[test]
fn names_and_uris_expand() {
    let cases = [
        ("echo", "sip:echo@sipbox.invalid"),
        ("bob.smith-2", "sip:bob.smith-2@sipbox.invalid"),
        ("alice@example.org", "sip:alice@example.org"),
        ("alice@example.org:5070", "sip:alice@example.org:5070"),
        ("sip:alice@example.org", "sip:alice@example.org"),
        ("SIPS:alice@[2001:db8::1]:5061;transport=tls?a=b", "SIPS:alice@[2001:db8::1]:5061;transport=tls?a=b"),
        ("sip:example.org", "sip:example.org"),
        ("sip:+4930123;phone-context=+49@example.org", "sip:+4930123;phone-context=+49@example.org"),
        ("sip:a@b;gr=urn:uuid:f81d4fae-7dec", "sip:a@b;gr=urn:uuid:f81d4fae-7dec"),
    ];
    for (given, uri) in cases {
        assert_eq!(expand_uri(given, "sipbox.invalid").as_deref(), Ok(uri), "{given}");
    }
}

#[test]
fn what_is_no_uri_is_refused() {
    let cases = [
        ("", "empty"),
        ("sip:", "no host"),
        ("sip:@example.org", "no user"),
        ("sip:a@", "no host"),
        ("sip:a@b@c", "more than one"),
        ("sip:a b@c", "' '"),
        ("sip:a@b\r\nVia: x", "cannot stand"),
        ("sip:<a>@b", "'<'"),
        ("sip:a%4@b", "hexadecimal"),
        ("sip:a:secret@b", "password"),
        ("sip:a@b:0", "not a port"),
        ("sip:a@b:70000", "not a port"),
        ("sip:a@[::1", "not closed"),
        ("sip:a@[::x]", "IPv6"),
        ("sip:a@b..c", "host name"),
        ("tel:+491234", "`tel:` is not a scheme"),
        ("example.org:5060", "not a scheme"),
        ("*", "`*`"),
        ("é", "cannot stand"),
    ];
    for (given, words) in cases {
        let error = expand_uri(given, "sipbox.invalid").unwrap_err();
        assert!(matches!(error, Error::Uri { .. }));
        assert!(error.to_string().contains(words), "{given}: {error}");
    }
}

#[test]
fn forms_of_addresses_of_record() {
    let cases = [
        ("sip:Alice@Example.ORG;gr=urn:uuid:1?x=y", Some("sip:Alice@example.org")),
        ("SIP:%41lice@example.org", Some("sip:Alice@example.org")),
        ("sip:a%2fb@example.org", Some("sip:a%2Fb@example.org")),
        ("sips:alice@example.org:5061", Some("sips:alice@example.org:5061")),
        ("sip:[2001:DB8::1];lr", Some("sip:[2001:db8::1]")),
        ("alice", None),
        ("sip:a@evil.org;x=@example.org", None),
    ];
    for (uri, form) in cases {
        assert_eq!(aor_form(uri).as_deref(), form, "{uri}");
    }
}

#[test]
fn patterns_meet_peers() {
    let cases = [
        ("*", "sip:anyone@anywhere.net", true),
        ("*", "tel:+49", true),
        ("sip:*@example.org", "sip:alice@example.org", true),
        ("sip:*@example.org", "sips:alice@EXAMPLE.org;gr=1", true),
        ("sip:*@example.org", "sip:alice@example.org.evil.net", false),
        ("sip:*@example.org", "sip:alice@evil-example.org", false),
        ("sip:*@example.org", "sip:a@evil.net;x=@example.org", false),
        ("sip:*@example.org", "sip:a@evil.net;@example.org", false),
        ("sip:*@example.org", "sip:a%40example.org@evil.net", false),
        ("sip:*@example.org", "sip:example.org", false),
        ("sip:*@example.org", "sip:alice@example.org:5070", false),
        ("sip:*@example.org:*", "sip:alice@example.org:5070", false),
        ("sips:*@example.org", "sip:alice@example.org", false),
        ("sips:*@example.org", "sips:alice@example.org", true),
        ("sip:*@*.example.org", "sip:a@b.c.example.org", true),
        ("sip:*@*.example.org", "sip:a@example.org", false),
        ("sip:a*b*c@example.org", "sip:aXbYc@example.org", true),
        ("sip:a*b*c@example.org", "sip:aXcYb@example.org", false),
        ("sip:ab*ba@example.org", "sip:aba@example.org", false),
        ("sip:Alice@example.org", "sip:alice@example.org", false),
        ("sip:%41lice@example.org", "sip:Alice@example.org", true),
        ("alice", "sip:alice@hub.example", true),
        ("alice", "sip:alice@example.org", false),
        ("al*", "sip:alice@hub.example", true),
        ("alice@example.org", "sip:alice@example.org", true),
    ];
    for (pattern, peer, meets) in cases {
        // A port has no pattern: that one is refused, and so meets nothing.
        let parsed = PeerPattern::parse(pattern, "hub.example");
        assert_eq!(parsed.is_ok_and(|pattern| pattern.matches(peer)), meets, "{pattern} {peer}");
    }
}
