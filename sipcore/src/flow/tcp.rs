//! A flow that is a TCP connection of its own (RFC 4145), with TLS in it (RFC 8122) or in the clear: how the two ends come by it.
//!
//! Who connects is what the session descriptions say. Two sipboxes do more: both connect to all addresses of each other at once, since one
//! of them may be out of reach; the caller then says by a byte in it which of the connections it is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::link::{LinkError, Role};
use super::record::Secure;
use super::{Certificate, handshake, interfaces, tls};
use crate::sdp::{Fingerprint, Setup, Tls};

/// Addresses that are told.
const MOST: usize = 8;
/// Strangers whose handshakes may be under way at once.
const HANDSHAKES: usize = 16;
/// How long the handshake on a connection may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// "It is this one": the caller's first byte between sipboxes.
const THIS_ONE: u8 = 1;

/// A socket that waits for the other end; ready to be told to it.
pub struct Listening {
    listener: TcpListener,
    /// Where it can be reached, best first; not empty.
    pub addresses: Vec<SocketAddr>,
}

/// What the other end has said of itself, and who this end is.
#[derive(Clone, Debug)]
pub enum Trust {
    /// TLS, with these certificates.
    Tls(Arc<Certificate>, Fingerprint),
    /// None: who comes from there is believed.
    Clear,
}

/// A connection that stands.
pub enum Joined {
    /// With TLS in it.
    Tls(Box<Secure>),
    /// In the clear.
    Clear(TcpStream),
}

/// Who does what.
#[derive(Clone, Debug)]
pub struct Part {
    /// This end connects (`active`), or waits (`passive`).
    pub setup: Setup,
    /// Where the other end waits.
    pub remote: Vec<SocketAddr>,
    /// Between sipboxes: this end's place in the session. Then both ends connect and wait.
    pub both: Option<Role>,
    /// How long all of it may take.
    pub within: Duration,
}

impl Listening {
    /// Binds it: to `preferred` alone if that is of the loopback, else to all addresses of this host, `preferred` being told first.
    pub async fn start(preferred: IpAddr) -> Result<Listening, LinkError> {
        let no_socket = |e: io::Error| LinkError::NoListener(e.to_string());
        if preferred.is_loopback() {
            let listener = TcpListener::bind((preferred, 0)).await.map_err(no_socket)?;
            let addresses = vec![listener.local_addr().map_err(no_socket)?];
            return Ok(Listening { listener, addresses });
        }
        let (listener, v6) = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await {
            Ok(listener) => (listener, true),
            // A host without IPv6.
            Err(_) => (TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(no_socket)?, false),
        };
        let port = listener.local_addr().map_err(no_socket)?.port();
        let mut addresses = vec![preferred];
        addresses.extend(interfaces::addresses().into_iter().filter(|ip| *ip != preferred && (v6 || ip.is_ipv4())));
        addresses.truncate(MOST);
        let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        Ok(Listening { listener, addresses })
    }

    /// Comes by a connection to the other end.
    pub async fn join(self, trust: Trust, part: Part) -> Result<Joined, LinkError> {
        let within = part.within;
        let unreachable = LinkError::Unreachable { addresses: part.remote.len() };
        timeout(within, self.search(trust, part)).await.unwrap_or(Err(unreachable))
    }

    async fn search(self, trust: Trust, part: Part) -> Result<Joined, LinkError> {
        let Listening { listener, addresses } = self;
        // What a peer names as its own end may be a service of this machine: only who is on the loopback looks for it there.
        let near = addresses.iter().any(|own| own.ip().is_loopback());
        let may = |to: &&SocketAddr| Tls::takes(to) && (near || !to.ip().to_canonical().is_loopback());
        let part = Arc::new(part);
        let dials = part.both.is_some() || part.setup == Setup::Active;
        let waits = part.both.is_some() || part.setup != Setup::Active;
        // What was found; dropping the tasks ends the others.
        let (tell, mut told) = mpsc::channel::<Result<Joined, LinkError>>(1);
        let mut tasks = JoinSet::new();
        let mut dialling = 0;
        for to in part.remote.iter().filter(|to| dials && may(to)).copied() {
            let (trust, part, tell) = (trust.clone(), part.clone(), tell.clone());
            dialling += 1;
            tasks.spawn(async move {
                let found = match TcpStream::connect(to).await {
                    Ok(io) => secure(io, &trust, true, &part).await,
                    Err(error) => {
                        tracing::debug!(%to, %error, "no connection");
                        Err(LinkError::Unreachable { addresses: 1 })
                    }
                };
                report(&tell, found).await;
            });
        }
        if waits {
            let (trust, part, tell) = (trust, part.clone(), tell.clone());
            tasks.spawn(async move { wait(listener, trust, part, tell).await });
        }
        drop(tell);
        let mut failed = 0;
        while let Some(found) = told.recv().await {
            match found {
                // Somebody else's address may be among them; where this end does not wait, all have failed now or later.
                Err(LinkError::Unreachable { .. }) => {
                    failed += 1;
                    if failed == dialling && !waits {
                        break;
                    }
                }
                Ok(Joined::Tls(mut stream)) if part.both == Some(Role::Offerer) => {
                    let lost = |e: io::Error| LinkError::Lost(e.to_string());
                    stream.send(&[THIS_ONE]).await.map_err(lost)?;
                    return Ok(Joined::Tls(stream));
                }
                found => return found,
            }
        }
        Err(LinkError::Unreachable { addresses: part.remote.len() })
    }
}

async fn report(tell: &mpsc::Sender<Result<Joined, LinkError>>, found: Result<Joined, LinkError>) {
    // Another was faster.
    let _ = tell.send(found).await;
}

/// Takes connections, until the right one has come.
async fn wait(listener: TcpListener, trust: Trust, part: Arc<Part>, tell: mpsc::Sender<Result<Joined, LinkError>>) {
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if handshakes.len() < HANDSHAKES => accepted,
            Some(_) = handshakes.join_next() => continue,
        };
        let (io, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let is_expected = part.remote.iter().any(|to| to.ip().to_canonical() == from.ip().to_canonical());
        if matches!(trust, Trust::Clear) && !is_expected {
            tracing::debug!(%from, "somebody who is not awaited was turned away");
            continue;
        }
        let (trust, part, tell) = (trust.clone(), part.clone(), tell.clone());
        handshakes.spawn(async move {
            match secure(io, &trust, false, &part).await {
                // A stranger; the right one may still come.
                Err(error) if !is_expected => tracing::debug!(%from, %error, "a connection was refused"),
                Err(LinkError::Unreachable { .. }) => {}
                found => report(&tell, found).await,
            }
        });
    }
}

/// The handshake on a connection, and between sipboxes the word that it is this one.
async fn secure(io: TcpStream, trust: &Trust, client: bool, part: &Part) -> Result<Joined, LinkError> {
    let _ = io.set_nodelay(true);
    let (certificate, fingerprint) = match trust {
        Trust::Tls(certificate, fingerprint) => (certificate, *fingerprint),
        Trust::Clear => return Ok(Joined::Clear(io)),
    };
    // Where both connect, the other end ends all connections but one, also in the middle of a handshake. What TLS itself finds is InvalidData.
    let untrusted = |e: io::Error| match part.both {
        Some(_) if e.kind() != io::ErrorKind::InvalidData => LinkError::Unreachable { addresses: 1 },
        _ => LinkError::Handshake(e.to_string()),
    };
    let handshake = async {
        let mut io = io;
        let shaken = match client {
            true => {
                let config = tls::as_client(certificate, fingerprint).map_err(LinkError::Crypto)?;
                let name = ServerName::try_from("sipbox").map_err(|e| LinkError::Crypto(e.to_string()))?;
                handshake::client(&mut io, config, name).await
            }
            false => {
                let config = tls::as_server(certificate, fingerprint).map_err(LinkError::Crypto)?;
                handshake::server(&mut io, config).await
            }
        };
        let mut stream = Secure::new(io, shaken.map_err(untrusted)?);
        if part.both == Some(Role::Answerer) {
            let mut word = [0];
            // Another one was taken, most often.
            let unused = |_| LinkError::Unreachable { addresses: 1 };
            stream.read_exact(&mut word).await.map_err(unused)?;
        }
        Ok(Joined::Tls(Box::new(stream)))
    };
    let silent = || Err(LinkError::Handshake("it takes a connection, and then says nothing".to_owned()));
    timeout(HANDSHAKE_WITHIN, handshake).await.unwrap_or_else(|_| silent())
}
