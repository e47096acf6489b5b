//! An agent with two flows to a hub that has two addresses (RFC 5626), in virtual time, over datagrams and connections; each way can be cut.

use super::{Config, Hop, Notice, UserAgent, contact_uri};
use crate::agent::{Direct, End, SessionId};
use crate::hub::HubConfig;
use crate::hub::home::HomeProxy;
use crate::label::{Label, Proto};
use crate::message::{Message, Method};
use crate::sdp::Offer;
use crate::transaction::Timing;
use crate::transport::{Flow, Listen, Machine, Sign, Transmit, Transport, stun};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const DELAY: Duration = Duration::from_millis(5);

fn hub_address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 5060 + n as u16))
}

fn agent_address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 10 + n as u8], 5062))
}

enum To {
    Hub,
    Agent(usize),
}

struct World {
    now: Instant,
    transport: Transport,
    hub: HomeProxy,
    agents: [UserAgent; 2],
    cut: [bool; 2],
    on_the_way: BTreeMap<(Instant, u64), (To, Flow, Bytes)>,
    serial: u64,
    notices: Vec<(usize, Notice)>,
    /// When REGISTERs of the first agent went to each address.
    registers: [Vec<Instant>; 2],
    answered: usize,
}

impl World {
    fn new(transport: Transport) -> World {
        let own = [0, 1].map(|n| Listen::plain(hub_address(n)));
        let now = Instant::now();
        let agent = |n: usize| {
            let aor = format!("sip:agent{n}@sipbox.invalid").parse().unwrap();
            let contact = contact_uri(&aor, agent_address(n), transport).unwrap();
            let flow = |hop| Flow { transport, local: 0, remote: hub_address(hop) };
            let config = Config {
                contact: contact.clone(),
                aor,
                instance: format!("urn:uuid:00000000-0000-4000-8000-{n:012x}"),
                next_hop: flow(0),
                credentials: None,
                expires: 600 * SECOND,
                refresh: None,
                timing: Timing::default(),
            };
            let mut agent = UserAgent::new(config, agent_address(n));
            // The second one has a single way, which is never cut.
            let hops = (0..2 - n).map(|hop| Hop { flow: flow(hop), contact: contact.clone() }).collect();
            agent.set_hops(now, vec![agent_address(n)], hops);
            agent
        };
        World {
            now,
            transport,
            hub: HomeProxy::new(&HubConfig::default(), &own, Timing::default(), now),
            agents: [agent(0), agent(1)],
            cut: [false; 2],
            on_the_way: BTreeMap::new(),
            serial: 0,
            notices: Vec::new(),
            registers: [Vec::new(), Vec::new()],
            answered: 0,
        }
    }

    fn put(&mut self, to: To, flow: Flow, payload: Bytes) {
        self.serial += 1;
        self.on_the_way.insert((self.now + DELAY, self.serial), (to, flow, payload));
    }

    fn is_cut(&self, agent: usize, hub: usize) -> bool {
        agent == 0 && self.cut[hub]
    }

    fn collect(&mut self) {
        for agent in 0..2 {
            while let Some(Transmit { flow, payload }) = self.agents[agent].poll_transmit() {
                let hub = usize::from(flow.remote.port() - 5060);
                let message = Message::parse_datagram(payload.clone());
                if agent == 0 && message.is_ok_and(|message| message.method() == Some(&Method::Register)) {
                    self.registers[hub].push(self.now);
                }
                if !self.is_cut(agent, hub) {
                    let back = Flow { local: hub as u16, remote: agent_address(agent), ..flow };
                    self.put(To::Hub, back, payload);
                } else if self.transport.is_reliable() {
                    self.agents[agent].handle_unreachable(self.now, flow, "Connection refused");
                }
            }
            while let Some(flow) = self.agents[agent].poll_close() {
                self.agents[agent].handle_unreachable(self.now, flow, "no answer");
            }
            while let Some(notice) = self.agents[agent].poll_notice() {
                if let Notice::Incoming { id, .. } = notice {
                    let end = End::Direct(Direct::passive("10.9.9.9:7000".parse().unwrap()));
                    self.agents[agent].accept(self.now, id, 0, &end);
                }
                self.answered += usize::from(matches!(notice, Notice::Answered(_)));
                self.notices.push((agent, notice));
            }
        }
        while let Some(Transmit { flow, payload }) = self.hub.poll_transmit() {
            let agent = usize::from(flow.remote.ip() == agent_address(1).ip());
            let hub = usize::from(flow.local);
            if !self.is_cut(agent, hub) {
                self.put(To::Agent(agent), Flow { local: 0, remote: hub_address(hub), ..flow }, payload);
            } else if self.transport.is_reliable() {
                self.hub.handle_unreachable(self.now, flow, "Connection refused");
            }
        }
    }

    fn deliver(&mut self, to: To, flow: Flow, bytes: Bytes) {
        let now = self.now;
        let message = Message::parse_datagram(bytes.clone());
        match (to, message) {
            (To::Hub, Ok(message)) => self.hub.handle_message(now, flow, message),
            (To::Agent(agent), Ok(message)) => self.agents[agent].handle_message(now, flow, message),
            (To::Hub, Err(_)) if stun::is_stun(&bytes) => self.hub.handle_sign(now, flow, Sign::Stun(&bytes)),
            (To::Agent(agent), Err(_)) if stun::is_stun(&bytes) => {
                self.agents[agent].handle_sign(now, flow, Sign::Stun(&bytes));
            }
            // CRLF, which the connection answers.
            (To::Hub, Err(_)) => {
                let agent = usize::from(flow.remote.ip() == agent_address(1).ip());
                let remote = hub_address(usize::from(flow.local));
                self.put(To::Agent(agent), Flow { local: 0, remote, ..flow }, Bytes::from_static(b"\r\n"));
            }
            (To::Agent(agent), Err(_)) => self.agents[agent].handle_sign(now, flow, Sign::Pong),
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for _ in 0..8 {
                self.collect();
            }
            let message = self.on_the_way.keys().next().map(|key| key.0);
            let timers = [self.hub.poll_timeout(), self.agents[0].poll_timeout(), self.agents[1].poll_timeout()];
            let Some(next) = timers.into_iter().chain([message]).flatten().min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if message.is_some_and(|at| at <= self.now) {
                let (_, (to, flow, bytes)) = self.on_the_way.pop_first().unwrap();
                self.deliver(to, flow, bytes);
            } else {
                self.hub.handle_timeout(self.now);
                for agent in &mut self.agents {
                    agent.handle_timeout(self.now);
                }
            }
        }
        self.now = end;
    }

    /// From now on nothing comes through between the first agent and this address. Connections end at once.
    fn cut(&mut self, hub: usize) {
        self.cut[hub] = true;
        if self.transport.is_reliable() {
            let flow = |local: usize, remote| Flow { transport: self.transport, local: local as u16, remote };
            self.agents[0].handle_unreachable(self.now, flow(0, hub_address(hub)), "reset");
            self.hub.handle_unreachable(self.now, flow(hub, agent_address(0)), "reset");
        }
    }

    fn bindings(&self) -> usize {
        self.hub.activity().bindings
    }

    /// Whether the first agent is reached by a call within `limit`, and whether it reaches the other.
    fn calls_through(&mut self, limit: Duration) -> bool {
        let before = self.answered;
        let source = "10.0.0.1:40000".parse().unwrap();
        for caller in [0, 1] {
            let offer = Offer::direct(Label { proto: Proto::Tcp, port: 7000 }, source, source);
            let target = format!("sip:agent{}@sipbox.invalid", 1 - caller).parse().unwrap();
            self.agents[caller].invite(self.now, SessionId::next(), &target, offer);
        }
        self.pass(limit);
        self.answered - before == 2
    }

    fn lost(&self) -> bool {
        self.notices.iter().any(|(agent, notice)| *agent == 0 && matches!(notice, Notice::RegistrationLost { .. }))
    }
}

fn registered(transport: Transport) -> World {
    let mut world = World::new(transport);
    for agent in &mut world.agents {
        agent.register(world.now);
    }
    world.pass(SECOND);
    assert_eq!(world.bindings(), 3, "two flows of the first agent, one of the other");
    assert!(world.calls_through(SECOND));
    // Silence means something once keep-alives have been answered.
    world.pass(20 * SECOND);
    world
}

/// Whichever flow is lost, calls go by the other one both ways, the user hears of nothing, and the lost flow comes back with growing pauses.
#[test]
fn of_two_flows_one_may_be_lost() {
    for transport in [Transport::Udp, Transport::Tcp] {
        for lost in [0, 1] {
            let mut world = registered(transport);
            world.cut(lost);
            // A datagram's way is known to be lost when keep-alives go unanswered.
            world.pass(if transport.is_reliable() { SECOND / 10 } else { 40 * SECOND });
            let which = format!("{transport:?}, flow {lost}");
            assert!(world.calls_through(SECOND), "{which}");
            world.registers = Default::default();
            world.pass(300 * SECOND);
            let attempts = &world.registers[lost];
            let pauses: Vec<Duration> = attempts.windows(2).map(|two| two[1] - two[0]).collect();
            let longest = pauses.iter().max().copied().unwrap_or_default();
            assert!(longest <= 70 * SECOND && attempts.len() < 110, "{which}: {pauses:?}");
            assert!(attempts.len() >= 3, "{which}: {attempts:?}");
            assert!(!world.lost(), "{which}");
            world.cut[lost] = false;
            world.pass(100 * SECOND);
            assert_eq!(world.bindings(), 3, "{which}");
            assert!(world.calls_through(SECOND), "{which}");
            // Now the other one may be lost.
            world.cut(1 - lost);
            world.pass(if transport.is_reliable() { SECOND / 10 } else { 40 * SECOND });
            assert!(world.calls_through(SECOND), "{which}, then the other");
            assert!(!world.lost(), "{which}");
        }
    }
}

/// A second server that does not answer when the first does is tried again with growing pauses, until it does.
#[test]
fn a_second_server_that_is_dead_is_tried_again() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut world = World::new(transport);
        world.cut[1] = true;
        let now = world.now;
        world.agents[0].register(now);
        world.pass(600 * SECOND);
        assert!(world.agents[0].is_registered() && world.bindings() == 1, "{transport:?}");
        let flows = world.agents[0].registration_flows(world.now);
        let shown: Vec<(SocketAddr, bool, bool)> =
            flows.iter().map(|flow| (flow.server, flow.in_use, flow.up)).collect();
        assert_eq!(shown, [(hub_address(0), true, true), (hub_address(1), false, false)], "{transport:?}");
        assert!(flows.iter().all(|flow| flow.since >= 590 * SECOND), "{flows:?}");
        assert_eq!(flows[0].retry, None);
        let attempts = &world.registers[1];
        let pauses: Vec<Duration> = attempts.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(attempts.len() >= 8 && pauses.iter().all(|pause| *pause <= 100 * SECOND), "{transport:?}: {pauses:?}");
        world.cut[1] = false;
        world.pass(100 * SECOND);
        assert_eq!(world.bindings(), 2, "{transport:?}");
        assert!(world.agents[0].registration_flows(world.now).iter().all(|flow| flow.up), "{transport:?}");
    }
}

/// Without any flow the user is told, and once a way is open again everything is back.
#[test]
fn both_flows_lost_and_back() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut world = registered(transport);
        world.cut(0);
        world.cut(1);
        world.pass(200 * SECOND);
        assert!(world.lost(), "{transport:?}");
        world.cut[1] = false;
        // The longest pause, and the time-out of the server that is still lost.
        world.pass(100 * SECOND);
        assert!(world.agents[0].is_registered() && world.calls_through(SECOND), "{transport:?}");
        world.cut[0] = false;
        world.pass(100 * SECOND);
        assert_eq!(world.bindings(), 3, "{transport:?}");
    }
}

/// Both bindings go at the end.
#[test]
fn both_flows_are_removed() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut world = registered(transport);
        let now = world.now;
        world.agents[0].unregister(now);
        world.pass(SECOND);
        assert_eq!(world.bindings(), 1, "{transport:?}");
        assert!(world.agents[0].poll_timeout().is_none_or(|at| at > world.now));
        world.registers = Default::default();
        world.pass(700 * SECOND);
        assert!(world.registers.iter().all(Vec::is_empty), "{transport:?}");
    }
}
