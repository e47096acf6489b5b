//! Agents that call each other through the hub, over real sockets.
#![allow(clippy::unwrap_used)]

mod common;

use common::{config, event, hub_on, incoming, media, offer, registered, soon, uri};
use sipcore::agent::{Event, Transport};
use std::net::IpAddr;

async fn call_and_hang_up(ip: &str, caller: Transport, called: Transport) {
    let ip: IpAddr = ip.parse().unwrap();
    let hub = hub_on(ip).await;
    let addr = hub.addresses()[0];
    let (bob, mut at_bob) = registered(config("bob", addr, called)).await;
    let (alice, mut at_alice) = registered(config("alice", addr, caller)).await;
    let wanted = offer(7000, ip);
    for by_caller in [true, false] {
        let take = async {
            let call = incoming(&mut at_bob).await;
            let (id, from, offer) = (call.id, call.from.clone(), call.lines.clone());
            call.accept(0, media(ip));
            (id, from, offer)
        };
        let target = uri("bob");
        let (session, (id, from, offered)) = tokio::join!(soon("invite", alice.invite(&target, wanted.clone())), take);
        let session = session.unwrap();
        assert_eq!(session.end, media(ip));
        assert_eq!(session.remote_aor, uri("bob"));
        assert_eq!(from, uri("alice"));
        let [line] = offered.as_slice() else { panic!("{offered:?}") };
        assert_eq!((line.label, line.virtual_source), (Some(wanted.label), wanted.virtual_source));
        assert_eq!(Some(&line.end), wanted.flows.first());
        if by_caller {
            alice.bye(session.id);
            alice.bye(session.id);
            assert!(matches!(event(&mut at_bob).await, Event::Ended { id: ended, .. } if ended == id));
        } else {
            bob.bye(id);
            assert!(matches!(event(&mut at_alice).await, Event::Ended { id: ended, .. } if ended == session.id));
        }
    }
    soon("shutdown", alice.shutdown(common::PATIENCE)).await;
    soon("shutdown", bob.shutdown(common::PATIENCE)).await;
    assert_eq!(hub.activity().bindings, 0);
    assert_eq!(hub.counters().garbage, 0);
}

#[tokio::test]
async fn udp() {
    call_and_hang_up("127.0.0.1", Transport::Udp, Transport::Udp).await;
}

#[tokio::test]
async fn tcp() {
    call_and_hang_up("127.0.0.1", Transport::Tcp, Transport::Tcp).await;
}

#[tokio::test]
async fn udp_to_tcp() {
    call_and_hang_up("127.0.0.1", Transport::Udp, Transport::Tcp).await;
}

#[tokio::test]
async fn tcp_to_udp() {
    call_and_hang_up("127.0.0.1", Transport::Tcp, Transport::Udp).await;
}

#[tokio::test]
async fn udp_over_ipv6() {
    call_and_hang_up("::1", Transport::Udp, Transport::Udp).await;
}

#[tokio::test]
async fn tcp_over_ipv6() {
    call_and_hang_up("::1", Transport::Tcp, Transport::Tcp).await;
}
