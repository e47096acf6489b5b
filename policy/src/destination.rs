//! What a rule is about: `HOST:PORT`, and which addresses and ports that means.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::Wrong;

/// Transport of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proto {
    /// A stream socket.
    Tcp,
    /// A datagram socket.
    Udp,
}

impl Proto {
    pub(crate) const WORDS: [(&'static str, Proto); 2] = [("tcp", Proto::Tcp), ("udp", Proto::Udp)];
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        })
    }
}

/// Whether what the rule of `earlier` says (None: both transports) includes all of `later`.
pub(crate) fn proto_covers(earlier: Option<Proto>, later: Option<Proto>) -> bool {
    earlier.is_none() || earlier == later
}

/// Ports `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    const ALL: Ports = Ports { first: 0, last: u16::MAX };

    /// A port, a range `30000-30010`, or `*`.
    pub fn parse(text: &str) -> Result<Ports, Wrong> {
        if text == "*" {
            return Ok(Ports::ALL);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            let help = format!("write {last}-{first}");
            return Err(Wrong::new(format!("the range {first}-{last} is the wrong way round")).help(help));
        }
        Ok(Ports { first, last })
    }

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    pub fn covers(self, other: Ports) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

fn port(text: &str) -> Result<u16, Wrong> {
    let right = "a port is a number from 1 to 65535, a range such as 30000-30010, or *";
    match text.parse::<u16>() {
        Ok(0) => Err(Wrong::new("port 0 is no port: it asks the kernel for any").help(right)),
        Ok(port) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(Wrong::new(format!("`{text}` is not a port")).help(right)),
    }
}

/// A block of addresses in CIDR form (RFC 4632, RFC 4291 section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Net {
    address: IpAddr,
    prefix: u8,
}

impl Net {
    /// An address or a CIDR block, without brackets.
    pub fn parse(text: &str) -> Result<Net, Wrong> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| Wrong::new(format!("`{address}` is not an IP address")))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => match prefix.parse::<u8>() {
                Ok(length) if length <= bits => length,
                _ => {
                    let help =
                        format!("the length of an IPv{} prefix is from 0 to {bits}", if bits == 32 { 4 } else { 6 });
                    return Err(Wrong::new(format!("`/{prefix}` is not the length of a prefix")).help(help));
                }
            },
        };
        let net = Net { address, prefix };
        let base = net.masked(address);
        if base != address {
            let what = format!("{address}/{prefix} has bits beyond its prefix");
            return Err(Wrong::new(what).help(format!("write {base}/{prefix} or the address {address} alone")));
        }
        Ok(net)
    }

    pub fn address(self) -> IpAddr {
        self.address
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    fn masked(self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        }
    }

    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && self.masked(address) == self.address
    }

    pub fn covers(self, other: Net) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Any,
    /// In lower case, without the final dot.
    Name(String),
    Net(Net),
}

/// The name that every system gives to its loopback: it stands for those addresses, not for a virtual one.
const LOCALHOST: &str = "localhost";

impl Host {
    fn parse(text: &str) -> Result<Host, Wrong> {
        if text == "*" {
            return Ok(Host::Any);
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            let net = Net::parse(inner)?;
            return match net.address {
                IpAddr::V6(_) => Ok(Host::Net(net)),
                IpAddr::V4(_) => Err(Wrong::new("brackets are for IPv6").help(format!("write {inner} without them"))),
            };
        }
        // A name never ends in a number (RFC 1123 section 2.1): what does is meant as an address.
        let last = text.split('/').next().unwrap_or(text).rsplit('.').next().unwrap_or(text);
        if text.contains('/') || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())) {
            return Net::parse(text).map(Host::Net);
        }
        host_name(text).map(Host::Name)
    }

    fn covers(&self, other: &Host) -> bool {
        match (self, other) {
            (Host::Any, _) => true,
            (Host::Name(name), Host::Name(other)) => name == other,
            (Host::Net(net), Host::Net(other)) => net.covers(*other),
            _ => false,
        }
    }

    fn matches(&self, address: IpAddr, name: Option<&str>) -> bool {
        match self {
            Host::Any => true,
            Host::Name(wanted) if wanted == LOCALHOST => address.is_loopback(),
            Host::Name(wanted) => name == Some(wanted),
            Host::Net(net) => net.contains(address),
        }
    }
}

/// The form in which host names are compared: lower case, no final dot.
pub(crate) fn name_form(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// A host name (RFC 1123 section 2.1; `_` is let through, as resolvers do), in the form in which names are compared.
pub(crate) fn host_name(text: &str) -> Result<String, Wrong> {
    let name = name_form(text);
    if name.is_empty() {
        return Err(Wrong::new("there is no host").help("write a name, an address, a CIDR block or *"));
    }
    if name.contains('*') {
        let help = "a host is one whole name, or * alone for every host";
        return Err(Wrong::new(format!("`{text}` has a `*` inside")).help(help));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        let help = "a name is of letters, digits, - and _, in parts of 1 to 63 between dots";
        return Err(Wrong::new(format!("`{text}` is not a host name")).help(help));
    }
    Ok(name)
}

/// `HOST:PORT` of a connect rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    pub host: Host,
    pub ports: Ports,
}

impl Destination {
    pub const ANY: Destination = Destination { host: Host::Any, ports: Ports::ALL };

    pub fn parse(text: &str) -> Result<Destination, Wrong> {
        if text == "*" {
            return Ok(Destination::ANY);
        }
        if text.is_empty() {
            return Err(Wrong::new("it is empty").help("write HOST:PORT, for example game.example:30000, or *"));
        }
        let bare = text.split('/').next().unwrap_or(text);
        if text.matches(':').count() > 1 && !text.starts_with('[') {
            let help = match bare.parse::<Ipv6Addr>() {
                Ok(_) => format!("write [{text}]:PORT, or [{text}]:* for every port"),
                Err(_) => "write HOST:PORT; an IPv6 address stands in brackets: [2001:db8::1]:443".to_owned(),
            };
            return Err(Wrong::new(format!("`{text}` has more than one `:`")).help(help));
        }
        let split = match text.rfind(']') {
            Some(end) => text[end..].find(':').map(|at| end + at),
            None => text.find(':'),
        };
        let Some(split) = split.filter(|_| !text.starts_with('[') || text.contains(']')) else {
            let help = format!("write {text}:PORT, for example {text}:80, or {text}:* for every port");
            return Err(Wrong::new(format!("`{text}` has no port")).help(help));
        };
        Ok(Destination { host: Host::parse(&text[..split])?, ports: Ports::parse(&text[split + 1..])? })
    }

    pub fn matches(&self, address: IpAddr, name: Option<&str>, port: u16) -> bool {
        self.ports.contains(port) && self.host.matches(address, name)
    }

    pub fn covers(&self, other: &Destination) -> bool {
        self.host.covers(&other.host) && self.ports.covers(other.ports)
    }

    /// Whether it means more than "wherever a name server may be": it names ports, or who is to be reached there.
    pub fn is_particular(&self) -> bool {
        self.ports != Ports::ALL || self.virtual_name().is_some()
    }

    /// The name that must have a virtual address for the rule to be met.
    pub fn virtual_name(&self) -> Option<&str> {
        match &self.host {
            Host::Name(name) if name != LOCALHOST => Some(name),
            _ => None,
        }
    }
}
