//! The loopback addresses of a run. One is enough until the program's connections come fast: a port of TCP is not free for a minute after
//! its connection (TIME-WAIT, RFC 9293, section 3.6.1), the kernel looks for a free one longer and longer (7 ms after 14,000), and finds
//! none after 28,000 (ip_local_port_range, ip(7)).

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::guard::MARK_PORT;

/// So many connections have one address, then the next ones have another.
const OF_ONE: u32 = 8192;
/// At most so many addresses: with them 8,700 connections a second find a port.
const MOST: usize = 64;
/// How long a port is in use after its connection.
const TIME_WAIT: Duration = Duration::from_secs(60);

pub struct Homes {
    first: Ipv4Addr,
    /// Where the next connection is, as its bits.
    current: AtomicU32,
    given: AtomicU32,
    all: Mutex<Vec<Home>>,
}

struct Home {
    ip: Ipv4Addr,
    /// When it was the current one last.
    left: Instant,
    /// No other run has it.
    _mark: UdpSocket,
}

impl Homes {
    /// Takes the first address.
    ///
    /// # Errors
    /// In words: none can be had.
    pub fn claim() -> Result<Homes, String> {
        let first = Home::claim()?;
        let ip = first.ip;
        Ok(Homes {
            first: ip,
            current: AtomicU32::new(ip.to_bits()),
            given: AtomicU32::new(0),
            all: Mutex::new(vec![first]),
        })
    }

    /// The one that is there from the start, where all is that stays where it is.
    pub fn first(&self) -> Ipv4Addr {
        self.first
    }

    /// Where a socket of TCP is to be that connects and needs no port in particular.
    pub fn next(&self) -> Ipv4Addr {
        if self.given.fetch_add(1, Ordering::Relaxed) % OF_ONE == OF_ONE - 1 {
            self.move_on(Instant::now());
        }
        Ipv4Addr::from_bits(self.current.load(Ordering::Relaxed))
    }

    /// Whether this is an address of the run.
    pub fn has(&self, ip: Ipv4Addr) -> bool {
        ip == self.first || self.all.lock().iter().any(|home| home.ip == ip)
    }

    #[cold]
    fn move_on(&self, now: Instant) {
        let mut all = self.all.lock();
        let current = Ipv4Addr::from_bits(self.current.load(Ordering::Relaxed));
        if let Some(home) = all.iter_mut().find(|home| home.ip == current) {
            home.left = now;
        }
        let longest = all.iter().min_by_key(|home| home.left).map(|home| (home.ip, home.left));
        let rested = longest.filter(|(_, left)| now.duration_since(*left) > TIME_WAIT || all.len() >= MOST);
        let next = match rested {
            Some((ip, _)) => ip,
            None => match Home::claim() {
                Ok(home) => {
                    let ip = home.ip;
                    all.push(home);
                    ip
                }
                Err(error) => {
                    tracing::debug!(error, "connections have no more addresses");
                    return;
                }
            },
        };
        self.current.store(next.to_bits(), Ordering::Relaxed);
    }
}

impl Home {
    /// A loopback address that no other run has: in 127.64.0.0/10, marked by a bound port.
    fn claim() -> Result<Home, String> {
        const TRIES: usize = 64;
        let mut last = None;
        for _ in 0..TRIES {
            let mut random = [0u8; 4];
            getrandom::fill(&mut random).map_err(|e| format!("no random numbers: {e}"))?;
            let [a, b, c, _] = random;
            let ip = Ipv4Addr::new(127, 64 | (a & 0x3f), b, c.clamp(1, 254));
            match UdpSocket::bind(SocketAddrV4::new(ip, MARK_PORT)) {
                Ok(mark) => return Ok(Home { ip, left: Instant::now(), _mark: mark }),
                Err(e) => last = Some(e),
            }
        }
        Err(format!("no loopback address in 127.64.0.0/10 can be bound: {last:?}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_have_many_addresses() {
        let homes = Homes::claim().unwrap();
        let mut seen = vec![homes.first()];
        for _ in 0..3 * OF_ONE {
            let next = homes.next();
            assert!(homes.has(next));
            if seen.last() != Some(&next) {
                seen.push(next);
            }
        }
        assert_eq!(seen.len(), 4);
        assert!(!homes.has(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn one_that_has_rested_is_used_again() {
        let homes = Homes::claim().unwrap();
        let now = Instant::now();
        homes.move_on(now);
        assert_ne!(homes.next(), homes.first());
        homes.move_on(now + 2 * TIME_WAIT);
        assert_eq!(homes.next(), homes.first());
        assert_eq!(homes.all.lock().len(), 2);
    }
}
