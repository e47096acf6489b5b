//! The checks that need another process: a forked child that makes only async-signal-safe calls, as this process may have threads.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::{LIMIT, expect};
use crate::sock;

/// What the child writes into its memory, and what it is to find there afterwards.
const CHILDS: u64 = 0x51b0_c417;
const OURS: u64 = 0x51b0_0125;

/// The same address in us and in the child, but not the same memory.
static WORD: AtomicU64 = AtomicU64::new(0);

pub(super) fn fetch_socket() -> io::Result<String> {
    let socket = sock::tcp4()?;
    let child = Child::start(|_| 0)?;
    let pidfd = pidfd_open(child.pid, 0)?;
    let fetched = pidfd_getfd(&pidfd, socket.as_raw_fd())?;
    expect(sock::socket_cookie(fetched.as_fd())? == sock::socket_cookie(socket.as_fd())?, "another file was fetched")?;
    Ok(String::from("a child's socket was fetched"))
}

pub(super) fn thread_pidfd() -> io::Result<String> {
    let (tell, told) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    std::thread::Builder::new().spawn(move || {
        let _ = tell.send(nix::unistd::gettid());
        // Until the sender is dropped.
        let _ = wait.recv();
    })?;
    let tid = told.recv_timeout(LIMIT).map_err(|_| Errno::ETIMEDOUT)?;
    let pidfd = pidfd_open(tid, libc::PIDFD_THREAD);
    drop(go);
    pidfd?;
    Ok(String::from("a single thread can be named"))
}

pub(super) fn memory() -> io::Result<String> {
    WORD.store(0, Ordering::SeqCst);
    let child = Child::start(|child| {
        WORD.store(CHILDS, Ordering::SeqCst);
        child.ready();
        child.wait();
        if WORD.load(Ordering::SeqCst) == OURS { 0 } else { libc::EFAULT }
    })?;
    child.expect_ready()?;
    let there = [RemoteIoVec { base: WORD.as_ptr() as usize, len: size_of::<u64>() }];
    let mut word = [0; size_of::<u64>()];
    let read = process_vm_readv(child.pid, &mut [IoSliceMut::new(&mut word)], &there)?;
    expect(read == word.len() && u64::from_ne_bytes(word) == CHILDS, "something else was read")?;
    let written = process_vm_writev(child.pid, &[IoSlice::new(&OURS.to_ne_bytes())], &there)?;
    expect(written == word.len() && WORD.load(Ordering::SeqCst) == 0, "it was written elsewhere")?;
    child.finish()?;
    Ok(String::from("a child's memory was read and written"))
}

fn pidfd_open(pid: Pid, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes no pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), flags) })?;
    // SAFETY: it returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn pidfd_getfd(pidfd: &OwnedFd, fd: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_getfd takes no pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })?;
    // SAFETY: it returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// A forked child, killed when this is dropped.
struct Child {
    pid: Pid,
    from_child: std::io::PipeReader,
    to_child: std::io::PipeWriter,
    reaped: std::cell::Cell<bool>,
}

/// What the child has of it.
struct Inside {
    read: libc::c_int,
    write: libc::c_int,
}

impl Inside {
    fn ready(&self) {
        // SAFETY: one readable byte; write is async-signal-safe.
        unsafe { libc::write(self.write, [1u8].as_ptr().cast(), 1) };
    }

    fn wait(&self) {
        let mut byte = [0u8];
        // SAFETY: one writable byte; read is async-signal-safe.
        unsafe { libc::read(self.read, byte.as_mut_ptr().cast(), 1) };
    }
}

impl Child {
    /// Forks a child that runs `life`, says that it is done, waits to be asked, and exits with what `life` gave: 0 or an errno. `life` may
    /// make only async-signal-safe calls: no allocation, no lock, no panic.
    fn start(life: fn(&Inside) -> i32) -> io::Result<Self> {
        let (from_child, childs_write) = io::pipe()?;
        let (childs_read, to_child) = io::pipe()?;
        let inside = Inside { read: childs_read.as_raw_fd(), write: childs_write.as_raw_fd() };
        // SAFETY: the child makes only async-signal-safe calls (system calls without a lock or allocation) and leaves by _exit.
        match unsafe { fork() }? {
            ForkResult::Child => {
                // SAFETY: plain system calls. Whatever happens the child does not outlive us, nor half a minute.
                let code = unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::alarm(30);
                    life(&inside)
                };
                inside.ready();
                inside.wait();
                // SAFETY: ends the process without running anything of the parent's.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => {
                Ok(Self { pid: child, from_child, to_child, reaped: std::cell::Cell::new(false) })
            }
        }
    }

    fn expect_ready(&self) -> io::Result<()> {
        sock::wait_for(self.from_child.as_fd(), PollFlags::POLLIN, LIMIT)?;
        (&self.from_child).read_exact(&mut [0])
    }

    /// Lets the child end, and gives the error that it ended with.
    fn finish(&self) -> io::Result<()> {
        (&self.to_child).write_all(&[1, 1])?;
        self.expect_ready()?;
        let status = waitpid(self.pid, None)?;
        self.reaped.set(true);
        match status {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
            other => Err(io::Error::other(format!("the child ended by {other:?}"))),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped.get() {
            // Our own child, not waited for yet: its number is still its own.
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}
