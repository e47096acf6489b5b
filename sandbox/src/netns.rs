//! A network of the program's own (design/KERNEL.md): two network namespaces joined by a pair of interfaces.
//!
//! In the *program's* there are its loopback and one interface, `sipbox0`, with the addresses by which its peers know it; everything else is
//! routed there. At the other end, in the *peers'*, every address is local: whatever the program dials is an address that the supervisor can
//! bind a socket to and stand for the peer. So no address needs translating, what the program does within its own network is the kernel's
//! business alone, and what slips past the filter finds no route out: neither namespace has one.
//!
//! Who is not privileged makes them in a user namespace. Only a process inside can open sockets in them, so one stays there, the *broker*, and
//! passes sockets to the supervisor, who owns the user namespace and may do with them as it likes.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::poll::PollFlags;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use parking_lot::Mutex;

use crate::diag::Inspector;
use crate::facts::Facts;
use crate::sock;

mod route;

use route::{End, LOOPBACK, Route};

/// The interface that leads to the peers, as the program sees it.
pub const INTERFACE: &str = "sipbox0";
/// The largest that an IPv4 packet can be: no datagram is cut in pieces.
const MTU: u32 = 65535;
/// A frame is taken by whom it is addressed to, and without ARP it is addressed to the sender's own.
const MAC: [u8; 6] = [0x02, 0x51, 0xb0, 0xc4, 0x17, 0x01];
const OUTSIDE: i32 = 2;
const INSIDE: i32 = 3;
/// The broker answers at once; the limit only makes sure that a defect hangs nobody.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long the new link may take until it carries.
const CARRIES_WITHIN: Duration = Duration::from_secs(5);
/// Sockets of peers that are made at once: to ask for one takes two changes of processes.
const AT_ONCE: i32 = 8;
/// Addresses for documentation (RFC 5737, RFC 3849), for the first packets on the new link.
const PROBES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Net {
    /// The program's: its loopback and its own addresses.
    Program,
    /// Where every other address is local.
    Peers,
}

/// Both networks, until this is dropped and the last process in them has ended.
#[derive(Debug)]
pub struct Networks {
    broker: Mutex<OwnedFd>,
    pid: Pid,
    user: Option<OwnedFd>,
    program: OwnedFd,
    /// SO_NETNS_COOKIE of the program's.
    cookie: u64,
    inspector: Inspector,
    /// TCP sockets of peers that nobody has needed yet: of IPv4, of IPv6.
    spare: [Mutex<Vec<OwnedFd>>; 2],
}

/// What a process needs to enter the program's network; valid as long as the [`Networks`] are.
#[derive(Debug, Clone, Copy)]
pub struct Entrance {
    user: Option<RawFd>,
    net: RawFd,
}

impl Entrance {
    /// Enters: the calling process must have one thread.
    ///
    /// # Safety
    /// Async-signal-safe, changes the calling process for good. The descriptors must be open.
    pub(crate) unsafe fn enter(self) -> bool {
        // SAFETY: system calls with integers.
        unsafe {
            self.user.is_none_or(|user| libc::setns(user, libc::CLONE_NEWUSER) == 0)
                && libc::setns(self.net, libc::CLONE_NEWNET) == 0
        }
    }
}

impl Networks {
    /// Makes both, with the program's own addresses. Forks: call it while this process has one thread.
    ///
    /// # Errors
    /// What was refused, in words: user namespaces are often forbidden (sysctl, AppArmor, a container's profile).
    pub fn make(v4: Ipv4Addr, v6: Ipv6Addr) -> io::Result<Networks> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let parent = Pid::this();
        // SAFETY: this process has one thread, as the caller promises, so the child may do whatever a program may.
        let pid = match unsafe { nix::unistd::fork() }? {
            ForkResult::Child => {
                drop(ours);
                broker(&theirs, parent, v4, v6);
                // SAFETY: ends this process without running any of the parent's exit handlers.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => child,
        };
        drop(theirs);
        let made = Self::receive(ours, pid);
        if made.is_err() {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
        made
    }

    fn receive(broker: OwnedFd, pid: Pid) -> io::Result<Networks> {
        socket::setsockopt(&broker, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_WITHIN.as_secs() as i64))?;
        let mut fds = take(&broker)?.into_iter();
        let program = fds.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        let user = fds.next();
        let asked = |kind, protocol| one(ask(&broker, Net::Program, [libc::AF_NETLINK, kind, protocol], 1)?);
        let inspector = Inspector::on(asked(libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG)?)?;
        let cookie = sock::netns_cookie(inspector.as_fd())?;
        Ok(Networks { broker: Mutex::new(broker), pid, user, program, cookie, inspector, spare: Default::default() })
    }

    /// The broker: a child of this process that is none of the program's.
    pub fn broker(&self) -> Pid {
        self.pid
    }

    /// For the process of the program.
    pub fn entrance(&self) -> Entrance {
        Entrance { user: self.user.as_ref().map(AsRawFd::as_raw_fd), net: self.program.as_raw_fd() }
    }

    /// A new socket in one of the networks, close-on-exec: the arguments are those of socket(2).
    ///
    /// # Errors
    /// What socket(2) gives; ETIMEDOUT, EPIPE or ECONNRESET when the broker is gone.
    pub fn socket(&self, net: Net, family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
        one(ask(&self.broker.lock(), net, [family, kind, protocol], 1)?)
    }

    /// A new TCP socket in the form of [`sock::tcp4`].
    ///
    /// # Errors
    /// As [`Networks::socket`].
    pub fn tcp(&self, net: Net, v6: bool) -> io::Result<OwnedFd> {
        let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        self.socket(net, family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, libc::IPPROTO_TCP)
    }

    /// As [`Networks::tcp`], for a connection of a peer's to the program: one of those that were made in advance, if there is one left.
    pub fn spare_of_peer(&self, v6: bool) -> Option<OwnedFd> {
        self.spare[usize::from(v6)].lock().pop()
    }

    /// As [`Networks::spare_of_peer`], and makes several when there is none. Waits for the broker.
    ///
    /// # Errors
    /// As [`Networks::socket`].
    pub fn of_peer(&self, v6: bool) -> io::Result<OwnedFd> {
        if let Some(spare) = self.spare_of_peer(v6) {
            return Ok(spare);
        }
        let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = [family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, libc::IPPROTO_TCP];
        let broker = self.broker.lock();
        // Whoever asked meanwhile made some for the others too: of each kind fewer than AT_ONCE are kept.
        if let Some(spare) = self.spare_of_peer(v6) {
            return Ok(spare);
        }
        let mut made = ask(&broker, Net::Peers, kind, AT_ONCE)?;
        let one = made.pop().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.spare[usize::from(v6)].lock().append(&mut made);
        Ok(one)
    }

    /// A new UDP socket, non-blocking.
    ///
    /// # Errors
    /// As [`Networks::socket`].
    pub fn udp(&self, net: Net, v6: bool) -> io::Result<OwnedFd> {
        let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        self.socket(net, family, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, libc::IPPROTO_UDP)
    }

    /// Whether a socket is of the program's network. False for what is no socket.
    pub fn owns(&self, fd: BorrowedFd<'_>) -> bool {
        sock::netns_cookie(fd).is_ok_and(|cookie| cookie == self.cookie)
    }

    /// As [`Networks::owns`], for a socket that is known already.
    pub fn has(&self, facts: &Facts) -> bool {
        facts.network == Some(self.cookie)
    }

    /// The sockets of the program's network.
    pub fn inspector(&self) -> &Inspector {
        &self.inspector
    }

    /// A socket for [`crate::diag::DestroyWatch::on`] and other questions about the program's network (sock_diag(7)).
    ///
    /// # Errors
    /// As [`Networks::socket`].
    pub fn diag(&self) -> io::Result<OwnedFd> {
        self.socket(Net::Program, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG)
    }
}

impl Networks {
    /// Ends the broker: there are no further sockets. Once is enough.
    pub fn close(&self) {
        // The number of one that was reaped already (ECHILD) may be another's.
        let is_there = || matches!(waitpid(self.pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive));
        if !is_there() {
            return;
        }
        // It ends with its connection, if it runs: somebody may have stopped it, and who asks it has the lock until it answers.
        let _ = kill(self.pid, Signal::SIGCONT);
        let _ = socket::shutdown(self.broker.lock().as_raw_fd(), socket::Shutdown::Both);
        if let Ok(process) = crate::processes::descriptor_of(self.pid.as_raw()) {
            let _ = sock::wait_for(process.as_fd(), PollFlags::POLLIN, ANSWER_WITHIN);
        }
        if is_there() {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        self.close();
    }
}

/// Asks for so many sockets, with these arguments of socket(2). Where there can be no more descriptors there are fewer.
fn ask(broker: &OwnedFd, net: Net, [family, kind, protocol]: [i32; 3], count: i32) -> io::Result<Vec<OwnedFd>> {
    let words = [i32::from(net == Net::Peers), family, kind, protocol, count];
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    uninterrupted(|| socket::send(broker.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL))?;
    take(broker).inspect_err(|e| {
        // What it answers too late is not to be taken for the answer to the next question.
        if e.raw_os_error() == Some(libc::ETIMEDOUT) {
            let _ = socket::shutdown(broker.as_raw_fd(), socket::Shutdown::Both);
        }
    })
}

/// The watchdog interrupts who waits for a broker that cannot run for a while: the answer comes all the same, and belongs to this question.
fn uninterrupted<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    let end = Instant::now() + ANSWER_WITHIN;
    loop {
        match call() {
            Err(nix::Error::EINTR) if Instant::now() < end => {}
            Err(nix::Error::EINTR | nix::Error::EAGAIN) => return Err(nix::Error::ETIMEDOUT),
            other => return other,
        }
    }
}

/// One of those that the broker has given.
fn one(mut of: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    of.pop().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// What the broker answers: descriptors, or an errno with words.
fn take(broker: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    // Waits until it is there, or the broker is gone.
    uninterrupted(|| socket::recv(broker.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK))?;
    let mut bytes = [0u8; 256];
    let mut control = cmsg_space!([RawFd; AT_ONCE as usize]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let got = socket::recvmsg::<()>(broker.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            // SAFETY: recvmsg made these descriptors, and nobody else owns them.
            fds.extend(numbers.into_iter().map(|n| unsafe { OwnedFd::from_raw_fd(n) }));
        }
    }
    let length = got.bytes;
    match bytes[..length].first_chunk::<4>().map(|b| i32::from_ne_bytes(*b)) {
        Some(0) => Ok(fds),
        Some(code) if length > 4 => {
            let kind = io::Error::from_raw_os_error(code).kind();
            Err(io::Error::new(kind, String::from_utf8_lossy(&bytes[4..length]).into_owned()))
        }
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn give(to: &OwnedFd, answer: &io::Result<Vec<OwnedFd>>, words: bool) -> nix::Result<usize> {
    let (bytes, fds) = match answer {
        Ok(fds) => (0i32.to_ne_bytes().to_vec(), fds.iter().map(AsRawFd::as_raw_fd).collect()),
        Err(e) => {
            let code = e.raw_os_error().unwrap_or(libc::EPERM);
            let text = if words { e.to_string() } else { String::new() };
            ([&code.to_ne_bytes()[..], &text.as_bytes()[..text.len().min(250)]].concat(), Vec::new())
        }
    };
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    socket::sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)
}

/// The life of the broker: makes the networks, then sockets in them, until the supervisor ends.
fn broker(to: &OwnedFd, parent: Pid, v4: Ipv4Addr, v6: Ipv6Addr) {
    // The terminal's signals are not for it, nor is what the program's streams lead to.
    let _ = nix::unistd::setsid();
    if let Ok(nothing) = File::options().read(true).write(true).open("/dev/null") {
        for stream in 0..3 {
            // SAFETY: two open descriptors; the standard streams of this process are nobody else's.
            unsafe { libc::dup2(nothing.as_raw_fd(), stream) };
        }
    }
    let made = make(v4, v6);
    let _ = nix::sys::prctl::set_dumpable(false);
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    if nix::unistd::getppid() != parent {
        return;
    }
    let (answer, networks) = match made {
        Ok((user, program, peers)) => {
            let kept = program.try_clone().and_then(|p| Ok([p, peers.try_clone()?]));
            let user = user.map(OwnedFd::from);
            (Ok([Some(OwnedFd::from(program)), user].into_iter().flatten().collect()), kept.ok())
        }
        Err(e) => (Err(e), None),
    };
    if give(to, &answer, true).is_err() {
        return;
    }
    drop(answer);
    let Some([program, peers]) = networks else { return };
    let mut inside = None;
    let mut words = [0u8; 20];
    while socket::recv(to.as_raw_fd(), &mut words, MsgFlags::empty()) == Ok(words.len()) {
        let word = |i: usize| i32::from_ne_bytes([words[i], words[i + 1], words[i + 2], words[i + 3]]);
        let net = if word(0) == 0 { Net::Program } else { Net::Peers };
        let moved = if inside == Some(net) {
            Ok(())
        } else {
            setns(if net == Net::Program { &program } else { &peers }, CloneFlags::CLONE_NEWNET)
        };
        let answer = moved.map_err(io::Error::from).and_then(|()| {
            inside = Some(net);
            let mut made = Vec::new();
            for _ in 0..word(16) {
                // SAFETY: three integers go in.
                let number = unsafe { libc::socket(word(4), word(8) | libc::SOCK_CLOEXEC, word(12)) };
                if number < 0 && !made.is_empty() {
                    break;
                }
                nix::errno::Errno::result(number)?;
                // SAFETY: socket gave a new descriptor that nothing else owns.
                let fd = unsafe { OwnedFd::from_raw_fd(number) };
                if net == Net::Peers && word(4) == libc::AF_INET6 {
                    free(&fd)?;
                }
                made.push(fd);
            }
            Ok(made)
        });
        if give(to, &answer, false).is_err() {
            return;
        }
    }
}

/// Of IPv6 an address that is local by a route alone is not enough for bind(2) (IPV6_FREEBIND, ipv6(7)).
fn free(fd: &OwnedFd) -> io::Result<()> {
    const IPV6_FREEBIND: libc::c_int = 78;
    sock::set_option(fd.as_fd(), libc::IPPROTO_IPV6, IPV6_FREEBIND, 1)
}

fn said(what: &str, e: impl Into<io::Error>) -> io::Error {
    let e = e.into();
    io::Error::new(e.kind(), format!("{what}: {e}"))
}

/// The user namespace, where one was needed, the program's network namespace and the peers'. The calling process ends up in the latter.
fn make(v4: Ipv4Addr, v6: Ipv6Addr) -> io::Result<(Option<File>, File, File)> {
    let here = |name: &str| {
        let path = format!("/proc/self/ns/{name}");
        File::open(&path).map_err(|e| said(&path, e))
    };
    let user = if is_privileged() {
        None
    } else {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| said("a user namespace cannot be made", e))?;
        for (file, line) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{uid} {uid} 1")),
            ("gid_map", format!("{gid} {gid} 1")),
        ] {
            std::fs::write(format!("/proc/self/{file}"), line)
                .map_err(|e| said(&format!("a user namespace cannot be used ({file})"), e))?;
        }
        Some(here("user")?)
    };
    let fresh = || unshare(CloneFlags::CLONE_NEWNET).map_err(|e| said("a network namespace cannot be made", e));
    fresh()?;
    let peers = here("net")?;
    fresh()?;
    let program = here("net")?;

    let outside = End { name: INTERFACE, index: OUTSIDE, mac: MAC, mtu: MTU };
    let inside = End { name: "peers", index: INSIDE, mac: MAC, mtu: MTU };
    let route = Route::open()?;
    route.up(LOOPBACK)?;
    route.pair(&outside, &inside, peers.as_raw_fd())?;
    // Refused where there is no IPv6, and then there is no address either.
    let _ = route.no_link_local(OUTSIDE);
    route.up(OUTSIDE)?;
    let mut own = vec![IpAddr::V4(v4)];
    // Where IPv6 is switched off there is none.
    if sock::probe(libc::AF_INET6, libc::SOCK_DGRAM, 0).is_ok() && route.address(OUTSIDE, v6.into()).is_ok() {
        own.push(v6.into());
    }
    route.address(OUTSIDE, v4.into())?;
    for ip in &own {
        route.everything_to(OUTSIDE, *ip)?;
    }
    make_own();

    let move_to = |net: &File| setns(net, CloneFlags::CLONE_NEWNET).map_err(|e| said("setns", e));
    move_to(&peers)?;
    let route = Route::open()?;
    route.up(LOOPBACK)?;
    route.up(INSIDE)?;
    for ip in &own {
        route.everything_is_here(*ip, INSIDE)?;
    }
    make_own();
    for (ip, probe) in own.iter().zip(PROBES) {
        move_to(&peers)?;
        let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let there = socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        if ip.is_ipv6() {
            free(&there)?;
        }
        sock::bind(there.as_fd(), &(probe, 0).into())?;
        let there = UdpSocket::from(there);
        move_to(&program)?;
        until_it_carries(&UdpSocket::bind((*ip, 0))?, &there)?;
    }
    move_to(&peers)?;
    Ok((user, program, peers))
}

/// Whether this process may make network namespaces as it is (CAP_SYS_ADMIN), and interfaces in them (CAP_NET_ADMIN).
pub(crate) fn is_privileged() -> bool {
    const NEEDED: u64 = 1 << 21 | 1 << 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).map(str::trim).unwrap_or_default();
    u64::from_str_radix(effective, 16).is_ok_and(|mask| mask & NEEDED == NEEDED)
}

/// In this network a port below 1024 is nobody's privilege; and no more connections keep their ports after their end (TIME-WAIT) than leave some to
/// be found: no segment of theirs is on its way for a minute here (tcp_max_tw_buckets; the kernel's own limit is far above the number of
/// ports). (Where /proc/sys is read-only, it is as it was.)
fn make_own() {
    const KEPT: &str = "4096";
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let _ = std::fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", KEPT);
}

/// A new link drops what it is given until the kernel has noticed that it has a carrier.
fn until_it_carries(here: &UdpSocket, there: &UdpSocket) -> io::Result<()> {
    let peer: SocketAddr = there.local_addr()?;
    for socket in [here, there] {
        socket.set_read_timeout(Some(Duration::from_millis(2)))?;
    }
    let end = Instant::now() + CARRIES_WITHIN;
    let mut byte = [0];
    loop {
        let _ = here.send_to(&byte, peer);
        if let Ok((_, from)) = there.recv_from(&mut byte) {
            there.send_to(&byte, from)?;
            if here.recv_from(&mut byte).is_ok() {
                return Ok(());
            }
        }
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the interfaces of the new network carry nothing"));
        }
    }
}
