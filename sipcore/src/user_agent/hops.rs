//! The servers that an agent can do everything through, and the change to the next one when one fails (RFC 3263 4.3).

use super::registered::Registered;
use super::{UserAgent, contact_uri};
use crate::message::Uri;
use crate::random;
use crate::transport::{Flow, Transport};
use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a server may be silent while there are others to try. The time-out of a transaction, 32 s, would be too long to wait for
/// with another server at hand.
const SILENCE: Duration = Duration::from_secs(4);

/// One server, and how we are to be reached from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    pub flow: Flow,
    pub contact: Uri,
}

/// The servers, best first.
#[derive(Debug, Default)]
pub(super) struct Hops {
    all: Vec<Hop>,
    /// How many have failed since the last success.
    failed: usize,
    /// Why each could not be reached when it was tried last.
    reasons: Vec<(SocketAddr, String)>,
    /// When the silence of the current one has lasted too long.
    pub limit: Option<Instant>,
}

impl Hops {
    /// The best one but for that.
    pub fn other_than(&self, flow: Flow) -> Option<&Hop> {
        self.all.iter().find(|hop| hop.flow != flow)
    }
}

impl UserAgent {
    /// The local addresses that flows name, and the servers.
    pub fn set_hops(&mut self, now: Instant, locals: Vec<SocketAddr>, hops: Vec<Hop>) {
        self.layer.set_locals(locals);
        self.set_servers(now, hops);
    }

    /// This host's addresses are others now, or another network may be between: `locals` are those that flows name. The registrar is told at
    /// once (RFC 5626 4.5). `false`: this end does not register.
    pub fn moved(&mut self, now: Instant, locals: Vec<SocketAddr>) -> bool {
        let flow = self.main.flow;
        let is_another = |local: u16| locals.get(usize::from(local)).is_none_or(|ip| *ip != self.layer.sent_by(local));
        let moved = is_another(flow.local);
        for hop in &mut self.hops.all {
            let local = locals.get(usize::from(hop.flow.local));
            let contact = local.and_then(|local| contact_uri(&self.config.aor, *local, hop.flow.transport));
            hop.contact = contact.unwrap_or_else(|| hop.contact.clone());
        }
        if let Some(hop) = self.hops.all.iter().find(|hop| hop.flow == flow) {
            self.main.contact = hop.contact.clone();
        }
        self.layer.set_locals(locals);
        // It comes again when the first flow stands.
        self.drop_spare();
        if moved {
            self.main.keep_alive.stop();
            if flow.transport.is_reliable() {
                // Its connection is gone with the address.
                self.layer.handle_unreachable(now, flow, "this host's address has changed");
            }
        }
        self.work(now);
        let registers = self.main.registration.on_move(now);
        self.doubt_watches(now);
        self.work(now);
        registers
    }

    /// The ways to the servers.
    pub fn flows(&self) -> Vec<Flow> {
        self.hops.all.iter().map(|hop| hop.flow).collect()
    }

    /// From now on these are the servers. The one in use stays in use if it is among them.
    pub fn set_servers(&mut self, now: Instant, hops: Vec<Hop>) {
        let stays = hops.iter().any(|hop| hop.flow == self.main.flow);
        let first = hops.first().cloned();
        self.without_spare = false;
        self.reg.allow();
        if self.spare.as_ref().is_some_and(|spare| !hops.iter().any(|hop| hop.flow == spare.flow)) {
            self.drop_spare();
        }
        self.hops = Hops { all: hops, ..Hops::default() };
        if let Some(first) = first.filter(|_| !stays) {
            self.use_hop(first);
            self.main.registration.on_doubt(now, 0.0);
        }
    }

    /// A datagram from there may be meant for us: with several servers nobody else's are kept out by the socket.
    pub(super) fn is_from_hop(&self, flow: Flow) -> bool {
        let known = |hop: &Hop| hop.flow.remote == flow.remote;
        flow.transport != Transport::Udp || self.hops.all.len() < 2 || self.hops.all.iter().any(known)
    }

    /// The server that a request was sent to has failed. `true`: there is another one to send it to.
    pub(super) fn fail_over(&mut self, now: Instant, failed: Flow) -> bool {
        if failed != self.main.flow {
            return true;
        }
        self.hops.failed += 1;
        if self.hops.failed >= self.hops.all.len() {
            return false;
        }
        if self.use_spare(now) {
            if let Some(lost) = &mut self.spare {
                lost.registration.on_doubt(now, random::fraction());
            }
            return true;
        }
        let at = self.hops.all.iter().position(|hop| hop.flow == failed).map_or(0, |at| at + 1);
        let Some(next) = self.hops.all.get(at % self.hops.all.len()).cloned() else { return false };
        tracing::info!(aor = %self.config.aor, failed = %failed.remote, next = %next.flow.remote, "next server");
        self.drop_spare();
        self.use_hop(next);
        // What stands at the server before does not stand at this one.
        self.main.registration.on_doubt(now, 0.0);
        true
    }

    /// How many servers there are.
    pub(super) fn hop_count(&self) -> usize {
        self.hops.all.len()
    }

    fn use_hop(&mut self, hop: Hop) {
        let new = Registered::new(self.main.id, hop.flow, hop.contact, self.config.expires);
        let registration = mem::replace(&mut self.main, new).registration;
        self.main.registration = registration;
    }

    /// A server cannot be reached.
    pub(super) fn note_reason(&mut self, flow: Flow, why: &str) {
        let Hops { all, reasons, .. } = &mut self.hops;
        if all.len() > 1 && all.iter().any(|hop| hop.flow == flow) {
            reasons.retain(|(remote, _)| *remote != flow.remote);
            reasons.push((flow.remote, why.to_owned()));
        }
    }

    /// Why the last server could not be reached, and why the others could not be before.
    pub(super) fn all_reasons(&self, why: &str) -> String {
        let others = self.hops.reasons.iter().filter(|(remote, _)| *remote != self.main.flow.remote);
        others.fold(why.to_owned(), |said, (remote, why)| format!("{said}; {remote}: {why}"))
    }

    /// A server has answered.
    pub(super) fn on_hop_works(&mut self) {
        self.hops.reasons.clear();
        self.hops.failed = 0;
        self.hops.limit = None;
    }

    /// REGISTER was sent.
    pub(super) fn watch_hop(&mut self, now: Instant) {
        let others = self.hops.failed + 1 < self.hops.all.len();
        self.hops.limit = others.then(|| now + SILENCE);
    }

    /// A new round of attempts: every server may be tried again.
    pub(super) fn begin_round(&mut self) {
        self.hops.failed = 0;
    }
}
