//! What happens to an agent without its asking.

use super::seat::Seat;
use super::{End, EndReason, Fingerprint, Line, PresenceError, Quic, SessionId, SubscriptionId, Update};
use crate::message::Uri;
use crate::transport::Core;
use std::fmt;
use std::sync::Weak;

/// Told to the owner of an agent.
#[derive(Debug)]
pub enum Event {
    /// Someone calls.
    Incoming(IncomingCall),
    /// The other side of a session looks for a path anew.
    Restart(IncomingRestart),
    /// A session ended, not by our `bye`.
    Ended {
        /// Which one.
        id: SessionId,
        /// Why.
        reason: EndReason,
    },
    /// A refresh of the registration failed, or the registrar has ended it. Attempts go on unless it is `over`.
    RegistrationLost {
        /// What went wrong.
        why: String,
        /// The registrar does not want it again.
        over: bool,
    },
    /// The registration stands again.
    RegistrationRestored,
    /// What is to be published is not; attempts go on unless the server does no presence.
    NotPublished(PresenceError),
    /// What is known of those whom a subscription is about has changed.
    Presence {
        /// Which one.
        id: SubscriptionId,
        /// What has changed.
        update: Update,
    },
    /// A subscription does not stand. It is tried again unless it is `over`.
    SubscriptionLost {
        /// Which one.
        id: SubscriptionId,
        /// Why.
        error: PresenceError,
        /// Nothing comes of it any more.
        over: bool,
    },
}

/// A call that waits for `accept` or `reject`. Dropping it rejects it with 500.
pub struct IncomingCall {
    /// The session that it will be.
    pub id: SessionId,
    /// Who calls, as an address of record.
    pub from: Uri,
    /// The flows that the caller offers for one socket, best first; at least one.
    pub lines: Vec<Line>,
    /// The caller's program, as it says: User-Agent.
    pub software: Option<String>,
    core: Option<Weak<Core<Seat>>>,
}

impl IncomingCall {
    pub(super) fn new(
        id: SessionId,
        (from, software): (Uri, Option<String>),
        lines: Vec<Line>,
        core: Weak<Core<Seat>>,
    ) -> Self {
        IncomingCall { id, from, lines, software, core: Some(core) }
    }

    /// Takes the line of this [`Line::index`]; `local` is this end of it. If the caller has given up meanwhile, `Event::Ended` follows.
    pub fn accept(mut self, line: usize, local: End) {
        let id = self.id;
        if let Some(core) = self.take() {
            core.with(|seat, now| seat.agent.accept(now, id, line, &local));
        }
    }

    /// Refuses the call with a status of 300 to 699.
    pub fn reject(mut self, status: u16, reason: &str) {
        let id = self.id;
        if let Some(core) = self.take() {
            core.with(|seat, now| seat.agent.reject(now, id, status, reason));
        }
    }

    /// Refuses the call because there is a session with its caller already, or one is being set up; `fingerprint` is of the certificate that this
    /// end shows in it.
    pub fn reject_for(mut self, fingerprint: Fingerprint) {
        let id = self.id;
        if let Some(core) = self.take() {
            core.with(|seat, now| seat.agent.reject_for(now, id, fingerprint));
        }
    }

    /// Nobody will decide on this call through this value.
    pub(super) fn disarm(mut self) {
        self.core = None;
    }

    fn take(&mut self) -> Option<std::sync::Arc<Core<Seat>>> {
        self.core.take()?.upgrade()
    }
}

impl Drop for IncomingCall {
    fn drop(&mut self) {
        let id = self.id;
        if let Some(core) = self.take() {
            core.with(|seat, now| seat.agent.reject(now, id, 500, "Server Internal Error"));
        }
    }
}

impl fmt::Debug for IncomingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingCall")
            .field("id", &self.id)
            .field("from", &self.from)
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

/// The other side of a session looks for a path anew, and waits for this end's description. Dropping it refuses: the session goes on as it was.
pub struct IncomingRestart {
    /// Which session.
    pub id: SessionId,
    /// The other end as it is now.
    pub remote: Quic,
    core: Option<Weak<Core<Seat>>>,
}

impl IncomingRestart {
    pub(super) fn new(id: SessionId, remote: Quic, core: Weak<Core<Seat>>) -> Self {
        IncomingRestart { id, remote, core: Some(core) }
    }

    /// Answers with this end as it is now.
    pub fn accept(mut self, local: Quic) {
        self.answer(Some(local));
    }

    /// Nobody will decide through this value.
    pub(super) fn disarm(mut self) {
        self.core = None;
    }

    fn answer(&mut self, local: Option<Quic>) {
        let id = self.id;
        if let Some(core) = self.core.take().and_then(|core| core.upgrade()) {
            core.with(|seat, now| seat.agent.answer_restart(now, id, local));
        }
    }
}

impl Drop for IncomingRestart {
    fn drop(&mut self) {
        self.answer(None);
    }
}

impl fmt::Debug for IncomingRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingRestart").field("id", &self.id).field("remote", &self.remote).finish_non_exhaustive()
    }
}
