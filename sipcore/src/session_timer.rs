//! Session timers (RFC 4028): a session lives as long as its refreshes come, so that a peer that vanished is found.

use crate::message::{Message, name};
use std::time::{Duration, Instant};

/// What is asked for.
pub(crate) const INTERVAL: Duration = Duration::from_secs(600);
/// The shortest interval that is accepted (RFC 4028 4).
pub(crate) const MIN_INTERVAL: Duration = Duration::from_secs(90);
/// The longest that is followed when a peer wants more than was asked for.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// The option tag.
pub(crate) const TAG: &str = "timer";

/// What a Session-Expires header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionExpires {
    pub interval: Duration,
    /// The refresher is the one who sent the request: `uac`. `None`: not said.
    pub by_caller: Option<bool>,
}

impl SessionExpires {
    /// Reads it; `None` when it is missing or cannot be read.
    pub fn of(message: &Message) -> Option<Self> {
        let text = message.header(name::SESSION_EXPIRES)?.text().into_owned();
        let mut parts = text.split(';').map(str::trim);
        let interval = Duration::from_secs(u64::from(parts.next()?.parse::<u32>().ok()?));
        let by_caller = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("refresher").then(|| value.trim().eq_ignore_ascii_case("uac"))
        });
        Some(SessionExpires { interval, by_caller })
    }
}

impl std::fmt::Display for SessionExpires {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.interval.as_secs())?;
        match self.by_caller {
            Some(true) => f.write_str(";refresher=uac"),
            Some(false) => f.write_str(";refresher=uas"),
            None => Ok(()),
        }
    }
}

/// What the called side decides about the session timer of a request (RFC 4028 9).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    /// 422: the interval is shorter than [`MIN_INTERVAL`].
    TooSmall,
    /// This goes into the 2xx; with `required` also `Require: timer`, since the caller has to refresh.
    Agreed { expires: SessionExpires, required: bool },
}

/// Decides; both ends know of timers or only this one does.
pub(crate) fn grant(request: &Message) -> Granted {
    let caller_knows = request.has_token(name::SUPPORTED, TAG) || request.has_token(name::REQUIRE, TAG);
    let asked = SessionExpires::of(request);
    if caller_knows && asked.is_some_and(|asked| asked.interval < MIN_INTERVAL) {
        return Granted::TooSmall;
    }
    let wanted = asked.map_or(INTERVAL, |asked| asked.interval).min(MAX_INTERVAL);
    let least = request.seconds(name::MIN_SE).map_or(MIN_INTERVAL, |least| Duration::from_secs(least.into()));
    let interval = wanted.max(least.min(MAX_INTERVAL)).max(MIN_INTERVAL);
    let by_caller = caller_knows && asked.and_then(|asked| asked.by_caller).unwrap_or(true);
    Granted::Agreed { expires: SessionExpires { interval, by_caller: Some(by_caller) }, required: by_caller }
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Refresh,
    /// The other end should have refreshed, and has not.
    Expired,
}

/// The machine of one session.
#[derive(Debug)]
pub(crate) struct SessionTimer {
    interval: Duration,
    ours: bool,
    next: Instant,
}

impl SessionTimer {
    /// `ours`: this end refreshes, after half of the interval. The other end is waited for until shortly before the interval is over
    /// (RFC 4028 10).
    pub fn new(now: Instant, interval: Duration, ours: bool) -> Self {
        let interval = interval.clamp(MIN_INTERVAL, MAX_INTERVAL);
        let early = (interval / 3).min(Duration::from_secs(32));
        let next = now + if ours { interval / 2 } else { interval - early };
        SessionTimer { interval, ours, next }
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    pub fn next(&self) -> Instant {
        self.next
    }

    /// Tries again after `pause`.
    pub fn put_off(&mut self, now: Instant, pause: Duration) {
        self.next = now + pause;
    }

    pub fn on_timer(&mut self, now: Instant) -> Due {
        if self.next > now {
            return Due::Nothing;
        }
        self.next = now + self.interval / 2;
        if self.ours { Due::Refresh } else { Due::Expired }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Message {
        let mut request = Message::request(crate::message::Method::Invite, &"sip:a@b".parse().unwrap());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.build()
    }

    fn agreed(seconds: u64, by_caller: bool) -> Granted {
        let expires = SessionExpires { interval: Duration::from_secs(seconds), by_caller: Some(by_caller) };
        Granted::Agreed { expires, required: by_caller }
    }

    #[test]
    fn what_is_granted() {
        for (headers, granted) in [
            (&[("Supported", "timer"), ("Session-Expires", "1800")][..], agreed(1800, true)),
            (&[("Supported", "timer"), ("x", "1800 ; refresher = uas")], agreed(1800, false)),
            (&[("Supported", "timer"), ("Session-Expires", "60")], Granted::TooSmall),
            (&[("Supported", "timer")], agreed(600, true)),
            (&[("Supported", "timer"), ("Min-SE", "3600")], agreed(3600, true)),
            // A caller that knows nothing of timers: a proxy may have asked.
            (&[], agreed(600, false)),
            (&[("Session-Expires", "60;refresher=uac"), ("Min-SE", "120")], agreed(120, false)),
            (&[("Supported", "timer"), ("Session-Expires", "4294967295")], agreed(86400, true)),
        ] {
            assert_eq!(grant(&request(headers)), granted, "{headers:?}");
        }
    }

    #[test]
    fn who_refreshes_and_who_waits() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let mut ours = SessionTimer::new(now, seconds(600), true);
        assert_eq!(ours.on_timer(now + seconds(299)), Due::Nothing);
        assert_eq!(ours.on_timer(now + seconds(300)), Due::Refresh);
        ours.put_off(now, seconds(3));
        assert_eq!(ours.on_timer(now + seconds(3)), Due::Refresh);
        let mut theirs = SessionTimer::new(now, seconds(90), false);
        assert_eq!(theirs.next(), now + seconds(60));
        assert_eq!(theirs.on_timer(now + seconds(60)), Due::Expired);
    }
}
