//! The keeper: a process that watches over this one, and outlives it when it is killed.
//!
//! A socket of the program that is connected stays connected when its supervisor is gone, and what it sends is not trapped. The ports that such
//! sockets point to are kept from others by descriptors of the supervisor, and would be free with its end. So the keeper shares the table
//! of descriptors (CLONE_FILES, clone(2)): a supervisor that is killed leaves all of them to it. It closes at once what is not to be kept,
//! the listener of notifications above all, so that a trapped call is answered ENOSYS by the kernel itself, and connections that a relay
//! served are at their end; it ends when no socket is left on the program's addresses. It costs nothing while the supervisor lives.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::diag::Inspector;
use crate::sock;

/// How often the keeper of a supervisor that is gone looks whether it is needed any more.
const LOOK: Duration = Duration::from_secs(1);
/// As many looks in a row that find nothing: one alone may miss a socket, when others of its slot in the kernel's table go meanwhile.
const LOOKS: usize = 5;
const NAME: &std::ffi::CStr = c"sipbox-keeper";

static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Says of a socket of the supervisor, by its local address, whether it is to be kept, and then where the sockets of the program are that
/// need it.
pub type Kept = fn(SocketAddrV4) -> Option<Ipv4Addr>;

/// While it lives the keeper does. It ends with it, before the process does: then nothing is left behind.
#[derive(Debug)]
pub struct Keeper {
    process: Pid,
}

impl Keeper {
    /// Starts the keeper. Forks: call it while this process has one thread.
    ///
    /// # Errors
    /// What clone(2) or pidfd_open(2) gives: EAGAIN where the user may have no more processes. EDEADLK: there are threads.
    pub fn start(kept: Kept) -> io::Result<Keeper> {
        if std::fs::read_dir("/proc/self/task")?.count() != 1 {
            return Err(nix::errno::Errno::EDEADLK.into());
        }
        let supervisor = crate::child::pidfd_open(std::process::id().cast_signed(), false)?;
        // No signal at its end: who waits for the program's processes does not meet it.
        let (flags, null): (libc::c_ulong, libc::c_ulong) = (libc::CLONE_FILES as libc::c_ulong, 0);
        // SAFETY: without a stack of its own and without CLONE_VM it is a fork, and there is one thread.
        let process = unsafe { libc::syscall(libc::SYS_clone, flags, null, null, null, null) };
        match process {
            0 => {
                keep(&supervisor, kept);
                // SAFETY: ends this process without running any of the parent's exit handlers.
                unsafe { libc::_exit(0) }
            }
            process if process > 0 => {
                // Its number belongs to the keeper from here on.
                std::mem::forget(supervisor);
                let process = Pid::from_raw(process as i32);
                PROCESS.store(process.as_raw(), Ordering::Relaxed);
                Ok(Keeper { process })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = kill(self.process, Signal::SIGKILL);
        let _ = waitpid(self.process, Some(WaitPidFlag::__WCLONE));
        PROCESS.store(0, Ordering::Relaxed);
    }
}

/// Whether a process is the keeper of this one.
pub(crate) fn is(process: u32) -> bool {
    process != 0 && process.cast_signed() == PROCESS.load(Ordering::Relaxed)
}

/// In the keeper's process.
fn keep(supervisor: &OwnedFd, kept: Kept) {
    // What a terminal or a shell sends to its jobs is not for the keeper.
    let _ = SigSet::all().thread_block();
    let _ = nix::unistd::setsid();
    // One that somebody stopped goes on when it is needed.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGCONT);
    let _ = nix::sys::prctl::set_name(NAME);
    loop {
        let mut fds = [PollFd::new(supervisor.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
    }
    // A full table has room for a look into it.
    // SAFETY: nobody else uses the table any more, and this function not the descriptor.
    unsafe { libc::close(supervisor.as_raw_fd()) };
    let homes = close_all_but(kept);
    if homes.is_empty() {
        return;
    }
    let Ok(inspector) = Inspector::here() else { return };
    let mut unused = 0;
    while unused < LOOKS {
        unused = if is_used(&inspector, &homes, kept) { 0 } else { unused + 1 };
        std::thread::sleep(LOOK);
    }
}

/// Closes every descriptor but those that are kept; where the sockets are that need them.
fn close_all_but(kept: Kept) -> HashSet<Ipv4Addr> {
    let all = |_| {
        let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        (0..RawFd::try_from(most).unwrap_or(RawFd::MAX)).collect()
    };
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .map(|all| all.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_else(all);
    let mut homes = HashSet::new();
    for number in open {
        // SAFETY: nobody else uses the table any more, and a number without a descriptor is answered EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let of = match sock::local_addr(fd).map(sock::canonical) {
            Ok(SocketAddr::V4(local)) => kept(local),
            _ => None,
        };
        if let Some(home) = of {
            homes.insert(home);
        } else {
            // SAFETY: as above; this process has one thread, which has no use for it.
            unsafe { libc::close(number) };
        }
    }
    homes
}

/// Whether there are sockets at one of `homes` beside those that are kept.
fn is_used(inspector: &Inspector, homes: &HashSet<Ipv4Addr>, kept: Kept) -> bool {
    [true, false].into_iter().any(|tcp| {
        let Ok(there) = inspector.endpoints(tcp) else { return true };
        there.into_iter().any(|endpoint| match sock::canonical(endpoint.local) {
            SocketAddr::V4(local) => homes.contains(local.ip()) && kept(local).is_none(),
            SocketAddr::V6(_) => false,
        })
    })
}
