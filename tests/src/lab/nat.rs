//! What stands between a host and the public network.

use std::fmt;

/// A kind of router, named by what it does to UDP (RFC 4787 4.1, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No translation, no firewall: the host has a public address.
    Open,
    /// No translation; what nobody inside has asked for is dropped.
    Firewall,
    /// Endpoint-independent mapping and filtering ("full cone").
    FullCone,
    /// Linux `masquerade`: keeps the port while it is free, address- and port-dependent filtering. The router drops what is sent to itself.
    Masquerade,
    /// The same, but the router takes what is sent to itself: a packet that comes before the host's own makes the router give the host's
    /// flow another port.
    MasqueradeOpenInput,
    /// A new random port for each destination: address- and port-dependent mapping and filtering.
    Symmetric,
    /// A symmetric one behind a second symmetric one, with the shared address space of RFC 6598 between them.
    CarrierGrade,
    /// As [`Kind::Masquerade`], and no UDP at all.
    UdpBlocked,
    /// The host has no IPv4, and a public IPv6 address behind a stateful firewall.
    Ipv6Only,
    /// [`Kind::Masquerade`] for IPv4, and a public IPv6 address behind a stateful firewall.
    DualStack,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 10] = [
        Kind::Open,
        Kind::Firewall,
        Kind::FullCone,
        Kind::Masquerade,
        Kind::MasqueradeOpenInput,
        Kind::Symmetric,
        Kind::CarrierGrade,
        Kind::UdpBlocked,
        Kind::Ipv6Only,
        Kind::DualStack,
    ];

    /// A short name, for tables.
    pub fn short(self) -> &'static str {
        match self {
            Kind::Open => "open",
            Kind::Firewall => "fw",
            Kind::FullCone => "eim",
            Kind::Masquerade => "pp",
            Kind::MasqueradeOpenInput => "ppo",
            Kind::Symmetric => "sym",
            Kind::CarrierGrade => "cgn",
            Kind::UdpBlocked => "noudp",
            Kind::Ipv6Only => "v6",
            Kind::DualStack => "v4v6",
        }
    }

    /// The host has an IPv4 address.
    pub fn has_v4(self) -> bool {
        self != Kind::Ipv6Only
    }

    /// The host has an IPv6 address.
    pub fn has_v6(self) -> bool {
        matches!(self, Kind::Ipv6Only | Kind::DualStack)
    }

    /// The host's IPv4 address is routed as it is.
    pub fn is_routed(self) -> bool {
        matches!(self, Kind::Open | Kind::Firewall)
    }

    /// The mapping of IPv4 UDP that it has.
    pub fn mapping(self) -> Mapping {
        match self {
            Kind::Open | Kind::Firewall => Mapping::None,
            Kind::FullCone | Kind::Masquerade | Kind::MasqueradeOpenInput | Kind::DualStack => {
                Mapping::EndpointIndependent
            }
            Kind::Symmetric | Kind::CarrierGrade => Mapping::AddressAndPortDependent,
            Kind::UdpBlocked | Kind::Ipv6Only => Mapping::Nothing,
        }
    }

    /// The filtering of IPv4 UDP that it has.
    pub fn filtering(self) -> Filtering {
        match self {
            Kind::Open | Kind::FullCone => Filtering::EndpointIndependent,
            Kind::UdpBlocked | Kind::Ipv6Only => Filtering::Nothing,
            _ => Filtering::AddressAndPortDependent,
        }
    }

    /// The rules of the router next to the host, in the language of nft(8). Its interfaces are `in` and `out`.
    pub(super) fn rules(self, host: &str) -> String {
        let forward = |more: &str| {
            format!(
                "table inet filter {{\n chain forward {{\n  type filter hook forward priority 0; policy drop;\n  {more}\n  \
                 iifname \"in\" accept\n  ct state established,related accept\n }}\n}}\n"
            )
        };
        // What is sent to the router itself leaves no entry in the table of connections when it is dropped.
        let closed = "table inet closed {\n chain input {\n  type filter hook input priority 0; policy accept;\n  \
                      iifname \"out\" meta l4proto { tcp, udp } ct state new drop\n }\n}\n";
        let translate = |how: &str, before: &str| {
            format!(
                "table ip nat {{\n chain after {{\n  type nat hook postrouting priority 100;\n  oifname \"out\" {how}\n }}\n \
                 chain before {{\n  type nat hook prerouting priority -100;\n  {before}\n }}\n}}\n"
            )
        };
        match self {
            Kind::Open => String::new(),
            Kind::Firewall | Kind::Ipv6Only => forward(""),
            Kind::FullCone => {
                let inwards = format!("iifname \"out\" meta l4proto {{ tcp, udp }} dnat to {host}");
                translate("masquerade", &inwards) + &forward("iifname \"out\" oifname \"in\" accept")
            }
            Kind::Masquerade | Kind::DualStack => translate("masquerade", "") + &forward("") + closed,
            Kind::MasqueradeOpenInput => translate("masquerade", "") + &forward(""),
            Kind::Symmetric | Kind::CarrierGrade => translate("masquerade fully-random", "") + &forward("") + closed,
            Kind::UdpBlocked => translate("masquerade", "") + &forward("meta l4proto udp drop") + closed,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// How the public address of a socket depends on whom it talks to (RFC 4787 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// It is the socket's own.
    None,
    /// It does not.
    EndpointIndependent,
    /// Another for each address.
    AddressDependent,
    /// Another for each address and port.
    AddressAndPortDependent,
    /// Nothing comes back.
    Nothing,
}

/// Who can reach a socket that has sent something (RFC 4787 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// The addresses that it sent to, from any port.
    AddressDependent,
    /// The addresses and ports that it sent to.
    AddressAndPortDependent,
    /// Nobody.
    Nothing,
}
