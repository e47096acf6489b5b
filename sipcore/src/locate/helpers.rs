//! The STUN and TURN servers of a domain, which its SRV records name (RFC 8489 section 8, RFC 8656 section 20, RFC 5928).

use super::{Locator, absolute};
use hickory_resolver::proto::rr::rdata::SRV;
use std::net::{IpAddr, SocketAddr};

/// Servers of one kind that are used: a second one, should the first be gone.
const MOST: usize = 2;

/// A kind of server, and how it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Helper {
    /// STUN, by UDP.
    Stun,
    /// TURN, by UDP.
    Turn,
    /// TURN over TCP.
    TurnTcp,
    /// TURN over TLS.
    TurnTls,
}

impl Helper {
    /// Service and protocol, as SRV records have them.
    pub fn service(self) -> &'static str {
        match self {
            Helper::Stun => "_stun._udp",
            Helper::Turn => "_turn._udp",
            Helper::TurnTcp => "_turn._tcp",
            Helper::TurnTls => "_turns._tcp",
        }
    }
}

impl Locator {
    /// The servers of this kind that a domain names, best first, of each an address of each family that it has. `None`: it says nothing about
    /// them. An error is for people to read: no name server answers.
    pub async fn helpers(&self, domain: &str, kind: Helper) -> Result<Option<Vec<SocketAddr>>, String> {
        let Ok(name) = absolute(&format!("{}.{domain}", kind.service())) else { return Ok(None) };
        let targets = self.targets(&name).await.map_err(|error| error.to_string())?;
        if targets.is_empty() {
            return Ok(None);
        }
        let mut found = Vec::new();
        // A target of "." says that there is no such service (RFC 2782).
        for SRV { target, port, .. } in targets.into_iter().filter(|srv| !srv.target.is_root()).take(MOST) {
            // One without an address is no reason not to take the other.
            let addresses = self.ips(&target.to_ascii()).await.unwrap_or_default();
            found.extend(of_each_family(&addresses).map(|ip| SocketAddr::new(ip, port)));
        }
        Ok(Some(found))
    }

    /// An address of each family that a host has.
    pub async fn host(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let addresses = self.ips(host).await.map_err(|error| error.to_string())?;
        Ok(of_each_family(&addresses).collect())
    }
}

fn of_each_family(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    [true, false].into_iter().filter_map(|v4| addresses.iter().copied().find(|ip| ip.is_ipv4() == v4))
}
