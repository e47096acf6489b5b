//! Asking the registrar who is registered.

use super::*;
use crate::agent::RegisterError;

fn told(bench: &mut Bench) -> Vec<Notice> {
    std::iter::from_fn(|| bench.agent.poll_notice()).collect()
}

#[test]
fn asking_who_is_registered_changes_nothing() {
    let mut bench = bench();
    let now = bench.now;
    assert!(bench.agent.query(now));
    let question = bench.sent().pop().unwrap();
    assert_eq!(question.method(), Some(&Method::Register));
    assert!(question.header(name::CONTACT).is_none() && question.header(name::EXPIRES).is_none());
    // A contact of ours, of an earlier life on the same port, is not taken for a binding.
    let answer = Message::response_to(&question, 200, "OK")
        .header(name::CONTACT, "<sip:bob@10.0.0.2:5062>;expires=30, <sip:bob@10.0.0.7:5060>;expires=50")
        .header(name::SERVICE_ROUTE, "<sip:10.0.0.1;lr>")
        .header(name::LINK, "<turn:10.0.0.1:3478>;rel=\"ice-server\";username=\"u\";credential=\"p\"");
    bench.put(answer.build());
    let notices = told(&mut bench);
    let [Notice::Bound(contacts)] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!(
        contacts.iter().map(|uri| uri.as_str()).collect::<Vec<_>>(),
        ["sip:bob@10.0.0.2:5062", "sip:bob@10.0.0.7:5060"]
    );
    assert_eq!(bench.agent.ice_servers().len(), 1);
    assert!(!bench.agent.is_registered() && bench.agent.registration_flows(now).is_empty());
    bench.agent.ask(now, SessionId::next(), &"sip:alice@sipbox.invalid".parse().unwrap());
    assert!(bench.sent().pop().unwrap().header(name::ROUTE).is_none(), "the route is that of a contact");
    // There is nothing to refresh, nor to remove.
    bench.pass(600 * SECOND);
    bench.sent();
    bench.agent.unregister(bench.now);
    assert!(bench.sent().is_empty());
}

#[test]
fn a_question_is_repeated_until_it_is_answered_or_the_agent_registers() {
    let mut bench = bench();
    bench.agent.query(bench.now);
    bench.agent.handle_unreachable(bench.now, bench.hop, "Connection refused");
    assert!(matches!(told(&mut bench)[..], [Notice::NotRegistered(RegisterError::Unreachable { .. })]));
    bench.sent();
    bench.pass(SECOND);
    let question = bench.sent().pop().unwrap();
    assert!(question.header(name::CONTACT).is_none());
    bench.agent.register(bench.now);
    let register = bench.sent().pop().unwrap();
    assert!(register.header(name::CONTACT).is_some());
    // The answer to the question comes late, and is not that to the registration.
    bench.put(Message::response_to(&question, 200, "OK").build());
    assert!(!bench.agent.is_registered() && told(&mut bench).is_empty());
    bench.put(Message::response_to(&register, 200, "OK").build());
    assert!(bench.agent.is_registered());
    assert!(!bench.agent.query(bench.now), "who is registered has no need to ask");
    assert!(bench.sent().is_empty());
}

#[test]
fn a_question_that_is_refused_is_not_repeated() {
    let mut bench = bench();
    bench.agent.query(bench.now);
    let question = bench.sent().pop().unwrap();
    bench.put(Message::response_to(&question, 403, "Forbidden").build());
    assert!(matches!(told(&mut bench)[..], [Notice::NotRegistered(RegisterError::Rejected { status: 403, .. })]));
    bench.pass(600 * SECOND);
    assert!(bench.sent().is_empty());
    assert!(bench.agent.query(bench.now), "it can be asked again");
}

#[test]
fn who_leaves_while_he_asks_removes_nothing() {
    let mut bench = bench();
    bench.agent.query(bench.now);
    let question = bench.sent().pop().unwrap();
    bench.agent.unregister(bench.now);
    bench.put(Message::response_to(&question, 200, "OK").build());
    assert!(bench.sent().is_empty() && bench.agent.is_idle());
}
