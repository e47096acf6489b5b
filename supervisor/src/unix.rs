//! AF_UNIX sockets with an address. A program reaches the sockets that this run bound; a socket of somebody else is a
//! way out (a daemon behind it may open connections for the program), so it is refused.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use sandbox::unix::{Action, act};

use crate::call::{Call, Target};

/// What an AF_UNIX address names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Name {
    /// Device and inode of a socket file.
    File(u64, u64),
    /// The bytes of an abstract name.
    Abstract(Vec<u8>),
}

/// AF_UNIX names of one run that are remembered: later ones are bound, but not reached.
const NAMES: usize = 65_536;
/// sun_family comes before the name.
const FAMILY: usize = 2;

fn raw_address(call: &Call) -> Result<Vec<u8>, Errno> {
    let length = usize::try_from(call.int(2)).map_err(|_| Errno::EINVAL)?;
    // sizeof(struct sockaddr_un).
    if length > 110 {
        return Err(Errno::EINVAL);
    }
    call.n.read(call.argument(1), length)
}

/// The file as the caller sees it.
fn path_of(thread: u32, name: &[u8]) -> Option<PathBuf> {
    let bytes = name.get(FAMILY..)?;
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&bytes[..end]));
    Some(PathBuf::from(format!("/proc/{thread}/cwd")).join(path))
}

fn identify(thread: u32, name: &[u8]) -> Option<Name> {
    match name.get(FAMILY) {
        Some(0) => Some(Name::Abstract(name[FAMILY..].to_vec())),
        Some(_) => {
            use std::os::unix::fs::MetadataExt;
            let m = std::fs::metadata(path_of(thread, name)?).ok()?;
            Some(Name::File(m.dev(), m.ino()))
        }
        None => None,
    }
}

/// bind(2) of an AF_UNIX socket.
pub fn bind(call: Call, target: Target) {
    let result = raw_address(&call).and_then(|name| {
        act(call.n.thread, &target.fd, &name, &Action::Bind)?;
        // Without a name the kernel chose an abstract one.
        let bound = if name.len() <= FAMILY {
            use std::os::fd::AsFd;
            sandbox::message::raw_name(target.as_fd(), false)?
        } else {
            name
        };
        let mut known = call.supervisor.unix_bound.lock();
        if known.len() < NAMES
            && let Some(n) = identify(call.n.thread, &bound)
        {
            known.insert(n);
        }
        Ok(0)
    });
    drop(target);
    call.finish(result);
}

/// The name under which this run's own socket is reached without looking the path up again, or the refusal.
fn own_name(call: &Call, name: &[u8]) -> Result<(Vec<u8>, Option<std::fs::File>), Errno> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let supervisor = &call.supervisor;
    let refuse = || {
        let shown = String::from_utf8_lossy(&name[FAMILY.min(name.len())..]).replace('\0', "@");
        supervisor.sessions.say_once(&format!("unix:{shown}"), || {
            format!(
                "the program tried the AF_UNIX socket {shown}, which no program of this run made: refused, since what listens \
                 there could reach the network for it"
            )
        });
        Errno::EACCES
    };
    match name.get(FAMILY) {
        None => Err(Errno::EINVAL),
        Some(0) => {
            let wanted = Name::Abstract(name[FAMILY..].to_vec());
            if supervisor.unix_bound.lock().contains(&wanted) { Ok((name.to_vec(), None)) } else { Err(refuse()) }
        }
        Some(_) => {
            let path = path_of(call.n.thread, name).ok_or(Errno::EINVAL)?;
            let file = std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(nix::libc::O_PATH | nix::libc::O_CLOEXEC)
                .open(&path)
                .map_err(crate::call::errno)?;
            let m = file.metadata().map_err(crate::call::errno)?;
            if !supervisor.unix_bound.lock().contains(&Name::File(m.dev(), m.ino())) {
                return Err(refuse());
            }
            // Checked and used by one descriptor: the path may be another's by now.
            let mut fixed = name[..FAMILY].to_vec();
            fixed.extend_from_slice(format!("/proc/self/fd/{}", file.as_raw_fd()).as_bytes());
            fixed.push(0);
            Ok((fixed, Some(file)))
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
    match own_name(&call, &name) {
        Ok((fixed, file)) => {
            // A full backlog blocks: not on a notification thread.
            let runtime = call.supervisor.runtime.clone();
            runtime.spawn_blocking(move || {
                let result = act(call.n.thread, &target.fd, &fixed, &Action::Connect);
                drop((file, target));
                call.finish(result.map(|n| n as i64));
            });
        }
        Err(e) => call.finish(Err(e)),
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
    let (fixed, _file) = own_name(call, name)?;
    act(call.n.thread, &target.fd, &fixed, &Action::Send(data.to_vec(), control, flags))
}
