//! What stands between this host and the public network, found out with STUN and TURN servers (RFC 5780, 8489, 8656).
//!
//! Everything blocks, and is bounded: a server that does not answer costs some seconds.

use rustls::{ClientConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use stun_types::attribute::{
    AttributeType, ErrorCode, MappedSocketAddr, Nonce, RawAttribute, Realm, Username, XorMappedAddress,
};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageType, MessageWriteVec, Method,
    TransactionId,
};
use stun_types::prelude::*;
use turn_types::attribute::{Lifetime, RequestedTransport, XorRelayedAddress};
use turn_types::message::{ALLOCATE, REFRESH};

use crate::flow::{Relay, RelayBy};
use crate::random;
use crate::tls::ClientTls;

/// CHANGE-REQUEST and OTHER-ADDRESS (RFC 5780 7.2, 7.4).
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802c);
/// Flags of CHANGE-REQUEST.
const CHANGE_IP: u32 = 4;
const CHANGE_PORT: u32 = 2;
/// A request is sent this often, each time waiting this long, twice as long after the first.
const TRIES: u32 = 3;
const WAIT: Duration = Duration::from_millis(300);
/// For a connection, and what is asked over it.
const CONNECT: Duration = Duration::from_secs(3);

/// How the address that others see depends on whom this host talks to (RFC 4787 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// It is the host's own: there is no translation.
    None,
    /// It does not.
    EndpointIndependent,
    /// Another for each address.
    AddressDependent,
    /// Another for each address and port.
    AddressAndPortDependent,
}

/// Who can reach a socket that has sent something (RFC 4787 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// The addresses that it sent to.
    AddressDependent,
    /// The addresses and ports that it sent to.
    AddressAndPortDependent,
}

impl Mapping {
    /// One word, for machines.
    pub fn word(self) -> &'static str {
        match self {
            Mapping::None => "none",
            Mapping::EndpointIndependent => "endpoint-independent",
            Mapping::AddressDependent => "address-dependent",
            Mapping::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

impl Filtering {
    /// One word, for machines.
    pub fn word(self) -> &'static str {
        match self {
            Filtering::EndpointIndependent => "endpoint-independent",
            Filtering::AddressDependent => "address-dependent",
            Filtering::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

/// What a STUN server told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The address of the socket that asked.
    pub local: Option<SocketAddr>,
    /// The address that the server saw, by UDP.
    pub mapped: Option<SocketAddr>,
    /// The server answers by TCP, whether or not by UDP. `None`: not asked, UDP works.
    pub by_tcp: Option<bool>,
    /// `None`: the server has no second address, or UDP does not work.
    pub mapping: Option<Mapping>,
    /// As [`Seen::mapping`].
    pub filtering: Option<Filtering>,
    /// From the first question to its answer.
    pub rtt: Option<Duration>,
}

/// What a TURN server said to a request for a relay.
pub type Relayed = Result<SocketAddr, String>;

/// Asks a STUN server.
pub fn look(server: SocketAddr) -> Seen {
    let mut seen = Seen::default();
    let Some(socket) = socket(server) else { return seen };
    seen.local = socket.local_addr().ok();
    let started = Instant::now();
    let Some(first) = ask(&socket, server, 0) else {
        seen.by_tcp = Some(by_tcp(server).is_some());
        return seen;
    };
    seen.rtt = Some(started.elapsed());
    seen.mapped = first.mapped;
    let Some(other) = first.other.filter(|other| other.ip() != server.ip()) else { return seen };
    seen.mapping = mapping(&socket, server, other, &first);
    seen.filtering = filtering(server);
    seen
}

/// RFC 5780 4.3.
fn mapping(socket: &UdpSocket, server: SocketAddr, other: SocketAddr, first: &Answer) -> Option<Mapping> {
    if first.mapped == socket.local_addr().ok() {
        return Some(Mapping::None);
    }
    let second = ask(socket, SocketAddr::new(other.ip(), server.port()), 0)?.mapped;
    if second == first.mapped {
        return Some(Mapping::EndpointIndependent);
    }
    let third = ask(socket, other, 0)?.mapped;
    Some(if third == second { Mapping::AddressDependent } else { Mapping::AddressAndPortDependent })
}

/// RFC 5780 4.4, from a socket that has spoken to nobody else.
fn filtering(server: SocketAddr) -> Option<Filtering> {
    let socket = socket(server)?;
    ask(&socket, server, 0)?;
    if ask(&socket, server, CHANGE_IP | CHANGE_PORT).is_some() {
        return Some(Filtering::EndpointIndependent);
    }
    let same_address = ask(&socket, server, CHANGE_PORT).is_some();
    Some(if same_address { Filtering::AddressDependent } else { Filtering::AddressAndPortDependent })
}

/// A socket on the address that leads to the server.
fn socket(server: SocketAddr) -> Option<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let towards = UdpSocket::bind((any, 0)).ok()?;
    towards.connect(server).ok()?;
    UdpSocket::bind((towards.local_addr().ok()?.ip(), 0)).ok()
}

struct Answer {
    mapped: Option<SocketAddr>,
    other: Option<SocketAddr>,
}

/// One Binding request, repeated; with flags, the answer is to come from elsewhere.
fn ask(socket: &UdpSocket, server: SocketAddr, change: u32) -> Option<Answer> {
    let id = transaction();
    let mut request = start(BINDING, id);
    if change != 0 {
        let flags = RawAttribute::new_owned(CHANGE_REQUEST, Box::new(change.to_be_bytes()));
        request.add_attribute(&flags).ok()?;
    }
    let request = request.finish();
    let mut buffer = [0; 2048];
    for turn in 0..TRIES {
        socket.send_to(&request, server).ok()?;
        let end = Instant::now() + WAIT * (1 + turn.min(1));
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left)).ok()?;
            let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
            // An answer that comes from where it was not wanted from proves nothing.
            let elsewhere = from.ip() != server.ip() || from.port() != server.port();
            if elsewhere == (change != 0)
                && let Some(answer) = read_answer(&buffer[..n], id)
            {
                return Some(answer);
            }
        }
    }
    None
}

fn read_answer(bytes: &[u8], id: TransactionId) -> Option<Answer> {
    let message = Message::from_bytes(bytes).ok()?;
    if message.transaction_id() != id || message.class() != MessageClass::Success {
        return None;
    }
    let mapped = message.attribute::<XorMappedAddress>().ok().map(|mapped| mapped.addr(id));
    let other = message.raw_attribute(OTHER_ADDRESS);
    let other = other.and_then(|raw| MappedSocketAddr::from_raw(&raw).ok()).map(|other| other.addr());
    Some(Answer { mapped, other })
}

/// The address that the server sees over a connection.
fn by_tcp(server: SocketAddr) -> Option<SocketAddr> {
    let mut line = Line::tcp(server).ok()?;
    let id = transaction();
    let answer = line.exchange(start(BINDING, id).finish()).ok()?;
    read_answer(&answer, id)?.mapped
}

/// Asks a TURN server for a relay, and gives it back.
pub fn relay(Relay { address: server, by, user, password }: &Relay) -> Relayed {
    let mut line = match by {
        RelayBy::Udp => Line::udp(*server)?,
        RelayBy::Tcp => Line::tcp(*server)?,
        RelayBy::Tls(tls) => Line::tls(*server, tls)?,
    };
    let first = line.exchange(allocate(None)?)?;
    let challenge = Message::from_bytes(&first).map_err(|e| e.to_string())?;
    let (Ok(realm), Ok(nonce)) = (challenge.attribute::<Realm>(), challenge.attribute::<Nonce>()) else {
        return Err("it answers, but not as a TURN server does".to_owned());
    };
    let caller = Caller { user, password, realm: realm.realm(), nonce: nonce.nonce() };
    let second = line.exchange(allocate(Some(&caller))?)?;
    let answer = Message::from_bytes(&second).map_err(|e| e.to_string())?;
    if let Ok(error) = answer.attribute::<ErrorCode>() {
        return Err(match error.code() {
            401 => format!("it does not know the user {user} with this password (401)"),
            code => format!("it refuses: {code} {}", error.reason()),
        });
    }
    let relayed = answer.attribute::<XorRelayedAddress>().map_err(|_| "its answer has no address".to_owned())?;
    let relayed = relayed.addr(answer.transaction_id());
    // Should this be lost, the relay ends by itself.
    let mut end = start(REFRESH, transaction());
    if end.add_attribute(&Lifetime::new(0)).is_ok() && caller.sign(&mut end).is_ok() {
        let _ = line.exchange(end.finish());
    }
    Ok(relayed)
}

struct Caller<'a> {
    user: &'a str,
    password: &'a str,
    realm: &'a str,
    nonce: &'a str,
}

impl Caller<'_> {
    /// RFC 8489 9.2.3.
    fn sign(&self, request: &mut MessageWriteVec) -> Result<(), String> {
        let failed = |e: stun_types::message::StunWriteError| format!("the user {} cannot be used: {e}", self.user);
        request.add_attribute(&Username::new(self.user).map_err(failed)?).map_err(failed)?;
        request.add_attribute(&Realm::new(self.realm).map_err(failed)?).map_err(failed)?;
        request.add_attribute(&Nonce::new(self.nonce).map_err(failed)?).map_err(failed)?;
        let key = LongTermKeyCredentials::new(self.user.to_owned(), self.password.to_owned(), self.realm.to_owned());
        request.add_message_integrity(&key.into(), IntegrityAlgorithm::Sha1).map_err(failed)
    }
}

fn allocate(caller: Option<&Caller<'_>>) -> Result<Vec<u8>, String> {
    let mut request = start(ALLOCATE, transaction());
    request.add_attribute(&RequestedTransport::new(RequestedTransport::UDP)).map_err(|e| e.to_string())?;
    if let Some(caller) = caller {
        caller.sign(&mut request)?;
    }
    Ok(request.finish())
}

/// A way to one server.
enum Line {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Line {
    fn udp(server: SocketAddr) -> Result<Line, String> {
        let socket = socket(server).ok_or("no route to it")?;
        socket.connect(server).map_err(|e| e.to_string())?;
        Ok(Line::Udp(socket))
    }

    fn tcp(server: SocketAddr) -> Result<Line, String> {
        connect(server).map(Line::Tcp)
    }

    fn tls(server: SocketAddr, tls: &ClientTls) -> Result<Line, String> {
        let mut stream = connect(server)?;
        let mut session = tls.session().map_err(|e| e.to_string())?;
        // Now, so that what is wrong with its certificate is not said of its answer.
        session.complete_io(&mut stream).map_err(|e| format!("no TLS: {e}"))?;
        Ok(Line::Tls(Box::new(StreamOwned::new(session, stream))))
    }

    /// Sends a request and waits for its response.
    fn exchange(&mut self, request: Vec<u8>) -> Result<Vec<u8>, String> {
        let id = request.get(8..20).ok_or("no request")?;
        let mut buffer = vec![0; 2048];
        match self {
            Line::Udp(socket) => {
                for turn in 0..TRIES {
                    socket.send(&request).map_err(|e| e.to_string())?;
                    let end = Instant::now() + WAIT * (1 + turn.min(1));
                    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                        socket.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
                        match socket.recv(&mut buffer) {
                            Ok(n) if buffer.get(8..20) == Some(id) => return Ok(buffer[..n].to_vec()),
                            _ => {}
                        }
                    }
                }
                Err("no answer by UDP".to_owned())
            }
            Line::Tcp(stream) => over(stream, "TCP", &request, buffer),
            Line::Tls(stream) => over(stream, "TLS", &request, buffer),
        }
    }
}

/// The response to a request over a connection.
fn over(stream: &mut (impl Read + Write), by: &str, request: &[u8], mut buffer: Vec<u8>) -> Result<Vec<u8>, String> {
    let failed = |e: std::io::Error| format!("no answer by {by}: {e}");
    stream.write_all(request).map_err(failed)?;
    stream.flush().map_err(failed)?;
    stream.read_exact(&mut buffer[..20]).map_err(failed)?;
    let length = usize::from(u16::from_be_bytes([buffer[2], buffer[3]]));
    let rest = buffer.get_mut(20..20 + length).ok_or("its answer is too long")?;
    stream.read_exact(rest).map_err(failed)?;
    buffer.truncate(20 + length);
    Ok(buffer)
}

fn connect(server: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&server, CONNECT).map_err(|e| format!("no connection: {e}"))?;
    let limited = stream.set_read_timeout(Some(CONNECT)).and_then(|()| stream.set_write_timeout(Some(CONNECT)));
    limited.map(|()| stream).map_err(|e| e.to_string())
}

fn transaction() -> TransactionId {
    TransactionId::from((u128::from(random::number()) << 32) | u128::from(random::number() >> 32))
}

fn start(method: Method, id: TransactionId) -> MessageWriteVec {
    Message::builder(MessageType::from_class_method(MessageClass::Request, method), id, MessageWriteVec::new())
}
