//! The timer values of RFC 3261 17.1.1.1 (table 4) and the two clocks that every transaction has.

use std::time::{Duration, Instant};

/// Base values from which every SIP timer is derived (RFC 3261 17.1.1.1, table 4).
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Estimate of the round trip; first retransmission.
    pub t1: Duration,
    /// Longest interval between retransmissions of non-INVITE requests and of INVITE responses.
    pub t2: Duration,
    /// How long a message may live in the network.
    pub t4: Duration,
    /// How long an unreliable INVITE client transaction absorbs repeated final responses (timer D, at least 32 s).
    pub d: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            d: Duration::from_secs(32),
        }
    }
}

impl Timing {
    /// 64*T1: timers B, F, H, J, L and M.
    pub fn limit(&self) -> Duration {
        self.t1 * 64
    }
}

/// What is due when a clock was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing yet.
    Nothing,
    /// Send the stored message again; the clock has set the next interval.
    Resend,
    /// The final timer of the state fired.
    Expired,
}

/// One retransmission timer with doubling interval and one timer that ends the state.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    resend_at: Option<Instant>,
    interval: Duration,
    cap: Option<Duration>,
    expires_at: Option<Instant>,
}

impl Clock {
    /// A clock that never fires.
    pub fn silent() -> Self {
        Clock::default()
    }

    /// Only ends the state after `limit`.
    pub fn ending(now: Instant, limit: Duration) -> Self {
        Clock { expires_at: Some(now + limit), ..Clock::default() }
    }

    /// Resends after `first`, doubling up to `cap`.
    pub fn resending(mut self, now: Instant, first: Duration, cap: Option<Duration>) -> Self {
        self.resend_at = Some(now + first);
        self.interval = first;
        self.cap = cap;
        self
    }

    /// From now on resends at `cap` at the earliest (timer E in Proceeding is T2).
    pub fn slow_down(&mut self) {
        if let Some(cap) = self.cap {
            self.interval = cap;
        }
    }

    /// The earliest moment at which `due` has something to say.
    pub fn next(&self) -> Option<Instant> {
        match (self.resend_at, self.expires_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// What is due at `now`; the end of the state goes first.
    pub fn due(&mut self, now: Instant) -> Due {
        if self.expires_at.is_some_and(|at| at <= now) {
            *self = Clock::silent();
            return Due::Expired;
        }
        if self.resend_at.is_some_and(|at| at <= now) {
            self.interval *= 2;
            if let Some(cap) = self.cap {
                self.interval = self.interval.min(cap);
            }
            self.resend_at = Some(now + self.interval);
            return Due::Resend;
        }
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_ends() {
        let start = Instant::now();
        let timing = Timing::default();
        let mut clock = Clock::ending(start, timing.limit()).resending(start, timing.t1, Some(timing.t2));
        let mut sent = Vec::new();
        loop {
            let now = clock.next().expect("a live clock has a next moment");
            match clock.due(now) {
                Due::Resend => sent.push((now - start).as_millis()),
                Due::Expired => break assert_eq!(now - start, Duration::from_secs(32)),
                Due::Nothing => panic!("nothing due at the promised moment"),
            }
        }
        assert_eq!(sent, [500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
        assert_eq!(clock.next(), None);
    }
}
