//! Servers of another domain that say nothing for too long, and then something all the same.

use super::foreign::{BOB, foreign_bench, server};
use super::*;
use crate::message::Method;

fn methods(sent: &[(u8, Message)]) -> Vec<(u8, String)> {
    let word = |message: &Message| match message.method() {
        Some(method) => method.to_string(),
        None => message.status().unwrap_or_default().to_string(),
    };
    sent.iter().map(|(host, message)| (*host, word(message))).collect()
}

fn of<'a>(sent: &'a [(u8, Message)], host: u8, method: &Method) -> Option<&'a Message> {
    sent.iter().find(|(at, message)| *at == host && message.method() == Some(method)).map(|(_, message)| message)
}

/// An INVITE whose first server is silent: what both servers got.
fn passed_over(bench: &mut Bench, transport: Transport) -> [Message; 2] {
    let (_, id, _) = bench.asked("INVITE", BOB, "Contact: <sip:alice@10.0.0.9>\r\n");
    let sent = bench.located(id, Ok(vec![server(5, transport), server(6, transport)]));
    let first = of(&sent, 5, &Method::Invite).cloned().expect("the first server is asked");
    bench.pass(5 * SECOND);
    let sent = bench.sent();
    let second = of(&sent, 6, &Method::Invite).cloned().expect("and then the second");
    [first, second]
}

#[test]
fn a_server_that_speaks_late_is_told_to_cancel() {
    for transport in [Transport::Udp, Transport::Tcp] {
        for (late, then) in [(100, 487), (180, 200)] {
            let mut bench = foreign_bench();
            let [first, second] = passed_over(&mut bench, transport);
            // Its connection has come about at last: CANCEL, and the caller hears nothing of it.
            let sent = bench.put(5, Message::response_to(&first, late, "Late").to_tag("a").build());
            assert_eq!(methods(&sent), [(5, "CANCEL".to_owned())]);
            bench.put(5, Message::response_to(&sent[0].1, 200, "OK").to_tag("a").build());
            match then {
                487 => {
                    let sent =
                        bench.put(5, Message::response_to(&first, 487, "Request Terminated").to_tag("a").build());
                    assert_eq!(methods(&sent), [(5, "ACK".to_owned())]);
                }
                // The called end had accepted before CANCEL came: the caller acknowledges and ends what he does not want (RFC 3261 13.2.2.4).
                _ => {
                    let sent = bench.put(5, Message::response_to(&first, 200, "OK").to_tag("a").build());
                    assert_eq!(methods(&sent), [(9, "200".to_owned())]);
                }
            }
            let sent = bench.put(6, Message::response_to(&second, 200, "OK").to_tag("b").build());
            assert_eq!(methods(&sent), [(9, "200".to_owned())]);
            bench.pass(200 * SECOND);
            assert_eq!(bench.hub.leftovers(), [0; 6]);
        }
    }
}

/// What the first server says does not decide, and it is not waited for.
#[test]
fn the_refusal_of_a_server_that_was_passed_over_does_not_count() {
    for (first_says, second_says) in [(Some(482), 486), (Some(603), 404), (None, 486)] {
        let mut bench = foreign_bench();
        let [first, second] = passed_over(&mut bench, Transport::Udp);
        if let Some(status) = first_says {
            let sent = bench.put(5, Message::response_to(&first, status, "Late").to_tag("a").build());
            assert_eq!(methods(&sent), [(5, "ACK".to_owned())]);
        }
        let sent = bench.put(6, Message::response_to(&second, second_says, "No").to_tag("b").build());
        let sent = methods(&sent);
        assert_eq!(sent, [(6, "ACK".to_owned()), (9, second_says.to_string())]);
        bench.pass(300 * SECOND);
        assert!(methods(&bench.sent()).iter().all(|(host, _)| *host != 6));
        assert_eq!(bench.hub.leftovers(), [0; 6]);
    }
}

/// A caller that gives up: both servers are told when they can be.
#[test]
fn the_caller_s_cancel_goes_to_both() {
    let mut bench = foreign_bench();
    let [first, second] = passed_over(&mut bench, Transport::Udp);
    bench.put(6, Message::response_to(&second, 180, "Ringing").to_tag("b").build());
    let mut cancel = bench.request("CANCEL", BOB, "");
    let via = second.headers_named(name::VIA).nth(1).unwrap();
    cancel.set(name::VIA, via.text());
    for same in [name::FROM, name::CALL_ID] {
        cancel.set(same, second.header(same).unwrap().text());
    }
    cancel.set(name::CSEQ, format_args!("{} CANCEL", second.cseq().unwrap().number));
    let sent = bench.put(9, cancel);
    assert!(of(&sent, 6, &Method::Cancel).is_some() && of(&sent, 5, &Method::Cancel).is_none(), "{sent:?}");
    let sent = bench.put(5, Message::response_to(&first, 100, "Late").build());
    assert!(of(&sent, 5, &Method::Cancel).is_some(), "{sent:?}");
}

/// What cannot be cancelled: on a connection on which the server has spoken, it has it, and is given the time of a transaction. On one that may not be
/// there yet, it must not come later.
#[test]
fn a_message_is_not_delivered_twice() {
    let mut bench = foreign_bench();
    let flow = Flow { transport: Transport::Tcp, local: 0, remote: server(5, Transport::Tcp).addr };
    let ask = |bench: &mut Bench| {
        let (_, id, _) = bench.asked("MESSAGE", BOB, "");
        let sent = bench.located(id, Ok(vec![server(5, Transport::Tcp), server(6, Transport::Tcp)]));
        of(&sent, 5, &Method::Message).cloned().expect("the first server is asked")
    };
    let first = ask(&mut bench);
    bench.hub.handle_message(bench.now, flow, Message::response_to(&first, 200, "OK").to_tag("a").build());
    assert_eq!(methods(&bench.sent()), [(9, "200".to_owned())]);
    let second = ask(&mut bench);
    bench.pass(20 * SECOND);
    assert!(bench.sent().is_empty() && bench.hub.poll_close().is_none(), "it is slow");
    bench.hub.handle_message(bench.now, flow, Message::response_to(&second, 200, "OK").to_tag("a").build());
    assert_eq!(methods(&bench.sent()), [(9, "200".to_owned())]);
    // The connection ends: who is there next is not known.
    bench.hub.handle_unreachable(bench.now, flow, "closed");
    ask(&mut bench);
    bench.pass(5 * SECOND);
    assert_eq!(methods(&bench.sent()), [(6, "MESSAGE".to_owned())]);
    assert_eq!(bench.hub.poll_close(), Some(flow));
    assert_eq!(bench.hub.poll_close(), None);
    bench.pass(200 * SECOND);
    bench.sent();
    assert_eq!(bench.hub.leftovers(), [0; 6]);
}
