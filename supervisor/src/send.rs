//! sendto, sendmsg and sendmmsg: data and control data carried on behalf of the program.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use sandbox::memory::{Address, CHUNK, ForeignSlice, MMSGHDR, STORAGE};
use sandbox::message::{self, Control, Destination};
use sandbox::sock;
use sipcore::agent::Proto;
use tokio::io::Interest;

use crate::call::{Call, Target};
use crate::connect::connect_stream;
use crate::message::{
    CONTROL_MAX, DATAGRAM_MAX, Kind, MESSAGES_MAX, UNIX_MAX, Waiting, behind, finish_send, prepare, wait, with_room,
};
use crate::unix::Credentials;
use crate::{ancillary, datagram, netlink, own, unix};

/// As many descriptors as one message may have (SCM_MAX_FD of include/net/scm.h).
const DESCRIPTORS_MAX: usize = 253;

/// One message to be sent, read from the program once.
struct Outgoing {
    address: Option<Address>,
    /// The raw struct sockaddr, for AF_UNIX.
    name: Vec<u8>,
    data: Vec<u8>,
    control: Vec<Control>,
    /// Who sends it by AF_UNIX, where that may be asked for.
    by: Option<Credentials>,
    /// Descriptors of the program, by SCM_RIGHTS: held until they are sent.
    descriptors: Vec<OwnedFd>,
    /// Bytes of `data` that are sent.
    sent: usize,
    /// Bytes of earlier pieces.
    before: usize,
    /// What of a long stream write is still in the program's memory.
    rest: Vec<ForeignSlice>,
}

impl Outgoing {
    /// Bytes that it takes up here.
    fn weight(&self) -> usize {
        let control: usize = self.control.iter().map(|c| c.data.len()).sum();
        let own = size_of::<Self>() + self.rest.len() * size_of::<ForeignSlice>();
        own + self.data.len() + self.name.len() + control
    }

    fn total(&self) -> usize {
        self.before + self.sent
    }

    /// Fetches the next piece of a long write; false when there is none, or its memory is gone.
    fn next_piece(&mut self, call: &Call) -> Result<bool, Errno> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        let Ok(data) = call.n.gather(&self.rest, CHUNK) else { return Ok(false) };
        self.before += self.sent;
        self.sent = 0;
        self.rest = behind(&self.rest, data.len());
        self.data = data;
        Ok(true)
    }
}

/// SO_SNDTIMEO, when one is set.
pub fn send_timeout(target: &Target) -> Option<Duration> {
    use nix::sys::time::TimeValLike;
    let t = nix::sys::socket::getsockopt(&target.fd, nix::sys::socket::sockopt::SendTimeout).ok()?;
    u64::try_from(t.num_microseconds()).ok().filter(|us| *us > 0).map(Duration::from_micros)
}

fn shown(address: &Option<Address>) -> String {
    address.as_ref().map_or_else(|| "no address".to_owned(), Address::to_string)
}

/// sendto(2) with an address, or of urgent data.
pub fn sendto(mut call: Call) {
    let flags = call.int(3);
    note_urgent(&call, flags);
    if call.argument(4) == 0 {
        // Trapped to be seen.
        return call.proceed();
    }
    match with_room(|room| send_now(&mut call, room)) {
        Ok(Begun::Done(n)) => call.finish(Ok(n)),
        Ok(Begun::Rest(target, kind, message)) => send_all(call, target, kind, vec![message], flags, None),
        Err(e) => call.finish(Err(e)),
    }
}

/// Once urgent data may be on its way, no socket is received from as the one that it may be ([`datagram::receive_guessed`]).
#[inline]
fn note_urgent(call: &Call, flags: i32) {
    if flags & libc::MSG_OOB != 0 {
        call.supervisor.era.end();
    }
}

/// How far sendto(2) came at once.
enum Begun {
    Done(i64),
    Rest(Target, Kind, Outgoing),
}

/// Reads all of sendto(2) at once, where `room` is enough for it, and sends a datagram that has not to wait.
fn send_now(call: &mut Call, room: &mut [u8]) -> Result<Begun, Errno> {
    let (number, flags) = (call.int(0), call.int(3));
    call.note(|| format!("sendto({number})"));
    let length = usize::try_from(call.argument(2)).unwrap_or(usize::MAX);
    let whole = [ForeignSlice { base: call.argument(1), length }];
    let data = &mut room[..if length <= DATAGRAM_MAX { length } else { 0 }];
    let mut storage = [0; STORAGE];
    let (target, name) = call.target_after(number, |memory| {
        memory.name_and_data((call.argument(4), call.argument(5)), &mut storage, (whole[0].base, data))
    })?;
    let network = call.supervisor.network.as_ref();
    // What has flows was looked at when the first one began.
    let relayed = network.is_some_and(|network| network.relays(target.cookie));
    let kind = if relayed { None } else { call.supervisor.known(&target)? };
    let name = name?;
    let address = Address::parse(name);
    call.note(|| format!("sendto({number}, {length} bytes, {flags:#x}, {address})"));
    let now = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    if length <= DATAGRAM_MAX
        && let Some(network) = network
        && (relayed || own::is_udp(&target))
    {
        match own::send_datagram(network, call, &target, name, data, &[], now) {
            Err(Errno::EAGAIN) => {}
            result => {
                target.close();
                return result.map(|n| Begun::Done(n as i64));
            }
        }
    }
    let limit = data_limit(kind, &target, length)?;
    if kind == Some(Proto::Udp) {
        match datagram::send(call, &target, &address, data, &[], now) {
            Err(Errno::EAGAIN) => {}
            result => {
                target.close();
                return result.map(|n| Begun::Done(n as i64));
            }
        }
    }
    let data = if data.len() == length { data.to_vec() } else { call.n.gather(&whole, limit)? };
    let rest = behind(&whole, data.len());
    let (name, address) = (name.to_vec(), Some(address));
    let is_unix = kind.is_none() && target.is_of(libc::AF_UNIX);
    let (by, told) = if is_unix { call.supervisor.unix.senders.of(call, &target)? } else { (None, None) };
    let (control, descriptors) = (told.into_iter().collect(), Vec::new());
    Ok(Begun::Rest(target, kind, Outgoing { address, name, data, control, by, descriptors, sent: 0, before: 0, rest }))
}

/// sendmsg(2).
pub fn sendmsg(mut call: Call) {
    let flags = call.int(2);
    note_urgent(&call, flags);
    let prepared = prepare(&mut call, "sendmsg").and_then(|(target, kind)| {
        let message = outgoing(&call, &target, kind, call.argument(1))?;
        Ok((target, kind, message))
    });
    match prepared {
        Ok((target, kind, message)) => {
            let number = call.int(0);
            call.note(|| {
                format!("sendmsg({number}, {} bytes, {flags:#x}, {})", message.data.len(), shown(&message.address))
            });
            send_all(call, target, kind, vec![message], flags, None);
        }
        Err(e) => call.finish(Err(e)),
    }
}

/// sendmmsg(2).
pub fn sendmmsg(mut call: Call) {
    let flags = call.int(3);
    note_urgent(&call, flags);
    let count = (call.argument(2) as u32 as usize).min(MESSAGES_MAX);
    let at = call.argument(1);
    let prepared = prepare(&mut call, "sendmmsg").and_then(|(target, kind)| {
        /// Bytes that one sendmmsg may make the supervisor hold.
        const HELD: usize = 4 << 20;
        let (mut messages, mut held, mut passed) = (Vec::new(), 0, 0);
        for i in 0..count as u64 {
            match outgoing(&call, &target, kind, at + i * MMSGHDR) {
                Ok(m) => {
                    held += m.weight();
                    passed += m.descriptors.len();
                    messages.push(m);
                    // Fewer than asked for are a right answer, and the supervisor's memory is not the program's.
                    if held >= HELD || passed >= DESCRIPTORS_MAX {
                        break;
                    }
                }
                Err(e) if messages.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        Ok((target, kind, messages))
    });
    match prepared {
        Ok((_, _, messages)) if messages.is_empty() => call.finish(Ok(0)),
        Ok((target, kind, messages)) => send_all(call, target, kind, messages, flags, Some(at)),
        Err(e) => call.finish(Err(e)),
    }
}

/// How much of `wanted` bytes one call takes over: a stream may send less, a datagram never.
fn data_limit(kind: Kind, target: &Target, wanted: usize) -> Result<usize, Errno> {
    let most = match kind {
        Some(Proto::Udp) => DATAGRAM_MAX,
        Some(Proto::Tcp) => return Ok(CHUNK),
        None if target.facts()?.kind == libc::SOCK_STREAM => return Ok(CHUNK),
        None if matches!(target.facts()?.domain, libc::AF_INET | libc::AF_INET6) => DATAGRAM_MAX,
        None => UNIX_MAX,
    };
    if wanted > most { Err(Errno::EMSGSIZE) } else { Ok(most) }
}

fn outgoing(call: &Call, target: &Target, kind: Kind, at: u64) -> Result<Outgoing, Errno> {
    let header = call.n.message_header(at)?;
    let (address, name) = if header.name != 0 && header.name_length > 0 {
        let name = call.n.read(header.name, header.name_length as usize)?;
        (Some(Address::parse(&name)), name)
    } else {
        (None, Vec::new())
    };
    let mut control = Vec::new();
    let mut descriptors = Vec::new();
    let mut by = None;
    if header.control != 0 && header.control_length > 0 {
        if header.control_length > CONTROL_MAX {
            return Err(Errno::ENOBUFS);
        }
        let bytes = call.n.read(header.control, header.control_length)?;
        let v6 = call.supervisor.table.lock().get(target.cookie).is_some_and(|s| s.v6);
        // In a network of the program's own it is the kernel's to judge, but for what the supervisor might and the program may not.
        let native = call.supervisor.network.is_some() && !target.is_of(libc::AF_UNIX);
        for mut m in message::parse_control(&bytes)? {
            match (m.level, m.kind) {
                (libc::SOL_SOCKET, libc::SO_MARK) if native => return Err(Errno::EPERM),
                _ if native => control.push(m),
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) if kind.is_none() => {
                    let first = descriptors.len();
                    if m.data.len() / 4 > DESCRIPTORS_MAX - first {
                        return Err(Errno::EINVAL);
                    }
                    for number in message::descriptors(&m.data) {
                        descriptors.push(call.n.descriptor(number)?);
                    }
                    use std::os::fd::AsRawFd;
                    m.data = descriptors[first..].iter().flat_map(|d| d.as_raw_fd().to_ne_bytes()).collect();
                    control.push(m);
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if kind.is_none() && target.is_of(libc::AF_UNIX) => {
                    let (given, told) = unix::given(call, &m.data)?;
                    by = Some(given);
                    control.push(told);
                }
                // The kernel would name the supervisor.
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if kind.is_none() => {}
                (libc::SOL_SOCKET, _) if kind.is_none() => return Err(Errno::EINVAL),
                (libc::SOL_SOCKET, other) if kind == Some(Proto::Tcp) => ancillary::known_to_all(other)?,
                _ if kind == Some(Proto::Udp) => control.extend(ancillary::outgoing(call.supervisor, m, v6)?),
                _ => {}
            }
        }
    }
    let data = call.n.gather(&header.slices, data_limit(kind, target, header.capacity())?)?;
    let rest = behind(&header.slices, data.len());
    if by.is_none() && kind.is_none() && target.is_of(libc::AF_UNIX) {
        let (sender, told) = call.supervisor.unix.senders.of(call, target)?;
        by = sender;
        control.extend(told);
    }
    Ok(Outgoing { address, name, data, control, by, descriptors, sent: 0, before: 0, rest })
}

/// Sends one or several messages, waiting where the program would. `lengths` is where sendmmsg wants its msg_len.
fn send_all(mut call: Call, target: Target, kind: Kind, mut messages: Vec<Outgoing>, flags: i32, lengths: Option<u64>) {
    let stream = || target.facts().is_ok_and(|facts| facts.kind == libc::SOCK_STREAM);
    let is_tcp = || target.facts().is_ok_and(|facts| facts.protocol == libc::IPPROTO_TCP);
    if flags & libc::MSG_FASTOPEN != 0 && messages[0].address.is_some() && is_tcp() {
        return fast_open(call, target, kind, messages, flags, lengths);
    }
    // Only a stream raises SIGPIPE.
    let datagram = kind == Some(Proto::Udp) || call.supervisor.network.is_some() && !stream();
    let flags = if datagram { flags | libc::MSG_NOSIGNAL } else { flags };
    let waits = flags & libc::MSG_DONTWAIT == 0 && sock::is_nonblocking(target.as_fd()).is_ok_and(|n| !n);
    let mut done = 0usize;
    let mut step = move |call: &mut Call, target: &Target| -> Result<i64, Errno> {
        while done < messages.len() {
            match send_one(call, target, kind, &mut messages[done], flags, waits) {
                Ok(n) => {
                    let Some(at) = lengths else { return Ok(n as i64) };
                    // msg_len comes after the msghdr of struct mmsghdr.
                    call.n.write(at + done as u64 * MMSGHDR + 56, &(n as u32).to_ne_bytes())?;
                    done += 1;
                    call.partial = done as i64;
                }
                Err(e) if done > 0 && (e != Errno::EAGAIN || !waits) => break,
                Err(e) => {
                    if lengths.is_none() {
                        call.partial = messages[0].total() as i64;
                    }
                    return Err(e);
                }
            }
        }
        Ok(done as i64)
    };
    match step(&mut call, &target) {
        Err(Errno::EAGAIN) if waits => {
            /// A sender cannot be told when an AF_UNIX receiver has room again.
            const RETRY: Duration = Duration::from_millis(5);
            let retry = (kind.is_none() && target.is_of(libc::AF_UNIX)).then_some(RETRY);
            let waiting = Waiting { interest: Interest::WRITABLE, limit: send_timeout(&target), retry, flags };
            wait(call, target, waiting, step);
        }
        result => {
            drop((target, step));
            finish_send(call, result, flags);
        }
    }
}

/// MSG_FASTOPEN (tcp(7)): connect(2) and then send, as the kernel does it when it has no cookie of the peer's: a session comes before the
/// first byte. Where it has to wait and may not, the connection is under way and nothing is sent.
fn fast_open(
    mut call: Call,
    target: Target,
    kind: Kind,
    mut messages: Vec<Outgoing>,
    flags: i32,
    lengths: Option<u64>,
) {
    let address = match messages[0].address.clone() {
        Some(address) if !matches!(address, Address::Unspecified(_)) && fast_open_is_on() => address,
        _ => return call.finish(Err(Errno::EOPNOTSUPP)),
    };
    // Further ones would say EISCONN.
    messages.truncate(1);
    let cookie = target.cookie;
    call.dont_wait = flags & libc::MSG_DONTWAIT != 0;
    call.then(move |call| match call.target(call.int(0)) {
        Ok(target) if target.cookie == cookie => {
            send_all(call, target, kind, messages, flags & !libc::MSG_FASTOPEN, lengths);
        }
        other => call.finish(Err(other.err().unwrap_or(Errno::EBADF))),
    });
    match call.supervisor.network.clone() {
        Some(network) => own::connect_stream(&network, call, target, &address),
        None => connect_stream(call, target, &address, false),
    }
}

/// Bit 0 of net.ipv4.tcp_fastopen: clients may.
fn fast_open_is_on() -> bool {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").unwrap_or_default();
    text.trim().parse().is_ok_and(|bits: u32| bits & 1 != 0)
}

/// One message, or the rest of it. EAGAIN when it would block.
fn send_one(
    call: &mut Call,
    target: &Target,
    kind: Kind,
    m: &mut Outgoing,
    flags: i32,
    waits: bool,
) -> Result<usize, Errno> {
    let now = flags | libc::MSG_DONTWAIT;
    let control = message::build_control(&m.control);
    if let Some(network) = call.supervisor.network.clone()
        && !target.is_of(libc::AF_UNIX)
        && m.address.is_some()
        && target.facts().is_ok_and(|facts| facts.kind != libc::SOCK_STREAM)
    {
        return own::send(&network, call, target, &m.name, &m.data, &control, now);
    }
    if kind.is_none() && netlink::is_one(target) {
        return netlink::send(call.supervisor, target, &m.name, &m.data);
    }
    match (kind, &m.address) {
        (Some(Proto::Udp), Some(address)) => datagram::send(call, target, address, &m.data, &control, now),
        (Some(Proto::Udp), None) => message::send(target.as_fd(), &m.data, Destination::Connected, &control, now),
        (None, Some(Address::Unix(_))) => unix::send(call, target, (&m.name, m.by), &m.data, &control, now),
        (None, Some(_)) if call.supervisor.network.is_none() => Err(Errno::EINVAL),
        // A stream ignores the address.
        (Some(Proto::Tcp), _) | (None, _) => loop {
            let control = message::build_control(&m.control);
            let data = &m.data[m.sent..];
            let send = || message::send(target.as_fd(), data, Destination::Connected, &control, now);
            match call.supervisor.unix.senders.send(call.supervisor, target, None, m.by, data.len(), send) {
                Ok(n) => {
                    m.sent += n;
                    // It goes with the first piece; but who sends is told of all.
                    m.descriptors.clear();
                    m.control.retain(|c| (c.level, c.kind) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS));
                    if m.sent < m.data.len() {
                        continue;
                    }
                    if !m.next_piece(call)? {
                        return Ok(m.total());
                    }
                }
                Err(Errno::EAGAIN) if m.total() > 0 && !waits => return Ok(m.total()),
                Err(e) if e != Errno::EAGAIN && m.total() > 0 => return Ok(m.total()),
                Err(e) => return Err(e),
            }
        },
    }
}
