//! recvfrom, recvmsg and recvmmsg: data and control data carried to the program.

use std::borrow::Cow;
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use sandbox::memory::{AddressOut, AddressRoom, CHUNK, ForeignSlice, MMSGHDR, MessageHeader, sockaddr_bytes};
use sandbox::message::{self, Name};
use sandbox::sock;
use sipcore::agent::Proto;
use tokio::io::Interest;

use crate::accept::receive_timeout;
use crate::call::{Call, Target, errno};
use crate::datagram::{self, Acquaintance, Guessed};
use crate::message::{
    CONTROL_MAX, DATAGRAM_MAX, Kind, MESSAGES_MAX, UNIX_MAX, Waiting, behind, prepare, wait, with_room,
};
use crate::{ancillary, netlink, own};

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
    let (number, flags) = (call.int(0), call.int(3));
    call.note(|| format!("recvfrom({number})"));
    let out = AddressOut { address: call.argument(4), length: call.argument(5) };
    let length = usize::try_from(call.argument(2)).unwrap_or(usize::MAX);
    let buffer = ForeignSlice { base: call.argument(1), length };
    match with_room(|room| receive_now(&call, room, buffer, out)) {
        Ok(Begun::Done(n)) => call.finish(Ok(n)),
        Ok(Begun::Rest(target, kind)) => {
            let room = Room { slices: vec![buffer], control: 0, out: Out::Address(out), received: 0 };
            receive_all(call, target, kind, Some(room), flags, None);
        }
        Err(e) => call.finish(Err(e)),
    }
}

/// How far recvfrom(2) came at once.
enum Begun {
    Done(i64),
    Rest(Target, Kind),
}

/// Takes the datagram that is there, and writes it with its source at once.
///
/// To ask which socket the descriptor is costs as much as to receive, and most often it is the same as a moment ago: it is received from as
/// that one, and what does not say by itself that this was right is decided when the socket was asked for.
fn receive_now(call: &Call, room: &mut [u8], buffer: ForeignSlice, out: AddressOut) -> Result<Begun, Errno> {
    let (number, flags) = (call.int(0), call.int(3));
    let data = &mut room[..buffer.length.min(DATAGRAM_MAX)];
    let mut name = AddressRoom::new(out);
    let (fd, given) = call.n.descriptor_after(number, |memory| name.read(memory))?;
    let from = given.map(|()| &mut name);
    let (mut taken, mut is_empty) = (None, false);
    if out.address != 0
        && flags & !PLAIN == 0
        && let Some(received) = receive_guessed(call, number, fd.as_fd(), data, flags)
    {
        match received {
            Ok(Guessed::Datagram(length, source)) => {
                let written = write_now(call, buffer, data, from, length, &source);
                sandbox::direct::close(fd);
                return written.map(Begun::Done);
            }
            Ok(Guessed::Taken(length, source)) => taken = Some((length, source)),
            Ok(Guessed::Nothing) => is_empty = true,
            Ok(Guessed::Another) => {}
            Err(e) => {
                sandbox::direct::close(fd);
                return Err(e);
            }
        }
    }
    let target = Target::of(fd)?;
    let kind = kind_of(call, &target)?;
    if kind == Some(Proto::Udp) && flags & libc::MSG_ERRQUEUE == 0 && out.address != 0 && !is_empty {
        let received = datagram::receive_plain(call.supervisor, &target, data, flags, taken);
        if received != Err(Errno::EAGAIN) {
            let written = received.and_then(|(length, source)| {
                write_now(call, buffer, data, from, length, source.as_deref().unwrap_or_default())
            });
            target.close();
            return written.map(Begun::Done);
        }
    }
    if let Some((length, _)) = taken.filter(|_| kind != Some(Proto::Udp)) {
        tracing::warn!(number, length, "urgent data was taken from a socket that another one's number became");
    }
    Ok(Begun::Rest(target, kind))
}

/// Writes a datagram of which `length` is what recvfrom(2) returns.
fn write_now(
    call: &Call,
    buffer: ForeignSlice,
    data: &[u8],
    from: Result<&mut AddressRoom, Errno>,
    length: usize,
    name: &[u8],
) -> Result<i64, Errno> {
    let data = &data[..length.min(data.len())];
    // The kernel looks at the length only after the data, too.
    match from {
        Ok(from) => call.n.write_message(buffer.base, data, from, name)?,
        Err(e) => return call.n.write(buffer.base, data).and(Err(e)),
    }
    Ok(length as i64)
}

/// A descriptor of a thread of the program, and the socket of UDP that it was received from by.
struct Met {
    thread: u32,
    number: i32,
    socket: Acquaintance,
}

/// So many descriptors are remembered, by their numbers.
const MET: usize = 8;
/// With these flags, a datagram is all that there is to be received.
const PLAIN: i32 = libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_NOSIGNAL;

thread_local! {
    static LAST: [RefCell<Met>; MET] =
        const { [const { RefCell::new(Met { thread: 0, number: 0, socket: Acquaintance::nobody() }) }; MET] };
}

/// Receives as from the socket of UDP that this descriptor was. None where something speaks against its still being that one.
fn receive_guessed(
    call: &Call,
    number: i32,
    fd: BorrowedFd<'_>,
    data: &mut [u8],
    flags: i32,
) -> Option<Result<Guessed, Errno>> {
    LAST.with(|last| {
        let mut met = last[number as usize % MET].borrow_mut();
        let is_it = (met.thread, met.number) == (call.n.thread, number) && met.socket.is_current(call.supervisor);
        is_it.then(|| datagram::receive_guessed(call.supervisor, &mut met.socket, fd, data, flags))
    })
}

/// As [`Supervisor::known`]. A program asks the same socket again and again, and what a socket is never changes. Nor is one that is bound
/// forgotten while it lives; others may be, and are known again when they are asked for.
fn kind_of(call: &Call, target: &Target) -> Result<Kind, Errno> {
    let (supervisor, thread, number) = (call.supervisor, call.n.thread, call.int(0));
    LAST.with(|last| {
        let mut last = last[number as usize % MET].borrow_mut();
        if last.socket.cookie() != target.cookie {
            let kind = supervisor.known(target)?;
            if kind != Some(Proto::Udp) || !supervisor.table.lock().stays(target.cookie) {
                return Ok(kind);
            }
        }
        // It lives as long as it is held here: this is its era.
        *last = Met { thread, number, socket: Acquaintance::new(supervisor, target.cookie) };
        Ok(Some(Proto::Udp))
    })
}

/// recvmsg(2).
pub fn recvmsg(mut call: Call) {
    let (number, flags) = (call.int(0), call.int(2));
    call.note(|| format!("recvmsg({number})"));
    let prepared = call
        .target_after(number, |memory| memory.message_header(call.argument(1)))
        .and_then(|(target, header)| Ok((kind_of(&call, &target)?, target, header)))
        .and_then(|(kind, target, header)| Ok((header?, target, kind)));
    let (header, target, kind) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => return call.finish(Err(e)),
    };
    if let Some(translated) = is_bare(&call, &target, kind, &header, flags) {
        match with_room(|room| message_now(&call, &target, room, &header, flags, translated)) {
            Err(Errno::EAGAIN) => {}
            result => {
                target.close();
                return call.finish(result);
            }
        }
    }
    receive_all(call, target, kind, Some(room(header)), flags, None);
}

/// Whether a message is a datagram of IP, and nothing but its data and its source can come with it; and if so, whether the source has
/// another name for the program.
fn is_bare(call: &Call, target: &Target, kind: Kind, header: &MessageHeader, flags: i32) -> Option<bool> {
    if flags & libc::MSG_ERRQUEUE != 0 || (header.control != 0 && header.control_length != 0) {
        return None;
    }
    match kind {
        Some(Proto::Udp) => (!ancillary::is_lent(call.supervisor, target)).then_some(true),
        Some(Proto::Tcp) => None,
        // In a network of the program's own.
        None => {
            let facts = target.facts().ok()?;
            (matches!(facts.domain, libc::AF_INET | libc::AF_INET6) && facts.kind == libc::SOCK_DGRAM).then_some(false)
        }
    }
}

/// The datagram that is there, written as recvmsg(2) does at once. EAGAIN when there is none.
fn message_now(
    call: &Call,
    target: &Target,
    room: &mut [u8],
    header: &MessageHeader,
    flags: i32,
    translated: bool,
) -> Result<i64, Errno> {
    let data = &mut room[..header.capacity().min(DATAGRAM_MAX)];
    let mut raw = Name::default();
    let inet;
    let (length, name, got): (_, &[u8], _) = if translated {
        let (length, source, got) = datagram::receive_bare(call.supervisor, target, data, flags)?;
        inet = source.map(|address| sockaddr_bytes(&address));
        (length, inet.as_deref().unwrap_or_default(), got)
    } else {
        let (length, got) = message::receive_bare(target.as_fd(), data, &mut raw, flags | libc::MSG_DONTWAIT)?;
        (length, &raw, got)
    };
    let data = &data[..length.min(data.len())];
    let got = got & !libc::MSG_CMSG_CLOEXEC | flags & libc::MSG_CMSG_CLOEXEC;
    call.n.finish_message(header, (&header.slices, data), name, &[], got)?;
    Ok(length as i64)
}

/// recvmmsg(2).
pub fn recvmmsg(mut call: Call) {
    let flags = call.int(3);
    let at = call.argument(1);
    let count = (call.argument(2) as u32 as usize).min(MESSAGES_MAX);
    // The order of do_recvmmsg: the time limit first.
    let limit = match call.argument(4) {
        0 => Ok(None),
        pointer => timeout(&call, pointer).map(Some),
    };
    let prepared = limit.and_then(|limit| {
        let (target, kind) = prepare(&mut call, "recvmmsg")?;
        Ok((target, kind, limit))
    });
    match prepared {
        Ok(_) if count == 0 => call.finish(Ok(0)),
        Ok((target, kind, limit)) => {
            let time = limit.map(|limit| (call.argument(4), limit));
            receive_all(call, target, kind, None, flags, Some(Many { at, count, time }));
        }
        Err(e) => call.finish(Err(e)),
    }
}

/// The vector of recvmmsg, of how many messages, and where its time limit is.
#[derive(Clone, Copy)]
struct Many {
    at: u64,
    count: usize,
    time: Option<(u64, Duration)>,
}

/// Writes what is left of the time; true when that is nothing.
fn tell_time(call: &Call, pointer: u64, left: Duration) -> Result<bool, Errno> {
    let mut timespec = [0; 16];
    timespec[..8].copy_from_slice(&left.as_secs().to_ne_bytes());
    timespec[8..].copy_from_slice(&u64::from(left.subsec_nanos()).to_ne_bytes());
    call.n.write(pointer, &timespec)?;
    Ok(left.is_zero())
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

fn room(mut header: MessageHeader) -> Room {
    let control = if header.control == 0 { 0 } else { header.control_length.min(CONTROL_MAX) };
    Room { slices: std::mem::take(&mut header.slices), control, out: Out::Header(header), received: 0 }
}

/// Receives into one room, or those that `many` says, waiting where the program would. Each header of recvmmsg is read when its turn comes,
/// as the kernel does: those of a whole vector may name 16 MiB of buffers.
fn receive_all(mut call: Call, target: Target, kind: Kind, mut room: Option<Room>, flags: i32, many: Option<Many>) {
    let time = many.and_then(|m| m.time);
    let started = Instant::now();
    let may_wait = flags & (libc::MSG_DONTWAIT | libc::MSG_ERRQUEUE) == 0;
    let waits = move |target: &Target| may_wait && !sock::is_nonblocking(target.as_fd()).unwrap_or(true);
    let mut done = 0usize;
    let one_is_enough = flags & libc::MSG_WAITFORONE != 0;
    let mut step = move |call: &mut Call, target: &Target| -> Result<i64, Errno> {
        while many.is_none_or(|many| done < many.count) {
            let flags = flags & !libc::MSG_WAITFORONE;
            let received = turn(call, &mut room, many, done).and_then(|room| {
                with_room(|scratch| receive_one(call, target, kind, room, (flags, may_wait), scratch))
            });
            let partly = room.as_ref().map_or(0, |room| room.received);
            match received {
                // MSG_WAITALL that may not wait: what is there is the answer.
                Err(Errno::EAGAIN) if many.is_none() && partly > 0 && !waits(target) => return Ok(partly as i64),
                Ok(n) => {
                    let Some(Many { at, .. }) = many else { return Ok(n as i64) };
                    room = None;
                    call.n.write(at + done as u64 * MMSGHDR + 56, &(n as u32).to_ne_bytes())?;
                    done += 1;
                    call.partial = done as i64;
                    // The time limit is looked at after each message, and only then (BUGS of recvmmsg(2)).
                    if let Some((pointer, limit)) = time
                        && tell_time(call, pointer, limit.saturating_sub(started.elapsed()))?
                    {
                        break;
                    }
                }
                // The program hears of it with the next call (do_recvmmsg).
                Err(e) if done > 0 && e != Errno::EAGAIN => {
                    match &call.supervisor.network {
                        Some(network) => own::note_error(network, call.supervisor, target.cookie, e),
                        None => {
                            if let Some(s) = call.supervisor.table.lock().get_mut(target.cookie) {
                                s.error = Some(e);
                            }
                        }
                    }
                    break;
                }
                Err(e) if done > 0 && (e != Errno::EAGAIN || one_is_enough || !waits(target)) => break,
                Err(e) => {
                    if many.is_none() {
                        call.partial = partly as i64;
                    }
                    return Err(e);
                }
            }
        }
        Ok(done as i64)
    };
    match step(&mut call, &target) {
        Err(Errno::EAGAIN) if waits(&target) => {
            let limit = receive_timeout(&target);
            let waiting = Waiting { interest: Interest::READABLE, limit, retry: None, flags: libc::MSG_NOSIGNAL };
            wait(call, target, waiting, step);
        }
        result => {
            drop(target);
            call.finish(result);
        }
    }
}

/// The room of the message whose turn it is.
fn turn<'a>(call: &Call, room: &'a mut Option<Room>, many: Option<Many>, done: usize) -> Result<&'a mut Room, Errno> {
    match (room, many) {
        (Some(room), _) => Ok(room),
        (none, Some(many)) => Ok(none.insert(self::room(call.n.message_header(many.at + done as u64 * MMSGHDR)?))),
        (None, None) => Err(Errno::EFAULT),
    }
}

/// One message into the program's memory. EAGAIN when there is none.
fn receive_one(
    call: &mut Call,
    target: &Target,
    kind: Kind,
    room: &mut Room,
    (flags, may_wait): (i32, bool),
    scratch: &mut [u8],
) -> Result<usize, Errno> {
    let capacity = room.slices.iter().fold(0usize, |n, s| n.saturating_add(s.length));
    let stream = kind == Some(Proto::Tcp) || (kind.is_none() && target.facts()?.kind == libc::SOCK_STREAM);
    let kernel = (kind.is_none() && netlink::is_one(target)).then(|| netlink::before_receive(call.supervisor));
    let all = stream && flags & libc::MSG_WAITALL != 0 && flags & libc::MSG_PEEK == 0;
    let flags = flags & !libc::MSG_WAITALL;
    let supervisor = call.supervisor;
    loop {
        let mut most = capacity.saturating_sub(room.received).min(if stream { CHUNK } else { UNIX_MAX });
        if stream {
            let waiting = sock::waiting(target.as_fd()).map_err(errno)?;
            if most > scratch.len() {
                // No more memory is asked for, and cleared, than there is data for: a large buffer may be for a short message.
                most = most.min(waiting.max(scratch.len()));
            }
            if waiting > 0 && flags & (libc::MSG_PEEK | libc::MSG_ERRQUEUE | libc::MSG_OOB) == 0 {
                most = most.min(waiting);
                match call.n.can_take(&behind(&room.slices, room.received), most) {
                    Err(_) if room.received > 0 => return Ok(room.received),
                    result => result?,
                }
            }
        }
        let mut large;
        let data = if most <= scratch.len() {
            &mut scratch[..most]
        } else {
            large = vec![0; most];
            &mut large[..]
        };
        let header = matches!(room.out, Out::Header(_));
        let more = header && kind == Some(Proto::Udp) && ancillary::is_lent(call.supervisor, target);
        // Who sent it is looked at also where the program does not: then it is known who sent the next one.
        let senders = &supervisor.unix.senders;
        let asks = kind.is_none() && senders.are_asked_for() && target.is_of(libc::AF_UNIX);
        let control = if room.control == 0 && !more && !asks { 0 } else { ancillary::ROOM };
        let receiving = asks.then(|| senders.receiving());
        let mut wanted = None;
        let received = if kind == Some(Proto::Udp) {
            if control > 0 {
                wanted = ancillary::wanted(call.supervisor, target)?;
            }
            datagram::receive(call.supervisor, target, data, control, flags)
        } else {
            let how = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
            message::receive(target.as_fd(), data, control, how).map(|got| (got, None))
        };
        let (got, seen) = match received {
            // Who waits for a datagram on a socket that is shut down gets nothing (__skb_wait_for_more_packets).
            Err(Errno::EAGAIN)
                if may_wait
                    && !stream
                    && sock::is_shut_for_reading(target.as_fd())
                    && !sock::is_nonblocking(target.as_fd()).unwrap_or(true) =>
            {
                Default::default()
            }

            other => other?,
        };
        let inet = seen.map(|address| sockaddr_bytes(&address));
        let name = match (kind, &kernel) {
            (Some(_), _) => inet.as_deref().unwrap_or_default(),
            (None, Some(kernel)) => kernel,
            (None, None) => &got.name,
        };
        let (control, cut) = ancillary::hand_over(call, kind, target, &got, (seen, wanted), room.control, flags)?;
        drop(receiving);
        if asks {
            senders.received(supervisor, target);
        }
        let filled = got.length.min(data.len());
        let data = &data[..filled];
        // Behind what earlier pieces filled.
        let rest =
            if room.received == 0 { Cow::from(&room.slices) } else { behind(&room.slices, room.received).into() };
        room.received += filled;
        if all && filled > 0 && room.received < capacity {
            call.n.scatter(&rest, data)?;
            continue;
        }
        match &room.out {
            Out::Address(out) => {
                call.n.scatter(&rest, data)?;
                call.n.write_address(*out, name)?;
            }
            Out::Header(header) => {
                let cut = if cut { libc::MSG_CTRUNC } else { 0 };
                let flags = got.flags & !libc::MSG_CMSG_CLOEXEC | flags & libc::MSG_CMSG_CLOEXEC | cut;
                call.n.finish_message(header, (&rest, data), name, &control, flags)?;
            }
        }
        return Ok(if all { room.received } else { got.length });
    }
}
