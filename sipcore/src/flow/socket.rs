//! A UDP socket of a link. The runtime is told of what comes in, and of nothing else: the kernel would wake it for each datagram that has left, too.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};
use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Errors that are read off a socket in a row, before others have their turn.
const MISHAPS: usize = 8;
/// A full socket is asked again after so long when no descriptor is free to wait for it.
const AGAIN: Duration = Duration::from_millis(1);

pub(super) struct Socket {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    pub base: SocketAddr,
    /// It took nothing when it was asked last.
    full: AtomicBool,
}

impl Socket {
    /// Takes a bound one in non-blocking mode.
    pub fn new(socket: UdpSocket) -> io::Result<Socket> {
        let base = socket.local_addr()?;
        let state = UdpSocketState::new((&socket).into())?;
        #[expect(deprecated, reason = "it is unsound for what does not own its descriptor: this does")]
        let io = AsyncFd::with_interest(socket, Interest::READABLE)?;
        Ok(Socket { io, state, base, full: AtomicBool::new(false) })
    }

    /// Sends one datagram that nobody waits for.
    pub fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        sendto(
            std::os::fd::AsRawFd::as_raw_fd(self.io.get_ref()),
            data,
            &SockaddrStorage::from(to),
            MsgFlags::MSG_DONTWAIT,
        )?;
        Ok(())
    }

    /// Sends datagrams, all or none.
    pub fn try_send(&self, outgoing: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send(self.io.get_ref().into(), outgoing);
        if sent.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            self.full.store(true, Ordering::Relaxed);
        }
        sent
    }

    /// Whether it took nothing when it was asked last.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Waits until it takes more.
    pub async fn writable(&self) -> io::Result<()> {
        if self.is_full() {
            let waiting = self.io.get_ref().try_clone().and_then(tokio::net::UdpSocket::from_std);
            match waiting {
                Ok(waiting) => waiting.writable().await?,
                Err(error) => {
                    tracing::debug!(%error, "a full socket is not waited for");
                    tokio::time::sleep(AGAIN).await;
                }
            }
            self.full.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// How many datagrams have come in. `None`: none; the runtime wakes whoever polls.
    pub fn poll_recv(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Option<usize> {
        let places = bufs.len().min(BATCH_SIZE);
        for _ in 0..MISHAPS {
            let Poll::Ready(Ok(mut ready)) = self.io.poll_read_ready(cx) else { return None };
            match self.state.recv(self.io.get_ref().into(), bufs, meta) {
                Ok(count) => {
                    // There were no more then, and those that have come since make it ready anew.
                    if count < places {
                        ready.clear_ready();
                    }
                    return Some(count);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                // An ICMP message about an earlier datagram (ECONNREFUSED), or an interface that is gone.
                Err(error) => tracing::trace!(%error, base = %self.base, "receive"),
            }
        }
        cx.waker().wake_by_ref();
        None
    }

    pub fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    pub fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    pub fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full socket is waited for, and takes more.
    #[tokio::test]
    async fn a_full_socket_is_waited_for() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = Socket::new(socket).unwrap();
        for _ in 0..3 {
            socket.full.store(true, Ordering::Relaxed);
            let waited = tokio::time::timeout(Duration::from_secs(30), socket.writable()).await;
            waited.unwrap().unwrap();
            assert!(!socket.is_full());
        }
        socket.send_to(b"more", socket.base).unwrap();
    }
}
