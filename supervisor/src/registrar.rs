//! Where a registrar is: `sip:HOST[:PORT][;transport=udp|tcp]`.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use sipcore::agent::{Registrar, Transport};
use sipcore::message::{Scheme, Uri};

/// The default port of SIP (RFC 3261, section 19.1.2).
const SIP_PORT: u16 = 5060;

/// Finds the address of a registrar.
pub fn resolve(uri: &str) -> Result<Registrar, String> {
    let wrong = |why: &str| format!("the registrar {uri} cannot be used: {why}");
    let parsed = Uri::from_str(uri).map_err(|e| wrong(&e.to_string()))?;
    if parsed.scheme() != Scheme::Sip {
        return Err(wrong("only sip: is supported yet, over UDP or TCP (give e.g. sip:HOST:5060;transport=tcp)"));
    }
    let host = parsed.host();
    let port = parsed.port().unwrap_or(SIP_PORT);
    let transport = match parsed.transport().map(|t| t.to_ascii_lowercase()).as_deref() {
        None | Some("udp") => Transport::Udp,
        Some("tcp") => Transport::Tcp,
        Some(other) => return Err(wrong(&format!("transport {other} is not supported yet (udp and tcp are)"))),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addr = match IpAddr::from_str(bare) {
        Ok(ip) => SocketAddr::new(ip, port),
        Err(_) => (bare, port)
            .to_socket_addrs()
            .map_err(|e| wrong(&format!("the name {bare} cannot be resolved: {e}")))?
            .next()
            .ok_or_else(|| wrong("its name has no address"))?,
    };
    Ok(Registrar { addr, transport })
}
