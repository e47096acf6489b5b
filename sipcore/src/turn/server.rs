//! The server as a state machine without I/O: datagrams and time in; datagrams, relays to open and to close out.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};
use stun_types::attribute::{
    AttributeType, ErrorCode, Fingerprint, MessageIntegrity, MessageIntegritySha256, Nonce, RawAttribute, Realm,
    Userhash, Username, XorMappedAddress,
};
use stun_types::message::{BINDING, IntegrityKey, Message, MessageClass, MessageType, MessageWriteVec, TransactionId};
use stun_types::prelude::*;
use turn_types::AddressFamily;
use turn_types::attribute::{
    ChannelNumber, Data, EvenPort, Lifetime, RequestedAddressFamily, RequestedTransport, XorPeerAddress,
    XorRelayedAddress,
};
use turn_types::channel::ChannelData;
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, DATA, REFRESH, SEND};

use super::allocation::{Allocation, Id, Refused};
use super::answer::Answer;
use super::behaviour::{self, CHANGE_REQUEST, Square};
use super::credentials::{Mint, Nonces, seconds};
use super::peers::Peers;
use super::{TurnConfig, TurnLimits};
use crate::hub::rate::Rates;
use crate::random;
use crate::transport::{Flow, Transport};

/// Granted when nothing is asked for (RFC 8656 7.2).
const LIFETIME: Duration = Duration::from_secs(600);
/// Channels are 0x4000 to 0x4FFF (RFC 8656 12); clients of RFC 5766 take any up to 0x7FFF.
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x7fff;
/// What a user may be ahead of the bandwidth granted.
const BURST: Duration = Duration::from_millis(500);
/// Attributes that are understood, of those that must be (RFC 8489 14).
const UNDERSTOOD: [AttributeType; 13] = [
    Username::TYPE,
    MessageIntegrity::TYPE,
    MessageIntegritySha256::TYPE,
    Realm::TYPE,
    Nonce::TYPE,
    Userhash::TYPE,
    ChannelNumber::TYPE,
    Lifetime::TYPE,
    XorPeerAddress::TYPE,
    Data::TYPE,
    RequestedAddressFamily::TYPE,
    RequestedTransport::TYPE,
    EvenPort::TYPE,
];

/// What the driver is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Send to a client.
    Client { flow: Flow, bytes: Vec<u8> },
    /// Send from a relay to a peer.
    Peer { relay: Id, to: SocketAddr, bytes: Vec<u8> },
    /// Open a relay on this address, on an even port if that is wanted, and tell by [`Server::opened`].
    Open { relay: Id, ip: IpAddr, even: bool },
    /// Close a relay.
    Close { relay: Id },
}

/// What a user has taken.
struct Usage {
    allocations: usize,
    /// When nothing of the bandwidth is used any more.
    free_at: Instant,
}

pub(super) struct Server {
    realm: String,
    limits: TurnLimits,
    mint: Mint,
    nonces: Nonces,
    rates: Rates,
    peers: Peers,
    relay_v4: Option<IpAddr>,
    relay_v6: Option<IpAddr>,
    squares: Vec<Square>,
    allocations: HashMap<Id, Allocation>,
    clients: HashMap<Flow, Id>,
    users: HashMap<String, Usage>,
    deadlines: BTreeSet<(Instant, Id)>,
    last: Id,
    outputs: VecDeque<Output>,
}

impl Server {
    pub fn new(config: &TurnConfig, mint: Mint, squares: Vec<Square>, now: Instant) -> Self {
        let first = |v4: bool| config.listen.iter().map(SocketAddr::ip).find(|ip| ip.is_ipv4() == v4);
        let burst = config.limits.requests_per_second.max(1);
        Server {
            realm: config.realm.clone(),
            limits: config.limits,
            mint,
            nonces: Nonces::new(now),
            rates: Rates::new(burst, Duration::from_secs(1) / burst),
            peers: Peers {
                allow: config.allow.clone(),
                own: config.listen.iter().map(SocketAddr::ip).collect(),
                ports: config.ports.clone(),
            },
            relay_v4: first(true),
            relay_v6: first(false),
            squares,
            allocations: HashMap::new(),
            clients: HashMap::new(),
            users: HashMap::new(),
            deadlines: BTreeSet::new(),
            last: 0,
            outputs: VecDeque::new(),
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    pub fn has_allocation(&self, flow: Flow) -> bool {
        self.clients.contains_key(&flow)
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            self.remove(id);
        }
    }

    /// The client's connection has ended, and its allocation with it.
    pub fn handle_gone(&mut self, flow: Flow) {
        if let Some(id) = self.clients.get(&flow) {
            self.remove(*id);
        }
    }

    /// One datagram, or one framed message of a connection, from a client.
    pub fn handle_client(&mut self, now: Instant, wall: SystemTime, flow: Flow, bytes: &[u8]) {
        if bytes.first().is_some_and(|first| first >> 6 == 1) {
            return self.on_channel(now, flow, bytes);
        }
        if !self.clients.contains_key(&flow) && !self.rates.admit(now, flow.remote.ip()) {
            return;
        }
        let Ok(message) = Message::from_bytes(bytes) else { return };
        match (message.class(), message.method()) {
            (MessageClass::Request, method) => {
                let local = if method == BINDING { self.on_binding(flow, &message) } else { None };
                let (flow, bytes) = match local {
                    Some((local, bytes)) => (Flow { local, ..flow }, Some(bytes)),
                    None => (flow, self.on_request(now, wall, flow, &message).unwrap_or_else(Some)),
                };
                self.outputs.extend(bytes.map(|bytes| Output::Client { flow, bytes }));
            }
            (MessageClass::Indication, SEND) => self.on_send(now, flow, &message),
            _ => {}
        }
    }

    /// Only a datagram can be answered from elsewhere.
    fn on_binding(&self, flow: Flow, request: &Message<'_>) -> Option<(u16, Vec<u8>)> {
        let squares: &[Square] = if flow.transport == Transport::Udp { &self.squares } else { &[] };
        let unknown = not_understood(request, &[CHANGE_REQUEST]);
        Some(match unknown.is_empty() {
            true => behaviour::binding(request, flow.local, flow.remote, squares),
            false => (flow.local, Answer::unknown(request, &unknown).plain()),
        })
    }

    /// The response to a request for a relay; `Ok(None)`: later, or none. An error is a response too.
    fn on_request(
        &mut self,
        now: Instant,
        wall: SystemTime,
        flow: Flow,
        request: &Message<'_>,
    ) -> Result<Option<Vec<u8>>, Vec<u8>> {
        let caller = self.authenticate(now, flow, request)?;
        let unknown = not_understood(request, &[]);
        if !unknown.is_empty() {
            return Err(Answer::unknown(request, &unknown).signed(&caller.key));
        }
        let key = caller.key.clone();
        let outcome = match request.method() {
            ALLOCATE => return self.on_allocate(now, wall, flow, request, caller),
            REFRESH => self.on_refresh(now, flow, request),
            CREATE_PERMISSION => self.on_create_permission(now, flow, request),
            CHANNEL_BIND => self.on_channel_bind(now, flow, request),
            _ => Err(ErrorCode::BAD_REQUEST),
        };
        match outcome {
            Ok(answer) => Ok(Some(answer.signed(&key))),
            Err(code) => Err(Answer::error(request, code).signed(&key)),
        }
    }

    /// RFC 8489 9.2.4, and one name for all requests of an allocation (RFC 8656 5).
    fn authenticate(&self, now: Instant, flow: Flow, request: &Message<'_>) -> Result<Caller, Vec<u8>> {
        let client = flow.remote.ip();
        let challenge = |code| {
            let nonce = self.nonces.issue(now, client);
            Answer::challenge(request, code, &self.realm, &nonce).plain()
        };
        if !request.has_attribute(MessageIntegrity::TYPE) {
            return Err(challenge(ErrorCode::UNAUTHORIZED));
        }
        let read = (request.attribute::<Username>(), request.attribute::<Realm>(), request.attribute::<Nonce>());
        let (Ok(username), Ok(realm), Ok(nonce)) = read else {
            return Err(Answer::error(request, ErrorCode::BAD_REQUEST).plain());
        };
        if !self.nonces.is_fresh(nonce.nonce(), now, client) {
            return Err(challenge(ErrorCode::STALE_NONCE));
        }
        let username = username.username();
        let known = self.mint.read(username, &self.realm).filter(|_| realm.realm() == self.realm);
        let known = known.filter(|known| request.validate_integrity_with_key(&known.key).is_ok());
        let Some(known) = known else { return Err(challenge(ErrorCode::UNAUTHORIZED)) };
        let standing = self.clients.get(&flow).and_then(|id| self.allocations.get(id));
        if standing.is_some_and(|allocation| allocation.username != username) {
            return Err(Answer::error(request, ErrorCode::WRONG_CREDENTIALS).signed(&known.key));
        }
        Ok(Caller { username: username.to_owned(), user: known.user.to_owned(), expiry: known.expiry, key: known.key })
    }

    /// RFC 8656 7.2. The response comes when the relay is open.
    fn on_allocate(
        &mut self,
        now: Instant,
        wall: SystemTime,
        flow: Flow,
        request: &Message<'_>,
        caller: Caller,
    ) -> Result<Option<Vec<u8>>, Vec<u8>> {
        let refuse = |code| Err(Answer::error(request, code).signed(&caller.key));
        if let Some(standing) = self.clients.get(&flow).and_then(|id| self.allocations.get(id)) {
            // The same again: its response was lost.
            return match standing.made_by == request.transaction_id() {
                true => Ok((!standing.made.is_empty()).then(|| standing.made.clone())),
                false => refuse(ErrorCode::ALLOCATION_MISMATCH),
            };
        }
        match request.attribute::<RequestedTransport>() {
            Ok(transport) if transport.protocol() == RequestedTransport::UDP => {}
            Ok(_) => return refuse(ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL),
            Err(_) => return refuse(ErrorCode::BAD_REQUEST),
        }
        if caller.expiry < seconds(wall) {
            return refuse(ErrorCode::UNAUTHORIZED);
        }
        let even = request.has_attribute(EvenPort::TYPE);
        if request.attribute::<EvenPort>().is_ok_and(|asked| asked.requested()) {
            // No port is reserved for a later allocation.
            return refuse(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        let v4 = match request.has_attribute(RequestedAddressFamily::TYPE) {
            true => match request.attribute::<RequestedAddressFamily>() {
                Ok(asked) => asked.family() == AddressFamily::IPV4,
                Err(_) => return refuse(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED),
            },
            false => true,
        };
        let Some(ip) = (if v4 { self.relay_v4 } else { self.relay_v6 }) else {
            return refuse(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED);
        };
        if self.users.get(&caller.user).is_some_and(|usage| usage.allocations >= self.limits.allocations_per_user) {
            return refuse(ErrorCode::ALLOCATION_QUOTA_REACHED);
        }
        if self.allocations.len() >= self.limits.allocations {
            return refuse(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        let lifetime = self.granted(request).max(LIFETIME.min(self.limits.lifetime));
        self.last += 1;
        let id = self.last;
        self.users.entry(caller.user.clone()).or_insert(Usage { allocations: 0, free_at: now }).allocations += 1;
        let made_by = request.transaction_id();
        let new = Allocation::new(flow, caller.username, caller.user, caller.key, made_by, v4, lifetime, now);
        self.deadlines.insert((new.expires_at, id));
        self.allocations.insert(id, new);
        self.clients.insert(flow, id);
        self.outputs.push_back(Output::Open { relay: id, ip, even });
        Ok(None)
    }

    /// The driver has opened the relay, or could not.
    pub fn opened(&mut self, id: Id, relay: Option<SocketAddr>) {
        let Some(allocation) = self.allocations.get_mut(&id) else { return };
        let request = stand_in(ALLOCATE, allocation.made_by);
        let Ok(request) = Message::from_bytes(&request) else { return };
        let flow = allocation.client;
        let Some(relay) = relay else {
            let bytes = Answer::error(&request, ErrorCode::INSUFFICIENT_CAPACITY).signed(&allocation.key);
            self.outputs.push_back(Output::Client { flow, bytes });
            return self.remove(id);
        };
        let transaction = request.transaction_id();
        let bytes = Answer::success(&request)
            .with(&XorRelayedAddress::new(relay, transaction))
            .with(&Lifetime::new(whole_seconds(allocation.lifetime)))
            .with(&XorMappedAddress::new(flow.remote, transaction))
            .signed(&allocation.key);
        allocation.relay = Some(relay);
        allocation.made.clone_from(&bytes);
        self.outputs.push_back(Output::Client { flow, bytes });
    }

    /// The lifetime for what a request asks for (RFC 8656 7.2, 8.2).
    fn granted(&self, request: &Message<'_>) -> Duration {
        let asked = request.attribute::<Lifetime>().ok().map(|lifetime| Duration::from_secs(lifetime.seconds().into()));
        asked.unwrap_or(LIFETIME).min(self.limits.lifetime)
    }

    /// RFC 8656 8.2.
    fn on_refresh(&mut self, now: Instant, flow: Flow, request: &Message<'_>) -> Result<Answer, u16> {
        let granted = self.granted(request);
        let id = *self.clients.get(&flow).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let allocation = self.allocations.get_mut(&id).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        if request.has_attribute(RequestedAddressFamily::TYPE) {
            let asked =
                request.attribute::<RequestedAddressFamily>().map(|asked| asked.family() == AddressFamily::IPV4);
            if asked != Ok(allocation.family_v4) {
                return Err(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH);
            }
        }
        let granted = if granted.is_zero() { granted } else { granted.max(LIFETIME.min(self.limits.lifetime)) };
        self.deadlines.remove(&(allocation.expires_at, id));
        allocation.expires_at = now + granted;
        self.deadlines.insert((allocation.expires_at, id));
        if granted.is_zero() {
            self.handle_timeout(now);
        }
        Ok(Answer::success(request).with(&Lifetime::new(whole_seconds(granted))))
    }

    /// RFC 8656 10.2: all of the peers, or none.
    fn on_create_permission(&mut self, now: Instant, flow: Flow, request: &Message<'_>) -> Result<Answer, u16> {
        let id = *self.clients.get(&flow).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let allocation = self.allocations.get_mut(&id).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let mut wanted = Vec::new();
        for (_, raw) in request.iter_attributes().filter(|(_, raw)| raw.get_type() == XorPeerAddress::TYPE) {
            let peer = XorPeerAddress::from_raw(raw).map_err(|_| ErrorCode::BAD_REQUEST)?;
            wanted.push(peer.addr(request.transaction_id()).ip());
        }
        if wanted.is_empty() {
            return Err(ErrorCode::BAD_REQUEST);
        }
        for ip in &wanted {
            if ip.is_ipv4() != allocation.family_v4 {
                return Err(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH);
            }
            if !self.peers.may_know(*ip) {
                return Err(ErrorCode::FORBIDDEN);
            }
        }
        for ip in wanted {
            allocation.permit(ip, self.limits.peers, now).map_err(code_of)?;
        }
        Ok(Answer::success(request))
    }

    /// RFC 8656 12.2.
    fn on_channel_bind(&mut self, now: Instant, flow: Flow, request: &Message<'_>) -> Result<Answer, u16> {
        let id = *self.clients.get(&flow).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let allocation = self.allocations.get_mut(&id).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let channel = request.attribute::<ChannelNumber>().map_err(|_| ErrorCode::BAD_REQUEST)?.channel();
        let peer = request.attribute::<XorPeerAddress>().map_err(|_| ErrorCode::BAD_REQUEST)?;
        let peer = peer.addr(request.transaction_id());
        if !CHANNELS.contains(&channel) {
            return Err(ErrorCode::BAD_REQUEST);
        }
        if peer.is_ipv4() != allocation.family_v4 {
            return Err(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH);
        }
        if !self.peers.may_reach(peer) {
            return Err(ErrorCode::FORBIDDEN);
        }
        allocation.bind(channel, peer, self.limits.peers, now).map_err(code_of)?;
        Ok(Answer::success(request))
    }

    /// Data for a peer in a Send indication (RFC 8656 11.2). What is wrong with it is not told.
    fn on_send(&mut self, now: Instant, flow: Flow, message: &Message<'_>) {
        let Some(id) = self.clients.get(&flow).copied() else { return };
        if !not_understood(message, &[]).is_empty() {
            return;
        }
        let (Ok(peer), Ok(data)) = (message.attribute::<XorPeerAddress>(), message.attribute::<Data>()) else { return };
        let peer = peer.addr(message.transaction_id());
        let permitted = self.allocations.get(&id).is_some_and(|a| a.is_permitted(peer.ip(), now));
        if permitted && self.peers.may_reach(peer) && self.spend(id, data.data().len(), now) {
            let bytes = data.data().to_vec();
            self.outputs.push_back(Output::Peer { relay: id, to: peer, bytes });
        }
    }

    /// Data for the peer of a channel (RFC 8656 12.6).
    fn on_channel(&mut self, now: Instant, flow: Flow, bytes: &[u8]) {
        let Some(id) = self.clients.get(&flow).copied() else { return };
        let Ok(message) = ChannelData::parse(bytes) else { return };
        let Some(peer) = self.allocations.get(&id).and_then(|a| a.peer_of(message.id(), now)) else { return };
        if self.spend(id, message.data().len(), now) {
            self.outputs.push_back(Output::Peer { relay: id, to: peer, bytes: message.data().to_vec() });
        }
    }

    /// A datagram from a peer has reached a relay (RFC 8656 11.3, 12.7).
    pub fn handle_peer(&mut self, now: Instant, id: Id, peer: SocketAddr, data: &[u8]) {
        let Some(allocation) = self.allocations.get(&id) else { return };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if !allocation.is_permitted(peer.ip(), now) {
            return;
        }
        let flow = allocation.client;
        let bytes = match allocation.channel_of(peer, now) {
            Some(channel) => in_channel(channel, data, flow.transport),
            None => in_indication(peer, data),
        };
        if let Some(bytes) = bytes
            && self.spend(id, data.len(), now)
        {
            self.outputs.push_back(Output::Client { flow, bytes });
        }
    }

    /// Takes from the bandwidth of the user. `false`: there is none left.
    fn spend(&mut self, id: Id, bytes: usize, now: Instant) -> bool {
        let Some(allocation) = self.allocations.get(&id).filter(|a| a.relay.is_some()) else { return false };
        let Some(usage) = self.users.get_mut(&allocation.user) else { return false };
        let cost = Duration::from_secs_f64((bytes + 28) as f64 / self.limits.bytes_per_second.max(1) as f64);
        let free_at = usage.free_at.max(now) + cost;
        let granted = free_at - now <= BURST;
        if granted {
            usage.free_at = free_at;
        }
        granted
    }

    fn remove(&mut self, id: Id) {
        let Some(allocation) = self.allocations.remove(&id) else { return };
        self.deadlines.remove(&(allocation.expires_at, id));
        self.clients.remove(&allocation.client);
        if let Some(usage) = self.users.get_mut(&allocation.user) {
            usage.allocations -= 1;
            if usage.allocations == 0 {
                self.users.remove(&allocation.user);
            }
        }
        self.outputs.push_back(Output::Close { relay: id });
    }
}

/// Who sends an authenticated request.
struct Caller {
    username: String,
    user: String,
    expiry: u64,
    key: IntegrityKey,
}

fn code_of(refused: Refused) -> u16 {
    match refused {
        Refused::Full => ErrorCode::INSUFFICIENT_CAPACITY,
        Refused::Taken => ErrorCode::BAD_REQUEST,
    }
}

fn whole_seconds(duration: Duration) -> u32 {
    duration.as_secs().try_into().unwrap_or(u32::MAX)
}

/// The attributes that must be understood and are not.
fn not_understood(message: &Message<'_>, also: &[AttributeType]) -> Vec<AttributeType> {
    let types = message.iter_attributes().map(|(_, raw): (usize, RawAttribute<'_>)| raw.get_type());
    types
        .filter(|kind| kind.comprehension_required() && *kind != Fingerprint::TYPE)
        .filter(|kind| !UNDERSTOOD.contains(kind) && !also.contains(kind))
        .take(16)
        .collect()
}

/// The header of a request, to answer it later.
fn stand_in(method: stun_types::message::Method, id: TransactionId) -> Vec<u8> {
    let kind = MessageType::from_class_method(MessageClass::Request, method);
    Message::builder(kind, id, MessageWriteVec::new()).finish()
}

/// A ChannelData message; on a connection, padded to four bytes (RFC 8656 12.5).
fn in_channel(channel: u16, data: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(data.len() + 8);
    bytes.extend(channel.to_be_bytes());
    bytes.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
    bytes.extend(data);
    if transport.is_reliable() {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    Some(bytes)
}

/// A Data indication (RFC 8656 11.3).
fn in_indication(peer: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
    let id = TransactionId::from((u128::from(random::number()) << 32) | u128::from(random::number() >> 32));
    let kind = MessageType::from_class_method(MessageClass::Indication, DATA);
    let mut message = Message::builder(kind, id, MessageWriteVec::with_capacity(data.len() + 64));
    message.add_attribute(&XorPeerAddress::new(peer, id)).ok()?;
    message.add_attribute(&Data::new(data)).ok()?;
    Some(message.finish())
}
