//! Where a registrar is, and how it is spoken to: `sip:HOST[:PORT][;transport=udp|tcp|tls]` or `sips:HOST[:PORT]`.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use sipcore::agent::{Registrar, Transport};
use sipcore::message::{Scheme, Uri};
use sipcore::tls::{ClientTls, Trust};

/// Finds a registrar; `trust` is for one that is spoken to by TLS.
pub fn resolve(uri: &str, trust: &Trust) -> Result<(Registrar, Option<ClientTls>), String> {
    let wrong = |why: &str| format!("the registrar {uri} cannot be used: {why}");
    let parsed = Uri::from_str(uri).map_err(|e| wrong(&e.to_string()))?;
    let named = parsed.transport().map(|t| t.to_ascii_lowercase());
    let transport = match (parsed.scheme(), named.as_deref()) {
        (Scheme::Sips, None | Some("tls" | "tcp")) | (Scheme::Sip, Some("tls")) => Transport::Tls,
        (Scheme::Sip, None | Some("udp")) => Transport::Udp,
        (Scheme::Sip, Some("tcp")) => Transport::Tcp,
        (Scheme::Sips, Some("udp")) => return Err(wrong("sips: is never sent over UDP")),
        (_, Some(other)) => return Err(wrong(&format!("transport {other} is not supported (udp, tcp and tls are)"))),
        (_, None) => return Err(wrong("it is neither a sip: nor a sips: URI")),
    };
    let bare = parsed.host().trim_start_matches('[').trim_end_matches(']');
    let port = parsed.port_or_default();
    let addr = match IpAddr::from_str(bare) {
        Ok(ip) => SocketAddr::new(ip, port),
        Err(_) => (bare, port)
            .to_socket_addrs()
            .map_err(|e| wrong(&format!("the name {bare} cannot be resolved: {e}")))?
            .next()
            .ok_or_else(|| wrong("its name has no address"))?,
    };
    let tls = match transport {
        Transport::Tls => Some(ClientTls::new(bare, trust).map_err(|e| wrong(&e.to_string()))?),
        _ => None,
    };
    Ok((Registrar { addr, transport }, tls))
}
