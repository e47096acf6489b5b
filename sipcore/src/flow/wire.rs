//! The sockets of one search for a path, as one socket for QUIC. STUN, TURN and DTLS are taken out of what comes in (RFC 9443); what goes out takes the
//! route that ICE has chosen. To QUIC the other end has one address for good: a change of route is not its business.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit as Outgoing};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, watch};

use super::paths::{Chosen, Paths, Route, Transmit, Verdict};
use super::socket::Socket;

/// The other end's address, for QUIC (TEST-NET-1, RFC 5737: it is nobody's).
pub(super) const PEER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 1));

/// Pieces that wait to be written to a relay. More are lost, as on the way.
const TO_RELAY: usize = 256;
/// Datagrams that came over connections and wait for QUIC.
const FROM_RELAYS: usize = 4096;

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection to a relay, as it is made.
pub(super) struct Connection {
    /// Number of the relay among the servers.
    pub relay: usize,
    pub base: SocketAddr,
    pub server: SocketAddr,
    pub reader: Reader,
    pub writer: Writer,
}

/// A connection to a relay.
struct Stream {
    base: SocketAddr,
    server: SocketAddr,
    write: mpsc::Sender<Bytes>,
}

/// What came over connections.
#[derive(Default)]
struct Inbox {
    datagrams: VecDeque<Vec<u8>>,
    waker: Option<Waker>,
}

/// How far the search for a path is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub gathered: bool,
    pub chosen: Option<Chosen>,
    pub lost: bool,
    /// The path in use is not answered by the other end any more.
    pub doubtful: bool,
    /// Pairs that have been checked, and how many there are.
    pub checked: usize,
    pub pairs: usize,
}

/// The sockets and the machine behind them.
pub(super) struct Wire {
    sockets: Vec<Socket>,
    streams: Vec<Stream>,
    inbox: Mutex<Inbox>,
    /// Where datagrams of DTLS go, if somebody speaks it.
    dtls: Mutex<Option<mpsc::Sender<Bytes>>>,
    paths: Mutex<Paths>,
    /// Servers whose datagrams are theirs, whatever their first byte.
    relays: Vec<SocketAddr>,
    /// The route, for who sends.
    route: Mutex<Option<Route>>,
    state: watch::Sender<State>,
    /// The timers have changed.
    changed: Notify,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("route", &*self.route.lock()).finish_non_exhaustive()
    }
}

impl Wire {
    /// Takes bound sockets in non-blocking mode, and connections to relays; `make` makes the machine of the addresses of both,
    /// for the connections with the numbers of their relays.
    pub fn new(
        sockets: Vec<UdpSocket>,
        connections: Vec<Connection>,
        relays: Vec<SocketAddr>,
        make: impl FnOnce(&[SocketAddr], &[(usize, SocketAddr)]) -> Paths,
    ) -> io::Result<(Arc<Wire>, Drive)> {
        let sockets: Vec<Socket> = sockets.into_iter().map(Socket::new).collect::<io::Result<_>>()?;
        let bases: Vec<SocketAddr> = sockets.iter().map(|socket| socket.base).collect();
        let (mut streams, mut ends, mut halves) = (Vec::new(), Vec::new(), Vec::new());
        for Connection { relay, base, server, reader, writer } in connections {
            let (write, written) = mpsc::channel(TO_RELAY);
            streams.push(Stream { base, server, write });
            ends.push((relay, base));
            halves.push((base, server, reader, writer, written));
        }
        let wire = Arc::new(Wire {
            sockets,
            streams,
            inbox: Mutex::default(),
            dtls: Mutex::new(None),
            paths: Mutex::new(make(&bases, &ends)),
            relays,
            route: Mutex::new(None),
            state: watch::Sender::new(State::default()),
            changed: Notify::new(),
        });
        let mut tasks = vec![tokio::spawn(drive(wire.clone()))];
        for (base, server, reader, writer, written) in halves {
            tasks.push(tokio::spawn(read_stream(wire.clone(), base, server, reader)));
            tasks.push(tokio::spawn(write_stream(writer, written)));
        }
        let drive = Drive(tasks);
        Ok((wire, drive))
    }

    /// Does something with the machine, and then what it asks for.
    pub fn with<T>(&self, act: impl FnOnce(&mut Paths, Instant) -> T) -> T {
        let out = self.act(act);
        self.changed.notify_one();
        out
    }

    fn act<T>(&self, act: impl FnOnce(&mut Paths, Instant) -> T) -> T {
        let now = Instant::now();
        let (out, transmits) = {
            let mut paths = self.paths.lock();
            let out = act(&mut paths, now);
            let (checked, pairs) = paths.progress();
            let state = State {
                gathered: paths.is_gathered(now),
                chosen: paths.chosen().copied(),
                lost: paths.is_lost(),
                doubtful: paths.is_doubtful(now),
                checked,
                pairs,
            };
            *self.route.lock() = state.chosen.map(|chosen| chosen.route);
            self.state.send_if_modified(|old| {
                let changed = *old != state;
                *old = state;
                changed
            });
            let mut transmits = Vec::new();
            while let Some(transmit) = paths.poll_transmit() {
                transmits.push(transmit);
            }
            (out, transmits)
        };
        for transmit in &transmits {
            self.send(transmit);
        }
        out
    }

    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Round trip of the path, by its checks.
    pub fn round_trip(&self) -> Option<Duration> {
        self.paths.lock().round_trip()
    }

    fn socket(&self, base: SocketAddr) -> Option<&Socket> {
        self.sockets.iter().find(|socket| socket.base == base)
    }

    /// What cannot be sent is lost, as on the way: whoever asked asks again.
    fn send(&self, transmit: &Transmit) {
        let to_relay = |stream: &&Stream| stream.base == transmit.base && stream.server == transmit.to;
        if let Some(stream) = self.streams.iter().find(to_relay) {
            let _ = stream.write.try_send(transmit.data.clone());
            return;
        }
        let Some(socket) = self.socket(transmit.base) else { return };
        if let Err(error) = socket.send_to(&transmit.data, transmit.to) {
            tracing::trace!(%error, to = %transmit.to, "a datagram of the search for a path was not sent");
        }
    }

    /// From now on datagrams of DTLS go there. What finds no room is lost, as on the way.
    pub fn divert(&self, dtls: mpsc::Sender<Bytes>) {
        *self.dtls.lock() = Some(dtls);
    }

    /// Waits until the socket that the route leads through takes more.
    pub async fn writable(&self) -> io::Result<()> {
        match self.sending() {
            Some(socket) => socket.writable().await,
            None => Ok(()),
        }
    }

    /// Whether it took nothing when it was asked last.
    pub fn is_full(&self) -> bool {
        self.sending().is_some_and(Socket::is_full)
    }

    /// Takes what is not QUIC out of received datagrams.
    fn sort_out(&self, socket: &Socket, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let from_relay = self.relays.contains(&meta.addr);
        let is_quic =
            |segment: &[u8]| segment.first().is_some_and(|byte| *byte > 3 && !is_dtls(segment)) && !from_relay;
        let from = meta.addr;
        meta.addr = PEER;
        meta.dst_ip = None;
        if buffer[..meta.len].chunks(stride).all(is_quic) {
            return;
        }
        let (mut kept, mut widest) = (0, 0);
        let mut at = 0;
        while at < meta.len {
            let end = (at + stride).min(meta.len);
            let segment = &buffer[at..end];
            let verdict = match (is_quic(segment), from_relay) {
                (true, _) => Verdict::Payload,
                (false, false) if is_dtls(segment) => self.hand_over(segment),
                _ => self.with(|paths, now| paths.handle(now, socket.base, from, segment)),
            };
            let verdict = match verdict {
                Verdict::Unwrapped(data) if is_dtls(&data) => self.hand_over(&data),
                other => other,
            };
            let length = match &verdict {
                Verdict::Taken => 0,
                Verdict::Payload => end - at,
                Verdict::Unwrapped(data) => data.len(),
            };
            match verdict {
                Verdict::Taken => {}
                Verdict::Payload => buffer.copy_within(at..end, kept),
                // Never longer than what it was wrapped in.
                Verdict::Unwrapped(data) => buffer[kept..kept + length].copy_from_slice(&data),
            }
            kept += length;
            widest = widest.max(length);
            at = end;
        }
        meta.len = kept;
        meta.stride = widest.max(1);
    }

    /// A datagram of DTLS.
    fn hand_over(&self, datagram: &[u8]) -> Verdict {
        if let Some(dtls) = &*self.dtls.lock() {
            let _ = dtls.try_send(Bytes::copy_from_slice(datagram));
        }
        Verdict::Taken
    }

    /// Datagrams that came over connections, if there are any.
    fn take_inbox(&self, cx: &Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Option<usize> {
        if self.streams.is_empty() {
            return None;
        }
        let mut inbox = self.inbox.lock();
        let mut count = 0;
        for (buffer, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
            let Some(data) = inbox.datagrams.pop_front() else { break };
            let length = data.len().min(buffer.len());
            buffer[..length].copy_from_slice(&data[..length]);
            *meta = RecvMeta { addr: PEER, len: length, stride: length.max(1), ecn: None, dst_ip: None };
            count += 1;
        }
        if count == 0 {
            inbox.waker = Some(cx.waker().clone());
            return None;
        }
        Some(count)
    }

    fn send_relayed(&self, relay: usize, to: SocketAddr, outgoing: &Outgoing<'_>) {
        let segment = outgoing.segment_size.unwrap_or(outgoing.contents.len()).max(1);
        let now = Instant::now();
        for data in outgoing.contents.chunks(segment) {
            let wrapped = self.paths.lock().wrap(now, relay, to, data);
            if let Some(transmit) = wrapped {
                self.send(&transmit);
            }
        }
    }

    /// The end: relays are given back.
    pub fn close(&self) {
        self.with(|paths, now| paths.close(now));
    }

    /// The socket that the route leads through.
    fn sending(&self) -> Option<&Socket> {
        match (*self.route.lock())? {
            Route::Direct { base, .. } | Route::Relayed { base, .. } => self.socket(base),
        }
    }
}

/// Whether a datagram is one of DTLS, by its first byte (RFC 9443 section 2).
fn is_dtls(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|byte| (20..64).contains(byte))
}

/// Keeps the machine's time. Ends when it is aborted.
async fn drive(wire: Arc<Wire>) {
    loop {
        let next = wire.paths.lock().poll_timeout(Instant::now());
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => wire.act(|paths, now| paths.handle_timeout(now)),
            () = wire.changed.notified() => {}
        }
    }
}

/// Ends the tasks of a wire with the one who holds this.
pub(super) struct Drive(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Drive {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn read_stream(wire: Arc<Wire>, base: SocketAddr, server: SocketAddr, mut reader: Reader) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = reader.read(&mut buffer).await.unwrap_or(0);
        let mut came = wire.with(|paths, now| paths.handle_stream(now, base, server, &buffer[..count]));
        came.retain(|datagram| !is_dtls(datagram) || wire.hand_over(datagram) != Verdict::Taken);
        if !came.is_empty() {
            let mut inbox = wire.inbox.lock();
            let room = FROM_RELAYS.saturating_sub(inbox.datagrams.len());
            inbox.datagrams.extend(came.into_iter().take(room));
            if let Some(waker) = inbox.waker.take() {
                waker.wake();
            }
        }
        if count == 0 {
            return;
        }
    }
}

async fn write_stream(mut writer: Writer, mut written: mpsc::Receiver<Bytes>) {
    while let Some(data) = written.recv().await {
        // That it is broken is seen by who reads.
        if writer.write_all(&data).await.is_err() {
            return;
        }
        // A record of TLS may have stayed behind.
        if written.is_empty() && writer.flush().await.is_err() {
            return;
        }
    }
}

impl Wire {
    /// Sends datagrams to the other end.
    pub fn try_send(&self, outgoing: &Outgoing<'_>) -> io::Result<()> {
        let route = *self.route.lock();
        match route {
            // There is no way yet, or not any more: lost on the way.
            None => Ok(()),
            Some(Route::Relayed { relay, to, .. }) => {
                self.send_relayed(relay, to, outgoing);
                Ok(())
            }
            Some(Route::Direct { base, to }) => {
                let Some(socket) = self.socket(base) else { return Ok(()) };
                let outgoing = Outgoing { destination: to, src_ip: None, ..outgoing.clone() };
                socket.try_send(&outgoing)
            }
        }
    }

    /// What has come in for QUIC.
    pub fn poll_recv(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<usize> {
        if let Some(count) = self.take_inbox(cx, bufs, meta) {
            return Poll::Ready(count);
        }
        for socket in &self.sockets {
            if let Some(count) = socket.poll_recv(cx, bufs, meta) {
                for (buffer, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(count) {
                    self.sort_out(socket, buffer, meta);
                }
                return Poll::Ready(count);
            }
        }
        Poll::Pending
    }

    pub fn max_transmit_segments(&self) -> usize {
        self.sockets.iter().map(Socket::max_transmit_segments).min().unwrap_or(1)
    }

    pub fn max_receive_segments(&self) -> usize {
        self.sockets.iter().map(Socket::max_receive_segments).max().unwrap_or(1)
    }

    pub fn may_fragment(&self) -> bool {
        self.sockets.iter().any(Socket::may_fragment)
    }
}
