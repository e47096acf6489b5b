//! Start of the program: fork, filters, a listener handed over without any socket call, exec.

use std::ffi::{CStr, CString, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::unistd::{ForkResult, Pid};

use crate::filter::Filters;
use crate::notify::Listener;

/// A program that waits, filtered, for its `exec`.
pub struct Prepared {
    pid: Pid,
    listener: Listener,
    go: std::fs::File,
    status: std::fs::File,
}

/// Why the program did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A string with a NUL byte in the program's name or arguments.
    #[error("argument {0:?} has a NUL byte in it")]
    Argument(OsString),
    /// A system call of the supervisor failed.
    #[error("{what} failed: {source}")]
    System {
        /// The call.
        what: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The filtered child could not install its filters.
    #[error(
        "the seccomp filters could not be installed in the program ({what}: {source}); `sipbox doctor` says what this kernel has"
    )]
    Filter {
        /// The step.
        what: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// execvpe(3) failed with this error.
    #[error("{source}")]
    Exec {
        /// Its error.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(nix::errno::Errno) -> StartError {
    move |e| StartError::System { what, source: e.into() }
}

/// What SIGPIPE did when this process was started: the Rust runtime ignores it before `main`, the program must not
/// inherit that. Written once by a constructor that runs before the runtime.
static SIGPIPE_AT_START: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

extern "C" fn note_sigpipe() {
    // SAFETY: sigaction with a null new action only reads; the structure is plain data for which zero is valid.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGPIPE, std::ptr::null(), &mut old) == 0 && old.sa_sigaction == libc::SIG_IGN {
            SIGPIPE_AT_START.store(libc::SIG_IGN, Ordering::Relaxed);
        }
    }
}

// SAFETY: a function pointer of the type that the C runtime calls for each entry of .init_array; it calls one
// async-signal-safe function and touches one atomic, so it needs nothing of the Rust runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

/// Steps of the child that can fail before exec; the number travels over the status pipe.
const STEPS: [&str; 6] =
    ["PR_SET_NO_NEW_PRIVS", "hardening filter", "notify filter", "hand-over of the listener", "exec", "capset"];

/// Forks the program's process and installs the filters in it. Must be called while this process has one thread.
///
/// `program` is looked up on PATH as execvp(3) does when it has no slash. The child keeps terminal, process group,
/// environment, working directory and open files. Of the environment, the variables named in `hidden` are left out.
pub fn prepare(
    program: OsString,
    arguments: Vec<OsString>,
    hidden: &[String],
    filters: &Filters,
) -> Result<Prepared, StartError> {
    let c =
        |s: OsString| CString::new(s.into_vec()).map_err(|e| StartError::Argument(OsString::from_vec(e.into_vec())));
    let file = c(program.clone())?;
    let mut argv = vec![c(program)?];
    for a in arguments {
        argv.push(c(a)?);
    }
    let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|a| a.as_ptr()).collect();
    pointers.push(std::ptr::null());

    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os().filter(|(n, _)| !hidden.iter().any(|h| n.as_os_str() == h.as_str())) {
        let mut entry = name;
        entry.push("=");
        entry.push(value);
        environment.push(c(entry)?);
    }
    let mut variables: Vec<*const libc::c_char> = environment.iter().map(|e| e.as_ptr()).collect();
    variables.push(std::ptr::null());

    let (status_r, status_w) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(system("pipe2"))?;
    let (go_r, go_w) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(system("pipe2"))?;
    // SAFETY: the caller promises one thread, and the child runs only `child`, which allocates nothing.
    match unsafe { nix::unistd::fork() }.map_err(system("fork"))? {
        ForkResult::Child => {
            let exec = Exec { file: &file, argv: &pointers, envp: &variables };
            child(filters, &exec, status_w.as_raw_fd(), go_r.as_raw_fd())
        }
        ForkResult::Parent { child: pid } => {
            drop((status_w, go_r));
            let mut status = std::fs::File::from(status_r);
            let number = match read_step(&mut status)? {
                Some(Report::Listener(number)) => number,
                Some(Report::Failed(step, source)) => {
                    let _ = nix::sys::wait::waitpid(pid, None);
                    return Err(StartError::Filter { what: STEPS[step.min(STEPS.len() - 1)], source });
                }
                None => {
                    let _ = nix::sys::wait::waitpid(pid, None);
                    return Err(StartError::Filter { what: "start", source: io::ErrorKind::UnexpectedEof.into() });
                }
            };
            let listener = Listener::fetch(pid, number)
                .map_err(|source| StartError::System { what: "pidfd_getfd of the listener", source });
            let listener = match listener {
                Ok(l) => l,
                Err(e) => {
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                    let _ = nix::sys::wait::waitpid(pid, None);
                    return Err(e);
                }
            };
            Ok(Prepared { pid, listener, go: std::fs::File::from(go_w), status })
        }
    }
}

impl Prepared {
    /// The process of the program.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Where its notifications arrive: hand a clone to the notification threads before [`Prepared::start`].
    pub fn listener(&self) -> Listener {
        self.listener.clone()
    }

    /// Lets the program exec; returns when it has, or with the error of exec (the process is then reaped).
    pub fn start(mut self) -> Result<Pid, StartError> {
        let failed = |source| StartError::System { what: "start of the program", source };
        self.go.write_all(b"g").map_err(failed)?;
        match read_step(&mut self.status)? {
            None => Ok(self.pid),
            Some(report) => {
                let _ = nix::sys::wait::waitpid(self.pid, None);
                match report {
                    Report::Failed(4, source) => Err(StartError::Exec { source }),
                    Report::Failed(step, source) => {
                        Err(StartError::Filter { what: STEPS[step.min(STEPS.len() - 1)], source })
                    }
                    Report::Listener(_) => Err(failed(io::ErrorKind::InvalidData.into())),
                }
            }
        }
    }
}

enum Report {
    Listener(RawFd),
    Failed(usize, io::Error),
}

/// One report of eight bytes: a step (or -1) and an errno (or the number of the listener). None at end of file.
fn read_step(pipe: &mut std::fs::File) -> Result<Option<Report>, StartError> {
    let mut word = [0u8; 8];
    match pipe.read_exact(&mut word) {
        Ok(()) => {
            let step = i32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
            let value = i32::from_ne_bytes([word[4], word[5], word[6], word[7]]);
            Ok(Some(match usize::try_from(step) {
                Ok(step) => Report::Failed(step, io::Error::from_raw_os_error(value)),
                Err(_) => Report::Listener(value),
            }))
        }
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(source) => Err(StartError::System { what: "read of the start pipe", source }),
    }
}

/// What execvpe(3) takes; both arrays end with a null pointer.
struct Exec<'a> {
    file: &'a CStr,
    argv: &'a [*const libc::c_char],
    envp: &'a [*const libc::c_char],
}

fn child(filters: &Filters, exec: &Exec<'_>, status: RawFd, go: RawFd) -> ! {
    let report = |step: i32, value: i32| {
        let mut word = [0u8; 8];
        word[..4].copy_from_slice(&step.to_ne_bytes());
        word[4..].copy_from_slice(&value.to_ne_bytes());
        // SAFETY: writes eight bytes of a local array; write(2) is async-signal-safe.
        unsafe { libc::write(status, word.as_ptr().cast(), word.len()) }
    };
    let fail = |step: i32| -> ! {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        report(step, errno);
        // SAFETY: ends this process without running any of the parent's exit handlers.
        unsafe { libc::_exit(126) }
    };
    // SAFETY: only async-signal-safe calls; the filter slices and the strings outlive exec, both arrays end
    // with a null pointer.
    unsafe {
        libc::signal(libc::SIGPIPE, SIGPIPE_AT_START.load(Ordering::Relaxed));
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            fail(0);
        }
        if !give_up_capabilities() {
            fail(5);
        }
        wall_in();
        for program in &filters.hardening {
            if load(program, 0) < 0 {
                fail(1);
            }
        }
        let with_killable = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        let mut listener = load(&filters.notify, with_killable);
        if listener < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
            listener = load(&filters.notify, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
        }
        if listener < 0 {
            fail(2);
        }
        if report(-1, listener as i32) != 8 {
            fail(3);
        }
        let mut byte = 0u8;
        if libc::read(go, (&raw mut byte).cast(), 1) != 1 {
            libc::_exit(126);
        }
        libc::close(listener as RawFd);
        libc::execvpe(exec.file.as_ptr(), exec.argv.as_ptr(), exec.envp.as_ptr());
        fail(4)
    }
}

/// Capabilities that a program of root keeps (capabilities(7)): those about files, identities and scheduling. Without the
/// others it cannot make network interfaces (/dev/net/tun, ioctl()), mount, trace, make devices or touch the kernel.
const KEPT: [u32; 17] = [
    0,  // CAP_CHOWN
    1,  // CAP_DAC_OVERRIDE
    2,  // CAP_DAC_READ_SEARCH
    3,  // CAP_FOWNER
    4,  // CAP_FSETID
    5,  // CAP_KILL
    6,  // CAP_SETGID
    7,  // CAP_SETUID
    8,  // CAP_SETPCAP
    10, // CAP_NET_BIND_SERVICE
    14, // CAP_IPC_LOCK
    15, // CAP_IPC_OWNER
    18, // CAP_SYS_CHROOT
    23, // CAP_SYS_NICE
    24, // CAP_SYS_RESOURCE
    28, // CAP_LEASE
    31, // CAP_SETFCAP
];

/// Gives up all capabilities but [`KEPT`], for good: they leave the bounding set as well, so that no exec brings one back.
///
/// # Safety
/// Async-signal-safe; changes the calling thread for good.
unsafe fn give_up_capabilities() -> bool {
    /// struct __user_cap_header_struct and the two words of struct __user_cap_data_struct (capget(2)).
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Word {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// _LINUX_CAPABILITY_VERSION_3.
    const VERSION_3: u32 = 0x2008_0522;
    const MOST: u32 = 64;
    let kept = KEPT.iter().fold(0u64, |mask, bit| mask | 1 << bit);
    // SAFETY: prctl with integers; capget and capset read and write these structures, which have the size that the version says.
    unsafe {
        for bit in (0..MOST).filter(|bit| kept >> bit & 1 == 0) {
            // EPERM without CAP_SETPCAP: then there is nothing that an exec could bring back, for no_new_privs is set.
            libc::prctl(libc::PR_CAPBSET_DROP, bit as libc::c_ulong, 0, 0, 0);
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        let header = Header { version: VERSION_3, pid: 0 };
        let mut words = [Word { effective: 0, permitted: 0, inheritable: 0 }; 2];
        if libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr()) != 0 {
            return false;
        }
        for (word, kept) in words.iter_mut().zip([kept as u32, (kept >> 32) as u32]) {
            word.effective &= kept;
            word.permitted &= kept;
            word.inheritable &= kept;
        }
        libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) == 0
    }
}

/// struct landlock_ruleset_attr of include/uapi/linux/landlock.h, as of its sixth version.
#[repr(C)]
struct RulesetAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// A second wall, where the kernel has Landlock (landlock(7)): outside its domain the program can neither attach to a process
/// nor write its /proc/PID/mem (of the hub, of the user's shell), nor signal it, nor connect to an abstract AF_UNIX name; and
/// a TCP bind() or connect() of its own is refused by the kernel even if it got past the filter. What the supervisor does
/// for it is done from outside the domain.
///
/// # Safety
/// Async-signal-safe; restricts the calling thread for good. Needs PR_SET_NO_NEW_PRIVS.
unsafe fn wall_in() {
    const CREATE_RULESET_VERSION: libc::c_ulong = 1;
    const NET_BIND_AND_CONNECT_TCP: u64 = 0b11;
    const SCOPE_ABSTRACT_UNIX_AND_SIGNAL: u64 = 0b11;
    // SAFETY: system calls with integers, and a pointer to a structure that outlives the call, with its true size for the
    // version that the kernel named.
    unsafe {
        let none = std::ptr::null::<RulesetAttributes>();
        let version = libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, CREATE_RULESET_VERSION);
        // Before version 4 (Linux 6.7) there is nothing in it but file access, which is not what this is about.
        let size = match version {
            4 | 5 => std::mem::offset_of!(RulesetAttributes, scoped),
            6.. => size_of::<RulesetAttributes>(),
            _ => return,
        };
        let attributes = RulesetAttributes {
            handled_access_fs: 0,
            handled_access_net: NET_BIND_AND_CONNECT_TCP,
            scoped: SCOPE_ABSTRACT_UNIX_AND_SIGNAL,
        };
        let ruleset = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, 0usize);
        if ruleset >= 0 {
            libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0usize);
            libc::close(ruleset as RawFd);
        }
    }
}

/// seccomp(SECCOMP_SET_MODE_FILTER).
///
/// # Safety
/// Async-signal-safe; changes the calling thread for good.
unsafe fn load(program: &[libc::sock_filter], flags: libc::c_ulong) -> libc::c_long {
    let fprog = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: fprog points to `program` for the length of the call; the kernel copies it.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) }
}

/// Keeps back descriptors that this process was started with and that would be a way past the filter: sockets other than AF_UNIX
/// ones, rings of io_uring and network devices. Only the standard streams may be TCP or UDP sockets (inetd style). They are
/// marked close-on-exec, so call this before [`prepare`]; returns what they are, for the user to hear.
pub fn keep_back() -> io::Result<Vec<String>> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    let mut kept = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|n| n.parse::<RawFd>().ok()) else { continue };
        // SAFETY: borrowed for this turn of the loop, in which nothing is closed; of a number that is not open (that of the
        // directory's own listing, at its end) fcntl and getsockopt say EBADF.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        let Ok(flags) = fcntl(fd, FcntlArg::F_GETFD) else { continue };
        let flags = FdFlag::from_bits_retain(flags);
        if flags.contains(FdFlag::FD_CLOEXEC) {
            continue;
        }
        let is = std::fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
        let passes = match crate::sock::socket_domain(fd) {
            Ok(libc::AF_UNIX) => true,
            Ok(libc::AF_INET | libc::AF_INET6) => {
                let plain = matches!(crate::sock::socket_type(fd), Ok(libc::SOCK_STREAM | libc::SOCK_DGRAM));
                number <= libc::STDERR_FILENO && plain
            }
            Ok(_) => false,
            Err(_) => is != "anon_inode:[io_uring]" && !NETWORK_DEVICES.contains(&is.as_str()),
        };
        if !passes {
            fcntl(fd, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
            kept.push(format!("{number} ({is})"));
        }
    }
    Ok(kept)
}

/// Devices that carry packets.
const NETWORK_DEVICES: [&str; 4] = ["/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/ppp"];

/// Takes over orphans of the program: processes that double-fork stay children of this one (PR_SET_CHILD_SUBREAPER,
/// prctl(2)). And hides this process from the program: not dumpable means no ptrace, no /proc/PID/mem, no
/// pidfd_getfd by another process of the same user. Call after [`prepare`], which leaves the program its own limit of open
/// files: this process takes all that it may have, for each held call needs one or two.
pub fn shield() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    nix::sys::prctl::set_child_subreaper(true)?;
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// A duplicate of descriptor `number` of the process or thread behind `pidfd` (pidfd_getfd(2)), close-on-exec.
pub(crate) fn pidfd_getfd(pidfd: &OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: three integers go in; on success the kernel made a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as RawFd)) }
    }
}

/// pidfd_open(2); with `thread` for the thread itself (PIDFD_THREAD, Linux 6.9), else for its process.
pub(crate) fn pidfd_open(id: i32, thread: bool) -> io::Result<OwnedFd> {
    /// PIDFD_THREAD of include/uapi/linux/pidfd.h is O_EXCL.
    const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
    // SAFETY: two integers go in; on success the kernel made a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, id, if thread { PIDFD_THREAD } else { 0 });
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as RawFd)) }
    }
}
