//! AF_UNIX calls made for the program: paths are what the caller sees (its root and working directory, its rights), files are made with
//! its umask, and who is connected to hears of its user and groups.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use crate::caller::Caller;
use crate::message::{Destination, send};
use crate::sock;

/// sun_family comes before the name.
const FAMILY: usize = 2;

impl Caller {
    /// The file that `path` means to it, symbolic links followed, as a descriptor that only names the file (O_PATH).
    ///
    /// # Errors
    /// As connect(2) of that path: ENOENT, EACCES, ENOTDIR, ELOOP and the like.
    pub fn open_path(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let confined = self.is_confined();
        if !confined && let Some((directory, behind)) = self.own_proc(path)? {
            return look_up(Some(&directory), behind, OFlag::O_PATH, false);
        }
        self.looking_up(None, path, || look_up(None, path, OFlag::O_PATH, confined))
    }

    /// As [`Caller::open_path`] for what is to be changed, however long that takes: from a directory of its own, with or without following a
    /// symbolic link at the end.
    ///
    /// # Errors
    /// As openat(2); EPERM where it leads through links of /proc that are no paths, and are not named as its own: `self` is this
    /// process by them.
    pub fn open_at(&self, directory: Option<&OwnedFd>, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
        let flags = if follow { OFlag::O_PATH } else { OFlag::O_PATH | OFlag::O_NOFOLLOW };
        let confined = self.is_confined();
        let behind_link = if follow { standard_stream(path) } else { None };
        let path = behind_link.as_deref().unwrap_or(path);
        if !confined && let Some((own, behind)) = self.own_proc(path)? {
            return look_up_own(&own, behind, flags);
        }
        let work = || match confined {
            true => look_up(directory, path, flags, true),
            false => look_up_plainly(directory, path, flags),
        };
        self.looking_up(directory, path, || crate::watchdog::undisturbed(work))
    }

    /// Looks up a path as it sees it.
    fn looking_up(
        &self,
        directory: Option<&OwnedFd>,
        path: &[u8],
        work: impl FnOnce() -> Result<OwnedFd, Errno> + Send,
    ) -> Result<OwnedFd, Errno> {
        let is_anywhere = directory.is_some() || path.first() == Some(&b'/');
        if is_anywhere && self.shares_root() { self.with_rights(work) } else { self.with_view(work) }
    }

    /// bind(2): `name` is the raw struct sockaddr_un. Gives what is at a path afterwards: the socket's file, unless somebody was
    /// quicker to put another one there.
    ///
    /// # Errors
    /// What bind(2) gives.
    pub fn bind(&self, socket: &OwnedFd, name: &[u8]) -> Result<Option<OwnedFd>, Errno> {
        if name.get(FAMILY).is_none_or(|b| *b == 0) {
            return raw(socket, name, libc::bind).map(|()| None);
        }
        let path = path_in(name).to_vec();
        let directory = path.iter().rposition(|b| *b == b'/').map(|slash| path[..=slash].to_vec());
        // The name is kept as it is given, so that it cannot be said otherwise whose `self` is meant.
        let directory = directory.filter(|of| self.is_confined() || is_of_a_process(of));
        self.with_view(move || {
            if let Some(directory) = directory {
                look_up(None, &directory, OFlag::O_PATH | OFlag::O_DIRECTORY, true)?;
            }
            raw(socket, name, libc::bind)?;
            Ok(open(&path[..], OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()).ok())
        })
    }

    /// connect(2) that does not wait longer than one timer tick (1 to 10 ms): EAGAIN then, also for a socket in blocking mode.
    /// A path in `name` is looked up by this process.
    ///
    /// # Errors
    /// What connect(2) gives.
    pub fn connect(&self, socket: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        /// One at a time of each socket: two could take each other's short time limit for the socket's own.
        static ONE: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];
        self.with_rights(|| {
            if sock::is_nonblocking(socket.as_fd()).map_err(errno)? {
                return raw(socket, name, libc::connect);
            }
            let which = sock::socket_cookie(socket.as_fd()).map_err(errno)? as usize % ONE.len();
            let _one = ONE[which].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let short = sock::ShortTimeout::send(socket.as_fd()).map_err(errno)?;
            let result = raw(socket, name, libc::connect);
            short.restore().map_err(errno)?;
            match result {
                // A signal met the tick of waiting.
                Err(Errno::EINTR) => Err(Errno::EAGAIN),
                other => other,
            }
        })
    }

    /// listen(2): who connects sees its user and groups (SO_PEERCRED).
    ///
    /// # Errors
    /// What listen(2) gives.
    pub fn listen(&self, socket: &OwnedFd, backlog: i32) -> Result<(), Errno> {
        self.with_rights(|| sock::listen(socket.as_fd(), backlog))
    }

    /// sendmsg(2) to an address. A path in `name` is looked up by this process.
    ///
    /// # Errors
    /// What sendmsg(2) gives.
    pub fn send(&self, socket: &OwnedFd, name: &[u8], data: &[u8], control: &[u8], flags: i32) -> Result<usize, Errno> {
        self.with_rights(|| send(socket.as_fd(), data, Destination::Raw(name), control, flags))
    }
}

/// What is at `path`. With `plainly` ELOOP where it leads through a link that is no path (proc_pid_root(5), proc_pid_fd(5)).
fn look_up(from: Option<&OwnedFd>, path: &[u8], flags: OFlag, plainly: bool) -> Result<OwnedFd, Errno> {
    let resolve = if plainly { ResolveFlag::RESOLVE_NO_MAGICLINKS } else { ResolveFlag::empty() };
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    match from {
        Some(directory) => openat2(directory, path, how),
        None => openat2(AT_FDCWD, path, how),
    }
}

/// As [`look_up`] with `plainly`, but EPERM for such a link: ELOOP is for those that lead in a circle.
fn look_up_plainly(from: Option<&OwnedFd>, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    match look_up(from, path, flags, true) {
        Err(Errno::ELOOP) => look_up(from, path, flags, false).and(Err(Errno::EPERM)),
        other => other,
    }
}

/// What is at `path`, from the program's own directory in /proc: the first link that is no path is followed, for it is its own.
fn look_up_own(own: &OwnedFd, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let mut end = 0;
    for word in path.split(|b| *b == b'/').take_while(|word| *word != b"..") {
        end += word.len();
        let is_last = end == path.len();
        let before = if is_last { flags } else { OFlag::O_PATH };
        match look_up(Some(own), &path[..end], before, true) {
            Err(Errno::ELOOP) if is_last => return look_up(Some(own), path, flags, false),
            Err(Errno::ELOOP) => {
                let slashes = path[end..].iter().take_while(|b| **b == b'/').count();
                let behind = if end + slashes < path.len() { &path[end + slashes..] } else { b"." };
                let link = look_up(Some(own), &path[..end], OFlag::O_PATH, false)?;
                return look_up_plainly(Some(&link), behind, flags);
            }
            other if is_last => return other,
            other => drop(other?),
        }
        end += 1;
    }
    // It leads out of that directory again.
    look_up_plainly(Some(own), path, flags)
}

/// What /dev/stdin and its kin are links to.
fn standard_stream(path: &[u8]) -> Option<Vec<u8>> {
    let is_one = [&b"/dev/stdin"[..], b"/dev/stdout", b"/dev/stderr"].contains(&path);
    let target = is_one.then(|| nix::fcntl::readlink(path).ok()).flatten()?;
    Some(target.into_vec())
}

/// Whether a directory is one that each process has its own of.
fn is_of_a_process(directory: &[u8]) -> bool {
    let words: Vec<&[u8]> = directory.split(|b| *b == b'/').filter(|word| !matches!(*word, b"" | b".")).collect();
    directory.first() == Some(&b'/')
        && matches!(words[..], [b"proc", b"self" | b"thread-self", ..] | [b"dev", b"fd", ..])
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
}

/// SO_PEERPIDFD (unix(7), Linux 6.5): a descriptor of the process at the other end, as the kernel knows it.
///
/// # Errors
/// What getsockopt(2) gives: ENODATA where there is none, ESRCH when it is gone.
pub fn peer_process(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let number = sock::option(socket, libc::SOL_SOCKET, libc::SO_PEERPIDFD).map_err(errno)?;
    // SAFETY: the kernel made a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The path in a struct sockaddr_un: up to a NUL, or to its end (unix(7)).
pub fn path_in(name: &[u8]) -> &[u8] {
    let bytes = name.get(FAMILY..).unwrap_or_default();
    &bytes[..bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())]
}

/// A struct sockaddr_un for what a descriptor of this process names: whoever holds it decided about that very file.
pub fn name_of_file(file: &OwnedFd) -> Vec<u8> {
    let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
    [&(libc::AF_UNIX as libc::sa_family_t).to_ne_bytes(), path.as_bytes()].concat()
}

type AddressCall = unsafe extern "C" fn(libc::c_int, *const libc::sockaddr, libc::socklen_t) -> libc::c_int;

fn raw(socket: &OwnedFd, name: &[u8], call: AddressCall) -> Result<(), Errno> {
    let mut storage = [0u64; 16];
    let room = size_of_val(&storage);
    let length = name.len().min(room);
    for (word, bytes) in storage.iter_mut().zip(name.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(padded);
    }
    // SAFETY: bind and connect read `length` bytes of `storage`, which is aligned and at least as long.
    let r = unsafe { call(socket.as_raw_fd(), storage.as_ptr().cast(), length as libc::socklen_t) };
    Errno::result(r).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::tests::me;
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, getsockname, listen, socket};

    fn stream() -> OwnedFd {
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap()
    }

    fn name(path: &str) -> Vec<u8> {
        [&(libc::AF_UNIX as u16).to_ne_bytes(), path.as_bytes()].concat()
    }

    #[test]
    fn a_relative_name_stays_relative() {
        let s = stream();
        let file = format!("sandbox-unix-test-{}.sock", std::process::id());
        let at = me().bind(&s, &name(&file)).unwrap().unwrap();
        let bound: nix::sys::socket::UnixAddr = getsockname(s.as_raw_fd()).unwrap();
        assert_eq!(bound.path().unwrap().to_str().unwrap(), file);
        let again = me().open_path(file.as_bytes()).unwrap();
        let inode = |fd: &OwnedFd| nix::sys::stat::fstat(fd).unwrap().st_ino;
        assert_eq!(inode(&at), inode(&again));
        let by_proc = me().open_path(format!("/proc/self/cwd/{file}").as_bytes()).unwrap();
        assert_eq!(inode(&at), inode(&by_proc));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(me().open_path(file.as_bytes()).unwrap_err(), Errno::ENOENT);
        assert_eq!(me().bind(&s, &name(&file)).unwrap_err(), Errno::EINVAL);
    }

    #[test]
    fn a_full_listener_is_not_waited_for() {
        let s = stream();
        let abstract_name = name(&format!("\0sandbox-unix-full-{}", std::process::id()));
        me().bind(&s, &abstract_name).unwrap();
        listen(&s, Backlog::new(0).unwrap()).unwrap();
        let clients: Vec<OwnedFd> = (0..4).map(|_| stream()).collect();
        let results: Vec<_> = clients.iter().map(|c| me().connect(c, &abstract_name)).collect();
        assert_eq!((results[0], results[3]), (Ok(()), Err(Errno::EAGAIN)));
        let limit = nix::sys::socket::getsockopt(&clients[3], nix::sys::socket::sockopt::SendTimeout).unwrap();
        assert_eq!(limit, nix::sys::time::TimeVal::new(0, 0));
    }

    /// `self` is the program, or nobody.
    #[test]
    fn what_is_to_be_changed_is_the_programs_own() {
        let place = std::env::temp_dir().join(format!("sandbox-unix-own-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let output = std::fs::File::create(place.join("output")).unwrap();
        std::os::unix::fs::symlink("output", place.join("link")).unwrap();
        std::os::unix::fs::symlink("circle", place.join("circle")).unwrap();
        let mut child = std::process::Command::new("sleep");
        let mut child = child.arg("60").current_dir(&place).stdout(output.try_clone().unwrap()).spawn().unwrap();
        let caller = Caller::of(child.id(), || true).unwrap();
        let inode = |fd: &OwnedFd| nix::sys::stat::fstat(fd).unwrap().st_ino;
        let wanted = inode(&output.into());
        let proc = open("/proc", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        let at = |from: Option<&OwnedFd>, path: &str, follow| {
            caller.open_at(from, path.as_bytes(), follow).map(|found| inode(&found) == wanted)
        };
        let own = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/self/./fd//1", "/proc/thread-self/fd/1"];
        for path in own.into_iter().chain(["/proc/self/cwd/output", "/proc/self/cwd//./link", "output", "link"]) {
            assert_eq!(at(None, path, true), Ok(true), "{path}");
        }
        for path in ["/dev/stdout", "/proc/self/fd/1", "link"] {
            assert_eq!(at(None, path, false), Ok(false), "{path}");
        }
        let ours =
            ["/proc//self/fd/1", "/proc/./self/cwd/", "/proc/self/root/proc/self/fd/1", "/proc/self/../self/fd/1"];
        for path in ours.into_iter().chain(["/proc/self/fd/../../self/fd/1", "/dev/fd/../fd/1"]) {
            assert_eq!(at(None, path, true), Err(Errno::EPERM), "{path}");
        }
        assert_eq!(at(Some(&proc), "self/fd/1", true), Err(Errno::EPERM));
        for (path, error) in [
            ("circle", Errno::ELOOP),
            ("/proc/self/cwd/circle", Errno::ELOOP),
            ("/proc/self/cwd/none", Errno::ENOENT),
            ("/proc/self/fd/99", Errno::ENOENT),
            ("/proc/self/none/x", Errno::ENOENT),
            ("/proc/self/fd/1/", Errno::ENOTDIR),
        ] {
            assert_eq!(at(None, path, true), Err(error), "{path}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn files_are_reached_by_the_rights_of_the_caller() {
        let place = std::env::temp_dir().join(format!("sandbox-unix-rights-{}", std::process::id()));
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("x"), "").unwrap();
        std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let path = place.join("x");
        assert!(me().open_path(path.to_str().unwrap().as_bytes()).is_ok());
        // A file that is there, by the directory of its own process.
        assert!(me().open_path(format!("/proc/self//root{}", path.display()).as_bytes()).is_ok());
        std::fs::remove_dir_all(&place).unwrap();
    }
}
