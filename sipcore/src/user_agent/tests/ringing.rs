//! Reliable provisional responses (RFC 3262), and what comes within an early dialog.

use super::{Bench, SDP, SECOND, bench};
use crate::agent::{Direct, End};
use crate::message::{Message, name};
use crate::user_agent::Notice;

/// A caller that requires it gets its provisional response until it acknowledges it (RFC 3262 3).
#[test]
fn ringing_is_repeated_until_prack() {
    let mut bench = bench();
    let ringing = |bench: &mut Bench| {
        let invite = bench.request("INVITE", "Require: 100rel\r\nContent-Type: application/sdp\r\n", SDP);
        bench.put(invite.clone());
        let sent = bench.sent();
        assert_eq!(sent.iter().map(Message::status).collect::<Vec<_>>(), [Some(100), Some(180)]);
        let ring = sent.into_iter().nth(1).unwrap();
        assert!(ring.has_token(name::REQUIRE, "100rel") && ring.to_tag().is_some() && ring.contacts().count() == 1);
        let rseq: u32 = ring.header(name::RSEQ).unwrap().text().parse().unwrap();
        assert!(rseq > 0 && rseq < 1 << 31);
        // What is told of the calls before may come first.
        let offered = std::iter::from_fn(|| bench.agent.poll_notice()).find_map(|notice| match notice {
            Notice::Incoming { id, .. } => Some(id),
            _ => None,
        });
        (offered.unwrap(), invite, ring, rseq)
    };
    let prack = |bench: &mut Bench, cseq: u32, invite: &Message, ring: &Message, rack: &str| {
        let mut prack = bench.within("PRACK", cseq, invite, ring);
        prack.set(name::RACK, rack);
        bench.status(prack)
    };
    let (id, invite, ring, rseq) = ringing(&mut bench);
    bench.pass(4 * SECOND);
    let repeated = bench.sent();
    assert_eq!(repeated.len(), 3, "after 0.5, 1.5 and 3.5 s: {repeated:?}");
    assert!(repeated.iter().all(|message| message.to_bytes() == ring.to_bytes()));
    assert_eq!(prack(&mut bench, 2, &invite, &ring, "nothing"), 400);
    assert_eq!(prack(&mut bench, 2, &invite, &ring, &format!("{} 1 INVITE", rseq + 1)), 481);
    assert_eq!(prack(&mut bench, 2, &invite, &ring, &format!("{rseq} 2 INVITE")), 481);
    assert_eq!(prack(&mut bench, 2, &invite, &ring, &format!("{rseq} 1 INVITE")), 200);
    bench.pass(60 * SECOND);
    assert!(bench.sent().is_empty(), "it has been acknowledged");
    // Within the early dialog (RFC 3311 5.2): what needs an answer first has to wait.
    let update = bench.within("UPDATE", 3, &invite, &ring);
    assert_eq!(bench.status(update), 200);
    let mut offer = bench.request("UPDATE", "Content-Type: application/sdp\r\n", SDP);
    let like = bench.within("UPDATE", 4, &invite, &ring);
    for same in [name::FROM, name::TO, name::CALL_ID, name::CSEQ] {
        offer.set(same, like.header(same).unwrap().text());
    }
    let later = bench.answer(offer);
    assert!(later.status() == Some(500) && later.retry_after().is_some());
    bench.agent.accept(bench.now, id, 0, &End::Direct(Direct::passive("10.0.0.2:7000".parse().unwrap())));
    let ok = bench.sent().pop().unwrap();
    assert_eq!((ok.status(), ok.to_tag()), (Some(200), ring.to_tag()));

    // The final response need not wait, and what comes late is still answered.
    let (id, invite, ring, rseq) = ringing(&mut bench);
    bench.agent.accept(bench.now, id, 0, &End::Direct(Direct::passive("10.0.0.2:7000".parse().unwrap())));
    assert_eq!(bench.sent().pop().unwrap().status(), Some(200));
    assert_eq!(prack(&mut bench, 2, &invite, &ring, &format!("{rseq} 1 INVITE")), 200);
    bench.pass(3 * SECOND);
    assert!(bench.sent().iter().all(|message| message.status() != Some(180)));

    // Who never acknowledges gets nowhere.
    let (id, _, ring, _) = ringing(&mut bench);
    bench.pass(33 * SECOND);
    let of_it = |message: &Message| message.call_id().unwrap() == ring.call_id().unwrap();
    let statuses: Vec<_> = bench.sent().iter().filter(|m| of_it(m)).filter_map(Message::status).collect();
    assert_eq!(statuses.first(), Some(&180));
    assert!(statuses.contains(&504), "{statuses:?}");
    bench.agent.accept(bench.now, id, 0, &End::Direct(Direct::passive("10.0.0.2:7000".parse().unwrap())));
    assert!(!bench.sent().iter().any(|message| message.status() == Some(200)));

    // Neither does who hangs up.
    let (_, invite, ring, _) = ringing(&mut bench);
    let bye = bench.within("BYE", 2, &invite, &ring);
    bench.put(bye);
    let statuses: Vec<_> = bench.sent().iter().filter_map(Message::status).collect();
    assert_eq!(statuses, [200, 487]);
}

/// Who supports it and does not require it gets the final response alone, and a PRACK that nobody has asked for is about nothing.
#[test]
fn who_merely_supports_it_is_not_told() {
    let mut bench = bench();
    let invite = bench.request("INVITE", "Supported: 100rel, timer\r\nContent-Type: application/sdp\r\n", SDP);
    bench.put(invite.clone());
    assert_eq!(bench.sent().iter().map(Message::status).collect::<Vec<_>>(), [Some(100)]);
    let id = bench.offered().unwrap();
    bench.pass(10 * SECOND);
    assert!(bench.sent().is_empty());
    bench.agent.accept(bench.now, id, 0, &End::Direct(Direct::passive("10.0.0.2:7000".parse().unwrap())));
    let ok = bench.sent().pop().unwrap();
    assert_eq!(ok.status(), Some(200));
    assert!(!ok.has_token(name::REQUIRE, "100rel") && ok.header(name::RSEQ).is_none());
    let mut prack = bench.within("PRACK", 2, &invite, &ok);
    prack.set(name::RACK, "1 1 INVITE");
    assert_eq!(bench.status(prack), 481);
}
