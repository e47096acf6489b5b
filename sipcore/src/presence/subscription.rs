//! One subscription, the subscriber's side (RFC 6665 4.1): made, refreshed, made again when it ends without our wish, and paced when that fails. It knows
//! no messages: the user agent writes SUBSCRIBE and reads what comes.

use super::event::{Standing, SubscriptionState};
use crate::backoff::{Backoff, Failure};
use std::time::{Duration, Instant};

/// Those whom one server sends away do not all come back at the same moment.
const SPREAD: Duration = Duration::from_secs(1);
/// A server that keeps raising Min-Expires is not followed for ever.
const MIN_EXPIRES_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// A server whose notifications never follow each other is asked for the whole state this seldom.
const GAP_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// SUBSCRIBE is on its way, or accepted and the first NOTIFY has not come.
    Asking,
    /// A NOTIFY has come.
    Standing,
    /// A failure or an end; the next attempt is set.
    Waiting,
    /// SUBSCRIBE with Expires: 0 is on its way.
    Ending,
    Over,
}

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A subscription in a dialog of its own.
    New,
    /// Within the dialog that stands.
    Refresh,
    /// Expires: 0, within the dialog that stands.
    End,
}

/// What a NOTIFY means for the subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It stands.
    Stands,
    /// The server has ended it; another attempt is set.
    Ended,
    /// It is over: as wanted, or because another attempt would not help.
    Over,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Subscription {
    phase: Phase,
    /// One notification is all that is wanted (RFC 6665 4.4.3: Expires: 0).
    fetch: bool,
    asked: Duration,
    backoff: Backoff,
    /// A SUBSCRIBE of the dialog that stands has no answer yet.
    refreshing: bool,
    next: Option<Instant>,
    /// When the whole state is to be asked for, because something was missed; and when that was done last.
    whole: (Option<Instant>, Option<Instant>),
}

impl Subscription {
    /// `fetch`: just once.
    pub fn new(expires: Duration, fetch: bool) -> Self {
        Subscription {
            phase: Phase::Asking,
            fetch,
            asked: expires,
            backoff: Backoff::default(),
            refreshing: false,
            next: None,
            whole: (None, None),
        }
    }

    /// The Expires value of the next SUBSCRIBE.
    pub fn expires(&self) -> Duration {
        match self.fetch || self.phase == Phase::Ending {
            true => Duration::ZERO,
            false => self.asked,
        }
    }

    /// The user still wants it.
    pub fn is_wanted(&self) -> bool {
        !matches!(self.phase, Phase::Ending | Phase::Over)
    }

    /// The way to the server broke or is doubtful: ask again within a second; `jitter` is between 0 and 1.
    pub fn on_doubt(&mut self, now: Instant, jitter: f64) {
        if self.phase == Phase::Standing && !self.refreshing {
            let soon = now + SPREAD.mul_f64(jitter);
            self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
        }
    }

    /// Notifications were missed: a refresh is due soon, though not within a minute of the last one that was made for this.
    pub fn on_gap(&mut self, now: Instant) {
        if self.phase == Phase::Standing && !self.refreshing && self.whole.0.is_none() {
            let soon = now + SPREAD;
            self.whole.0 = Some(self.whole.1.map_or(soon, |last| soon.max(last + GAP_PAUSE)));
        }
    }

    /// 2xx to SUBSCRIBE. NOTIFY has to come within `limit` (timer N), else it counts as silence. `jitter` is between 0 and 1.
    pub fn on_accepted(&mut self, now: Instant, granted: Duration, limit: Duration, jitter: f64) {
        self.refreshing = false;
        match self.phase {
            Phase::Asking | Phase::Ending => self.next = Some(now + limit),
            Phase::Standing => self.next = Some(now + refresh_after(granted, jitter)),
            Phase::Waiting | Phase::Over => {}
        }
    }

    /// 423 with Min-Expires. `true`: send SUBSCRIBE again now with the longer expiry.
    pub fn on_too_brief(&mut self, min_expires: Duration) -> bool {
        let follow = self.phase == Phase::Asking && min_expires > self.asked && min_expires <= MIN_EXPIRES_LIMIT;
        if follow {
            self.asked = min_expires;
        }
        follow
    }

    /// SUBSCRIBE failed, or no NOTIFY came. `gone`: the server does not know the subscription any more (481), so that a new one is due at once.
    /// `true`: it is over.
    pub fn on_failure(&mut self, now: Instant, failure: Failure, gone: bool, jitter: f64) -> bool {
        self.refreshing = false;
        let standing = self.phase == Phase::Standing;
        if self.fetch || self.phase == Phase::Ending || (failure == Failure::Final && !(gone && standing)) {
            self.phase = Phase::Over;
            self.next = None;
            return true;
        }
        let pause = match gone && standing {
            true => SPREAD.mul_f64(jitter),
            false => self.backoff.pause(failure, jitter),
        };
        self.phase = Phase::Waiting;
        self.next = Some(now + pause);
        false
    }

    /// A NOTIFY of this subscription. What its reason asks for is RFC 6665 4.1.3.
    pub fn on_notify(&mut self, now: Instant, state: &SubscriptionState, jitter: f64) -> Heard {
        if state.standing != Standing::Terminated {
            if self.phase == Phase::Ending {
                return Heard::Stands;
            }
            self.backoff.reset();
            // What the server last said counts, in a response or here.
            if let Some(expires) = state.expires
                && !self.refreshing
            {
                self.next = Some(now + refresh_after(expires, jitter));
            } else if self.phase == Phase::Asking && !self.refreshing {
                self.next = Some(now + refresh_after(self.asked, jitter));
            }
            self.phase = Phase::Standing;
            return Heard::Stands;
        }
        let over = self.fetch
            || self.phase == Phase::Ending
            || matches!(state.reason.as_deref(), Some("rejected" | "noresource" | "invariant"));
        if over {
            self.phase = Phase::Over;
            self.next = None;
            return Heard::Over;
        }
        let at_once = matches!(state.reason.as_deref(), Some("deactivated" | "timeout"));
        let pause = match at_once && self.phase == Phase::Standing {
            true => SPREAD.mul_f64(jitter),
            // It ended before it had begun, or for another reason: not in a loop.
            false => self.backoff.pause(Failure::Refused(state.retry_after), jitter),
        };
        self.refreshing = false;
        self.phase = Phase::Waiting;
        self.next = Some(now + pause);
        Heard::Ended
    }

    /// It is not wanted any more.
    pub fn end(&mut self) -> Option<Ask> {
        self.next = None;
        let dialog = matches!(self.phase, Phase::Standing | Phase::Asking) && !self.fetch;
        self.phase = if dialog { Phase::Ending } else { Phase::Over };
        dialog.then_some(Ask::End)
    }

    pub fn next(&self) -> Option<Instant> {
        let whole = self.whole.0.filter(|_| self.phase == Phase::Standing);
        self.next.into_iter().chain(whole).min()
    }

    /// The deadline has passed. The first NOTIFY that did not come is to be told by `on_failure`: `Err`.
    pub fn on_timer(&mut self, now: Instant) -> Result<Option<Ask>, ()> {
        if self.next().is_none_or(|at| at > now) {
            return Ok(None);
        }
        self.next = None;
        // Whatever is sent now brings the whole state.
        if self.whole.0.take().is_some() {
            self.whole.1 = Some(now);
        }
        match self.phase {
            Phase::Asking | Phase::Ending => Err(()),
            Phase::Standing => {
                self.refreshing = true;
                Ok(Some(Ask::Refresh))
            }
            Phase::Waiting => {
                self.phase = Phase::Asking;
                Ok(Some(Ask::New))
            }
            Phase::Over => Ok(None),
        }
    }
}

fn refresh_after(granted: Duration, jitter: f64) -> Duration {
    granted.mul_f64(0.5 + 0.1 * jitter).max(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const LIMIT: Duration = Duration::from_secs(32);

    fn standing(now: Instant) -> Subscription {
        let mut subscription = Subscription::new(MINUTE, false);
        subscription.on_accepted(now, MINUTE, LIMIT, 0.0);
        assert_eq!(subscription.on_notify(now, &SubscriptionState::active(MINUTE), 0.0), Heard::Stands);
        subscription
    }

    #[test]
    fn is_refreshed_before_it_expires() {
        let now = Instant::now();
        let mut subscription = standing(now);
        let due = subscription.next().unwrap();
        assert!(due > now && due < now + MINUTE);
        assert_eq!(subscription.on_timer(due), Ok(Some(Ask::Refresh)));
        subscription.on_notify(due, &SubscriptionState::active(MINUTE), 0.0);
        assert_eq!(subscription.next(), None, "the answer to the refresh sets the next");
        subscription.on_accepted(due, MINUTE, LIMIT, 0.0);
        assert!(subscription.next().unwrap() > due);
    }

    #[test]
    fn notify_may_come_first_or_never() {
        let now = Instant::now();
        let mut first = Subscription::new(MINUTE, false);
        first.on_notify(now, &SubscriptionState::active(MINUTE), 0.0);
        first.on_accepted(now, MINUTE, LIMIT, 0.0);
        assert_eq!(first.next(), Some(now + MINUTE / 2));
        let mut never = Subscription::new(MINUTE, false);
        never.on_accepted(now, MINUTE, LIMIT, 0.0);
        let due = never.next().unwrap();
        assert_eq!((due, never.on_timer(due)), (now + LIMIT, Err(())));
        assert!(!never.on_failure(due, Failure::Silence, false, 1.0));
        assert_eq!(never.on_timer(never.next().unwrap()), Ok(Some(Ask::New)));
    }

    #[test]
    fn the_whole_state_is_asked_for_soon_and_seldom() {
        let hour = 60 * MINUTE;
        let mut now = Instant::now();
        let mut subscription = standing(now);
        subscription.on_accepted(now, hour, LIMIT, 0.0);
        let end = now + hour / 3;
        let mut asked = Vec::new();
        while now < end {
            // Each notification has a gap.
            subscription.on_notify(now, &SubscriptionState::active(hour), 0.0);
            subscription.on_gap(now);
            now += Duration::from_millis(100);
            if subscription.on_timer(now) == Ok(Some(Ask::Refresh)) {
                asked.push(now);
                subscription.on_accepted(now, hour, LIMIT, 0.0);
            }
        }
        assert_eq!(asked[0], end - hour / 3 + SPREAD);
        assert!(asked.len() > 15 && asked.windows(2).all(|two| two[1] - two[0] >= GAP_PAUSE), "{asked:?}");
    }

    #[test]
    fn what_each_reason_asks_for() {
        let now = Instant::now();
        for reason in ["rejected", "noresource", "invariant"] {
            let mut subscription = standing(now);
            assert_eq!(subscription.on_notify(now, &SubscriptionState::terminated(reason), 1.0), Heard::Over);
            assert!(!subscription.is_wanted() && subscription.next().is_none(), "{reason}");
        }
        for (reason, longest) in [("deactivated", SPREAD), ("timeout", SPREAD), ("probation", SPREAD), ("odd", SPREAD)]
        {
            let mut subscription = standing(now);
            assert_eq!(subscription.on_notify(now, &SubscriptionState::terminated(reason), 1.0), Heard::Ended);
            assert!(subscription.next().unwrap() <= now + longest, "{reason}");
            assert_eq!(subscription.on_timer(subscription.next().unwrap()), Ok(Some(Ask::New)));
        }
        let mut subscription = standing(now);
        let later = SubscriptionState { retry_after: Some(MINUTE / 2), ..SubscriptionState::terminated("giveup") };
        subscription.on_notify(now, &later, 0.0);
        assert_eq!(subscription.next(), Some(now + MINUTE / 2));
    }

    #[test]
    fn failures_back_off_and_refusals_end_it() {
        let mut now = Instant::now();
        let mut subscription = Subscription::new(MINUTE, false);
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            assert!(!subscription.on_failure(now, Failure::Refused(None), false, 1.0));
            let next = subscription.next().unwrap();
            assert!(next - now >= last && next - now <= MINUTE);
            (last, now) = (next - now, next);
            assert_eq!(subscription.on_timer(now), Ok(Some(Ask::New)));
        }
        assert!(subscription.on_failure(now, Failure::Final, false, 1.0) && !subscription.is_wanted());
        let mut forgotten = standing(now);
        assert_eq!(forgotten.on_timer(now + MINUTE), Ok(Some(Ask::Refresh)));
        assert!(!forgotten.on_failure(now + MINUTE, Failure::Final, true, 1.0), "481 to a refresh");
        assert!(forgotten.next().unwrap() <= now + MINUTE + SPREAD);
        // A server that ends each subscription at once is not asked in a loop.
        let mut looping = Subscription::new(MINUTE, false);
        let mut at = now;
        for _ in 0..8 {
            looping.on_notify(at, &SubscriptionState::terminated("deactivated"), 1.0);
            at = looping.next().unwrap();
            assert_eq!(looping.on_timer(at), Ok(Some(Ask::New)));
        }
        assert!(at - now > MINUTE);
    }

    #[test]
    fn is_ended_and_fetched() {
        let now = Instant::now();
        let mut subscription = standing(now);
        assert_eq!(subscription.end(), Some(Ask::End));
        assert_eq!(subscription.expires(), Duration::ZERO);
        assert_eq!(subscription.on_notify(now, &SubscriptionState::active(MINUTE), 0.0), Heard::Stands);
        assert_eq!(subscription.on_notify(now, &SubscriptionState::terminated("timeout"), 0.0), Heard::Over);
        let mut fetch = Subscription::new(MINUTE, true);
        assert_eq!(fetch.expires(), Duration::ZERO);
        fetch.on_accepted(now, Duration::ZERO, LIMIT, 0.0);
        assert_eq!(fetch.on_notify(now, &SubscriptionState::terminated("timeout"), 0.0), Heard::Over);
        assert_eq!(fetch.end(), None);
    }
}
