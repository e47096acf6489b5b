//! Keeping the flow to the registrar open, and finding out when it is not (RFC 5626 4.4): CRLF on connections, STUN or CRLF as datagrams.

use crate::random;
use crate::transport::{Transport, stun};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The longest pause between two keep-alives. The least sometimes is 80 % of it.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long the answer on a connection may take (RFC 5626 4.4.1).
const PONG_LIMIT: Duration = Duration::from_secs(10);
/// First retransmission of a STUN request, doubling (RFC 8489 6.2.1), and how often it is sent.
const STUN_RTO: Duration = Duration::from_millis(500);
const STUN_TIMES: u32 = 4;

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    Nothing,
    Send(Bytes),
    /// The other end no longer answers.
    Failed,
}

#[derive(Debug)]
enum Waiting {
    Nobody,
    Pong,
    Stun { id: stun::Id, wire: Bytes, sent: u32 },
}

/// The machine. It runs while the binding stands.
#[derive(Debug)]
pub(super) struct KeepAlive {
    transport: Transport,
    interval: Duration,
    /// The registrar does RFC 5626, so it answers STUN.
    outbound: bool,
    /// It has answered before: silence means something.
    answers: bool,
    mapped: Option<SocketAddr>,
    waiting: Waiting,
    next: Option<Instant>,
}

impl KeepAlive {
    pub fn new(transport: Transport) -> Self {
        KeepAlive {
            transport,
            interval: INTERVAL,
            outbound: false,
            answers: false,
            mapped: None,
            waiting: Waiting::Nobody,
            next: None,
        }
    }

    /// The binding stands. `flow_timer`: how long the registrar keeps a silent flow.
    pub fn start(&mut self, now: Instant, outbound: bool, flow_timer: Option<Duration>) {
        let longest = flow_timer.filter(|timer| *timer >= Duration::from_secs(1));
        self.interval = longest.map_or(INTERVAL, |timer| timer.min(INTERVAL));
        self.outbound = outbound;
        self.wait(now);
    }

    /// There is no binding, or the flow is another one now.
    pub fn stop(&mut self) {
        *self = KeepAlive::new(self.transport);
    }

    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    fn wait(&mut self, now: Instant) {
        self.waiting = Waiting::Nobody;
        self.next = Some(now + self.interval.mul_f64(0.8 + 0.2 * random::fraction()));
    }

    pub fn on_timer(&mut self, now: Instant) -> Act {
        if self.next.is_none_or(|at| at > now) {
            return Act::Nothing;
        }
        match &mut self.waiting {
            Waiting::Nobody => self.send(now),
            Waiting::Stun { wire, sent, .. } if *sent < STUN_TIMES => {
                self.next = Some(now + STUN_RTO * (1 << *sent));
                *sent += 1;
                Act::Send(wire.clone())
            }
            Waiting::Pong | Waiting::Stun { .. } if self.answers => {
                self.stop();
                Act::Failed
            }
            // It never did answer: nothing follows from silence.
            Waiting::Pong | Waiting::Stun { .. } => {
                self.wait(now);
                Act::Nothing
            }
        }
    }

    fn send(&mut self, now: Instant) -> Act {
        if self.transport == Transport::Udp && self.outbound {
            let id = u128::from(random::number()) << 32 | u128::from(random::number() as u32);
            let (id, wire) = stun::request(id);
            self.next = Some(now + STUN_RTO);
            self.waiting = Waiting::Stun { id, wire: wire.clone(), sent: 1 };
            return Act::Send(wire);
        }
        self.wait(now);
        if self.transport.is_reliable() {
            self.waiting = Waiting::Pong;
            self.next = Some(now + PONG_LIMIT);
        }
        Act::Send(Bytes::from_static(b"\r\n\r\n"))
    }

    /// CRLF came on the connection.
    pub fn on_pong(&mut self, now: Instant) {
        if matches!(self.waiting, Waiting::Pong) {
            self.answers = true;
            self.wait(now);
        }
    }

    /// A STUN message came. `true`: the way to the registrar is another one now, by which no request finds us (RFC 5626 4.4.2).
    pub fn on_stun(&mut self, now: Instant, message: &[u8]) -> bool {
        let Waiting::Stun { id, .. } = &self.waiting else { return false };
        let Some(seen) = stun::mapped(message, *id) else { return false };
        self.answers = true;
        self.wait(now);
        self.mapped.replace(seen).is_some_and(|before| before != seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(machine: &mut KeepAlive) -> (Instant, Act) {
        let at = machine.next().expect("a keep-alive is set");
        (at, machine.on_timer(at))
    }

    #[test]
    fn a_connection_that_no_longer_answers_has_failed() {
        let now = Instant::now();
        let mut machine = KeepAlive::new(Transport::Tcp);
        machine.start(now, false, None);
        let (at, act) = due(&mut machine);
        assert!(at - now <= INTERVAL && at - now >= INTERVAL.mul_f64(0.8));
        assert_eq!(act, Act::Send(Bytes::from_static(b"\r\n\r\n")));
        // Not every server answers.
        let (at, act) = due(&mut machine);
        assert_eq!(act, Act::Nothing);
        assert!(matches!(due(&mut machine), (_, Act::Send(_))));
        machine.on_pong(at);
        assert!(matches!(due(&mut machine), (_, Act::Send(_))));
        assert_eq!(due(&mut machine).1, Act::Failed);
        assert_eq!(machine.next(), None);
    }

    #[test]
    fn stun_finds_the_end_of_a_flow_and_a_new_address() {
        let now = Instant::now();
        let mut machine = KeepAlive::new(Transport::Udp);
        machine.start(now, true, Some(Duration::from_secs(5)));
        let ask = |machine: &mut KeepAlive| match due(machine) {
            (at, Act::Send(wire)) => (at, wire),
            other => panic!("{other:?}"),
        };
        let (at, wire) = ask(&mut machine);
        assert!(at - now <= Duration::from_secs(5));
        let answer = |wire: &[u8], port: u16| stun::answer(wire, ([192, 0, 2, 1], port).into()).unwrap();
        assert!(!machine.on_stun(at, &answer(&wire, 1000)));
        let (at, wire) = ask(&mut machine);
        assert_eq!(ask(&mut machine).1, wire, "sent again");
        assert!(machine.on_stun(at, &answer(&wire, 2000)), "moved");
        assert!(!machine.on_stun(at, &answer(&wire, 3000)), "an answer counts once");
        for _ in 0..STUN_TIMES {
            ask(&mut machine);
        }
        assert_eq!(due(&mut machine).1, Act::Failed);
    }
}
