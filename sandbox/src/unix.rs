//! AF_UNIX calls made for the program: paths are what the caller sees (its root and working directory, its rights), files are made with
//! its umask, and who is connected to hears of its user and groups. A thread of its own takes these on where they are not ours.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use crate::message::{Destination, send};
use crate::sock;

/// sun_family comes before the name.
const FAMILY: usize = 2;

/// A thread of the program, as the files that it names and the sockets that it speaks to see it (proc(5): status).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    thread: u32,
    /// Its process.
    pub process: i32,
    /// Effective user and group.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Real, effective and saved ones.
    pub uids: Vec<u32>,
    /// Real, effective and saved ones.
    pub gids: Vec<u32>,
    groups: Vec<u32>,
    umask: Mode,
}

impl Caller {
    /// The thread with this id. ESRCH when it is gone.
    pub fn of(thread: u32) -> Result<Caller, Errno> {
        let status = std::fs::read_to_string(format!("/proc/{thread}/status")).map_err(|_| Errno::ESRCH)?;
        Caller::read(thread, &status).ok_or(Errno::ESRCH)
    }

    fn read(thread: u32, status: &str) -> Option<Caller> {
        let line = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::split_ascii_whitespace);
        // Real, effective, saved and file system ids.
        let all = |name: &str| Some(line(name)?.take(3).filter_map(|id| id.parse().ok()).collect::<Vec<u32>>());
        let (uids, gids) = (all("Uid:")?, all("Gid:")?);
        let umask = libc::mode_t::from_str_radix(line("Umask:")?.next()?, 8).ok()?;
        let mut groups: Vec<u32> = line("Groups:")?.filter_map(|g| g.parse().ok()).collect();
        groups.sort_unstable();
        Some(Caller {
            thread,
            process: line("Tgid:")?.next()?.parse().ok()?,
            uid: *uids.get(1)?,
            gid: *gids.get(1)?,
            uids,
            gids,
            groups,
            umask: Mode::from_bits_truncate(umask),
        })
    }

    /// Whether user and groups are those of this process. One that is not root cannot take on others, and has a program of its own user.
    fn is_us(&self) -> bool {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        if !uid.is_root() {
            return true;
        }
        let mut groups: Vec<u32> =
            nix::unistd::getgroups().unwrap_or_default().into_iter().map(nix::unistd::Gid::as_raw).collect();
        groups.sort_unstable();
        (uid.as_raw(), gid.as_raw()) == (self.uid, self.gid) && groups == self.groups
    }

    /// Whether its root directory is that of this process.
    fn shares_root(&self) -> bool {
        let root = |of: &str| std::fs::metadata(format!("/proc/{of}/root/")).map(|m| (m.dev(), m.ino()));
        matches!((root("self"), root(&self.thread.to_string())), (Ok(ours), Ok(theirs)) if ours == theirs)
    }

    /// Whether it may see less than this process. A thread of this process may go by /proc/PID to the directories of this process, whatever
    /// its own root and rights are (proc_fd_permission, ptrace_may_access), and so is not to be led there.
    fn is_confined(&self) -> bool {
        !self.is_us() || !self.shares_root()
    }

    /// Runs `work` with its user and groups.
    fn with_rights<T: Send>(&self, work: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
        if self.is_us() {
            return work();
        }
        elsewhere(|| {
            self.take_on_rights()?;
            work()
        })
    }

    /// Runs `work` also with its root and working directory and its umask. EACCES when it has another root directory and this process may
    /// not go there.
    fn with_view<T: Send>(&self, work: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
        elsewhere(|| {
            let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let cwd = open(format!("/proc/{}/cwd", self.thread).as_str(), directory, Mode::empty())?;
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            if !self.shares_root() {
                let entered = nix::unistd::chroot(format!("/proc/{}/root", self.thread).as_str());
                entered.map_err(|_| Errno::EACCES)?;
            }
            nix::unistd::fchdir(&cwd)?;
            nix::sys::stat::umask(self.umask);
            if !self.is_us() {
                self.take_on_rights()?;
            }
            work()
        })
    }

    /// Of the calling thread alone, for good.
    fn take_on_rights(&self) -> Result<(), Errno> {
        let (uid, gid) = (self.uid as libc::c_ulong, self.gid as libc::c_ulong);
        // SAFETY: setgroups reads as many ids as the length says; the others take integers. The system calls, unlike the functions of
        // the C library, change one thread: this one, which ends with its work.
        unsafe {
            Errno::result(libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()))?;
            Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            Errno::result(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        }
        // A change of user may make the process open to others of that user again (fs.suid_dumpable).
        nix::sys::prctl::set_dumpable(false)
    }

    /// `/proc/self` and `/proc/thread-self` of its own, where a path begins with them: looked up here they would be ours.
    fn own_proc(&self, path: &[u8]) -> Vec<u8> {
        let process = format!("/proc/{}/", self.process);
        let thread = format!("/proc/{}/task/{}/", self.process, self.thread);
        let descriptors = format!("/proc/{}/fd/", self.process);
        for (before, own) in [("/proc/self/", process), ("/proc/thread-self/", thread), ("/dev/fd/", descriptors)] {
            if let Some(rest) = path.strip_prefix(before.as_bytes()) {
                return [own.as_bytes(), rest].concat();
            }
        }
        path.to_vec()
    }

    /// The file that `path` means to it, symbolic links followed, as a descriptor that only names the file (O_PATH).
    ///
    /// # Errors
    /// As connect(2) of that path: ENOENT, EACCES, ENOTDIR, ELOOP and the like.
    pub fn open_path(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let confined = self.is_confined();
        let path = if confined { path.to_vec() } else { self.own_proc(path) };
        let work = || look_up(&path, OFlag::O_PATH, confined);
        if path.first() == Some(&b'/') && self.shares_root() { self.with_rights(work) } else { self.with_view(work) }
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
                look_up(&directory, OFlag::O_PATH | OFlag::O_DIRECTORY, true)?;
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
    pub fn listen(&self, socket: &OwnedFd, backlog: nix::sys::socket::Backlog) -> Result<(), Errno> {
        self.with_rights(|| nix::sys::socket::listen(socket, backlog))
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
fn look_up(path: &[u8], flags: OFlag, plainly: bool) -> Result<OwnedFd, Errno> {
    let resolve = if plainly { ResolveFlag::RESOLVE_NO_MAGICLINKS } else { ResolveFlag::empty() };
    openat2(AT_FDCWD, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
}

/// Whether a directory is one that each process has its own of.
fn is_of_a_process(directory: &[u8]) -> bool {
    let words: Vec<&[u8]> = directory.split(|b| *b == b'/').filter(|word| !matches!(*word, b"" | b".")).collect();
    directory.first() == Some(&b'/')
        && matches!(words[..], [b"proc", b"self" | b"thread-self", ..] | [b"dev", b"fd", ..])
}

/// On a thread that ends with the work.
fn elsewhere<T: Send>(work: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
    let watched = || {
        crate::watchdog::enlist();
        crate::watchdog::within_step(true);
        work()
    };
    std::thread::scope(|scope| {
        // EAGAIN: the user may have no more threads.
        let thread = std::thread::Builder::new().spawn_scoped(scope, watched).map_err(errno)?;
        thread.join().unwrap_or(Err(Errno::EIO))
    })
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
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
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, getsockname, listen, socket};

    fn stream() -> OwnedFd {
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap()
    }

    fn name(path: &str) -> Vec<u8> {
        [&(libc::AF_UNIX as u16).to_ne_bytes(), path.as_bytes()].concat()
    }

    fn me() -> Caller {
        Caller::of(nix::unistd::gettid().as_raw() as u32).unwrap()
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

    #[test]
    fn who_a_thread_is() {
        let status = "Name:\tx\nUmask:\t0027\nTgid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t30 10 \n";
        let caller = Caller::read(9, status).unwrap();
        assert_eq!((caller.process, caller.uid, caller.gid), (7, 2, 6));
        assert_eq!((&caller.groups[..], caller.umask.bits()), (&[10, 30][..], 0o027));
        assert_eq!(Caller::read(9, "Name:\tx\n"), None);
        assert_eq!(caller.own_proc(b"/proc/self/fd/3/x"), b"/proc/7/fd/3/x");
        assert_eq!(caller.own_proc(b"/proc/thread-self/cwd/x"), b"/proc/7/task/9/cwd/x");
        assert_eq!(caller.own_proc(b"/dev/fd/3"), b"/proc/7/fd/3");
        assert_eq!(caller.own_proc(b"/proc/selfish"), b"/proc/selfish");
    }

    #[test]
    fn rights_are_taken_on() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let nobody = Caller { uid: 65534, gid: 65534, groups: vec![65534], ..me() };
        let ids = nobody.with_rights(|| {
            // SAFETY: they cannot fail.
            Ok(unsafe { (libc::syscall(libc::SYS_geteuid), libc::syscall(libc::SYS_getegid)) })
        });
        assert_eq!(ids, Ok((65534, 65534)));
        assert!(nix::unistd::geteuid().is_root());
        let secret = std::env::temp_dir().join(format!("sandbox-unix-rights-{}", std::process::id()));
        std::fs::create_dir(&secret).unwrap();
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let path = secret.join("x");
        std::fs::write(&path, "").unwrap();
        let path = path.to_str().unwrap().as_bytes();
        assert_eq!(nobody.open_path(path).unwrap_err(), Errno::EACCES);
        assert!(me().open_path(path).is_ok());
        std::fs::remove_dir_all(&secret).unwrap();
    }
}
