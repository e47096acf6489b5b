//! recvfrom, recvmsg and recvmmsg: data and control data carried to the program.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use sandbox::memory::{AddressOut, CHUNK, ForeignSlice, MMSGHDR, MessageHeader, sockaddr_bytes};
use sandbox::message::{self, Control};
use sandbox::sock;
use sipcore::agent::Proto;
use tokio::io::Interest;

use crate::accept::receive_timeout;
use crate::call::{Call, Target, errno};
use crate::datagram;
use crate::message::{CONTROL_MAX, Kind, MESSAGES_MAX, UNIX_MAX, Waiting, behind, prepare, wait};

/// Where one received message goes.
struct Room {
    slices: Vec<ForeignSlice>,
    control: usize,
    out: Out,
    received: usize,
}

enum Out {
    Address(AddressOut),
    Header(MessageHeader),
}

/// recvfrom(2) with an address.
pub fn recvfrom(mut call: Call) {
    let flags = call.int(3);
    match prepare(&mut call, "recvfrom") {
        Ok((target, kind)) => {
            let length = usize::try_from(call.argument(2)).unwrap_or(usize::MAX);
            let room = Room {
                slices: vec![ForeignSlice { base: call.argument(1), length }],
                control: 0,
                out: Out::Address(AddressOut { address: call.argument(4), length: call.argument(5) }),
                received: 0,
            };
            receive_all(call, target, kind, vec![room], flags, None);
        }
        Err(e) => call.finish(Err(e)),
    }
}

/// recvmsg(2).
pub fn recvmsg(mut call: Call) {
    let flags = call.int(2);
    let prepared =
        prepare(&mut call, "recvmsg").and_then(|(target, kind)| Ok((room(&call, call.argument(1))?, target, kind)));
    match prepared {
        Ok((room, target, kind)) => receive_all(call, target, kind, vec![room], flags, None),
        Err(e) => call.finish(Err(e)),
    }
}

/// recvmmsg(2).
pub fn recvmmsg(mut call: Call) {
    let flags = call.int(3);
    let at = call.argument(1);
    let count = (call.argument(2) as u32 as usize).min(MESSAGES_MAX);
    let prepared = prepare(&mut call, "recvmmsg").and_then(|(target, kind)| {
        let mut rooms = Vec::new();
        for i in 0..count as u64 {
            rooms.push(room(&call, at + i * MMSGHDR)?);
        }
        let limit = match call.argument(4) {
            0 => None,
            pointer => Some(timeout(&call, pointer)?),
        };
        Ok((target, kind, rooms, limit))
    });
    match prepared {
        Ok((_, _, rooms, _)) if rooms.is_empty() => call.finish(Ok(0)),
        Ok((target, kind, rooms, limit)) => receive_all(call, target, kind, rooms, flags, Some((at, limit))),
        Err(e) => call.finish(Err(e)),
    }
}

/// A struct timespec of the program.
fn timeout(call: &Call, pointer: u64) -> Result<Duration, Errno> {
    let raw = call.n.read(pointer, 16)?;
    let word = |o: usize| {
        let mut w = [0; 8];
        w.copy_from_slice(&raw[o..o + 8]);
        i64::from_ne_bytes(w)
    };
    let (seconds, nanos) = (u64::try_from(word(0)), u32::try_from(word(8)));
    match (seconds, nanos) {
        (Ok(s), Ok(n)) if n < 1_000_000_000 => Ok(Duration::new(s, n)),
        _ => Err(Errno::EINVAL),
    }
}

fn room(call: &Call, at: u64) -> Result<Room, Errno> {
    let header = call.n.message_header(at)?;
    let control = if header.control == 0 { 0 } else { header.control_length.min(CONTROL_MAX) };
    Ok(Room { slices: header.slices.clone(), control, out: Out::Header(header), received: 0 })
}

/// Receives into one or several rooms, waiting where the program would. `many` is recvmmsg's vector and time limit.
fn receive_all(
    mut call: Call,
    target: Target,
    kind: Kind,
    mut rooms: Vec<Room>,
    flags: i32,
    many: Option<(u64, Option<Duration>)>,
) {
    let nonblocking = sock::is_nonblocking(target.as_fd()).unwrap_or(true);
    let waits = flags & (libc::MSG_DONTWAIT | libc::MSG_ERRQUEUE) == 0 && !nonblocking;
    let limit = match many {
        Some((_, Some(limit))) => Some(limit),
        _ => receive_timeout(&target),
    };
    let mut done = 0usize;
    let one_is_enough = flags & libc::MSG_WAITFORONE != 0;
    let mut step = move |call: &mut Call, target: &Target| -> Result<i64, Errno> {
        while done < rooms.len() {
            match receive_one(call, target, kind, &mut rooms[done], flags & !libc::MSG_WAITFORONE) {
                // MSG_WAITALL that may not wait: what is there is the answer.
                Err(Errno::EAGAIN) if !waits && many.is_none() && rooms[0].received > 0 => {
                    return Ok(rooms[0].received as i64);
                }
                Ok(n) => {
                    let Some((at, _)) = many else { return Ok(n as i64) };
                    call.n.write(at + done as u64 * MMSGHDR + 56, &(n as u32).to_ne_bytes())?;
                    done += 1;
                    call.partial = done as i64;
                }
                Err(e) if done > 0 && (e != Errno::EAGAIN || !waits || one_is_enough) => break,
                Err(e) => {
                    if many.is_none() {
                        call.partial = rooms[0].received as i64;
                    }
                    return Err(e);
                }
            }
        }
        Ok(done as i64)
    };
    match step(&mut call, &target) {
        Err(Errno::EAGAIN) if waits => {
            let waiting = Waiting { interest: Interest::READABLE, limit, retry: None, flags: libc::MSG_NOSIGNAL };
            wait(call, target, waiting, step);
        }
        result => {
            drop(target);
            call.finish(result);
        }
    }
}

/// One message into the program's memory. EAGAIN when there is none.
fn receive_one(call: &mut Call, target: &Target, kind: Kind, room: &mut Room, flags: i32) -> Result<usize, Errno> {
    let capacity = room.slices.iter().fold(0usize, |n, s| n.saturating_add(s.length));
    let stream = kind == Some(Proto::Tcp)
        || (kind.is_none() && sock::socket_type(target.as_fd()).map_err(errno)? == libc::SOCK_STREAM);
    let all = stream && flags & libc::MSG_WAITALL != 0 && flags & libc::MSG_PEEK == 0;
    let flags = flags & !libc::MSG_WAITALL;
    loop {
        let most = capacity.saturating_sub(room.received).min(if stream { CHUNK } else { UNIX_MAX });
        let mut data = vec![0; most];
        let (got, seen) = if kind == Some(Proto::Udp) {
            datagram::receive(&call.supervisor, target, &mut data, room.control, flags)?
        } else {
            let how = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
            (message::receive(target.as_fd(), &mut data, room.control, how)?, None)
        };
        let name = match (kind, seen) {
            (Some(_), Some(address)) => sockaddr_bytes(&address),
            (Some(_), None) => Vec::new(),
            (None, _) => got.name.clone(),
        };
        let control = hand_over(call, kind, &got, seen, flags)?;
        let filled = got.length.min(data.len());
        write_out(call, room, &data[..filled])?;
        room.received += filled;
        if all && filled > 0 && room.received < capacity {
            continue;
        }
        match &room.out {
            Out::Address(out) => call.n.write_address(*out, &name)?,
            Out::Header(header) => {
                let flags = got.flags & !libc::MSG_CMSG_CLOEXEC | flags & libc::MSG_CMSG_CLOEXEC;
                call.n.finish_message(header, &name, &control, flags)?;
            }
        }
        return Ok(if all { room.received } else { got.length });
    }
}

/// The address at which a datagram arrived (ip(7), ipv6(7)): the program's own, as it is to see it.
fn name_arrival(m: &mut Control, local: IpAddr) {
    match (m.level, m.kind, local.to_canonical()) {
        // struct in_pktinfo: interface, local address, destination address.
        (libc::IPPROTO_IP, libc::IP_PKTINFO, IpAddr::V4(ip)) if m.data.len() >= 12 => {
            m.data[4..8].copy_from_slice(&ip.octets());
            m.data[8..12].copy_from_slice(&ip.octets());
        }
        // struct in6_pktinfo: destination address, interface.
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, ip) if m.data.len() >= 16 => {
            let ip = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            m.data[..16].copy_from_slice(&ip.octets());
        }
        _ => {}
    }
}

/// Writes behind what earlier pieces filled.
fn write_out(call: &Call, room: &Room, data: &[u8]) -> Result<(), Errno> {
    if room.received == 0 {
        return call.n.scatter(&room.slices, data);
    }
    call.n.scatter(&behind(&room.slices, room.received), data)
}

/// Control data as the program is to see it: descriptors are installed in it, their numbers rewritten.
fn hand_over(
    call: &Call,
    kind: Kind,
    got: &message::Received,
    seen: Option<SocketAddr>,
    flags: i32,
) -> Result<Vec<u8>, Errno> {
    if got.control.is_empty() {
        return Ok(Vec::new());
    }
    if kind.is_some() {
        let Some(peer) = seen else { return Ok(got.control.clone()) };
        let mut messages = message::parse_control(&got.control)?;
        let local = call.supervisor.local_for(&peer, 0).ip();
        messages.iter_mut().for_each(|m| name_arrival(m, local));
        return Ok(message::build_control(&messages));
    }
    let mut out = Vec::new();
    for (mut m, descriptors) in message::adopt(got).map_err(errno)? {
        if !descriptors.is_empty() {
            let mut numbers = Vec::new();
            for d in &descriptors {
                let number = call.n.reply.add_descriptor(d.as_fd(), flags & libc::MSG_CMSG_CLOEXEC != 0)?;
                numbers.extend_from_slice(&number.to_ne_bytes());
            }
            m.data = numbers;
        }
        out.push(m);
    }
    Ok(message::build_control(&out))
}
