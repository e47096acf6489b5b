//! How often each address may do something: a token bucket per source.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Sources that are remembered. Above it those with a full bucket are forgotten; while none is found, everybody else shares one bucket.
const MAX_SOURCES: usize = 65_536;
/// How many are looked at for that.
const LOOK_AT: usize = 8;

/// The buckets of all sources: of IPv4 an address, of IPv6 a /64. A bucket is what it was full plus the time that has passed, so one moment describes it.
#[derive(Debug)]
pub(crate) struct Rates {
    burst: u32,
    interval: Duration,
    /// When the bucket of each source will be full.
    full_at: HashMap<IpAddr, Instant>,
    /// The sources, in a ring, and where the next one to forget is looked for.
    ring: Vec<IpAddr>,
    hand: usize,
}

impl Rates {
    /// `burst` at once, then one more after each `interval`.
    pub fn new(burst: u32, interval: Duration) -> Self {
        Rates { burst, interval, full_at: HashMap::new(), ring: Vec::new(), hand: 0 }
    }

    /// Takes one from the bucket of `source`. `false`: it is empty.
    pub fn admit(&mut self, now: Instant, source: IpAddr) -> bool {
        let source = crate::transport::source(source);
        let source = match self.full_at.contains_key(&source) || self.make_room(now, source) {
            true => source,
            false => IpAddr::from([0, 0, 0, 0]),
        };
        let full_at = self.full_at.entry(source).or_insert(now);
        let next = (*full_at).max(now) + self.interval;
        let admitted = next - now <= self.interval * self.burst;
        if admitted {
            *full_at = next;
        }
        admitted
    }

    /// Puts a new source into the ring, in the place of one whose bucket is full when there are too many. `false`: none was found.
    fn make_room(&mut self, now: Instant, source: IpAddr) -> bool {
        if self.ring.len() < MAX_SOURCES {
            self.ring.push(source);
            return true;
        }
        for _ in 0..LOOK_AT {
            self.hand = (self.hand + 1) % MAX_SOURCES;
            let Some(old) = self.ring.get_mut(self.hand) else { continue };
            if self.full_at.get(old).is_none_or(|full_at| *full_at <= now) {
                self.full_at.remove(old);
                *old = source;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut rates = Rates::new(3, second);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let taken = |rates: &mut Rates, at: Instant| (0..10).filter(|_| rates.admit(at, one)).count();
        assert_eq!(taken(&mut rates, now), 3);
        assert!(rates.admit(now, other));
        assert_eq!(taken(&mut rates, now + second), 1);
        assert_eq!(taken(&mut rates, now + 10 * second), 3);
    }

    /// Who has an address of IPv6 has the 2^64 of its network.
    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let now = Instant::now();
        let mut rates = Rates::new(3, Duration::from_secs(1));
        let address = |network: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]);
        assert_eq!((0..10).filter(|host| rates.admit(now, address(1, *host))).count(), 3);
        assert!(rates.admit(now, address(2, 1)));
        assert!(rates.admit(now, [10, 0, 0, 1].into()));
        assert_eq!(rates.ring.len(), 3);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut rates = Rates::new(2, Duration::from_secs(1));
        for n in 0..MAX_SOURCES as u32 + 10 {
            rates.admit(now, IpAddr::from(n.to_be_bytes().map(|byte| byte | 1)));
            rates.admit(now, IpAddr::from((n + (1 << 24)).to_be_bytes()));
        }
        assert!(rates.full_at.len() <= MAX_SOURCES + 1);
        assert!(!rates.admit(now, IpAddr::from([250, 0, 0, 1])), "the shared bucket is empty");
        // Those who have been quiet give their places away.
        let later = now + Duration::from_secs(60);
        for n in 0..3 * MAX_SOURCES as u32 {
            assert!(rates.admit(later, IpAddr::from((n + (200 << 24)).to_be_bytes())) || n >= MAX_SOURCES as u32);
        }
        assert!(rates.full_at.len() <= MAX_SOURCES + 1 && rates.ring.len() == MAX_SOURCES);
    }
}
