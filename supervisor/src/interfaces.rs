//! The network interfaces that the program sees: its loopback, and one that stands for all peers with the addresses by which
//! these see the program. What the host has is no business of the program's.
//!
//! Asked by rtnetlink(7) (getifaddrs(3), if_nameindex(3), `ip`) and by the older ioctls of netdevice(7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use nix::libc;

/// The name of the interface that leads to the peers.
pub const PEERS: &str = "sipbox0";

/// Both interfaces.
pub struct Interfaces {
    all: [Interface; 2],
}

struct Interface {
    index: u32,
    name: &'static str,
    /// ARPHRD_* of linux/if_arp.h.
    hardware: u16,
    /// IFF_* of netdevice(7).
    flags: u32,
    mtu: u32,
    /// RFC 2863, as IF_OPER_* of linux/if.h has it.
    operational: u8,
    /// Each with its prefix length and scope.
    addresses: [(IpAddr, u8, u8); 2],
}

/// IF_OPER_UNKNOWN and IF_OPER_UP of linux/if.h.
const OPER_UNKNOWN: u8 = 0;
const OPER_UP: u8 = 6;
/// ARPHRD_NONE: no link-layer address.
const NO_HARDWARE: u16 = 0xfffe;
/// struct nlmsghdr: length, type, flags, sequence number, port.
const HEADER: usize = 16;
/// NLMSG_MIN_TYPE: smaller types are for netlink itself.
const FIRST_TYPE: u16 = 16;
/// struct ifreq: a name and a union.
pub const IFREQ: usize = 40;
/// IFNAMSIZ.
const NAME: usize = 16;
/// AF_BRIDGE, whose requests are about something else.
const AF_BRIDGE: u8 = 7;

/// One netlink message being written.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, asked: &Asked) -> Message {
        let mut m = Message(vec![0; 4]);
        m.0.extend_from_slice(&kind.to_ne_bytes());
        m.0.extend_from_slice(&flags.to_ne_bytes());
        m.0.extend_from_slice(&asked.sequence.to_ne_bytes());
        m.0.extend_from_slice(&asked.port.to_ne_bytes());
        m
    }

    fn put(mut self, bytes: &[u8]) -> Message {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A struct rtattr with its data, aligned (RTA_ALIGN).
    fn attribute(mut self, kind: u16, data: &[u8]) -> Message {
        self.0.extend_from_slice(&((4 + data.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() as u32).to_ne_bytes();
        self.0[..4].copy_from_slice(&length);
        self.0
    }
}

/// A request of the program.
struct Asked<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// To whom the answer goes.
    port: u32,
    body: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Asked<'a> {
    /// The first request in `bytes`, and what comes behind it.
    fn first(bytes: &'a [u8], port: u32) -> Option<(Asked<'a>, &'a [u8])> {
        let header = bytes.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let whole = bytes.get(..length).filter(|w| w.len() >= HEADER)?;
        let asked = Asked {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            port,
            body: &whole[HEADER..],
            whole,
        };
        Some((asked, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }

    fn family(&self) -> u8 {
        self.body.first().copied().unwrap_or(0)
    }

    fn is(&self, flag: i32) -> bool {
        let flag = flag as u16;
        self.flags & flag == flag
    }

    /// Whether a GET asks for all there is: either half of NLM_F_DUMP does it (net/core/rtnetlink.c).
    fn is_dump(&self) -> bool {
        self.kind >= FIRST_TYPE && self.kind % 4 == 2 && self.flags & libc::NLM_F_DUMP as u16 != 0
    }

    /// NLMSG_ERROR: an errno, or an acknowledgement.
    fn error(&self, errno: Option<Errno>) -> Vec<u8> {
        let code = -errno.map_or(0, |e| e as i32);
        let m = Message::new(libc::NLMSG_ERROR as u16, 0, self).put(&code.to_ne_bytes());
        // An error carries the request, an acknowledgement its header.
        m.put(if errno.is_some() { self.whole } else { &self.whole[..HEADER] }).finish()
    }
}

impl Interfaces {
    /// The interfaces of a run with these addresses.
    pub fn new(v4: Ipv4Addr, v6: Ipv6Addr) -> Interfaces {
        let running = (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOWER_UP) as u32;
        let (host, universe) = (libc::RT_SCOPE_HOST, libc::RT_SCOPE_UNIVERSE);
        let loopback = Interface {
            index: 1,
            name: "lo",
            hardware: libc::ARPHRD_LOOPBACK,
            flags: running | libc::IFF_LOOPBACK as u32,
            mtu: 65536,
            operational: OPER_UNKNOWN,
            addresses: [(Ipv4Addr::LOCALHOST.into(), 8, host), (Ipv6Addr::LOCALHOST.into(), 128, host)],
        };
        let peers = Interface {
            index: 2,
            name: PEERS,
            hardware: NO_HARDWARE,
            flags: running | libc::IFF_NOARP as u32,
            mtu: 65535,
            operational: OPER_UP,
            addresses: [(v4.into(), 32, universe), (v6.into(), 128, universe)],
        };
        Interfaces { all: [loopback, peers] }
    }

    /// Whether there is an interface of this number.
    pub fn has(&self, index: i32) -> bool {
        self.all.iter().any(|i| i64::from(i.index) == i64::from(index))
    }

    /// What the kernel would send back to `port` for the request in `bytes`: one datagram each.
    pub fn answer(&self, mut bytes: &[u8], port: u32) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while let Some((asked, rest)) = Asked::first(bytes, port) {
            bytes = rest;
            if !asked.is(libc::NLM_F_REQUEST) {
                continue;
            }
            let found = if asked.kind < FIRST_TYPE { Ok(Vec::new()) } else { self.look_up(&asked) };
            let dump = found.is_ok() && asked.is_dump();
            match found {
                Ok(messages) => {
                    out.extend((!messages.is_empty()).then(|| messages.concat()));
                    if dump {
                        let flags = libc::NLM_F_MULTI as u16;
                        let done = Message::new(libc::NLMSG_DONE as u16, flags, &asked);
                        out.push(done.put(&0i32.to_ne_bytes()).finish());
                    } else if asked.is(libc::NLM_F_ACK) {
                        out.push(asked.error(None));
                    }
                }
                Err(e) => out.push(asked.error(Some(e))),
            }
        }
        // A request of any length comes back in an error; readers step over each message by NLMSG_ALIGN of its length.
        out.iter_mut().for_each(|datagram| datagram.resize(datagram.len().next_multiple_of(4), 0));
        out
    }

    /// The messages of one answer. EPERM for what would change something: the program is not root here.
    fn look_up(&self, asked: &Asked) -> Result<Vec<Vec<u8>>, Errno> {
        let dump = asked.is_dump();
        let of_family = |family: u8| matches!(asked.family(), 0) || asked.family() == family;
        let flags = if dump { libc::NLM_F_MULTI as u16 } else { 0 };
        match (asked.kind, dump) {
            (libc::RTM_GETLINK, true) if asked.family() == AF_BRIDGE => Ok(Vec::new()),
            (libc::RTM_GETLINK, true) => Ok(self.all.iter().map(|i| i.link(flags, asked)).collect()),
            (libc::RTM_GETLINK, false) => {
                let wanted = self.by_request(asked.body).ok_or(Errno::ENODEV)?;
                Ok(vec![wanted.link(flags, asked)])
            }
            (libc::RTM_GETADDR, true) => {
                let each = |i: &Interface| i.addresses.map(|a| (family(a.0), i.address(a, flags, asked)));
                let all = self.all.iter().flat_map(each);
                Ok(all.filter(|(f, _)| of_family(*f)).map(|(_, m)| m).collect())
            }
            (libc::RTM_GETROUTE, true) => {
                let all = self.all[1].addresses.iter().filter(|(ip, ..)| of_family(family(*ip)));
                Ok(all.map(|(ip, ..)| self.all[1].route(*ip, flags, asked)).collect())
            }
            // Neighbours, rules and the like: there are none. Every fourth type is a question (rtnetlink(7)): NEW, DEL, GET, SET.
            (_, true) => Ok(Vec::new()),
            (kind, false) if kind % 4 == 2 => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EPERM),
        }
    }

    /// The interface that a RTM_GETLINK is about: by index, else by name.
    fn by_request(&self, body: &[u8]) -> Option<&Interface> {
        /// sizeof(struct ifinfomsg); the index is its second word.
        const BODY: usize = 16;
        /// IFLA_ALT_IFNAME of linux/if_link.h.
        const OTHER_NAME: u16 = 53;
        let index = body.get(4..8).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        if index != 0 {
            return self.all.iter().find(|i| i.index == index);
        }
        let mut rest = body.get(BODY..)?;
        while let Some(header) = rest.first_chunk::<4>() {
            let length = u16::from_ne_bytes([header[0], header[1]]) as usize;
            let kind = u16::from_ne_bytes([header[2], header[3]]);
            let data = rest.get(4..length)?;
            if kind == libc::IFLA_IFNAME || kind == OTHER_NAME {
                return self.by_name(data);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
        None
    }

    /// By a name that ends with a NUL or at the end; what comes after a colon is the label of an address (netdevice(7)).
    fn by_name(&self, name: &[u8]) -> Option<&Interface> {
        let name = name.split(|b| matches!(b, 0 | b':')).next()?;
        self.all.iter().find(|i| i.name.as_bytes() == name)
    }

    /// An ioctl of netdevice(7) that reads one property: the struct ifreq as it comes back.
    pub fn ioctl(&self, request: u64, ifreq: &[u8; IFREQ]) -> Result<[u8; IFREQ], Errno> {
        let mut out = *ifreq;
        let (name, value) = out.split_at_mut(NAME);
        if request == libc::SIOCGIFNAME {
            let index = u32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
            let found = self.all.iter().find(|i| i.index == index).ok_or(Errno::ENODEV)?;
            name.fill(0);
            name[..found.name.len()].copy_from_slice(found.name.as_bytes());
            return Ok(out);
        }
        let found = self.by_name(name).ok_or(Errno::ENODEV)?;
        let (v4, prefix) = found.v4();
        let address = |ip: Ipv4Addr| sandbox::memory::sockaddr_bytes(&(ip, 0).into()).to_vec();
        let property: Vec<u8> = match request {
            libc::SIOCGIFFLAGS => (found.flags as u16).to_ne_bytes().to_vec(),
            libc::SIOCGIFADDR | libc::SIOCGIFDSTADDR => address(v4),
            libc::SIOCGIFBRDADDR => address(Ipv4Addr::UNSPECIFIED),
            libc::SIOCGIFNETMASK => address(Ipv4Addr::from(u32::MAX << (32 - prefix))),
            libc::SIOCGIFMTU => found.mtu.to_ne_bytes().to_vec(),
            libc::SIOCGIFINDEX => found.index.to_ne_bytes().to_vec(),
            libc::SIOCGIFHWADDR => [&found.hardware.to_ne_bytes()[..], &[0; 14]].concat(),
            libc::SIOCGIFMETRIC => vec![0; 4],
            libc::SIOCGIFTXQLEN => QUEUE.to_ne_bytes().to_vec(),
            libc::SIOCGIFMAP => vec![0; 24],
            _ => return Err(Errno::ENOTTY),
        };
        value[..property.len()].copy_from_slice(&property);
        Ok(out)
    }

    /// SIOCGIFCONF: a struct ifreq for each IPv4 address.
    pub fn configuration(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for i in &self.all {
            let start = out.len();
            out.extend_from_slice(i.name.as_bytes());
            out.resize(start + NAME, 0);
            out.extend_from_slice(&sandbox::memory::sockaddr_bytes(&(i.v4().0, 0).into()));
            out.resize(start + IFREQ, 0);
        }
        out
    }
}

/// Packets that wait in an interface, at most.
const QUEUE: u32 = 1000;

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

impl Interface {
    fn v4(&self) -> (Ipv4Addr, u8) {
        match self.addresses[0] {
            (IpAddr::V4(ip), prefix, _) => (ip, prefix),
            (IpAddr::V6(_), ..) => (Ipv4Addr::UNSPECIFIED, 32),
        }
    }

    fn name_with_nul(&self) -> Vec<u8> {
        [self.name.as_bytes(), &[0]].concat()
    }

    /// RTM_NEWLINK: struct ifinfomsg (family, type, index, flags, change) and attributes.
    fn link(&self, flags: u16, asked: &Asked) -> Vec<u8> {
        let mut m = Message::new(libc::RTM_NEWLINK, flags, asked)
            .put(&[0, 0])
            .put(&self.hardware.to_ne_bytes())
            .put(&self.index.to_ne_bytes())
            .put(&self.flags.to_ne_bytes())
            .put(&[0; 4])
            .attribute(libc::IFLA_IFNAME, &self.name_with_nul())
            .attribute(libc::IFLA_TXQLEN, &QUEUE.to_ne_bytes())
            .attribute(libc::IFLA_OPERSTATE, &[self.operational])
            .attribute(libc::IFLA_LINKMODE, &[0])
            .attribute(libc::IFLA_MTU, &self.mtu.to_ne_bytes())
            .attribute(libc::IFLA_GROUP, &[0; 4])
            .attribute(libc::IFLA_QDISC, b"noqueue\0");
        if self.hardware != NO_HARDWARE {
            m = m.attribute(libc::IFLA_ADDRESS, &[0; 6]).attribute(libc::IFLA_BROADCAST, &[0; 6]);
        }
        m.finish()
    }

    /// RTM_NEWADDR: struct ifaddrmsg (family, prefix length, flags, scope, index) and attributes.
    fn address(&self, (ip, prefix, scope): (IpAddr, u8, u8), flags: u16, asked: &Asked) -> Vec<u8> {
        let permanent = libc::IFA_F_PERMANENT;
        let mut m = Message::new(libc::RTM_NEWADDR, flags, asked)
            .put(&[family(ip), prefix, permanent as u8, scope])
            .put(&self.index.to_ne_bytes())
            .attribute(libc::IFA_ADDRESS, &octets(ip));
        if ip.is_ipv4() {
            m = m.attribute(libc::IFA_LOCAL, &octets(ip)).attribute(libc::IFA_LABEL, &self.name_with_nul());
        }
        m.finish()
    }

    /// RTM_NEWROUTE: struct rtmsg (family, lengths of destination and source, TOS, table, protocol, scope, type, flags) and
    /// attributes: the default route.
    fn route(&self, from: IpAddr, flags: u16, asked: &Asked) -> Vec<u8> {
        let (table, protocol, scope) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, libc::RT_SCOPE_LINK);
        Message::new(libc::RTM_NEWROUTE, flags, asked)
            .put(&[family(from), 0, 0, 0, table, protocol, scope, libc::RTN_UNICAST])
            .put(&[0; 4])
            .attribute(libc::RTA_TABLE, &u32::from(table).to_ne_bytes())
            .attribute(libc::RTA_OIF, &self.index.to_ne_bytes())
            .attribute(libc::RTA_PREFSRC, &octets(from))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces() -> Interfaces {
        Interfaces::new("198.18.0.7".parse().unwrap(), "2001:2::7".parse().unwrap())
    }

    fn request(kind: u16, flags: i32, body: &[u8]) -> Vec<u8> {
        let asked = Asked { kind, flags: 0, sequence: 5, port: 0, body: &[], whole: &[] };
        Message::new(kind, flags as u16, &asked).put(body).finish()
    }

    /// Types and sequence numbers of all messages.
    fn kinds(answer: &[Vec<u8>]) -> Vec<u16> {
        let mut out = Vec::new();
        for mut bytes in answer.iter().map(Vec::as_slice) {
            while let Some((m, rest)) = Asked::first(bytes, 0) {
                assert_eq!((m.sequence, u32::from_ne_bytes(m.whole[12..16].try_into().unwrap())), (5, 99));
                out.push(m.kind);
                bytes = rest;
            }
        }
        out
    }

    #[test]
    fn dumps_end_with_done() {
        let dump = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
        let ask = |kind, family| kinds(&interfaces().answer(&request(kind, dump, &[family, 0, 0, 0]), 99));
        let done = libc::NLMSG_DONE as u16;
        assert_eq!(ask(libc::RTM_GETLINK, 0), [libc::RTM_NEWLINK, libc::RTM_NEWLINK, done]);
        assert_eq!(ask(libc::RTM_GETADDR, 0).len(), 5);
        assert_eq!(ask(libc::RTM_GETADDR, libc::AF_INET6 as u8), [libc::RTM_NEWADDR, libc::RTM_NEWADDR, done]);
        assert_eq!(ask(libc::RTM_GETROUTE, libc::AF_INET as u8), [libc::RTM_NEWROUTE, done]);
        // RTM_GETNEIGH.
        assert_eq!(ask(30, 0), [done]);
    }

    /// Net-SNMP asks so, with a body of one octet.
    #[test]
    fn half_of_the_dump_flag_and_an_odd_length() {
        for half in [libc::NLM_F_ROOT, libc::NLM_F_MATCH] {
            let asked = request(libc::RTM_GETLINK, libc::NLM_F_REQUEST | half, &[10]);
            let done = libc::NLMSG_DONE as u16;
            assert_eq!(kinds(&interfaces().answer(&asked, 99)), [libc::RTM_NEWLINK, libc::RTM_NEWLINK, done]);
        }
        let refused = interfaces().answer(&request(libc::RTM_NEWADDR, libc::NLM_F_REQUEST, &[10]), 99);
        assert_eq!(refused[0].len(), 40);
        assert_eq!(refused[0][..4], 37u32.to_ne_bytes());
    }

    #[test]
    fn one_link_is_found_by_its_index_or_name() {
        let ask = |index: u32, name: &[u8]| {
            let body = [&[0; 4][..], &index.to_ne_bytes(), &[0; 8]].concat();
            let body = if name.is_empty() {
                body
            } else {
                let attribute = [&((4 + name.len()) as u16).to_ne_bytes()[..], &libc::IFLA_IFNAME.to_ne_bytes(), name];
                [body, attribute.concat()].concat()
            };
            kinds(&interfaces().answer(&request(libc::RTM_GETLINK, libc::NLM_F_REQUEST, &body), 99))
        };
        assert_eq!(ask(2, b""), [libc::RTM_NEWLINK]);
        assert_eq!(ask(0, b"sipbox0\0"), [libc::RTM_NEWLINK]);
        assert_eq!(ask(0, b"eth0\0"), [libc::NLMSG_ERROR as u16]);
        assert_eq!(ask(7, b""), [libc::NLMSG_ERROR as u16]);
    }

    #[test]
    fn changes_are_refused_and_nonsense_is_ignored() {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let answer = interfaces().answer(&request(libc::RTM_NEWADDR, flags, &[0; 8]), 99);
        assert_eq!(answer[0][HEADER..HEADER + 4], (-libc::EPERM).to_ne_bytes());
        for bytes in [&[][..], &[1, 2, 3], &[255; 64], &[0; 64]] {
            assert!(interfaces().answer(bytes, 99).is_empty());
        }
        let cut = request(libc::RTM_GETLINK, libc::NLM_F_REQUEST, &[]);
        assert_eq!(kinds(&interfaces().answer(&cut, 99)), [libc::NLMSG_ERROR as u16]);
    }

    #[test]
    fn the_older_questions_agree() {
        let mut ifreq = [0; IFREQ];
        ifreq[..7].copy_from_slice(b"sipbox0");
        let all = interfaces();
        assert_eq!(all.ioctl(libc::SIOCGIFINDEX, &ifreq).unwrap()[16..20], 2u32.to_ne_bytes());
        assert_eq!(all.ioctl(libc::SIOCGIFADDR, &ifreq).unwrap()[20..24], [198, 18, 0, 7]);
        assert_eq!(all.ioctl(libc::SIOCGIFNETMASK, &ifreq).unwrap()[20..24], [255; 4]);
        ifreq[..8].copy_from_slice(b"lo:alias");
        assert_eq!(all.ioctl(libc::SIOCGIFNETMASK, &ifreq).unwrap()[20..24], [255, 0, 0, 0]);
        ifreq[..5].copy_from_slice(b"eth0\0");
        assert_eq!(all.ioctl(libc::SIOCGIFFLAGS, &ifreq), Err(Errno::ENODEV));
        ifreq[16..20].copy_from_slice(&2u32.to_ne_bytes());
        assert_eq!(all.ioctl(libc::SIOCGIFNAME, &ifreq).unwrap()[..8], *b"sipbox0\0");
        assert_eq!(all.configuration().len(), 2 * IFREQ);
    }
}
