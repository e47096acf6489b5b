//! What can happen to an agent: refusals, second thoughts, forks, crowds, and a hub that goes away.
#![allow(clippy::unwrap_used)]

mod common;

use common::{PATIENCE, config, event, hub_on, incoming, media, offer, password, registered, soon, uri};
use sipcore::agent::{Agent, CallError, EndReason, Event, RegisterError, Transport};
use sipcore::hub::{Hub, HubConfig, Users};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BOTH: [Transport; 2] = [Transport::Udp, Transport::Tcp];

#[tokio::test]
async fn a_refusal_reaches_the_caller_with_its_words() {
    for transport in BOTH {
        let hub = hub_on(LOCAL).await;
        let (_bob, mut at_bob) = registered(config("bob", hub.addresses()[0], transport)).await;
        let (alice, _at_alice) = registered(config("alice", hub.addresses()[0], transport)).await;
        let target = uri("bob");
        let refuse = async { incoming(&mut at_bob).await.reject(486, "Nothing Listens") };
        let (outcome, ()) = tokio::join!(soon("invite", alice.invite(&target, offer(1, LOCAL))), refuse);
        let refused = CallError::Rejected { target, status: 486, reason: "Nothing Listens".into(), warning: None };
        assert_eq!(outcome, Err(refused));
    }
}

#[tokio::test]
async fn a_dropped_call_is_answered() {
    let hub = hub_on(LOCAL).await;
    let (_bob, mut at_bob) = registered(config("bob", hub.addresses()[0], Transport::Udp)).await;
    let (alice, _at_alice) = registered(config("alice", hub.addresses()[0], Transport::Udp)).await;
    let target = uri("bob");
    let forget = async { drop(incoming(&mut at_bob).await) };
    let (outcome, ()) = tokio::join!(soon("invite", alice.invite(&target, offer(1, LOCAL))), forget);
    assert!(matches!(outcome, Err(CallError::Rejected { status: 500, .. })), "{outcome:?}");
    drop(at_bob);
    let outcome = soon("invite", alice.invite(&target, offer(1, LOCAL))).await;
    assert!(matches!(outcome, Err(CallError::Rejected { status: 480, .. })), "{outcome:?}");
}

#[tokio::test]
async fn nobody_there() {
    let hub = hub_on(LOCAL).await;
    let (alice, _at_alice) = registered(config("alice", hub.addresses()[0], Transport::Udp)).await;
    let status =
        async |target: &str| match soon("invite", alice.invite(&target.parse().unwrap(), offer(1, LOCAL))).await {
            Err(CallError::Rejected { status, .. }) => status,
            other => panic!("{other:?}"),
        };
    assert_eq!(status("sip:nobody@sipbox.invalid").await, 404);
    assert_eq!(status("sip:bob@elsewhere.example").await, 404, "no open relay");
    assert_eq!(status("sip:bob@127.0.0.9:5099").await, 403, "no open relay");
    assert_eq!(status("tel:+4930123").await, 416);
    let (bob, _) = registered(config("bob", hub.addresses()[0], Transport::Udp)).await;
    bob.shutdown(PATIENCE).await;
    assert_eq!(status("sip:bob@sipbox.invalid").await, 480);
}

#[tokio::test]
async fn giving_up_cancels() {
    for transport in BOTH {
        let hub = hub_on(LOCAL).await;
        let (_bob, mut at_bob) = registered(config("bob", hub.addresses()[0], transport)).await;
        let (alice, _at_alice) = registered(config("alice", hub.addresses()[0], transport)).await;
        let target = uri("bob");
        let call = {
            let invite = alice.invite(&target, offer(1, LOCAL));
            tokio::pin!(invite);
            tokio::select! {
                outcome = &mut invite => panic!("{outcome:?}"),
                call = incoming(&mut at_bob) => call,
            }
        };
        // The caller has gone; its CANCEL and our answer cross or do not cross. Either way the end is one `Ended`.
        let id = call.id;
        call.accept(0, media(LOCAL));
        match event(&mut at_bob).await {
            Event::Ended { id: ended, .. } => assert_eq!(ended, id),
            other => panic!("{other:?}"),
        }
        soon("shutdown", alice.shutdown(PATIENCE)).await;
    }
}

#[tokio::test]
async fn a_call_cancelled_long_ago_ends_when_it_is_accepted() {
    let hub = hub_on(LOCAL).await;
    let (_bob, mut at_bob) = registered(config("bob", hub.addresses()[0], Transport::Udp)).await;
    let (alice, _at_alice) = registered(config("alice", hub.addresses()[0], Transport::Udp)).await;
    let call = {
        let target = uri("bob");
        let invite = alice.invite(&target, offer(1, LOCAL));
        tokio::pin!(invite);
        tokio::select! {
            outcome = &mut invite => panic!("{outcome:?}"),
            call = incoming(&mut at_bob) => call,
        }
    };
    // Once the agent is idle the 487 has come back, so bob's side has answered.
    soon("shutdown", alice.shutdown(PATIENCE)).await;
    let id = call.id;
    call.accept(0, media(LOCAL));
    let ended = event(&mut at_bob).await;
    assert!(matches!(ended, Event::Ended { id: e, reason: EndReason::Cancelled } if e == id), "{ended:?}");
}

#[tokio::test]
async fn the_first_of_two_agents_gets_the_call() {
    for transport in BOTH {
        let hub = hub_on(LOCAL).await;
        let (_one, mut at_one) = registered(config("bob", hub.addresses()[0], transport)).await;
        let (_two, mut at_two) = registered(config("bob", hub.addresses()[0], transport)).await;
        assert_eq!(hub.activity().bindings, 2);
        let (alice, mut at_alice) = registered(config("alice", hub.addresses()[0], transport)).await;
        let target = uri("bob");
        let take = async {
            let (one, two) = tokio::join!(incoming(&mut at_one), incoming(&mut at_two));
            let (first, second) = (one.id, two.id);
            one.accept(0, media(LOCAL));
            (first, second, two)
        };
        let (outcome, (first, second, two)) =
            tokio::join!(soon("invite", alice.invite(&target, offer(1, LOCAL))), take);
        let session = outcome.unwrap();
        two.accept(0, media(LOCAL));
        assert!(matches!(event(&mut at_two).await, Event::Ended { id, .. } if id == second));
        alice.bye(session.id);
        assert!(matches!(event(&mut at_one).await, Event::Ended { id, .. } if id == first));
        soon("shutdown", alice.shutdown(PATIENCE)).await;
        assert!(at_alice.try_recv().is_err());
    }
}

#[tokio::test]
async fn when_both_take_the_call_one_session_is_left() {
    let hub = hub_on(LOCAL).await;
    let (_one, mut at_one) = registered(config("bob", hub.addresses()[0], Transport::Udp)).await;
    let (_two, mut at_two) = registered(config("bob", hub.addresses()[0], Transport::Udp)).await;
    let (alice, _at_alice) = registered(config("alice", hub.addresses()[0], Transport::Udp)).await;
    let target = uri("bob");
    let take = async {
        let (one, two) = tokio::join!(incoming(&mut at_one), incoming(&mut at_two));
        one.accept(0, media(LOCAL));
        two.accept(0, media(LOCAL));
    };
    let (outcome, ()) = tokio::join!(soon("invite", alice.invite(&target, offer(1, LOCAL))), take);
    let session = outcome.unwrap();
    // One of the two is ended by itself, the other by us.
    let loser = async {
        tokio::select! {
            ended = event(&mut at_one) => (1, ended),
            ended = event(&mut at_two) => (2, ended),
        }
    };
    let (loser, ended) = soon("the other session to end", loser).await;
    assert!(matches!(ended, Event::Ended { .. }));
    alice.bye(session.id);
    let winner = if loser == 1 { &mut at_two } else { &mut at_one };
    assert!(matches!(event(winner).await, Event::Ended { reason: EndReason::PeerHungUp, .. }));
}

#[tokio::test]
async fn a_hundred_calls_at_once() {
    for transport in BOTH {
        let hub = hub_on(LOCAL).await;
        let (bob, mut at_bob) = registered(config("bob", hub.addresses()[0], transport)).await;
        let (alice, _at_alice) = registered(config("alice", hub.addresses()[0], transport)).await;
        let answer = tokio::spawn(async move {
            let mut ended = 0;
            while ended < 100 {
                match event(&mut at_bob).await {
                    Event::Incoming(call) => call.accept(0, media(LOCAL)),
                    Event::Ended { .. } => ended += 1,
                    other => panic!("{other:?}"),
                }
            }
        });
        let calls: Vec<_> = (0..100)
            .map(|port| {
                let alice = alice.clone();
                tokio::spawn(async move { alice.invite(&uri("bob"), offer(port, LOCAL)).await })
            })
            .collect();
        for call in calls {
            alice.bye(soon("invite", call).await.unwrap().unwrap().id);
        }
        soon("all to end", answer).await.unwrap();
        soon("shutdown", async { tokio::join!(alice.shutdown(PATIENCE), bob.shutdown(PATIENCE)) }).await;
    }
}

#[tokio::test]
async fn shutdown_ends_sessions_and_what_waits() {
    let hub = hub_on(LOCAL).await;
    let (_bob, mut at_bob) = registered(config("bob", hub.addresses()[0], Transport::Udp)).await;
    let (alice, _at_alice) = registered(config("alice", hub.addresses()[0], Transport::Udp)).await;
    let target = uri("bob");
    let take = async { incoming(&mut at_bob).await.accept(0, media(LOCAL)) };
    let (session, ()) = tokio::join!(soon("invite", alice.invite(&target, offer(1, LOCAL))), take);
    session.unwrap();
    let (waiting, ()) = tokio::join!(soon("the second call", alice.invite(&target, offer(2, LOCAL))), async {
        let call = incoming(&mut at_bob).await;
        soon("shutdown", alice.shutdown(PATIENCE)).await;
        drop(call);
    });
    assert_eq!(waiting, Err(CallError::Shutdown));
    assert!(matches!(event(&mut at_bob).await, Event::Ended { .. }));
    assert_eq!(hub.activity().bindings, 1);
    assert_eq!(soon("invite", alice.invite(&target, offer(3, LOCAL))).await, Err(CallError::Shutdown));
    assert_eq!(soon("register", alice.register()).await, Err(RegisterError::Shutdown));
}

#[tokio::test]
async fn a_hub_that_is_gone_is_noticed_at_once() {
    for transport in BOTH {
        let hub = hub_on(LOCAL).await;
        let addr = hub.addresses()[0];
        let (alice, _at_alice) = Agent::start(config("alice", addr, transport)).await.unwrap();
        hub.shutdown().await;
        let start = Instant::now();
        let outcome = soon("register", alice.register()).await;
        assert!(matches!(outcome, Err(RegisterError::Unreachable { .. })), "{transport}: {outcome:?}");
        let outcome = soon("invite", alice.invite(&uri("bob"), offer(1, LOCAL))).await;
        assert!(matches!(outcome, Err(CallError::Unreachable { .. })), "{transport}: {outcome:?}");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_registration_comes_back_with_the_hub() {
    for transport in BOTH {
        let settings = HubConfig { min_expires: Duration::from_secs(1), ..HubConfig::default() };
        let hub = Hub::start(settings.clone()).await.unwrap();
        let addr = hub.addresses()[0];
        let mut agent = config("bob", addr, transport);
        agent.expires = Duration::from_secs(2);
        let (_bob, mut at_bob) = registered(agent).await;
        hub.shutdown().await;
        let lost = event(&mut at_bob).await;
        assert!(matches!(lost, Event::RegistrationLost { .. }), "{lost:?}");
        let hub = Hub::start(HubConfig { listen: vec![addr], ..settings }).await.unwrap();
        let restored = event(&mut at_bob).await;
        assert!(matches!(restored, Event::RegistrationRestored), "{restored:?}");
        assert_eq!(hub.activity().bindings, 1);
    }
}

#[tokio::test]
async fn users_have_passwords() {
    let users = Users::new("sipbox").with("alice", "secret a".to_owned()).with("bob", "secret b".to_owned());
    let hub = Hub::start(HubConfig { users: Some(users), ..HubConfig::default() }).await.unwrap();
    let addr = hub.addresses()[0];
    for transport in BOTH {
        let agent = |user, key| {
            let mut agent = config(user, addr, transport);
            agent.credentials = key;
            agent
        };
        let (bob, mut at_bob) = registered(agent("bob", password("bob", "secret b"))).await;
        let (alice, _at_alice) = registered(agent("alice", password("alice", "secret a"))).await;
        let target = uri("bob");
        let take = async { incoming(&mut at_bob).await.accept(0, media(LOCAL)) };
        let (session, ()) = tokio::join!(soon("invite", alice.invite(&target, offer(1, LOCAL))), take);
        alice.bye(session.unwrap().id);
        assert!(matches!(event(&mut at_bob).await, Event::Ended { .. }));

        let (mallory, _events) = Agent::start(agent("alice", password("alice", "guess"))).await.unwrap();
        let outcome = soon("register", mallory.register()).await;
        assert!(matches!(outcome, Err(RegisterError::BadCredentials { .. })), "{outcome:?}");
        let outcome = soon("invite", mallory.invite(&target, offer(1, LOCAL))).await;
        assert!(matches!(outcome, Err(CallError::BadCredentials { .. })), "{outcome:?}");
        let (mallory, _events) = Agent::start(agent("alice", None)).await.unwrap();
        let outcome = soon("register", mallory.register()).await;
        assert!(matches!(outcome, Err(RegisterError::NoCredentials { .. })), "{outcome:?}");
        let (mallory, _events) = Agent::start(agent("alice", password("bob", "secret b"))).await.unwrap();
        let outcome = soon("register", mallory.register()).await;
        assert!(matches!(outcome, Err(RegisterError::Rejected { status: 403, .. })), "{outcome:?}");
        soon("shutdown", async { tokio::join!(alice.shutdown(PATIENCE), bob.shutdown(PATIENCE)) }).await;
    }
}

#[tokio::test]
async fn registering_twice_keeps_one_binding() {
    let hub = hub_on(LOCAL).await;
    let (bob, _events) = registered(config("bob", hub.addresses()[0], Transport::Udp)).await;
    soon("register", bob.register()).await.unwrap();
    assert_eq!(hub.activity().bindings, 1);
    let mut brief = config("carol", hub.addresses()[0], Transport::Udp);
    brief.expires = Duration::from_secs(1);
    let (carol, _events) = registered(brief).await;
    assert_eq!(hub.activity().bindings, 2, "423 was followed");
    soon("shutdown", carol.shutdown(PATIENCE)).await;
    assert_eq!(hub.activity().bindings, 1);
}

#[tokio::test]
async fn two_hubs_on_one_port_is_an_error_that_names_it() {
    let hub = hub_on(LOCAL).await;
    let addr: SocketAddr = hub.addresses()[0];
    let error = Hub::start(HubConfig { listen: vec![addr], ..HubConfig::default() }).await.err().unwrap();
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
}

#[tokio::test]
async fn an_agent_that_died_is_noticed_at_once() {
    for ip in ["127.0.0.1", "::1"] {
        for transport in BOTH {
            let ip: IpAddr = ip.parse().unwrap();
            let hub = hub_on(ip).await;
            let (bob, at_bob) = registered(config("bob", hub.addresses()[0], transport)).await;
            let (alice, _at_alice) = registered(config("alice", hub.addresses()[0], transport)).await;
            // As if killed: sockets closed, binding left behind.
            drop((bob, at_bob));
            assert_eq!(hub.activity().bindings, 2);
            let start = Instant::now();
            let outcome = soon("invite", alice.invite(&uri("bob"), offer(1, ip))).await;
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("480 Contact Not Reachable"), "{error}");
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        }
    }
}
