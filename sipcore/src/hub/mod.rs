//! The embedded hub: registrar and proxy for one machine, a LAN, CI and small teams. It needs no set-up and keeps nothing on disk.

mod choice;
mod forward;
mod gruu;
mod guard;
pub(crate) mod home;
mod location;
mod outcome;
mod registrar;
mod routes;
#[cfg(test)]
mod tests;

pub use crate::transport::{Counters, Direction, Tap, TapEvent, Transport};

use crate::transaction::Timing;
use crate::transport::{Driver, Setup, StartError};
use home::HomeProxy;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// TCP connections that one hub keeps open.
const MAX_CONNECTIONS: usize = 10_000;

/// Who may register and call, by digest authentication (RFC 3261 22, RFC 8760).
#[derive(Clone, Default)]
pub struct Users {
    realm: String,
    passwords: HashMap<String, String>,
    shared: Option<String>,
}

impl Users {
    /// Nobody yet.
    pub fn new(realm: impl Into<String>) -> Self {
        Users { realm: realm.into(), passwords: HashMap::new(), shared: None }
    }

    /// Any name, with this one password: a hub for all the programs of one person.
    pub fn shared(realm: impl Into<String>, password: impl Into<String>) -> Self {
        Users { shared: Some(password.into()), ..Users::new(realm) }
    }

    /// One more user: the user part of its address of record, and its password.
    pub fn with(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.passwords.insert(user.into(), password.into());
        self
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users")
            .field("realm", &self.realm)
            .field("users", &self.passwords.len())
            .finish_non_exhaustive()
    }
}

/// What a hub is.
#[derive(Clone)]
pub struct HubConfig {
    /// UDP and TCP are opened on each; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
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
}

impl Default for HubConfig {
    fn default() -> Self {
        HubConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            domains: vec!["sipbox.invalid".into()],
            max_expires: Duration::from_secs(3600),
            min_expires: Duration::from_secs(10),
            default_expires: Duration::from_secs(60),
            tap: None,
            users: None,
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
}

/// How busy a hub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Bindings that stand.
    pub bindings: usize,
    /// Transactions that live, up to half a minute after their last message.
    pub transactions: usize,
    /// When the last message came.
    pub last: Instant,
}

/// A running hub. Dropping it closes its sockets.
pub struct Hub {
    driver: Driver<HomeProxy>,
}

impl Hub {
    /// Opens the sockets and starts on the current tokio runtime.
    pub async fn start(config: HubConfig) -> Result<Hub, HubError> {
        if config.listen.is_empty() {
            return Err(HubError::NoAddress);
        }
        let sockets = Setup {
            listen: config.listen.clone(),
            next_hop: None,
            tap: config.tap.clone(),
            max_connections: MAX_CONNECTIONS,
        };
        let now = Instant::now();
        let driver = Driver::start(sockets, |addresses| HomeProxy::new(&config, addresses, Timing::default(), now));
        Ok(Hub { driver: driver.await? })
    }

    /// Where it listens, UDP and TCP alike, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.driver.core.addresses()
    }

    /// How busy it is.
    pub fn activity(&self) -> Activity {
        self.driver.core.with(|home, _| home.activity())
    }

    /// What was sent, received and thrown away.
    pub fn counters(&self) -> Counters {
        self.driver.core.counters()
    }

    /// Stops at once; the bindings are forgotten.
    pub async fn shutdown(self) {
        self.driver.finish().await;
    }
}
