//! Which address a STUN server sees: a Binding request (RFC 8489), repeated until it is answered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::random;
use crate::transport::stun;

/// The first repetition comes after this long; each further one after twice as long. RFC 8489 section 6.2.1 has 500 ms where nothing
/// is known of the path; a connect() waits for this one.
const RTO: Duration = Duration::from_millis(200);
/// Requests sent in all.
const TRIES: u32 = 4;
/// An answered one is sent again after this long, as long as it is wanted: a mapping may live for no more than half a minute (RFC 4787 section
/// 4.3 has two, and Linux 30 s).
const KEEP: Duration = Duration::from_secs(20);

/// One request under way.
#[derive(Debug)]
pub(super) struct Probe {
    /// The socket it is sent from.
    pub base: SocketAddr,
    pub server: SocketAddr,
    id: stun::Id,
    request: Bytes,
    tries: u32,
    next: Option<Instant>,
    /// When the mapping is to be kept up.
    keep: Option<Instant>,
    held: bool,
    sent: Option<Instant>,
    /// What was learned.
    pub mapped: Option<SocketAddr>,
    /// How long the answer took, counted from the last request.
    pub rtt: Option<Duration>,
}

impl Probe {
    /// With `held` nothing is sent before [`Probe::release`].
    pub fn new(now: Instant, base: SocketAddr, server: SocketAddr, held: bool) -> Probe {
        let id = u128::from(random::number()) << 64 | u128::from(random::number());
        let (id, request) = stun::request(id & ((1 << 96) - 1));
        Probe {
            base,
            server,
            id,
            request,
            tries: 0,
            next: (!held).then_some(now),
            keep: None,
            held,
            sent: None,
            mapped: None,
            rtt: None,
        }
    }

    /// What it waited for has happened.
    pub fn release(&mut self, now: Instant) {
        if std::mem::take(&mut self.held) {
            self.next = Some(now);
        }
    }

    /// Answered, or given up.
    pub fn is_done(&self) -> bool {
        self.next.is_none() && !self.held
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// The request, when it is due.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        if self.next.is_none_or(|next| next > now) {
            return None;
        }
        if self.tries == TRIES {
            self.next = None;
            return None;
        }
        self.next = Some(now + RTO * 2u32.pow(self.tries));
        self.tries += 1;
        self.sent = Some(now);
        Some(self.request.clone())
    }

    /// Takes a datagram that came to its socket. `false`: it is not for this one.
    pub fn handle(&mut self, now: Instant, base: SocketAddr, from: SocketAddr, datagram: &[u8]) -> bool {
        if base != self.base || from != self.server {
            return false;
        }
        let Some(mapped) = stun::mapped(datagram, self.id) else { return false };
        self.mapped = Some(mapped);
        self.rtt = self.sent.map(|sent| now.saturating_duration_since(sent));
        (self.next, self.keep) = (None, Some(now + KEEP));
        true
    }

    /// When [`Probe::poll_keep`] is wanted.
    pub fn poll_keep_timeout(&self) -> Option<Instant> {
        self.keep
    }

    /// The request once more, when the mapping is to be kept up. That it is not answered changes nothing.
    pub fn poll_keep(&mut self, now: Instant) -> Option<Bytes> {
        if self.keep.is_none_or(|keep| keep > now) {
            return None;
        }
        (self.keep, self.sent) = (Some(now + KEEP), Some(now));
        Some(self.request.clone())
    }
}
