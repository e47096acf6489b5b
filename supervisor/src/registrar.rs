//! Where a registrar is, and how it is spoken to: `sip:HOST[:PORT][;transport=udp|tcp|tls]` or `sips:HOST[:PORT]`.

use std::net::SocketAddr;
use std::str::FromStr;

use sipcore::agent::Registrar;
use sipcore::locate::Locator;
use sipcore::message::{Scheme, Uri};
use sipcore::tls::{ClientTls, Trust};

/// The registrar of a run, as the user named it.
pub struct Home {
    uri: Uri,
    dns: Option<SocketAddr>,
    /// For those of its servers that are spoken to by TLS.
    pub tls: Option<ClientTls>,
}

/// Where its servers are.
pub struct Found {
    pub first: Registrar,
    /// To be tried when the first fails.
    pub others: Vec<Registrar>,
    /// To find them again, when they were found by a name.
    pub locate: Option<(Locator, Uri)>,
}

impl Home {
    /// Reads the URI. `trust` is for TLS; `dns` is asked instead of this machine's name servers.
    pub fn new(given: &str, trust: &Trust, dns: Option<SocketAddr>) -> Result<Home, String> {
        let wrong = |why: &str| format!("the registrar {given} cannot be used: {why}");
        let uri = Uri::from_str(given).map_err(|e| wrong(&e.to_string()))?;
        let named = uri.transport().map(|t| t.to_ascii_lowercase());
        let may_be_tls = match (uri.scheme(), named.as_deref()) {
            (Scheme::Sips, Some("udp")) => return Err(wrong("sips: is never sent over UDP")),
            (Scheme::Sips, None | Some("tls" | "tcp")) | (Scheme::Sip, Some("tls")) => true,
            (Scheme::Sip, Some("udp" | "tcp")) => false,
            // A domain may say that it wants TLS.
            (Scheme::Sip, None) => uri.host_ip().is_none() && uri.port().is_none(),
            (Scheme::Sip | Scheme::Sips, Some(other)) => {
                return Err(wrong(&format!("transport {other} is not supported (udp, tcp and tls are)")));
            }
            _ => return Err(wrong("it is neither a sip: nor a sips: URI")),
        };
        let needed = uri.scheme() == Scheme::Sips || named.as_deref() == Some("tls");
        let tls = match may_be_tls.then(|| ClientTls::new(uri.host(), trust)).transpose() {
            Err(e) if needed => return Err(wrong(&e.to_string())),
            made => made.ok().flatten(),
        };
        Ok(Home { uri, dns, tls })
    }

    /// As the user named it.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The domains that may have STUN and TURN servers for who is registered here as `aor`: the registrar's own, and the one of the address of
    /// record, if the registrar is a host in it.
    pub fn domains(&self, aor: &str) -> Vec<String> {
        if self.uri.host_ip().is_some() {
            return Vec::new();
        }
        let host = self.uri.host().to_ascii_lowercase();
        let domain = Uri::from_str(aor).map(|aor| aor.host().to_ascii_lowercase()).unwrap_or_default();
        let inside = host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'));
        [Some(host), inside.then_some(domain)].into_iter().flatten().collect()
    }

    /// Finds its servers (RFC 3263).
    pub async fn locate(&self) -> Result<Found, String> {
        let wrong = |why: String| format!("the registrar {} cannot be found: {why}", self.uri);
        if let Some(first) = Locator::literal(&self.uri).map_err(|e| wrong(e.to_string()))? {
            return Ok(Found { first, others: Vec::new(), locate: None });
        }
        let locator = Locator::new(self.dns).map_err(wrong)?;
        let found = locator.locate(&self.uri).await.map_err(|e| wrong(e.to_string()))?;
        let mut servers = found.into_iter();
        let first = servers.next().ok_or_else(|| wrong("it has no address".to_owned()))?;
        Ok(Found { first, others: servers.collect(), locate: Some((locator, self.uri.clone())) })
    }
}
