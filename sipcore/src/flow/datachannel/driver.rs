//! The association on its path: datagrams come from the wire and go to it, and whoever reads or writes a channel waits for its turn.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use super::Terms;
use super::channel::Read;
use super::dcep::Open;
use super::machine::{Event, Gone, Machine, Why};
use crate::flow::Certificate;
use crate::flow::switch::Switch;
use crate::flow::wire;

/// Datagrams that are handled before anything is sent.
const BATCH: usize = 64;
/// Bytes that one call of the kernel sends at most (UDP GSO).
const LARGEST_SEND: usize = 60_000;
/// Datagrams that one call of the kernel sends at most (UDP_MAX_SEGMENTS of older kernels).
const SEGMENTS: usize = 64;
/// Without a path for this long after ICE has given one up, the association is lost.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Who waits for a channel.
#[derive(Default)]
struct Signals {
    readable: Notify,
    writable: Notify,
    /// Delivered, or closed.
    settled: Notify,
}

struct Shared {
    machine: Mutex<Machine>,
    wire: Arc<Switch>,
    /// The driver has something to do.
    work: Notify,
    channels: Mutex<HashMap<u16, Arc<Signals>>>,
    offered: mpsc::UnboundedSender<u16>,
    datagram: Notify,
    state: watch::Sender<State>,
    /// Bytes on the wire.
    sent: AtomicU64,
    received: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Connected,
    Lost,
}

impl Shared {
    /// Does something with the machine, and tells those who wait what came of it.
    fn act<T>(&self, act: impl FnOnce(&mut Machine, Instant) -> T) -> T {
        let (out, events) = {
            let mut machine = self.machine.lock();
            let out = act(&mut machine, Instant::now());
            let mut events = Vec::new();
            while let Some(event) = machine.poll_event() {
                events.push(event);
            }
            (out, events)
        };
        for event in events {
            self.tell(event);
        }
        out
    }

    /// As [`Shared::act`], where something may be to be sent then.
    fn request<T>(&self, act: impl FnOnce(&mut Machine, Instant) -> T) -> T {
        let out = self.act(act);
        self.work.notify_one();
        out
    }

    /// Datagrams of one size, but the last.
    fn send(&self, datagrams: &[u8], segment: usize) -> io::Result<()> {
        self.wire.send_payload(datagrams, segment)?;
        self.sent.fetch_add(datagrams.len() as u64, Relaxed);
        Ok(())
    }

    fn signals(&self, id: u16) -> Arc<Signals> {
        self.channels.lock().entry(id).or_default().clone()
    }

    fn tell(&self, event: Event) {
        match event {
            Event::Connected => drop(self.state.send_replace(State::Connected)),
            Event::Lost => drop(self.state.send_replace(State::Lost)),
            // As many as there may be channels.
            Event::Offered(id) => drop(self.offered.send(id)),
            Event::Datagram => self.datagram.notify_one(),
            Event::Readable(id) => self.signals(id).readable.notify_one(),
            Event::Writable(id) => self.signals(id).writable.notify_one(),
            Event::Opened(id) | Event::Delivered(id) => self.signals(id).settled.notify_waiters(),
            Event::Closed(id) => {
                let signals = self.signals(id);
                signals.readable.notify_one();
                signals.writable.notify_one();
                signals.settled.notify_waiters();
            }
        }
    }

    fn why(&self) -> Why {
        self.machine.lock().lost().cloned().unwrap_or(Why::Closed)
    }

    fn release(&self, id: u16) {
        self.request(|machine, now| machine.release(now, id));
        self.channels.lock().remove(&id);
    }

    /// Waits until `done` says something about a channel.
    async fn settled<T>(&self, id: u16, done: impl Fn(&Machine) -> Option<T>) -> T {
        let signals = self.signals(id);
        loop {
            let settled = signals.settled.notified();
            tokio::pin!(settled);
            // From here on none is missed.
            settled.as_mut().enable();
            if let Some(out) = done(&self.machine.lock()) {
                return out;
            }
            settled.await;
        }
    }
}

/// An association that stands. Dropping it ends it.
pub(in crate::flow) struct Association {
    shared: Arc<Shared>,
    offered: tokio::sync::Mutex<mpsc::UnboundedReceiver<u16>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Association {
    fn drop(&mut self) {
        self.close();
        self.task.abort();
    }
}

impl Association {
    /// Sets it up on a path that stands: DTLS, then SCTP.
    pub async fn connect(
        wire: Arc<Switch>,
        paths: watch::Receiver<wire::State>,
        datagrams: mpsc::Receiver<Bytes>,
        certificate: &Certificate,
        terms: Terms,
    ) -> Result<Association, String> {
        let machine = Machine::new(Instant::now(), certificate, terms)?;
        let (offer, offered) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            machine: Mutex::new(machine),
            wire,
            work: Notify::new(),
            channels: Mutex::default(),
            offered: offer,
            datagram: Notify::new(),
            state: watch::Sender::new(State::Connecting),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        let task = tokio::spawn(drive(shared.clone(), paths, datagrams));
        let association = Association { shared, offered: tokio::sync::Mutex::new(offered), task };
        let mut state = association.shared.state.subscribe();
        // The sender lives as long as the association.
        let reached = state.wait_for(|state| *state != State::Connecting).await.map(|state| *state);
        match reached {
            Ok(State::Connected) => Ok(association),
            _ => Err(association.shared.why().to_string()),
        }
    }

    /// Opens a channel and waits until the other end has taken it. `Err(None)`: it has closed it.
    pub async fn open(&self, open: Open) -> Result<(Sender, Receiver), Option<Why>> {
        let Some(id) = self.shared.request(|machine, _| machine.open(open)) else {
            return Err(self.shared.machine.lock().lost().cloned());
        };
        let channel = self.channel(id);
        let is_open = |machine: &Machine| match machine.is_closed(id) {
            true => Some(false),
            false => machine.is_open(id).then_some(true),
        };
        match self.shared.settled(id, is_open).await {
            true => Ok(channel),
            false => Err(self.shared.machine.lock().lost().cloned()),
        }
    }

    /// A channel that both session descriptions name, by its label; once.
    pub async fn negotiated(&self, label: &str) -> Option<(Sender, Receiver)> {
        let mut offered = self.offered.try_lock().ok()?;
        let id = offered.try_recv().ok()?;
        let is_it = self.shared.machine.lock().description(id).is_some_and(|open| open.label == label);
        is_it.then(|| self.channel(id))
    }

    /// The next channel that the other end opens.
    pub async fn offered(&self) -> Result<Offered, Why> {
        let mut state = self.shared.state.subscribe();
        let mut offered = self.offered.lock().await;
        loop {
            let id = tokio::select! {
                id = offered.recv() => id.ok_or(Why::Closed)?,
                _ = state.wait_for(|state| *state == State::Lost) => return Err(self.shared.why()),
            };
            let open = self.shared.machine.lock().description(id).cloned();
            if let Some(open) = open {
                let (sender, receiver) = self.channel(id);
                return Ok(Offered { open, sender, receiver });
            }
        }
    }

    fn channel(&self, id: u16) -> (Sender, Receiver) {
        let channel = Arc::new(Held { shared: self.shared.clone(), id, signals: self.shared.signals(id) });
        (Sender(channel.clone()), Receiver(channel))
    }

    pub fn send_datagram(&self, id: u16, data: &[u8]) {
        self.shared.request(|machine, _| machine.send_datagram(id, data));
    }

    pub async fn datagram(&self) -> Result<(u16, Bytes), Why> {
        let mut state = self.shared.state.subscribe();
        loop {
            if let Some(datagram) = self.shared.act(|machine, _| machine.datagram()) {
                return Ok(datagram);
            }
            tokio::select! {
                () = self.shared.datagram.notified() => {}
                _ = state.wait_for(|state| *state == State::Lost) => return Err(self.shared.why()),
            }
        }
    }

    /// Bytes on the wire: sent, and received.
    pub fn bytes(&self) -> (u64, u64) {
        (self.shared.sent.load(Relaxed), self.shared.received.load(Relaxed))
    }

    pub async fn closed(&self) -> Why {
        let mut state = self.shared.state.subscribe();
        let _ = state.wait_for(|state| *state == State::Lost).await;
        self.shared.why()
    }

    pub fn is_closed(&self) -> bool {
        self.shared.machine.lock().lost().is_some()
    }

    /// Ends it. What was not delivered is lost.
    pub fn close(&self) {
        self.shared.request(|machine, now| machine.close(now));
        // The last word need not wait for the driver, which may be gone.
        let last = std::iter::from_fn(|| self.shared.machine.lock().poll_transmit(Instant::now()));
        for datagram in last.take(BATCH) {
            let _ = self.shared.send(&datagram, datagram.len());
        }
    }
}

/// A channel that the other end has opened.
pub struct Offered {
    pub(in crate::flow) open: Open,
    sender: Sender,
    receiver: Receiver,
}

impl Offered {
    pub(in crate::flow) fn id(&self) -> u16 {
        self.sender.id()
    }

    /// Takes it.
    pub(in crate::flow) fn take(self) -> Result<(Sender, Receiver), Gone> {
        let id = self.id();
        self.sender.0.shared.request(|machine, _| machine.accept(id))?;
        Ok((self.sender, self.receiver))
    }
}

/// A channel that is used. When nobody does any more it is closed, unless it has ended.
struct Held {
    shared: Arc<Shared>,
    id: u16,
    signals: Arc<Signals>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.release(self.id);
    }
}

/// How the writing direction of a channel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Stopped {
    /// The other end has everything.
    Delivered,
    /// The channel was closed.
    Closed,
}

/// The writing end of a channel.
pub struct Sender(Arc<Held>);

impl Sender {
    pub(in crate::flow) fn id(&self) -> u16 {
        self.0.id
    }

    /// Writes all of it, as fast as the other end takes it.
    pub(in crate::flow) async fn write(&mut self, mut data: Bytes) -> Result<(), Gone> {
        while !data.is_empty() {
            let written = self.0.shared.request(|machine, _| machine.write(self.0.id, &data))?;
            drop(data.split_to(written));
            if written == 0 {
                self.0.signals.writable.notified().await;
            }
        }
        Ok(())
    }

    /// Ends this direction.
    pub(in crate::flow) fn finish(&mut self) {
        let _ = self.0.shared.request(|machine, _| machine.finish(self.0.id));
    }

    /// Closes the channel.
    pub(in crate::flow) fn reset(&mut self) {
        self.0.shared.request(|machine, _| machine.shut(self.0.id));
    }

    /// Waits until the other end has everything, or the channel is closed.
    pub(in crate::flow) fn stopped(&self) -> impl Future<Output = Stopped> + Send + 'static {
        let held = self.0.clone();
        async move {
            let id = held.id;
            let done = |machine: &Machine| match machine.is_delivered(id) {
                true => Some(Stopped::Delivered),
                false => machine.is_closed(id).then_some(Stopped::Closed),
            };
            held.shared.settled(id, done).await
        }
    }
}

/// The reading end of a channel.
pub struct Receiver(Arc<Held>);

impl Receiver {
    /// The next bytes; `None` at the end.
    pub(in crate::flow) async fn read(&mut self) -> Result<Option<Bytes>, Gone> {
        loop {
            // The window may open by it.
            match self.0.shared.request(|machine, now| machine.read(now, self.0.id)) {
                Read::Data(data) => return Ok(Some(data)),
                Read::End => return Ok(None),
                Read::Reset => return Err(Gone),
                Read::Nothing => self.0.signals.readable.notified().await,
            }
        }
    }

    /// Nobody reads any more: the channel is closed.
    pub(in crate::flow) fn stop(&mut self) {
        self.0.shared.request(|machine, _| machine.shut(self.0.id));
    }
}

/// However its driver ends, an association without one is lost: nobody waits for it.
struct Driven(Arc<Shared>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.act(|machine, now| machine.close(now));
    }
}

async fn drive(shared: Arc<Shared>, mut paths: watch::Receiver<wire::State>, mut datagrams: mpsc::Receiver<Bytes>) {
    let _driven = Driven(shared.clone());
    let mut came = Vec::with_capacity(BATCH);
    let mut buffer = Vec::with_capacity(LARGEST_SEND);
    loop {
        flush(&shared, &mut buffer).await;
        let due = shared.machine.lock().poll_timeout();
        let due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let lost = async {
            let _ = paths.wait_for(|state| state.lost).await;
            tokio::time::sleep(LOST_AFTER).await;
        };
        tokio::select! {
            count = datagrams.recv_many(&mut came, BATCH) => {
                if count == 0 {
                    return;
                }
                let length: usize = came.iter().map(Bytes::len).sum();
                shared.received.fetch_add(length as u64, Relaxed);
                shared.act(|machine, now| {
                    came.drain(..).for_each(|datagram| machine.handle_datagram(now, &datagram));
                    machine.settle();
                });
            }
            () = shared.work.notified() => {}
            () = due => shared.act(|machine, now| machine.handle_timeout(now)),
            () = lost => {
                if paths.borrow().lost {
                    shared.act(|machine, now| machine.close(now));
                }
            }
        }
        if shared.machine.lock().lost().is_some() {
            flush(&shared, &mut buffer).await;
            return;
        }
    }
}

/// Sends what there is to send: datagrams of one size in one call of the kernel.
async fn flush(shared: &Arc<Shared>, buffer: &mut Vec<u8>) {
    let mut next: Option<Vec<u8>> = None;
    loop {
        buffer.clear();
        let segment = {
            let mut machine = shared.machine.lock();
            let now = Instant::now();
            let Some(first) = next.take().or_else(|| machine.poll_transmit(now)) else { break };
            let segment = first.len();
            let most = shared.wire.segments().min(SEGMENTS).min(LARGEST_SEND / segment.max(1)).max(1);
            buffer.extend_from_slice(&first);
            let mut count = 1;
            while count < most {
                let Some(datagram) = machine.poll_transmit(now) else { break };
                // All are of one size, but the last.
                if datagram.len() > segment {
                    next = Some(datagram);
                    break;
                }
                buffer.extend_from_slice(&datagram);
                count += 1;
                if datagram.len() < segment {
                    break;
                }
            }
            segment
        };
        while let Err(error) = shared.send(buffer, segment) {
            if error.kind() != io::ErrorKind::WouldBlock || shared.wire.writable().await.is_err() {
                // Lost, as on the way.
                tracing::trace!(%error, "a datagram was not sent");
                break;
            }
        }
    }
    // What came of it: an association may be lost by what it sends.
    shared.act(|_, _| ());
}
