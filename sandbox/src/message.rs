//! sendmsg(2) and recvmsg(2) on the supervisor's duplicate of a socket, with control data as plain bytes.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use crate::direct;
use crate::memory::{SOCKADDR_IN6, STORAGE, inet, inet_v4, sockaddr_bytes};

/// What one recvmsg(2) gave.
#[derive(Debug, Default)]
pub struct Received {
    /// What the call returned: bytes, or with MSG_TRUNC the true length of the datagram.
    pub length: usize,
    /// The source address: the raw struct sockaddr, empty when there is none.
    pub name: Name,
    /// Control data, as the kernel wrote it.
    pub control: Vec<u8>,
    /// msg_flags.
    pub flags: i32,
}

/// A raw struct sockaddr: derefs to its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    bytes: [u8; STORAGE],
    length: usize,
}

impl Name {
    /// The first bytes of `bytes`: no address is longer.
    pub fn of(bytes: &[u8]) -> Name {
        let mut name = Name::default();
        name.set(bytes);
        name
    }

    /// Becomes the first bytes of `bytes`.
    pub fn set(&mut self, bytes: &[u8]) {
        self.length = bytes.len().min(STORAGE);
        self.bytes[..self.length].copy_from_slice(&bytes[..self.length]);
    }

    /// Becomes what `fill` writes, which says how long that is.
    pub(crate) fn fill<T>(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<(T, usize), Errno>) -> Result<T, Errno> {
        let (value, length) = fill(&mut self.bytes)?;
        self.length = length.min(STORAGE);
        Ok(value)
    }
}

impl Default for Name {
    fn default() -> Name {
        Name { bytes: [0; STORAGE], length: 0 }
    }
}

impl std::ops::Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Name {
    /// It as an Internet address.
    pub fn inet(&self) -> Option<SocketAddr> {
        inet(self)
    }

    /// It as an IPv4 address, also if it is a v4-mapped one.
    pub fn inet_v4(&self) -> Option<SocketAddrV4> {
        inet_v4(self)
    }
}

/// Where a message goes.
#[derive(Debug, Clone, Copy)]
pub enum Destination<'a> {
    /// Where the socket is connected.
    Connected,
    /// An Internet address.
    Inet(SocketAddr),
    /// A raw struct sockaddr.
    Raw(&'a [u8]),
}

/// Flags that must not be carried over: with them the kernel goes on to use the caller's pages after the call, and the
/// caller is the supervisor here (MSG_ZEROCOPY; MSG_SPLICE_PAGES of include/linux/socket.h).
const KEEPS_PAGES: i32 = libc::MSG_ZEROCOPY | 0x0800_0000;

/// Sends one message. MSG_NOSIGNAL is always added: SIGPIPE is the program's, not the supervisor's.
pub fn send(fd: BorrowedFd<'_>, data: &[u8], to: Destination<'_>, control: &[u8], flags: i32) -> Result<usize, Errno> {
    let encoded;
    let name: &[u8] = match to {
        Destination::Connected => &[],
        Destination::Inet(a) => {
            encoded = sockaddr_bytes(&a);
            &encoded
        }
        Destination::Raw(bytes) => bytes,
    };
    let flags = flags & !KEEPS_PAGES | libc::MSG_NOSIGNAL;
    if control.is_empty() {
        return direct::sendto(fd, data, flags, name);
    }
    let n = {
        let mut slice = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        // SAFETY: plain data for which zero is valid.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        if !name.is_empty() {
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.len() as libc::socklen_t;
        }
        header.msg_iov = &raw mut slice;
        header.msg_iovlen = 1;
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len() as _;
        // SAFETY: the header points to `data`, `name` and `control`, which outlive the call; sendmsg only reads them.
        unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) }
    };
    if n < 0 { Err(Errno::last()) } else { Ok(n as usize) }
}

/// Sends datagrams that lie one behind the other in `data`, in their order, on a connected UDP socket; what does not fit is lost, as a
/// network would lose it. Neighbours of one length go through the kernel together (UDP_SEGMENT, udp(7), Linux 4.18) and come out one by
/// one at the other end.
pub fn send_run(fd: BorrowedFd<'_>, data: &[u8], lengths: &[usize]) {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    /// UDP_MAX_SEGMENTS of include/linux/udp.h, in kernels before 6.9, and the largest UDP payload over IPv4.
    const MOST: usize = 64;
    const LARGEST: usize = 65507;
    let one = |data| {
        let _ = nix::sys::socket::send(fd.as_raw_fd(), data, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    };
    let (mut data, mut lengths) = (data, lengths);
    while let Some(&length) = lengths.first() {
        let (mut count, mut total) = (1, length);
        // All of one length; only the last one may be shorter, but not empty.
        for &next in lengths[1..].iter().take(MOST - 1) {
            if next == 0 || next > length || total + next > LARGEST {
                break;
            }
            count += 1;
            total += next;
            if next < length {
                break;
            }
        }
        let (run, rest) = data.split_at(total);
        let together = count > 1
            && u16::try_from(length).is_ok_and(|length| {
                let (slices, control) = ([std::io::IoSlice::new(run)], [ControlMessage::UdpGsoSegments(&length)]);
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                match sendmsg::<()>(fd.as_raw_fd(), &slices, &control, flags, None) {
                    Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS) => true,
                    // This kernel or the way out cannot do it; or it was the error of an earlier datagram (ECONNREFUSED).
                    Err(_) => false,
                }
            });
        if !together {
            let mut run = run;
            for length in &lengths[..count] {
                let (datagram, behind) = run.split_at(*length);
                one(datagram);
                run = behind;
            }
        }
        (data, lengths) = (rest, &lengths[count..]);
    }
}

/// Receives one message into `data` without control data: what recvfrom(2) returns, and the source's Internet address.
pub fn receive_from(fd: BorrowedFd<'_>, data: &mut [u8], flags: i32) -> Result<(usize, Option<SocketAddr>), Errno> {
    let mut name = [0u8; SOCKADDR_IN6];
    let (n, length) = direct::recvfrom(fd, data, flags, &mut name)?;
    Ok((n, inet(&name[..length.min(SOCKADDR_IN6)])))
}

/// Where a datagram came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Its IPv4 address.
    pub address: SocketAddrV4,
    /// The kernel has given it as a v4-mapped one: the socket is one of IPv6.
    pub mapped: bool,
}

/// As [`receive_from`], for the source's IPv4 address, also a v4-mapped one.
#[inline]
pub fn receive_from_v4(fd: BorrowedFd<'_>, data: &mut [u8], flags: i32) -> Result<(usize, Option<Source>), Errno> {
    let mut name = [0u8; SOCKADDR_IN6];
    let (n, length) = direct::recvfrom(fd, data, flags, &mut name)?;
    let address = inet_v4(&name[..length.min(SOCKADDR_IN6)]);
    Ok((n, address.map(|address| Source { address, mapped: length == SOCKADDR_IN6 })))
}

/// Receives one message into `data`; `control` bytes of control data are accepted.
pub fn receive(fd: BorrowedFd<'_>, data: &mut [u8], control: usize, flags: i32) -> Result<Received, Errno> {
    let mut name = Name::default();
    let mut room = vec![0u8; control];
    let (length, used, flags) = receive_into(fd, data, &mut name, &mut room, flags)?;
    room.truncate(used);
    Ok(Received { length, name, control: room, flags })
}

/// As [`receive`], without control data, and no memory is asked for: what recvmsg(2) returns, and msg_flags.
pub fn receive_bare(fd: BorrowedFd<'_>, data: &mut [u8], name: &mut Name, flags: i32) -> Result<(usize, i32), Errno> {
    receive_into(fd, data, name, &mut [], flags).map(|(length, _, flags)| (length, flags))
}

/// What recvmsg(2) returns, how much of `control` is used, and msg_flags.
fn receive_into(
    fd: BorrowedFd<'_>,
    data: &mut [u8],
    name: &mut Name,
    control: &mut [u8],
    flags: i32,
) -> Result<(usize, usize, i32), Errno> {
    let mut slice = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: plain data for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = name.bytes.as_mut_ptr().cast();
    header.msg_namelen = STORAGE as libc::socklen_t;
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len() as _;
    }
    // SAFETY: the header points to `data`, `name` and `control` with their true sizes; all outlive the call.
    let n = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
    if n < 0 {
        return Err(Errno::last());
    }
    name.length = STORAGE.min(header.msg_namelen as usize);
    Ok((n as usize, header.msg_controllen, header.msg_flags))
}

/// bind(2) by a raw struct sockaddr.
pub fn bind_raw(fd: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    // SAFETY: `name` is as many readable bytes as the length says, alive through the call.
    let rc = unsafe { libc::bind(fd.as_raw_fd(), name.as_ptr().cast(), name.len() as libc::socklen_t) };
    Errno::result(rc).map(drop)
}

/// connect(2) by a raw struct sockaddr.
pub fn connect_raw(fd: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    // SAFETY: `name` is as many readable bytes as the length says, alive through the call.
    let rc = unsafe { libc::connect(fd.as_raw_fd(), name.as_ptr().cast(), name.len() as libc::socklen_t) };
    Errno::result(rc).map(drop)
}

/// As [`name_of`].
pub fn raw_name(fd: BorrowedFd<'_>, peer: bool) -> Result<Vec<u8>, Errno> {
    name_of(fd, peer).map(|name| name.to_vec())
}

/// getsockname(2), or with `peer` getpeername(2): the raw struct sockaddr, whatever its family.
pub fn name_of(fd: BorrowedFd<'_>, peer: bool) -> Result<Name, Errno> {
    let mut name = Name::default();
    let mut length = STORAGE as libc::socklen_t;
    let call = if peer { libc::getpeername } else { libc::getsockname };
    // SAFETY: the kernel writes at most `length` bytes into `name`, and the true length.
    let r = unsafe { call(fd.as_raw_fd(), name.bytes.as_mut_ptr().cast(), &raw mut length) };
    if r < 0 {
        return Err(Errno::last());
    }
    name.length = STORAGE.min(length as usize);
    Ok(name)
}

/// One control message: level, type and data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// cmsg_level.
    pub level: i32,
    /// cmsg_type.
    pub kind: i32,
    /// What follows the header.
    pub data: Vec<u8>,
}

/// sizeof(struct cmsghdr) on a 64-bit machine.
const CMSGHDR: usize = 16;

/// Splits control data (cmsg(3)). EINVAL for a header that does not fit, as the kernel says it.
pub fn parse_control(mut bytes: &[u8]) -> Result<Vec<Control>, Errno> {
    let mut out = Vec::new();
    while bytes.len() >= CMSGHDR {
        let mut length = [0u8; 8];
        length.copy_from_slice(&bytes[..8]);
        let length = usize::try_from(u64::from_ne_bytes(length)).map_err(|_| Errno::EINVAL)?;
        if length < CMSGHDR || length > bytes.len() {
            return Err(Errno::EINVAL);
        }
        let int = |o: usize| i32::from_ne_bytes([bytes[o], bytes[o + 1], bytes[o + 2], bytes[o + 3]]);
        out.push(Control { level: int(8), kind: int(12), data: bytes[CMSGHDR..length].to_vec() });
        bytes = &bytes[length.next_multiple_of(8).min(bytes.len())..];
    }
    Ok(out)
}

/// Joins control messages again, each aligned to eight bytes (the last one is not padded).
pub fn build_control(messages: &[Control]) -> Vec<u8> {
    let mut out = Vec::new();
    for m in messages {
        out.resize(out.len().next_multiple_of(8), 0);
        out.extend_from_slice(&((CMSGHDR + m.data.len()) as u64).to_ne_bytes());
        out.extend_from_slice(&m.level.to_ne_bytes());
        out.extend_from_slice(&m.kind.to_ne_bytes());
        out.extend_from_slice(&m.data);
    }
    out
}

/// Control messages on their way into a msg_control of limited length: what does not fit is cut as the kernel cuts it (put_cmsg of
/// net/core/scm.c).
pub struct ControlRoom {
    left: usize,
    bytes: Vec<u8>,
    /// Something did not fit (MSG_CTRUNC).
    pub truncated: bool,
}

impl ControlRoom {
    /// Room for `length` bytes.
    pub fn new(length: usize) -> ControlRoom {
        ControlRoom { left: length, bytes: Vec::new(), truncated: false }
    }

    /// Appends a message, or what of it fits.
    pub fn put(&mut self, level: i32, kind: i32, data: &[u8]) {
        let whole = CMSGHDR + data.len();
        self.truncated |= self.left < whole;
        if self.left < CMSGHDR {
            return;
        }
        let length = whole.min(self.left);
        let end = self.bytes.len() + whole.next_multiple_of(8).min(self.left);
        self.bytes.extend_from_slice(&(length as u64).to_ne_bytes());
        self.bytes.extend_from_slice(&level.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&data[..length - CMSGHDR]);
        self.left -= whole.next_multiple_of(8).min(self.left);
        self.bytes.resize(end, 0);
    }

    /// How many descriptors an SCM_RIGHTS message may have here.
    pub fn descriptors(&self) -> usize {
        self.left.saturating_sub(CMSGHDR) / size_of::<libc::c_int>()
    }

    /// The bytes for msg_control, and whether something did not fit.
    pub fn finish(self) -> (Vec<u8>, bool) {
        (self.bytes, self.truncated)
    }
}

/// The descriptors in an SCM_RIGHTS message.
pub fn descriptors(data: &[u8]) -> impl Iterator<Item = i32> + '_ {
    data.chunks_exact(4).map(|c| i32::from_ne_bytes([c[0], c[1], c[2], c[3]]))
}

/// SCM_PIDFD of include/linux/socket.h (Linux 6.5): a pidfd of the sender.
pub const SCM_PIDFD: libc::c_int = 4;

/// Takes ownership of descriptors that the kernel just installed in this process by SCM_RIGHTS.
pub fn adopt(received: &Received) -> io::Result<Vec<(Control, Vec<std::os::fd::OwnedFd>)>> {
    use std::os::fd::{FromRawFd, OwnedFd};
    let mut out = Vec::new();
    for m in parse_control(&received.control).map_err(io::Error::from)? {
        let carries = m.level == libc::SOL_SOCKET && (m.kind == libc::SCM_RIGHTS || m.kind == SCM_PIDFD);
        let fds = if carries {
            // SAFETY: recvmsg made these descriptors for this message; each is adopted once, here.
            descriptors(&m.data).filter(|n| *n >= 0).map(|n| unsafe { OwnedFd::from_raw_fd(n) }).collect()
        } else {
            Vec::new()
        };
        out.push((m, fds));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn control_data_survives_the_round_trip() {
        let messages = vec![
            Control { level: 1, kind: 1, data: vec![1, 2, 3, 4] },
            Control { level: 0, kind: 8, data: vec![7; 12] },
        ];
        assert_eq!(parse_control(&build_control(&messages)).unwrap(), messages);
    }

    #[test]
    fn datagrams_that_are_sent_together_come_out_one_by_one() {
        use std::net::UdpSocket;
        let (from, to) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        from.connect(to.local_addr().unwrap()).unwrap();
        to.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        // More than the kernel takes at once, a shorter one between equals, an empty one, and the largest of all.
        let lengths = [vec![7; 70], vec![3, 7, 7, 0, 0, 9000, 9000, 65507, 1]].concat();
        let data: Vec<u8> = lengths.iter().enumerate().flat_map(|(i, l)| vec![i as u8; *l]).collect();
        for some in [0..40, 40..74, 74..78, 78..79] {
            let at: usize = lengths[..some.start].iter().sum();
            let all: usize = lengths[some.clone()].iter().sum();
            send_run(from.as_fd(), &data[at..at + all], &lengths[some.clone()]);
            for i in some {
                let mut got = vec![0; 65536];
                let n = to.recv(&mut got).unwrap();
                assert_eq!(&got[..n], vec![i as u8; lengths[i]], "{i}");
            }
        }
    }

    #[test]
    fn control_data_that_lies_about_its_length_is_refused() {
        for length in [0u64, 15, 17, u64::MAX] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend_from_slice(&[0; 8]);
            assert_eq!(parse_control(&bytes), Err(Errno::EINVAL), "{length}");
        }
        assert_eq!(parse_control(&[0; 15]), Ok(vec![]));
    }

    #[test]
    fn control_data_is_cut_as_the_kernel_cuts_it() {
        let fill = |length| {
            let mut room = ControlRoom::new(length);
            room.put(41, 52, &[1, 2, 3, 4]);
            room.put(41, 67, &[5, 6, 7, 8]);
            room.finish()
        };
        let (whole, cut) = fill(48);
        assert!((whole.len(), cut) == (48, false) && parse_control(&whole).unwrap().len() == 2);
        // CMSG_LEN of the second: it fits without its padding.
        assert!(matches!(fill(44), (bytes, false) if bytes.len() == 44));
        let (short, cut) = fill(42);
        assert!(cut && parse_control(&short).unwrap()[1].data == [5, 6]);
        assert!(matches!(fill(39), (bytes, true) if bytes.len() == 24));
        assert!(matches!(fill(15), (bytes, true) if bytes.is_empty()));
        assert_eq!((ControlRoom::new(16).descriptors(), ControlRoom::new(27).descriptors()), (0, 2));
    }

    #[test]
    fn a_datagram_goes_and_comes_with_its_source() {
        let a = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let b = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = Destination::Inet(b.local_addr().unwrap());
        assert_eq!(send(a.as_fd(), b"hello", to, &[], 0).unwrap(), 5);
        let mut data = [0; 3];
        let got = receive(b.as_fd(), &mut data, 0, libc::MSG_TRUNC).unwrap();
        assert_eq!((got.length, &data), (5, b"hel"));
        assert_eq!(got.name.inet(), Some(a.local_addr().unwrap()));
        assert_ne!(got.flags & libc::MSG_TRUNC, 0);
        assert_eq!(receive_from(b.as_fd(), &mut data, libc::MSG_DONTWAIT), Err(Errno::EAGAIN));
        send(a.as_fd(), b"hello", to, &[], 0).unwrap();
        let plain = receive_from(b.as_fd(), &mut data, libc::MSG_TRUNC).unwrap();
        assert_eq!(plain, (5, Some(a.local_addr().unwrap())));
        send(a.as_fd(), b"hello", to, &[], 0).unwrap();
        let mut name = Name::default();
        assert_eq!(receive_bare(b.as_fd(), &mut data, &mut name, 0), Ok((3, libc::MSG_TRUNC)));
        assert_eq!(name.inet(), Some(a.local_addr().unwrap()));
    }
}
