//! Start of the program: fork, filter, a listener handed over without any socket call, exec.

use std::ffi::{CStr, CString, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::unistd::{ForkResult, Pid};

use crate::capabilities::{Capabilities, KEPT};
use crate::filter::Filter;
use crate::netns::Entrance;
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
    /// The filtered child could not install its filter.
    #[error(
        "the seccomp filter could not be installed in the program ({what}: {source}); `sipbox doctor` says what this kernel has"
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
const STEPS: [&str; 6] = [
    "PR_SET_NO_NEW_PRIVS",
    "seccomp filter",
    "hand-over of the listener",
    "exec",
    "capset",
    "setns into the program's network",
];

/// Where exec is among them.
const EXEC: usize = 3;

/// Forks the program's process and installs the filter in it. Must be called while this process has one thread.
///
/// `program` is looked up on PATH as execvp(3) does when it has no slash. The child keeps terminal, process group,
/// environment, working directory and open files. Of the environment, the variables named in `hidden` are left out. With an
/// `entrance` it runs in that network. This process stays able to connect to the abstract AF_UNIX names of others if `reaches_names`.
pub fn prepare(
    program: OsString,
    arguments: Vec<OsString>,
    hidden: &[String],
    filter: &Filter,
    entrance: Option<Entrance>,
    reaches_names: bool,
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
    let mut listen_pid = None;
    for (name, value) in std::env::vars_os().filter(|(n, _)| !hidden.iter().any(|h| n.as_os_str() == h.as_str())) {
        if name == LISTEN_PID && value.to_str() == Some(&std::process::id().to_string()) {
            listen_pid = Some(format!("{LISTEN_PID}={}\0", " ".repeat(DIGITS)).into_bytes());
            continue;
        }
        let mut entry = name;
        entry.push("=");
        entry.push(value);
        environment.push(c(entry)?);
    }
    let mut variables: Vec<*const libc::c_char> = environment.iter().map(|e| e.as_ptr()).collect();
    let listen_pid = listen_pid.as_mut().map_or(std::ptr::null_mut(), |entry: &mut Vec<u8>| entry.as_mut_ptr());
    if !listen_pid.is_null() {
        variables.push(listen_pid.cast_const().cast());
    }
    variables.push(std::ptr::null());

    // SAFETY: the caller promises one thread.
    unsafe { fence(reaches_names) };
    let (status_r, status_w) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(system("pipe2"))?;
    let (go_r, go_w) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(system("pipe2"))?;
    // SAFETY: the caller promises one thread, and the child runs only `child`, which allocates nothing.
    match unsafe { nix::unistd::fork() }.map_err(system("fork"))? {
        ForkResult::Child => {
            let exec = Exec { file: &file, argv: &pointers, envp: &variables, listen_pid };
            child(filter, &exec, entrance, status_w.as_raw_fd(), go_r.as_raw_fd())
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
                    Report::Failed(EXEC, source) => Err(StartError::Exec { source }),
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
    /// The entry of LISTEN_PID with [`DIGITS`] blanks for the number, or null.
    listen_pid: *mut u8,
}

/// Whom systemd passes sockets to, by process id (sd_listen_fds(3)): it has started this process, and means the program.
const LISTEN_PID: &str = "LISTEN_PID";
const DIGITS: usize = 10;

/// Writes this process's id into the entry of LISTEN_PID.
///
/// # Safety
/// Async-signal-safe. `entry` is one as [`Exec`] has it, or null.
unsafe fn write_listen_pid(entry: *mut u8) {
    if entry.is_null() {
        return;
    }
    // SAFETY: getpid cannot fail.
    let mut rest = unsafe { libc::getpid() } as u32;
    let mut digits = [0u8; DIGITS];
    let mut first = DIGITS;
    while first > 0 && (rest > 0 || first == DIGITS) {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    for (i, digit) in digits[first..].iter().chain(&[0]).enumerate() {
        // SAFETY: behind the name there is room for all digits and the NUL.
        unsafe { *entry.add(LISTEN_PID.len() + 1 + i) = *digit };
    }
}

fn child(filter: &Filter, exec: &Exec<'_>, entrance: Option<Entrance>, status: RawFd, go: RawFd) -> ! {
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
        if entrance.is_some_and(|e| !e.enter()) {
            fail(5);
        }
        if !give_up_capabilities() {
            fail(4);
        }
        wall_in(entrance.is_some());
        let with_killable = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        let mut listener = load(&filter.0, with_killable);
        if listener < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
            listener = load(&filter.0, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
        }
        if listener < 0 {
            fail(1);
        }
        if report(-1, listener as i32) != 8 {
            fail(2);
        }
        let mut byte = 0u8;
        if libc::read(go, (&raw mut byte).cast(), 1) != 1 {
            libc::_exit(126);
        }
        libc::close(listener as RawFd);
        write_listen_pid(exec.listen_pid);
        libc::execvpe(exec.file.as_ptr(), exec.argv.as_ptr(), exec.envp.as_ptr());
        fail(EXEC as i32)
    }
}

/// Gives up all capabilities but [`KEPT`], for good: they leave the bounding set as well, so that no exec brings one back.
///
/// # Safety
/// Async-signal-safe; changes the calling thread for good.
unsafe fn give_up_capabilities() -> bool {
    const MOST: u32 = 64;
    // SAFETY: prctl with integers.
    unsafe {
        for bit in (0..MOST).filter(|bit| KEPT >> bit & 1 == 0) {
            // EPERM without CAP_SETPCAP: then there is nothing that an exec could bring back, for no_new_privs is set.
            libc::prctl(libc::PR_CAPBSET_DROP, bit as libc::c_ulong, 0, 0, 0);
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    }
    Capabilities::own().is_ok_and(|own| {
        let kept = Capabilities {
            effective: own.effective & KEPT,
            permitted: own.permitted & KEPT,
            inheritable: own.inheritable & KEPT,
        };
        kept.set().is_ok()
    })
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
/// for it is done from outside the domain; in a network of its own bind() is the program's. Before its version 6 (Linux 6.12) there are no scopes, before version 4 (6.7) no
/// TCP, before version 2 (5.19) nothing.
///
/// # Safety
/// Async-signal-safe; restricts the calling thread for good. Needs PR_SET_NO_NEW_PRIVS.
unsafe fn wall_in(own_network: bool) {
    const NET_BIND_TCP: u64 = 0b01;
    const NET_CONNECT_TCP: u64 = 0b10;
    const SCOPE_ABSTRACT_UNIX_AND_SIGNAL: u64 = 0b11;
    let net = if own_network { NET_CONNECT_TCP } else { NET_BIND_TCP | NET_CONNECT_TCP };
    // SAFETY: as promised by the caller.
    unsafe {
        match landlock_version() {
            version @ 4.. => enter_domain(version, net, SCOPE_ABSTRACT_UNIX_AND_SIGNAL),
            version => enter_domain(version, 0, 0),
        }
    }
}

/// The same for the supervisor itself, around both: it may look into the program and nothing else. A thread of the program can be
/// killed while its call is served, and its number become that of a stranger: the kernel then refuses what was meant for it.
///
/// # Safety
/// Restricts the calling thread, and what is started by it later, for good; to be called while it is the only one.
unsafe fn fence(reaches_names: bool) {
    const SCOPE_ABSTRACT_UNIX: u64 = 0b01;
    // SAFETY: as promised by the caller.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 {
            enter_domain(landlock_version(), 0, if reaches_names { 0 } else { SCOPE_ABSTRACT_UNIX });
        }
    }
}

/// The version of Landlock that this kernel has; None without.
pub(crate) fn landlock() -> Option<i64> {
    // SAFETY: it only asks.
    Some(unsafe { landlock_version() }).filter(|version| *version > 0)
}

/// # Safety
/// Async-signal-safe.
unsafe fn landlock_version() -> libc::c_long {
    const CREATE_RULESET_VERSION: libc::c_ulong = 1;
    // SAFETY: a system call with integers.
    unsafe {
        let none = std::ptr::null::<RulesetAttributes>();
        libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, CREATE_RULESET_VERSION)
    }
}

/// Enters a new Landlock domain: apart from what is handled, that alone keeps its processes from looking into others.
///
/// # Safety
/// Async-signal-safe; restricts the calling thread for good. Needs PR_SET_NO_NEW_PRIVS.
unsafe fn enter_domain(version: libc::c_long, net: u64, scoped: u64) {
    /// LANDLOCK_ACCESS_FS_REFER: links and renames between directories, which no domain has unless it says so, whatever it is about.
    const REFER: u64 = 1 << 13;
    const RULE_PATH_BENEATH: libc::c_int = 1;
    /// struct landlock_path_beneath_attr.
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: i32,
    }
    let size = match version {
        2 | 3 => std::mem::offset_of!(RulesetAttributes, handled_access_net),
        4 | 5 => std::mem::offset_of!(RulesetAttributes, scoped),
        6.. => size_of::<RulesetAttributes>(),
        _ => return,
    };
    // It is about renames, and those are allowed everywhere.
    let attributes = RulesetAttributes { handled_access_fs: REFER, handled_access_net: net, scoped };
    // SAFETY: system calls with integers, and pointers to structures that outlive the calls, with the true size for the
    // version that the kernel named.
    unsafe {
        let ruleset = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, 0usize);
        if ruleset < 0 {
            return;
        }
        let root = libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
        let rule = PathBeneath { allowed_access: REFER, parent_fd: root };
        let added = libc::syscall(libc::SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &raw const rule, 0usize);
        libc::close(root);
        if added == 0 {
            libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0usize);
        }
        libc::close(ruleset as RawFd);
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
/// ones, rings of io_uring and network devices. Only the standard streams may be TCP or UDP sockets (inetd style), and those of
/// [`crate::inherited`], by their numbers. They are marked close-on-exec, so call this before [`prepare`]; returns what they are, for the user to hear.
pub fn keep_back(handed: &[RawFd]) -> io::Result<Vec<String>> {
    let mut kept = Vec::new();
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
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
        let passes = match nature(fd) {
            Nature::Harmless => true,
            Nature::Internet => number <= libc::STDERR_FILENO || handed.contains(&number),
            Nature::Way => false,
        };
        if !passes {
            fcntl(fd, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
            kept.push(format!("{number} ({is})"));
        }
    }
    Ok(kept)
}

/// What a descriptor that was made elsewhere is to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// A TCP or UDP socket.
    Internet,
    /// A way past the filter: a socket of another family or type, a ring of io_uring, a device that carries packets.
    Way,
    /// Anything else: files, pipes, AF_UNIX sockets.
    Harmless,
}

/// What is behind a descriptor of this process.
pub fn nature(fd: std::os::fd::BorrowedFd<'_>) -> Nature {
    const DEVICES: [&str; 4] = ["/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/ppp"];
    match (crate::sock::socket_domain(fd), crate::sock::socket_type(fd)) {
        (Ok(libc::AF_UNIX), _) => Nature::Harmless,
        (Ok(libc::AF_INET | libc::AF_INET6), Ok(libc::SOCK_STREAM | libc::SOCK_DGRAM)) => Nature::Internet,
        (Ok(_), _) => Nature::Way,
        (Err(_), _) => {
            let is = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default();
            let is = is.to_string_lossy();
            if is == "anon_inode:[io_uring]" || DEVICES.contains(&&*is) { Nature::Way } else { Nature::Harmless }
        }
    }
}

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
pub(crate) fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads one word of another process.
    fn reads(pid: Pid, word: &u64) -> bool {
        let mut bytes = [0u8; 8];
        let remote = [nix::sys::uio::RemoteIoVec { base: std::ptr::from_ref(word) as usize, len: 8 }];
        nix::sys::uio::process_vm_readv(pid, &mut [io::IoSliceMut::new(&mut bytes)], &remote).is_ok()
    }

    /// A process below this one that enters `domain`, then starts one of its own that enters `inner`; true for each of: the first
    /// reads its parent, the first reads its child.
    fn looks(domain: unsafe fn(), inner: unsafe fn()) -> (bool, bool) {
        let word = 7u64;
        // SAFETY: the children call nothing but system calls, and allocate nothing.
        unsafe {
            let ForkResult::Parent { child } = nix::unistd::fork().unwrap() else {
                domain();
                let up = reads(Pid::parent(), &word);
                let ForkResult::Parent { child } = nix::unistd::fork().unwrap() else {
                    inner();
                    nix::unistd::pause();
                    libc::_exit(0)
                };
                // The child may be before its domain still: what is allowed before it must be allowed in it.
                libc::usleep(20_000);
                let down = reads(child, &word);
                libc::kill(child.as_raw(), libc::SIGKILL);
                libc::_exit(i32::from(up) | i32::from(down) << 1)
            };
            match nix::sys::wait::waitpid(child, None).unwrap() {
                nix::sys::wait::WaitStatus::Exited(_, status) => (status & 1 != 0, status & 2 != 0),
                other => panic!("{other:?}"),
            }
        }
    }

    unsafe fn nothing() {}

    /// As on a kernel whose Landlock knows files only.
    unsafe fn old_wall() {
        // SAFETY: as the caller's.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            enter_domain(landlock_version().min(3), 0, 0);
        }
    }

    unsafe fn closed_fence() {
        // SAFETY: as the caller's.
        unsafe { fence(false) }
    }

    unsafe fn open_fence() {
        // SAFETY: as the caller's.
        unsafe { fence(true) }
    }

    #[test]
    fn a_fenced_supervisor_sees_its_program_and_nothing_else() {
        assert!(looks(nothing, nothing).1);
        // SAFETY: a system call.
        if unsafe { landlock_version() } < 2 {
            eprintln!("skipped: this kernel has no Landlock");
            return;
        }
        assert_eq!(looks(closed_fence, old_wall), (false, true));
        assert_eq!(looks(open_fence, old_wall), (false, true));
        assert_eq!(looks(old_wall, nothing), (false, true));
    }

    #[test]
    fn what_is_a_way_past_the_filter() {
        use std::os::fd::AsFd;
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
        assert_eq!(nature(udp.as_fd()), Nature::Internet);
        assert_eq!(nature(unix.as_fd()), Nature::Harmless);
        assert_eq!(nature(file.as_fd()), Nature::Harmless);
        assert_eq!(nature(netlink.as_fd()), Nature::Way);
    }
}
