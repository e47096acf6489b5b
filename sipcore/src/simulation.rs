//! Agents and a hub in virtual time, over links that lose, double and reorder what is sent. Thousands of calls with every kind of race have
//! to come to the same end at both sides and leave nothing behind.

mod presence;

use crate::agent::{CallError, Direct, End, SessionId};
use crate::hub::HubConfig;
use crate::hub::home::HomeProxy;
use crate::label::{Label, Proto};
use crate::message::Message;
use crate::random;
use crate::sdp::Offer;
use crate::transaction::Timing;
use crate::transport::{Flow, Listen, Machine, Transmit, Transport};
use crate::user_agent::{Config, Notice, UserAgent, contact_uri};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// No link loses more than this in a row: of the seven times that an INVITE is sent one arrives, so that time-outs are never bad luck.
const MAX_LOST: u32 = 4;

/// How a link treats what is sent.
#[derive(Clone, Copy)]
struct Link {
    transport: Transport,
    /// In thousandths.
    loss: u64,
    doubled: u64,
    /// One byte is replaced.
    garbled: u64,
    max_delay_ms: u64,
}

const PERFECT: Link = Link { transport: Transport::Udp, loss: 0, doubled: 0, garbled: 0, max_delay_ms: 1 };
const ROUGH: Link = Link { transport: Transport::Udp, loss: 200, doubled: 100, garbled: 0, max_delay_ms: 700 };
const STREAM: Link = Link { transport: Transport::Tcp, loss: 0, doubled: 0, garbled: 0, max_delay_ms: 0 };

#[allow(clippy::large_enum_variant)]
enum Node {
    Agent(UserAgent),
    Hub(HomeProxy),
}

impl Node {
    fn poll_transmit(&mut self) -> Option<Transmit> {
        match self {
            Node::Agent(agent) => agent.poll_transmit(),
            Node::Hub(hub) => hub.poll_transmit(),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Node::Agent(agent) => agent.poll_timeout(),
            Node::Hub(hub) => hub.poll_timeout(),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self {
            Node::Agent(agent) => agent.handle_timeout(now),
            Node::Hub(hub) => hub.handle_timeout(now),
        }
    }

    fn handle_message(&mut self, now: Instant, flow: Flow, message: Message) {
        match self {
            Node::Agent(agent) => agent.handle_message(now, flow, message),
            Node::Hub(hub) => hub.handle_message(now, flow, message),
        }
    }
}

/// What a user does when something happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Accept(usize, SessionId),
    Reject(usize, SessionId),
    End(usize, SessionId),
}

struct World {
    now: Instant,
    start: Instant,
    link: Link,
    /// Of the agents: how often they register.
    refresh: Option<Duration>,
    /// Of the agents: for how long they register, publish and subscribe.
    expires: Duration,
    /// Nodes to and from which nothing comes through.
    deaf: BTreeSet<usize>,
    nodes: Vec<Node>,
    on_the_way: BTreeMap<(Instant, u64), (usize, Transport, usize, Bytes)>,
    plans: BTreeMap<(Instant, u64), Act>,
    serial: u64,
    /// How many were lost in a row, from and to.
    lost: BTreeMap<(usize, usize), u32>,
    notices: Vec<(usize, Notice)>,
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 5060 + node as u16))
}

fn chance(thousandths: u64) -> bool {
    random::number() % 1000 < thousandths
}

impl World {
    fn new(seed: u64, link: Link) -> Self {
        random::seed(seed);
        let now = Instant::now();
        World {
            now,
            start: now,
            link,
            refresh: None,
            expires: 3600 * SECOND,
            deaf: BTreeSet::new(),
            nodes: Vec::new(),
            on_the_way: BTreeMap::new(),
            plans: BTreeMap::new(),
            serial: 0,
            lost: BTreeMap::new(),
            notices: Vec::new(),
        }
    }

    fn add_agent(&mut self, user: &str, next_hop: usize) -> usize {
        let local = address(self.nodes.len());
        let aor = format!("sip:{user}@sipbox.invalid").parse().unwrap();
        let transport = self.link.transport;
        let config = Config {
            contact: contact_uri(&aor, local, transport).unwrap(),
            aor,
            instance: format!("urn:uuid:00000000-0000-4000-8000-{:012x}", self.nodes.len()),
            next_hop: Flow { transport, local: 0, remote: address(next_hop) },
            credentials: None,
            expires: self.expires,
            refresh: self.refresh,
            timing: Timing::default(),
        };
        self.nodes.push(Node::Agent(UserAgent::new(config, local)));
        self.nodes.len() - 1
    }

    fn add_hub(&mut self) -> usize {
        let own = [Listen::plain(address(self.nodes.len()))];
        self.nodes.push(Node::Hub(HomeProxy::new(&HubConfig::default(), &own, Timing::default(), self.now)));
        self.nodes.len() - 1
    }

    fn agent(&mut self, node: usize) -> &mut UserAgent {
        match &mut self.nodes[node] {
            Node::Agent(agent) => agent,
            Node::Hub(_) => panic!("not an agent"),
        }
    }

    fn plan(&mut self, within: std::ops::Range<u32>, act: Act) {
        self.serial += 1;
        let at = self.now + SECOND * within.start + SECOND.mul_f64(random::fraction()) * (within.end - within.start);
        self.plans.insert((at, self.serial), act);
    }

    /// Moves what the nodes want sent onto the links, and collects what they tell.
    fn collect(&mut self) {
        for node in 0..self.nodes.len() {
            while let Some(Transmit { flow, payload }) = self.nodes[node].poll_transmit() {
                let to = (0..self.nodes.len()).find(|to| address(*to) == flow.remote).expect("a node has this address");
                // What is too large for a datagram goes over a connection.
                let link = match flow.transport {
                    Transport::Udp => self.link,
                    _ => STREAM,
                };
                let copies = if chance(link.doubled) { 2 } else { 1 };
                for _ in 0..copies {
                    if self.deaf.contains(&node) || self.deaf.contains(&to) {
                        continue;
                    }
                    let lost = self.lost.entry((node, to)).or_default();
                    if *lost < MAX_LOST && chance(link.loss) {
                        *lost += 1;
                        continue;
                    }
                    *lost = 0;
                    let mut bytes = payload.to_vec();
                    if chance(link.garbled) {
                        let at = random::number() as usize % bytes.len();
                        bytes[at] = random::number() as u8;
                    }
                    self.serial += 1;
                    let delay = random::number() % (link.max_delay_ms + 1) * 1000 + 10;
                    let at = self.now + Duration::from_micros(delay);
                    self.on_the_way.insert((at, self.serial), (node, flow.transport, to, bytes.into()));
                }
            }
            if let Node::Agent(agent) = &mut self.nodes[node] {
                while let Some(notice) = agent.poll_notice() {
                    self.notices.push((node, notice));
                }
            }
        }
    }

    /// One step to the next thing that happens. `false`: nothing before `limit`.
    fn step(&mut self, limit: Instant) -> bool {
        self.collect();
        let message = self.on_the_way.keys().next().map(|key| key.0);
        let plan = self.plans.keys().next().map(|key| key.0);
        let timer = self.nodes.iter().filter_map(Node::poll_timeout).min();
        let Some(next) = [message, plan, timer].into_iter().flatten().min().filter(|at| *at <= limit) else {
            return false;
        };
        self.now = self.now.max(next);
        let now = self.now;
        if message.is_some_and(|at| at <= now) {
            let (_, (from, transport, to, bytes)) = self.on_the_way.pop_first().unwrap();
            if let Ok(message) = Message::parse_datagram(bytes) {
                let flow = Flow { transport, local: 0, remote: address(from) };
                self.nodes[to].handle_message(now, flow, message);
            }
        } else if plan.is_some_and(|at| at <= now) {
            let (_, act) = self.plans.pop_first().unwrap();
            match act {
                Act::Accept(node, id) => {
                    self.agent(node).accept(now, id, 0, &End::Direct(Direct::passive("10.9.9.9:7000".parse().unwrap())))
                }
                Act::Reject(node, id) => self.agent(node).reject(now, id, 486, "Busy Here"),
                Act::End(node, id) => self.agent(node).end(now, id),
            }
        } else {
            for node in &mut self.nodes {
                if node.poll_timeout().is_some_and(|at| at <= now) {
                    node.handle_timeout(now);
                }
            }
        }
        self.collect();
        true
    }

    fn register(&mut self, agents: &[usize]) {
        let now = self.now;
        for agent in agents {
            self.agent(*agent).register(now);
        }
        let limit = now + 60 * SECOND;
        while self.step(limit) && !agents.iter().all(|agent| self.agent(*agent).is_registered()) {}
        assert!(agents.iter().all(|agent| self.agent(*agent).is_registered()));
    }

    fn invite(&mut self, caller: usize) -> SessionId {
        let id = SessionId::next();
        let source = "10.0.0.1:40000".parse().unwrap();
        let offer = Offer::direct(Label { proto: Proto::Tcp, port: 7000 }, source, source);
        let now = self.now;
        self.agent(caller).invite(now, id, &"sip:bob@sipbox.invalid".parse().unwrap(), offer);
        id
    }

    /// Time passes until all is quiet.
    fn settle(&mut self, mut react: impl FnMut(&mut World, usize, &Notice)) {
        let limit = self.now + 420 * SECOND;
        let mut steps = 0;
        loop {
            let told = std::mem::take(&mut self.notices);
            for (node, notice) in &told {
                react(self, *node, notice);
            }
            if !self.step(limit) {
                break;
            }
            steps += 1;
            assert!(steps < 20_000, "no end after {:?}", self.now - self.start);
        }
    }

    fn assert_clean(&mut self, seed: u64) {
        for (index, node) in self.nodes.iter().enumerate() {
            match node {
                Node::Agent(agent) => assert_eq!(agent.leftovers(), [0; 8], "agent {index}, seed {seed}"),
                Node::Hub(hub) => assert_eq!(hub.leftovers(), [0; 6], "hub, seed {seed}"),
            }
        }
    }
}

/// How the users of one call behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Story {
    Accepted,
    Refused,
    /// The caller gives up at a random moment; the called user accepts at a random moment.
    GivenUp,
    /// Nobody ever answers.
    Ignored,
}

#[derive(Default)]
struct Outcome {
    answered: usize,
    failed: Vec<CallError>,
    taken: usize,
    told_ended: usize,
}

fn play(world: &mut World, caller: usize, story: Story) -> Outcome {
    let session = world.invite(caller);
    let mut outcome = Outcome::default();
    if story == Story::GivenUp {
        world.plan(0..3, Act::End(caller, session));
    }
    world.settle(|world, node, notice| match notice {
        Notice::Incoming { id, .. } => match story {
            Story::Accepted | Story::GivenUp => {
                outcome.taken += 1;
                world.plan(0..2, Act::Accept(node, *id));
                world.plan(3..60, Act::End(node, *id));
            }
            Story::Refused => world.plan(0..2, Act::Reject(node, *id)),
            Story::Ignored => {}
        },
        Notice::Answered(session) => {
            outcome.answered += 1;
            world.plan(0..60, Act::End(node, session.id));
        }
        Notice::Failed { error, .. } => outcome.failed.push(error.clone()),
        Notice::Ended { .. } => outcome.told_ended += 1,
        _ => {}
    });
    outcome
}

fn check(outcome: &Outcome, story: Story, seed: u64, context: &str) {
    let decided = outcome.answered + outcome.failed.len();
    let why = || format!("{context}, {story:?}, seed {seed}: {} {:?}", outcome.answered, outcome.failed);
    match story {
        Story::Accepted => assert_eq!((decided, outcome.answered), (1, 1), "{}", why()),
        Story::Refused => {
            assert!(matches!(outcome.failed[..], [CallError::Rejected { status: 486, .. }]), "{}", why());
        }
        Story::GivenUp => assert!(decided <= 1, "{}", why()),
        Story::Ignored => assert!(matches!(outcome.failed[..], [CallError::Timeout { .. }]), "{}", why()),
    }
}

fn run_direct(link: Link, story: Story, seed: u64) {
    let mut world = World::new(seed, link);
    let caller = world.add_agent("alice", 1);
    world.add_agent("bob", 0);
    let outcome = play(&mut world, caller, story);
    check(&outcome, story, seed, "direct");
    world.assert_clean(seed);
}

fn run_through_hub(link: Link, story: Story, called: usize, seed: u64) {
    let mut world = World::new(seed, link);
    let hub = world.add_hub();
    let caller = world.add_agent("alice", hub);
    let agents: Vec<usize> = (0..called).map(|_| world.add_agent("bob", hub)).collect();
    world.register(&agents);
    let outcome = play(&mut world, caller, story);
    check(&outcome, story, seed, "through the hub");
    world.assert_clean(seed);
}

const STORIES: [Story; 4] = [Story::Accepted, Story::Refused, Story::GivenUp, Story::Ignored];

#[test]
fn two_agents_over_any_link_agree() {
    for link in [PERFECT, ROUGH, STREAM] {
        for story in STORIES {
            for seed in 0..250 {
                run_direct(link, story, seed);
            }
        }
    }
}

#[test]
fn the_hub_changes_nothing() {
    for link in [PERFECT, ROUGH, STREAM] {
        for story in STORIES {
            for seed in 0..100 {
                run_through_hub(link, story, 1, seed);
            }
        }
    }
}

#[test]
fn of_several_agents_one_gets_the_call() {
    for link in [PERFECT, ROUGH, STREAM] {
        for story in STORIES {
            for seed in 0..60 {
                run_through_hub(link, story, 3, seed);
            }
        }
    }
}

/// Nothing has to work here but everything has to come to an end.
#[test]
fn garbled_messages_do_no_harm() {
    let link = Link { garbled: 300, ..ROUGH };
    for seed in 0..500 {
        let mut world = World::new(seed, PERFECT);
        let hub = world.add_hub();
        let caller = world.add_agent("alice", hub);
        let called = world.add_agent("bob", hub);
        world.register(&[called]);
        world.link = link;
        play(&mut world, caller, STORIES[seed as usize % 4]);
        world.assert_clean(seed);
    }
}

/// Over UDP nothing tells that a registrar has restarted and forgotten everybody. All are back soon all the same, and not all at once.
#[test]
fn a_registrar_that_restarts_is_found_again_without_a_storm() {
    const AGENTS: usize = 1000;
    for seed in 0..2 {
        let mut world = World::new(seed, PERFECT);
        world.refresh = Some(20 * SECOND);
        let hub = world.add_hub();
        let agents: Vec<usize> = (0..AGENTS).map(|i| world.add_agent(&format!("agent{i}"), hub)).collect();
        world.register(&agents);
        let uneven = world.now + 60 * SECOND;
        while world.step(uneven) {}
        world.nodes[hub] = Node::Hub(HomeProxy::new(
            &HubConfig::default(),
            &[Listen::plain(address(hub))],
            Timing::default(),
            world.now,
        ));
        let restart = world.now;
        let mut back = Vec::new();
        while back.len() < AGENTS {
            assert!(world.step(restart + 21 * SECOND), "{} of {AGENTS} are back, seed {seed}", back.len());
            let Node::Hub(home) = &world.nodes[hub] else { panic!("a hub") };
            back.resize(home.activity().bindings, world.now - restart);
        }
        let busiest = (0..21).map(|at| back.iter().filter(|time| time.as_secs() == at).count()).max();
        assert!(busiest.is_some_and(|busiest| busiest < AGENTS / 4), "{busiest:?} in one second, seed {seed}");
    }
}
