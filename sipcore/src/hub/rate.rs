//! How often each address may do something: a token bucket per source.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses that are remembered. Above it those with a full bucket are forgotten; if there are none, everybody else shares one bucket.
const MAX_SOURCES: usize = 65_536;

/// The buckets of all addresses. A bucket is what it was full plus the time that has passed, so one moment describes it.
#[derive(Debug)]
pub(crate) struct Rates {
    burst: u32,
    interval: Duration,
    /// When the bucket of each source will be full.
    full_at: HashMap<IpAddr, Instant>,
}

impl Rates {
    /// `burst` at once, then one more after each `interval`.
    pub fn new(burst: u32, interval: Duration) -> Self {
        Rates { burst, interval, full_at: HashMap::new() }
    }

    /// Takes one from the bucket of `source`. `false`: it is empty.
    pub fn admit(&mut self, now: Instant, source: IpAddr) -> bool {
        if self.full_at.len() >= MAX_SOURCES && !self.full_at.contains_key(&source) {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let source = match self.full_at.len() < MAX_SOURCES || self.full_at.contains_key(&source) {
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
    }
}
