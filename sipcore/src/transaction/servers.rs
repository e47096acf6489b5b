//! Requests that we receive: the server side of the table.

use super::invite_server::{InviteServer, OnAck, OnTimer};
use super::key::{ServerId, ServerKey};
use super::layer::{Event, Layer, Owner};
use super::non_invite_server::NonInviteServer;
use crate::message::{Message, Method, name};
use crate::transport::{Flow, Transport};
use bytes::Bytes;
use std::time::Instant;

/// Requests of ours that may live, for each that we may have received: a call is forked to several.
const CLIENTS: usize = 4;

pub(super) enum ServerMachine {
    Invite(InviteServer),
    Other(NonInviteServer),
}

pub(super) struct Server {
    pub(super) machine: ServerMachine,
    pub(super) key: ServerKey,
    pub(super) flow: Flow,
    pub(super) response: Option<Bytes>,
    pub(super) armed: Option<Instant>,
}

impl Layer {
    /// Answers a request. `None`: the transaction is gone or this answer has no place in it any more.
    pub fn respond(&mut self, now: Instant, id: ServerId, response: &Message) -> Option<Bytes> {
        let status = response.status()?;
        let server = self.servers.get_mut(&id)?;
        let send = match &mut server.machine {
            ServerMachine::Invite(machine) => machine.on_respond(now, &self.timing, status),
            ServerMachine::Other(machine) => machine.on_respond(now, &self.timing, status),
        };
        if !send {
            return None;
        }
        let wire = response.to_bytes();
        server.response = Some(wire.clone());
        let flow = server.flow;
        // A refused INVITE waits for its ACK, which must not go further.
        if status >= 200 && (status < 300 || matches!(server.machine, ServerMachine::Other(_))) {
            self.answered.push_back(id);
        }
        self.transmit(flow, wire.clone());
        self.settle_server(id);
        Some(wire)
    }

    /// How many requests were answered 503, for want of room.
    pub fn shed(&self) -> u64 {
        self.shed
    }

    /// The request belongs to a transaction that lives.
    pub fn knows(&self, request: &Message) -> bool {
        let (Ok(via), Some(method)) = (request.via(), request.method()) else { return false };
        self.keys.contains_key(&ServerKey::new(&via, method, request))
    }

    /// The way on which the request came in and its responses go out.
    pub fn server_flow(&self, id: ServerId) -> Option<Flow> {
        self.servers.get(&id).map(|server| server.flow)
    }

    /// The INVITE that a CANCEL is meant for (RFC 3261 9.2).
    pub fn cancelled_by(&self, cancel: &Message) -> Option<ServerId> {
        let via = cancel.via().ok()?;
        self.keys.get(&ServerKey::new(&via, &Method::Invite, cancel)).copied()
    }

    pub(super) fn on_request(&mut self, now: Instant, flow: Flow, method: &Method, mut message: Message) {
        let Ok(via) = message.via() else { return };
        let sought = if *method == Method::Ack { &Method::Invite } else { method };
        let key = ServerKey::new(&via, sought, &message);
        if let Some(id) = self.keys.get(&key).copied() {
            self.on_known_request(now, id, flow, method, message);
            return;
        }
        if *method == Method::Ack {
            self.events.push_back(Event::Ack { flow, message });
            return;
        }
        let back = response_flow(flow, &mut message);
        let is_full = self.servers.len() >= self.limit && !self.forget_answered();
        if is_full || self.clients.len() >= CLIENTS * self.limit {
            let refusal =
                Message::response_to(&message, 503, "Service Unavailable").header(name::RETRY_AFTER, 5).build();
            self.shed += 1;
            self.transmit(back, refusal.to_bytes());
            return;
        }
        self.last_server += 1;
        let id = ServerId(self.last_server);
        let reliable = flow.transport.is_reliable();
        let machine = match method {
            Method::Invite => ServerMachine::Invite(InviteServer::new(reliable)),
            _ => ServerMachine::Other(NonInviteServer::new(reliable)),
        };
        self.keys.insert(key.clone(), id);
        self.servers.insert(id, Server { machine, key, flow: back, response: None, armed: None });
        self.events.push_back(Event::Request { id, flow, message });
    }

    /// Makes room for one more. `false`: everything still waits for its answer.
    fn forget_answered(&mut self) -> bool {
        while let Some(id) = self.answered.pop_front() {
            if let Some(server) = self.servers.remove(&id) {
                self.timers.update(Owner::Server(id), server.armed, None);
                self.keys.remove(&server.key);
                return true;
            }
        }
        false
    }

    fn on_known_request(&mut self, now: Instant, id: ServerId, flow: Flow, method: &Method, message: Message) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let repeat = match &mut server.machine {
            ServerMachine::Invite(machine) if *method == Method::Ack => {
                if machine.on_ack(now, &self.timing) == OnAck::Deliver {
                    self.events.push_back(Event::Ack { flow, message });
                }
                false
            }
            ServerMachine::Invite(machine) => machine.on_repeated_request(),
            ServerMachine::Other(machine) => machine.on_repeated_request(),
        };
        if repeat && let Some(response) = server.response.clone() {
            let flow = server.flow;
            self.transmit(flow, response);
        }
        self.settle_server(id);
    }

    pub(super) fn on_server_timer(&mut self, now: Instant, id: ServerId) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.armed = None;
        match &mut server.machine {
            ServerMachine::Invite(machine) => match machine.on_timer(now) {
                OnTimer::Resend => {
                    if let Some(response) = server.response.clone() {
                        let flow = server.flow;
                        self.transmit(flow, response);
                    }
                }
                OnTimer::Nothing | OnTimer::Done => {}
            },
            ServerMachine::Other(machine) => {
                machine.on_timer(now);
            }
        }
        self.settle_server(id);
    }

    fn settle_server(&mut self, id: ServerId) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let (ended, next) = match &server.machine {
            ServerMachine::Invite(machine) => (machine.is_terminated(), machine.clock.next()),
            ServerMachine::Other(machine) => (machine.is_terminated(), machine.clock.next()),
        };
        if ended {
            self.timers.update(Owner::Server(id), server.armed, None);
            if let Some(server) = self.servers.remove(&id) {
                self.keys.remove(&server.key);
            }
            while self.answered.front().is_some_and(|first| !self.servers.contains_key(first)) {
                self.answered.pop_front();
            }
        } else {
            let old = std::mem::replace(&mut server.armed, next);
            self.timers.update(Owner::Server(id), old, next);
        }
    }
}

/// Where responses go (RFC 3261 18.2.2, RFC 3581 4); the top Via then tells where the request came from.
fn response_flow(flow: Flow, request: &mut Message) -> Flow {
    // The caller has read the Via.
    let _ = request.note_source(flow.remote);
    match flow.transport {
        Transport::Udp => Flow { remote: request.response_address().unwrap_or(flow.remote), ..flow },
        _ => flow,
    }
}
