//! The watchdog: system calls on sockets of the program that are not to wait, but do.
//!
//! The supervisor sees to it that a call does not wait (a time limit of one tick, O_NONBLOCK), but the socket is the program's, too: another
//! thread of it may take the limit away between that and the call, or leave a close() that lingers to the supervisor (SO_LINGER). All calls of the
//! run would wait for this one. So a thread that sleeps in one step for longer than [`PATIENCE`], from a look on, gets a signal, by which the call ends: EINTR.

use std::cell::OnceCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Pid;

/// Between two looks while nobody sleeps in a step.
const LOOK: Duration = Duration::from_millis(250);
/// How long a step may sleep once that is seen. None of the supervisor's does for longer than a timer tick.
const PATIENCE: Duration = Duration::from_millis(50);
/// Ignored by who does not handle it (signal(7)).
const SIGNAL: Signal = Signal::SIGURG;

static WATCHED: Mutex<Vec<Weak<Thread>>> = Mutex::new(Vec::new());

thread_local! {
    static THIS: OnceCell<Arc<Thread>> = const { OnceCell::new() };
}

struct Thread {
    id: Pid,
    /// Steps begun and ended: odd within one.
    steps: AtomicU64,
}

fn watched() -> MutexGuard<'static, Vec<Weak<Thread>>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the watchdog. To be called once.
///
/// # Errors
/// There can be no more threads, or sigaction(2) fails.
pub fn start() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // Without SA_RESTART: the call is to end.
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing at all.
    unsafe { sigaction(SIGNAL, &action) }?;
    std::thread::Builder::new().name("watchdog".into()).spawn(|| {
        let mut seen = Vec::new();
        loop {
            std::thread::sleep(if seen.is_empty() { LOOK } else { PATIENCE });
            seen = look(&seen);
        }
    })?;
    Ok(())
}

/// From here on this thread is watched, within its steps, for as long as it lives.
pub fn enlist() {
    THIS.with(|this| {
        this.get_or_init(|| {
            let this = Arc::new(Thread { id: nix::unistd::gettid(), steps: AtomicU64::new(0) });
            watched().push(Arc::downgrade(&this));
            this
        });
    });
}

/// A step of this thread begins (`true`) or ends. One that is not watched has none.
#[inline]
pub fn within_step(begins: bool) {
    THIS.with(|this| {
        if let Some(this) = this.get() {
            // Only this thread writes it.
            let steps = this.steps.load(Ordering::Relaxed);
            if (steps % 2 == 0) == begins {
                this.steps.store(steps + 1, Ordering::Relaxed);
            }
        }
    });
}

/// Does what this thread's steps have to wait for, and what no signal may end.
#[inline]
pub fn undisturbed<T>(act: impl FnOnce() -> T) -> T {
    let in_step = THIS.with(|this| this.get().is_some_and(|this| this.steps.load(Ordering::Relaxed) % 2 != 0));
    if !in_step {
        return act();
    }
    within_step(false);
    let done = act();
    within_step(true);
    done
}

/// What was seen of a thread within a step: the step, and how often the thread had gone to sleep (proc_pid_status(5)).
type Seen = (Pid, u64, u64);

/// Wakes who sleeps since the last look; what is seen now.
fn look(before: &[Seen]) -> Vec<Seen> {
    let mut now = Vec::new();
    watched().retain(|thread| {
        let Some(thread) = thread.upgrade() else { return false };
        let step = thread.steps.load(Ordering::Relaxed);
        if step % 2 != 0
            && let Some(sleeps) = asleep(thread.id)
        {
            let seen = (thread.id, step, sleeps);
            if before.contains(&seen) {
                // SAFETY: three integers; the thread is one of this process, or gone.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread.id.as_raw(), SIGNAL as libc::c_int) };
            }
            now.push(seen);
        }
        true
    });
    now
}

/// How often a thread of this process has gone to sleep, if it sleeps now.
fn asleep(id: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/self/task/{id}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    field("State:")?.starts_with('S').then(|| field("voluntary_ctxt_switches:")?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    #[test]
    fn what_sleeps_in_a_step_is_woken_and_nothing_else() {
        start().unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        let read = |in_step: bool, reader: &io::PipeReader| {
            enlist();
            within_step(in_step);
            let mut byte = 0u8;
            // SAFETY: one byte is written to.
            let n = unsafe { libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1) };
            let errno = io::Error::last_os_error().raw_os_error();
            within_step(false);
            (n, errno)
        };
        let began = Instant::now();
        assert_eq!(std::thread::scope(|s| s.spawn(|| read(true, &reader)).join().unwrap()), (-1, Some(libc::EINTR)));
        assert!(began.elapsed() >= PATIENCE);
        // Nor what is not to be disturbed within one.
        let (reader, writer) = io::pipe().unwrap();
        let waits = std::thread::spawn(move || {
            enlist();
            within_step(true);
            let mut byte = 0u8;
            // SAFETY: one byte is written to.
            undisturbed(|| unsafe { libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1) })
        });
        std::thread::sleep(LOOK * 4);
        assert!(!waits.is_finished());
        drop(writer);
        assert_eq!(waits.join().unwrap(), 0);
        // Outside of a step nobody is disturbed.
        let (reader, writer) = io::pipe().unwrap();
        let waits = std::thread::spawn(move || read(false, &reader));
        std::thread::sleep(LOOK * 4);
        assert!(!waits.is_finished());
        drop(writer);
        assert_eq!(waits.join().unwrap().0, 0);
    }
}
