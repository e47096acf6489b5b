//! Streams of one QUIC connection do not stand in each other's way. QUIC's own windows are the connection's: a stream whose program does not read
//! would use them up, and so would one whose program writes without pause.
//!
//! Who receives goes on reading from a stream when its program does not, keeps what comes ([`Backlog`]), and tells the other end to hold it:
//!
//! ```text
//! on a unidirectional stream, opened with the byte 3 (the number of no stream of sockets), for each change:
//!     2 n + 1: hold the stream n        2 n: go on with it        (variable-length integers, RFC 9000 section 16)
//! ```
//! Who sends writes in turns ([`Pressure::turn`]), and stops where it is held ([`Brake`]). An end that does not stop fills the windows
//! of its own connection: more than [`MOST`] and the window is never kept.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::Connection;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};

use super::open;

/// The first byte of a stream of holds.
pub(super) const HOLDS: u8 = 3;
/// Bytes that are kept for all programs that do not read, before only little more is kept for each.
const BUDGET: usize = 32 << 20;
/// A stream is held when it has this part of what is left of them, but never with less than that.
const PART: usize = 16;
const LEAST: usize = 16 << 10;
/// Nothing more is read, then, for a program that has something to read. What is on its way to held streams is part of it.
const MOST: usize = 2 * BUDGET;

/// A program that reads again so soon was not away.
const PATIENCE: Duration = Duration::from_millis(10);

/// Bytes that all who write much may write, each of them once, and the bounds of a turn.
const ROUND: usize = 2 << 20;
const TURN: [usize; 2] = [16 << 10, 64 << 10];

/// What the streams of one connection ask of each other.
pub(super) struct Pressure {
    /// Bytes that are kept for programs.
    kept: AtomicUsize,
    /// What the other end is to be told: streams to be held, or not any more.
    untold: Mutex<HashMap<u64, bool>>,
    changed: Notify,
    /// Streams of this end that write, and whether the other end holds them.
    brakes: Mutex<HashMap<u64, watch::Sender<bool>>>,
    /// Given to one after the other, in the order of their coming.
    turns: Semaphore,
    /// Only one of those who write much waits among those who write little.
    much: Semaphore,
    /// How many those are.
    waiting: AtomicUsize,
}

impl Pressure {
    pub fn new() -> Arc<Pressure> {
        Arc::new(Pressure {
            kept: AtomicUsize::new(0),
            untold: Mutex::default(),
            changed: Notify::new(),
            brakes: Mutex::default(),
            turns: Semaphore::new(1),
            much: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Tells the other end, until the connection ends.
    pub async fn tell(self: Arc<Pressure>, connection: Connection) {
        let telling = async {
            let mut stream = None;
            loop {
                self.changed.notified().await;
                let words = self.words();
                if words.is_empty() {
                    continue;
                }
                let stream = match &mut stream {
                    Some(stream) => stream,
                    none => {
                        let mut opened = connection.open_uni().await.ok()?;
                        opened.write_all(&[HOLDS]).await.ok()?;
                        none.insert(opened)
                    }
                };
                stream.write_chunk(words).await.ok()?;
            }
        };
        tokio::select! {
            _ = connection.closed() => {}
            None::<()> = telling => {}
        }
    }

    /// What was not told yet.
    fn words(&self) -> Bytes {
        let mut words = BytesMut::new();
        for (stream, hold) in self.untold.lock().drain() {
            open::put_varint(&mut words, 2 * stream + u64::from(hold));
        }
        words.freeze()
    }

    /// Listens to the other end, after the first byte, until the stream ends.
    pub async fn listen(self: Arc<Pressure>, mut stream: quinn::RecvStream) {
        let mut heard = Bytes::new();
        while let Ok(Some(chunk)) = stream.read_chunk(4096, true).await {
            let mut all = BytesMut::from(&*heard);
            all.extend_from_slice(&chunk.bytes);
            heard = all.freeze();
            self.hear(&mut heard);
        }
    }

    /// Takes whole words off.
    fn hear(&self, heard: &mut Bytes) {
        while let Some(word) = open::get_varint(heard) {
            // Streams that have ended meanwhile are nobody's.
            if let Some(brake) = self.brakes.lock().get(&(word / 2)) {
                brake.send_replace(word % 2 == 1);
            }
        }
    }

    fn want(&self, stream: u64, hold: bool) {
        self.untold.lock().insert(stream, hold);
        self.changed.notify_one();
    }

    fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// With this much a stream is held.
    fn limit(&self) -> usize {
        (BUDGET.saturating_sub(self.kept()) / PART).max(LEAST)
    }

    /// Waits for the turn of a stream that has something to write.
    async fn turn(&self, much: bool) -> Turn<'_> {
        if !much {
            return Turn { most: TURN[1], _permits: [self.turns.acquire().await.ok(), None] };
        }
        let waiting = Waiting::begin(&self.waiting);
        let most = (ROUND / waiting.count).clamp(TURN[0], TURN[1]);
        // They are never closed.
        let among = self.much.acquire().await.ok();
        Turn { most, _permits: [self.turns.acquire().await.ok(), among] }
    }
}

/// One of those who wait, as long as it is held.
struct Waiting<'a> {
    all: &'a AtomicUsize,
    /// How many they are with it.
    count: usize,
}

impl Waiting<'_> {
    fn begin(all: &AtomicUsize) -> Waiting<'_> {
        Waiting { all, count: all.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The turn of a stream to write, as long as it is held.
pub struct Turn<'a> {
    /// Bytes that it may write.
    pub most: usize,
    _permits: [Option<SemaphorePermit<'a>>; 2],
}

/// Of a stream that is written to.
pub struct Brake {
    /// None of a data channel, which has a bound of its own.
    of: Option<(Arc<Pressure>, u64, watch::Receiver<bool>)>,
}

impl Brake {
    pub(super) fn new(pressure: Option<&Arc<Pressure>>, stream: u64) -> Brake {
        let of = pressure.map(|pressure| {
            let (held, told) = watch::channel(false);
            pressure.brakes.lock().insert(stream, held);
            (pressure.clone(), stream, told)
        });
        Brake { of }
    }

    /// Waits until the other end's program reads, and the other streams have had their turns. `much`: it is one of those that always have a
    /// whole piece to write; who has little need not wait for all of them.
    pub async fn turn(&mut self, much: bool) -> Turn<'_> {
        let Some((pressure, _, held)) = &mut self.of else { return Turn { most: TURN[1], _permits: [None, None] } };
        // The sender lives as long as this does.
        let _ = held.wait_for(|held| !held).await;
        pressure.turn(much).await
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        if let Some((pressure, stream, _)) = &self.of {
            pressure.brakes.lock().remove(stream);
        }
    }
}

/// What has come by a stream, and its program has not read yet.
pub struct Backlog {
    data: VecDeque<u8>,
    /// None of a data channel, of which nothing is kept.
    of: Option<(Arc<Pressure>, u64)>,
    held: bool,
}

impl Backlog {
    pub(super) fn new(pressure: Option<&Arc<Pressure>>, stream: u64) -> Backlog {
        Backlog { data: VecDeque::new(), of: pressure.map(|pressure| (pressure.clone(), stream)), held: false }
    }

    /// After how long what comes is to be kept, when the program does not read. `None`: nothing is kept of this kind of stream.
    pub fn patience(&self) -> Option<Duration> {
        self.of.as_ref().map(|(pressure, _)| if pressure.kept() < BUDGET / 2 { PATIENCE } else { PATIENCE / 10 })
    }

    /// Whether there is room for more.
    pub fn has_room(&self) -> bool {
        self.of.as_ref().is_some_and(|(pressure, _)| self.data.len() < LEAST || pressure.kept() < MOST)
    }

    /// Nothing waits for the program.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Keeps more.
    pub fn push(&mut self, data: &[u8]) {
        self.data.extend(data);
        if let Some((pressure, stream)) = &self.of {
            pressure.kept.fetch_add(data.len(), Ordering::Relaxed);
            if !self.held && self.data.len() >= pressure.limit() {
                self.held = true;
                pressure.want(*stream, true);
            }
        }
    }

    /// What waits, in two pieces.
    pub fn slices(&self) -> [IoSlice<'_>; 2] {
        let (first, second) = self.data.as_slices();
        [IoSlice::new(first), IoSlice::new(second)]
    }

    /// The program has read so many bytes of it.
    pub fn taken(&mut self, count: usize) {
        let count = count.min(self.data.len());
        self.data.drain(..count);
        if self.data.is_empty() {
            // Memory that is kept for what comes no more.
            self.data = VecDeque::new();
        }
        if let Some((pressure, stream)) = &self.of {
            pressure.kept.fetch_sub(count, Ordering::Relaxed);
            if self.held && self.data.len() <= pressure.limit() / 2 {
                self.held = false;
                pressure.want(*stream, false);
            }
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        if let Some((pressure, _)) = &self.of {
            pressure.kept.fetch_sub(self.data.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one end says is heard by the other.
    fn deliver(from: &Pressure, to: &Pressure) {
        // In pieces, as it may come.
        let mut heard = Bytes::new();
        for byte in from.words() {
            let mut all = BytesMut::from(&*heard);
            all.extend_from_slice(&[byte]);
            heard = all.freeze();
            to.hear(&mut heard);
        }
        assert!(heard.is_empty());
    }

    fn is_held(brake: &Brake) -> bool {
        brake.of.as_ref().is_some_and(|(_, _, held)| *held.borrow())
    }

    #[test]
    fn a_program_that_does_not_read_holds_its_own_stream() {
        let (near, far) = (Pressure::new(), Pressure::new());
        let streams = [0, 4, 16384];
        let brakes = streams.map(|stream| Brake::new(Some(&near), stream));
        let mut backlogs = streams.map(|stream| Backlog::new(Some(&far), stream));
        let piece = vec![7; 64 << 10];
        let mut kept = 0;
        while !backlogs[2].held {
            assert!(backlogs[2].has_room());
            backlogs[2].push(&piece);
            kept += piece.len();
        }
        assert!((1 << 20..=BUDGET / PART).contains(&kept), "{kept}");
        deliver(&far, &near);
        assert_eq!([false, false, true], [0, 1, 2].map(|n| is_held(&brakes[n])));
        // What is on its way comes still.
        backlogs[2].push(&piece);
        kept += piece.len();
        backlogs[0].push(b"a little");
        deliver(&far, &near);
        assert!(!is_held(&brakes[0]));
        // The program reads again.
        while is_held(&brakes[2]) {
            assert!(kept > 0);
            backlogs[2].taken(piece.len());
            kept -= piece.len();
            deliver(&far, &near);
        }
        assert!(kept > LEAST / 2);
        drop(backlogs);
        assert_eq!(far.kept(), 0);
        drop(brakes);
        assert!(near.brakes.lock().is_empty());
        // A word for a stream that has ended.
        far.want(4, true);
        deliver(&far, &near);
    }

    #[test]
    fn programs_that_do_not_read_keep_a_bounded_memory_busy() {
        let pressure = Pressure::new();
        let mut backlogs: Vec<Backlog> = (0..4096).map(|n| Backlog::new(Some(&pressure), 4 * n)).collect();
        // One after the other, each until it is held.
        for backlog in &mut backlogs {
            while !backlog.held {
                assert!(backlog.has_room());
                backlog.push(&[0; 4096]);
            }
        }
        assert!(pressure.kept() <= BUDGET + 4096 * LEAST, "{}", pressure.kept());
        // The other end does not listen.
        let mut unread = Backlog::new(Some(&pressure), 4 * 4096);
        while unread.has_room() {
            unread.push(&[0; 4096]);
        }
        assert_eq!(unread.data.len(), LEAST);
        // Who reads is not stopped by that.
        unread.taken(LEAST);
        assert!(unread.has_room());
    }

    #[tokio::test]
    async fn turns_are_taken_in_order() {
        let pressure = Pressure::new();
        let first = pressure.turn(true).await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        // Those who write much come first, and again and again.
        for n in 0..1000 {
            let (pressure, tell) = (pressure.clone(), tell.clone());
            tokio::spawn(async move {
                let rounds = if n < 990 { 3 } else { 1 };
                for _ in 0..rounds {
                    let turn = pressure.turn(n < 990).await;
                    tell.send(n).unwrap();
                    drop(turn);
                }
            });
            tokio::task::yield_now().await;
        }
        assert_eq!(first.most, TURN[1]);
        assert_eq!(pressure.waiting.load(Ordering::Relaxed), 990);
        drop((first, tell));
        let mut order = Vec::new();
        while let Some(n) = told.recv().await {
            order.push(n);
        }
        let (little, much): (Vec<usize>, Vec<usize>) = order.iter().partition(|n| **n >= 990);
        assert_eq!(little, (990..1000).collect::<Vec<_>>());
        assert!(order.iter().position(|n| *n == 999).unwrap() <= 12, "{order:?}");
        assert_eq!(pressure.waiting.load(Ordering::Relaxed), 0);
        // In rounds, each of which has all.
        for round in much.chunks(990) {
            assert_eq!(round, (0..990).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn data_channels_are_not_held() {
        drop(Brake::new(None, 1000).turn(true).await);
        let backlog = Backlog::new(None, 1000);
        assert!(backlog.patience().is_none() && !backlog.has_room());
    }
}
