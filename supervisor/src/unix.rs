//! AF_UNIX sockets with an address. A program reaches the sockets that this run bound; a socket of somebody else is a
//! way out (a daemon behind it may open connections for the program), so it is refused.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use sandbox::memory::Address;
use sandbox::unix::{Action, Interrupter, act, act_until};

use crate::call::{Call, Held, Target};
use crate::send::send_timeout;
use crate::supervisor::Supervisor;

/// The AF_UNIX sockets that this run bound.
#[derive(Default)]
pub struct Names {
    /// By device and inode of the socket file.
    files: HashMap<(u64, u64), File>,
    /// Abstract names.
    abstracts: HashSet<Vec<u8>>,
}

/// A socket file of this run.
struct File {
    /// Keeps the inode: its number cannot become another file's while this is open.
    pin: std::fs::File,
    /// The struct sockaddr_un that the socket was bound to.
    name: Vec<u8>,
    /// The inode of the socket itself, not of its file.
    socket: u64,
}

/// Names of one run that are remembered: later sockets are bound, but not reached.
const NAMES: usize = 1024;
/// sun_family comes before the name.
const FAMILY: usize = 2;

fn raw_address(call: &Call) -> Result<Vec<u8>, Errno> {
    let length = usize::try_from(call.int(2)).map_err(|_| Errno::EINVAL)?;
    // sizeof(struct sockaddr_un).
    if length > 110 {
        return Err(Errno::EINVAL);
    }
    let name = call.n.read(call.argument(1), length)?;
    let family = name.first_chunk::<2>().map_or(0, |f| i32::from(u16::from_ne_bytes(*f)));
    if matches!(family, nix::libc::AF_UNIX | nix::libc::AF_UNSPEC) { Ok(name) } else { Err(Errno::EINVAL) }
}

/// The file as the caller sees it.
fn path_of(thread: u32, name: &[u8]) -> Option<PathBuf> {
    let bytes = name.get(FAMILY..)?;
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&bytes[..end]));
    Some(PathBuf::from(format!("/proc/{thread}/cwd")).join(path))
}

impl Names {
    fn remember(&mut self, thread: u32, name: Vec<u8>, socket: u64) {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        match name.get(FAMILY) {
            Some(0) if self.abstracts.len() < NAMES => {
                self.abstracts.insert(name);
            }
            Some(first) if *first != 0 => {
                if self.files.len() >= NAMES {
                    self.files.retain(|_, f| f.pin.metadata().is_ok_and(|m| m.nlink() > 0));
                }
                let Some(pin) = path_of(thread, &name).and_then(|p| open_path(&p).ok()) else { return };
                let Ok(m) = pin.metadata() else { return };
                if self.files.len() < NAMES && m.file_type().is_socket() {
                    self.files.insert((m.dev(), m.ino()), File { pin, name, socket });
                }
            }
            _ => {}
        }
    }
}

/// A descriptor that only names the file: no symbolic link, nothing opened.
fn open_path(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = nix::libc::O_PATH | nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW;
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Whether the connected socket's peer is the socket of this run that was meant: its name is the one remembered, and what listens was
/// made to listen here (the supervisor calls listen(2) for the program, so SO_PEERCRED names the supervisor). A datagram socket
/// is the very one that was bound: between bind() and the look at its file the program may have put another's file there.
fn is_own_peer(supervisor: &Supervisor, socket: std::os::fd::BorrowedFd<'_>, to: &Reach) -> bool {
    let datagram = sandbox::sock::socket_type(socket).is_ok_and(|t| t == nix::libc::SOCK_DGRAM);
    if let Some(network) = &supervisor.network {
        // By its file, or its name in a network of its own, it is the one that was meant; a datagram socket is of that network, too.
        return if datagram { network.has_peer_of(socket) } else { peer_is_listened_for(socket) };
    }
    let trimmed = |n: &[u8]| n.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    let name = &to.name;
    let same_name = |peer: &[u8]| match name.get(FAMILY) {
        Some(0) => peer == name,
        _ => peer[..trimmed(peer)] == name[..trimmed(name)],
    };
    sandbox::message::raw_name(socket, true).is_ok_and(|peer| same_name(&peer))
        && if datagram {
            // Where the kernel does not tell (CONFIG_UNIX_DIAG), the name is what there is.
            sandbox::unix_diag::peer_inode(socket).map_or_else(|e| e == Errno::ENOENT, |peer| peer == to.socket)
        } else {
            peer_is_listened_for(socket)
        }
}

/// Whether the supervisor called listen(2) for the peer of a stream: so SO_PEERCRED names it.
fn peer_is_listened_for(socket: std::os::fd::BorrowedFd<'_>) -> bool {
    use nix::sys::socket::{getsockopt, sockopt};
    getsockopt(&socket, sockopt::PeerCredentials).is_ok_and(|c| c.pid() == std::process::id() as i32)
}

/// bind(2) of an AF_UNIX socket.
pub fn bind(call: Call, target: Target) {
    let result = raw_address(&call).and_then(|name| {
        act(call.n.thread, &target.fd, &name, &Action::Bind)?;
        // Without a name the kernel chose an abstract one.
        let bound = if name.len() <= FAMILY { sandbox::message::raw_name(target.as_fd(), false)? } else { name };
        call.supervisor.unix_bound.lock().remember(
            call.n.thread,
            bound,
            sandbox::processes::inode(target.as_fd()).unwrap_or(0),
        );
        Ok(0)
    });
    drop(target);
    call.finish(result);
}

/// How a socket of this run is reached without looking its path up again.
struct Reach {
    /// The struct sockaddr_un to use.
    fixed: Vec<u8>,
    /// What it was bound to.
    name: Vec<u8>,
    /// Its inode; 0 when it is not known, by an abstract name.
    socket: u64,
    _file: Option<std::fs::File>,
}

/// The socket of this run that `name` means, or the refusal.
fn reach(call: &Call, name: &[u8], datagram: bool) -> Result<Reach, Errno> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    let supervisor = &call.supervisor;
    let refuse = || {
        let shown = Address::Unix(name[FAMILY.min(name.len())..].to_vec());
        supervisor.sessions.say_once(&format!("{shown}"), || {
            format!(
                "the program tried the AF_UNIX socket {shown}, which no program of this run made: refused, since what \
                 listens there could reach the network for it"
            )
        });
        Errno::EACCES
    };
    match name.get(FAMILY) {
        None => Err(Errno::EINVAL),
        // Who has an abstract name is known only when a stream is connected to it.
        // In a network of the program's own, all abstract names are.
        Some(0)
            if supervisor.network.is_some() || !datagram && supervisor.unix_bound.lock().abstracts.contains(name) =>
        {
            Ok(Reach { fixed: name.to_vec(), name: name.to_vec(), socket: 0, _file: None })
        }
        Some(0) => Err(refuse()),
        Some(_) => {
            let path = path_of(call.n.thread, name).ok_or(Errno::EINVAL)?;
            // Symbolic links are followed here; whatever they lead to is checked by what it is.
            let path = std::fs::canonicalize(&path).map_err(crate::call::errno)?;
            let file = open_path(&path).map_err(crate::call::errno)?;
            let m = file.metadata().map_err(crate::call::errno)?;
            let known = match &supervisor.network {
                // The program binds natively there: whose file it is the kernel knows.
                Some(network) if network.inspector().has_socket_file(m.dev(), m.ino())? => Some((Vec::new(), 0)),
                Some(_) => None,
                None => {
                    let names = supervisor.unix_bound.lock();
                    names.files.get(&(m.dev(), m.ino())).map(|known| (known.name.clone(), known.socket))
                }
            };
            let Some((bound, socket)) = known else { return Err(refuse()) };
            // Checked and used by one descriptor: the path may be another's by now.
            let mut fixed = name[..FAMILY].to_vec();
            fixed.extend_from_slice(format!("/proc/self/fd/{}", file.as_raw_fd()).as_bytes());
            fixed.push(0);
            Ok(Reach { fixed, name: bound, socket, _file: Some(file) })
        }
    }
}

/// connect(2) of an AF_UNIX socket.
pub fn connect(call: Call, target: Target) {
    let name = match raw_address(&call) {
        Ok(n) => n,
        Err(e) => return call.finish(Err(e)),
    };
    // AF_UNSPEC dissolves a datagram association.
    if name.first_chunk::<2>().is_some_and(|f| u16::from_ne_bytes(*f) == nix::libc::AF_UNSPEC as u16) {
        let result = act(call.n.thread, &target.fd, &name, &Action::Connect);
        drop(target);
        return call.finish(result.map(|n| n as i64));
    }
    let datagram = sandbox::sock::socket_type(target.as_fd()).is_ok_and(|t| t == nix::libc::SOCK_DGRAM);
    match reach(&call, &name, datagram) {
        Ok(to) => {
            let runtime = call.supervisor.runtime.clone();
            runtime.spawn(connect_to(call, target, to));
        }
        Err(e) => call.finish(Err(e)),
    }
}

/// The kernel's connect() waits while the listener has no room: on a thread of its own, which is interrupted with the program's.
async fn connect_to(call: Call, target: Target, to: Reach) {
    /// Between two tries to interrupt the thread: it may not have come to its wait yet.
    const AGAIN: Duration = Duration::from_millis(2);
    let (limit, socket) = (send_timeout(&target), target.cookie);
    let interrupter = Arc::new(Interrupter::default());
    let (thread, own, supervisor) = (call.n.thread, interrupter.clone(), call.supervisor.clone());
    let mut work = tokio::task::spawn_blocking(move || {
        let mut result = act_until(&own, thread, &target.fd, &to.fixed, &Action::Connect);
        if result.is_ok() && !is_own_peer(&supervisor, target.as_fd(), &to) {
            let _ = nix::sys::socket::shutdown(target.fd.as_raw_fd(), nix::sys::socket::Shutdown::Both);
            let _ = sandbox::sock::disconnect(target.as_fd());
            result = Err(Errno::EACCES);
        }
        result
    });
    let ended = call.hold(socket, &mut work).await;
    let (result, gone) = match ended {
        Held::Done(result) => (result, false),
        Held::Interrupted | Held::Gone => loop {
            interrupter.interrupt();
            if let Ok(result) = tokio::time::timeout(AGAIN, &mut work).await {
                break (result, matches!(ended, Held::Gone));
            }
        },
    };
    match result.unwrap_or(Err(Errno::EIO)) {
        _ if gone => {}
        Err(Errno::EINTR) => call.interrupted(limit),
        result => call.finish(result.map(|n| n as i64)),
    }
}

/// One message to an AF_UNIX address.
pub fn send(
    call: &Call,
    target: &Target,
    name: &[u8],
    data: &[u8],
    control: Vec<u8>,
    flags: i32,
) -> Result<usize, Errno> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let to = reach(call, name, true)?;
    // A socket of our own asks first who is there; a socket file belongs to one socket for good.
    let probe = match &call.supervisor.network {
        Some(network) => network.unix_datagram().map_err(crate::call::errno)?,
        None => socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?,
    };
    act(call.n.thread, &probe, &to.fixed, &Action::Connect)?;
    if !is_own_peer(&call.supervisor, probe.as_fd(), &to) {
        return Err(Errno::EACCES);
    }
    act(call.n.thread, &target.fd, &to.fixed, &Action::Send(data.to_vec(), control, flags))
}
