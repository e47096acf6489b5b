//! Waiting for a descriptor within tokio.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sock;

/// How soon an operation is tried again that is not done although the descriptor says that it is ready for good.
const AGAIN: Duration = Duration::from_millis(10);

/// Repeats `operation` each time that `fd` becomes ready for `interest`, until it says something else than EAGAIN. It is
/// tried at once first. Must run within a tokio runtime with I/O enabled.
pub async fn when_ready<T>(
    fd: BorrowedFd<'_>,
    interest: Interest,
    mut operation: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match operation() {
        Err(Errno::EAGAIN) => {}
        other => return other,
    }
    // SAFETY: `fd` is borrowed for longer than the registration lives, and a BorrowedFd always gives the same number.
    let ready = unsafe { AsyncFd::register_with_interest(fd, interest) };
    let ready = ready.map_err(|e| Errno::from_raw(io::Error::from(e).raw_os_error().unwrap_or(libc::EIO)))?;
    loop {
        let mut guard = if interest.is_readable() { ready.readable().await } else { ready.writable().await }
            .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
        match operation() {
            Err(Errno::EAGAIN) => {
                let ready = guard.ready();
                guard.clear_ready();
                // That an end is closed is never cleared: there is no further event to wait for, and no loop to run.
                if ready.is_read_closed() || ready.is_write_closed() || ready.is_error() {
                    tokio::time::sleep(AGAIN).await;
                }
            }
            other => return other,
        }
    }
}

/// A socket for which tokio waits until something comes, and not until it has room, too: every datagram that leaves makes room, and
/// each would wake who sent it a second time. Must run within a tokio runtime with I/O enabled.
pub fn readable(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor, which nobody else closes, until the AsyncFd that owns it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Waits until the connect() under way on `fd` has ended; its error, if it failed.
pub async fn connected(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    when_ready(fd, Interest::WRITABLE, || {
        if sock::peer_addr(fd).is_ok() {
            return Ok(());
        }
        if !sock::is_ready(fd, PollFlags::POLLOUT) {
            return Err(Errno::EAGAIN);
        }
        sock::check_error(fd).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
    })
    .await
}
