//! Where the server of a SIP URI is (RFC 3263 4): NAPTR, SRV, A and AAAA. What the name servers say is kept as long as they say.

mod helpers;

pub use helpers::Helper;

use crate::agent::Registrar;
use crate::message::{Scheme, Uri};
use crate::random;
use crate::transport::Transport;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::{NAPTR, SRV};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The most servers that are tried for one URI.
const MAX_SERVERS: usize = 16;
/// How long one name server may take, and how often it is asked.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// Why a server cannot be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// The URI itself rules it out.
    #[error("{uri}: {why}")]
    Unusable {
        /// The URI.
        uri: Uri,
        /// What is wrong with it.
        why: &'static str,
    },
    /// DNS knows no address for it.
    #[error("the name {host} has no address in DNS (asked: {asked})")]
    NoAddress {
        /// Host of the URI.
        host: String,
        /// The kinds of records asked for.
        asked: &'static str,
    },
    /// The domain says that it has no such service (RFC 2782, a target of ".").
    #[error("the domain {host} says that it has no SIP service")]
    NoService {
        /// Host of the URI.
        host: String,
    },
    /// No name server answers.
    #[error("the name {host} cannot be resolved: {why}")]
    Failed {
        /// Host of the URI.
        host: String,
        /// What the resolver said.
        why: String,
    },
}

/// Asks DNS. Clones share what it knows.
#[derive(Clone)]
pub struct Locator {
    resolver: TokioResolver,
}

impl fmt::Debug for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locator").finish_non_exhaustive()
    }
}

impl Locator {
    /// With the name servers of this machine (resolv.conf(5)), or this one.
    pub fn new(server: Option<SocketAddr>) -> Result<Locator, String> {
        let mut builder = match server {
            Some(server) => {
                let at = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
                let servers = vec![NameServerConfig::new(server.ip(), true, connections)];
                let config = ResolverConfig::from_name_servers(servers);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
            None => TokioResolver::builder_tokio().map_err(|error| error.to_string())?,
        };
        let options = builder.options_mut();
        options.timeout = ANSWER_LIMIT;
        options.attempts = ATTEMPTS;
        Ok(Locator { resolver: builder.build().map_err(|error| error.to_string())? })
    }

    /// The server of a URI with an address in it, for which DNS is not asked.
    pub fn literal(uri: &Uri) -> Result<Option<Registrar>, LocateError> {
        let wanted = Wanted::of(uri)?;
        let transport = wanted.transport.unwrap_or(wanted.default_transport());
        Ok(uri.host_ip().map(|ip| Registrar { addr: SocketAddr::new(ip, uri.port_or_default()), transport }))
    }

    /// The servers to try, best first; at least one.
    pub async fn locate(&self, uri: &Uri) -> Result<Vec<Registrar>, LocateError> {
        let wanted = Wanted::of(uri)?;
        let host = || wanted.host.clone();
        if let Some(server) = Locator::literal(uri)? {
            return Ok(vec![server]);
        }
        if let Some(port) = uri.port() {
            let transport = wanted.transport.unwrap_or(wanted.default_transport());
            let found = self.addresses(&wanted.host, port, transport).await.map_err(|error| failed(host(), &error))?;
            return some(found, LocateError::NoAddress { host: host(), asked: "A, AAAA" });
        }
        let services = self.services(&wanted).await.map_err(|error| failed(host(), &error))?;
        let mut found = Vec::new();
        let mut declined = false;
        for Service { transport, name } in services {
            let targets = self.targets(&name).await.map_err(|error| failed(host(), &error))?;
            for SRV { target, port, .. } in targets {
                declined |= target.is_root();
                if target.is_root() || found.len() >= MAX_SERVERS {
                    continue;
                }
                // One target without an address is no reason not to try the others.
                found.extend(self.addresses(&target.to_ascii(), port, transport).await.unwrap_or_default());
            }
        }
        if found.is_empty() && !declined {
            let transport = wanted.transport.unwrap_or(wanted.default_transport());
            let port = if transport == Transport::Tls { 5061 } else { 5060 };
            found = self.addresses(&wanted.host, port, transport).await.map_err(|error| failed(host(), &error))?;
        }
        found.truncate(MAX_SERVERS);
        some(
            found,
            match declined {
                true => LocateError::NoService { host: host() },
                false => LocateError::NoAddress { host: host(), asked: "NAPTR, SRV, A, AAAA" },
            },
        )
    }

    /// The services of a domain, best first: what NAPTR says, else the usual names (RFC 3263 4.1, 4.2).
    async fn services(&self, wanted: &Wanted) -> Result<Vec<Service>, NetError> {
        let usual = || wanted.transports().into_iter().filter_map(|transport| Service::usual(transport, &wanted.host));
        if wanted.transport.is_some() {
            return Ok(usual().collect());
        }
        let Ok(name) = absolute(&wanted.host) else { return Ok(Vec::new()) };
        let records = self.ask(&name, RecordType::NAPTR).await?;
        let records =
            records.into_iter().filter_map(|data| if let RData::NAPTR(one) = data { Some(one) } else { None });
        let offered = by_order(records.collect(), &wanted.transports());
        Ok(if offered.is_empty() { usual().collect() } else { offered })
    }

    /// The SRV records of a service, in the order in which they are to be tried.
    async fn targets(&self, name: &Name) -> Result<Vec<SRV>, NetError> {
        let records = self.ask(name, RecordType::SRV).await?;
        let targets = records.into_iter().filter_map(|data| if let RData::SRV(srv) = data { Some(srv) } else { None });
        Ok(by_weight(targets.collect(), random::fraction))
    }

    async fn addresses(&self, host: &str, port: u16, transport: Transport) -> Result<Vec<Registrar>, NetError> {
        let addresses = self.ips(host).await?;
        Ok(addresses.into_iter().map(|ip| Registrar { addr: SocketAddr::new(ip, port), transport }).collect())
    }

    /// The addresses of a name, IPv4 first.
    async fn ips(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        let found = match self.resolver.lookup_ip(host).await {
            Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
            found => found?,
        };
        let mut addresses: Vec<IpAddr> = found.iter().collect();
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }

    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Vec<RData>, NetError> {
        match self.resolver.lookup(name.clone(), kind).await {
            Ok(found) => Ok(found.answers().iter().map(|record| record.data.clone()).collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn failed(host: String, error: &NetError) -> LocateError {
    LocateError::Failed { host, why: error.to_string() }
}

fn some(found: Vec<Registrar>, error: LocateError) -> Result<Vec<Registrar>, LocateError> {
    if found.is_empty() { Err(error) } else { Ok(found) }
}

fn absolute(host: &str) -> Result<Name, ()> {
    let mut name = Name::from_ascii(host).map_err(|_| ())?;
    name.set_fqdn(true);
    Ok(name)
}

/// What a URI asks for.
struct Wanted {
    host: String,
    secure: bool,
    transport: Option<Transport>,
}

impl Wanted {
    fn of(uri: &Uri) -> Result<Wanted, LocateError> {
        let wrong = |why| LocateError::Unusable { uri: uri.clone(), why };
        let secure = match uri.scheme() {
            Scheme::Sip => false,
            Scheme::Sips => true,
            _ => return Err(wrong("it is neither a sip: nor a sips: URI")),
        };
        let named = uri.transport().map(|name| Transport::named(name).ok_or(()));
        let transport = match (named, secure) {
            (None, _) => None,
            (Some(Ok(Transport::Udp)), true) => return Err(wrong("sips: is never sent over UDP")),
            (Some(Ok(Transport::Tcp | Transport::Tls)), true) => Some(Transport::Tls),
            (Some(Ok(named)), _) if !named.is_web() => Some(named),
            _ => return Err(wrong("its transport is not supported (udp, tcp and tls are)")),
        };
        Ok(Wanted { host: uri.host().to_owned(), secure, transport })
    }

    fn default_transport(&self) -> Transport {
        if self.secure { Transport::Tls } else { Transport::Udp }
    }

    /// What may be used, best first.
    fn transports(&self) -> Vec<Transport> {
        match (self.transport, self.secure) {
            (Some(transport), _) => vec![transport],
            (None, true) => vec![Transport::Tls],
            (None, false) => vec![Transport::Udp, Transport::Tcp, Transport::Tls],
        }
    }
}

/// A name for SRV, and how the servers there are spoken to.
#[derive(Debug, PartialEq, Eq)]
struct Service {
    transport: Transport,
    name: Name,
}

impl Service {
    fn usual(transport: Transport, host: &str) -> Option<Service> {
        let prefix = match transport {
            Transport::Udp => "_sip._udp",
            Transport::Tcp => "_sip._tcp",
            Transport::Tls => "_sips._tcp",
            Transport::Ws | Transport::Wss => return None,
        };
        Some(Service { transport, name: absolute(&format!("{prefix}.{host}")).ok()? })
    }
}

/// The services that NAPTR records offer and that may be used, in the order of the domain (RFC 3263 4.1).
fn by_order(mut records: Vec<NAPTR>, transports: &[Transport]) -> Vec<Service> {
    records.sort_by_key(|record| (record.order, record.preference));
    let service = |record: NAPTR| {
        let transport = match record.services.to_ascii_uppercase().as_slice() {
            b"SIP+D2U" => Transport::Udp,
            b"SIP+D2T" => Transport::Tcp,
            b"SIPS+D2T" => Transport::Tls,
            _ => return None,
        };
        let leads_to_srv = record.flags.eq_ignore_ascii_case(b"s") && !record.replacement.is_root();
        (leads_to_srv && transports.contains(&transport)).then_some(Service { transport, name: record.replacement })
    };
    records.into_iter().filter_map(service).collect()
}

/// SRV records by priority, and by chance within one, in proportion to their weights (RFC 2782). `dice`: at least 0, less than 1.
fn by_weight(mut records: Vec<SRV>, mut dice: impl FnMut() -> f64) -> Vec<SRV> {
    // Those without weight first: so they have a small chance to come first.
    records.sort_by_key(|record| (record.priority, record.weight));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.first().map(|record| record.priority) {
        let same = records.iter().take_while(|record| record.priority == priority);
        let weights: Vec<u32> = same.map(|record| record.weight.into()).collect();
        let thrown = (dice() * f64::from(weights.iter().sum::<u32>() + 1)) as u32;
        let mut sum = 0;
        let chosen = weights.iter().position(|weight| {
            sum += weight;
            sum >= thrown
        });
        ordered.push(records.remove(chosen.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn srv(priority: u16, weight: u16, port: u16) -> SRV {
        SRV::new(priority, weight, port, Name::from_ascii("a.example.").unwrap())
    }

    #[test]
    fn priorities_decide_and_weights_share() {
        let mut first = [0; 3];
        for n in 0..1000 {
            let mut throws = 0;
            let dice = || {
                throws += 1;
                f64::from(n) / 1000.0
            };
            let order = by_weight(vec![srv(20, 0, 9), srv(10, 60, 0), srv(10, 20, 1), srv(10, 20, 2)], dice);
            assert_eq!((order.len(), order[3].port, throws), (4, 9, 4));
            first[usize::from(order[0].port)] += 1;
        }
        assert!((590..=610).contains(&first[0]) && (190..=210).contains(&first[1]), "{first:?}");
        let zero = by_weight(vec![srv(1, 0, 1), srv(1, 0, 2)], || 0.99);
        assert_eq!(zero.len(), 2);
    }

    #[test]
    fn naptr_in_the_order_of_the_domain() {
        let naptr = |order, preference, services: &str, flags: &str, to: &str| {
            let bytes = |text: &str| text.as_bytes().into();
            let name = Name::from_ascii(to).unwrap();
            NAPTR::new(order, preference, bytes(flags), bytes(services), bytes(""), name)
        };
        let records = || {
            vec![
                naptr(90, 50, "SIP+D2U", "s", "_sip._udp.example.com."),
                naptr(50, 50, "SIPS+D2T", "s", "_sips._tcp.example.com."),
                naptr(90, 40, "sip+d2t", "S", "_sip._tcp.example.com."),
                naptr(10, 10, "SIP+D2S", "s", "_sip._sctp.example.com."),
                naptr(10, 10, "E2U+sip", "u", "."),
            ]
        };
        let order = |transports: &[Transport]| -> Vec<Transport> {
            by_order(records(), transports).into_iter().map(|service| service.transport).collect()
        };
        assert_eq!(
            order(&[Transport::Udp, Transport::Tcp, Transport::Tls]),
            [Transport::Tls, Transport::Tcp, Transport::Udp]
        );
        assert_eq!(order(&[Transport::Tls]), [Transport::Tls]);
        assert!(order(&[Transport::Ws]).is_empty());
    }

    #[test]
    fn what_uris_ask_for() {
        let transports = |uri: &str| Wanted::of(&uri.parse().unwrap()).map(|wanted| wanted.transports());
        assert_eq!(transports("sip:example.com"), Ok(vec![Transport::Udp, Transport::Tcp, Transport::Tls]));
        assert_eq!(transports("sips:example.com;transport=tcp"), Ok(vec![Transport::Tls]));
        assert_eq!(transports("sip:example.com;transport=TLS"), Ok(vec![Transport::Tls]));
        for wrong in ["sips:example.com;transport=udp", "sip:example.com;transport=sctp", "sip:a;transport=ws", "tel:1"]
        {
            assert!(matches!(transports(wrong), Err(LocateError::Unusable { .. })), "{wrong}");
        }
    }
}
