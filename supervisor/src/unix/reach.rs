//! Where an AF_UNIX address leads: looked up once, as the program sees it, and used as what was found.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};
use policy::{LocalDecision, UnixName};
use sandbox::caller::Caller;
use sandbox::unix::{name_of_file, path_in};

use super::FAMILY;
use super::names::{alike, is_socket};
use crate::call::Target;
use crate::supervisor::Supervisor;

/// A socket that may be reached, and how. What is held here keeps it what it was when that was decided.
pub struct Reach {
    /// The struct sockaddr_un to use.
    pub name: Vec<u8>,
    /// What a socket of this run was bound to.
    pub bound: Vec<u8>,
    /// Its inode; 0 when it is not known.
    pub socket: u64,
    pub is_own: bool,
    pub is_certain: bool,
    /// What may be missing of the program's own abstract names: those of the machine.
    apart: Option<String>,
    _held: Option<OwnedFd>,
}

impl Reach {
    fn own(name: Vec<u8>) -> Reach {
        let bound = name.clone();
        Reach { name, bound, socket: 0, is_own: true, is_certain: true, apart: None, _held: None }
    }

    fn of_others(name: Vec<u8>, held: Option<OwnedFd>) -> Reach {
        Reach { is_own: false, _held: held, ..Reach::own(name) }
    }

    /// Says once why nobody is there.
    pub fn explain(&self, supervisor: &Supervisor, caller: &Caller, e: Errno) {
        if let Some(name) = self.apart.as_ref().filter(|_| e == Errno::ECONNREFUSED) {
            say_once(supervisor, caller, &format!("apart:{name}"), || {
                format!(
                    "no program of this run has the AF_UNIX name {name}, and abstract names of others are out of reach of --isolation \
                     netns; with --isolation seccomp and [local] unix in the policy they are not"
                )
            });
        }
    }
}

/// Says something once about what the caller tried. One that was killed meanwhile, maybe with the program that listened, has no question.
fn say_once(supervisor: &Supervisor, caller: &Caller, key: &str, words: impl FnOnce() -> String) {
    if caller.is_waiting() {
        supervisor.sessions.say_once(key, words);
    }
}

/// The socket that `name` means to the caller, or the refusal.
pub fn reach(supervisor: &Supervisor, caller: &Caller, target: &Target, name: &[u8]) -> Result<Reach, Errno> {
    match name.get(FAMILY) {
        None => Err(Errno::EINVAL),
        Some(0) => abstract_name(supervisor, caller, target, name),
        Some(_) => path(supervisor, caller, name),
    }
}

/// An abstract name for messages: without what a struct sockaddr_un is filled up with.
fn shown(name: &[u8]) -> String {
    let name = name.get(FAMILY + 1..).unwrap_or_default();
    let end = name.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    format!("@{}", String::from_utf8_lossy(&name[..end]).escape_default())
}

fn abstract_name(supervisor: &Supervisor, caller: &Caller, target: &Target, name: &[u8]) -> Result<Reach, Errno> {
    if let Some(network) = supervisor.network.as_ref().filter(|network| network.owns(target.as_fd())) {
        // The names of this network are the program's own.
        let socket = network.inspector().socket_named(&name[FAMILY..])?.unwrap_or(0);
        return Ok(Reach { socket, apart: Some(shown(name)), ..Reach::own(name.to_vec()) });
    }
    let holder = supervisor.unix.names.lock().holder(name);
    // As long as the socket that has the name is held here, nobody else can take it.
    if let Some(held) = holder.and_then(|holder| holder.find()) {
        let socket = sandbox::processes::inode(held.as_fd()).unwrap_or(0);
        return Ok(Reach { socket, _held: Some(held), ..Reach::own(name.to_vec()) });
    }
    match sandbox::unix_diag::socket_named(&name[FAMILY..]) {
        // Where nobody is there is nothing to refuse.
        Ok(None) => return Err(Errno::ECONNREFUSED),
        // The program's own, of a process that ends: it listens no more.
        Ok(Some(socket)) if holder.is_some_and(|holder| holder.inode() == socket) => return Err(Errno::ECONNREFUSED),
        _ => {}
    }
    let decision = supervisor.policy.unix(UnixName::Abstract(&name[FAMILY + 1..]));
    allowed(supervisor, caller, decision, || format!("{}, which no program of this run has", shown(name)))?;
    Ok(Reach::of_others(name.to_vec(), None))
}

fn path(supervisor: &Supervisor, caller: &Caller, name: &[u8]) -> Result<Reach, Errno> {
    let file = caller.open_path(path_in(name))?;
    let stat = fstat(&file)?;
    if !is_socket(&stat) {
        return Err(Errno::ECONNREFUSED);
    }
    let to = name_of_file(&file);
    let known = match &supervisor.network {
        // The program binds natively there: whose file it is the kernel knows.
        Some(network) => {
            let socket = network.inspector().socket_of_file(stat.st_dev, stat.st_ino)?;
            // Where a socket of the machine's is alike in that it is not the program's to reach.
            let mistakable = socket.is_some() && alike(&file, &stat)? > 0;
            socket.filter(|_| !mistakable).map(|socket| (Vec::new(), socket, true))
        }
        None => supervisor.unix.names.lock().file(&stat).map(|f| (f.name.clone(), f.socket, f.is_certain)),
    };
    if let Some((bound, socket, is_certain)) = known {
        return Ok(Reach { bound, socket, is_certain, _held: Some(file), ..Reach::own(to) });
    }
    of_others(supervisor, caller, &file, &stat)?;
    Ok(Reach::of_others(to, Some(file)))
}

/// Whether the policy lets the program reach this socket file of somebody else. A file that the program may move or link to another place is
/// still the one that its socket was bound to: both names must be allowed.
fn of_others(supervisor: &Supervisor, caller: &Caller, file: &OwnedFd, stat: &FileStat) -> Result<(), Errno> {
    let where_it_is = |file: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let path = where_it_is(file).map_err(crate::call::errno)?;
    not_of_sipbox(supervisor, caller, &path)?;
    let decision = supervisor.policy.unix(UnixName::Path(path.as_os_str().as_bytes()));
    let bound = sandbox::unix_diag::name_of_file(stat.st_dev, stat.st_ino);
    if let (LocalDecision::Refuse { advice, .. }, Ok(None)) = (&decision, &bound) {
        // A file that a daemon left behind, which programs take for the sign that they are to start one.
        say_once(supervisor, caller, &format!("unix:{}", path.display()), || {
            format!(
                "the program tried the AF_UNIX socket {}, and nobody listens there (ECONNREFUSED), unless it is somebody in another network \
                 namespace; {advice}",
                path.display()
            )
        });
        return Err(Errno::ECONNREFUSED);
    }
    allowed(supervisor, caller, decision, || format!("{}, which no program of this run made", path.display()))?;
    let Ok(Some(bound)) = bound else { return Ok(()) };
    let bound = &bound[..bound.iter().position(|b| *b == 0).unwrap_or(bound.len())];
    if bound.first() != Some(&b'/') || bound == path.as_os_str().as_bytes() {
        return Ok(());
    }
    // The daemon may have bound it by symbolic links.
    let there = std::fs::canonicalize(OsStr::from_bytes(bound));
    let bound = there.map_or_else(|_| bound.to_vec(), |there| there.as_os_str().as_bytes().to_vec());
    not_of_sipbox(supervisor, caller, Path::new(OsStr::from_bytes(&bound)))?;
    let decision = supervisor.policy.unix(UnixName::Path(&bound));
    let shown = String::from_utf8_lossy(&bound).escape_default().to_string();
    allowed(supervisor, caller, decision, || format!("{}, which was bound as {shown}", path.display()))
}

/// EACCES for sockets in sipbox's own directory, whatever the policy says: what listens there tells of all runs of the user, or acts for them.
fn not_of_sipbox(supervisor: &Supervisor, caller: &Caller, path: &Path) -> Result<(), Errno> {
    let own = crate::hub::directory().ok().and_then(|directory| std::fs::canonicalize(directory).ok());
    if !own.is_some_and(|own| path.starts_with(own)) {
        return Ok(());
    }
    say_once(supervisor, caller, &format!("unix:{}", path.display()), || {
        format!("the program tried {}, a socket of sipbox itself, which no policy lets it reach", path.display())
    });
    Err(Errno::EACCES)
}

/// EACCES for what the policy refuses, and the words once.
fn allowed(
    supervisor: &Supervisor,
    caller: &Caller,
    decision: LocalDecision,
    what: impl Fn() -> String,
) -> Result<(), Errno> {
    match decision {
        LocalDecision::Allow { .. } => Ok(()),
        LocalDecision::Refuse { rule, advice } => {
            say_once(supervisor, caller, &format!("unix:{}", what()), || {
                format!(
                    "the program tried the AF_UNIX socket {}, and {rule} refuses it, since what listens there could reach the network \
                     for it; {advice}",
                    what()
                )
            });
            Err(Errno::EACCES)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_one_writes_them() {
        let name = |bytes: &[u8]| [&(nix::libc::AF_UNIX as u16).to_ne_bytes(), bytes].concat();
        assert_eq!(shown(&name(b"\0bus-1")), "@bus-1");
        assert_eq!(shown(&name(&[&b"\0bus-1"[..], &[0; 101]].concat())), "@bus-1");
        assert_eq!(shown(&name(b"\0a\0b\n\0")), "@a\\u{0}b\\n");
        assert_eq!(shown(&name(b"\0")), "@");
        assert_eq!(shown(&name(b"")), "@");
    }
}
