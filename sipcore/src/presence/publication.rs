//! Publication of one presentity's state (RFC 3903 4): created, refreshed, modified and removed, one PUBLISH at a time, and only while the
//! registration stands. It knows no messages: the user agent writes PUBLISH and reads the answer.

use crate::backoff::{Backoff, Failure};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// A server that keeps raising Min-Expires is not followed for ever.
const MIN_EXPIRES_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the next PUBLISH says (RFC 3903 4.1, table 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    Create(Bytes),
    Refresh { etag: Box<str> },
    Modify { etag: Box<str>, document: Bytes },
    Remove { etag: Box<str> },
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Publication {
    /// What is to be published; `None`: nothing.
    wanted: Option<Bytes>,
    /// What the server has, as far as we know.
    held: Option<Held>,
    /// What is on its way: a document, or with `None` a removal.
    asking: Option<Option<Bytes>>,
    /// The registration stands.
    allowed: bool,
    /// The server does no presence: nothing is asked of it until the registration has been lost and found.
    refused: bool,
    asked: Duration,
    backoff: Backoff,
    /// The next refresh, or the end of a pause after a failure.
    next: Option<Instant>,
    due: bool,
}

#[derive(Debug)]
struct Held {
    etag: Box<str>,
    document: Bytes,
}

impl Publication {
    pub fn new(expires: Duration) -> Self {
        Publication {
            wanted: None,
            held: None,
            asking: None,
            allowed: false,
            refused: false,
            asked: expires,
            backoff: Backoff::default(),
            next: None,
            due: false,
        }
    }

    /// The Expires value of the next PUBLISH that is no removal.
    pub fn expires(&self) -> Duration {
        self.asked
    }

    /// From now on this is to be published; `None`: nothing.
    pub fn set(&mut self, document: Option<Bytes>) {
        self.wanted = document;
    }

    /// The registration stands. `anew`: after it had been lost, so that the server may have forgotten everything.
    pub fn allow(&mut self, anew: bool) {
        self.allowed = true;
        if anew {
            self.refused = false;
            self.backoff.reset();
            self.next = None;
            self.due = self.held.is_some();
        }
    }

    /// The way to the server broke: whether it still has what is published is to be found out when the registration stands again.
    pub fn on_doubt(&mut self) {
        self.due |= self.held.is_some();
    }

    /// The registration is lost.
    pub fn forbid(&mut self) {
        self.allowed = false;
    }

    /// What is to be sent now; the outcome is to be told before there is more.
    pub fn poll(&mut self) -> Option<Act> {
        // After a failure everything waits.
        let waits = self.next.is_some() && self.backoff.is_waiting();
        if self.asking.is_some() || !self.allowed || self.refused || waits {
            return None;
        }
        let act = match (&self.wanted, &self.held) {
            (None, None) => return None,
            (None, Some(Held { etag, .. })) => Act::Remove { etag: etag.clone() },
            (Some(wanted), None) => Act::Create(wanted.clone()),
            (Some(wanted), Some(Held { etag, document })) if wanted != document => {
                Act::Modify { etag: etag.clone(), document: wanted.clone() }
            }
            (Some(_), Some(Held { etag, .. })) if self.due => Act::Refresh { etag: etag.clone() },
            _ => return None,
        };
        self.due = false;
        self.next = None;
        self.asking = Some(self.wanted.clone());
        Some(act)
    }

    /// 2xx: the server has it under `etag` for `granted`. It is refreshed after 50 to 60 % of that; `jitter` is between 0 and 1.
    pub fn on_success(&mut self, now: Instant, etag: Option<&str>, granted: Duration, jitter: f64) {
        self.backoff.reset();
        let document = self.asking.take().flatten();
        // Without an entity tag it cannot be named any more, and ends by itself.
        self.held = document.zip(etag).map(|(document, etag)| Held { etag: etag.into(), document });
        self.next = self.held.is_some().then(|| now + granted.mul_f64(0.5 + 0.1 * jitter));
    }

    /// 412: the server does not know the entity tag (RFC 3903 4.1): it is published anew.
    pub fn on_condition_failed(&mut self) {
        self.asking = None;
        self.held = None;
        self.next = None;
    }

    /// 423 with Min-Expires. `false`: that is not to be followed.
    pub fn on_too_brief(&mut self, min_expires: Duration) -> bool {
        let follow = min_expires > self.asked && min_expires <= MIN_EXPIRES_LIMIT;
        if follow {
            self.asked = min_expires;
            self.asking = None;
            self.due = self.held.is_some();
        }
        follow
    }

    /// The attempt failed. `true`: for the first time in a row.
    pub fn on_failure(&mut self, now: Instant, failure: Failure, jitter: f64) -> bool {
        let removing = self.asking.take() == Some(None);
        if removing && self.wanted.is_none() {
            // It ends by itself.
            self.held = None;
            return false;
        }
        let first = !self.backoff.is_waiting() && !self.refused;
        if failure == Failure::Final {
            self.refused = true;
            self.held = None;
            self.next = None;
        } else {
            self.due = self.held.is_some();
            self.next = Some(now + self.backoff.pause(failure, jitter));
        }
        first
    }

    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    pub fn on_timer(&mut self, now: Instant) {
        if self.next.is_some_and(|at| at <= now) {
            self.next = None;
            self.due = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn document(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn standing(now: Instant) -> Publication {
        let mut publication = Publication::new(MINUTE);
        publication.set(Some(document("a")));
        publication.allow(false);
        assert_eq!(publication.poll(), Some(Act::Create(document("a"))));
        publication.on_success(now, Some("1"), MINUTE, 0.0);
        publication
    }

    #[test]
    fn a_broken_way_is_followed_by_a_refresh() {
        let now = Instant::now();
        let mut publication = standing(now);
        publication.forbid();
        publication.on_doubt();
        assert_eq!(publication.poll(), None, "not before the registration stands");
        publication.allow(false);
        assert_eq!(publication.poll(), Some(Act::Refresh { etag: "1".into() }));
        publication.on_condition_failed();
        assert_eq!(publication.poll(), Some(Act::Create(document("a"))));
        let mut nothing = Publication::new(MINUTE);
        nothing.allow(false);
        nothing.on_doubt();
        assert_eq!(nothing.poll(), None);
    }

    #[test]
    fn waits_for_the_registration_and_is_serialised() {
        let now = Instant::now();
        let mut publication = Publication::new(MINUTE);
        publication.set(Some(document("a")));
        assert_eq!(publication.poll(), None, "not registered yet");
        publication.allow(false);
        assert_eq!(publication.poll(), Some(Act::Create(document("a"))));
        publication.set(Some(document("b")));
        publication.set(Some(document("c")));
        assert_eq!(publication.poll(), None, "one at a time");
        publication.on_success(now, Some("1"), MINUTE, 0.0);
        assert_eq!(publication.poll(), Some(Act::Modify { etag: "1".into(), document: document("c") }));
        publication.set(None);
        publication.on_success(now, Some("2"), MINUTE, 0.0);
        assert_eq!(publication.poll(), Some(Act::Remove { etag: "2".into() }));
        publication.on_success(now, None, Duration::ZERO, 0.0);
        assert_eq!((publication.poll(), publication.next()), (None, None));
        publication.set(Some(document("c")));
        assert_eq!(publication.poll(), Some(Act::Create(document("c"))));
    }

    #[test]
    fn is_refreshed_before_it_expires() {
        let now = Instant::now();
        let mut publication = standing(now);
        let due = publication.next().unwrap();
        assert!(due > now && due < now + MINUTE);
        assert_eq!(publication.poll(), None);
        publication.on_timer(due);
        assert_eq!(publication.poll(), Some(Act::Refresh { etag: "1".into() }));
        publication.on_success(due, Some("2"), MINUTE, 0.0);
        publication.on_timer(publication.next().unwrap());
        assert_eq!(publication.poll(), Some(Act::Refresh { etag: "2".into() }), "each success has a tag of its own");
    }

    #[test]
    fn a_forgotten_publication_is_made_again() {
        let now = Instant::now();
        let mut publication = standing(now);
        publication.allow(true);
        assert_eq!(publication.poll(), Some(Act::Refresh { etag: "1".into() }), "asked at once");
        publication.on_condition_failed();
        assert_eq!(publication.poll(), Some(Act::Create(document("a"))));
        publication.on_success(now, Some("x"), MINUTE, 0.0);
        publication.set(None);
        assert_eq!(publication.poll(), Some(Act::Remove { etag: "x".into() }));
        publication.on_condition_failed();
        assert_eq!(publication.poll(), None, "it is gone already");
    }

    #[test]
    fn failures_back_off() {
        let mut now = Instant::now();
        let mut publication = standing(now);
        publication.set(Some(document("b")));
        let mut last = Duration::ZERO;
        for round in 0..12 {
            assert!(publication.poll().is_some(), "round {round}");
            assert_eq!(publication.on_failure(now, Failure::Silence, 1.0), round == 0, "told once");
            assert_eq!(publication.poll(), None);
            publication.set(Some(document("b")));
            assert_eq!(publication.poll(), None, "a change does not hurry it");
            let next = publication.next().unwrap();
            assert!(next - now >= last && next - now <= MINUTE);
            (last, now) = (next - now, next);
            publication.on_timer(now);
        }
        assert_eq!(publication.poll(), Some(Act::Modify { etag: "1".into(), document: document("b") }));
        publication.on_success(now, Some("2"), MINUTE, 0.0);
    }

    #[test]
    fn a_server_without_presence_is_left_alone() {
        let now = Instant::now();
        let mut publication = Publication::new(MINUTE);
        publication.set(Some(document("a")));
        publication.allow(false);
        publication.poll();
        assert!(publication.on_failure(now, Failure::Final, 0.0));
        publication.set(Some(document("b")));
        publication.allow(false);
        assert_eq!((publication.poll(), publication.next()), (None, None));
        publication.allow(true);
        assert_eq!(publication.poll(), Some(Act::Create(document("b"))));
    }

    #[test]
    fn follows_min_expires_upwards_only() {
        let mut publication = Publication::new(MINUTE);
        publication.set(Some(document("a")));
        publication.allow(false);
        publication.poll();
        assert!(publication.on_too_brief(2 * MINUTE));
        assert_eq!(publication.poll(), Some(Act::Create(document("a"))));
        assert_eq!(publication.expires(), 2 * MINUTE);
        assert!(!publication.on_too_brief(MINUTE));
        assert!(!publication.on_too_brief(Duration::from_secs(u64::from(u32::MAX))));
    }
}
