//! `[ice]`, `--stun` and `--turn`: the servers that help two ends find a path through NATs (RFC 8445).

use std::fmt;
use std::net::IpAddr;

use crate::error::Wrong;
use crate::policy::Credentials;

/// Port of STUN and TURN over UDP and TCP (RFC 8489 section 6.1, RFC 8656 section 5).
const PORT: u16 = 3478;
/// The same over TLS.
const TLS_PORT: u16 = 5349;
/// Servers of each kind that make sense: every one costs a round trip of every first connect.
pub(crate) const MOST_SERVERS: usize = 8;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IceTransport {
    /// Datagrams.
    Udp,
    /// A connection.
    Tcp,
    /// A connection with TLS.
    Tls,
}

/// A STUN server (`stun:HOST:PORT`, RFC 7064) or TURN server (`turn:HOST:PORT?transport=udp`, `turns:HOST:PORT`, RFC 7065).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IceServer {
    /// The user of a TURN server: `turn:USER@HOST`.
    pub user: Option<String>,
    /// Name, or address without brackets.
    pub host: String,
    /// Port. `None`: none was said, and SRV records of the name come before the usual one (RFC 8489 section 8).
    pub port: Option<u16>,
    /// How it is spoken to; UDP for STUN.
    pub transport: IceTransport,
    /// The transport was said: no other one will do.
    pub only: bool,
}

impl IceServer {
    /// The port, or the usual one.
    pub fn port_or_default(&self) -> u16 {
        let usual = if self.transport == IceTransport::Tls { TLS_PORT } else { PORT };
        self.port.unwrap_or(usual)
    }

    /// A server as others tell of it: `stun:HOST:PORT`, `turn:HOST:PORT` or `turns:HOST:PORT`, and whether it is a TURN server. `None`: it is
    /// neither, or not one that can be spoken to.
    pub fn told(uri: &str) -> Option<(bool, IceServer)> {
        match uri.split(':').next()?.to_ascii_lowercase().as_str() {
            "stun" => Some((false, stun(uri).ok()?)),
            "turn" | "turns" => Some((true, turn(uri).ok()?)),
            _ => None,
        }
    }
}

impl fmt::Display for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port_or_default())?,
            false => write!(f, "{}:{}", self.host, self.port_or_default())?,
        }
        match self.transport {
            IceTransport::Udp => Ok(()),
            IceTransport::Tcp => f.write_str(" over TCP"),
            IceTransport::Tls => f.write_str(" over TLS"),
        }
    }
}

/// The servers of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ice {
    /// They tell by which address this end is seen from outside.
    pub stun: Vec<IceServer>,
    /// They relay when there is no other way.
    pub turn: Vec<IceServer>,
    /// Where the password of the TURN servers' user is.
    pub credentials: Option<Credentials>,
}

/// `stun:HOST[:PORT]`, or `HOST[:PORT]`.
pub(crate) fn stun(given: &str) -> Result<IceServer, Wrong> {
    let (_, rest) = after_scheme(given, &["stun"])?;
    if rest.contains(['?', '@']) {
        return Err(Wrong::new("a STUN server has no user and no transport").help("write stun:HOST or stun:HOST:PORT"));
    }
    let (host, port) = host_and_port(rest)?;
    Ok(IceServer { user: None, host, port, transport: IceTransport::Udp, only: true })
}

/// `turn:[USER@]HOST[:PORT][?transport=udp|tcp]`, or the same without `turn:`; `turns:[USER@]HOST[:PORT]` over TLS.
pub(crate) fn turn(given: &str) -> Result<IceServer, Wrong> {
    let (scheme, rest) = after_scheme(given, &["turn", "turns"])?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let transport = match (query, scheme) {
        ("" | "transport=tcp", "turns") => IceTransport::Tls,
        ("transport=udp", "turns") => {
            let wrong = Wrong::new("turns: over UDP (DTLS) is not spoken");
            return Err(wrong.help("write turns: without ?transport, or turn: for UDP"));
        }
        ("" | "transport=udp", _) => IceTransport::Udp,
        ("transport=tcp", _) => IceTransport::Tcp,
        (other, _) => {
            let wrong = Wrong::new(format!("`?{other}` is not known"));
            return Err(wrong.help("write ?transport=udp or ?transport=tcp, or nothing for udp"));
        }
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    if user.is_some_and(|user| user.contains(':') || user.is_empty()) {
        let help = "write turn:USER@HOST; the password comes from SIPBOX_TURN_PASSWORD or from [ice] credentials";
        return Err(Wrong::new("a password does not belong there, and a user is not empty").help(help));
    }
    let (host, port) = host_and_port(rest)?;
    let only = !query.is_empty() || scheme == "turns";
    Ok(IceServer { user: user.map(str::to_owned), host, port, transport, only })
}

/// The scheme, one of these (the first, if none is written), and what follows it.
fn after_scheme<'g>(given: &'g str, schemes: &[&'static str]) -> Result<(&'static str, &'g str), Wrong> {
    if given.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(Wrong::new("blanks and special characters cannot stand there"));
    }
    let usual = schemes.first().copied().unwrap_or_default();
    let Some((first, rest)) = given.split_once(':') else { return Ok((usual, given)) };
    let word = first.to_ascii_lowercase();
    if let Some(scheme) = schemes.iter().copied().find(|scheme| *scheme == word) {
        return Ok((scheme, rest));
    }
    match word.as_str() {
        "stuns" => Err(Wrong::new("stuns: (over TLS) is not spoken").help(format!("write {usual}:{rest}"))),
        "stun" | "turn" | "turns" => {
            Err(Wrong::new(format!("{word}: is not {usual}:")).help(format!("write {usual}:{rest}")))
        }
        // HOST:PORT
        _ => Ok((usual, given)),
    }
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), Wrong> {
    let port_of = |port: &str| match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Wrong::new(format!("`{port}` is not a port")).help("ports are from 1 to 65535")),
    };
    if let Some(rest) = text.strip_prefix('[') {
        let bracket = || Wrong::new("an IPv6 address ends with `]`").help("write [2001:db8::1]:3478");
        let (host, after) = rest.split_once(']').ok_or_else(bracket)?;
        let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port_of(port)?),
            None if after.is_empty() => None,
            None => return Err(bracket()),
        };
        return match is_v6 {
            true => Ok((host.to_owned(), port)),
            false => Err(Wrong::new(format!("`{host}` is not an IPv6 address"))),
        };
    }
    if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
        return Err(Wrong::new("an IPv6 address stands in brackets").help(format!("write [{text}]:{PORT}")));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port_of(port)?)),
        None => (text, None),
    };
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || !host.chars().all(named) {
        return Err(Wrong::new(format!("`{host}` is not the name or address of a server")).help("write HOST:PORT"));
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read() {
        let shown = |server: Result<IceServer, Wrong>| server.map(|s| (s.to_string(), s.user));
        let cases = [
            ("192.0.2.1", "192.0.2.1:3478"),
            ("192.0.2.1:19302", "192.0.2.1:19302"),
            ("stun:stun.example.org", "stun.example.org:3478"),
            ("STUN:[2001:db8::1]:5000", "[2001:db8::1]:5000"),
            ("localhost:1", "localhost:1"),
        ];
        for (given, wanted) in cases {
            assert_eq!(shown(stun(given)), Ok((wanted.to_owned(), None)), "{given}");
        }
        let turn_cases = [
            ("turn:alice@192.0.2.1", "192.0.2.1:3478", Some("alice")),
            ("turn:1700000000:x", "", None),
            ("alice@relay.example:443?transport=tcp", "relay.example:443 over TCP", Some("alice")),
            ("turn:[2001:db8::1]?transport=udp", "[2001:db8::1]:3478", None),
            ("turns:alice@relay.example", "relay.example:5349 over TLS", Some("alice")),
            ("TURNS:alice@relay.example:443?transport=tcp", "relay.example:443 over TLS", Some("alice")),
        ];
        for (given, wanted, user) in turn_cases {
            match shown(turn(given)) {
                Ok(found) => assert_eq!(found, (wanted.to_owned(), user.map(str::to_owned)), "{given}"),
                Err(wrong) => assert!(wanted.is_empty(), "{given}: {wrong:?}"),
            }
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (given, word) in [
            ("", "not the name"),
            ("turn:a", "is not stun:"),
            ("stuns:a", "not spoken"),
            ("turns:a", "is not stun:"),
            ("a:0", "not a port"),
            ("2001:db8::1", "brackets"),
            ("::1", "brackets"),
            ("[::1", "`]`"),
            ("stun:a@b", "no user"),
            ("a b", "blanks"),
        ] {
            let wrong = stun(given).unwrap_err();
            assert!(wrong.what.contains(word), "{given}: {wrong:?}");
        }
        for (given, word) in
            [("turn:a:b@c", "password"), ("turn:a?transport=tls", "not known"), ("turns:a?transport=udp", "DTLS")]
        {
            let wrong = turn(given).unwrap_err();
            assert!(wrong.what.contains(word), "{given}: {wrong:?}");
        }
    }
}
