use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{FULL, parse};
use crate::{ConnectDecision, Flags, NameAnswer, Policy, Proto, virtual_v4, virtual_v6};

fn v4(policy: &Policy, name: &str) -> Option<Ipv4Addr> {
    match policy.resolve(name) {
        NameAnswer::Known { v4, .. } => Some(v4),
        NameAnswer::Unknown => None,
    }
}

fn uri(policy: &Policy, address: Ipv4Addr, port: u16) -> Option<String> {
    match policy.connect(Proto::Tcp, (address, port).into()) {
        ConnectDecision::Uri { uri, .. } => Some(uri),
        _ => None,
    }
}

/// Both sides and later versions must agree: these values never change.
#[test]
fn addresses_are_for_ever() {
    assert_eq!(virtual_v4("sip:echo@sipbox.invalid").to_string(), "198.18.85.217");
    assert_eq!(virtual_v6("sip:echo@sipbox.invalid").to_string(), "2001:2:0:7da2:dc09:a01e:2843:6893");
    assert_eq!(virtual_v4("sip:alice@example.org").to_string(), "198.19.121.102");
    assert_eq!(virtual_v6("sip:alice@example.org").to_string(), "2001:2:0:cbbf:56dc:6e84:c02a:3897");
}

#[test]
fn one_user_one_address() {
    let same = ["sips:alice@example.org", "sip:alice@EXAMPLE.org;gr=urn:uuid:1", "SIP:%61lice@example.org?a=b"];
    for uri in same {
        assert_eq!(virtual_v4(uri), virtual_v4("sip:alice@example.org"), "{uri}");
        assert_eq!(virtual_v6(uri), virtual_v6("sip:alice@example.org"), "{uri}");
    }
    for uri in ["sip:Alice@example.org", "sip:alice@example.net", "sip:alice@example.org:5070", "sip:example.org"] {
        assert_ne!(virtual_v4(uri), virtual_v4("sip:alice@example.org"), "{uri}");
    }
}

#[test]
fn addresses_are_well_spread() {
    let mut thirds: HashMap<u8, usize> = HashMap::new();
    let mut lasts: HashMap<u8, usize> = HashMap::new();
    let mut all4 = HashSet::new();
    let mut all6 = HashSet::new();
    let count = 20_000;
    for i in 0..count {
        let uri = format!("sip:user{i}@example.org");
        let address = virtual_v4(&uri);
        let [a, b, c, d] = address.octets();
        assert!(a == 198 && (b == 18 || b == 19) && d != 0 && d != 255, "{address}");
        *thirds.entry(c).or_default() += 1;
        *lasts.entry(d).or_default() += 1;
        all4.insert(address);
        let six = virtual_v6(&uri);
        assert_eq!(six.segments()[..3], [0x2001, 2, 0], "{six}");
        all6.insert(six);
    }
    // 20,000 balls into 130,048 bins: about 18,550 bins are hit.
    assert!((18_300..18_800).contains(&all4.len()), "{}", all4.len());
    assert_eq!(all6.len(), count);
    assert_eq!((thirds.len(), lasts.len()), (256, 254));
    assert!(thirds.values().chain(lasts.values()).all(|n| (35..135).contains(n)), "{thirds:?} {lasts:?}");
}

#[test]
fn mapped_names_have_addresses() {
    let policy = parse(FULL);
    let game = virtual_v4("sip:alice@example.org");
    for name in ["game.example", "GAME.example", "game.example."] {
        assert_eq!(v4(&policy, name), Some(game), "{name}");
    }
    assert_eq!(v4(&policy, "chat.example"), Some(virtual_v4("sip:chat@example.org")));
    assert_eq!(policy.name_of(game.into()), Some("game.example"));
    assert_eq!(policy.name_of(IpAddr::V6(game.to_ipv6_mapped())), Some("game.example"));
    assert_eq!(policy.name_of(virtual_v6("sip:alice@example.org").into()), Some("game.example"));
}

#[test]
fn names_of_flags_have_addresses() {
    let flags = Flags { maps: vec!["db.example:5432=db".into()], ..Flags::default() };
    let policy = Policy::from_flags(&flags).unwrap();
    let address = v4(&policy, "db.example").unwrap();
    assert_eq!(address, virtual_v4("sip:db@sipbox.invalid"));
    assert_eq!(uri(&policy, address, 5432).as_deref(), Some("sip:db@sipbox.invalid"));
    assert_eq!(uri(&policy, address, 5433), None);
    for name in ["other.example", "example", "", "localhost", "db.example.."] {
        assert_eq!(policy.resolve(name), NameAnswer::Unknown, "{name}");
    }
}

#[test]
fn with_a_rule_for_every_host_every_name_has_an_address() {
    let to = Flags { to: Some("echo".into()), ..Flags::default() };
    let policy = Policy::from_flags(&to).unwrap();
    let address = v4(&policy, "anything.example").unwrap();
    assert_eq!(address, virtual_v4("sip:echo@sipbox.invalid"));
    assert_eq!(uri(&policy, address, 7).as_deref(), Some("sip:echo@sipbox.invalid"));
    for name in ["", ".", "a..b", "*", "a b"] {
        assert_eq!(policy.resolve(name), NameAnswer::Unknown, "{name}");
    }
    // A rule that refuses every host gives no name an address.
    assert_eq!(parse("[[connect]]\nto = \"*\"\nrefuse = \"EPERM\"\n").resolve("a.example"), NameAnswer::Unknown);
}

/// What is connected to tells which name was looked up, also where names lead to one URI.
#[test]
fn no_two_names_share_an_address() {
    let maps = ["a.example:1=x", "a.example:2=y", "b.example:2=x", "c.example:3=sips:x@sipbox.invalid;gr=1"];
    let flags = Flags { maps: maps.map(str::to_owned).to_vec(), to: Some("x".into()), ..Flags::default() };
    let policy = Policy::from_flags(&flags).unwrap();
    let names = ["a.example", "b.example", "c.example", "other.example"];
    let found: Vec<_> = names.iter().map(|name| v4(&policy, name).unwrap()).collect();
    assert_eq!(found[0], virtual_v4("sip:x@sipbox.invalid"));
    assert_eq!(found.iter().collect::<HashSet<_>>().len(), names.len(), "{found:?}");
    assert_eq!(uri(&policy, found[0], 2).as_deref(), Some("sip:y@sipbox.invalid"));
    assert_eq!(uri(&policy, found[1], 2).as_deref(), Some("sip:x@sipbox.invalid"));
    assert_eq!(uri(&policy, found[3], 2).as_deref(), Some("sip:x@sipbox.invalid"));
    let again = Policy::from_flags(&flags).unwrap();
    assert_eq!(names.map(|name| v4(&again, name)), names.map(|name| v4(&policy, name)));
}

#[test]
fn a_refused_name_has_an_address_to_be_refused_at() {
    let policy = parse("[[connect]]\nto = \"ads.example:*\"\nrefuse = \"ECONNREFUSED\"\n");
    let address = v4(&policy, "ads.example").unwrap();
    let decision = policy.connect(Proto::Tcp, (address, 443).into());
    assert!(matches!(decision, ConnectDecision::Refuse { .. }));
    assert_eq!(policy.name_of(address.into()), Some("ads.example"));
    // Refused at one port and led elsewhere from another: the address is of where it leads.
    let both =
        "[[connect]]\nto = \"a.example:1\"\nrefuse = \"EPERM\"\n[[connect]]\nto = \"a.example:2\"\nuri = \"x\"\n";
    assert_eq!(v4(&parse(both), "a.example"), Some(virtual_v4("sip:x@sipbox.invalid")));
}

#[test]
fn blocks_of_addresses_can_be_chosen() {
    let mut text = "[addresses]\nv4 = \"10.77.5.0/24\"\nv6 = \"fd00:77::/96\"\n[names]\n".to_owned();
    for i in 0..254 {
        text.push_str(&format!("n{i} = \"u{i}\"\n"));
    }
    let policy = parse(&text);
    // A block that is exactly full: 254 names, 254 addresses.
    let all: HashSet<_> = (0..254).filter_map(|i| v4(&policy, &format!("n{i}"))).collect();
    assert_eq!(all.len(), 254);
    assert!(all.iter().all(|address| address.octets()[..3] == [10, 77, 5] && !matches!(address.octets()[3], 0 | 255)));
    let (four, six) = policy.virtual_addresses("sip:somebody@example.org");
    assert_eq!(four.octets()[..3], [10, 77, 5]);
    assert_eq!(six.segments()[..6], [0xfd00, 0x77, 0, 0, 0, 0]);
    assert_ne!(six, Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0));
}
