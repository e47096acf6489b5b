//! One encrypted connection, and what it carries now.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};
use parking_lot::Mutex;
use sipcore::agent::SessionId;
use sipcore::flow::{Fingerprint, Link, LinkError, Prepared, Role};
use tokio::net::UdpSocket;

/// A connection that carries nothing is ended after this long.
const IDLE: Duration = Duration::from_secs(60);

/// A connection to a peer.
pub struct Trunk {
    pub link: Link,
    pub session: SessionId,
    /// Who is at the other end.
    pub peer: String,
    /// Which end of the session this is.
    pub role: Role,
    /// Of the certificate at the other end, if this end may open streams whoever set up the session: with a sipbox.
    pub fingerprint: Option<Fingerprint>,
    /// As whom the other end called, and was told to use this connection, which this end has set up.
    pub caller: Mutex<Option<String>>,
    used: Mutex<(usize, Instant)>,
    /// The supervisor's ends of datagram flows, by the number on the wire.
    datagrams: Mutex<HashMap<u64, Arc<UdpSocket>>>,
    /// Datagrams that came before the streams that announce their numbers: QUIC does not keep that order.
    early: Mutex<Early>,
    lost: AtomicUsize,
    /// Sockets that this end has offered for another path.
    pub prepared: Mutex<Option<Prepared>>,
}

/// Bytes of datagrams that are kept for streams to come, and what one takes beside its own; the oldest goes first.
const EARLY: usize = 256 << 10;
const EARLY_EACH: usize = 64;
/// Datagrams that are delivered at once. The kernel takes up to 64 of them together (UDP_MAX_SEGMENTS before Linux 6.9), and this many bytes, with
/// their headers.
const BURST: usize = 64;
const BURST_BYTES: usize = 65_000;

/// Datagrams of streams to come, by their numbers.
#[derive(Default)]
struct Early {
    all: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
}

impl Early {
    /// How many others are lost for it.
    fn push(&mut self, number: u64, data: &[u8]) -> usize {
        let before = self.all.len();
        self.bytes += data.len() + EARLY_EACH;
        while self.bytes > EARLY
            && let Some((_, oldest)) = self.all.pop_front()
        {
            self.bytes -= oldest.len() + EARLY_EACH;
        }
        let lost = before - self.all.len();
        self.all.push_back((number, data.to_vec()));
        lost
    }

    /// Those of one stream, in order.
    fn take(&mut self, number: u64, mut each: impl FnMut(&[u8])) {
        let bytes = &mut self.bytes;
        self.all.retain(|(early, data)| {
            let is_its = *early == number;
            if is_its {
                each(data);
                *bytes -= data.len() + EARLY_EACH;
            }
            !is_its
        });
    }
}

impl Trunk {
    pub fn new(
        link: Link,
        (session, role): (SessionId, Role),
        peer: &str,
        fingerprint: Option<Fingerprint>,
    ) -> Arc<Trunk> {
        let trunk = Arc::new(Trunk {
            link,
            session,
            peer: peer.to_owned(),
            role,
            fingerprint,
            caller: Mutex::default(),
            used: Mutex::new((0, Instant::now())),
            datagrams: Mutex::default(),
            early: Mutex::default(),
            lost: AtomicUsize::new(0),
            prepared: Mutex::default(),
        });
        tokio::spawn(small(trunk.clone()));
        tokio::spawn(large(trunk.clone()));
        trunk
    }

    /// Somebody uses it, as long as what is returned is held.
    pub fn hold(self: &Arc<Trunk>) -> Held {
        self.used.lock().0 += 1;
        Held(self.clone())
    }

    /// Waits until nobody has used it for a while.
    pub async fn idle(&self) {
        loop {
            let left = match *self.used.lock() {
                (0, since) => IDLE.saturating_sub(since.elapsed()),
                _ => IDLE,
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// How many use it now.
    pub fn users(&self) -> usize {
        self.used.lock().0
    }

    /// Whether nobody uses it now.
    pub fn is_idle(&self) -> bool {
        let (users, since) = *self.used.lock();
        users == 0 && since.elapsed() >= IDLE
    }

    /// Datagrams of this number go to this socket.
    pub fn attach(&self, number: u64, socket: Arc<UdpSocket>) {
        // Under this lock none is delivered, and none overtakes those that were early.
        let mut datagrams = self.datagrams.lock();
        self.early.lock().take(number, |data| self.hand_over(&socket, data));
        datagrams.insert(number, socket);
    }

    pub fn detach(&self, number: u64) {
        self.datagrams.lock().remove(&number);
    }

    /// Those that are alike and follow each other are handed over at once.
    fn deliver_all(&self, all: &[(u64, Bytes)]) {
        let mut left = all;
        while let [(number, first), ..] = left {
            let mut bytes = 0;
            let alike = left.iter().take_while(|(other, data)| {
                bytes += data.len();
                other == number && data.len() == first.len() && bytes <= BURST_BYTES
            });
            let count = alike.count().max(1);
            let socket = self.datagrams.lock().get(number).filter(|_| count > 1 && !first.is_empty()).cloned();
            match socket {
                Some(socket) => self.hand_over_alike(&socket, &left[..count]),
                None => left[..count].iter().for_each(|(number, data)| self.deliver(*number, data)),
            }
            left = &left[count..];
        }
    }

    /// What finds no room is lost, as it is in the kernel.
    fn deliver(&self, number: u64, data: &[u8]) {
        let datagrams = self.datagrams.lock();
        match datagrams.get(&number) {
            Some(socket) => self.hand_over(socket, data),
            None => drop(self.lost.fetch_add(self.early.lock().push(number, data), Ordering::Relaxed)),
        }
    }

    /// Not by the runtime, to which a new socket is not writable before it has looked.
    fn hand_over(&self, socket: &UdpSocket, data: &[u8]) {
        if send(socket.as_raw_fd(), data, MsgFlags::MSG_DONTWAIT).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Datagrams of one length, as one that the kernel takes apart (UDP_SEGMENT, udp(7)): one system call, and the program wakes once.
    fn hand_over_alike(&self, socket: &UdpSocket, alike: &[(u64, Bytes)]) {
        let pieces: Vec<IoSlice<'_>> = alike.iter().map(|(_, data)| IoSlice::new(data)).collect();
        let length = alike.first().and_then(|(_, data)| u16::try_from(data.len()).ok()).unwrap_or_default();
        let segments = [ControlMessage::UdpGsoSegments(&length)];
        let flags = MsgFlags::MSG_DONTWAIT;
        match sendmsg::<()>(socket.as_raw_fd(), &pieces, &segments, flags, None) {
            Ok(_) => {}
            Err(Errno::EAGAIN) => drop(self.lost.fetch_add(alike.len(), Ordering::Relaxed)),
            // It cannot, or an ICMP message stands before: one after the other.
            Err(_) => alike.iter().for_each(|(_, data)| self.hand_over(socket, data)),
        }
    }
}

async fn small(trunk: Arc<Trunk>) {
    let mut burst = Vec::with_capacity(BURST);
    while trunk.link.datagrams(&mut burst, BURST).await.is_ok() {
        trunk.deliver_all(&burst);
        burst.clear();
    }
}

async fn large(trunk: Arc<Trunk>) {
    let why = loop {
        match trunk.link.large_datagram().await {
            Ok((number, data)) => trunk.deliver(number, &data),
            Err(LinkError::Lost(why)) => break why,
            Err(other) => break other.to_string(),
        }
    };
    tracing::debug!(session = %trunk.session, why, lost = trunk.lost.load(Ordering::Relaxed), "connection ended");
}

/// Keeps a connection from being idle.
pub struct Held(Arc<Trunk>);

impl Held {
    pub fn trunk(&self) -> &Arc<Trunk> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut used = self.0.used.lock();
        used.0 -= 1;
        used.1 = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_its_stream_is_kept_within_bounds() {
        let mut early = Early::default();
        // A whole queue, large ones, and those of others between them.
        for n in 0..200u8 {
            assert_eq!(early.push(u64::from(n % 2), &[n; 100]), 0);
        }
        assert_eq!(early.push(1, &[7; 65_507]), 0);
        let mut came = Vec::new();
        early.take(1, |data| came.push((data[0], data.len())));
        let small = (0..200u8).filter(|n| n % 2 == 1).map(|n| (n, 100));
        assert_eq!(came, small.chain([(7, 65_507)]).collect::<Vec<_>>());
        early.take(0, |_| ());
        assert_eq!((early.bytes, early.all.len()), (0, 0));
        // The oldest go first, however small all of them are.
        let lost: usize = (0..10_000).map(|_| early.push(2, &[])).sum();
        assert_eq!((lost, early.all.len()), (10_000 - EARLY / EARLY_EACH, EARLY / EARLY_EACH));
        assert_eq!(early.push(3, &[0; 65_507]), 65_507_usize.div_ceil(EARLY_EACH) + 1);
        assert!(early.bytes <= EARLY);
    }
}
