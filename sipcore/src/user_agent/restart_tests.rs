//! Restarts of ICE between two user agents that speak with each other directly, in virtual time.

use super::{Config, Notice, UserAgent, contact_uri};
use crate::agent::{EndReason, RestartError, SessionId};
use crate::message::{Message, Uri};
use crate::sdp::{End, Fingerprint, Offer, Quic};
use crate::transaction::Timing;
use crate::transport::{Flow, Transport};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

struct Two {
    now: Instant,
    agents: [UserAgent; 2],
    sessions: [SessionId; 2],
    /// Nothing comes through from this one.
    mute: Option<usize>,
    /// All requests and responses that arrived.
    seen: Vec<String>,
    notices: Vec<(usize, Notice)>,
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8 + 1], 5060))
}

fn quic(ufrag: &str, end: usize) -> Quic {
    let host = SocketAddr::from(([192, 0, 2, end as u8 + 1], 4000));
    Quic {
        ufrag: ufrag.to_owned(),
        pwd: "0123456789012345678901".to_owned(),
        candidates: vec![is::Candidate::host(host, "udp").unwrap()],
        fingerprint: Fingerprint([end as u8; 32]),
    }
}

impl Two {
    fn new() -> Two {
        let now = Instant::now();
        let agents = [("alice", 0), ("bob", 1)].map(|(user, n)| {
            let aor: Uri = format!("sip:{user}@sipbox.invalid").parse().unwrap();
            let config = Config {
                contact: contact_uri(&aor, address(n), Transport::Udp).unwrap(),
                aor,
                instance: format!("urn:uuid:00000000-0000-4000-8000-00000000000{n}"),
                next_hop: Flow { transport: Transport::Udp, local: 0, remote: address(1 - n) },
                credentials: None,
                expires: 60 * SECOND,
                refresh: None,
                timing: Timing::default(),
            };
            UserAgent::new(config, address(n))
        });
        let sessions = [SessionId::next(), SessionId::next()];
        let mut two = Two { now, agents, sessions, mute: None, seen: Vec::new(), notices: Vec::new() };
        let offer = Offer {
            label: "tcp/7000".parse().unwrap(),
            virtual_source: "198.18.0.9:4000".parse().unwrap(),
            flows: vec![End::Quic(quic("alice", 0))],
        };
        let target = "sip:bob@sipbox.invalid".parse().unwrap();
        two.agents[0].invite(now, sessions[0], &target, offer);
        two.exchange();
        let id = two.notices.drain(..).find_map(|(_, notice)| match notice {
            Notice::Incoming { id, .. } => Some(id),
            _ => None,
        });
        two.sessions[1] = id.unwrap();
        two.agents[1].accept(now, two.sessions[1], 0, &End::Quic(quic("bobs", 1)));
        two.exchange();
        assert!(two.notices.drain(..).any(|(n, notice)| n == 0 && matches!(notice, Notice::Answered(_))));
        two.seen.clear();
        two
    }

    /// What is on its way arrives, in turns.
    fn exchange(&mut self) {
        loop {
            let mut any = false;
            for n in [0, 1] {
                let sent: Vec<_> = std::iter::from_fn(|| self.agents[n].poll_transmit()).collect();
                for transmit in sent {
                    any = true;
                    let Ok(message) = Message::parse_datagram(transmit.payload) else { continue };
                    if self.mute == Some(n) {
                        continue;
                    }
                    self.seen.push(format!("{n} {}", message.start_line()));
                    let flow = Flow { transport: Transport::Udp, local: 0, remote: address(n) };
                    self.agents[1 - n].handle_message(self.now, flow, message);
                }
            }
            for n in [0, 1] {
                while let Some(notice) = self.agents[n].poll_notice() {
                    self.notices.push((n, notice));
                }
            }
            if !any {
                return;
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.agents.iter().filter_map(UserAgent::poll_timeout).min().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.agents.iter_mut().for_each(|agent| agent.handle_timeout(self.now));
            self.exchange();
        }
        self.now = end;
    }

    fn restart(&mut self, n: usize, ufrag: &str) {
        let id = self.sessions[n];
        self.agents[n].restart(self.now, id, quic(ufrag, n));
    }

    /// Answers the restart that this end has been told of; the other end's ufrag in it.
    fn answer(&mut self, n: usize, ufrag: &str) -> Option<String> {
        let at =
            self.notices.iter().position(|(who, notice)| *who == n && matches!(notice, Notice::Restarting { .. }))?;
        let Notice::Restarting { id, remote } = self.notices.remove(at).1 else { return None };
        self.agents[n].answer_restart(self.now, id, Some(quic(ufrag, n)));
        self.exchange();
        Some(remote.ufrag)
    }

    /// The ufrag that this end's own restart was answered with.
    fn restarted(&mut self, n: usize) -> Option<String> {
        let at =
            self.notices.iter().position(|(who, notice)| *who == n && matches!(notice, Notice::Restarted { .. }))?;
        match self.notices.remove(at).1 {
            Notice::Restarted { remote, .. } => Some(remote.ufrag),
            _ => None,
        }
    }

    fn failed(&self, n: usize) -> Option<&RestartError> {
        self.notices.iter().find_map(|(who, notice)| match notice {
            Notice::NotRestarted { error, .. } if *who == n => Some(error),
            _ => None,
        })
    }
}

#[test]
fn either_end_restarts_and_the_session_goes_on() {
    let mut two = Two::new();
    for (n, round) in [(0, "round1"), (1, "round2"), (1, "round3"), (0, "round4")] {
        two.restart(n, round);
        two.exchange();
        assert_eq!(two.answer(1 - n, &format!("{round}back")).as_deref(), Some(round));
        assert_eq!(two.restarted(n), Some(format!("{round}back")));
    }
    // Refreshes of the session go on, with what was agreed on last.
    two.pass(700 * SECOND);
    assert!(two.notices.is_empty(), "{:?}", two.notices);
    two.agents[0].end(two.now, two.sessions[0]);
    two.exchange();
    assert!(matches!(two.notices[..], [(1, Notice::Ended { reason: EndReason::PeerHungUp, .. })]), "{:?}", two.notices);
}

/// Both at once: 491 for both, and one of them comes through afterwards (RFC 3261 14.1).
#[test]
fn two_restarts_at_once_become_one() {
    for seed in 0..20 {
        crate::random::seed(seed);
        let mut two = Two::new();
        two.restart(0, "fromAlice");
        two.restart(1, "fromBob");
        two.exchange();
        assert_eq!(two.seen.iter().filter(|line| line.contains(" 491 ")).count(), 2, "{:?}", two.seen);
        let mut done = 0;
        for _ in 0..60 {
            two.pass(SECOND / 10);
            for n in [0, 1] {
                if two.answer(n, "theAnswer").is_some() {
                    done += 1;
                    // The other one's is answered by it, and needs no more.
                    assert_eq!(two.restarted(1 - n).as_deref(), Some("theAnswer"));
                    assert_eq!(two.failed(n), Some(&RestartError::Superseded));
                }
            }
        }
        assert_eq!(done, 1);
        two.pass(40 * SECOND);
        assert!(two.seen.iter().all(|line| !line.contains("BYE")), "{:?}", two.seen);
    }
}

/// An end that does not hear is given up within seconds, so that its own restart can come through; what it says late ends nothing.
#[test]
fn a_restart_into_the_void_does_not_block_that_of_the_other_end() {
    let mut two = Two::new();
    two.mute = Some(0);
    two.restart(0, "unheard");
    two.pass(4 * SECOND);
    assert!(matches!(two.failed(0), Some(RestartError::NoAnswer(_))));
    two.notices.clear();
    two.mute = None;
    two.restart(1, "heard");
    two.exchange();
    assert_eq!(two.answer(0, "answer").as_deref(), Some("heard"));
    assert_eq!(two.restarted(1).as_deref(), Some("answer"));
    // The first one is sent again by its transaction, and found to be old.
    two.pass(60 * SECOND);
    let ended = two.notices.iter().any(|(_, notice)| matches!(notice, Notice::Ended { .. }));
    assert!(!ended, "{:?}\n{:?}", two.notices, two.seen);
}

/// What becomes of a request that was given up says nothing: neither the loss of the connection that it went out on, nor silence.
#[test]
fn the_late_end_of_a_given_up_restart_ends_nothing() {
    let mut two = Two::new();
    two.mute = Some(0);
    for round in ["lost", "unanswered"] {
        two.restart(0, round);
        two.pass(4 * SECOND);
        assert!(matches!(two.failed(0), Some(RestartError::NoAnswer(_))));
        if round == "lost" {
            let flow = Flow { transport: Transport::Udp, local: 0, remote: address(1) };
            two.agents[0].handle_unreachable(two.now, flow, "connection reset");
            two.exchange();
        } else {
            two.pass(40 * SECOND);
        }
        two.notices.retain(|(_, notice)| !matches!(notice, Notice::NotRestarted { .. }));
        let ended = two.notices.iter().any(|(n, notice)| *n == 0 && matches!(notice, Notice::Ended { .. }));
        assert!(!ended, "{round}: {:?}", two.notices);
    }
    two.mute = None;
    two.restart(1, "heard");
    two.exchange();
    assert_eq!(two.answer(0, "answer").as_deref(), Some("heard"));
    assert_eq!(two.restarted(1).as_deref(), Some("answer"));
}

/// A user who does not decide costs the other end nothing but the restart.
#[test]
fn an_undecided_restart_is_refused() {
    let mut two = Two::new();
    two.restart(0, "asked");
    two.exchange();
    two.pass(2 * SECOND);
    let id = two.sessions[1];
    two.agents[1].answer_restart(two.now, id, None);
    two.exchange();
    assert!(matches!(two.failed(0), Some(RestartError::Rejected { status: 500, .. })));
    two.notices.clear();
    // And one that the end of the session overtakes.
    two.restart(0, "again");
    two.exchange();
    two.agents[1].end(two.now, id);
    two.exchange();
    two.pass(10 * SECOND);
    assert!(two.failed(0).is_some(), "{:?}", two.notices);
    assert!(two.agents.iter().all(|agent| agent.leftovers()[2] == 0), "a call is left");
}
