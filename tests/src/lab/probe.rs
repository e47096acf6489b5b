//! Finds out what a router does, by plain UDP sockets and nothing of sipbox: the lab's check of itself.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::namespace::Namespace;
use super::nat::{Filtering, Mapping};

/// How long an answer may take on a busy machine. Waited for in full only where UDP is blocked.
const ANSWER: Duration = Duration::from_secs(2);
/// What was sent before the answer that came, on the same way, may still come this much later.
const LATE: Duration = Duration::from_millis(30);
/// A question is asked again after this.
const AGAIN: Duration = Duration::from_millis(250);

/// Sockets on two addresses and two ports of the public network. Each tells whoever asks where the question came from, also by way of others.
pub(super) struct Reflector {
    /// First address and port; the first address with another port; another address with the first port.
    sockets: [UdpSocket; 3],
    stop: AtomicBool,
}

/// What was found out of a host's way to the public network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// How its public address depends on whom it talks to.
    pub mapping: Mapping,
    /// Who can reach it.
    pub filtering: Filtering,
    /// A packet that came before the socket's first one changes the public port of that first one.
    pub moved_by_early_packet: bool,
}

impl Reflector {
    /// Opens its sockets. The two addresses are of one family.
    pub fn new(public: &Namespace, one: IpAddr, other: IpAddr) -> Reflector {
        let sockets = public.enter(|| {
            let bind = |ip: IpAddr, port| {
                let socket = UdpSocket::bind((ip, port)).unwrap_or_else(|e| panic!("UDP {ip}:{port}: {e}"));
                socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap_or_else(|e| panic!("a time-out: {e}"));
                socket
            };
            let first = bind(one, 0);
            let port = first.local_addr().map_or(0, |a| a.port());
            [first, bind(one, 0), bind(other, port)]
        });
        Reflector { sockets, stop: AtomicBool::new(false) }
    }

    fn address(&self, index: usize) -> SocketAddr {
        self.sockets[index].local_addr().unwrap_or_else(|e| panic!("the address of a socket: {e}"))
    }

    /// Answers `who` with the source; `N` also from the socket of that number, before its own answer.
    fn serve(&self, index: usize) {
        let mut buffer = [0; 64];
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((n, from)) = self.sockets[index].recv_from(&mut buffer) else { continue };
            let answer = from.to_string();
            if let Some(other) = std::str::from_utf8(&buffer[..n]).ok().and_then(|t| t.parse::<usize>().ok()) {
                let _ = self.sockets[other].send_to(b"unasked", from);
            }
            let _ = self.sockets[index].send_to(answer.as_bytes(), from);
        }
    }

    /// Looks from `host`, whose socket is bound to the address `local`, and which the public network sees as `outside`.
    pub fn look(&self, host: &Namespace, local: IpAddr, outside: IpAddr) -> Behaviour {
        std::thread::scope(|scope| {
            for index in 0..self.sockets.len() {
                scope.spawn(move || self.serve(index));
            }
            let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.seen_from(host, local, outside)));
            self.stop.store(true, Ordering::Relaxed);
            seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn seen_from(&self, host: &Namespace, local: IpAddr, outside: IpAddr) -> Behaviour {
        let bind = |port| host.enter(|| UdpSocket::bind((local, port))).unwrap_or_else(|e| panic!("UDP {local}: {e}"));
        let own = |socket: &UdpSocket| socket.local_addr().unwrap_or_else(|e| panic!("the address of a socket: {e}"));

        let socket = bind(0);
        let Some(first) = self.ask(&socket, 0, "who") else {
            return Behaviour {
                mapping: Mapping::Nothing,
                filtering: Filtering::Nothing,
                moved_by_early_packet: false,
            };
        };
        let again =
            |index| self.ask(&socket, index, "who").unwrap_or_else(|| panic!("{local} reaches only one of two"));
        let (port, address) = (again(1), again(2));
        let mapping = match (first == port, first == address) {
            (true, true) if first == own(&socket) => Mapping::None,
            (true, true) => Mapping::EndpointIndependent,
            (true, false) => Mapping::AddressDependent,
            _ => Mapping::AddressAndPortDependent,
        };

        // A fresh socket that has sent to the first one only.
        let heard = |other: usize| {
            let socket = bind(0);
            self.unasked(&socket, other)
        };
        let filtering = match (heard(1), heard(2)) {
            (true, true) => Filtering::EndpointIndependent,
            (true, false) => Filtering::AddressDependent,
            (false, false) => Filtering::AddressAndPortDependent,
            (false, true) => panic!("{local} hears other addresses, but not other ports of the one it talks to"),
        };

        // Somebody sends to the public port of a socket that is still silent. It may be that a router gives it to no flow at all.
        let moved = |early: bool| {
            let socket = bind(0);
            let expected = SocketAddr::new(outside, own(&socket).port());
            if early {
                let _ = self.sockets[0].send_to(b"early", expected);
                std::thread::sleep(LATE);
            }
            self.ask(&socket, 0, "who").is_some_and(|seen| seen != expected)
        };
        Behaviour { mapping, filtering, moved_by_early_packet: !moved(false) && moved(true) }
    }

    /// Where the socket of this number sees the question come from.
    fn ask(&self, socket: &UdpSocket, index: usize, question: &str) -> Option<SocketAddr> {
        let to = self.address(index);
        let end = Instant::now() + ANSWER;
        let mut buffer = [0; 64];
        socket.set_read_timeout(Some(AGAIN)).ok()?;
        while Instant::now() < end {
            let _ = socket.send_to(question.as_bytes(), to);
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((n, from)) if from == to => return std::str::from_utf8(&buffer[..n]).ok()?.parse().ok(),
                    Ok(_) => {}
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                    // ICMP of an earlier one.
                    Err(_) => std::thread::sleep(LATE),
                }
            }
        }
        None
    }

    /// Whether the socket, which asks the first, hears the one of this number, which it does not ask. What comes from there is sent before the
    /// first one's own answer, so that there is nothing to wait for when that has come.
    fn unasked(&self, socket: &UdpSocket, other: usize) -> bool {
        let from = self.address(other);
        let mut buffer = [0; 64];
        let end = Instant::now() + ANSWER;
        let mut answered = false;
        socket.set_read_timeout(Some(LATE)).unwrap_or_else(|e| panic!("a time-out: {e}"));
        while Instant::now() < end && !answered {
            let _ = socket.send_to(other.to_string().as_bytes(), self.address(0));
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((_, source)) if source == from => return true,
                    Ok(_) => answered = true,
                    Err(_) => break,
                }
            }
        }
        assert!(answered, "{} does not answer", self.address(0));
        false
    }
}
