//! One search for a path: sockets, what the servers say of them, and the checks (RFC 8445).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::interfaces;
use super::link::LinkError;
use super::paths::{self, RelayBy, Servers};
use super::switch::Switch;
use super::wire::{Connection, Drive, State, Wire};
use crate::sdp::{Fingerprint, Quic};

/// How long the connection to a relay may take.
const RELAY_WITHIN: Duration = Duration::from_secs(2);
/// Bytes that wait in a socket.
const SOCKET_BUFFER: usize = 4 << 20;

/// What this end has to find a path with.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Shown to the other end.
    pub certificate: Arc<super::Certificate>,
    /// Who helps.
    pub servers: Servers,
    /// Addresses to be told besides those of the interfaces: of the loopback, where the other end may be on this machine.
    pub also: Vec<IpAddr>,
}

impl LinkConfig {
    /// The same, with TURN servers for what they say of this end's address alone, as STUN servers.
    #[must_use]
    pub fn without_relays(mut self) -> LinkConfig {
        for relay in std::mem::take(&mut self.servers.turn) {
            if relay.is_by_udp() && !self.servers.stun.contains(&relay.address) {
                self.servers.stun.push(relay.address);
            }
        }
        self
    }
}

/// The search. What is given up is cleared away with it.
pub(super) struct Search {
    pub wire: Arc<Wire>,
    _drive: Drive,
    fingerprint: Fingerprint,
    switch: Option<Arc<Switch>>,
    /// What the sockets were bound to.
    addresses: Vec<IpAddr>,
    /// Relays to which there is no connection, and why.
    unreached: Vec<(SocketAddr, String)>,
}

impl Search {
    /// Binds the sockets, and connects to relays. To be called in a tokio runtime.
    pub async fn begin(config: &LinkConfig) -> Result<Search, LinkError> {
        let mut addresses = interfaces::addresses();
        addresses.extend(config.also.iter().copied());
        let no_socket = |e: io::Error| LinkError::NoSocket(e.to_string());
        let mut sockets = Vec::new();
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for ip in &addresses {
            match bind(*ip) {
                Ok(socket) => sockets.push(socket),
                // An address that is tentative, or gone since.
                Err(e) => last = e,
            }
        }
        if sockets.is_empty() {
            return Err(no_socket(last));
        }
        let servers = &config.servers;
        let relays = servers.turn.iter().filter(|relay| relay.is_by_udp()).map(|relay| relay.address).collect();
        let (connections, unreached) = connect_relays(servers).await;
        let (wire, drive) = Wire::new(sockets, connections, relays, |bases, ends| {
            let from = |server: SocketAddr| {
                let ip = interfaces::towards(server)?;
                bases.iter().find(|base| base.ip() == ip).copied()
            };
            let connected = |number| ends.iter().find(|(relay, _)| *relay == number).map(|(_, base)| *base);
            paths::Paths::new(std::time::Instant::now(), bases, servers, from, connected)
        })
        .map_err(no_socket)?;
        let fingerprint = config.certificate.fingerprint;
        Ok(Search { wire, _drive: drive, fingerprint, switch: None, addresses, unreached })
    }

    /// Its sockets are read by this switch. That must be before anything is waited for.
    pub fn read_by(&mut self, switch: Arc<Switch>) {
        self.switch = Some(switch);
    }

    /// Asks the servers, at most 2.5 seconds; what is to be told to the other end.
    pub async fn gathered(&self) -> Quic {
        self.wire.with(|paths, now| paths.handle_timeout(now));
        let mut state = self.wire.state();
        // The sender lives as long as the wire.
        let _ = state.wait_for(|state| state.gathered).await;
        self.wire.with(|paths, _| paths.description(self.fingerprint))
    }

    /// The TURN servers that have not answered.
    pub fn silent_relays(&self) -> Vec<SocketAddr> {
        self.wire.with(|paths, _| paths.silent_relays().collect())
    }

    /// The TURN servers to which there is no connection, and why.
    pub fn unreached_relays(&self) -> &[(SocketAddr, String)] {
        &self.unreached
    }

    /// What is to be told now, some time after [`Search::gathered`]. `None`: the sockets or relays are not what they were.
    pub fn again(&self) -> Option<Quic> {
        let now = interfaces::addresses();
        let stands = now.iter().all(|ip| self.addresses.contains(ip));
        let stands = stands && self.wire.with(|paths, _| !paths.has_lost_a_relay());
        stands.then(|| self.wire.with(|paths, _| paths.description(self.fingerprint)))
    }

    /// Looks for a path to the other end. The one that made the first offer of the session controls (RFC 8445 section 6.1.1).
    pub async fn find(&self, remote: &Quic, controls: bool, limit: Duration) -> Result<(), LinkError> {
        self.wire.with(|paths, now| paths.start(now, remote, controls));
        let mut state = self.wire.state();
        let found = timeout(limit, state.wait_for(|state| state.chosen.is_some() || state.lost)).await;
        let found = found.ok().and_then(|state| state.ok().map(|state| *state));
        match found.and_then(|state| state.chosen) {
            Some(_) => Ok(()),
            None => {
                let [local, remote] = self.wire.with(|paths, _| paths.candidates()).map(|all| all.len());
                Err(LinkError::NoPath { local, remote })
            }
        }
    }

    pub fn state(&self) -> watch::Receiver<State> {
        self.wire.state()
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        if let Some(switch) = &self.switch {
            switch.remove(&self.wire);
        }
        self.wire.close();
    }
}

/// Connections to the relays that are spoken to over one, and those that there is none to.
async fn connect_relays(servers: &Servers) -> (Vec<Connection>, Vec<(SocketAddr, String)>) {
    let over_one = servers.turn.iter().enumerate().filter(|(_, relay)| !relay.is_by_udp());
    let under_way: Vec<_> = over_one
        .map(|(number, relay)| {
            let (address, by) = (relay.address, relay.by.clone());
            (address, tokio::spawn(async move { timeout(RELAY_WITHIN, connect_relay(number, address, by)).await }))
        })
        .collect();
    let (mut connections, mut unreached) = (Vec::new(), Vec::new());
    for (address, connecting) in under_way {
        match connecting.await {
            Ok(Ok(Ok(connection))) => connections.push(connection),
            Ok(Ok(Err(error))) => unreached.push((address, error.to_string())),
            _ => unreached.push((address, format!("no answer within {} s", RELAY_WITHIN.as_secs()))),
        }
    }
    (connections, unreached)
}

async fn connect_relay(relay: usize, address: SocketAddr, by: RelayBy) -> io::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    let _ = stream.set_nodelay(true);
    let (base, server) = (stream.local_addr()?, stream.peer_addr()?);
    match by {
        RelayBy::Tls(tls) => {
            let (reader, writer) = tokio::io::split(tls.connect(stream).await?);
            Ok(Connection { relay, base, server, reader: Box::new(reader), writer: Box::new(writer) })
        }
        RelayBy::Udp | RelayBy::Tcp => {
            let (reader, writer) = stream.into_split();
            Ok(Connection { relay, base, server, reader: Box::new(reader), writer: Box::new(writer) })
        }
    }
}

fn bind(ip: IpAddr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind((ip, 0))?;
    socket.set_nonblocking(true)?;
    // Bursts of a fast path; what the host allows (net.core.rmem_max).
    for option in [true, false] {
        let _ = match option {
            true => nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &SOCKET_BUFFER),
            false => nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBuf, &SOCKET_BUFFER),
        };
    }
    Ok(socket)
}
