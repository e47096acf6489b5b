//! Who is at the other end of an AF_UNIX datagram socket: sock_diag(7) of the family, which knows sockets by inode.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

// linux/sock_diag.h and linux/unix_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_VFS: u32 = 0x2;
const UDIAG_SHOW_PEER: u32 = 0x4;
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
    let asked =
        socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    socket::setsockopt(&asked, sockopt::ReceiveTimeout, &TimeVal::seconds(1))?;
    peer_inode_by(&asked, fd)
}

/// As [`peer_inode`], in the network namespace of `asked`, a socket of NETLINK_SOCK_DIAG.
pub(crate) fn peer_inode_by(asked: &OwnedFd, fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let inode = nix::sys::stat::fstat(fd)?.st_ino;
    ask(asked, libc::NLM_F_REQUEST, inode as u32, UDIAG_SHOW_PEER)?;
    let mut answer = [0u8; 1024];
    let length = socket::recv(asked.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    peer_in(&answer[..length])
}

/// Whether there is a socket with this inode.
pub(crate) fn exists(asked: &OwnedFd, inode: u64) -> Result<bool, Errno> {
    ask(asked, libc::NLM_F_REQUEST, inode as u32, 0)?;
    let mut answer = [0u8; 1024];
    let length = socket::recv(asked.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match peer_in(&answer[..length]) {
        Ok(_) | Err(Errno::ENOTCONN) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether a socket is bound to the file with this device and inode.
pub(crate) fn has_file(asked: &OwnedFd, device: u64, inode: u64) -> Result<bool, Errno> {
    ask(asked, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, 0, UDIAG_SHOW_VFS)?;
    // The kernel's own form of a device number: 12 bits, 20 bits.
    let device = (libc::major(device) << 20 | libc::minor(device)).to_ne_bytes();
    let wanted = [(inode as u32).to_ne_bytes(), device].concat();
    let mut found = false;
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        let length = socket::recv(asked.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while rest.len() >= HEADER {
            let whole = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let Some(message) = rest.get(..whole).filter(|m| m.len() >= HEADER) else { break };
            match i32::from(u16::from_ne_bytes([message[4], message[5]])) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => return Err(peer_in(message).err().unwrap_or(Errno::EIO)),
                _ => found |= attribute(message, UNIX_DIAG_VFS).is_some_and(|vfs| vfs == wanted),
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
