//! A relay between two connected stream sockets, by splice(2): the bytes stay in the kernel.
//!
//! To the two programs it looks like one connection: the end of one direction is passed on as such (FIN) while the other goes on, and a
//! reset on one side becomes a reset on the other. Urgent (out-of-band) data of TCP is passed on as such.
//!
//! A write to a socket that was reset raises SIGPIPE, which the Rust runtime ignores; a process that changes that must not use this.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{self, MsgFlags, Shutdown, sockopt};
use nix::unistd::pipe2;
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sock;

/// How much a large pipe holds: 1 MiB is what an ordinary user may ask for, and carries half as much again as 64 KiB.
const LARGE: libc::c_int = 1024 * 1024;
/// How many pipes may be large; the others hold the usual 64 KiB. An ordinary user may have 64 MiB in pipes, and past that every new pipe
/// of that user shrinks to two pages (pipe(7)), the pipes of the applications too.
const LARGE_PIPES: usize = 16;
/// How many empty pipes are kept. A pipe is in use only while bytes are in it: an idle relay has none.
const PIPES_KEPT: usize = 32;

static PIPES: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());
static PIPES_LIVING: AtomicUsize = AtomicUsize::new(0);
/// Relays whose first socket may still have something to deliver.
static FLOWING: AtomicUsize = AtomicUsize::new(0);

/// How many relays are still carrying from the first socket to the second: 0 when all that was sent by the first sockets, which have all
/// been closed, has arrived.
pub fn flowing() -> usize {
    FLOWING.load(Ordering::Acquire)
}

/// Counted while a direction goes on.
struct Flowing;

impl Flowing {
    fn begin() -> Flowing {
        FLOWING.fetch_add(1, Ordering::AcqRel);
        Flowing
    }
}

impl Drop for Flowing {
    fn drop(&mut self) {
        FLOWING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How many bytes went each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// From the first socket to the second.
    pub a_to_b: u64,
    /// From the second socket to the first.
    pub b_to_a: u64,
}

/// One of the two sockets of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

/// A relay that ended by an error; the other side was reset.
#[derive(Debug, thiserror::Error)]
#[error("side {side:?} of a relay broke: {source}")]
pub struct Broken {
    /// The socket that broke.
    pub side: Side,
    /// What was delivered until then.
    pub totals: Totals,
    /// Why: ECONNRESET, ETIMEDOUT, ...
    pub source: io::Error,
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        broken.source
    }
}

/// Carries bytes both ways between two connected stream sockets of the supervisor's own until both directions have ended. Both are put
/// into non-blocking mode and are closed at the end. To be called in a tokio runtime with I/O. If the future is dropped, both are closed.
///
/// # Errors
/// [`Broken`] when one side is reset or fails. What it had sent before is still delivered as far as the other side takes it at
/// once, then the other side is reset as well.
pub fn relay(a: OwnedFd, b: OwnedFd) -> impl Future<Output = Result<Totals, Broken>> + Send {
    // Counted before the future is polled: whoever makes it may end at once.
    carry(a, b, Flowing::begin())
}

async fn carry(a: OwnedFd, b: OwnedFd, flowing: Flowing) -> Result<Totals, Broken> {
    let (mut there, mut back) = (Half::default(), Half::default());
    let mut flowing = Some(flowing);
    let (a, b) = match (register(a), register(b)) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(source), _) => return Err(Broken { side: Side::A, totals: Totals::default(), source }),
        (_, Err(source)) => return Err(Broken { side: Side::B, totals: Totals::default(), source }),
    };
    let outcome = both_ways(&a, &b, &mut there, &mut back, &mut flowing).await;
    if let Err((side, _)) = &outcome {
        let (dead, alive, half) = match side {
            Side::A => (&a, &b, &mut there),
            Side::B => (&b, &a, &mut back),
        };
        half.drain(dead.get_ref().as_fd(), alive.get_ref().as_fd());
        for fd in [dead, alive] {
            // It was a socket when it was registered; there is nobody to tell otherwise.
            let _ = sock::reset_on_close(fd.get_ref().as_fd());
        }
    }
    let totals = Totals { a_to_b: there.total, b_to_a: back.total };
    outcome.map(|()| totals).map_err(|(side, source)| Broken { side, totals, source })
}

fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    sock::set_nonblocking(fd.as_fd())?;
    // The program's own side decides about Nagle; here it would only add to the delay. AF_UNIX has no such thing.
    let _ = socket::setsockopt(&fd, sockopt::TcpNoDelay, &true);
    let interest = Interest::READABLE | Interest::PRIORITY | Interest::WRITABLE | Interest::ERROR;
    // SAFETY: an OwnedFd names the same open descriptor, which nobody else closes, until the AsyncFd that owns it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

async fn both_ways(
    a: &AsyncFd<OwnedFd>,
    b: &AsyncFd<OwnedFd>,
    there: &mut Half,
    back: &mut Half,
    flowing: &mut Option<Flowing>,
) -> Result<(), (Side, io::Error)> {
    let mut there = pin!(there.pump((Side::A, a), (Side::B, b)));
    let mut back = pin!(back.pump((Side::B, b), (Side::A, a)));
    // Where one direction has ended nobody reads the socket any more, and a reset of it shows only as an error.
    let mut a_breaks = pin!(breaks(a));
    let mut b_breaks = pin!(breaks(b));
    let (mut there_ended, mut back_ended) = (false, false);
    std::future::poll_fn(|cx| {
        if !there_ended && let Poll::Ready(ended) = there.as_mut().poll(cx) {
            ended?;
            there_ended = true;
            *flowing = None;
        }
        if !back_ended && let Poll::Ready(ended) = back.as_mut().poll(cx) {
            ended?;
            back_ended = true;
        }
        if there_ended && back_ended {
            return Poll::Ready(Ok(()));
        }
        if there_ended && let Poll::Ready(e) = a_breaks.as_mut().poll(cx) {
            return Poll::Ready(Err((Side::A, e)));
        }
        if back_ended && let Poll::Ready(e) = b_breaks.as_mut().poll(cx) {
            return Poll::Ready(Err((Side::B, e)));
        }
        Poll::Pending
    })
    .await
}

/// Ends when the socket has a pending error.
async fn breaks(fd: &AsyncFd<OwnedFd>) -> io::Error {
    loop {
        match fd.ready(Interest::ERROR).await {
            Ok(mut ready) => {
                if let Err(e) = sock::check_error(fd.get_ref().as_fd()) {
                    return e;
                }
                ready.clear_ready();
            }
            Err(e) => return e,
        }
    }
}

/// One direction.
#[derive(Default)]
struct Half {
    /// There while bytes are under way in it.
    pipe: Option<Pipe>,
    inside: usize,
    /// What follows that.
    mark: Option<Mark>,
    total: u64,
}

/// Urgent data, and what was read behind it.
struct Mark {
    urgent: Option<u8>,
    after: Vec<u8>,
}

impl Mark {
    /// At most so many bytes are read behind the urgent one.
    const AFTER: usize = 4096;

    /// Of a socket that is at its mark. EAGAIN: the urgent byte is still to come.
    fn take(from: BorrowedFd<'_>) -> io::Result<Mark> {
        let receive =
            |room: &mut [u8], flags| match socket::recv(from.as_raw_fd(), room, flags | MsgFlags::MSG_DONTWAIT) {
                // The byte was read before.
                Err(Errno::EINVAL) if flags == MsgFlags::MSG_OOB => Ok(0),
                received => received,
            };
        let mut byte = [0];
        let urgent = (receive(&mut byte, MsgFlags::MSG_OOB)? > 0).then_some(byte[0]);
        // This leaves the mark, even if there is nothing behind it (tcp_recvmsg_locked).
        let mut after = vec![0; Mark::AFTER];
        let length =
            receive(&mut after, MsgFlags::empty()).or_else(|e| if e == Errno::EAGAIN { Ok(0) } else { Err(e) })?;
        after.truncate(length);
        Ok(Mark { urgent, after })
    }
}

impl Half {
    async fn pump(
        &mut self,
        (source, from): (Side, &AsyncFd<OwnedFd>),
        (sink, to): (Side, &AsyncFd<OwnedFd>),
    ) -> Result<(), (Side, io::Error)> {
        let at_source = |e| (source, e);
        let at_sink = |e| (sink, e);
        loop {
            let mut ready = from.ready(Interest::READABLE | Interest::PRIORITY).await.map_err(at_source)?;
            let urgent = ready.ready().is_priority();
            match ready.try_io(|from| self.take(from.get_ref().as_fd(), urgent)) {
                Ok(Ok(false)) => break,
                Ok(taken) => drop(taken.map_err(at_source)?),
                Err(_would_block) => continue,
            }
            while self.inside > 0 || self.mark.is_some() {
                let mut ready = to.writable().await.map_err(at_sink)?;
                if let Ok(emptied) = ready.try_io(|to| self.give(to.get_ref().as_fd())) {
                    emptied.map_err(at_sink)?;
                }
            }
        }
        match socket::shutdown(to.as_raw_fd(), Shutdown::Write) {
            Ok(()) => Ok(()),
            // It was reset meanwhile: the pending error, if nobody took it yet, says more.
            Err(e) => Err(at_sink(sock::check_error(to.get_ref().as_fd()).err().unwrap_or(e.into()))),
        }
    }

    /// From the socket; `false` at the end of the stream. splice(2) goes up to urgent data and no further, and that looks like the end if the end has
    /// come, too (tcp_read_sock). `urgent`: there may be some.
    fn take(&mut self, from: BorrowedFd<'_>, urgent: bool) -> io::Result<bool> {
        let filled = self.fill(from);
        let is_stuck = match &filled {
            Ok(count) => *count == 0,
            Err(e) => urgent && e.kind() == io::ErrorKind::WouldBlock,
        };
        // AF_UNIX may have no mark.
        if is_stuck && sock::is_at_mark(from).unwrap_or(false) {
            self.mark = Some(Mark::take(from)?);
            return Ok(true);
        }
        Ok(filled? > 0)
    }

    /// Into the socket, as much as it takes.
    fn give(&mut self, to: BorrowedFd<'_>) -> io::Result<()> {
        if self.inside > 0 {
            return self.empty(to);
        }
        let Some(mark) = &mut self.mark else { return Ok(()) };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        if let Some(byte) = mark.urgent {
            socket::send(to.as_raw_fd(), &[byte], flags | MsgFlags::MSG_OOB)?;
            mark.urgent = None;
            self.total += 1;
        }
        if !mark.after.is_empty() {
            let sent = socket::send(to.as_raw_fd(), &mark.after, flags)?;
            mark.after.drain(..sent);
            self.total += sent as u64;
        }
        if mark.after.is_empty() {
            self.mark = None;
        }
        Ok(())
    }

    /// From the socket into the pipe; 0 at the end of the stream. The pipe is empty before.
    fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<usize> {
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => Pipe::get()?,
        };
        let filled = splice_some(from, pipe.write.as_fd(), pipe.size);
        match filled {
            Ok(n) if n > 0 => {
                self.inside = n;
                self.pipe = Some(pipe);
            }
            _ => pipe.put(),
        }
        filled
    }

    /// From the pipe into the socket, as much as it takes.
    fn empty(&mut self, to: BorrowedFd<'_>) -> io::Result<()> {
        let Some(pipe) = self.pipe.take() else { return Ok(()) };
        match splice_some(pipe.read.as_fd(), to, self.inside) {
            Ok(n) => {
                self.inside -= n;
                self.total += n as u64;
                if self.inside == 0 {
                    pipe.put();
                } else {
                    self.pipe = Some(pipe);
                }
                Ok(())
            }
            Err(e) => {
                self.pipe = Some(pipe);
                Err(e)
            }
        }
    }

    /// Delivers what a broken socket still has, as far as the other takes it without waiting.
    fn drain(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
        loop {
            while self.inside > 0 || self.mark.is_some() {
                if self.give(to).is_err() {
                    return;
                }
            }
            if !self.take(from, true).unwrap_or(false) {
                return;
            }
        }
    }
}

fn splice_some(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    loop {
        match splice(from, None, to, None, len, SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK) {
            Err(Errno::EINTR) => {}
            moved => return Ok(moved?),
        }
    }
}

/// An empty pipe, when it is got and when it is put back.
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
}

impl Pipe {
    fn get() -> io::Result<Self> {
        if let Some(pipe) = PIPES.lock().pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let mut size = fcntl(&write, FcntlArg::F_GETPIPE_SZ)?;
        if PIPES_LIVING.fetch_add(1, Ordering::Relaxed) < LARGE_PIPES {
            // Where that is refused it stays as it is.
            size = fcntl(&write, FcntlArg::F_SETPIPE_SZ(LARGE)).unwrap_or(size);
        }
        Ok(Self { read, write, size: size.unsigned_abs() as usize })
    }

    fn put(self) {
        let mut kept = PIPES.lock();
        if kept.len() < PIPES_KEPT {
            kept.push(self);
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        PIPES_LIVING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
