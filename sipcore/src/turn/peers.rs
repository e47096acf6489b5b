//! Where a relay may send: not into the networks that the server is in, but its clients are not (RFC 8656 21.3.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A range of addresses: `192.0.2.0/24`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

/// What is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a network: write ADDRESS/PREFIX, such as 192.168.0.0/16 or fd00::/8")]
pub struct WrongNetwork(String);

impl FromStr for Network {
    type Err = WrongNetwork;

    fn from_str(text: &str) -> Result<Self, WrongNetwork> {
        let wrong = || WrongNetwork(text.to_owned());
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let first: IpAddr = ip.parse().map_err(|_| wrong())?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(most);
        if prefix > most {
            return Err(wrong());
        }
        Ok(Network { first, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl Network {
    const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Network {
        Network { first: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), prefix }
    }

    const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Network {
        Network { first: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), prefix }
    }

    /// The address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
            IpAddr::V6(v6) => u128::from(v6),
        };
        self.first.is_ipv4() == ip.is_ipv4()
            && (self.prefix == 0 || (bits(self.first) ^ bits(ip)) >> (128 - u32::from(self.prefix)) == 0)
    }
}

/// Addresses that mean something else at the server than at its clients, or nothing (IANA special-purpose address registries). Those for documentation are not
/// among them: nobody has them, and test networks do.
const SPECIAL: [Network; 19] = [
    Network::v4(0, 0, 0, 8),
    Network::v4(10, 0, 0, 8),
    Network::v4(100, 64, 0, 10),
    Network::v4(127, 0, 0, 8),
    Network::v4(169, 254, 0, 16),
    Network::v4(172, 16, 0, 12),
    Network::v4(192, 0, 0, 24),
    Network::v4(192, 88, 99, 24),
    Network::v4(192, 168, 0, 16),
    Network::v4(198, 18, 0, 15),
    Network::v4(224, 0, 0, 4),
    Network::v4(240, 0, 0, 4),
    // Unspecified, loopback, IPv4-compatible, and IPv4-mapped if it were not unwrapped before.
    Network::v6(0, 0, 0, 64),
    Network::v6(0x64, 0xff9b, 1, 48),
    Network::v6(0x100, 0, 0, 64),
    Network::v6(0xfc00, 0, 0, 7),
    Network::v6(0xfe80, 0, 0, 10),
    Network::v6(0xfec0, 0, 0, 10),
    Network::v6(0xff00, 0, 0, 8),
];

/// What is decided for a peer.
pub(super) struct Peers {
    pub allow: Vec<Network>,
    /// The server's own addresses: only its relays are there for its clients.
    pub own: Vec<IpAddr>,
    pub ports: RangeInclusive<u16>,
}

impl Peers {
    /// A relay may have anything to do with this address.
    pub fn may_know(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if self.allow.iter().any(|network| network.contains(ip)) || self.own.contains(&ip) {
            return true;
        }
        let special = |ip: IpAddr| SPECIAL.iter().any(|network| network.contains(ip));
        // An IPv4 address in an IPv6 one is not a way round.
        !special(ip) && !embedded(ip).is_some_and(|v4| special(v4.into()))
    }

    /// A relay may send there.
    pub fn may_reach(&self, peer: SocketAddr) -> bool {
        let ip = peer.ip().to_canonical();
        if peer.port() == 0 || !self.may_know(ip) {
            return false;
        }
        !self.own.contains(&ip) || self.ports.contains(&peer.port()) || self.allow.iter().any(|n| n.contains(ip))
    }
}

/// The IPv4 address that packets to this one end at: NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380).
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = ip else { return None };
    let of = |a: u16, b: u16| Ipv4Addr::from((u32::from(a) << 16) | u32::from(b));
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] => Some(of(a, b)),
        [0x2002, a, b, ..] => Some(of(a, b)),
        [0x2001, 0, _, _, _, _, a, b] => Some(of(!a, !b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(allow: &[&str]) -> Peers {
        Peers {
            allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
            own: vec!["198.51.100.10".parse().unwrap()],
            ports: 50000..=50009,
        }
    }

    #[test]
    fn what_is_refused() {
        let usual = peers(&[]);
        for text in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "100.127.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:a00:1::",
            "2001::f5ff:fffe",
            "fd00::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!usual.may_know(text.parse().unwrap()), "{text}");
        }
        for text in ["8.8.8.8", "172.32.0.1", "198.51.101.2", "2001:db8::1", "2606:4700::1", "64:ff9b::808:808"] {
            assert!(usual.may_know(text.parse().unwrap()), "{text}");
        }
        let told = peers(&["10.0.0.0/8", "::1"]);
        assert!(told.may_know("10.9.9.9".parse().unwrap()) && told.may_know("::1".parse().unwrap()));
        assert!(told.may_know("::ffff:10.9.9.9".parse().unwrap()) && !told.may_know("192.168.0.1".parse().unwrap()));
    }

    /// Two clients of one server meet at its relays, and find nothing else there.
    #[test]
    fn its_own_address_is_reached_at_relays_only() {
        let usual = peers(&[]);
        let may = |text: &str| usual.may_reach(text.parse().unwrap());
        assert!(may("198.51.100.10:50003") && may("198.51.100.11:53"));
        assert!(!may("198.51.100.10:53") && !may("198.51.100.11:0"));
    }

    #[test]
    fn networks_are_read() {
        for (text, shown) in [("10.0.0.0/8", "10.0.0.0/8"), ("::1", "::1/128"), ("0.0.0.0/0", "0.0.0.0/0")] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), shown);
        }
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "example.org", "10.0.0/8"] {
            assert!(text.parse::<Network>().unwrap_err().to_string().contains("ADDRESS/PREFIX"));
        }
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()) && !all.contains("::".parse().unwrap()));
    }
}
