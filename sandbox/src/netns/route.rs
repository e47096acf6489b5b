//! The few rtnetlink(7) requests that set the two networks up, acknowledged one by one.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};

/// The index of `lo` in every network namespace.
pub const LOOPBACK: i32 = 1;

// linux/if_link.h, linux/veth.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
// linux/if_addr.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;
// linux/rtnetlink.h.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;

/// One of the two ends of a veth(4) pair.
pub struct End<'a> {
    pub name: &'a str,
    /// Different ones: the link is then carried at once, not when the kernel's link watch comes round (net/core/link_watch.c).
    pub index: i32,
    pub mac: [u8; 6],
    pub mtu: u32,
}

/// The rtnetlink socket of the network namespace in which it is opened.
pub struct Route(OwnedFd);

struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: i32) -> Request {
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Request(bytes)
    }

    /// struct ifinfomsg: these flags are to be set.
    fn link(mut self, index: i32, flags: i32) -> Request {
        self.0.extend_from_slice(&link_header(index, flags));
        self
    }

    fn put(mut self, bytes: &[u8]) -> Request {
        self.0.extend_from_slice(bytes);
        self
    }

    fn attribute(mut self, kind: u16, data: &[u8]) -> Request {
        attribute(&mut self.0, kind, data);
        self
    }
}

fn link_header(index: i32, flags: i32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// A struct rtattr with its data, aligned.
fn attribute(out: &mut Vec<u8>, kind: u16, data: &[u8]) {
    out.extend_from_slice(&((4 + data.len()) as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn described(end: &End<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    attribute(&mut out, IFLA_IFNAME, &[end.name.as_bytes(), &[0]].concat());
    attribute(&mut out, IFLA_ADDRESS, &end.mac);
    attribute(&mut out, IFLA_MTU, &end.mtu.to_ne_bytes());
    out
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// The length of an address in bits.
fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

impl Route {
    pub fn open() -> io::Result<Route> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Route(socket::socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?))
    }

    fn ask(&self, what: &str, request: Request) -> io::Result<()> {
        let mut bytes = request.0;
        let length = (bytes.len() as u32).to_ne_bytes();
        bytes[..4].copy_from_slice(&length);
        let said = |e: Errno| io::Error::new(io::Error::from(e).kind(), format!("{what}: {}", e.desc()));
        socket::sendto(self.0.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map_err(said)?;
        let mut answer = [0u8; 4096];
        let length = socket::recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty()).map_err(said)?;
        // struct nlmsghdr, then the negative errno, 0 for an acknowledgement.
        let code =
            answer[..length].get(16..20).and_then(|b| b.first_chunk()).map_or(libc::EIO, |b| -i32::from_ne_bytes(*b));
        if code == 0 { Ok(()) } else { Err(said(Errno::from_raw(code))) }
    }

    /// Brings an interface up.
    pub fn up(&self, index: i32) -> io::Result<()> {
        self.ask("bringing an interface up", Request::new(libc::RTM_NEWLINK, 0).link(index, libc::IFF_UP))
    }

    /// No link-local IPv6 address for this interface, which is to be down yet.
    pub fn no_link_local(&self, index: i32) -> io::Result<()> {
        const IFLA_AF_SPEC: u16 = 26;
        const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
        const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
        let (mut mode, mut family) = (Vec::new(), Vec::new());
        attribute(&mut mode, IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        attribute(&mut family, libc::AF_INET6 as u16, &mode);
        let request = Request::new(libc::RTM_NEWLINK, 0).link(index, 0).attribute(IFLA_AF_SPEC, &family);
        self.ask("setting an interface up", request)
    }

    /// A pair of interfaces, both down yet, `there` in the namespace behind `namespace`. Neither asks for link-layer addresses.
    pub fn pair(&self, here: &End<'_>, there: &End<'_>, namespace: RawFd) -> io::Result<()> {
        let flags = libc::IFF_NOARP;
        let mut peer = link_header(there.index, flags).to_vec();
        peer.extend(described(there));
        attribute(&mut peer, IFLA_NET_NS_FD, &namespace.to_ne_bytes());
        let mut data = Vec::new();
        attribute(&mut data, VETH_INFO_PEER, &peer);
        let mut info = Vec::new();
        attribute(&mut info, IFLA_INFO_KIND, b"veth\0");
        attribute(&mut info, IFLA_INFO_DATA, &data);
        let request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
            .link(here.index, flags)
            .put(&described(here))
            .attribute(IFLA_LINKINFO, &info);
        self.ask("making a pair of interfaces (veth)", request)
    }

    /// Gives an interface an address of its own, alone in its network.
    pub fn address(&self, index: i32, ip: IpAddr) -> io::Result<()> {
        let mut header = vec![family(ip), width(ip), IFA_F_NODAD, RT_SCOPE_UNIVERSE];
        header.extend_from_slice(&(index as u32).to_ne_bytes());
        let request = Request::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
            .put(&header)
            .attribute(IFA_LOCAL, &octets(ip))
            .attribute(IFA_ADDRESS, &octets(ip));
        self.ask("giving an interface its address", request)
    }

    fn route(
        &self,
        to: Option<IpAddr>,
        any: IpAddr,
        [table, scope, kind]: [u8; 3],
        index: i32,
        from: Option<IpAddr>,
    ) -> io::Result<()> {
        let prefix = to.map_or(0, width);
        // struct rtmsg.
        let header = [family(any), prefix, 0, 0, table, RTPROT_STATIC, scope, kind, 0, 0, 0, 0];
        let mut request = Request::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE).put(&header);
        if let Some(to) = to {
            request = request.attribute(RTA_DST, &octets(to));
        }
        if let Some(from) = from {
            request = request.attribute(RTA_PREFSRC, &octets(from));
        }
        self.ask("adding a route", request.attribute(RTA_OIF, &index.to_ne_bytes()))
    }

    /// Everything of the family of `own` leads to this interface, from that address.
    pub fn everything_to(&self, index: i32, own: IpAddr) -> io::Result<()> {
        self.route(None, own, [RT_TABLE_MAIN, RT_SCOPE_LINK, RTN_UNICAST], index, Some(own))
    }

    /// Every address of the family of `but` is this namespace's own, but for that one, which is behind the interface.
    pub fn everything_is_here(&self, but: IpAddr, index: i32) -> io::Result<()> {
        self.route(None, but, [RT_TABLE_LOCAL, RT_SCOPE_HOST, RTN_LOCAL], LOOPBACK, None)?;
        self.route(Some(but), but, [RT_TABLE_LOCAL, RT_SCOPE_LINK, RTN_UNICAST], index, None)
    }
}
