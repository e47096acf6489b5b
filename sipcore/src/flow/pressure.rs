//! Streams of one QUIC connection do not stand in each other's way. QUIC's own windows are the connection's: a stream whose program does not read
//! would use them up, and so would one whose program writes without pause.
//!
//! So each stream has a window of its own ([`Credit`]): what its writer has sent, and the program at the other end has not taken. It begins small,
//! grows while that program reads as fast as the path is, and gets nothing more when it does not. Who receives reads on from a stream when its
//! program does not, and keeps what comes ([`Backlog`]), which is not more than these windows; he tells what the programs take:
//!
//! ```text
//! on a unidirectional stream, opened with the byte 3 (the number of no stream of sockets), again and again:
//!     stream n | bytes of n that were taken since it was opened        (variable-length integers, RFC 9000 section 16)
//! ```
//! Who sends writes in turns ([`Brake::turn`]). An end that sends more than that fills the windows of its own connection: more than [`POOL`], and
//! [`LEAST`] for each stream, is never kept. Before the other end has taken a stream nothing of it is read there: it has [`UNTAKEN`] until then.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::Connection;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::{open, tls};

/// The first byte of a stream that tells what was taken.
pub(super) const TAKEN: u8 = 3;
/// Bytes that all streams together may have sent, and programs not taken, before each has only [`LEAST`].
const POOL: u64 = 64 << 20;
/// Of what the others have left of it a stream may have this part.
const PART: u64 = 2;
/// The window of a stream that the other end has not taken yet, about an initial one of TCP (RFC 6928): what it carries lies in the connection's own,
/// which as many as there can be do not fill.
const UNTAKEN: u64 = 12 << 10;
/// The window of a stream: at first (more than a busy machine has in the way on a short path), and at least, whatever the others have.
const FIRST: u64 = 2 << 20;
const LEAST: u64 = 32 << 10;
/// It is doubled when all of it was taken within so many round trips.
const QUICK: u32 = 4;
/// No round trip is taken to be shorter: what was taken is told less often ([`OFTEN`]), and on a busy machine somebody has to run first.
const SHORTEST: Duration = Duration::from_millis(2);
/// With less room than this nothing is written.
const PIECE: u64 = 4 << 10;
/// So much is taken before it is told; with [`PIECE`] less than [`LEAST`].
const STEP: u64 = 8 << 10;
/// Between two times that it is told, while little is kept: then windows are no smaller than a path is long.
const OFTEN: Duration = Duration::from_millis(1);
/// Streams of which something may be remembered after their end: more than programs have sockets.
const ENDED: usize = 16 * tls::STREAMS as usize;
/// All that was sent is taken, or thrown away: the largest number there is.
const ALL: u64 = (1 << 62) - 1;

/// A program that reads again so soon was not away.
const PATIENCE: Duration = Duration::from_millis(10);

/// Bytes that all who write much may write, each of them once, and the bounds of a turn.
const ROUND: usize = 2 << 20;
const TURN: [usize; 2] = [16 << 10, 64 << 10];

/// What the streams of one connection ask of each other.
pub(super) struct Pressure {
    /// Bytes that are kept for programs of this end, and streams that these read.
    kept: AtomicUsize,
    read: AtomicUsize,
    /// What the other end is to be told: of each stream, how much was taken.
    untold: Mutex<HashMap<u64, u64>>,
    changed: Notify,
    /// The other end takes no words.
    deaf: Notify,
    /// Streams that this end writes, and those whose end the other end's programs have not read yet.
    credits: Mutex<HashMap<u64, Arc<Credit>>>,
    /// Bytes of all of them that were sent, and not taken.
    outstanding: AtomicU64,
    /// Given to one after the other, in the order of their coming.
    turns: Semaphore,
    /// Only one of those who write much waits among those who write little.
    much: Semaphore,
    /// How many those are.
    waiting: AtomicUsize,
}

/// The window of a stream.
struct Credit {
    state: Mutex<State>,
    /// There may be more room.
    changed: Notify,
}

struct State {
    sent: u64,
    taken: u64,
    window: u64,
    /// What had been taken when it was last looked at how fast that goes, and when that was.
    since: (u64, Instant),
    /// The writer has waited for room since.
    waited: bool,
    /// The other end has taken the stream: its program reads it, or what was sent is said to be thrown away.
    begun: bool,
    /// Its writer has nothing more.
    finished: bool,
}

impl State {
    fn outstanding(&self) -> u64 {
        self.sent - self.taken
    }
}

impl Pressure {
    pub fn new() -> Arc<Pressure> {
        Arc::new(Pressure {
            kept: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            untold: Mutex::default(),
            changed: Notify::new(),
            deaf: Notify::new(),
            credits: Mutex::default(),
            outstanding: AtomicU64::new(0),
            turns: Semaphore::new(1),
            much: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Tells the other end, until the connection ends. It is ended if that end does not listen: none that keeps to the rules does so.
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
                        opened.write_all(&[TAKEN]).await.ok()?;
                        none.insert(opened)
                    }
                };
                stream.write_chunk(words).await.ok()?;
                if self.kept() < POOL / 4 {
                    tokio::time::sleep(OFTEN).await;
                }
            }
        };
        tokio::select! {
            _ = connection.closed() => return,
            None::<()> = telling => {}
            () = self.deaf.notified() => {}
        }
        connection.close(0u32.into(), b"what was taken is not heard");
    }

    /// What was not told yet.
    fn words(&self) -> Bytes {
        let mut words = BytesMut::new();
        for (stream, taken) in self.untold.lock().drain() {
            open::put_varint(&mut words, stream);
            open::put_varint(&mut words, taken);
        }
        words.freeze()
    }

    /// Listens to the other end, after the first byte, until the stream ends.
    pub async fn listen(self: Arc<Pressure>, mut stream: quinn::RecvStream, connection: Connection) {
        let mut heard = Bytes::new();
        while let Ok(Some(chunk)) = stream.read_chunk(4096, true).await {
            let mut all = BytesMut::from(&*heard);
            all.extend_from_slice(&chunk.bytes);
            heard = all.freeze();
            self.hear(&mut heard, Instant::now(), connection.rtt());
        }
    }

    /// Takes whole words off.
    fn hear(&self, heard: &mut Bytes, now: Instant, round_trip: Duration) {
        loop {
            let mut rest = heard.clone();
            let Some((stream, taken)) = open::get_varint(&mut rest).zip(open::get_varint(&mut rest)) else { return };
            *heard = rest;
            // Streams that have ended meanwhile are nobody's.
            let credit = self.credits.lock().get(&stream).cloned();
            if let Some(credit) = credit {
                self.taken(stream, &credit, taken, now, round_trip);
            }
        }
    }

    fn taken(&self, stream: u64, credit: &Credit, taken: u64, now: Instant, round_trip: Duration) {
        let mut state = credit.state.lock();
        let taken = taken.clamp(state.taken, state.sent);
        self.outstanding.fetch_sub(taken - state.taken, Ordering::Relaxed);
        state.taken = taken;
        let (before, since) = state.since;
        if taken - before >= state.window {
            if state.waited && now.saturating_duration_since(since) <= QUICK * round_trip.max(SHORTEST) {
                state.window = (2 * state.window).min(POOL);
            }
            (state.since, state.waited) = ((taken, now), false);
        }
        let is_over = state.finished && state.outstanding() < STEP;
        drop(state);
        if is_over {
            self.forget(stream);
        }
        credit.changed.notify_one();
    }

    fn forget(&self, stream: u64) {
        if let Some(credit) = self.credits.lock().remove(&stream) {
            let mut state = credit.state.lock();
            self.outstanding.fetch_sub(state.outstanding(), Ordering::Relaxed);
            // Who hears of it just now takes nothing off again.
            state.taken = state.sent;
        }
    }

    /// Bytes that may be written now. `None`: too few.
    fn room(&self, credit: &Credit) -> Option<usize> {
        let mut state = credit.state.lock();
        let own = state.outstanding();
        let others = self.outstanding.load(Ordering::Relaxed).saturating_sub(own);
        let share = (POOL.saturating_sub(others) / PART).max(LEAST);
        let room = state.window.min(share).saturating_sub(own);
        state.waited |= room < PIECE;
        if room < PIECE { None } else { usize::try_from(room).ok() }
    }

    fn want(&self, stream: u64, taken: u64) {
        let mut untold = self.untold.lock();
        if untold.len() < ENDED || untold.contains_key(&stream) {
            untold.insert(stream, taken);
            self.changed.notify_one();
        } else {
            self.deaf.notify_one();
        }
    }

    fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed) as u64
    }

    /// What a sender that keeps to its windows can make this end keep.
    fn most(&self) -> u64 {
        POOL + LEAST * self.read.load(Ordering::Relaxed) as u64
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
    of: Option<(Arc<Pressure>, u64, Arc<Credit>)>,
}

impl Brake {
    /// `begun`: the other end has taken the stream.
    pub(super) fn new(pressure: Option<&Arc<Pressure>>, stream: u64, begun: bool) -> Brake {
        let of = pressure.map(|pressure| {
            let state = State {
                sent: 0,
                taken: 0,
                window: if begun { FIRST } else { UNTAKEN },
                since: (0, Instant::now()),
                waited: false,
                begun,
                finished: false,
            };
            let credit = Arc::new(Credit { state: Mutex::new(state), changed: Notify::new() });
            pressure.credits.lock().insert(stream, credit.clone());
            (pressure.clone(), stream, credit)
        });
        Brake { of }
    }

    /// Waits until the other end's program has taken enough, and the other streams have had their turns. `much`: it is one of those that always have a
    /// whole piece to write; who has little need not wait for all of them.
    pub async fn turn(&self, much: bool) -> Turn<'_> {
        let Some((pressure, _, credit)) = &self.of else { return Turn { most: TURN[1], _permits: [None, None] } };
        loop {
            if pressure.room(credit).is_none() {
                credit.changed.notified().await;
                continue;
            }
            let mut turn = pressure.turn(much).await;
            // Those before have written, too.
            if let Some(room) = pressure.room(credit) {
                turn.most = turn.most.min(room);
                return turn;
            }
        }
    }

    /// The other end has taken the stream.
    pub fn begin(&self) {
        let Some((_, _, credit)) = &self.of else { return };
        let mut state = credit.state.lock();
        if !state.begun {
            (state.begun, state.window) = (true, state.window.max(FIRST));
            credit.changed.notify_one();
        }
    }

    /// So many bytes are written.
    pub fn sent(&self, count: usize) {
        let Some((pressure, _, credit)) = &self.of else { return };
        let mut state = credit.state.lock();
        if state.outstanding() == 0 {
            // Nobody waited for anything.
            state.since = (state.taken, Instant::now());
        }
        state.sent += count as u64;
        pressure.outstanding.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The end is written: what was sent has still to be taken.
    pub fn finish(&self) {
        if let Some((_, _, credit)) = &self.of {
            credit.state.lock().finished = true;
        }
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        let Some((pressure, stream, credit)) = &self.of else { return };
        let lasts = {
            let state = credit.state.lock();
            // Of one that was not taken nothing will be said.
            state.begun && state.finished && state.outstanding() >= STEP
        };
        // Nor of so many, by an end that keeps to the rules.
        if !lasts || pressure.credits.lock().len() > ENDED {
            pressure.forget(*stream);
        }
    }
}

/// What has come by a stream, and its program has not read yet.
pub struct Backlog {
    data: VecDeque<u8>,
    /// None of a data channel, of which nothing is kept.
    of: Option<(Arc<Pressure>, u64)>,
    /// Bytes that the program has, and what of them was told.
    taken: u64,
    told: u64,
    /// All has come.
    ended: bool,
}

impl Backlog {
    pub(super) fn new(pressure: Option<&Arc<Pressure>>, stream: u64) -> Backlog {
        let of = pressure.map(|pressure| {
            pressure.read.fetch_add(1, Ordering::Relaxed);
            (pressure.clone(), stream)
        });
        Backlog { data: VecDeque::new(), of, taken: 0, told: 0, ended: false }
    }

    /// After how long what comes is to be kept, when the program does not read. `None`: nothing is kept of this kind of stream.
    pub fn patience(&self) -> Option<Duration> {
        self.of.as_ref().map(|(pressure, _)| if pressure.kept() < POOL / 2 { PATIENCE } else { PATIENCE / 10 })
    }

    /// Whether there is room for more.
    pub fn has_room(&self) -> bool {
        self.of
            .as_ref()
            .is_some_and(|(pressure, _)| (self.data.len() as u64) < LEAST || pressure.kept() < pressure.most())
    }

    /// Nothing waits for the program.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Keeps more.
    pub fn push(&mut self, data: &[u8]) {
        self.data.extend(data);
        if let Some((pressure, _)) = &self.of {
            pressure.kept.fetch_add(data.len(), Ordering::Relaxed);
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
        if let Some((pressure, _)) = &self.of {
            pressure.kept.fetch_sub(count, Ordering::Relaxed);
        }
        self.passed(count);
    }

    /// The program has so many bytes that were not kept.
    pub fn passed(&mut self, count: usize) {
        self.taken += count as u64;
        if let Some((pressure, stream)) = self.of.as_ref().filter(|_| self.taken - self.told >= STEP) {
            self.told = self.taken;
            pressure.want(*stream, self.taken);
        }
    }

    /// All has come.
    pub fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        if let Some((pressure, stream)) = &self.of {
            pressure.kept.fetch_sub(self.data.len(), Ordering::Relaxed);
            pressure.read.fetch_sub(1, Ordering::Relaxed);
            // The other end has forgotten the stream if less is missing.
            if !self.ended || self.taken + self.data.len() as u64 - self.told >= STEP {
                pressure.want(*stream, ALL);
            }
        }
    }
}

#[cfg(test)]
mod tests;
