//! Registration of one contact (RFC 3261 10.2): when to send REGISTER, how long it stands, and how failures are paced (RFC 5626 4.5).

use crate::backoff::{Backoff, Failure};
use std::time::{Duration, Instant};

/// Agents that lose one registrar do not all come back at the same moment.
const SPREAD: Duration = Duration::from_secs(1);
/// A registrar that ends the registration time and again is come back to ever later; when it has let it stand for this long, at once.
const TRUST: Duration = Duration::from_secs(600);
/// A registrar says how long it wants to be left alone; longer than this nobody waits.
const MAX_PROBATION: Duration = Duration::from_secs(24 * 3600);
/// A registrar that keeps raising Min-Expires is not followed for ever.
const MIN_EXPIRES_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is wanted.
    Idle,
    /// REGISTER is on its way.
    Asking,
    /// The binding stands.
    Standing,
    /// A failure; the next attempt is set.
    Waiting,
    /// REGISTER with Expires: 0 is on its way.
    Removing,
}

/// What has changed for the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// The first success after `start`.
    Registered,
    /// A success after a loss.
    Restored,
    /// A refresh failed; attempts go on.
    Lost,
    /// The first attempt failed. Whether attempts go on, `next` tells.
    Refused,
    /// The binding is gone, as wanted.
    Removed,
    /// The answer for which the removal had to wait: REGISTER with Expires: 0 is due now.
    Leaving,
}

/// The machine. It knows no messages: the user agent writes REGISTER and reads the answer.
#[derive(Debug)]
pub(crate) struct Registration {
    phase: Phase,
    /// It stood once since `start`.
    stood: bool,
    lost: bool,
    /// The binding is not wanted any more, but a REGISTER still waits for its answer, and there is one at a time (RFC 3261 10.2).
    leaving: bool,
    asked: Duration,
    backoff: Backoff,
    /// How often the registrar has ended it of itself, and when it did last.
    ended: (Backoff, Option<Instant>),
    next: Option<Instant>,
}

impl Registration {
    pub fn new(expires: Duration) -> Self {
        Registration {
            phase: Phase::Idle,
            stood: false,
            lost: false,
            leaving: false,
            asked: expires,
            backoff: Backoff::default(),
            ended: (Backoff::default(), None),
            next: None,
        }
    }

    /// The Expires value for the next REGISTER.
    pub fn expires(&self) -> Duration {
        match self.phase {
            Phase::Removing => Duration::ZERO,
            _ => self.asked,
        }
    }

    /// The binding stands as far as we know.
    pub fn is_standing(&self) -> bool {
        self.stood && !self.lost && !self.leaving && self.phase != Phase::Removing
    }

    /// The binding is to go as soon as REGISTER has been answered.
    pub fn is_leaving(&self) -> bool {
        self.leaving || self.phase == Phase::Removing
    }

    /// Nothing is wanted.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// The user wants to be registered. `true`: send REGISTER now.
    pub fn start(&mut self) -> bool {
        match self.phase {
            Phase::Idle | Phase::Waiting => {
                self.phase = Phase::Asking;
                self.next = None;
                true
            }
            _ => false,
        }
    }

    /// The user wants the binding gone. `true`: send REGISTER with Expires 0 now.
    pub fn remove(&mut self) -> bool {
        self.next = None;
        if matches!(self.phase, Phase::Asking | Phase::Removing) {
            self.leaving |= self.phase == Phase::Asking;
            return false;
        }
        let had = self.stood;
        self.phase = if had { Phase::Removing } else { Phase::Idle };
        had
    }

    /// 2xx: the binding stands for `granted`. The refresh comes after 50 to 60 % of it, and after `longest` at the latest; `jitter` is between 0
    /// and 1.
    pub fn on_success(&mut self, now: Instant, granted: Duration, longest: Option<Duration>, jitter: f64) -> Change {
        self.backoff.reset();
        if self.phase == Phase::Removing {
            *self = Registration::new(self.asked);
            return Change::Removed;
        }
        if self.leaving {
            self.leaving = false;
            self.phase = Phase::Removing;
            return Change::Leaving;
        }
        self.phase = Phase::Standing;
        let refresh = longest.map_or(granted, |longest| granted.min(longest.mul_f64(1.0 / 0.6)));
        self.next = Some(now + refresh.mul_f64(0.5 + 0.1 * jitter));
        let change = match (self.stood, self.lost) {
            (_, true) => Change::Restored,
            (false, false) => Change::Registered,
            (true, false) => Change::None,
        };
        self.stood = true;
        self.lost = false;
        change
    }

    /// 423 with Min-Expires. `true`: send REGISTER again now with the longer expiry.
    pub fn on_too_brief(&mut self, min_expires: Duration) -> bool {
        let follow = self.phase == Phase::Asking && min_expires > self.asked && min_expires <= MIN_EXPIRES_LIMIT;
        if follow {
            self.asked = min_expires;
        }
        follow
    }

    /// The attempt failed; `jitter` is between 0 and 1.
    pub fn on_failure(&mut self, now: Instant, failure: Failure, jitter: f64) -> Change {
        if self.phase == Phase::Removing || self.leaving {
            *self = Registration::new(self.asked);
            return Change::Removed;
        }
        if !self.stood && failure == Failure::Final {
            *self = Registration::new(self.asked);
            return Change::Refused;
        }
        let pause = self.backoff.pause(failure, jitter);
        self.phase = Phase::Waiting;
        self.next = Some(now + pause);
        match (self.stood, std::mem::replace(&mut self.lost, true)) {
            (false, false) => Change::Refused,
            (true, false) => Change::Lost,
            (_, true) => Change::None,
        }
    }

    /// The way to the registrar broke or is doubtful: ask again within a second; `jitter` is between 0 and 1.
    pub fn on_doubt(&mut self, now: Instant, jitter: f64) {
        if self.phase == Phase::Standing {
            let soon = now + SPREAD.mul_f64(jitter);
            self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
        }
    }

    /// The binding stands, and no REGISTER is on its way.
    pub fn is_settled(&self) -> bool {
        self.phase == Phase::Standing
    }

    /// The registrar says that the binding stands for `left` only (RFC 3680 5.1, "shortened"): it is refreshed after 50 to 60 % of that at the latest,
    /// and not before a second has passed.
    pub fn on_shortened(&mut self, now: Instant, left: Duration, jitter: f64) {
        if self.phase == Phase::Standing {
            let soon = now + left.mul_f64(0.5 + 0.1 * jitter).max(SPREAD);
            self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
        }
    }

    /// The registrar has ended the binding (RFC 3680 5.1): it is asked for again within half a second, or after `retry_after`; the oftener that
    /// happens, the later. `jitter` is between 0 and 1.
    pub fn on_ended(&mut self, now: Instant, retry_after: Option<Duration>, jitter: f64) {
        let (backoff, last) = &mut self.ended;
        if last.is_some_and(|last| now.saturating_duration_since(last) > TRUST) {
            backoff.reset();
        }
        let pause = backoff.pause(Failure::Refused(None), jitter);
        self.ended.1 = Some(now);
        self.phase = Phase::Waiting;
        self.lost = true;
        self.next = Some(now + pause.max(retry_after.unwrap_or_default().min(MAX_PROBATION)));
    }

    /// The registrar has ended the binding, and does not want it again: it is not asked for any more, until `start`.
    pub fn on_rejected(&mut self) {
        *self = Registration::new(self.asked);
    }

    /// This end is elsewhere: ask again at once. `false`: nothing is wanted.
    pub fn on_move(&mut self, now: Instant) -> bool {
        if matches!(self.phase, Phase::Standing | Phase::Waiting) {
            self.next = Some(now);
        }
        !matches!(self.phase, Phase::Idle | Phase::Removing) && !self.leaving
    }

    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// `true`: send REGISTER now.
    pub fn on_timer(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|at| at <= now);
        if due {
            self.next = None;
            self.phase = Phase::Asking;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::{MAX as BACKOFF_MAX, MAX_REFUSED as BACKOFF_MAX_REFUSED};

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn is_refreshed_before_it_expires() {
        let now = Instant::now();
        let mut registration = Registration::new(HOUR);
        assert!(registration.start());
        assert!(!registration.start(), "one REGISTER at a time");
        assert_eq!(registration.on_success(now, HOUR, None, 1.0), Change::Registered);
        let due = registration.next().expect("a refresh is set");
        assert!(due < now + HOUR && due > now + HOUR / 3);
        assert!(!registration.on_timer(now));
        assert!(registration.on_timer(due));
        assert_eq!(registration.on_success(due, HOUR, None, 0.0), Change::None);
    }

    #[test]
    fn failures_back_off_and_are_told_once() {
        let mut now = Instant::now();
        let mut registration = Registration::new(HOUR);
        registration.start();
        registration.on_success(now, HOUR, None, 0.0);
        now = registration.next().expect("a refresh is set");
        assert!(registration.on_timer(now));
        assert_eq!(registration.on_failure(now, Failure::Silence, 1.0), Change::Lost);
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            let next = registration.next().expect("another attempt is set");
            assert!(next - now >= last && next - now <= BACKOFF_MAX);
            last = next - now;
            now = next;
            assert!(registration.on_timer(now));
            assert_eq!(registration.on_failure(now, Failure::Silence, 1.0), Change::None);
        }
        assert_eq!(last, BACKOFF_MAX);
        now = registration.next().expect("another attempt is set");
        assert!(registration.on_timer(now));
        assert_eq!(registration.on_success(now, HOUR, None, 0.0), Change::Restored);
    }

    #[test]
    fn a_refused_first_attempt_ends_it() {
        let now = Instant::now();
        let mut registration = Registration::new(HOUR);
        registration.start();
        assert_eq!(registration.on_failure(now, Failure::Final, 0.0), Change::Refused);
        assert_eq!(registration.next(), None);
        assert!(registration.start(), "and it can be asked for again");
    }

    #[test]
    fn a_registrar_that_is_not_there_yet_is_waited_for() {
        let mut now = Instant::now();
        let mut registration = Registration::new(HOUR);
        registration.start();
        assert_eq!(registration.on_failure(now, Failure::Unreachable, 1.0), Change::Refused);
        for _ in 0..5 {
            now = registration.next().expect("another attempt is set");
            assert!(registration.on_timer(now));
            assert_eq!(registration.on_failure(now, Failure::Unreachable, 1.0), Change::None);
            assert!(!registration.is_standing());
        }
        assert!(registration.next().is_some_and(|next| next - now <= BACKOFF_MAX_REFUSED));
        assert!(registration.start(), "the user may hurry it");
        assert_eq!(registration.on_success(now, HOUR, None, 0.0), Change::Restored);
    }

    #[test]
    fn doubt_and_datagrams_are_followed_up_soon() {
        let now = Instant::now();
        let mut registration = Registration::new(HOUR);
        registration.start();
        registration.on_success(now, HOUR, Some(Duration::from_secs(20)), 1.0);
        let next = registration.next().expect("a refresh is set");
        assert!(next - now <= Duration::from_secs(20) && next - now > Duration::from_secs(15));
        registration.on_doubt(now, 0.5);
        assert_eq!(registration.next(), Some(now + SPREAD / 2));
        registration.on_doubt(now, 1.0);
        assert_eq!(registration.next(), Some(now + SPREAD / 2), "doubting again does not put it off");
    }

    #[test]
    fn what_the_registrar_ends_comes_back_ever_later() {
        let mut now = Instant::now();
        let mut registration = Registration::new(HOUR);
        registration.start();
        registration.on_success(now, HOUR, None, 1.0);
        registration.on_shortened(now, Duration::from_secs(60), 0.0);
        assert_eq!(registration.next(), Some(now + Duration::from_secs(30)));
        registration.on_shortened(now, HOUR, 0.0);
        assert_eq!(registration.next(), Some(now + Duration::from_secs(30)), "it is never put off");
        registration.on_shortened(now, Duration::ZERO, 0.0);
        assert_eq!(registration.next(), Some(now + SPREAD), "nor is it asked in a loop");
        let mut end = |registration: &mut Registration, retry_after| {
            registration.on_ended(now, retry_after, 1.0);
            assert!(!registration.is_standing() && !registration.is_settled());
            let next = registration.next().expect("another attempt is set");
            let pause = next - now;
            now = next;
            assert!(registration.on_timer(now));
            assert_eq!(registration.on_success(now, HOUR, None, 0.0), Change::Restored);
            pause
        };
        let pauses: Vec<Duration> = (0..9).map(|_| end(&mut registration, None)).collect();
        assert!(pauses[0] <= Duration::from_millis(500) && pauses.is_sorted(), "{pauses:?}");
        assert_eq!(pauses[8], BACKOFF_MAX);
        assert_eq!(end(&mut registration, Some(HOUR)), HOUR, "probation");
        // Afterwards it has stood for long.
        assert!(end(&mut registration, None) <= Duration::from_millis(500));
        registration.on_rejected();
        assert_eq!(registration.next(), None);
        assert!(!registration.is_standing() && registration.start());
    }

    #[test]
    fn follows_min_expires_upwards_only() {
        let mut registration = Registration::new(Duration::from_secs(60));
        registration.start();
        assert!(!registration.on_too_brief(Duration::from_secs(60)));
        assert!(registration.on_too_brief(Duration::from_secs(120)));
        assert_eq!(registration.expires(), Duration::from_secs(120));
        assert!(!registration.on_too_brief(Duration::from_secs(u64::from(u32::MAX))));
    }

    #[test]
    fn removal_ends_in_removed_even_when_it_fails() {
        let now = Instant::now();
        let mut registration = Registration::new(HOUR);
        assert!(!registration.remove(), "nothing to remove");
        registration.start();
        registration.on_success(now, HOUR, None, 0.0);
        assert!(registration.remove());
        assert_eq!(registration.expires(), Duration::ZERO);
        assert_eq!(registration.on_failure(now, Failure::Refused(None), 0.0), Change::Removed);
        assert!(!registration.is_standing());
    }

    #[test]
    fn removal_waits_for_the_answer_that_is_owed() {
        let now = Instant::now();
        let mut registration = Registration::new(HOUR);
        registration.start();
        registration.on_success(now, HOUR, None, 0.0);
        let due = registration.next().expect("a refresh is set");
        assert!(registration.on_timer(due));
        assert!(!registration.remove(), "one REGISTER at a time");
        assert!(!registration.is_standing());
        assert_eq!(registration.on_success(due, HOUR, None, 0.0), Change::Leaving);
        assert_eq!(registration.expires(), Duration::ZERO);
        assert!(!registration.remove(), "it is on its way");
        assert_eq!(registration.on_success(due, HOUR, None, 0.0), Change::Removed);
        assert_eq!(registration.next(), None);
    }
}
