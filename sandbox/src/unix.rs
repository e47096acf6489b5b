//! AF_UNIX addresses are paths as the caller sees them: relative to its working directory, made with its umask.
//! A thread of its own takes these on and makes the call with the caller's bytes, so that the name in the kernel is
//! exactly the native one.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::Mode;

use crate::message::{Destination, send};

/// What is to be done with an AF_UNIX address.
pub enum Action {
    /// bind(2).
    Bind,
    /// connect(2).
    Connect,
    /// sendmsg(2) with data, control data and flags.
    Send(Vec<u8>, Vec<u8>, i32),
}

/// Ends a call of [`act_until`] that waits.
#[derive(Default)]
pub struct Interrupter {
    /// The thread that makes the call, while it does; else 0.
    thread: AtomicI32,
}

/// Does nothing by default, so that one too many does no harm.
const INTERRUPT: Signal = Signal::SIGURG;

impl Interrupter {
    /// The call ends with EINTR, if it waits at this moment: to be repeated until it has ended.
    pub fn interrupt(&self) {
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: three integers; a signal with a handler that does nothing, to a thread of this process or to nobody.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, INTERRUPT as libc::c_int) };
        }
    }
}

/// The handler, without SA_RESTART.
fn listen_for_interrupts() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    extern "C" fn nothing(_: libc::c_int) {}
    ONCE.call_once(|| {
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        let _ = unsafe { sigaction(INTERRUPT, &action) };
    });
}

/// As [`act`], but it can be interrupted: EINTR then.
pub fn act_until(
    interrupter: &Interrupter,
    thread: u32,
    socket: &OwnedFd,
    name: &[u8],
    action: &Action,
) -> Result<usize, Errno> {
    listen_for_interrupts();
    let work = || {
        interrupter.thread.store(nix::unistd::gettid().as_raw(), Ordering::SeqCst);
        let result = act_here(thread, socket, name, action);
        interrupter.thread.store(0, Ordering::SeqCst);
        result
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or(Err(Errno::EIO)))
}

/// Makes the call on `socket` as thread `thread` of the program would; blocks while the call blocks.
/// `name` is the raw struct sockaddr_un as the program gave it. EACCES when the caller has changed its root directory.
pub fn act(thread: u32, socket: &OwnedFd, name: &[u8], action: &Action) -> Result<usize, Errno> {
    std::thread::scope(|scope| scope.spawn(|| act_here(thread, socket, name, action)).join().unwrap_or(Err(Errno::EIO)))
}

fn act_here(thread: u32, socket: &OwnedFd, name: &[u8], action: &Action) -> Result<usize, Errno> {
    // A name that begins with a NUL is abstract: no directory, no umask.
    if name.get(2).is_some_and(|b| *b != 0) {
        let root = |of: &str| std::fs::metadata(format!("/proc/{of}/root/")).map(|m| (m.dev(), m.ino()));
        match (root("self"), root(&thread.to_string())) {
            (Ok(ours), Ok(theirs)) if ours == theirs => {}
            _ => return Err(Errno::EACCES),
        }
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(format!("/proc/{thread}/cwd").as_str())?;
        nix::sys::stat::umask(umask_of(thread).ok_or(Errno::ESRCH)?);
    }
    match action {
        Action::Bind => raw(socket, name, libc::bind),
        Action::Connect => raw(socket, name, libc::connect),
        Action::Send(data, control, flags) => {
            send(std::os::fd::AsFd::as_fd(socket), data, Destination::Raw(name), control, *flags)
        }
    }
}

type AddressCall = unsafe extern "C" fn(libc::c_int, *const libc::sockaddr, libc::socklen_t) -> libc::c_int;

fn raw(socket: &OwnedFd, name: &[u8], call: AddressCall) -> Result<usize, Errno> {
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
    if r < 0 { Err(Errno::last()) } else { Ok(0) }
}

/// The line "Umask:" of /proc/TID/status (proc(5)).
fn umask_of(thread: u32) -> Option<Mode> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let text = status.lines().find_map(|l| l.strip_prefix("Umask:"))?.trim();
    Some(Mode::from_bits_truncate(libc::mode_t::from_str_radix(text, 8).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockname, socket};

    #[test]
    fn a_relative_name_stays_relative() {
        let s = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        let file = format!("sandbox-unix-test-{}.sock", std::process::id());
        let mut name = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        name.extend_from_slice(file.as_bytes());
        let me = nix::unistd::gettid().as_raw() as u32;
        assert_eq!(act(me, &s, &name, &Action::Bind), Ok(0));
        let bound: nix::sys::socket::UnixAddr = getsockname(s.as_raw_fd()).unwrap();
        assert_eq!(bound.path().unwrap().to_str().unwrap(), file);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(act(me, &s, &name, &Action::Bind), Err(Errno::EINVAL));
    }
}
