//! Who is at the other end of an AF_UNIX datagram socket: sock_diag(7) of the family, which knows sockets by inode.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

// linux/sock_diag.h and linux/unix_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_NAME: u32 = 0x1;
const UDIAG_SHOW_VFS: u32 = 0x2;
const UDIAG_SHOW_PEER: u32 = 0x4;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_PEER: u16 = 2;
/// sizeof(struct nlmsghdr), struct unix_diag_req and struct unix_diag_msg; an attribute begins with its length and type.
const HEADER: usize = 16;
const REQUEST: usize = 24;
const MESSAGE: usize = 16;
const ATTRIBUTE: usize = 4;

/// The inode of the socket that `fd`, an AF_UNIX socket of this network namespace, is connected to.
///
/// # Errors
/// ENOTCONN where there is none, ENOENT where the kernel does not tell (CONFIG_UNIX_DIAG); what netlink(7) gives.
pub fn peer_inode(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    peer_inode_by(&question()?, fd)
}

/// Whether `fd`, an AF_UNIX socket of this network namespace, is bound to the file with this device and inode.
///
/// # Errors
/// ENOENT where the kernel does not tell (CONFIG_UNIX_DIAG); what netlink(7) gives.
pub fn is_bound_to(fd: BorrowedFd<'_>, device: u64, inode: u64) -> Result<bool, Errno> {
    let asked = question()?;
    ask(&asked, libc::NLM_F_REQUEST, nix::sys::stat::fstat(fd)?.st_ino as u32, UDIAG_SHOW_VFS)?;
    let mut answer = [0u8; 1024];
    let length = socket::recv(asked.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match peer_in(&answer[..length]) {
        Ok(_) | Err(Errno::ENOTCONN) => {
            Ok(attribute(&answer[..length], UNIX_DIAG_VFS) == Some(&file(device, inode)[..]))
        }
        Err(e) => Err(e),
    }
}

/// How many sockets of this network namespace have a file of whose inode the low 32 bits are these, and this device: the kernel tells no more.
/// With larger inodes (XFS of some terabytes) two files may be alike in that.
///
/// # Errors
/// ENOENT where the kernel does not tell (CONFIG_UNIX_DIAG); what netlink(7) gives.
pub fn alike(device: u64, inode: u64) -> Result<usize, Errno> {
    let wanted = file(device, inode);
    let mut found = 0;
    all(&question()?, UDIAG_SHOW_VFS, |message| {
        found += usize::from(attribute(message, UNIX_DIAG_VFS) == Some(&wanted[..]));
    })?;
    Ok(found)
}

/// The name (sun_path) that the socket with this file was bound by; None when no socket of this network namespace has it.
///
/// # Errors
/// ENOENT where the kernel does not tell (CONFIG_UNIX_DIAG); what netlink(7) gives.
pub fn name_of_file(device: u64, inode: u64) -> Result<Option<Vec<u8>>, Errno> {
    let wanted = file(device, inode);
    let mut found = None;
    all(&question()?, UDIAG_SHOW_VFS | UDIAG_SHOW_NAME, |message| {
        if attribute(message, UNIX_DIAG_VFS) == Some(&wanted[..]) {
            found = attribute(message, UNIX_DIAG_NAME).map(<[u8]>::to_vec);
        }
    })?;
    Ok(found)
}

/// The inode of the socket of this network namespace that has an abstract name, which begins with its NUL.
///
/// # Errors
/// ENOENT where the kernel does not tell (CONFIG_UNIX_DIAG); what netlink(7) gives.
pub fn socket_named(name: &[u8]) -> Result<Option<u64>, Errno> {
    with_name(&question()?, name)
}

/// A socket that asks in this network namespace.
fn question() -> Result<OwnedFd, Errno> {
    let asked =
        socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    socket::setsockopt(&asked, sockopt::ReceiveTimeout, &TimeVal::seconds(1))?;
    Ok(asked)
}

/// A device and inode in the form of struct unix_diag_vfs: the kernel's own form of a device number has 12 bits and 20 bits.
fn file(device: u64, inode: u64) -> [u8; 8] {
    let mut both = [0; 8];
    both[..4].copy_from_slice(&(inode as u32).to_ne_bytes());
    both[4..].copy_from_slice(&(libc::major(device) << 20 | libc::minor(device)).to_ne_bytes());
    both
}

/// As [`peer_inode`], in the network namespace of `asked`, a socket of NETLINK_SOCK_DIAG.
pub(crate) fn peer_inode_by(asked: &OwnedFd, fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let inode = nix::sys::stat::fstat(fd)?.st_ino;
    ask(asked, libc::NLM_F_REQUEST, inode as u32, UDIAG_SHOW_PEER)?;
    let mut answer = [0u8; 1024];
    let length = socket::recv(asked.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    peer_in(&answer[..length])
}

/// The socket that is bound to the file with this device and inode.
pub(crate) fn with_file(asked: &OwnedFd, device: u64, inode: u64) -> Result<Option<u64>, Errno> {
    with(asked, UDIAG_SHOW_VFS, UNIX_DIAG_VFS, &file(device, inode))
}

/// The socket that is bound to an abstract name, which begins with its NUL.
pub(crate) fn with_name(asked: &OwnedFd, name: &[u8]) -> Result<Option<u64>, Errno> {
    with(asked, UDIAG_SHOW_NAME, UNIX_DIAG_NAME, name)
}

/// The inode of the first socket with this attribute.
fn with(asked: &OwnedFd, show: u32, kind: u16, wanted: &[u8]) -> Result<Option<u64>, Errno> {
    let mut found = None;
    all(asked, show, |message| {
        if found.is_none() && attribute(message, kind) == Some(wanted) {
            let inode = message.get(HEADER + 4..HEADER + 8).and_then(|i| i.first_chunk::<4>());
            found = inode.map(|inode| u64::from(u32::from_ne_bytes(*inode)));
        }
    })?;
    Ok(found)
}

/// Looks at what is said of every socket.
fn all(asked: &OwnedFd, show: u32, mut look: impl FnMut(&[u8])) -> Result<(), Errno> {
    ask(asked, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, 0, show)?;
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        let length = socket::recv(asked.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while rest.len() >= HEADER {
            let whole = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let Some(message) = rest.get(..whole).filter(|m| m.len() >= HEADER) else { break };
            match i32::from(u16::from_ne_bytes([message[4], message[5]])) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => return Err(peer_in(message).err().unwrap_or(Errno::EIO)),
                _ => look(message),
            }
            rest = rest.get(whole.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Sends a struct unix_diag_req: any state; the inode; what is wanted; no cookie to compare.
fn ask(asked: &OwnedFd, flags: i32, inode: u32, show: u32) -> Result<(), Errno> {
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    request.extend_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&(flags as u16).to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[libc::AF_UNIX as u8, 0, 0, 0]);
    for word in [u32::MAX, inode, show, u32::MAX, u32::MAX] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    socket::sendto(asked.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map(drop)
}

/// An attribute of a struct unix_diag_msg.
fn attribute(message: &[u8], kind: u16) -> Option<&[u8]> {
    let mut at = HEADER + MESSAGE;
    while let Some(header) = message.get(at..at + ATTRIBUTE) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]])).max(ATTRIBUTE);
        if u16::from_ne_bytes([header[2], header[3]]) == kind {
            return message.get(at + ATTRIBUTE..at + length);
        }
        at += length.next_multiple_of(4);
    }
    None
}

/// The peer's inode in an answer; the kernel's error if it is one.
fn peer_in(answer: &[u8]) -> Result<u64, Errno> {
    let short = |at: usize| answer.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]));
    let word = |at: usize| answer.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    if short(4) != SOCK_DIAG_BY_FAMILY {
        // NLMSG_ERROR: a negative errno.
        return Err(match word(HEADER) as i32 {
            0 => Errno::ENOENT,
            e => Errno::from_raw(-e),
        });
    }
    let peer = attribute(answer, UNIX_DIAG_PEER).and_then(|data| data.first_chunk::<4>());
    peer.map(|inode| u64::from(u32::from_ne_bytes(*inode))).ok_or(Errno::ENOTCONN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn the_peer_is_who_it_is() {
        let path = std::env::temp_dir().join(format!("sandbox-unix-diag-{}", std::process::id()));
        let (receiver, sender) = (UnixDatagram::bind(&path).unwrap(), UnixDatagram::unbound().unwrap());
        assert_eq!(peer_inode(sender.as_fd()), Err(Errno::ENOTCONN));
        sender.connect(&path).unwrap();
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::metadata(&path).unwrap();
        assert_eq!(is_bound_to(receiver.as_fd(), file.dev(), file.ino()), Ok(true));
        assert_eq!(is_bound_to(receiver.as_fd(), file.dev(), file.ino() + 1), Ok(false));
        assert_eq!([0, 1].map(|more| alike(file.dev(), file.ino() + more)), [Ok(1), Ok(0)]);
        assert_eq!(alike(file.dev(), file.ino() | 1 << 32), Ok(1));
        assert_eq!(is_bound_to(sender.as_fd(), file.dev(), file.ino()), Ok(false));
        let name = name_of_file(file.dev(), file.ino()).unwrap().unwrap();
        assert_eq!(std::ffi::CStr::from_bytes_until_nul(&name).unwrap().to_str().ok(), path.to_str());
        std::fs::remove_file(&path).unwrap();
        let inode = nix::sys::stat::fstat(receiver.as_fd()).unwrap().st_ino;
        assert_eq!(peer_inode(sender.as_fd()), Ok(inode));
    }

    #[test]
    fn answers_that_are_none() {
        assert_eq!(peer_in(&[]), Err(Errno::ENOENT));
        let mut error = vec![0; 20];
        error[4] = 2;
        error[16..].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(peer_in(&error), Err(Errno::EPERM));
        let mut endless = vec![0; 40];
        endless[4] = SOCK_DIAG_BY_FAMILY as u8;
        assert_eq!(peer_in(&endless), Err(Errno::ENOTCONN));
    }
}
