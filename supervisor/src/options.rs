//! The socket options that the supervisor answers: SO_ERROR, IPV6_V6ONLY, IPV6_RECVERR, SO_PEERCRED, SO_PEERPIDFD, SO_PASSCRED and
//! SO_PASSPIDFD.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::libc;
use sandbox::sock;

use crate::call::{Call, Target, errno};
use crate::table::State;
use crate::{ancillary, held_back, unix};

/// getsockopt(2) of these.
pub fn get(mut call: Call) {
    let (number, level, name) = (call.int(0), call.int(1), call.int(2));
    call.note(|| format!("getsockopt({number}, {level}, {name})"));
    let result = (|| {
        let target = call.target(number)?;
        if level == libc::SOL_SOCKET && name != libc::SO_ERROR {
            return unix::get_credentials(&call, &target, name);
        }
        if level != libc::SOL_SOCKET {
            let value = i32::from(v6only(&call, &target)?);
            // Lengths are compared without their sign there, and the length is written first (do_ipv6_getsockopt).
            let (value, length) = truncated(value, call.n.read_u32(call.argument(4))? as usize);
            call.n.write(call.argument(4), &length.to_ne_bytes())?;
            call.n.write(call.argument(3), &value)?;
            return Ok(0);
        }
        let value = error_of(&call, &target)?;
        let given = usize::try_from(call.n.read_u32(call.argument(4))? as i32).map_err(|_| Errno::EINVAL)?;
        let (value, length) = truncated(value, given);
        call.n.write(call.argument(3), &value)?;
        call.n.write(call.argument(4), &length.to_ne_bytes())?;
        Ok(0)
    })();
    call.finish(result);
}

fn error_of(call: &Call, target: &Target) -> Result<i32, Errno> {
    let native = sock::so_error(target.as_fd()).map_err(errno)?;
    let own = match &call.supervisor.network {
        Some(network) => crate::own::error_of(network, target.cookie),
        None => call.supervisor.table.lock().get_mut(target.cookie).and_then(|s| s.error.take()),
    };
    Ok(own.map_or(native, |e| e as i32))
}

fn v6only(call: &Call, target: &Target) -> Result<bool, Errno> {
    call.supervisor.known(target)?;
    let table = call.supervisor.table.lock();
    match table.get(target.cookie) {
        Some(s) if s.v6 => Ok(s.v6only),
        // Level IPPROTO_IPV6 on another kind of socket.
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// An int result cut to the program's length, and the length that it is told.
fn truncated(value: i32, given: usize) -> (Vec<u8>, u32) {
    let n = given.min(4);
    (value.to_ne_bytes()[..n].to_vec(), n as u32)
}

/// setsockopt(2) of IPV6_V6ONLY, IPV6_RECVERR, IPV6_TCLASS, IPV6_UNICAST_HOPS, SO_PASSCRED, SO_PASSPIDFD,
/// IP_BIND_ADDRESS_NO_PORT, TCP_ULP and UDP_CORK.
pub fn set(call: Call) {
    match (call.int(1), call.int(2)) {
        (libc::SOL_SOCKET, _) => unix::set_asking(call),
        (libc::IPPROTO_TCP, _) => set_upper_protocol(call),
        (libc::IPPROTO_UDP, _) => held_back::set_cork(call),
        (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT) => set_no_port(call),
        (_, libc::IPV6_RECVERR) => set_receive_errors(call),
        (_, libc::IPV6_TCLASS) => set_of_packets(call, libc::IP_TOS),
        (_, libc::IPV6_UNICAST_HOPS) => set_of_packets(call, libc::IP_TTL),
        _ => set_v6only(call),
    }
}

/// TCP_ULP: kernel TLS, which encrypts what goes where the socket is connected. Others (SMC, IPsec) go other ways: they are not there.
fn set_upper_protocol(mut call: Call) {
    let (number, level, name) = (call.int(0), call.int(1), call.int(2));
    call.note(|| format!("setsockopt({number}, {level}, {name})"));
    let result = (|| {
        /// TCP_ULP_NAME_MAX of include/net/tcp.h, with a NUL.
        const NAME_MAX: usize = 16;
        let target = call.target(number)?;
        call.supervisor.known(&target)?;
        let length = usize::try_from(call.int(4)).ok().filter(|length| *length > 0).ok_or(Errno::EINVAL)?;
        let upper = call.n.read(call.argument(3), length.min(NAME_MAX - 1))?;
        if upper.split(|b| *b == 0).next() != Some(b"tls") {
            return Err(Errno::ENOENT);
        }
        // What receives from such a socket takes a record, whatever the flags (tls_sw_recvmsg): nobody guesses which socket it is.
        call.supervisor.era.end();
        nix::sys::socket::setsockopt(&target, nix::sys::socket::sockopt::TcpUlp::default(), b"tls")?;
        Ok(0)
    })();
    call.finish(result);
}

/// IP_BIND_ADDRESS_NO_PORT: the kernel's own option, which is taken off while a socket is bound ([`Supervisor::bind_physical`]).
///
/// [`Supervisor::bind_physical`]: crate::supervisor::Supervisor::bind_physical
fn set_no_port(mut call: Call) {
    let (number, level, name) = (call.int(0), call.int(1), call.int(2));
    call.note(|| format!("setsockopt({number}, {level}, {name})"));
    let result = (|| {
        let target = call.target(number)?;
        call.supervisor.known(&target)?;
        // An int, or a byte (do_ip_setsockopt).
        let value = match call.int(4) {
            ..0 => return Err(Errno::EINVAL),
            0 => 0,
            _ if call.argument(3) == 0 => 0,
            1..4 => i32::from(call.n.read(call.argument(3), 1)?[0]),
            4.. => call.n.read_u32(call.argument(3))? as i32,
        };
        call.supervisor.ports_come_late.store(true, Ordering::SeqCst);
        sock::set_option(target.as_fd(), level, name, value).map_err(errno)?;
        Ok(0)
    })();
    call.finish(result);
}

/// The kernel's own option, and what of IPv4 stands in for it.
fn set_receive_errors(mut call: Call) {
    let (number, level, name) = (call.int(0), call.int(1), call.int(2));
    call.note(|| format!("setsockopt({number}, {level}, {name})"));
    let result = (|| {
        let target = call.target(number)?;
        let kind = call.supervisor.known(&target)?;
        let value = match call.int(4) {
            ..0 => return Err(Errno::EINVAL),
            // No pointer at all is 0 (do_ipv6_setsockopt).
            4.. if call.argument(3) != 0 => call.n.read_u32(call.argument(3))?,
            0..4 => return Err(Errno::EINVAL),
            _ => 0,
        };
        sock::set_option(target.as_fd(), level, name, value as i32).map_err(errno)?;
        if kind == Some(sipcore::agent::Proto::Udp) {
            ancillary::ask_for_errors(call.supervisor, &target, value != 0)?;
        }
        Ok(0)
    })();
    call.finish(result);
}

/// An int that the packets of an AF_INET6 socket have, which are IPv4's here: the kernel's own option, and what of IPv4 stands in for it.
fn set_of_packets(mut call: Call, stand_in: i32) {
    let (number, level, name) = (call.int(0), call.int(1), call.int(2));
    call.note(|| format!("setsockopt({number}, {level}, {name})"));
    let result = (|| {
        let target = call.target(number)?;
        call.supervisor.known(&target)?;
        let v6 = call.supervisor.table.lock().get(target.cookie).is_some_and(|s| s.v6);
        let value = match call.int(4) {
            ..0 => return Err(Errno::EINVAL),
            // No pointer at all is 0 (do_ipv6_setsockopt).
            4.. if call.argument(3) != 0 => call.n.read_u32(call.argument(3))? as i32,
            0..4 if v6 => return Err(Errno::EINVAL),
            _ => 0,
        };
        sock::set_option(target.as_fd(), level, name, value).map_err(errno)?;
        if v6 {
            // -1 is the machine's own: a traffic class of 0. No packet of IPv4 is sent with a TTL of 0.
            let value = match stand_in {
                libc::IP_TOS => value.max(0),
                _ if value == 0 => 1,
                _ => value,
            };
            sock::set_option(target.as_fd(), libc::IPPROTO_IP, stand_in, value).map_err(errno)?;
        }
        Ok(0)
    })();
    call.finish(result);
}

/// IPV6_V6ONLY: kept in the table, for the kernel's socket is always dual-stack.
fn set_v6only(mut call: Call) {
    let (number, level, name) = (call.int(0), call.int(1), call.int(2));
    call.note(|| format!("setsockopt({number}, {level}, {name})"));
    let result = (|| {
        let target = call.target(number)?;
        if call.int(4) < 0 {
            return Err(Errno::EINVAL);
        }
        call.supervisor.known(&target)?;
        match call.supervisor.table.lock().get(target.cookie) {
            Some(s) if s.v6 => {}
            Some(_) => return Err(Errno::ENOPROTOOPT),
            None => return Err(Errno::EOPNOTSUPP),
        }
        let short = call.int(4) < 4;
        // No pointer at all is 0 (do_ipv6_setsockopt).
        let value = if short || call.argument(3) == 0 { 0 } else { call.n.read_u32(call.argument(3))? };
        let mut table = call.supervisor.table.lock();
        match table.get_mut(target.cookie) {
            // Once it has a port it cannot change.
            Some(s) if !short && s.bound.is_none() && matches!(s.state, State::Idle) => {
                s.v6only = value != 0;
                Ok(0)
            }
            _ => Err(Errno::EINVAL),
        }
    })();
    call.finish(result);
}
