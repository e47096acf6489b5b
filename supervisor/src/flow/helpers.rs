//! The STUN and TURN servers of a run: those that the policy names, that the registrar has told of, or that its domain names in DNS
//! (RFC 8489 section 8, RFC 5928).

use std::collections::{HashMap, HashSet};
use std::mem::discriminant;
use std::net::{IpAddr, SocketAddr, UdpSocket};
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
/// After it has not answered a question, that is not asked again for so long.
const SRV_PAUSE: Duration = Duration::from_secs(60);
/// Answers that are kept: a registrar may tell of ever new names.
const MAX_KNOWN: usize = 256;

/// Finds them.
pub struct Helpers {
    ice: Ice,
    password: Option<String>,
    around: Around,
    locator: OnceLock<Option<Locator>>,
    tls: OnceLock<Result<ClientTls, String>>,
    /// What DNS has said last about each kind of servers of a domain.
    known: Mutex<HashMap<(String, Helper), Known>>,
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

/// What is known of the servers of one kind.
#[derive(Debug, Default)]
struct Known {
    /// The last answer; `None`: it says nothing about them.
    servers: Option<Vec<SocketAddr>>,
    /// Since when DNS does not answer.
    silent: Option<Instant>,
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
        Ok(Helpers { ice, password, around, locator, tls, known: Mutex::default(), said: Mutex::default() })
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
        Ok(of_each_family(all))
    }

    fn locator(&self) -> Option<&Locator> {
        self.locator.get_or_init(|| Locator::new(self.around.dns).ok()).as_ref()
    }

    /// What the SRV records of a domain say about these kinds. `None`: nothing. Where DNS does not answer, what it said before holds.
    async fn srv(&self, domain: &str, kinds: &[Helper], found: &mut Found) -> Option<Vec<Place>> {
        let locator = self.locator()?.clone();
        let asked: Vec<_> = kinds
            .iter()
            .map(|kind| {
                let (kind, locator, domain) = (*kind, locator.clone(), domain.to_owned());
                let is_paused = self.is_paused(&domain, kind);
                let ask = async move { timeout(SRV_WITHIN, locator.helpers(&domain, kind)).await };
                (kind, (!is_paused).then(|| tokio::spawn(ask)))
            })
            .collect();
        let (mut places, mut failed) = (None, Vec::new());
        for (kind, answer) in asked {
            let why = match answer {
                None => None,
                Some(answer) => match answer.await {
                    Ok(Ok(Ok(servers))) => {
                        self.learn(domain, kind, servers);
                        None
                    }
                    Ok(Ok(Err(why))) => Some(why),
                    _ => Some("no answer".to_owned()),
                },
            };
            if let Some(why) = why {
                tracing::debug!(domain, why, "DNS does not say which {} servers there are", kind.service());
                let before = self.lose(domain, kind);
                let then = if before { "those that it named before are used" } else { "none is used" };
                failed.push(format!(
                    "DNS does not say which {}.{domain} servers there are: {why}; {then}",
                    kind.service()
                ));
            }
            let Some(addresses) = self.last(domain, kind) else { continue };
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
        // A network without DNS, or without these records, is no news to anybody: a domain that names some of its servers is.
        if places.is_some() {
            found.notes.append(&mut failed);
        }
        places
    }

    /// DNS was asked lately, and did not answer.
    fn is_paused(&self, domain: &str, kind: Helper) -> bool {
        let known = self.known.lock();
        let silent = known.get(&(domain.to_owned(), kind)).and_then(|known| known.silent);
        silent.is_some_and(|since| since.elapsed() < SRV_PAUSE)
    }

    /// What DNS said last.
    fn last(&self, domain: &str, kind: Helper) -> Option<Vec<SocketAddr>> {
        self.known.lock().get(&(domain.to_owned(), kind)).and_then(|known| known.servers.clone())
    }

    fn learn(&self, domain: &str, kind: Helper, servers: Option<Vec<SocketAddr>>) {
        self.with_known(domain, kind, |known| *known = Known { servers, silent: None });
    }

    /// DNS does not answer. Whether it named servers before.
    fn lose(&self, domain: &str, kind: Helper) -> bool {
        self.with_known(domain, kind, |known| {
            known.silent = Some(Instant::now());
            known.servers.as_ref().is_some_and(|servers| !servers.is_empty())
        })
    }

    fn with_known<R>(&self, domain: &str, kind: Helper, change: impl FnOnce(&mut Known) -> R) -> R {
        let mut known = self.known.lock();
        let key = (domain.to_owned(), kind);
        if known.len() >= MAX_KNOWN && !known.contains_key(&key) {
            known.clear();
        }
        change(known.entry(key).or_default())
    }
}

/// Of each family the address that the resolver puts first (RFC 6724), if a way leads there from here.
fn of_each_family(all: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in all {
        if !found.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
            found.push(address);
        }
    }
    // connect() of UDP asks the routing table alone. Where nothing leads the first stays, whose failure says why.
    let any = |address: &SocketAddr| if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let leads = |address: &SocketAddr| UdpSocket::bind(any(address)).is_ok_and(|udp| udp.connect(address).is_ok());
    match found.iter().any(leads) {
        true => found.retain(leads),
        false => found.truncate(1),
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dns_said_before_holds_for_each_kind() {
        let helpers = Helpers::new(Ice::default(), None, Around::default()).unwrap();
        let server: SocketAddr = "192.0.2.1:3478".parse().unwrap();
        helpers.learn("a.test", Helper::Turn, Some(vec![server]));
        assert!(!helpers.lose("a.test", Helper::TurnTls), "nothing was said about these");
        assert!(helpers.is_paused("a.test", Helper::TurnTls) && helpers.last("a.test", Helper::TurnTls).is_none());
        assert!(!helpers.is_paused("a.test", Helper::Turn) && !helpers.is_paused("b.test", Helper::TurnTls));
        assert!(helpers.lose("a.test", Helper::Turn));
        assert_eq!(helpers.last("a.test", Helper::Turn), Some(vec![server]));
        helpers.learn("a.test", Helper::Turn, None);
        assert!(!helpers.is_paused("a.test", Helper::Turn) && helpers.last("a.test", Helper::Turn).is_none());
    }

    #[test]
    fn addresses_without_a_way_are_left_out() {
        let of = |all: &[&str]| of_each_family(all.iter().map(|address| address.parse().unwrap()));
        // An address of a link without its link leads nowhere (RFC 4007).
        assert_eq!(of(&["127.0.0.1:1", "127.0.0.2:1"]), of(&["127.0.0.1:1"]));
        assert_eq!(of(&["[fe80::1]:1", "127.0.0.1:1"]), of(&["127.0.0.1:1"]));
        assert_eq!(of(&["[fe80::1]:1", "[fe80::2]:1"]).len(), 1);
        if UdpSocket::bind("[::1]:0").is_ok() {
            assert_eq!(of(&["[::1]:1", "127.0.0.1:1", "[::2]:1"]).len(), 2);
        }
    }
}
