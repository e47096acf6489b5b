//! Datagrams that the kernel holds back (MSG_MORE, UDP_CORK; udp(7)): it keeps where they go until they do, so the port there is kept, too.

use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::libc;
use sandbox::message::{self, Destination};
use sandbox::sock;
use sipcore::agent::Proto;

use crate::call::{Call, Target, errno};
use crate::datagram::{datagram_of, physical};
use crate::supervisor::Supervisor;
use crate::table::{Cookie, Socket};

/// Sends to an address of the run's. What the kernel holds back (MSG_MORE, UDP_CORK) goes there later, whoever has the port by then: it is
/// kept from others for as long as the socket lives.
///
/// # Errors
/// What sendmsg(2) gives, and [`Supervisor::guard`].
pub fn send_there(
    supervisor: &Supervisor,
    target: &Target,
    v6: bool,
    to: SocketAddrV4,
    data: &[u8],
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    let held_back = flags & libc::MSG_MORE != 0 || corks(supervisor, target.cookie);
    if held_back {
        keep_port(supervisor, target.cookie, to)?;
    }
    let sent = message::send(target.as_fd(), data, Destination::Inet(physical(v6, to)), control, flags)?;
    if !held_back {
        // It may be one by now.
        keep_of_corked(supervisor, target.cookie, to)?;
    }
    Ok(sent)
}

/// As [`keep_port`], for a socket that holds back what it sends.
///
/// # Errors
/// As [`Supervisor::guard`].
pub fn keep_of_corked(supervisor: &Supervisor, cookie: Cookie, to: SocketAddrV4) -> Result<(), Errno> {
    if corks(supervisor, cookie) { keep_port(supervisor, cookie, to) } else { Ok(()) }
}

/// Whether UDP_CORK was set on this socket.
fn corks(supervisor: &Supervisor, cookie: Cookie) -> bool {
    supervisor.corks.load(Ordering::SeqCst)
        && supervisor.table.lock().get(cookie).and_then(|s| s.datagram.as_ref()).is_some_and(|d| d.corks)
}

/// Keeps the port of `to` from others for as long as the socket lives.
///
/// # Errors
/// As [`Supervisor::guard`].
fn keep_port(supervisor: &Supervisor, cookie: Cookie, to: SocketAddrV4) -> Result<(), Errno> {
    let is_kept = |s: &Socket| s.datagram.as_ref().is_some_and(|d| d.holds_back(to.port()));
    if supervisor.table.lock().get(cookie).is_none_or(is_kept) {
        return Ok(());
    }
    if let Some(guard) = supervisor.guard(Proto::Udp, to)?
        && let Some(s) = supervisor.table.lock().get_mut(cookie)
        && !datagram_of(s).hold_back(guard)
    {
        return Err(Errno::ENOBUFS);
    }
    Ok(())
}

/// Sends what the kernel holds back for this socket.
///
/// # Errors
/// What setsockopt(2) gives.
pub fn push_held_back(supervisor: &Supervisor, target: &Target) -> Result<(), Errno> {
    let set = |value| sock::set_option(target.as_fd(), libc::IPPROTO_UDP, libc::UDP_CORK, value).map_err(errno);
    let is_corked = corks(supervisor, target.cookie)
        && sock::option(target.as_fd(), libc::IPPROTO_UDP, libc::UDP_CORK).map_err(errno)? != 0;
    set(0)?;
    if is_corked { set(1) } else { Ok(()) }
}

/// setsockopt(2) of UDP_CORK: the kernel's, and what is sent from then on may be held back.
pub fn set_cork(mut call: Call) {
    let number = call.int(0);
    call.note(|| format!("setsockopt({number}, UDP_CORK)"));
    let supervisor = call.supervisor;
    let result = (|| {
        let target = call.target(number)?;
        let kind = supervisor.known(&target)?;
        if call.int(4) < size_of::<i32>() as i32 {
            return Err(Errno::EINVAL);
        }
        let value = call.n.read_u32(call.argument(3))? as i32;
        if kind == Some(Proto::Udp) && value != 0 {
            supervisor.corks.store(true, Ordering::SeqCst);
            if let Some(s) = supervisor.table.lock().get_mut(target.cookie) {
                datagram_of(s).corks = true;
            }
        }
        sock::set_option(target.as_fd(), libc::IPPROTO_UDP, libc::UDP_CORK, value).map_err(errno)?;
        Ok(0)
    })();
    call.finish(result);
}
