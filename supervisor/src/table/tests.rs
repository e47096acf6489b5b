use super::*;

fn socket(proto: Proto, v6: bool, state: State) -> Socket {
    Socket { proto, v6, v6only: false, bound: None, former: None, state, error: None, datagram: None, begun: 0 }
}

fn bound(virtual_: &str, port: u16) -> Bound {
    let physical = SocketAddrV4::new(Ipv4Addr::new(127, 64, 0, 1), port);
    Bound { virtual_: virtual_.parse().unwrap(), physical, port_chosen: true }
}

fn listener(table: &mut Table, cookie: Cookie, at: &str, port: u16) {
    let v6 = at.starts_with('[');
    table.socket(cookie, || socket(Proto::Tcp, v6, State::Listening));
    table.bind(cookie, bound(at, port));
}

fn reaches(table: &Table, to: &str) -> Option<Cookie> {
    table.own_endpoint(Proto::Tcp, &to.parse().unwrap(), &[]).map(|(c, _)| c)
}

#[test]
fn a_listener_is_reached_by_the_addresses_it_covers() {
    let mut table = Table::default();
    listener(&mut table, 1, "127.0.0.1:80", 5000);
    listener(&mut table, 2, "[::]:81", 5001);
    listener(&mut table, 3, "0.0.0.0:82", 5002);
    assert_eq!(reaches(&table, "127.0.0.1:80"), Some(1));
    assert_eq!(reaches(&table, "127.0.0.2:80"), None);
    assert_eq!(reaches(&table, "[::1]:81"), Some(2));
    assert_eq!(reaches(&table, "127.0.0.1:81"), Some(2));
    assert_eq!(reaches(&table, "127.0.0.1:82"), Some(3));
    assert_eq!(reaches(&table, "[::1]:82"), None);
    table.get_mut(2).unwrap().v6only = true;
    assert_eq!(reaches(&table, "127.0.0.1:81"), None);
}

#[test]
fn who_is_there_when_a_socket_is_bound() {
    let mut table = Table::default();
    listener(&mut table, 1, "0.0.0.0:80", 5000);
    let holding = |table: &Table, a: &str, only| {
        let holding = table.holding(Proto::Tcp, &a.parse().unwrap(), only);
        (holding.same.map(|(cookie, _)| cookie), holding.beside.iter().map(|(cookie, _)| *cookie).collect::<Vec<_>>())
    };
    assert_eq!(holding(&table, "0.0.0.0:80", false), (Some(1), vec![]));
    assert_eq!(holding(&table, "127.0.0.1:80", false), (None, vec![1]));
    assert_eq!(holding(&table, "[::]:80", false), (None, vec![1]));
    assert_eq!(holding(&table, "[::]:80", true), (None, vec![]));
    assert_eq!(holding(&table, "[::ffff:127.0.0.1]:80", true), (None, vec![1]));
    assert_eq!(holding(&table, "127.0.0.1:81", false), (None, vec![]));
    listener(&mut table, 2, "127.0.0.1:80", 5001);
    listener(&mut table, 3, "127.0.0.1:80", 5001);
    listener(&mut table, 4, "[::1]:80", 5002);
    assert_eq!(holding(&table, "0.0.0.0:80", false), (Some(1), vec![2]));
    assert_eq!(holding(&table, "127.0.0.1:80", false), (Some(2), vec![1]));
    assert_eq!(holding(&table, "[::]:80", false), (None, vec![1, 2, 4]));
    assert_eq!(reaches(&table, "127.0.0.1:80"), Some(2));
    assert_eq!(reaches(&table, "127.0.0.2:80"), Some(1));
    // Of UDP they share one place.
    table.socket(5, || socket(Proto::Udp, false, State::Idle));
    table.bind(5, bound("0.0.0.0:80", 6000));
    let holding = |a: &str| table.holding(Proto::Udp, &a.parse().unwrap(), false);
    assert_eq!(holding("127.0.0.1:80").same.map(|(cookie, at)| (cookie, at.port())), Some((5, 6000)));
    assert!(holding("127.0.0.1:80").beside.is_empty() && holding("127.0.0.1:81").is_empty());
}

#[test]
fn a_label_means_its_port_or_the_only_socket() {
    let mut table = Table::default();
    let find = |t: &Table, port| t.labelled(Proto::Tcp, port, |_| true).map(|(c, _)| c);
    assert_eq!(find(&table, Some(80)), None);
    listener(&mut table, 1, "0.0.0.0:7000", 7000);
    assert_eq!(find(&table, Some(7000)), Some(1));
    assert_eq!(find(&table, Some(80)), Some(1));
    assert_eq!(find(&table, None), Some(1));
    listener(&mut table, 2, "0.0.0.0:7001", 7001);
    assert_eq!(find(&table, Some(7001)), Some(2));
    assert_eq!(find(&table, Some(80)), None);
    assert_eq!(table.labelled(Proto::Tcp, Some(7000), |b| b.virtual_.port() != 7000).map(|(c, _)| c), Some(2));
    assert_eq!(table.labelled(Proto::Udp, Some(7000), |_| true), None);
}

/// Servers such as ngircd and sshd listen once for each family.
#[test]
fn a_port_in_both_families_is_one_endpoint() {
    let mut table = Table::default();
    listener(&mut table, 1, "[::]:7000", 7000);
    listener(&mut table, 2, "0.0.0.0:7000", 7001);
    let find = |port| table.labelled(Proto::Tcp, port, |_| true).map(|(c, _)| c);
    assert_eq!([find(Some(7000)), find(Some(80)), find(None)], [Some(2); 3]);
}

fn expected(listener: Cookie, session: SessionId) -> Expected {
    Expected { listener, peer: "198.18.0.9:1".parse().unwrap(), local: None, session: Some(session) }
}

#[test]
fn only_what_was_announced_for_this_listener_is_let_in() {
    let mut table = Table::default();
    listener(&mut table, 1, "0.0.0.0:7000", 7000);
    let source: SocketAddrV4 = "127.64.0.2:4000".parse().unwrap();
    assert_eq!(table.expect(source, expected(1, SessionId::next())), None);
    assert!(table.take_expected(&source, 2).is_none());
    assert!(table.take_expected(&"127.64.0.2:4001".parse().unwrap(), 1).is_none());
    assert!(table.take_expected(&source, 1).is_some());
    assert!(table.take_expected(&source, 1).is_none());
    let withdrawn = SessionId::next();
    table.expect_any(*source.ip(), expected(1, withdrawn));
    table.forget_session(withdrawn);
    assert!(table.take_expected(&source, 1).is_none());
}

#[test]
fn acquaintances_that_are_found_again_are_forgotten() {
    let mut table = Table::default();
    let at = |n: u16| SocketAddrV4::new([127, 64, 0, 1].into(), 3000 + n);
    for cookie in 1..=4 {
        table.socket(cookie, || socket(Proto::Udp, false, State::Idle));
        table.bind(cookie, bound(&format!("127.0.0.1:{}", 7000 + cookie), 3000 + cookie as u16));
    }
    let name = |n: u16| SocketAddr::from(([127, 0, 0, 1], 7000 + n));
    // The first is connected to the fourth, which also has a session; the second sends to it.
    let media = "127.64.0.9:9".parse().unwrap();
    let peer = "198.18.0.9:7".parse().unwrap();
    table.note_peer(4, peer, media, Some(SessionId::next()), None);
    table.set_anchor(1, Some(Anchor { physical: at(4), guard: None, led: None }));
    table.get_mut(1).unwrap().datagram.as_mut().unwrap().connected = Some(name(4));
    for sender in [1, 2] {
        table.note_peer(sender, name(4), at(4), None, None);
        table.hear(4, at(sender as u16), name(sender as u16));
    }
    table.forget_acquaintances();
    assert!(matches!(table.standing(2, &name(4)), Standing::None));
    assert!(matches!(table.standing(4, &peer), Standing::Ready(_)));
    let heard = |source| table.name_in_any_case(4, &source).copied();
    assert_eq!([at(1), at(2), media].map(heard), [Some(name(1)), None, Some(peer)]);
    assert_eq!(table.friends(&at(4)).len(), 1);
}

#[test]
fn of_too_many_announcements_from_one_source_the_oldest_gives_way() {
    let mut table = Table::default();
    listener(&mut table, 1, "0.0.0.0:7000", 7000);
    let source = "127.64.0.2:4000".parse().unwrap();
    let first = SessionId::next();
    assert_eq!(table.expect(source, expected(1, first)), None);
    let displaced: Vec<_> = (0..1025).filter_map(|_| table.expect(source, expected(1, SessionId::next()))).collect();
    assert_eq!(displaced, [first]);
}

#[test]
fn a_dead_socket_leaves_its_sessions_and_nothing_else() {
    let mut table = Table::default();
    listener(&mut table, 1, "0.0.0.0:7000", 7000);
    let (announced, session) = (SessionId::next(), SessionId::next());
    assert_eq!(table.expect("127.64.0.2:4000".parse().unwrap(), expected(1, announced)), None);
    let (local, peer) = ("198.18.0.1:7000".parse().unwrap(), "198.18.0.9:1".parse().unwrap());
    let accepted = socket(Proto::Tcp, false, State::Connected { local, peer, session: Some(session), guard: None });
    table.insert_accepted(2, accepted, bound("0.0.0.0:7000", 7000));
    assert_eq!(table.remove(2).unwrap().sessions, [session]);
    assert_eq!(table.remove(1).unwrap().sessions, [announced]);
    assert!(table.remove(1).is_none());
    assert!(table.holding(Proto::Tcp, &"0.0.0.0:7000".parse().unwrap(), false).is_empty());
    assert!(
        table.hashed().is_empty()
            && table.ports.is_empty()
            && table.by_address.is_empty()
            && table.by_session.is_empty()
    );
}

#[test]
fn what_the_kernel_shows_is_told_apart_from_what_is_blank() {
    let mut table = Table::default();
    listener(&mut table, 1, "0.0.0.0:7000", 7000);
    table.socket(2, || socket(Proto::Tcp, false, State::Idle));
    table.bind(2, bound("0.0.0.0:7001", 7001));
    table.socket(3, || socket(Proto::Udp, false, State::Idle));
    table.bind(3, bound("0.0.0.0:7002", 7002));
    table.socket(4, || socket(Proto::Udp, false, State::Idle));
    table.socket(5, || socket(Proto::Tcp, false, State::Idle));
    table.get_mut(5).unwrap().error = Some(Errno::ECONNREFUSED);
    let mut shown = table.hashed();
    shown.sort_by_key(|s| s.cookie);
    let expected = [(1, false), (2, true), (3, false)];
    assert_eq!(shown, expected.map(|(cookie, merely_bound_tcp)| Hashed { cookie, merely_bound_tcp }));
    // What is remembered of the fifth is told once, and then it is blank.
    assert_eq!([1, 2, 3, 4, 5, 6].map(|c| table.stays(c)), [true, true, true, false, false, false]);
    table.forget_blank();
    assert!(table.get(4).is_none());
    assert!([1, 2, 3, 5].iter().all(|c| table.get(*c).is_some()));
}

#[test]
fn who_sent_to_a_dead_socket_of_the_run_looks_for_it_again() {
    let mut table = Table::default();
    for (cookie, port) in [(1, 7001), (2, 7002), (3, 7003)] {
        table.socket(cookie, || socket(Proto::Udp, false, State::Idle));
        table.bind(cookie, bound(&format!("127.0.0.1:{port}"), port));
    }
    let at = |port| bound("127.0.0.1:1", port).physical;
    let peer = |port| format!("127.0.0.1:{port}").parse().unwrap();
    let knows =
        |table: &Table, c, port| table.get(c).unwrap().datagram.as_ref().unwrap().by_virtual.contains_key(&peer(port));
    table.note_peer(1, peer(7002), at(7002), None, None);
    table.note_peer(1, peer(7003), at(7003), None, None);
    table.note_peer(3, peer(7002), at(7002), None, None);
    table.remove(2);
    assert!(!knows(&table, 1, 7002) && !knows(&table, 3, 7002) && knows(&table, 1, 7003));
    // Nothing is left of those that are gone.
    table.remove(3);
    assert!(!knows(&table, 1, 7003));
    table.note_peer(1, peer(7003), at(7003), None, None);
    table.remove(1);
    assert!(table.acquainted.is_empty() && table.sockets.is_empty());
}

#[test]
fn a_departed_peer_is_still_known_by_what_it_sent() {
    let mut table = Table::default();
    table.socket(1, || socket(Proto::Udp, false, State::Idle));
    let (peer, media) = ("198.18.0.9:53".parse().unwrap(), "127.64.0.2:4000".parse().unwrap());
    let id = SessionId::next();
    table.note_session(id, 1);
    table.note_peer(1, peer, media, Some(id), None);
    table.forget_session(id);
    let d = table.get(1).unwrap().datagram.as_ref().unwrap();
    assert_eq!(d.by_physical.get(&media), Some(&peer));
    assert!(!d.by_virtual.contains_key(&peer));
}

/// A client that is started again on its port, and only sends, is heard for good.
#[test]
fn a_departed_peer_that_is_back_is_not_forgotten() {
    let mut table = Table::default();
    table.socket(1, || socket(Proto::Udp, false, State::Idle));
    let (peer, media) = ("198.18.0.9:53".parse().unwrap(), "127.64.0.2:4000".parse().unwrap());
    let id = SessionId::next();
    table.note_session(id, 1);
    table.note_peer(1, peer, media, Some(id), None);
    table.forget_session(id);
    let departed = |table: &Table| table.get(1).unwrap().datagram.as_ref().unwrap().departed.len();
    assert_eq!(departed(&table), 1);
    table.hear(1, media, peer);
    assert_eq!(departed(&table), 0);
}

/// A server's socket for one client takes the session over; what both ends sent each other at once is not lost.
#[test]
fn sessions_of_datagram_sockets_with_one_port() {
    let (mut table, peer, media) =
        (Table::default(), "198.18.0.9:7".parse().unwrap(), "127.64.0.2:4000".parse().unwrap());
    for cookie in [1, 2] {
        table.socket(cookie, || socket(Proto::Udp, false, State::Idle));
        table.bind(cookie, bound("0.0.0.0:69", 3000));
        table.get_mut(cookie).unwrap().datagram.get_or_insert_default();
    }
    let [first, second] = [SessionId::next(), SessionId::next()];
    table.note_peer(1, peer, media, Some(first), None);
    assert_eq!((table.shared(2, &peer), table.shared(1, &peer)), (Some(media), None));
    table.take_over(2, &peer);
    assert_eq!((table.shared(2, &peer), table.shared(1, &peer)), (None, Some(media)));
    assert!(table.remove(1).unwrap().sessions.is_empty());
    // Both call each other: what was sent waits for the session that was asked for here, and both end with the socket.
    let (third, other) = (SessionId::next(), "198.18.0.10:7".parse().unwrap());
    let datagram = table.get_mut(2).unwrap().datagram.as_mut().unwrap();
    datagram.await_session(other, &[b"one"]);
    table.admit(2, other, media, second, None);
    assert!(matches!(table.standing(2, &other), Standing::Opening));
    let waited = table.note_peer(2, other, media, Some(third), None);
    assert!(matches!(waited, Some(Peer::Pending(queue)) if queue == [b"one"]));
    let mut ended = table.remove(2).unwrap().sessions;
    ended.sort();
    assert_eq!(ended, [first, second, third]);
}
