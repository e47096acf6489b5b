//! Names and the virtual addresses that stand for them.
//!
//! An address is derived from the URI that its name leads to, so that both sides and later runs agree. Each name has
//! addresses of its own: what an application connects to tells which name it looked up.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::destination::{Net, host_name, name_form};
use crate::error::Wrong;
use crate::uri;

/// The answer to an application that looks up a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameAnswer {
    /// The virtual addresses that stand for the name.
    Known {
        /// For A.
        v4: Ipv4Addr,
        /// For AAAA.
        v6: Ipv6Addr,
    },
    /// The policy does not know the name.
    Unknown,
}

/// The virtual IPv4 address of whoever `uri` names, in 198.18.0.0/15 (RFC 2544: routed nowhere). Never ends in 0 or 255.
/// Equal for all URIs of one user: `sip:` and `sips:`, with or without parameters.
pub fn virtual_v4(uri: &str) -> Ipv4Addr {
    Space::DEFAULT.v4(&uri::owner(uri), 0)
}

/// The virtual IPv6 address of whoever `uri` names, in 2001:2::/48 (RFC 5180: routed nowhere); as [`virtual_v4`].
pub fn virtual_v6(uri: &str) -> Ipv6Addr {
    Space::DEFAULT.v6(&uri::owner(uri), 0)
}

/// The blocks that virtual addresses are taken from: first address and length of the prefix in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub v4: (Ipv4Addr, u8),
    pub v6: (Ipv6Addr, u8),
}

impl Space {
    pub const DEFAULT: Space =
        Space { v4: (Ipv4Addr::new(198, 18, 0, 0), 15), v6: (Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48) };

    /// A block of IPv4 addresses with room for names.
    pub fn parse_v4(text: &str) -> Result<(Ipv4Addr, u8), Wrong> {
        let net = Net::parse(text)?;
        let IpAddr::V4(base) = net.address() else {
            return Err(Wrong::new(format!("{text} is not IPv4")).help("IPv6 belongs in v6"));
        };
        if !(8..=24).contains(&net.prefix()) {
            return Err(
                Wrong::new("virtual addresses need a block from /8 to /24").help("the default is 198.18.0.0/15")
            );
        }
        if base.is_loopback() || base.is_multicast() || base.is_broadcast() || base.octets()[0] == 0 {
            return Err(Wrong::new("that block has a meaning of its own").help("the default is 198.18.0.0/15"));
        }
        Ok((base, net.prefix()))
    }

    /// A block of IPv6 addresses with room for names.
    pub fn parse_v6(text: &str) -> Result<(Ipv6Addr, u8), Wrong> {
        let net = Net::parse(text)?;
        let IpAddr::V6(base) = net.address() else {
            return Err(Wrong::new(format!("{text} is not IPv6")).help("IPv4 belongs in v4"));
        };
        if !(8..=96).contains(&net.prefix()) {
            return Err(Wrong::new("virtual addresses need a block from /8 to /96").help("the default is 2001:2::/48"));
        }
        if base.is_multicast() || base.octets()[0] == 0 {
            return Err(Wrong::new("that block has a meaning of its own").help("the default is 2001:2::/48"));
        }
        Ok((base, net.prefix()))
    }

    /// The address of `owner`, the `turn`-th in the row that is tried while others hold it.
    fn v4(&self, owner: &str, turn: u64) -> Ipv4Addr {
        let (base, prefix) = self.v4;
        // Every 256 addresses hold 254 hosts.
        let hosts = (1_u64 << (24 - u32::from(prefix))) * 254;
        let index = (spread(owner, 4) % hosts + turn) % hosts;
        let offset = (index / 254) * 256 + 1 + index % 254;
        Ipv4Addr::from_bits(base.to_bits() | u32::try_from(offset).unwrap_or(1))
    }

    fn v6(&self, owner: &str, turn: u64) -> Ipv6Addr {
        let (base, prefix) = self.v6;
        let hash = (u128::from(spread(owner, 60)) << 64) | u128::from(spread(owner, 6));
        // Interface identifier 0 is the subnet's routers (RFC 4291 section 2.6.1).
        let host = hash.wrapping_add(u128::from(turn)) & (u128::MAX >> prefix);
        Ipv6Addr::from_bits(base.to_bits() | host.max(1))
    }
}

impl Default for Space {
    fn default() -> Self {
        Space::DEFAULT
    }
}

/// FNV-1a, then the finisher of SplitMix64 so that every bit of the text reaches every bit of the address.
fn spread(text: &str, salt: u8) -> u64 {
    let mut hash = text
        .bytes()
        .chain([0, salt])
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The names that the policy maps, with their addresses.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    space: Space,
    by_name: BTreeMap<String, (Ipv4Addr, Ipv6Addr)>,
    by_address: HashMap<IpAddr, String>,
    /// Where a name leads that is not mapped, when a rule for every host takes it.
    elsewhere: Option<(Ipv4Addr, Ipv6Addr)>,
}

impl Names {
    /// Gives addresses to `names`: pairs of a name and the URI it leads to (None: nowhere). The first of several with
    /// the same URI gets the address of the URI itself; of a name given twice the first counts.
    pub fn new(space: Space, names: &[(String, Option<String>)], elsewhere: Option<&str>) -> Names {
        let mut this = Names { space, by_name: BTreeMap::new(), by_address: HashMap::new(), elsewhere: None };
        for (name, leads_to) in names {
            if this.by_name.contains_key(name) {
                continue;
            }
            let owner = leads_to.as_deref().map_or_else(|| format!("name {name}"), uri::owner);
            let (v4, v6) = this.free(&owner);
            this.by_address.insert(v4.into(), name.clone());
            this.by_address.insert(v6.into(), name.clone());
            this.by_name.insert(name.clone(), (v4, v6));
        }
        this.elsewhere = elsewhere.map(|uri| this.free(&uri::owner(uri)));
        this
    }

    /// The first addresses in the row of `owner` that no name holds. A full block gives the row's first once more.
    fn free(&self, owner: &str) -> (Ipv4Addr, Ipv6Addr) {
        let turns = 0..=self.by_name.len() as u64;
        let v4 = turns.clone().map(|turn| self.space.v4(owner, turn)).find(|v4| self.name_of((*v4).into()).is_none());
        let v6 = turns.map(|turn| self.space.v6(owner, turn)).find(|v6| self.name_of((*v6).into()).is_none());
        (v4.unwrap_or(self.space.v4(owner, 0)), v6.unwrap_or(self.space.v6(owner, 0)))
    }

    pub fn resolve(&self, name: &str) -> NameAnswer {
        let elsewhere = || self.elsewhere.filter(|_| host_name(name).is_ok());
        match self.by_name.get(&name_form(name)).copied().or_else(elsewhere) {
            Some((v4, v6)) => NameAnswer::Known { v4, v6 },
            None => NameAnswer::Unknown,
        }
    }

    pub fn name_of(&self, address: IpAddr) -> Option<&str> {
        self.by_address.get(&address).map(String::as_str)
    }

    pub fn addresses_of(&self, uri: &str) -> (Ipv4Addr, Ipv6Addr) {
        let owner = uri::owner(uri);
        (self.space.v4(&owner, 0), self.space.v6(&owner, 0))
    }
}
