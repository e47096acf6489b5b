//! Requests that we receive: the server side of the table.

use super::answers::{Copied, Kept};
use super::invite_server::{InviteServer, OnAck, OnTimer};
use super::key::{ServerId, ServerKey};
use super::layer::{Event, Layer, Owner};
use crate::message::{Message, Method, name};
use crate::transport::{Flow, Transport};
use bytes::Bytes;
use std::time::Instant;

/// Requests of ours that may live, for each that we may have received: a call is forked to several.
const CLIENTS: usize = 4;

pub(super) enum ServerMachine {
    Invite(InviteServer),
    /// Not answered finally yet (RFC 3261 17.2.2): then it ends, and the answer to a datagram is kept.
    Other(Copied),
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
            ServerMachine::Other(_) => true,
        };
        if !send {
            return None;
        }
        let wire = response.to_bytes();
        server.response = Some(wire.clone());
        let (flow, key) = (server.flow, server.key);
        match server.machine {
            ServerMachine::Other(copied) if status >= 200 => {
                if !flow.transport.is_reliable() {
                    let kept = Kept::new(copied, &self.secrets[0], response, &wire);
                    self.answers.keep(now, now + self.timing.limit(), key, kept);
                }
                self.drop_server(id);
            }
            // A refused INVITE waits for its ACK, which must not go further.
            ServerMachine::Invite(_) if (200..300).contains(&status) => self.accepted.push_back(id),
            _ => {}
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
        let key = ServerKey::new(&via, method, request, &self.secrets);
        self.keys.contains_key(&key) || self.answers.contains(&key)
    }

    /// The way on which the request came in and its responses go out.
    pub fn server_flow(&self, id: ServerId) -> Option<Flow> {
        self.servers.get(&id).map(|server| server.flow)
    }

    /// The INVITE that a CANCEL is meant for (RFC 3261 9.2).
    pub fn cancelled_by(&self, cancel: &Message) -> Option<ServerId> {
        let via = cancel.via().ok()?;
        self.keys.get(&ServerKey::new(&via, &Method::Invite, cancel, &self.secrets)).copied()
    }

    pub(super) fn on_request(&mut self, now: Instant, flow: Flow, method: &Method, mut message: Message) {
        let Ok(via) = message.via() else { return };
        let sought = if *method == Method::Ack { &Method::Invite } else { method };
        let key = ServerKey::new(&via, sought, &message, &self.secrets);
        if let Some(id) = self.keys.get(&key).copied() {
            self.on_known_request(now, id, flow, method, message);
            return;
        }
        if *method == Method::Ack {
            self.events.push_back(Event::Ack { flow, message });
            return;
        }
        let back = response_flow(flow, &mut message);
        if let Some(answer) = self.answers.again(&key, &message) {
            return self.transmit(back, answer);
        }
        let is_full = self.servers.len() + self.answers.len() >= self.limit && !self.forget_answered();
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
            _ => ServerMachine::Other(Copied::of(&message, &self.secrets[0])),
        };
        self.keys.insert(key, id);
        self.servers.insert(id, Server { machine, key, flow: back, response: None, armed: None });
        self.events.push_back(Event::Request { id, flow, message });
    }

    /// Makes room for one more. `false`: everything still waits for its answer.
    fn forget_answered(&mut self) -> bool {
        self.answers.forget_oldest() || self.forget_accepted()
    }

    fn forget_accepted(&mut self) -> bool {
        while let Some(id) = self.accepted.pop_front() {
            if self.drop_server(id) {
                return true;
            }
        }
        false
    }

    fn drop_server(&mut self, id: ServerId) -> bool {
        let Some(server) = self.servers.remove(&id) else { return false };
        self.timers.update(Owner::Server(id), server.armed, None);
        self.keys.remove(&server.key);
        true
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
            ServerMachine::Other(_) => true,
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
            ServerMachine::Other(_) => {}
        }
        self.settle_server(id);
    }

    fn settle_server(&mut self, id: ServerId) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let (ended, next) = match &server.machine {
            ServerMachine::Invite(machine) => (machine.is_terminated(), machine.clock.next()),
            ServerMachine::Other(_) => (false, None),
        };
        if ended {
            self.drop_server(id);
            while self.accepted.front().is_some_and(|first| !self.servers.contains_key(first)) {
                self.accepted.pop_front();
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
