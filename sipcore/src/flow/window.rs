//! How much of what programs have written may wait in a connection, to be sent or to be acknowledged: what the path holds, twice, as it is
//! measured. More would make the path no faster; it would wait longer, for others too, and be out of the processor's caches when it is sent.

use std::time::{Duration, Instant};

/// Never less: a path within a building, on busy machines.
pub(super) const LEAST: u64 = 1536 << 10;
/// Never more: 200 ms at 2.5 Gbit/s, of all streams together.
const MOST: u64 = 64 << 20;
/// Between two measurements at least, and at least a round trip.
const INTERVAL: Duration = Duration::from_millis(50);
/// The shortest round trip that was seen is believed for this long. Then a quarter of the window is used for an interval, so that
/// what waits on the path is gone, and it is measured again.
const BELIEVED: Duration = Duration::from_secs(10);

/// The window of one connection.
#[derive(Debug)]
pub(super) struct Window {
    /// When it was last measured, and what had been sent by then.
    at: Instant,
    sent: u64,
    /// The shortest round trip, and since when it has been believed.
    shortest: Duration,
    since: Instant,
    /// Bytes.
    size: u64,
    /// The path is being emptied.
    emptying: bool,
}

impl Window {
    pub fn new(now: Instant) -> Window {
        Window { at: now, sent: 0, shortest: Duration::MAX, since: now, size: LEAST, emptying: false }
    }

    /// Bytes that may wait.
    pub fn size(&self) -> u64 {
        if self.emptying { self.size / 4 } else { self.size }
    }

    /// Whether [`Window::measure`] has something to do.
    pub fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= INTERVAL
    }

    /// Bytes that were sent so far, and the round trip as it is now. To be called while something is written.
    pub fn measure(&mut self, now: Instant, sent: u64, round_trip: Duration) {
        let passed = now.saturating_duration_since(self.at);
        if passed < INTERVAL.max(round_trip) {
            return;
        }
        let bytes = sent.saturating_sub(self.sent);
        (self.at, self.sent) = (now, sent);
        if self.emptying {
            (self.emptying, self.shortest, self.since) = (false, round_trip, now);
            return;
        }
        self.shortest = self.shortest.min(round_trip);
        let held = bytes as f64 * (self.shortest.as_secs_f64() / passed.as_secs_f64());
        // Who pauses for a moment need not begin again.
        self.size = ((2.0 * held) as u64).max(self.size - self.size / 8).clamp(LEAST, MOST);
        self.emptying = now.saturating_duration_since(self.since) >= BELIEVED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path of this rate (bytes a second) and this round trip, filled by a window for so many seconds: bytes a second of the last one, and
    /// the longest time that a byte waited in it.
    fn fill(window: &mut Window, start: Instant, rate: f64, trip: Duration, seconds: u64) -> (f64, Duration) {
        let step = Duration::from_millis(1);
        let (mut sent, mut before, mut longest) = (0.0, 0.0, Duration::ZERO);
        for n in 1..=seconds * 1000 {
            // What does not fit on the path waits before it.
            let held = rate * trip.as_secs_f64();
            let waits = (window.size() as f64 - held).max(0.0) / rate;
            let pace = rate.min(window.size() as f64 / trip.as_secs_f64());
            sent += pace * step.as_secs_f64();
            let now = start + step * u32::try_from(n).unwrap();
            window.measure(now, sent as u64, trip + Duration::from_secs_f64(waits));
            if n == (seconds - 1) * 1000 {
                before = sent;
            }
            if n > (seconds - 1) * 1000 {
                longest = longest.max(Duration::from_secs_f64(waits));
            }
        }
        (sent - before, longest)
    }

    #[test]
    fn long_paths_are_filled_and_no_more() {
        for (megabits, millis) in [(10.0, 20), (100.0, 5), (1000.0, 1), (1000.0, 100), (2500.0, 150), (200.0, 300)] {
            let (rate, trip) = (megabits * 1e6 / 8.0, Duration::from_millis(millis));
            let start = Instant::now();
            for seconds in [5, 60] {
                let mut window = Window::new(start);
                let (reached, waited) = fill(&mut window, start, rate, trip, seconds);
                assert!(reached > 0.9 * rate, "{megabits} Mbit/s, {millis} ms: {reached}");
                // Its own length again, or what the least window is.
                let bound = trip.max(Duration::from_secs_f64(LEAST as f64 / rate));
                assert!(waited <= 2 * bound, "{megabits} Mbit/s, {millis} ms: {waited:?}");
            }
        }
    }

    #[test]
    fn a_path_that_becomes_longer_is_filled_again() {
        let start = Instant::now();
        let mut window = Window::new(start);
        fill(&mut window, start, 125e6, Duration::from_millis(5), 5);
        let (reached, _) = fill(&mut window, start + Duration::from_secs(5), 125e6, Duration::from_millis(80), 40);
        assert!(reached > 0.9 * 125e6, "{reached}");
    }
}
