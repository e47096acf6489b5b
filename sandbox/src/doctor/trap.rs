//! The checks of seccomp user notification. The trapped task is a thread of this process with a filter of its own for one
//! harmless call, getppid(2); it ends with the check. When the listener is closed the call returns ENOSYS, so the thread cannot hang.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;

use nix::errno::Errno;
use nix::poll::PollFlags;

use super::{LIMIT, expect};
use crate::sock;

/// linux/seccomp.h, which libc does not have yet.
const SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: libc::c_ulong = 1;
/// An answer that getppid() would not give.
const ANSWER: i64 = 0x51b0;

pub(super) fn answer() -> io::Result<String> {
    let trap = Trap::set(0)?;
    trap.respond(ANSWER, 0)?;
    expect(trap.returned()? == ANSWER, "the answer did not arrive")?;
    Ok(String::from("a trapped call was answered"))
}

pub(super) fn carry_on() -> io::Result<String> {
    let trap = Trap::set(0)?;
    // getppid() takes no arguments, so there is nothing that could change between the decision and the call.
    trap.respond(0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE)?;
    let parent = i64::from(nix::unistd::getppid().as_raw());
    expect(trap.returned()? == parent, "the call did not go on")?;
    Ok(String::from("a trapped call went on"))
}

pub(super) fn wait_killable() -> io::Result<String> {
    let trap = Trap::set(libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)?;
    trap.respond(ANSWER, 0)?;
    expect(trap.returned()? == ANSWER, "the answer did not arrive")?;
    Ok(String::from("only fatal signals interrupt a received call"))
}

pub(super) fn sync_wake_up() -> io::Result<String> {
    let trap = Trap::set(0)?;
    // SAFETY: this request takes a number, no pointer.
    let rc = unsafe {
        libc::ioctl(trap.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
    };
    Errno::result(rc)?;
    trap.respond(ANSWER, 0)?;
    expect(trap.returned()? == ANSWER, "the answer did not arrive")?;
    Ok(String::from("answers on the same CPU"))
}

pub(super) fn add_fd() -> io::Result<String> {
    let trap = Trap::set(0)?;
    let socket = sock::tcp4()?;
    let added = trap.install(&socket, 0)?;
    expect(sock::socket_cookie(added.as_fd())? == sock::socket_cookie(socket.as_fd())?, "another file was installed")?;
    trap.respond(ANSWER, 0)?;
    expect(trap.returned()? == ANSWER, "the answer did not arrive")?;
    Ok(String::from("a socket was installed"))
}

pub(super) fn add_fd_send() -> io::Result<String> {
    let trap = Trap::set(0)?;
    let socket = sock::tcp4()?;
    let added = trap.install(&socket, libc::SECCOMP_ADDFD_FLAG_SEND)?;
    expect(trap.returned()? == i64::from(added.as_raw_fd()), "the call did not return the descriptor")?;
    expect(sock::socket_cookie(added.as_fd())? == sock::socket_cookie(socket.as_fd())?, "another file was installed")?;
    Ok(String::from("a socket was installed as the answer"))
}

/// A thread that waits in a trapped call.
struct Trap {
    listener: OwnedFd,
    notification: libc::seccomp_notif,
    returned: mpsc::Receiver<i64>,
}

impl Trap {
    fn set(flags: libc::c_ulong) -> io::Result<Self> {
        let (tell_listener, listener) = mpsc::channel();
        let (tell_returned, returned) = mpsc::channel();
        std::thread::Builder::new().name(String::from("doctor")).spawn(move || {
            let installed = filter(flags);
            let trapped = installed.is_ok();
            if tell_listener.send(installed).is_ok() && trapped {
                // SAFETY: getppid takes no arguments and changes nothing.
                let value = unsafe { libc::syscall(libc::SYS_getppid) };
                // Nobody waits if the check has failed already.
                let _ = tell_returned.send(value);
            }
        })?;
        let listener = listener.recv_timeout(LIMIT).map_err(|_| Errno::ETIMEDOUT)??;
        sock::wait_for(listener.as_fd(), PollFlags::POLLIN, LIMIT)?;
        // SAFETY: a struct of integers, for which zero is a value; the kernel demands zeroes.
        let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: `notification` is the structure that this request writes, alive through the call. It does not block: poll said so, and
        // the thread cannot leave its call.
        let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification) };
        Errno::result(rc)?;
        expect(i64::from(notification.data.nr) == libc::SYS_getppid, "another call was trapped")?;
        Ok(Self { listener, notification, returned })
    }

    fn respond(&self, val: i64, flags: libc::c_ulong) -> io::Result<()> {
        let response = libc::seccomp_notif_resp { id: self.notification.id, val, error: 0, flags: flags as u32 };
        // SAFETY: `response` is the structure that this request reads, alive through the call.
        let rc = unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) };
        Ok(Errno::result(rc).map(drop)?)
    }

    /// Installs a duplicate of `fd`; as the thread shares its descriptors with us, it is ours.
    fn install(&self, fd: &OwnedFd, flags: libc::c_ulong) -> io::Result<OwnedFd> {
        let request = libc::seccomp_notif_addfd {
            id: self.notification.id,
            flags: flags as u32,
            srcfd: fd.as_raw_fd().unsigned_abs(),
            newfd: 0,
            newfd_flags: libc::O_CLOEXEC as u32,
        };
        // SAFETY: `request` is the structure that this request reads, alive through the call.
        let rc = unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const request) };
        let added = Errno::result(rc)?;
        // SAFETY: the kernel made this descriptor for the trapped thread, which has the same table and does not know of it.
        Ok(unsafe { OwnedFd::from_raw_fd(added) })
    }

    fn returned(&self) -> io::Result<i64> {
        self.returned.recv_timeout(LIMIT).map_err(|_| Errno::ETIMEDOUT.into())
    }
}

/// Puts a filter on this thread alone that hands getppid() to the listener, which it returns.
fn filter(flags: libc::c_ulong) -> io::Result<OwnedFd> {
    let word = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let jump = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The architecture is not looked at: only this thread's own code runs under the filter.
    let mut program = [
        step(word, 0, 0, std::mem::offset_of!(libc::seccomp_data, nr) as u32),
        step(jump, 0, 1, libc::SYS_getppid as u32),
        step(give, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        step(give, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: `program` points to the filter, whose length it gives; both live through the call, and the kernel copies them.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | flags,
            &raw const program,
        )
    };
    let fd = Errno::result(rc)?;
    // SAFETY: with NEW_LISTENER the call returns a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}
