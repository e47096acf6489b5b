//! The STUN and TURN servers of a run: those that the policy names, that the registrar has told of, or that its domain names in DNS
//! (RFC 8489 section 8, RFC 5928).

use std::collections::HashSet;
use std::mem::discriminant;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use policy::{Ice, IceServer, IceTransport};
use sipcore::agent::IceServer as Offered;
use sipcore::flow::{Relay, RelayBy, Servers};
use sipcore::locate::{Helper, Locator};
use sipcore::tls::ClientTls;
use tokio::time::timeout;

use crate::identity::Around;

/// How long DNS may take to name servers: a connect() waits for it.
const SRV_WITHIN: Duration = Duration::from_millis(1500);
/// After it has not answered it is not asked again for so long.
const SRV_PAUSE: Duration = Duration::from_secs(60);

/// Finds them.
pub struct Helpers {
    ice: Ice,
    password: Option<String>,
    around: Around,
    locator: OnceLock<Option<Locator>>,
    tls: OnceLock<Result<ClientTls, String>>,
    /// When DNS has failed.
    silent: Mutex<Option<Instant>>,
    said: Mutex<HashSet<String>>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub servers: Servers,
    /// What is left out, and why.
    pub notes: Vec<String>,
    /// What DNS has named: `_turn._udp.example.org: 192.0.2.1:3478`.
    pub named: Vec<String>,
}

/// A server by address, as it is spoken to.
struct Place {
    address: SocketAddr,
    transport: IceTransport,
}

impl Helpers {
    /// `password`: of the users of the TURN servers.
    pub fn new(ice: Ice, password: Option<String>, around: Around) -> Result<Helpers, String> {
        for server in &ice.turn {
            if server.user.is_none() || password.is_none() {
                return Err(format!(
                    "the TURN server {server} wants a user and a password: write turn:USER@HOST, and give the password in \
                     SIPBOX_TURN_PASSWORD or as [ice] credentials"
                ));
            }
        }
        let (locator, tls) = (OnceLock::new(), OnceLock::new());
        Ok(Helpers { ice, password, around, locator, tls, silent: Mutex::default(), said: Mutex::default() })
    }

    /// Whether the policy names any.
    pub fn are_named(&self) -> bool {
        !self.ice.stun.is_empty() || !self.ice.turn.is_empty()
    }

    pub fn say_once(&self, note: &str) {
        if self.said.lock().insert(note.to_owned()) {
            crate::say::line(note);
        }
    }

    /// Those that the policy names.
    pub async fn named(&self) -> Found {
        let mut found = Found::default();
        for server in &self.ice.stun {
            let places = self.places(server, false, &mut found).await;
            found.servers.stun.extend(places.into_iter().map(|place| place.address));
        }
        for server in &self.ice.turn {
            let (Some(user), Some(password)) = (&server.user, &self.password) else { continue };
            for place in self.places(server, true, &mut found).await {
                self.add(&mut found, &server.host, place, user, password);
            }
        }
        found
    }

    /// Those that the registrar has told of, with what it gave to use them.
    pub async fn offered(&self, offered: &[Offered]) -> Found {
        let mut found = Found::default();
        for offered in offered {
            let Some((is_turn, server)) = IceServer::told(&offered.uri) else {
                tracing::debug!(uri = offered.uri, "the registrar tells of a server that cannot be spoken to");
                continue;
            };
            for place in self.places(&server, is_turn, &mut found).await {
                // A service of this machine is none of a registrar's elsewhere.
                if place.address.ip().to_canonical().is_loopback() {
                    continue;
                }
                // Every TURN server is a STUN server (RFC 8656 section 3).
                if place.transport == IceTransport::Udp {
                    found.servers.stun.push(place.address);
                }
                let (true, Some(user), Some(password)) = (is_turn, &offered.username, &offered.credential) else {
                    continue;
                };
                // Without a transport it has both (RFC 7065 section 3.1): the connection is for networks that block UDP.
                if !server.only && place.transport == IceTransport::Udp {
                    let over_tcp = Place { transport: IceTransport::Tcp, ..place };
                    self.add(&mut found, &server.host, over_tcp, user, password);
                }
                self.add(&mut found, &server.host, place, user, password);
            }
        }
        found
    }

    /// Those that the registrar's domain names in DNS. Its TURN servers know the user of the address of record, with the password that was given for
    /// TURN: the one of SIP is for nobody else.
    pub async fn of_the_domain(&self) -> Found {
        let mut found = Found::default();
        for domain in &self.around.domains {
            for (is_turn, all) in
                [(false, &[Helper::Stun][..]), (true, &[Helper::Turn, Helper::TurnTcp, Helper::TurnTls])]
            {
                let places = self.srv(domain, all, &mut found).await;
                let elsewhere = |place: &Place| !place.address.ip().to_canonical().is_loopback();
                for place in places.into_iter().flatten().filter(elsewhere) {
                    if place.transport == IceTransport::Udp && !found.servers.stun.contains(&place.address) {
                        found.servers.stun.push(place.address);
                    }
                    match &self.password {
                        Some(password) if is_turn => self.add(&mut found, domain, place, &self.around.user, password),
                        _ => {}
                    }
                }
            }
            if !found.named.is_empty() {
                return found;
            }
        }
        found
    }

    fn add(&self, found: &mut Found, host: &str, place: Place, user: &str, password: &str) {
        let by = match place.transport {
            IceTransport::Udp => RelayBy::Udp,
            IceTransport::Tcp => RelayBy::Tcp,
            // The name that was asked for has to be in the certificate, not what DNS made of it (RFC 9525 section 2).
            IceTransport::Tls => match self.tls().and_then(|tls| tls.at(host).map_err(|e| e.to_string())) {
                Ok(tls) => RelayBy::Tls(tls),
                Err(why) => {
                    found.notes.push(format!("the TURN server {host} cannot be used over TLS: {why}; it is left out"));
                    return;
                }
            },
        };
        let same = |relay: &Relay| relay.address == place.address && discriminant(&relay.by) == discriminant(&by);
        if found.servers.turn.iter().any(same) {
            return;
        }
        let (user, password) = (user.to_owned(), password.to_owned());
        found.servers.turn.push(Relay { address: place.address, by, user, password });
    }

    fn tls(&self) -> Result<&ClientTls, String> {
        let make = || ClientTls::to_host("localhost", &self.around.trust).map_err(|e| e.to_string());
        self.tls.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// Where a server is: an address as it is, a name without a port by SRV, then by its addresses. One that has none is noted.
    async fn places(&self, server: &IceServer, is_turn: bool, found: &mut Found) -> Vec<Place> {
        let (transport, port) = (server.transport, server.port_or_default());
        let place = |address| Place { address, transport };
        if let Ok(ip) = server.host.parse::<IpAddr>() {
            return vec![place(SocketAddr::new(ip, port))];
        }
        if server.port.is_none() {
            let all: &[Helper] = match (is_turn, transport) {
                (false, _) => &[Helper::Stun],
                (true, IceTransport::Udp) if server.only => &[Helper::Turn],
                (true, IceTransport::Udp) => &[Helper::Turn, Helper::TurnTcp],
                (true, IceTransport::Tcp) => &[Helper::TurnTcp],
                (true, IceTransport::Tls) => &[Helper::TurnTls],
            };
            if let Some(places) = self.srv(&server.host, all, found).await {
                if places.is_empty() {
                    found.notes.push(format!("{} says in DNS that it has no such server; it is left out", server.host));
                }
                return places;
            }
        }
        match self.host(&server.host, port).await {
            Ok(addresses) => addresses.into_iter().map(place).collect(),
            Err(why) => {
                let kind = if is_turn { "TURN" } else { "STUN" };
                found.notes.push(format!("the {kind} server {server} has no address: {why}; it is left out"));
                Vec::new()
            }
        }
    }

    /// The addresses of a name, as the name server that was given says, or this machine.
    async fn host(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        if let (Some(_), Some(locator)) = (self.around.dns, self.locator())
            && let Ok(addresses) = locator.host(host).await
            && !addresses.is_empty()
        {
            return Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect());
        }
        let all = tokio::net::lookup_host((host, port)).await.map_err(|error| error.to_string())?;
        // The resolver puts those first that are reached from here (RFC 6724).
        Ok(all.take(1).collect())
    }

    fn locator(&self) -> Option<&Locator> {
        self.locator.get_or_init(|| Locator::new(self.around.dns).ok()).as_ref()
    }

    /// What the SRV records of a domain say about these kinds. `None`: nothing.
    async fn srv(&self, domain: &str, kinds: &[Helper], found: &mut Found) -> Option<Vec<Place>> {
        let quiet = self.silent.lock().is_some_and(|since| since.elapsed() < SRV_PAUSE);
        let locator = self.locator().filter(|_| !quiet)?.clone();
        let asked: Vec<_> = kinds
            .iter()
            .map(|kind| {
                let (kind, locator, domain) = (*kind, locator.clone(), domain.to_owned());
                (kind, tokio::spawn(async move { timeout(SRV_WITHIN, locator.helpers(&domain, kind)).await }))
            })
            .collect();
        let mut places = None;
        for (kind, answer) in asked {
            match answer.await {
                Ok(Ok(Ok(Some(addresses)))) => {
                    let transport = match kind {
                        Helper::Stun | Helper::Turn => IceTransport::Udp,
                        Helper::TurnTcp => IceTransport::Tcp,
                        Helper::TurnTls => IceTransport::Tls,
                    };
                    let shown: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
                    let shown = if shown.is_empty() { "no such server".to_owned() } else { shown.join(", ") };
                    found.named.push(format!("{}.{domain}: {shown}", kind.service()));
                    let all = addresses.into_iter().map(|address| Place { address, transport });
                    places.get_or_insert_with(Vec::new).extend(all);
                }
                Ok(Ok(Ok(None))) => {}
                Ok(Ok(Err(why))) => self.dns_failed(domain, &why),
                _ => self.dns_failed(domain, "no answer"),
            }
        }
        places
    }

    fn dns_failed(&self, domain: &str, why: &str) {
        tracing::debug!(domain, why, "DNS does not say which STUN and TURN servers there are");
        *self.silent.lock() = Some(Instant::now());
    }
}
