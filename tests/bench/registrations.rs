//! A hub that holds a hundred thousand registrations, against Kamailio with as many: how long a REGISTER takes while others come. Both in memory
//! alone; then the hub with its journal (`--state`), and how long it takes to start again with them after it was killed. Where the machine does other work,
//! p99 is how long that holds both up: `chrt -r 10 sipbox-bench 100,000` goes before it.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tests::{World, sip};

use crate::hub::Server;
use crate::{Goal, Table};

/// Names, each with one contact.
const NAMES: u32 = 100_000;
/// How often both servers are filled.
const ROUNDS: usize = 3;
/// Requests under way while the names register for the first time.
const WINDOW: usize = 64;
/// Registrations that are renewed for the measurement, and how many begin in a second: all names within fifty seconds.
const RENEWED: u32 = 20_000;
const PER_SECOND: u32 = 2_000;
/// What is not answered by then was lost, and is sent again (RFC 3261 17.1.1.1), so often at most.
const T1: Duration = Duration::from_millis(500);
const REPETITIONS: usize = 20;
/// Every so many names is asked for after the restart.
const SAMPLE: usize = 1_000;

/// An agent for all the names, on one socket.
struct Agent {
    socket: UdpSocket,
    from: SocketAddr,
    server: SocketAddr,
    domain: &'static str,
}

impl Agent {
    fn new(server: &Server) -> Agent {
        let socket = sip::socket();
        let from = socket.local_addr().unwrap_or_else(|e| panic!("the address of a UDP socket: {e}"));
        Agent { socket, from, server: server.at, domain: server.domain }
    }

    /// REGISTER number `cseq` of a name, whose agent is at an address of its own.
    fn send(&self, name: u32, cseq: u32) {
        let Agent { from, domain, .. } = self;
        let [_, a, b, c] = name.to_be_bytes();
        let request = format!(
            "REGISTER sip:{domain} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{name}-{cseq};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:user{name}@{domain}>;tag={name}\r\nTo: <sip:user{name}@{domain}>\r\n\
             Call-ID: {name}@bench\r\nCSeq: {cseq} REGISTER\r\nContact: <sip:user{name}@127.{a}.{b}.{c}:5060>\r\n\
             Expires: 3600\r\nContent-Length: 0\r\n\r\n"
        );
        self.socket.send_to(request.as_bytes(), self.server).unwrap_or_else(|e| panic!("sending to the server: {e}"));
    }

    /// The name that the next 200 is for; `None` when nothing comes for `wait`.
    fn answered(&self, wait: Duration) -> Option<u32> {
        let wait = wait.max(Duration::from_micros(1));
        self.socket.set_read_timeout(Some(wait)).unwrap_or_else(|e| panic!("a read time-out: {e}"));
        let mut buffer = [0; 65_536];
        let (n, _) = self.socket.recv_from(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..n]);
        assert_eq!(sip::status(&text), 200, "{text}");
        let call = text.lines().find_map(|line| line.strip_prefix("Call-ID: ")?.strip_suffix("@bench"));
        Some(call.and_then(|name| name.parse().ok()).unwrap_or_else(|| panic!("no Call-ID of ours in\n{text}")))
    }

    /// All names, a few at once.
    fn fill(&self) {
        let (mut next, mut waiting, mut silent) = (0, HashSet::new(), 0);
        while next < NAMES || !waiting.is_empty() {
            while next < NAMES && waiting.len() < WINDOW {
                self.send(next, 1);
                waiting.insert(next);
                next += 1;
            }
            match self.answered(T1) {
                Some(name) => silent = usize::from(!waiting.remove(&name)),
                None => {
                    silent += 1;
                    assert!(silent < REPETITIONS, "no answer to {} of the first {next} registrations", waiting.len());
                    waiting.iter().for_each(|name| self.send(*name, 1));
                }
            }
        }
    }

    /// Names all over the place, at a steady pace: what the answers took, in microseconds, sorted.
    fn renew(&self) -> Vec<f64> {
        let begin = Instant::now();
        // A name's turn: 7919 is prime to the number of names.
        let name_of = |turn: u32| (u64::from(turn) * 7_919 % u64::from(NAMES)) as u32;
        let due = |turn: u32| begin + Duration::from_secs(1) * turn / PER_SECOND;
        let mut sent = vec![None; NAMES as usize];
        let mut took = Vec::new();
        let (mut turn, mut repeated) = (0, 0);
        while took.len() < RENEWED as usize {
            while turn < RENEWED && due(turn) <= Instant::now() {
                sent[name_of(turn) as usize] = Some(Instant::now());
                self.send(name_of(turn), 2);
                turn += 1;
            }
            let wait = if turn < RENEWED { due(turn).saturating_duration_since(Instant::now()) } else { T1 };
            match self.answered(wait) {
                // An answer that comes twice counts once.
                Some(name) => took.extend(sent[name as usize].take().map(|since| since.elapsed().as_secs_f64() * 1e6)),
                None if turn < RENEWED => {}
                None => {
                    repeated += 1;
                    assert!(repeated < REPETITIONS, "{} renewals are not answered", RENEWED as usize - took.len());
                    (0..NAMES).filter(|name| sent[*name as usize].is_some()).for_each(|name| self.send(name, 2));
                }
            }
        }
        took.sort_by(f64::total_cmp);
        took
    }
}

/// What one round says of a server.
struct Outcome {
    half: f64,
    most: f64,
    longest: f64,
    memory: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Which {
    Kamailio,
    Hub,
    /// The hub, which writes each registration to its journal.
    Journal,
}

fn measure(which: Which, restarts: &mut Vec<f64>) -> Outcome {
    let world = World::new("bench-registrations");
    let state = world.path("state").display().to_string();
    let journal = ["--state", &state];
    let more: &[&str] = if which == Which::Journal { &journal } else { &[] };
    // Nobody is asked for a password; Kamailio's table of users may not be empty.
    let server = Server::start_with(&world, which != Which::Kamailio, true, &["user".to_owned()], more);
    let before = server.memory();
    let agent = Agent::new(&server);
    agent.fill();
    let took = agent.renew();
    let at = |share: f64| took[(took.len() as f64 * share) as usize];
    let outcome = Outcome {
        half: at(0.5),
        most: at(0.99),
        longest: took[took.len() - 1],
        memory: (server.memory() - before) / 1024.0,
    };
    if which == Which::Journal {
        let Server { process, .. } = server;
        process.signal(nix::sys::signal::Signal::SIGKILL);
        process.wait();
        let begin = Instant::now();
        let server = Server::start_with(&world, true, true, &[], more);
        restarts.push(begin.elapsed().as_secs_f64());
        let socket = sip::socket();
        let from = socket.local_addr().unwrap_or_else(|e| panic!("the address of a UDP socket: {e}"));
        for name in (0..NAMES).step_by(SAMPLE) {
            let aor = format!("sip:user{name}@{}", server.domain);
            let query = sip::request("REGISTER", &format!("sip:{}", server.domain), &aor, from, "");
            let answer = sip::ask(server.at, &query, &socket).unwrap_or_default();
            assert!(answer.contains(&format!("<sip:user{name}@127.")), "user{name} is lost: {answer}");
        }
    }
    outcome
}

pub fn rows(table: &mut Table) {
    let name = "REGISTER with 100,000 held, p99, hub / Kamailio";
    if !table.wants(name) {
        return;
    }
    let mut restarts = Vec::new();
    let mut outcomes: [Vec<Outcome>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (all, which) in outcomes.iter_mut().zip([Which::Kamailio, Which::Hub, Which::Journal]) {
            all.push(measure(which, &mut restarts));
        }
    }
    let [theirs, ours, kept] = &outcomes;
    let of = |outcomes: &[Outcome], which: fn(&Outcome) -> f64| -> Vec<f64> { outcomes.iter().map(which).collect() };
    let mut row = |name: &str, unit: &str, ours: &[Outcome], which: fn(&Outcome) -> f64, goal: Goal| {
        table.row(name, unit, &of(theirs, which), &of(ours, which), goal);
    };
    row(name, "us", ours, |outcome| outcome.most, Goal::AtMost(1.0));
    row("  (p50)", "us", ours, |outcome| outcome.half, Goal::None);
    row("  (the longest)", "us", ours, |outcome| outcome.longest, Goal::None);
    row("  (memory of the server)", "MiB", ours, |outcome| outcome.memory, Goal::AtMost(1.0));
    row("  p99 of the hub with a journal / Kamailio", "us", kept, |outcome| outcome.most, Goal::None);
    row("  (memory)", "MiB", kept, |outcome| outcome.memory, Goal::None);
    table.row("  start of the hub with them after kill -9", "s", &[], &restarts, Goal::None);
}
