//! Notifications: one trapped call each, answered exactly once.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::unistd::Pid;
use rustc_hash::FxHashMap;

use crate::caller::Caller;
use crate::child::{pidfd_getfd, pidfd_open};

/// The receiving end of the notify filter. Cheap to clone; several threads may receive at once.
#[derive(Clone)]
pub struct Listener {
    fd: Arc<OwnedFd>,
}

/// The kernel's ERESTARTSYS: with a signal pending it makes the call end as a native one does (restart or EINTR).
const ERESTARTSYS: i32 = 512;

/// How many threads of the program one notification thread remembers by pidfd.
const REMEMBERED: usize = 128;

thread_local! {
    /// Threads of the program by thread id. A pidfd names one thread for good: when the thread is gone and its id is
    /// another's, pidfd_getfd says ESRCH, so an entry can be stale but never wrong.
    static THREADS: RefCell<FxHashMap<u32, OwnedFd>> = RefCell::default();

    /// The thread that was met last, and its pidfd, which is one of [`THREADS`].
    static LAST: Cell<Option<(u32, RawFd)>> = const { Cell::new(None) };

    /// The call that this thread received last, and whether its caller was seen to wait since. A thread that receives
    /// answers each call, or hands it on, before it receives the next one.
    static AT_HAND: Cell<(u64, bool)> = const { Cell::new((0, false)) };
}

impl Listener {
    /// Duplicates the listener `number` out of the waiting child and asks for wake-ups on the same CPU.
    pub(crate) fn fetch(pid: Pid, number: RawFd) -> io::Result<Listener> {
        let fd = pidfd_getfd(pidfd_open(pid.as_raw(), false)?.as_fd(), number)?;
        /// SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP of include/uapi/linux/seccomp.h (Linux 6.6).
        const SYNC_WAKE_UP: libc::c_ulong = 1;
        // SAFETY: the ioctl takes its flags by value. Older kernels refuse it, which costs only time.
        unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
        Ok(Listener { fd: Arc::new(fd) })
    }

    /// Blocks until the program makes a trapped call. None when no process of the program is left. (The listener of a run lives as long as
    /// this process: to count who uses it costs each call two locked instructions.)
    #[inline]
    pub fn receive(&'static self) -> io::Result<Option<Notification>> {
        loop {
            // SAFETY: plain data for which zero is valid; the kernel demands it zeroed.
            let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the kernel writes one seccomp_notif to the pointer.
            if unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut raw) } == 0 {
                AT_HAND.set((raw.id, false));
                return Ok(Some(Notification {
                    reply: Reply { listener: self, id: raw.id, answered: false },
                    thread: raw.pid,
                    call: i64::from(raw.data.nr),
                    arguments: raw.data.args,
                }));
            }
            let e = io::Error::last_os_error();
            match e.raw_os_error() {
                Some(libc::EINTR) => {}
                // ENOENT is also the answer when the caller died between wake-up and receipt: look who is left.
                Some(libc::ENOENT) if self.is_finished() => return Ok(None),
                Some(libc::ENOENT) => {}
                _ => return Err(e),
            }
        }
    }

    #[inline]
    fn is_valid(&self, id: u64) -> bool {
        // SAFETY: the kernel reads eight bytes.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
    }

    /// True when no task with this filter is left: the listener then polls as hung up.
    fn is_finished(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::ZERO);
        fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLHUP))
    }
}

/// One trapped call: registers, the thread that made it, and the duty to answer.
pub struct Notification {
    /// The duty to answer.
    pub reply: Reply,
    /// Thread id of the caller in the supervisor's pid namespace.
    pub thread: u32,
    /// System call number.
    pub call: i64,
    /// The six argument registers.
    pub arguments: [u64; 6],
}

impl Notification {
    /// A duplicate of the caller's descriptor `number`, to be dropped when the call is answered: the peer of a socket
    /// sees its end only when no duplicate is left. EBADF as the kernel would say it; ESRCH when the caller is gone.
    ///
    /// It is also the check that the caller still waits: a thread that was known before this call was received, and still
    /// is, has had its thread id all the time.
    #[inline]
    pub fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        let received_here = AT_HAND.get().0 == self.reply.id;
        let (fd, remembered) = fetch(self.thread, number)?;
        let same_thread = remembered && received_here;
        if !same_thread && !self.reply.is_waiting() {
            return Err(Errno::ESRCH);
        }
        if received_here {
            AT_HAND.set((self.reply.id, true));
        }
        Ok(fd)
    }

    /// Who makes the call.
    ///
    /// # Errors
    /// As [`Caller::of`].
    pub fn caller(&self) -> Result<Caller, Errno> {
        let waiting = self.reply.watch();
        Caller::of(self.thread, move || waiting.is_waiting())
    }
}

/// A duplicate of descriptor `number` of thread `thread`.
pub fn descriptor_of(thread: u32, number: i32) -> Result<OwnedFd, Errno> {
    fetch(thread, number).map(|(fd, _)| fd)
}

/// A duplicate of descriptor `number` of thread `thread`, and whether the thread was known already.
#[inline]
fn fetch(thread: u32, number: i32) -> Result<(OwnedFd, bool), Errno> {
    if number < 0 {
        return Err(Errno::EBADF);
    }
    if let Some((last, pidfd)) = LAST.get()
        && last == thread
    {
        // SAFETY: it is in THREADS of this thread; what is taken out there is forgotten here before.
        match pidfd_getfd(unsafe { BorrowedFd::borrow_raw(pidfd) }, number).map_err(to_errno) {
            Err(Errno::ESRCH) => {}
            other => return other.map(|fd| (fd, true)),
        }
    }
    THREADS.with_borrow_mut(|threads| {
        LAST.set(None);
        if let Some(pidfd) = threads.get(&thread) {
            match pidfd_getfd(pidfd.as_fd(), number).map_err(to_errno) {
                Err(Errno::ESRCH) => {
                    threads.remove(&thread);
                }
                other => {
                    LAST.set(Some((thread, pidfd.as_raw_fd())));
                    return other.map(|fd| (fd, true));
                }
            }
        }
        meet(threads, thread, number).map(|fd| (fd, false))
    })
}

/// As [`fetch`], of a thread that is not known yet.
#[cold]
#[inline(never)]
fn meet(threads: &mut FxHashMap<u32, OwnedFd>, thread: u32, number: i32) -> Result<OwnedFd, Errno> {
    match pidfd_open(thread as i32, true) {
        Ok(pidfd) => {
            let fd = pidfd_getfd(pidfd.as_fd(), number).map_err(to_errno);
            if threads.len() >= REMEMBERED {
                threads.clear();
            }
            threads.insert(thread, pidfd);
            fd
        }
        // Before Linux 6.9 a pidfd names a process only, so nothing can be remembered by thread id.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            let process = process_of(thread).ok_or(Errno::ESRCH)?;
            let pidfd = pidfd_open(process, false).map_err(to_errno)?;
            pidfd_getfd(pidfd.as_fd(), number).map_err(to_errno)
        }
        Err(e) => Err(to_errno(e)),
    }
}

fn to_errno(e: io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
}

/// The process of a thread: the line "Tgid:" of /proc/TID/status (proc(5)).
pub fn process_of(thread: u32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The duty to answer one call. Every method that answers consumes it; dropping it unanswered answers EIO, so that no
/// thread of the program is ever left hanging.
#[must_use]
pub struct Reply {
    listener: &'static Listener,
    id: u64,
    answered: bool,
}

static UNANSWERED: AtomicU64 = AtomicU64::new(0);

/// How many calls were dropped without an answer so far: each is a defect of the supervisor.
pub fn unanswered() -> u64 {
    UNANSWERED.load(Ordering::Relaxed)
}

/// Says whether the caller of one trapped call still waits; cannot answer it.
pub struct Waiting {
    listener: &'static Listener,
    id: u64,
}

impl Waiting {
    /// True while the caller still waits: it has not been killed.
    pub fn is_waiting(&self) -> bool {
        self.listener.is_valid(self.id)
    }
}

impl Reply {
    /// The question alone.
    pub fn watch(&self) -> Waiting {
        Waiting { listener: self.listener, id: self.id }
    }

    /// True while the caller still waits: it has not been killed, and its thread id still means it.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        self.listener.is_valid(self.id)
    }

    /// As [`Reply::is_waiting`]; asks the kernel only when the thread that received this call, and has not let go of it
    /// since, has not seen it yet. For writes: nothing is decided by what is read.
    #[inline]
    pub(crate) fn was_waiting(&self) -> bool {
        AT_HAND.get() == (self.id, true) || self.is_waiting()
    }

    /// The call returns `value`.
    #[inline]
    pub fn value(mut self, value: i64) {
        self.send(value, 0);
    }

    /// The call fails with `errno`.
    #[inline]
    pub fn error(mut self, errno: Errno) {
        self.send(0, -(errno as i32));
    }

    /// The call returns the value, or fails with the errno.
    #[inline]
    pub fn result(self, result: Result<i64, Errno>) {
        match result {
            Ok(value) => self.value(value),
            Err(errno) => self.error(errno),
        }
    }

    /// The call ends as a native one that a signal interrupts: handler, then restart or EINTR. Only for a thread that
    /// [`crate::watch`] has named.
    pub fn interrupted(mut self) {
        self.send(0, -ERESTARTSYS);
    }

    /// The kernel makes the call after all (SECCOMP_USER_NOTIF_FLAG_CONTINUE): only where nothing was decided, for it looks at
    /// memory and descriptors anew.
    pub fn proceed(mut self) {
        self.respond(0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    /// Installs a duplicate of `fd` in the program and returns its number to it, in one step
    /// (SECCOMP_ADDFD_FLAG_SEND). ESRCH or ENOENT when the caller is gone; EMFILE when its table is full.
    pub fn install(mut self, fd: BorrowedFd<'_>, close_on_exec: bool) -> Result<(), (Reply, Errno)> {
        match self.add(fd, close_on_exec, libc::SECCOMP_ADDFD_FLAG_SEND as u32) {
            Ok(_) => {
                self.answered = true;
                Ok(())
            }
            Err(e) => Err((self, e)),
        }
    }

    /// Installs a duplicate of `fd` in the program without answering yet; returns its number there.
    pub fn add_descriptor(&self, fd: BorrowedFd<'_>, close_on_exec: bool) -> Result<i32, Errno> {
        self.add(fd, close_on_exec, 0)
    }

    fn add(&self, fd: BorrowedFd<'_>, close_on_exec: bool, flags: u32) -> Result<i32, Errno> {
        let request = libc::seccomp_notif_addfd {
            id: self.id,
            flags,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // It waits until the caller has run, however long that takes on a busy machine. Interrupted, the kernel takes the descriptor back, but not the
        // answer (SECCOMP_ADDFD_FLAG_SEND; kernel/seccomp.c, seccomp_notify_addfd): the caller would get 0.
        let add = || {
            // SAFETY: the kernel reads one seccomp_notif_addfd; `fd` is open for the length of the call.
            unsafe { libc::ioctl(self.listener.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const request) }
        };
        let n = crate::watchdog::undisturbed(add);
        if n < 0 { Err(Errno::last()) } else { Ok(n) }
    }

    #[inline]
    fn send(&mut self, val: i64, error: i32) {
        self.respond(val, error, 0);
    }

    #[inline]
    fn respond(&mut self, val: i64, error: i32, flags: u32) {
        self.answered = true;
        let mut response = libc::seccomp_notif_resp { id: self.id, val, error, flags };
        // SAFETY: the kernel reads one seccomp_notif_resp. ENOENT means that the caller died: nothing is owed then.
        let mut send =
            || unsafe { libc::ioctl(self.listener.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
        // Interrupted while others answer: it was not sent.
        while send() < 0 && Errno::last() == Errno::EINTR {}
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.answered {
            UNANSWERED.fetch_add(1, Ordering::Relaxed);
            self.send(0, -libc::EIO);
        }
    }
}
