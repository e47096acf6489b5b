//! The embedded hub: registrar, proxy and presence server for one machine, a LAN, CI and small teams. It needs no set-up; its bindings outlive it when it is
//! given a file for them.

mod choice;
mod foreign;
mod forward;
mod gruu;
mod guard;
pub(crate) mod home;
mod journal;
mod location;
mod outcome;
mod page;
mod presence;
pub(crate) mod rate;
mod registrar;
mod routes;
#[cfg(test)]
mod tests;
mod watch;

pub use crate::auth::{Algorithm, Stored, ha1};
pub use crate::transport::{Counters, Direction, Tap, TapEvent, Transport};

use crate::locate::Locator;
use crate::tls::{ClientTls, ServerTls, TlsError, Trust};
use crate::transaction::Timing;
use crate::transport::{Admission, Driver, Listen, Secrets, Setup, StartError};
use crate::turn::Mint;
use home::HomeProxy;
use journal::Journal;
use page::Page;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};
use watch::Ladders;

/// Who may register and call, by digest authentication (RFC 3261 22, RFC 8760).
#[derive(Clone, Default)]
pub struct Users {
    realm: String,
    accounts: HashMap<String, Stored>,
    shared: Option<String>,
    only_md5: bool,
}

impl Users {
    /// Nobody yet.
    pub fn new(realm: impl Into<String>) -> Self {
        Users { realm: realm.into(), accounts: HashMap::new(), shared: None, only_md5: false }
    }

    /// Any name, with this one password: a hub for all the programs of one person.
    pub fn shared(realm: impl Into<String>, password: impl Into<String>) -> Self {
        Users { shared: Some(password.into()), ..Users::new(realm) }
    }

    /// One more user: the user part of its address of record, and its password or what is kept of it.
    pub fn with(mut self, user: impl Into<String>, secret: impl Into<Stored>) -> Self {
        self.accounts.insert(user.into(), secret.into());
        self
    }

    /// Challenges by MD5 alone. RFC 8760 has one for each algorithm, but agents that are older than it give up when they see one that they do not know
    /// (baresip 1.0, sipsak 0.9).
    pub fn only_md5(self, only_md5: bool) -> Self {
        Users { only_md5, ..self }
    }

    /// The algorithms for which every user has a hash, the strongest first.
    fn algorithms(&self) -> Vec<Algorithm> {
        let has = |stored: &Stored, wanted: Algorithm| match stored {
            Stored::Password(_) => true,
            Stored::Hashes(hashes) => hashes.iter().any(|(algorithm, _)| *algorithm == wanted),
        };
        if self.only_md5 {
            return vec![Algorithm::Md5];
        }
        let all = [Algorithm::Sha256, Algorithm::Md5];
        let common: Vec<Algorithm> =
            all.into_iter().filter(|wanted| self.accounts.values().all(|stored| has(stored, *wanted))).collect();
        if common.is_empty() { all.into() } else { common }
    }

    fn stored(&self, user: &str) -> Option<Stored> {
        self.accounts.get(user).cloned().or_else(|| self.shared.clone().map(Stored::Password))
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("realm", &self.realm).field("users", &self.accounts.len()).finish_non_exhaustive()
    }
}

/// What a hub is.
#[derive(Clone)]
pub struct HubConfig {
    /// UDP and TCP are opened on each; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Connections by TLS are taken on each.
    pub listen_tls: Vec<SocketAddr>,
    /// WebSocket connections are taken on each (RFC 7118).
    pub listen_ws: Vec<SocketAddr>,
    /// The same, by TLS.
    pub listen_wss: Vec<SocketAddr>,
    /// Certificate and key; needed for TLS.
    pub tls: Option<ServerTls>,
    /// Web sites whose pages may connect by WebSocket, as browsers name them: `https://example.org`.
    pub origins: Vec<String>,
    /// Connections that may be open.
    pub max_connections: usize,
    /// Connections that may be open from one address (of IPv6, one /64).
    pub max_connections_per_source: usize,
    /// How long a message may take that has begun on a connection, the first one, and a handshake.
    pub patience: Duration,
    /// The domains that the hub is responsible for, beside its own addresses.
    pub domains: Vec<String>,
    /// Longest registration granted.
    pub max_expires: Duration,
    /// Shortest registration granted; less is answered 423.
    pub min_expires: Duration,
    /// Granted when nothing is asked for.
    pub default_expires: Duration,
    /// Sees every message sent and received.
    pub tap: Option<Tap>,
    /// Who may use the hub; `None`: everyone who reaches it.
    pub users: Option<Users>,
    /// Lists of users: by subscribing to the presence of a group one is told of all its members (RFC 4662).
    pub groups: HashMap<String, Vec<String>>,
    /// Requests of one address that are taken in a second; above it they are answered 503. `None`: all.
    pub rate: Option<u32>,
    /// Where the bindings are kept, so that the next hub has them, however this one ends. `None`: nowhere.
    pub state: Option<PathBuf>,
    /// Where the page with what the hub is doing is served, for whoever can connect there. `None`: nowhere.
    pub page: Option<SocketAddr>,
    /// Other domains that the hub's users may call and watch somebody in (RFC 3263); requests for all others are refused.
    pub foreign: Vec<String>,
    /// Whom the certificates of their servers have to come from, and who the hub is to them: with this it speaks TLS to them, from where it takes TLS, and
    /// lets their users in who come from them.
    pub foreign_trust: Option<Trust>,
    /// The DNS server that knows these, instead of this machine's.
    pub dns: Option<SocketAddr>,
    /// The STUN and TURN server that those who register are told of, each with credentials of its own. `None`: there is none.
    pub relay: Option<RelayOffer>,
}

/// A STUN and TURN server for the users of a hub.
#[derive(Debug, Clone)]
pub struct RelayOffer {
    /// Where it is, UDP and TCP.
    pub addresses: Vec<SocketAddr>,
    /// Makes credentials that it takes.
    pub mint: Mint,
}

impl Default for HubConfig {
    fn default() -> Self {
        HubConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            listen_tls: Vec::new(),
            listen_ws: Vec::new(),
            listen_wss: Vec::new(),
            tls: None,
            origins: Vec::new(),
            max_connections: 10_000,
            max_connections_per_source: 2_500,
            patience: Duration::from_secs(15),
            domains: vec!["sipbox.invalid".into()],
            max_expires: Duration::from_secs(3600),
            min_expires: Duration::from_secs(10),
            default_expires: Duration::from_secs(60),
            tap: None,
            users: None,
            groups: HashMap::new(),
            rate: None,
            state: None,
            page: None,
            foreign: Vec::new(),
            foreign_trust: None,
            dns: None,
            relay: None,
        }
    }
}

impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("listen", &self.listen)
            .field("domains", &self.domains)
            .field("users", &self.users)
            .finish_non_exhaustive()
    }
}

/// Why a hub could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A socket could not be opened.
    #[error("the hub cannot start: {0}")]
    Socket(#[from] StartError),
    /// There is no address to listen on.
    #[error("the hub cannot start: no address to listen on is given")]
    NoAddress,
    /// TLS is to be listened for, and there is no certificate.
    #[error("the hub cannot start: TLS needs a certificate and its key")]
    NoCertificate,
    /// TLS cannot be spoken to another domain.
    #[error("the hub cannot start: it cannot speak TLS to {domain}: {source}")]
    Trust {
        /// The domain.
        domain: String,
        /// What is wrong.
        #[source]
        source: TlsError,
    },
    /// DNS cannot be asked for other domains.
    #[error("the hub cannot start: other domains cannot be looked for: {0}")]
    Dns(String),
    /// The page cannot be served there.
    #[error("the hub cannot start: its page cannot be served on {addr}: {source}")]
    Page {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file for the bindings cannot be used.
    #[error("the hub cannot start: its state file {} cannot be used: {source}", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// How busy a hub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Bindings that stand.
    pub bindings: usize,
    /// Publications of presence that stand.
    pub publications: usize,
    /// Subscriptions that stand.
    pub subscriptions: usize,
    /// Transactions that live, up to half a minute after their last message.
    pub transactions: usize,
    /// Requests answered 503 because there were too many transactions.
    pub shed: u64,
    /// When the last message came.
    pub last: Instant,
}

/// A running hub. Dropping it closes its sockets.
pub struct Hub {
    driver: Driver<HomeProxy>,
    page: Option<Page>,
    /// Other domains.
    foreign: Vec<String>,
}

impl Hub {
    /// Opens the sockets and starts on the current tokio runtime.
    pub async fn start(config: HubConfig) -> Result<Hub, HubError> {
        let of = |addresses: &[SocketAddr], transport| -> Vec<Listen> {
            addresses.iter().map(|addr| Listen { addr: *addr, transport }).collect()
        };
        let listen = [
            of(&config.listen, Transport::Udp),
            of(&config.listen_tls, Transport::Tls),
            of(&config.listen_ws, Transport::Ws),
            of(&config.listen_wss, Transport::Wss),
        ]
        .concat();
        if listen.is_empty() {
            return Err(HubError::NoAddress);
        }
        if config.tls.is_none() && !(config.listen_tls.is_empty() && config.listen_wss.is_empty()) {
            return Err(HubError::NoCertificate);
        }
        let ladders = Ladders::default();
        let tap = match config.page {
            Some(_) => Some(ladders.tap(config.tap.clone())),
            None => config.tap.clone(),
        };
        let sockets = Setup {
            listen,
            next_hop: None,
            tap,
            admission: Admission {
                connections: config.max_connections,
                per_source: config.max_connections_per_source,
                patience: config.patience,
            },
            secrets: Secrets {
                server: config.tls.clone(),
                client: None,
                domains: RwLock::new(trusted(&config.foreign, config.foreign_trust.as_ref())?),
                origins: config.origins.clone(),
            },
        };
        let now = Instant::now();
        let journal = match &config.state {
            Some(path) => {
                let failed = |source| HubError::State { path: path.clone(), source };
                Some(Journal::open(path, now, SystemTime::now()).map_err(failed)?)
            }
            None => None,
        };
        let machine = |addresses: &[Listen]| {
            let mut home = HomeProxy::new(&config, addresses, Timing::default(), now);
            if config.foreign_trust.is_some() {
                home.open_gates();
            }
            if let Some((journal, kept)) = journal {
                home.resume(now, journal, kept);
            }
            home
        };
        let locator = match config.foreign.is_empty() {
            true => None,
            false => Some(Locator::new(config.dns).map_err(HubError::Dns)?),
        };
        let driver = Driver::start(sockets, machine).await?;
        if let Some(locator) = locator {
            foreign::follow(&driver.core, locator);
        }
        let page = match config.page {
            Some(addr) => {
                let failed = |source| HubError::Page { addr, source };
                Some(Page::serve(addr, &driver.core, ladders).await.map_err(failed)?)
            }
            None => None,
        };
        Ok(Hub { driver, page, foreign: config.foreign.clone() })
    }

    /// Where it listens by UDP and TCP, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses_of(Transport::Udp)
    }

    /// Where it listens by a transport, in the order of the configuration.
    pub fn addresses_of(&self, transport: Transport) -> Vec<SocketAddr> {
        let points = self.driver.core.points().into_iter();
        points.filter(|point| point.carries(transport)).map(|point| point.addr).collect()
    }

    /// Where its page is served.
    pub fn page(&self) -> Option<SocketAddr> {
        self.page.as_ref().map(|page| page.addr)
    }

    /// From now on these may use it, and nobody else: of others nothing stays bound or published.
    pub fn set_users(&self, users: Users) {
        self.driver.core.with(|home, now| home.set_users(now, Some(users)));
    }

    /// From now on certificates of other domains come from these, and this is who the hub is to them. With what is wrong nothing changes.
    pub fn set_foreign_trust(&self, trust: &Trust) -> Result<(), HubError> {
        let domains = &self.driver.core.secrets.domains;
        let names: Vec<String> = self.foreign.iter().take(domains.read().len()).cloned().collect();
        // Files are read before the lock is held, for everything that is sent waits for it.
        let new = trusted(&names, Some(trust))?;
        *domains.write() = new;
        Ok(())
    }

    /// How busy it is.
    pub fn activity(&self) -> Activity {
        self.driver.core.with(|home, _| home.activity())
    }

    /// What was sent, received and thrown away.
    pub fn counters(&self) -> Counters {
        self.driver.core.counters()
    }

    /// Stops at once; bindings that are kept nowhere are forgotten.
    pub async fn shutdown(self) {
        self.driver.finish().await;
    }

    /// Takes nothing new (503), waits for the answers to what is under way, at most `limit`, and stops.
    pub async fn drain(self, limit: Duration) {
        let quiet = self.driver.core.with(|home, _| home.end());
        let _ = tokio::time::timeout(limit, quiet.notified()).await;
        self.shutdown().await;
    }
}

/// How TLS is spoken to other domains; to none without trust.
fn trusted(domains: &[String], trust: Option<&Trust>) -> Result<Vec<ClientTls>, HubError> {
    let Some(trust) = trust else { return Ok(Vec::new()) };
    let client = |domain: &String| {
        ClientTls::new(domain, trust).map_err(|source| HubError::Trust { domain: domain.clone(), source })
    };
    domains.iter().map(client).collect()
}
