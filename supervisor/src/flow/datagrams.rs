//! Between a UDP socket of the program and a datagram flow: a socket of the supervisor's stands for the peer.

use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use sipcore::agent::SessionId;
use sipcore::flow::{KEEP_ALIVE, Stream, is_keep_alive};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::trunk::Held;
use super::v4;
use crate::supervisor::Supervisor;

/// The largest datagram.
const LARGEST: usize = 65_536;

/// Bytes that wait here when the program is faster than this process is woken.
const BUFFER: usize = 4 << 20;
/// Datagrams that are taken before anything else is looked at.
const AT_ONCE: usize = 64;

/// A socket that stands for a peer of the program's socket at `program`. Its address, too.
pub fn stand_in(supervisor: &Supervisor, program: SocketAddrV4) -> std::io::Result<(Arc<UdpSocket>, SocketAddrV4)> {
    let socket = std::net::UdpSocket::bind((supervisor.physical, 0))?;
    socket.connect(program)?;
    socket.set_nonblocking(true)?;
    // What the host allows (net.core.rmem_max).
    let _ = setsockopt(&socket, sockopt::RcvBuf, &BUFFER);
    let address = v4(socket.local_addr()?)?;
    Ok((Arc::new(UdpSocket::from_std(socket)?), address))
}

/// Datagrams of a peer that has ended the flow are delivered for this long.
const LATE: Duration = Duration::from_millis(500);

/// Begins with `carrying` when what is returned is dropped: the program's socket knows the peer then. What comes before is not for somebody unknown.
pub fn once_known(
    carrying: impl Future<Output = ()> + Send,
) -> (Option<oneshot::Sender<()>>, impl Future<Output = ()>) {
    let (hears, known) = oneshot::channel::<()>();
    let known = async move {
        let _ = known.await;
        carrying.await;
    };
    (Some(hears), known)
}

/// Carries datagrams until the program closes its socket (`ended`), or the peer the flow.
pub fn carry(
    supervisor: Arc<Supervisor>,
    id: SessionId,
    held: Held,
    stream: Stream,
    socket: Arc<UdpSocket>,
    ended: oneshot::Receiver<()>,
) -> impl Future<Output = ()> + Send {
    // From here on: the program may end before this is polled.
    let busy = supervisor.sessions.links.busy();
    async move {
        carry_all(supervisor, id, held, stream, socket, ended).await;
        drop(busy);
    }
}

async fn carry_all(
    supervisor: Arc<Supervisor>,
    id: SessionId,
    held: Held,
    mut stream: Stream,
    socket: Arc<UdpSocket>,
    mut ended: oneshot::Receiver<()>,
) {
    let links = supervisor.sessions.links.clone();
    let number = stream.id();
    let mut ending = links.ending.subscribe();
    let mut buffer = vec![0; LARGEST];
    let ended_by_peer = 'carrying: loop {
        let ready = tokio::select! {
            ready = socket.readable() => ready,
            _ = stream.receive.read(1) => break true,
            _ = &mut ended => break false,
            _ = ending.wait_for(|ending| *ending) => break false,
        };
        if ready.is_err() {
            break false;
        }
        for _ in 0..AT_ONCE {
            match socket.try_recv(&mut buffer) {
                Ok(length) => {
                    if held.trunk().link.send_datagram(number, &buffer[..length]).await.is_err() {
                        break 'carrying false;
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                // An ICMP message: the program's socket is elsewhere for the moment.
                Err(_) => {}
            }
        }
        // The connection sends them.
        tokio::task::yield_now().await;
    };
    if ended_by_peer {
        // Its last datagrams may be behind the end of the stream: another task delivers them, and packets overtake each other.
        tokio::select! {
            () = tokio::time::sleep(LATE) => {}
            _ = &mut ended => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    }
    while let Some(length) = waiting(&socket, &mut buffer) {
        if held.trunk().link.send_datagram(number, &buffer[..length]).await.is_err() {
            break;
        }
    }
    held.trunk().detach(number);
    links.close(id);
    supervisor.sessions.forget(id);
    supervisor.forget_session(id);
    // QUIC sends datagrams before the end of a stream: once that has arrived, they have been on their way.
    stream.send.finish();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.send.stopped()).await;
    drop(held);
}

/// What the program sent before it closed is here already. The runtime may not know it yet: the kernel is asked.
fn waiting(socket: &UdpSocket, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => return Some(length),
            // An ICMP message, which stands before what waits.
            Err(Errno::ECONNREFUSED) => {}
            Err(_) => return None,
        }
    }
}

/// A socket towards a peer, in the clear.
pub struct Outer {
    /// Connected to the peer, or to who stands before it.
    pub socket: UdpSocket,
    /// The peer knows what keeps a path open from what its program is sent.
    pub sipbox: bool,
}

impl Outer {
    /// What finds no room is lost, as on the way.
    fn send(&self, data: &[u8]) {
        let _ = send(self.socket.as_raw_fd(), data, MsgFlags::MSG_DONTWAIT);
    }
}

/// A server between the two ends learns where each is from what it sends (latching), and forgets it, as NATs do, after some silence.
const REPEATED_FIRST: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(500)];
const REPEATED: Duration = Duration::from_secs(15);
/// Until it has, it passes nothing on: what a program sends waits, for this long, until the other end was heard.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Carries datagrams in the clear, until the program closes its socket or the session ends (`ended`).
pub fn carry_clear(
    supervisor: Arc<Supervisor>,
    id: SessionId,
    near: Arc<UdpSocket>,
    outer: Outer,
    ended: oneshot::Receiver<()>,
) -> impl Future<Output = ()> + Send {
    // From here on: program and session may end before this is polled.
    let (busy, hung_up) = (supervisor.sessions.links.busy(), supervisor.sessions.links.outlast(id));
    async move {
        carry_all_clear(supervisor, id, near, outer, (ended, hung_up)).await;
        drop(busy);
    }
}

async fn carry_all_clear(
    supervisor: Arc<Supervisor>,
    id: SessionId,
    near: Arc<UdpSocket>,
    outer: Outer,
    (mut ended, mut hung_up): (oneshot::Receiver<()>, oneshot::Receiver<()>),
) {
    let links = supervisor.sessions.links.clone();
    let mut ending = links.ending.subscribe();
    // Set when the peer has hung up: BYE goes another way than datagrams, and may overtake them.
    let mut last: Option<Instant> = None;
    let (mut out, mut back) = (vec![0; LARGEST], vec![0; LARGEST]);
    let mut repeated = 0;
    let mut next = Instant::now();
    // A peer of another kind may say nothing before it is asked.
    let (mut heard, patience) = (!outer.sipbox, next + HEARD_WITHIN);
    let mut over = false;
    while !(over && heard) {
        // An error is an ICMP message: nobody is there for the moment, and more may be sent.
        tokio::select! {
            received = near.recv(&mut out), if heard => {
                if let Ok(length) = received {
                    outer.send(&out[..length]);
                }
            }
            received = outer.socket.recv(&mut back) => {
                heard |= received.is_ok();
                if let Ok(length) = received
                    && !(outer.sipbox && is_keep_alive(&back[..length]))
                {
                    let _ = send(near.as_raw_fd(), &back[..length], MsgFlags::MSG_DONTWAIT);
                }
            }
            () = tokio::time::sleep_until(next) => {
                if outer.sipbox {
                    outer.send(&KEEP_ALIVE);
                }
                repeated += 1;
                next += REPEATED_FIRST.get(repeated).copied().unwrap_or(REPEATED);
            }
            _ = &mut hung_up, if last.is_none() => last = Some(Instant::now() + LATE),
            () = tokio::time::sleep_until(last.unwrap_or(next)), if last.is_some() => break,
            () = tokio::time::sleep_until(patience), if !heard => heard = true,
            _ = &mut ended, if !over => over = true,
            _ = ending.wait_for(|ending| *ending), if !over => over = true,
        }
    }
    while let Some(length) = waiting(&near, &mut out) {
        outer.send(&out[..length]);
    }
    links.close(id);
    supervisor.forget_session(id);
    supervisor.sessions.close(id);
}
