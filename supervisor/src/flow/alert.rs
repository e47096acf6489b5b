//! A connection that has just begun on a short way is a matter of microseconds: a processor that falls asleep between its steps, and is woken for
//! each, costs more than all of them (on a virtual machine a wake-up is an exit to its host). So the runtime looks for what comes next, for a
//! moment, before it sleeps; who else wants the processor has it at once.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{available_parallelism, yield_now};
use std::time::{Duration, Instant};

use sipcore::flow::Link;

/// The next step of a connection comes within this time, or with the next round trip, or it is not worth to be awaited so: as long as a whole one
/// takes, on a busy machine too. Where it was a quarter, the processor often fell asleep just before, and each took a sixth longer.
const NEXT: Duration = Duration::from_micros(400);
/// A way with longer round trips leaves time to sleep.
const SHORT: Duration = Duration::from_micros(500);
/// A connection is new for so long.
const NEW: Duration = Duration::from_millis(2);

/// Who was given the processor and has kept it for so long is none of those that the connection needs: the machine is busy.
const BUSY: Duration = Duration::from_millis(1);
/// Then nobody stays awake for a while: to give the processor away costs what is awaited, and it has no time to sleep. The first time it may have
/// been chance; each time that it comes again before as many quiet moments the rest is longer.
const REST: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(1)];
const LONGER: u64 = 4;

/// How long the runtime stays awake, and whether somebody sees to that.
struct Watch {
    begun: Instant,
    /// Nanoseconds after that.
    until: AtomicU64,
    /// It is not to stay awake before.
    rest: AtomicU64,
    /// The next rest.
    pause: AtomicU64,
    kept: AtomicBool,
    /// Where there is one processor only, what is waited for needs that.
    alone: bool,
}

static WATCH: LazyLock<Watch> = LazyLock::new(|| Watch {
    begun: Instant::now(),
    until: AtomicU64::new(0),
    rest: AtomicU64::new(0),
    pause: AtomicU64::new(nanos(REST[0])),
    kept: AtomicBool::new(false),
    alone: available_parallelism().is_ok_and(|count| count.get() == 1),
});

impl Watch {
    fn now(&self) -> u64 {
        nanos(self.begun.elapsed())
    }

    fn is_over(&self, now: u64) -> bool {
        now >= self.until.load(Ordering::Acquire)
    }

    /// Others that are ready to run come first.
    fn give_way(&self, before: u64) {
        yield_now();
        let now = self.now();
        if now - before > nanos(BUSY) {
            let pause = self.pause.load(Ordering::Relaxed);
            self.rest.store(now.saturating_add(pause), Ordering::Relaxed);
            self.pause.store((pause * LONGER).min(nanos(REST[1])), Ordering::Relaxed);
            self.until.store(now, Ordering::SeqCst);
        }
    }

    async fn keep(&self) {
        loop {
            let mut now = self.now();
            while !self.is_over(now) {
                self.give_way(now);
                // Other tasks come next; then the runtime looks at its sockets.
                tokio::task::yield_now().await;
                now = self.now();
            }
            if now >= self.rest.load(Ordering::Relaxed) {
                let pause = self.pause.load(Ordering::Relaxed);
                self.pause.store((pause / LONGER).max(nanos(REST[0])), Ordering::Relaxed);
            }
            self.kept.store(false, Ordering::SeqCst);
            // It may have been made longer in between.
            if self.is_over(self.now()) || self.kept.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// Of one connection.
pub struct Alert {
    begun: Instant,
    /// For how long its next step is awaited.
    next: Option<Duration>,
}

impl Alert {
    /// A connection by this link begins.
    pub fn begin(link: &Link) -> Alert {
        Alert { begun: Instant::now(), next: next(link.rtt()) }
    }

    /// Something has come or gone: more will, soon. In the runtime.
    pub fn stay(&self) {
        let Some(next) = self.next.filter(|_| self.begun.elapsed() < NEW) else { return };
        let watch = &*WATCH;
        let now = watch.now();
        if watch.alone || now < watch.rest.load(Ordering::Relaxed) {
            return;
        }
        watch.until.fetch_max(now.saturating_add(nanos(next)), Ordering::SeqCst);
        if !watch.kept.swap(true, Ordering::SeqCst) {
            tokio::spawn(watch.keep());
        }
    }
}

const fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(duration.subsec_nanos() as u64)
}

/// For how long the next step is awaited where a round trip takes so long.
fn next(trip: Option<Duration>) -> Option<Duration> {
    trip.filter(|trip| *trip <= SHORT).map(|trip| trip.max(NEXT))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn only_short_ways_are_waited_for() {
        assert_eq!(next(None), None);
        assert_eq!(next(Some(Duration::from_micros(40))), Some(NEXT));
        assert_eq!(next(Some(Duration::from_micros(450))), Some(Duration::from_micros(450)));
        assert_eq!(next(Some(Duration::from_micros(501))), None);
    }

    /// The runtime stays awake for a connection that is new, on a short way, and sleeps then.
    #[test]
    fn it_ends_by_itself() {
        const PATIENCE: Duration = Duration::from_secs(30);
        let kept = || WATCH.kept.load(Ordering::SeqCst);
        // Other tests of this process may have connections of their own.
        let begun = Instant::now();
        while kept() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        let parked = Arc::new(AtomicUsize::new(0));
        let counted = parked.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_park(move || {
                counted.fetch_add(1, Ordering::SeqCst);
            })
            .build()
            .unwrap();
        let long = Duration::from_millis(20);
        let begun = runtime.block_on(runtime.spawn(async move {
            let begun = Instant::now();
            Alert { begun: begun + PATIENCE, next: None }.stay();
            Alert { begun: begun - 2 * NEW, next: Some(NEXT) }.stay();
            assert!(!kept());
            Alert { begun: begun + PATIENCE, next: Some(long) }.stay();
            assert_eq!(kept(), !WATCH.alone);
            begun
        }));
        let begun = begun.unwrap();
        while kept() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        // On a busy machine it gives up before.
        let rested = WATCH.rest.load(Ordering::SeqCst) > 0;
        assert!(WATCH.alone || rested || (long..PATIENCE).contains(&begun.elapsed()));
        let before = parked.load(Ordering::SeqCst);
        runtime.spawn(async {});
        while parked.load(Ordering::SeqCst) == before && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(begun.elapsed() < PATIENCE, "it does not sleep");
    }
}
