//! One socket for QUIC, whatever wires carry it: a session that looks for a path anew has one wire that works, or did, and one to come
//! (RFC 8445 section 2.4). What comes in is taken from all of them; what goes out takes the current one.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quinn::udp::{RecvMeta, Transmit as Outgoing};
use quinn::{AsyncUdpSocket, UdpPoller};

use tokio::sync::mpsc;

use super::wire::Wire;

/// Datagrams of DTLS that wait to be handled.
const DTLS: usize = 4096;

/// The wires of one link.
pub(super) struct Switch {
    wires: RwLock<Wires>,
    /// Who waits for something to come in.
    waker: Mutex<Option<Waker>>,
    /// The datagram that was sent last.
    last: Mutex<Vec<u8>>,
    /// Where datagrams of DTLS go, if somebody speaks it.
    dtls: Mutex<Option<mpsc::Sender<Bytes>>>,
    begun: Instant,
    /// When something came in for QUIC: microseconds after that.
    heard: AtomicU64,
}

struct Wires {
    current: Arc<Wire>,
    /// Those to come, and those that were.
    others: Vec<Arc<Wire>>,
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").field("current", &self.wires.read().current).finish_non_exhaustive()
    }
}

impl Switch {
    pub fn new(current: Arc<Wire>) -> Arc<Switch> {
        let wires = RwLock::new(Wires { current, others: Vec::new() });
        Arc::new(Switch {
            wires,
            waker: Mutex::default(),
            last: Mutex::default(),
            dtls: Mutex::default(),
            begun: Instant::now(),
            heard: AtomicU64::new(0),
        })
    }

    /// For how long nothing has come in for QUIC.
    pub fn silence(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_micros(self.heard.load(Ordering::Relaxed)))
    }

    pub fn current(&self) -> Arc<Wire> {
        self.wires.read().current.clone()
    }

    /// Takes what comes in by this wire too.
    pub fn add(&self, wire: Arc<Wire>) {
        if let Some(dtls) = &*self.dtls.lock() {
            wire.divert(dtls.clone());
        }
        self.wires.write().others.push(wire);
        self.wake();
    }

    /// From now on datagrams of DTLS come here, by whatever wire. What finds no room is lost, as on the way.
    pub fn divert(&self) -> mpsc::Receiver<Bytes> {
        let (give, take) = mpsc::channel(DTLS);
        self.current().divert(give.clone());
        *self.dtls.lock() = Some(give);
        take
    }

    /// Sends datagrams of `segment` bytes each, the last one perhaps shorter, to the other end.
    pub fn send_payload(&self, contents: &[u8], segment: usize) -> io::Result<()> {
        let segment_size = (contents.len() > segment).then_some(segment);
        let outgoing = Outgoing { destination: super::wire::PEER, ecn: None, contents, segment_size, src_ip: None };
        self.try_send(&outgoing)
    }

    /// Waits until [`Switch::send_payload`] finds room.
    pub async fn writable(&self) -> io::Result<()> {
        self.current().writable().await
    }

    /// How many datagrams one [`Switch::send_payload`] may send.
    pub fn segments(&self) -> usize {
        self.max_transmit_segments()
    }

    /// From now on this wire, which was added, carries what goes out. The datagram that was sent last is sent once more: the other end's answer
    /// tells QUIC at once that the path works, which would else wait for its timer, grown with every loss.
    pub fn turn_to(&self, wire: &Arc<Wire>) {
        {
            let mut wires = self.wires.write();
            let Some(at) = wires.others.iter().position(|other| Arc::ptr_eq(other, wire)) else { return };
            let next = wires.others.swap_remove(at);
            let before = std::mem::replace(&mut wires.current, next);
            wires.others.push(before);
        }
        self.wake();
        let last = self.last.lock();
        if !last.is_empty() {
            let outgoing = Outgoing {
                destination: super::wire::PEER,
                ecn: None,
                contents: &last,
                segment_size: None,
                src_ip: None,
            };
            // What cannot be sent is lost, as on the way.
            let _ = wire.try_send(&outgoing);
        }
    }

    /// Gives up a wire that is not the current one.
    pub fn remove(&self, wire: &Arc<Wire>) {
        self.wires.write().others.retain(|other| !Arc::ptr_eq(other, wire));
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }

    /// What all wires allow.
    fn all(&self, of: impl Fn(&Wire) -> usize, choose: impl Fn(usize, usize) -> usize) -> usize {
        let wires = self.wires.read();
        wires.others.iter().fold(of(&wires.current), |one, wire| choose(one, of(wire)))
    }
}

impl AsyncUdpSocket for Switch {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { switch: self, waiting: None })
    }

    fn try_send(&self, outgoing: &Outgoing<'_>) -> io::Result<()> {
        let sent = self.wires.read().current.try_send(outgoing);
        if sent.is_ok() {
            let segment = outgoing.segment_size.unwrap_or(outgoing.contents.len()).max(1);
            let mut last = self.last.lock();
            last.clear();
            last.extend_from_slice(outgoing.contents.chunks(segment).next_back().unwrap_or_default());
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // Before the wires are asked: one that is added meanwhile wakes again.
        let known = self.waker.lock().as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !known {
            *self.waker.lock() = Some(cx.waker().clone());
        }
        let wires = self.wires.read();
        for wire in std::iter::once(&wires.current).chain(&wires.others) {
            if let Poll::Ready(count) = wire.poll_recv(cx, bufs, meta) {
                if meta.iter().take(count).any(|meta| meta.len > 0) {
                    let heard = self.begun.elapsed().as_micros();
                    self.heard.store(u64::try_from(heard).unwrap_or(u64::MAX), Ordering::Relaxed);
                }
                return Poll::Ready(Ok(count));
            }
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([0, 0, 0, 0], 1)))
    }

    fn max_transmit_segments(&self) -> usize {
        self.all(Wire::max_transmit_segments, usize::min)
    }

    fn max_receive_segments(&self) -> usize {
        self.all(Wire::max_receive_segments, usize::max)
    }

    fn may_fragment(&self) -> bool {
        let wires = self.wires.read();
        std::iter::once(&wires.current).chain(&wires.others).any(|wire| wire.may_fragment())
    }
}

/// Waits until the socket that the route leads through takes more.
struct Writable {
    switch: Arc<Switch>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.switch.current();
        if self.waiting.is_none() && !wire.is_full() {
            return Poll::Ready(Ok(()));
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { wire.writable().await }));
        let result = waiting.as_mut().poll(cx);
        if result.is_ready() {
            self.waiting = None;
        }
        result
    }
}
