//! The table of all transactions of one element.

use super::answers::Answers;
use super::clients::Client;
use super::key::{ClientId, KeyHasher, ServerId, ServerKey};
use super::servers::Server;
use super::timers::Timers;
use super::timing::Timing;
use super::window::Windows;
use crate::message::{Message, via_value};
use crate::transport::{Flow, Transmit};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// What the transaction user is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request that opens a transaction; it is owed an answer.
    Request { id: ServerId, flow: Flow, message: Message },
    /// An ACK that the user has to see: for a 2xx, or one that belongs to nothing.
    Ack { flow: Flow, message: Message },
    /// A response; for INVITE every 2xx, also repeated ones.
    Response { id: ClientId, message: Message },
    /// No final response within 64*T1 (timers B and F).
    Timeout { id: ClientId },
    /// The transport failed while the transaction waited for its response.
    Unreachable { id: ClientId, why: Arc<str> },
    /// An INVITE that was answered 2xx can no longer receive further 2xx (timer M).
    Gone { id: ClientId },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Client(ClientId),
    Server(ServerId),
}

/// All transactions; the requests and responses of the user go in, its events come out.
pub(crate) struct Layer {
    pub(super) timing: Timing,
    pub(super) limit: usize,
    /// Our address per listening point, for Via.
    pub(super) sent_by: Vec<SocketAddr>,
    pub(super) shed: u64,
    pub(super) clients: HashMap<ClientId, Client>,
    pub(super) windows: Windows,
    pub(super) servers: HashMap<ServerId, Server>,
    pub(super) keys: HashMap<ServerKey, ServerId, KeyHasher>,
    pub(super) secrets: [RandomState; 2],
    pub(super) answers: Answers,
    pub(super) last_server: u64,
    /// INVITEs that were accepted, kept for repetitions, the oldest first.
    pub(super) accepted: VecDeque<ServerId>,
    pub(super) timers: Timers<Owner>,
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) events: VecDeque<Event>,
}

impl Layer {
    /// `limit` bounds the transactions of each side. Above it those that have been answered are forgotten, the oldest first; when none has been,
    /// new requests are answered 503.
    pub fn new(timing: Timing, sent_by: Vec<SocketAddr>, limit: usize) -> Self {
        Layer {
            timing,
            limit,
            sent_by,
            shed: 0,
            clients: HashMap::new(),
            windows: Windows::default(),
            servers: HashMap::new(),
            keys: HashMap::default(),
            secrets: [RandomState::new(), RandomState::new()],
            answers: Answers::default(),
            last_server: 0,
            accepted: VecDeque::new(),
            timers: Timers::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// How many transactions live.
    pub fn len(&self) -> usize {
        self.clients.len() + self.servers.len() + self.answers.len()
    }

    /// How many addresses have requests under way.
    #[cfg(test)]
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// Our address on a listening point.
    pub fn sent_by(&self, local: u16) -> SocketAddr {
        self.sent_by.get(local as usize).copied().unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.timers.next(), self.answers.next()].into_iter().flatten().min()
    }

    /// Our addresses from now on; a flow names one of them.
    pub fn set_locals(&mut self, locals: Vec<SocketAddr>) {
        self.sent_by = locals;
    }

    /// Sends bytes outside of any transaction (repeated 2xx and their ACK).
    pub fn transmit(&mut self, flow: Flow, payload: Bytes) {
        self.transmits.push_back(Transmit { flow, payload });
    }

    pub fn handle_message(&mut self, now: Instant, flow: Flow, message: Message) {
        match message.method().cloned() {
            Some(method) => self.on_request(now, flow, &method, message),
            None => self.on_response(now, message),
        }
    }

    /// Every transaction that waits on `flow` fails, or tries the other transport.
    pub fn handle_unreachable(&mut self, now: Instant, flow: Flow, why: &str) {
        let failed: Vec<ClientId> = self
            .clients
            .iter()
            .filter(|(_, client)| client.flow == flow && client.is_pending())
            .map(|(id, _)| *id)
            .collect();
        let why: Arc<str> = why.into();
        for id in failed {
            if self.fall_back(now, id) {
                continue;
            }
            self.drop_client(id);
            self.events.push_back(Event::Unreachable { id, why: why.clone() });
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.answers.expire(now);
        while let Some((_, owner)) = self.timers.pop_due(now) {
            match owner {
                Owner::Client(id) => self.on_client_timer(now, id),
                Owner::Server(id) => self.on_server_timer(now, id),
            }
        }
    }

    pub(super) fn via(&self, flow: Flow, branch: &str) -> String {
        via_value(flow.transport.as_via(), self.sent_by(flow.local), branch)
    }
}
