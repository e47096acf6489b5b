//! SIP over UDP: a socket that loses nothing to bursts. The kernel keeps some hundred short messages for a socket, and of a message that it threw
//! away one hears again after half a second (timer E, RFC 3261 17.1.2.2), if at all: so what has come is taken out before the rest is worked on, and
//! what does not go out at once waits.

use super::driver::Core;
use super::refusals;
use super::tap::count;
use super::{Flow, Machine, Sign, Transport, stun};
use crate::message::Message;
use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

/// Bytes that the kernel keeps in each direction, as far as the host allows it (net.core.rmem_max).
const SOCKET_BUFFER: usize = 1 << 20;
/// What is kept here in each direction, in bytes. Above it the kernel keeps the rest, or throws it away.
const QUEUE_LIMIT: usize = 4 << 20;
/// What a kept datagram costs beside its bytes.
const OVERHEAD: usize = 64;
/// Datagrams that are worked on before the socket is looked at again.
const BATCH: usize = 16;
/// Batches after which the other tasks of this thread get their turn.
const BATCHES: usize = 8;
/// A network device that was full has sent something after this time.
const DEVICE_PAUSE: Duration = Duration::from_millis(1);

/// Datagrams in their order, in bounded memory.
#[derive(Debug, Default)]
struct Queue {
    datagrams: VecDeque<(SocketAddr, Bytes)>,
    bytes: usize,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.bytes >= QUEUE_LIMIT
    }

    fn push(&mut self, remote: SocketAddr, datagram: Bytes) {
        self.bytes += datagram.len() + OVERHEAD;
        self.datagrams.push_back((remote, datagram));
    }

    fn pop(&mut self) -> Option<(SocketAddr, Bytes)> {
        let first = self.datagrams.pop_front()?;
        self.bytes -= first.1.len() + OVERHEAD;
        Some(first)
    }
}

/// The UDP socket of a listening point.
pub(super) struct Datagrams {
    socket: UdpSocket,
    /// The only address that it exchanges datagrams with.
    connected: Option<SocketAddr>,
    outbox: Mutex<Queue>,
    wake: Notify,
}

impl Datagrams {
    /// Takes a bound socket over.
    pub async fn new(socket: UdpSocket, next_hop: Option<SocketAddr>) -> io::Result<Datagrams> {
        let _ = setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER);
        let _ = setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER);
        if let Some(hop) = next_hop {
            socket.connect(hop).await?;
        }
        // A new socket counts as not writable until the reactor has seen it once.
        socket.writable().await?;
        if next_hop.is_none() {
            refusals::watch(&socket)?;
        }
        Ok(Datagrams { socket, connected: next_hop, outbox: Mutex::default(), wake: Notify::new() })
    }

    /// The only address that it exchanges datagrams with.
    pub fn connected(&self) -> Option<SocketAddr> {
        self.connected
    }

    /// Sends, or keeps until the socket takes it. An error of the kind `WouldBlock` means that too much is kept already.
    pub fn send(&self, payload: Bytes, remote: SocketAddr) -> io::Result<()> {
        let mut outbox = self.outbox.lock();
        if outbox.datagrams.is_empty() {
            match self.send_now(&payload, remote) {
                Err(error) if is_full(&error) => {}
                done => return done,
            }
        }
        if outbox.is_full() {
            return Err(ErrorKind::WouldBlock.into());
        }
        outbox.push(remote, payload);
        self.wake.notify_one();
        Ok(())
    }

    fn send_now(&self, payload: &[u8], remote: SocketAddr) -> io::Result<()> {
        let once = || match self.connected {
            Some(_) => self.socket.try_send(payload),
            None => self.socket.try_send_to(payload, remote),
        };
        match once() {
            Ok(_) => Ok(()),
            // The refusal belongs to an earlier datagram; this one was not sent. Unconnected, it may be that of another address.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => match (once(), self.connected) {
                (Ok(_), None) => Ok(()),
                (Err(again), None) => Err(again),
                (_, Some(_)) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Sends what waits. What failed, with its address; `Ok` when nothing waits any more.
    fn flush(&self) -> Result<(), (SocketAddr, io::Error)> {
        let mut outbox = self.outbox.lock();
        while let Some((remote, payload)) = outbox.datagrams.front() {
            let remote = *remote;
            let sent = self.send_now(payload, remote);
            if !sent.as_ref().is_err_and(is_full) {
                outbox.pop();
            }
            sent.map_err(|error| (remote, error))?;
        }
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self.connected {
            Some(remote) => self.socket.try_recv(buffer).map(|n| (n, remote)),
            None => self.socket.try_recv_from(buffer),
        }
    }

    /// Takes out what has come, as much as there is room for.
    fn drain(&self, buffer: &mut [u8], inbox: &mut Queue, refused: &mut Option<io::Error>) {
        while !inbox.is_full() {
            match self.receive(buffer) {
                Ok((n, remote)) => inbox.push(remote, Bytes::copy_from_slice(buffer.get(..n).unwrap_or_default())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => *refused = Some(error),
            }
        }
    }
}

/// The socket, or the queue of the network device behind it, takes no more just now. The latter, ENOBUFS, is only told to sockets that want to hear of
/// refusals (ip(7), IP_RECVERR; udp_send_skb() in the kernel), and nothing tells when it is over.
fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

fn flow(local: u16, remote: SocketAddr) -> Flow {
    Flow { transport: Transport::Udp, local, remote }
}

/// Reads, for as long as the driver lives. `addr` is what others know the socket by.
pub(super) async fn read<M: Machine>(core: Arc<Core<M>>, local: u16, addr: SocketAddr, udp: Arc<Datagrams>) {
    let mut buffer = vec![0; 65536];
    let mut inbox = Queue::default();
    loop {
        let Ok(ready) = udp.socket.ready(Interest::READABLE | Interest::ERROR).await else { return };
        if ready.is_error() {
            for remote in refusals::take(&udp.socket) {
                core.unreachable(flow(local, remote), "Connection refused");
            }
        }
        for batch in 1.. {
            let mut refused = None;
            udp.drain(&mut buffer, &mut inbox, &mut refused);
            if let (Some(error), Some(remote)) = (refused, udp.connected) {
                core.unreachable(flow(local, remote), &error.to_string());
            }
            for _ in 0..BATCH {
                let Some((remote, datagram)) = inbox.pop() else { break };
                take(&core, flow(local, remote), addr, datagram);
            }
            if inbox.datagrams.is_empty() {
                break;
            }
            if batch % BATCHES == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

fn take<M: Machine>(core: &Arc<Core<M>>, flow: Flow, local: SocketAddr, datagram: Bytes) {
    if stun::is_stun(&datagram) {
        return core.with(|machine, now| machine.handle_sign(now, flow, Sign::Stun(&datagram)));
    }
    if datagram.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return; // keep-alive
    }
    match Message::parse_datagram(datagram) {
        Ok(message) => core.receive(flow, local, message),
        Err(_) => count(&core.cells.garbage),
    }
}

/// Sends what could not go out at once, for as long as the driver lives.
pub(super) async fn write<M: Machine>(core: Arc<Core<M>>, local: u16, udp: Arc<Datagrams>) {
    loop {
        udp.wake.notified().await;
        while let Err((remote, error)) = udp.flush() {
            match error.kind() {
                ErrorKind::WouldBlock => {
                    if udp.socket.writable().await.is_err() {
                        return;
                    }
                }
                _ if is_full(&error) => tokio::time::sleep(DEVICE_PAUSE).await,
                _ => {
                    count(&core.cells.unsent);
                    core.unreachable(flow(local, remote), &error.to_string());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (Datagrams, std::net::UdpSocket) {
        let ours = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let theirs = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        theirs.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        (Datagrams::new(ours, None).await.unwrap(), theirs)
    }

    /// More than any receive buffer of the kernel keeps is sent in turns with draining: all of it is there, in its order.
    #[tokio::test]
    async fn a_burst_is_kept_in_its_order() {
        let (ours, theirs) = pair().await;
        let to = ours.socket.local_addr().unwrap();
        let mut inbox = Queue::default();
        let mut buffer = vec![0; 65536];
        let mut sent = 0u32;
        for _ in 0..100 {
            for _ in 0..50 {
                let mut payload = vec![b'x'; 600];
                payload[..4].copy_from_slice(&sent.to_be_bytes());
                theirs.send_to(&payload, to).unwrap();
                sent += 1;
            }
            ours.socket.readable().await.unwrap();
            ours.drain(&mut buffer, &mut inbox, &mut None);
        }
        while inbox.datagrams.len() < sent as usize {
            ours.socket.readable().await.unwrap();
            ours.drain(&mut buffer, &mut inbox, &mut None);
        }
        for number in 0..sent {
            let (_, datagram) = inbox.pop().unwrap();
            assert_eq!(datagram[..4], number.to_be_bytes());
        }
        assert_eq!(inbox.bytes, 0);
    }

    /// A sender that never ends fills the queue, and not the memory.
    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let (ours, theirs) = pair().await;
        let to = ours.socket.local_addr().unwrap();
        let mut inbox = Queue::default();
        let mut buffer = vec![0; 65536];
        while !inbox.is_full() {
            theirs.send_to(&[b'x'; 60_000], to).unwrap();
            ours.socket.readable().await.unwrap();
            ours.drain(&mut buffer, &mut inbox, &mut None);
        }
        theirs.send_to(b"one more", to).unwrap();
        ours.drain(&mut buffer, &mut inbox, &mut None);
        assert!(inbox.bytes < QUEUE_LIMIT + 60_000 + OVERHEAD, "{}", inbox.bytes);
    }

    /// What comes after something that waits goes out after it. (On loopback a socket takes everything: that something waits is made here.)
    #[tokio::test]
    async fn what_waits_goes_out_first() {
        let (ours, theirs) = pair().await;
        let to = theirs.local_addr().unwrap();
        ours.outbox.lock().push(to, Bytes::from_static(b"first"));
        ours.send(Bytes::from_static(b"second"), to).unwrap();
        ours.wake.notified().await;
        ours.flush().unwrap();
        ours.send(Bytes::from_static(b"third"), to).unwrap();
        let mut buffer = [0; 16];
        for expected in ["first", "second", "third"] {
            let n = theirs.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], expected.as_bytes());
        }
        assert_eq!(ours.outbox.lock().bytes, 0);
    }

    #[test]
    fn a_full_device_is_waited_for() {
        assert!(is_full(&io::Error::from_raw_os_error(Errno::ENOBUFS as i32)));
        assert!(is_full(&io::Error::from_raw_os_error(Errno::EAGAIN as i32)));
        assert!(!is_full(&io::Error::from_raw_os_error(Errno::ECONNREFUSED as i32)));
    }

    /// A network that takes nothing costs bounded memory, and the caller is told.
    #[tokio::test]
    async fn what_waits_is_bounded() {
        let (ours, theirs) = pair().await;
        let to = theirs.local_addr().unwrap();
        let payload = Bytes::from(vec![b'x'; 600]);
        ours.outbox.lock().push(to, payload.clone());
        let refused = (0..2 * QUEUE_LIMIT / payload.len()).find_map(|_| ours.send(payload.clone(), to).err());
        assert_eq!(refused.map(|error| error.kind()), Some(ErrorKind::WouldBlock));
        assert!(ours.outbox.lock().bytes < QUEUE_LIMIT + payload.len() + OVERHEAD);
    }
}
