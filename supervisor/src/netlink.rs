//! AF_NETLINK sockets (rtnetlink(7)) and the ioctls of netdevice(7): answered with the program's own two interfaces.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockType;
use parking_lot::Mutex;
use sandbox::memory::STORAGE;
use sandbox::netlink::{Answerer, name_of, port_of};
use tokio::io::Interest;

use crate::call::{Call, Target, errno};
use crate::interfaces::{IFREQ, Interfaces};
use crate::supervisor::Supervisor;

/// The kernel's part in netlink.
pub struct Netlink {
    interfaces: Interfaces,
    /// Made for the first socket.
    answerer: Mutex<Option<Arc<Answerer>>>,
    /// Names that programs gave by bind(2), by the ports that the kernel chose.
    named: Mutex<HashMap<u32, Named>>,
}

/// What bind(2) gave a socket.
#[derive(Debug, Clone, Copy)]
struct Named {
    port: u32,
    groups: u32,
}

/// Sockets whose names are remembered at once.
const NAMED: usize = 1024;
/// struct sockaddr_nl: family, padding, port, groups.
const NAME: usize = 12;

impl Netlink {
    pub fn new(interfaces: Interfaces) -> Netlink {
        Netlink { interfaces, answerer: Mutex::default(), named: Mutex::default() }
    }

    fn answerer(&self, supervisor: &Arc<Supervisor>) -> Result<Arc<Answerer>, Errno> {
        let mut made = self.answerer.lock();
        if let Some(answerer) = &*made {
            return Ok(answerer.clone());
        }
        let answerer = Arc::new(Answerer::new().map_err(errno)?);
        *made = Some(answerer.clone());
        supervisor.runtime.spawn(serve(supervisor.clone(), answerer.clone()));
        Ok(answerer)
    }

    /// Whether the program has an interface of this number.
    pub fn has_interface(&self, index: i32) -> bool {
        self.interfaces.has(index)
    }

    /// The name by which the program knows the socket at `port`.
    fn known_as(&self, port: u32) -> Named {
        self.named.lock().get(&port).copied().unwrap_or(Named { port, groups: 0 })
    }

    /// Names the socket that the kernel has at `port`, as netlink_bind does (net/netlink/af_netlink.c): its groups may change, its port may not.
    fn name(&self, port: u32, wanted: Named) -> Result<(), Errno> {
        let mut named = self.named.lock();
        if let Some(now) = named.get_mut(&port) {
            if wanted.port != now.port {
                return Err(Errno::EINVAL);
            }
            if wanted.groups != 0 || now.groups != 0 {
                now.groups = wanted.groups;
            }
            return Ok(());
        }
        let chosen = if wanted.port == 0 { port } else { wanted.port };
        if named.len() >= NAMED || named.values().any(|other| other.port == chosen) {
            // Of those that are closed nobody has told.
            let live = sandbox::netlink::ports().map_err(errno)?;
            named.retain(|port, _| live.contains(port));
        }
        if named.values().any(|other| other.port == chosen) {
            return Err(Errno::EADDRINUSE);
        }
        if named.len() >= NAMED {
            return Err(Errno::ENOBUFS);
        }
        named.insert(port, Named { port: chosen, ..wanted });
        Ok(())
    }

    fn answer(&self, answerer: &Answerer, request: &[u8], port: u32) {
        for datagram in self.interfaces.answer(request, self.known_as(port).port) {
            if let Err(error) = answerer.answer(port, &datagram) {
                tracing::debug!(%error, "an answer of netlink was lost");
                return;
            }
        }
    }

    /// Answers what was sent by calls that are not trapped. One request at a time, so that the answers of one are not mixed with
    /// those of another.
    fn answer_pending(&self) {
        let made = self.answerer.lock();
        let Some(answerer) = &*made else { return };
        while let Ok((request, port)) = answerer.request() {
            self.answer(answerer, &request, port);
        }
    }
}

/// Answers what the program sends without being trapped and then waits for with poll(2).
async fn serve(supervisor: Arc<Supervisor>, answerer: Arc<Answerer>) {
    let ended: Result<(), Errno> = sandbox::ready::when_ready(answerer.as_fd(), Interest::READABLE, || {
        supervisor.netlink.answer_pending();
        Err(Errno::EAGAIN)
    })
    .await;
    tracing::error!(?ended, "requests by netlink cannot be followed any more");
}

/// Whether the socket is one of these.
pub fn is_one(target: &Target) -> bool {
    target.facts().is_ok_and(|f| (f.domain, f.protocol) == (libc::AF_NETLINK, libc::NETLINK_USERSOCK))
}

/// socket(2) of AF_NETLINK.
pub fn socket(mut call: Call) {
    let (family, kind, protocol) = (call.int(0), call.int(1), call.int(2));
    call.note(|| format!("socket({family}, {kind:#x}, {protocol})"));
    let supervisor = call.supervisor;
    if let policy::LocalDecision::Refuse { rule, advice } = supervisor.policy.netlink() {
        supervisor.sessions.say_once("netlink", || {
            format!(
                "the program asked for a socket of AF_NETLINK (interfaces and routes), and {rule} refuses it; {advice}"
            )
        });
        return call.finish(Err(Errno::EACCES));
    }
    let made = match (kind & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK), protocol) {
        (libc::SOCK_RAW, libc::NETLINK_ROUTE) => Ok(SockType::Raw),
        (libc::SOCK_DGRAM, libc::NETLINK_ROUTE) => Ok(SockType::Datagram),
        (libc::SOCK_RAW | libc::SOCK_DGRAM, _) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    };
    let made = made.and_then(|made| {
        supervisor.netlink.answerer(supervisor)?.socket(made, kind & libc::SOCK_NONBLOCK != 0).map_err(errno)
    });
    match made {
        Ok(fd) => {
            if let Some(port) = port_of(fd.as_fd()) {
                // One that is closed may have had it.
                supervisor.netlink.named.lock().remove(&port);
            }
            call.install(fd, kind & libc::SOCK_CLOEXEC != 0, |fd, _| sandbox::direct::close(fd));
        }
        Err(e) => call.finish(Err(e)),
    }
}

/// A struct sockaddr_nl that the program passed.
fn name_in(name: &[u8]) -> Result<Named, Errno> {
    if name.len() < NAME {
        return Err(Errno::EINVAL);
    }
    match u16::from_ne_bytes([name[0], name[1]]) as i32 {
        libc::AF_NETLINK => {
            let word = |at: usize| u32::from_ne_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
            Ok(Named { port: word(4), groups: word(8) })
        }
        _ => Err(Errno::EINVAL),
    }
}

fn name_argument(call: &Call) -> Result<Named, Errno> {
    let length = usize::try_from(call.int(2)).map_err(|_| Errno::EINVAL)?;
    if length > STORAGE {
        return Err(Errno::EINVAL);
    }
    name_in(&call.n.read(call.argument(1), length)?)
}

/// bind(2): a port of the program's choice is kept here; groups are joined in name only, for nothing ever changes.
pub fn bind(call: Call, target: Target) {
    let result = name_argument(&call).and_then(|wanted| {
        let port = port_of(target.as_fd()).ok_or(Errno::EBADF)?;
        call.supervisor.netlink.name(port, wanted).map(|()| 0)
    });
    drop(target);
    call.finish(result);
}

/// connect(2): there is nobody but the kernel.
pub fn connect(call: Call, target: Target) {
    let result = name_argument(&call);
    drop(target);
    call.finish(result.map(|_| 0));
}

/// getsockname(2), or with `peer` getpeername(2): the kernel's port is 0.
pub fn name(supervisor: &Supervisor, target: &Target, peer: bool) -> Vec<u8> {
    match port_of(target.as_fd()).filter(|_| !peer).map(|port| supervisor.netlink.known_as(port)) {
        Some(Named { port, groups }) => name_of(port, groups),
        None => name_of(0, 0),
    }
}

/// One request, answered before the call returns: its sender may look for the answer without waiting.
pub fn send(supervisor: &Supervisor, target: &Target, name: &[u8], data: &[u8]) -> Result<usize, Errno> {
    if !name.is_empty() && name_in(name)?.port != 0 {
        return Err(Errno::ECONNREFUSED);
    }
    let netlink = &supervisor.netlink;
    let port = port_of(target.as_fd()).ok_or(Errno::EBADF)?;
    netlink.answer_pending();
    if let Some(answerer) = &*netlink.answerer.lock() {
        netlink.answer(answerer, data, port);
    }
    Ok(data.len())
}

/// Before something is received: what was asked before must have been answered. Returns the sender's name: the kernel's.
pub fn before_receive(supervisor: &Supervisor) -> Vec<u8> {
    supervisor.netlink.answer_pending();
    name_of(0, 0)
}

/// ioctl(2) of netdevice(7).
pub fn ioctl(mut call: Call) {
    let (number, request, at) = (call.int(0), u64::from(call.argument(1) as u32), call.argument(2));
    call.note(|| format!("ioctl({number}, {request:#x})"));
    let result = (|| {
        call.target(number).map_err(|e| if e == Errno::ENOTSOCK { Errno::ENOTTY } else { e })?;
        let interfaces = &call.supervisor.netlink.interfaces;
        if request != libc::SIOCGIFCONF {
            let mut ifreq = [0; IFREQ];
            call.n.read_into(at, &mut ifreq)?;
            call.n.write(at, &interfaces.ioctl(request, &ifreq)?)?;
            return Ok(0);
        }
        // struct ifconf: a length, and behind its padding a pointer.
        let ifconf = call.n.read(at, 16)?;
        let given = i32::from_ne_bytes([ifconf[0], ifconf[1], ifconf[2], ifconf[3]]);
        let mut pointer = [0; 8];
        pointer.copy_from_slice(&ifconf[8..]);
        let pointer = u64::from_ne_bytes(pointer);
        let mut all = interfaces.configuration();
        if pointer != 0 {
            let room = usize::try_from(given).map_err(|_| Errno::EINVAL)?;
            all.truncate(room / IFREQ * IFREQ);
            call.n.write(pointer, &all)?;
        }
        call.n.write(at, &(all.len() as i32).to_ne_bytes())?;
        Ok(0)
    })();
    call.finish(result);
}
