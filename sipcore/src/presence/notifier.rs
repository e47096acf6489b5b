//! One subscription, the notifier's side (RFC 6665 4.2): when NOTIFY is due, and what it says of the subscription. One NOTIFY at a time; what changes
//! meanwhile goes into the next.

use super::event::SubscriptionState;
use std::time::{Duration, Instant};

/// The machine. It ends when its last NOTIFY has been answered, or a NOTIFY has failed.
#[derive(Debug)]
pub(crate) struct Notifier {
    expires_at: Instant,
    /// Why it is over; the NOTIFY that says so may still be owed.
    ended: Option<&'static str>,
    in_flight: bool,
    due: bool,
}

impl Notifier {
    /// A SUBSCRIBE was accepted. NOTIFY follows at once, with no `expires` the only one.
    pub fn new(now: Instant, expires: Duration) -> Self {
        let ended = expires.is_zero().then_some("timeout");
        Notifier { expires_at: now + expires, ended, in_flight: false, due: true }
    }

    /// SUBSCRIBE within the dialog: it goes on, or with no `expires` it ends.
    pub fn on_subscribe(&mut self, now: Instant, expires: Duration) {
        self.expires_at = now + expires;
        self.due = true;
        if expires.is_zero() {
            self.ended = Some("timeout");
        }
    }

    /// What is subscribed to has changed. What ends says all that is known then, and nothing afterwards.
    pub fn on_change(&mut self) {
        self.due |= self.ended.is_none();
    }

    /// The notifier ends it.
    pub fn end(&mut self, reason: &'static str) {
        self.due |= self.ended.is_none();
        self.ended.get_or_insert(reason);
    }

    /// The NOTIFY to send now.
    pub fn poll(&mut self, now: Instant) -> Option<SubscriptionState> {
        if self.in_flight || !self.due {
            return None;
        }
        self.in_flight = true;
        self.due = false;
        Some(match self.ended {
            Some(reason) => SubscriptionState::terminated(reason),
            None => {
                let left = self.expires_at.saturating_duration_since(now);
                SubscriptionState::active(Duration::from_secs_f64(left.as_secs_f64().ceil()))
            }
        })
    }

    /// There is nothing new to say after all.
    pub fn on_nothing(&mut self) {
        self.in_flight = false;
    }

    /// What is known did not fit into this NOTIFY: the rest follows, also of what ends.
    pub fn on_more(&mut self) {
        self.due = true;
    }

    /// The NOTIFY was answered, `well` or not. `true`: the subscription is gone.
    pub fn on_answered(&mut self, well: bool) -> bool {
        self.in_flight = false;
        !well || (self.ended.is_some() && !self.due)
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    pub fn next(&self) -> Option<Instant> {
        self.ended.is_none().then_some(self.expires_at)
    }

    pub fn on_timer(&mut self, now: Instant) {
        if self.expires_at <= now {
            self.end("timeout");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn notifies_at_once_and_one_at_a_time() {
        let now = Instant::now();
        let mut notifier = Notifier::new(now, MINUTE);
        assert_eq!(notifier.poll(now), Some(SubscriptionState::active(MINUTE)));
        notifier.on_change();
        notifier.on_change();
        assert_eq!(notifier.poll(now), None);
        assert!(!notifier.on_answered(true));
        assert_eq!(notifier.poll(now + MINUTE / 2), Some(SubscriptionState::active(MINUTE / 2)));
        assert!(!notifier.on_answered(true));
        assert_eq!(notifier.poll(now), None);
        notifier.on_change();
        assert!(notifier.poll(now).is_some());
        assert!(notifier.on_answered(false), "a NOTIFY that fails ends it");
    }

    #[test]
    fn ends_when_it_is_not_refreshed() {
        let now = Instant::now();
        let mut notifier = Notifier::new(now, MINUTE);
        notifier.poll(now);
        notifier.on_answered(true);
        notifier.on_subscribe(now + MINUTE / 2, MINUTE);
        notifier.on_timer(now + MINUTE);
        assert!(notifier.poll(now + MINUTE).is_some() && !notifier.on_answered(true));
        notifier.on_timer(now + 2 * MINUTE);
        assert_eq!(notifier.next(), None);
        assert_eq!(notifier.poll(now + 2 * MINUTE), Some(SubscriptionState::terminated("timeout")));
        assert!(notifier.on_answered(true));
    }

    #[test]
    fn a_fetch_is_one_notification() {
        let now = Instant::now();
        let mut notifier = Notifier::new(now, Duration::ZERO);
        assert_eq!(notifier.poll(now), Some(SubscriptionState::terminated("timeout")));
        assert!(notifier.on_answered(true));
    }

    #[test]
    fn an_end_during_a_notification_is_still_told() {
        let now = Instant::now();
        let mut notifier = Notifier::new(now, MINUTE);
        notifier.poll(now);
        notifier.on_subscribe(now, Duration::ZERO);
        assert!(!notifier.on_answered(true), "the last NOTIFY is owed");
        assert_eq!(notifier.poll(now), Some(SubscriptionState::terminated("timeout")));
        notifier.on_change();
        assert!(notifier.on_answered(true), "and no other");
    }
}
