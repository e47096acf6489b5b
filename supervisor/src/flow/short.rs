//! Queues that stay short. The kernel lets the send buffer of a TCP connection grow to megabytes, which do not fit into the processor's caches: whoever
//! reads at the far end of such a queue waits for memory, twice the time that the bytes otherwise cost. Between processes of one machine, and
//! on short ways, a small buffer is enough.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

/// Bytes of the smallest send buffer; the kernel takes twice as many, for what it needs beside them (socket(7)).
const LEAST: usize = 96 << 10;
/// What a way may carry in a second: more than programs can.
const RATE: f64 = 2.5e9;
/// With more than this on its way the kernel knows best.
const MOST: usize = 2 << 20;
/// A round trip that takes up to this much longer than the shortest one waits for busy machines, or in a queue: the way is short.
const BUSY: Duration = Duration::from_millis(5);
/// How often a way is looked at.
const OFTEN: Duration = Duration::from_secs(1);

/// What a send buffer may be set to (net.core.wmem_max, socket(7)). The kernel's own size may be larger, and is not to be had back.
fn largest() -> usize {
    static LARGEST: OnceLock<usize> = OnceLock::new();
    *LARGEST.get_or_init(|| {
        let set = std::fs::read_to_string("/proc/sys/net/core/wmem_max");
        set.ok().and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(LEAST)
    })
}

fn set(socket: BorrowedFd<'_>, bytes: usize) {
    if bytes > largest() {
        return;
    }
    // It is only slower without.
    if let Err(error) = setsockopt(&socket, sockopt::SndBuf, &bytes) {
        tracing::debug!(%error, "a send buffer could not be set");
    }
}

/// A socket of this process, on this machine's loopback.
pub fn own(socket: impl AsFd) {
    set(socket.as_fd(), LEAST);
}

/// A socket of the program that is joined to one of this process, unless the program has chosen its buffer itself. `chosen`: the socket that
/// tells: itself, when it is not connected yet, or its listener.
pub fn of_program(socket: impl AsFd, chosen: impl AsFd) {
    static FRESH: OnceLock<Option<usize>> = OnceLock::new();
    let fresh = FRESH.get_or_init(|| getsockopt(&sandbox::sock::tcp4().ok()?, sockopt::SndBuf).ok());
    if fresh.is_some() && getsockopt(&chosen, sockopt::SndBuf).ok() == *fresh {
        set(socket.as_fd(), LEAST);
    }
}

/// The way to a peer.
pub struct Way {
    /// The shortest round trip of the last time.
    trip: Option<Duration>,
    next: Instant,
    /// What its buffer was set to.
    set: Option<usize>,
    /// What it may be set to.
    largest: usize,
}

impl Way {
    pub fn new(now: Instant) -> Way {
        Way { trip: None, next: now, set: None, largest: largest() }
    }

    /// Keeps the send buffer of its socket as large as the way is long.
    pub fn look(&mut self, now: Instant, socket: impl AsFd) {
        if now < self.next {
            return;
        }
        self.next = now + OFTEN;
        if let Ok((trip, shortest)) = sandbox::sock::round_trips(socket.as_fd())
            && let Some(bytes) = self.measured(trip, shortest)
        {
            set(socket.as_fd(), bytes);
        }
    }

    /// The buffer's new size, if it is to be changed. The round trip, and the shortest one that was seen: what leads elsewhere now does not
    /// change that for minutes.
    fn measured(&mut self, trip: Duration, shortest: Duration) -> Option<usize> {
        let trip = if trip <= shortest + BUSY { shortest } else { trip };
        // A queue makes it longer, and so may another way.
        let trip = self.trip.map_or(trip, |before| trip.min(before * 5 / 4));
        self.trip = Some(trip);
        let wanted = ((trip.as_secs_f64() * RATE) as usize).max(LEAST);
        let end = self.largest.min(2 * MOST);
        let wanted = match self.set {
            // The kernel's own size, which there is no way back to.
            None if wanted > MOST.min(self.largest) => return None,
            _ => wanted.min(end),
        };
        let changed = self.set.is_none_or(|before| {
            wanted > before + before / 4 || wanted < before / 2 || (wanted == end && before < end)
        });
        changed.then(|| {
            self.set = Some(wanted);
            wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_long_as_the_way() {
        let micros = Duration::from_micros;
        let fresh = || Way { trip: None, next: Instant::now(), set: None, largest: 16 << 20 };
        let mut near = fresh();
        assert_eq!(near.measured(micros(20), micros(20)), Some(LEAST));
        assert_eq!(near.measured(micros(50_000), micros(20)), None, "a queue");
        assert_eq!(near.measured(micros(20), micros(20)), None);
        let far = (0..100).filter_map(|_| near.measured(micros(50_000), micros(20))).last();
        assert_eq!(far, Some(2 * MOST), "it leads elsewhere now");
        let mut busy = fresh();
        assert_eq!(busy.measured(micros(900), micros(8)), Some(LEAST), "a busy machine");
        assert!((0..100).all(|n| busy.measured(micros(10 * n), micros(8)).is_none()), "it stays");
        let mut far = fresh();
        assert_eq!(far.measured(micros(20_000), micros(20_000)), None, "the kernel's own size");
        let mut between = fresh();
        assert_eq!(between.measured(micros(220), micros(200)), Some(500_000));
        // Debian's.
        let small = || Way { largest: 212_992, ..fresh() };
        assert_eq!(small().measured(micros(200), micros(200)), None, "more than can be set");
        let mut near = small();
        assert_eq!(near.measured(micros(20), micros(20)), Some(LEAST));
        let far = (0..100).filter_map(|_| near.measured(micros(50_000), micros(20))).last();
        assert_eq!(far, Some(212_992), "the most there is");
    }
}
