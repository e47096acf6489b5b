//! System calls past the C library, for the way of every trapped call: there they are cancellation points (pthreads(7)), and a process with
//! several threads pays two locked instructions for each, besides the call.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use nix::errno::Errno;

/// close(2).
#[inline]
pub fn close(fd: OwnedFd) {
    // SAFETY: an integer goes in; the descriptor is this one's own, and nobody uses it after this.
    unsafe { libc::syscall(libc::SYS_close, fd.into_raw_fd()) };
}

/// recvfrom(2): what it returns, and how long the source's struct sockaddr is, of which `name` has as much as fits.
#[inline]
pub(crate) fn recvfrom(
    fd: BorrowedFd<'_>,
    data: &mut [u8],
    flags: i32,
    name: &mut [u8],
) -> Result<(usize, usize), Errno> {
    let mut length = name.len() as libc::socklen_t;
    let (at, name) = (data.as_mut_ptr(), name.as_mut_ptr());
    // SAFETY: the kernel writes at most `data.len()` bytes to `data`, `length` bytes to `name`, and the true length; all outlive the call.
    let n = unsafe { libc::syscall(libc::SYS_recvfrom, fd.as_raw_fd(), at, data.len(), flags, name, &raw mut length) };
    Errno::result(n).map(|n| (n as usize, length as usize))
}

/// sendto(2); without a name (`&[]`) to where the socket is connected.
#[inline]
pub(crate) fn sendto(fd: BorrowedFd<'_>, data: &[u8], flags: i32, name: &[u8]) -> Result<usize, Errno> {
    let to = if name.is_empty() { std::ptr::null() } else { name.as_ptr() };
    // SAFETY: `data` and `name` are as long as said and outlive the call, which only reads them; without a name it is null and 0.
    let n =
        unsafe { libc::syscall(libc::SYS_sendto, fd.as_raw_fd(), data.as_ptr(), data.len(), flags, to, name.len()) };
    Errno::result(n).map(|n| n as usize)
}

/// accept4(2), and how long the peer's struct sockaddr is, of which `name` has as much as fits.
#[inline]
pub(crate) fn accept4(fd: BorrowedFd<'_>, name: &mut [u8], flags: i32) -> Result<(OwnedFd, usize), Errno> {
    let mut length = name.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `name`, and the true length; both outlive the call.
    let number = unsafe { libc::syscall(libc::SYS_accept4, fd.as_raw_fd(), name.as_mut_ptr(), &raw mut length, flags) };
    let number = Errno::result(number)?;
    // SAFETY: accept4 gave a new descriptor that nothing else owns.
    Ok((unsafe { OwnedFd::from_raw_fd(number as i32) }, length as usize))
}
