//! Who is at the other end of an AF_UNIX datagram socket: sock_diag(7) of the family, which knows sockets by inode.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

// linux/sock_diag.h and linux/unix_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_PEER: u32 = 0x4;
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
    let inode = nix::sys::stat::fstat(fd)?.st_ino;
    let asked =
        socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    socket::setsockopt(&asked, sockopt::ReceiveTimeout, &TimeVal::seconds(1))?;
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    request.extend_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[libc::AF_UNIX as u8, 0, 0, 0]);
    // Any state; the inode; what is wanted; no cookie to compare.
    for word in [u32::MAX, inode as u32, UDIAG_SHOW_PEER, u32::MAX, u32::MAX] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    socket::send(asked.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = [0u8; 1024];
    let length = socket::recv(asked.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    peer_in(&answer[..length])
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
    let mut at = HEADER + MESSAGE;
    while at + ATTRIBUTE <= answer.len() {
        let length = usize::from(short(at));
        if short(at + 2) == UNIX_DIAG_PEER && length >= ATTRIBUTE + 4 {
            return Ok(u64::from(word(at + ATTRIBUTE)));
        }
        at += length.max(ATTRIBUTE).next_multiple_of(4);
    }
    Err(Errno::ENOTCONN)
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
