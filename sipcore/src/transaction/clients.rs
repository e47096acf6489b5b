//! Requests that we send: the client side of the table.

use super::invite_client::{InviteClient, OnResponse, OnTimer};
use super::key::{ClientId, hop_request};
use super::layer::{Event, Layer, Owner};
use super::non_invite_client::NonInviteClient;
use crate::message::{Message, Method, name};
use crate::transport::{Flow, Transmit, Transport};
use bytes::Bytes;
use std::time::Instant;

/// The largest request sent as a datagram where the path MTU is not known (RFC 3261 18.1.1).
const MAX_DATAGRAM: usize = 1300;

pub(super) enum ClientMachine {
    Invite(InviteClient),
    Other(NonInviteClient),
}

/// How far a request has come on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not sent yet: too many are under way to the same address.
    Held,
    /// Sent, and nothing came back yet.
    Sent,
    /// A response came, or nobody counts this request.
    Free,
}

pub(super) struct Client {
    pub(super) machine: ClientMachine,
    pub(super) stage: Stage,
    pub(super) flow: Flow,
    /// Where to try again over UDP.
    pub(super) fallback: Option<Flow>,
    /// With our Via on top: ACK and CANCEL are made from it.
    pub(super) request: Message,
    pub(super) wire: Bytes,
    pub(super) ack: Option<Bytes>,
    pub(super) armed: Option<Instant>,
}

impl Client {
    pub(super) fn is_pending(&self) -> bool {
        match &self.machine {
            ClientMachine::Invite(machine) => machine.is_pending(),
            ClientMachine::Other(machine) => machine.is_pending(),
        }
    }
}

impl Layer {
    /// Sends a request and watches over it. Via is added here; `mark` goes into the branch.
    ///
    /// A request too large for a datagram goes over TCP (RFC 3261 18.1.1), and back to UDP if there is nobody.
    pub fn request(&mut self, now: Instant, flow: Flow, mut request: Message, mark: Option<u32>) -> ClientId {
        let id = self.named(flow, &mut request, mark);
        if flow.transport == Transport::Udp
            && !flow.remote.ip().is_loopback()
            && request.to_bytes().len() > MAX_DATAGRAM
        {
            let stream = Flow { transport: Transport::Tcp, ..flow };
            request.pop_first(name::VIA);
            request.push_front(name::VIA, self.via(stream, &id.branch(mark)));
            self.start_client(now, id, stream, request);
            if let Some(client) = self.clients.get_mut(&id) {
                client.fallback = Some(flow);
            }
        } else {
            self.start_client(now, id, flow, request);
        }
        id
    }

    /// The same by this way and no other: what the other side opened through its router is the only way in (RFC 5626 5.3, RFC 3581). A datagram
    /// that is too large is cut up by IP.
    pub fn request_on(&mut self, now: Instant, flow: Flow, mut request: Message, mark: Option<u32>) -> ClientId {
        let id = self.named(flow, &mut request, mark);
        self.start_client(now, id, flow, request);
        id
    }

    /// A name for the transaction of a request, in its new Via.
    fn named(&self, flow: Flow, request: &mut Message, mark: Option<u32>) -> ClientId {
        let method = request.method().cloned().unwrap_or(Method::Options);
        let id = ClientId::random(&method);
        request.push_front(name::VIA, self.via(flow, &id.branch(mark)));
        id
    }

    /// Sends CANCEL for an INVITE that has not been answered finally (RFC 3261 9.1).
    pub fn cancel(&mut self, now: Instant, invite: ClientId) -> Option<ClientId> {
        let client = self.clients.get(&invite)?;
        if !matches!(&client.machine, ClientMachine::Invite(machine) if machine.is_pending()) {
            return None;
        }
        let (flow, cancel) = (client.flow, hop_request(&client.request, Method::Cancel, None)?);
        let id = invite.cancelling();
        if self.clients.contains_key(&id) {
            return None;
        }
        self.start_client(now, id, flow, cancel);
        Some(id)
    }

    /// Forgets an INVITE for which no final response came after its CANCEL (RFC 3261 9.1, 16.8).
    pub fn abandon(&mut self, id: ClientId) {
        self.drop_client(id);
    }

    /// Sends a request that has no transaction: ACK for a 2xx, and ACK forwarded by a proxy. The bytes are for repeating it.
    pub fn send_ack(&mut self, flow: Flow, mut ack: Message, mark: Option<u32>) -> Bytes {
        let id = ClientId::random(&Method::Ack);
        ack.push_front(name::VIA, self.via(flow, &id.branch(mark)));
        let wire = ack.to_bytes();
        self.transmit(flow, wire.clone());
        wire
    }

    /// What was too large for a datagram is sent as one all the same, since nobody takes connections.
    pub(super) fn fall_back(&mut self, now: Instant, id: ClientId) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return false };
        let Some(flow) = client.fallback.take() else { return false };
        let mut request = client.request.clone();
        let Some(branch) = request.via().ok().and_then(|via| via.branch()).map(str::to_string) else { return false };
        self.drop_client(id);
        request.pop_first(name::VIA);
        request.push_front(name::VIA, self.via(flow, &branch));
        self.start_client(now, id, flow, request);
        true
    }

    fn start_client(&mut self, now: Instant, id: ClientId, flow: Flow, request: Message) {
        let reliable = flow.transport.is_reliable();
        let machine = match request.method() == Some(&Method::Invite) {
            true => ClientMachine::Invite(InviteClient::new(now, &self.timing, reliable)),
            false => ClientMachine::Other(NonInviteClient::new(now, &self.timing, reliable)),
        };
        let wire = request.to_bytes();
        let stage = match flow.transport {
            Transport::Udp if request.method() != Some(&Method::Cancel) => match self.windows.enter(flow, id) {
                true => Stage::Sent,
                false => Stage::Held,
            },
            _ => Stage::Free,
        };
        if stage != Stage::Held {
            self.transmit(flow, wire.clone());
        }
        let client = Client { machine, stage, flow, fallback: None, request, wire, ack: None, armed: None };
        self.clients.insert(id, client);
        self.settle_client(id);
    }

    pub(super) fn on_response(&mut self, now: Instant, message: Message) {
        let Some(id) = response_id(&message) else { return };
        let (Some(status), Some(client)) = (message.status(), self.clients.get_mut(&id)) else { return };
        let (stage, flow) = (std::mem::replace(&mut client.stage, Stage::Free), client.flow);
        let verdict = match &mut client.machine {
            ClientMachine::Invite(machine) => machine.on_response(now, &self.timing, status),
            ClientMachine::Other(machine) => machine.on_response(now, &self.timing, status),
        };
        if matches!(verdict, OnResponse::Ack | OnResponse::DeliverAndAck) {
            if client.ack.is_none() {
                client.ack = hop_request(&client.request, Method::Ack, Some(&message)).map(|ack| ack.to_bytes());
            }
            if let Some(ack) = client.ack.clone() {
                self.transmits.push_back(Transmit { flow: client.flow, payload: ack });
            }
        }
        if matches!(verdict, OnResponse::Deliver | OnResponse::DeliverAndAck) {
            self.events.push_back(Event::Response { id, message });
        }
        self.settle_client(id);
        self.make_room(flow, stage);
    }

    pub(super) fn on_client_timer(&mut self, now: Instant, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.armed = None;
        let (verdict, invite) = match &mut client.machine {
            ClientMachine::Invite(machine) => {
                let accepted = !machine.is_pending();
                (machine.on_timer(now), accepted && client.ack.is_none())
            }
            ClientMachine::Other(machine) => (machine.on_timer(now), false),
        };
        match verdict {
            OnTimer::Nothing => {}
            OnTimer::Resend if client.stage == Stage::Held => {}
            OnTimer::Resend => {
                let (flow, wire) = (client.flow, client.wire.clone());
                self.transmit(flow, wire);
            }
            OnTimer::TimedOut => self.events.push_back(Event::Timeout { id }),
            OnTimer::Done if invite => self.events.push_back(Event::Gone { id }),
            OnTimer::Done => {}
        }
        self.settle_client(id);
    }

    /// Sets the deadline anew, or forgets a transaction that has ended.
    fn settle_client(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let (ended, next) = match &client.machine {
            ClientMachine::Invite(machine) => (machine.is_terminated(), machine.clock.next()),
            ClientMachine::Other(machine) => (machine.is_terminated(), machine.clock.next()),
        };
        if ended {
            self.drop_client(id);
        } else {
            let old = std::mem::replace(&mut client.armed, next);
            self.timers.update(Owner::Client(id), old, next);
        }
    }

    pub(super) fn drop_client(&mut self, id: ClientId) {
        if let Some(client) = self.clients.remove(&id) {
            self.timers.update(Owner::Client(id), client.armed, None);
            self.make_room(client.flow, client.stage);
        }
    }

    /// A request of this stage no longer counts: others may be sent.
    fn make_room(&mut self, flow: Flow, stage: Stage) {
        if stage == Stage::Sent {
            self.windows.leave(flow);
        }
        while stage != Stage::Free
            && let Some(id) = self.windows.next(flow)
        {
            match self.clients.get_mut(&id) {
                Some(client) if client.stage == Stage::Held => {
                    client.stage = Stage::Sent;
                    let wire = client.wire.clone();
                    self.transmit(flow, wire);
                }
                _ => self.windows.leave(flow),
            }
        }
    }
}

fn response_id(message: &Message) -> Option<ClientId> {
    ClientId::of_response(message.via().ok()?.branch()?, &message.cseq().ok()?.method)
}
