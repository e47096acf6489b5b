//! Signals of the program's threads: is one about to be handled, is a process about to stop?

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::child::pidfd_open;
use crate::notify::Notification;

/// What /proc/ID/status says of a thread (proc(5)); masks have bit n - 1 for signal n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// The letter of its state: `T` for one that is stopped, `Z` and `X` for one that has ended.
    pub state: u8,
    /// Its process.
    pub process: u32,
    /// Threads that the process has.
    pub threads: u32,
    /// Pending for this thread alone.
    pub own: u64,
    /// Pending for the process.
    pub shared: u64,
    pub blocked: u64,
    pub caught: u64,
}

const fn bit(signal: Signal) -> u64 {
    1 << (signal as u32 - 1)
}

const STOPS: u64 = bit(Signal::SIGSTOP) | bit(Signal::SIGTSTP) | bit(Signal::SIGTTIN) | bit(Signal::SIGTTOU);

/// True for the signals that stop a process (signal(7)), unless it handles them.
pub(crate) fn is_stop(signal: i32) -> bool {
    (1..=64).contains(&signal) && STOPS >> (signal - 1) & 1 != 0
}

impl Status {
    /// None when the thread is gone.
    pub fn of(id: u32) -> Option<Status> {
        std::fs::read_to_string(format!("/proc/{id}/status")).ok().map(|text| Status::parse(&text))
    }

    fn parse(text: &str) -> Status {
        let mut status = Status::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            let mask = || u64::from_str_radix(value, 16).unwrap_or(0);
            match name {
                "State" => status.state = value.bytes().next().unwrap_or(0),
                "Tgid" => status.process = value.parse().unwrap_or(0),
                "Threads" => status.threads = value.parse().unwrap_or(0),
                "SigPnd" => status.own = mask(),
                "ShdPnd" => status.shared = mask(),
                "SigBlk" => status.blocked = mask(),
                "SigCgt" => {
                    status.caught = mask();
                    break;
                }
                _ => {}
            }
        }
        status
    }

    pub fn is_stopped(&self) -> bool {
        self.state == b'T'
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    /// It runs, waits for a processor, or sleeps in what signals do not end.
    pub fn is_awake(&self) -> bool {
        matches!(self.state, b'R' | b'D')
    }

    /// Whether it could handle one of these signals for its process.
    pub fn may_take(&self, signals: u64) -> bool {
        matches!(self.state, b'R' | b'D' | b'S') && signals & !self.blocked != 0
    }

    /// Signals for this thread alone that it will handle.
    pub fn own_to_handle(&self) -> u64 {
        self.own & !self.blocked
    }

    /// Signals for the process that this thread could handle, as one of its threads that do not block them.
    pub fn shared_to_handle(&self) -> u64 {
        self.shared & !self.blocked
    }
}

/// Makes sure that thread `thread` of the process looks for signals when its call is answered (TIF_SIGPENDING): of several
/// threads that could handle a signal for their process the kernel tells one, and which is not to be seen from outside.
///
/// A SIGSTOP for the thread, which sleeps in its trapped call and cannot take it, and the SIGCONT that takes it back from
/// there: what stays is that the thread was told (complete_signal, prepare_signal in the kernel). False, and nothing is done,
/// where the program would hear of it: it handles SIGCONT, or is being stopped; or the thread waits no more.
pub(crate) fn prod(thread: u32, status: &Status, is_waiting: impl FnOnce() -> bool) -> bool {
    const CONT: u64 = bit(Signal::SIGCONT);
    if status.is_stopped() || status.caught & CONT != 0 || (status.own | status.shared) & (CONT | STOPS) != 0 {
        return false;
    }
    let Some(whom) = Whom::of(thread, status.process, is_waiting) else { return false };
    whom.tell(Signal::SIGSTOP) && whom.tell_process(Signal::SIGCONT)
}

/// Sends SIGPIPE to a thread of the program: what a native send on a broken connection does.
pub fn broken_pipe(caller: &Notification) {
    let Some(process) = crate::notify::process_of(caller.thread) else { return };
    if let Some(whom) = Whom::of(caller.thread, process.cast_unsigned(), || caller.reply.is_waiting()) {
        whom.tell(Signal::SIGPIPE);
    }
}

/// A thread of the program that is sent signals.
enum Whom {
    /// This one for good.
    Thread(OwnedFd),
    /// Before Linux 6.9 by its number: nobody else's if both it and that of its process would have to change hands between the question
    /// whether it waits and the call after that.
    Number { process: u32, thread: u32 },
}

impl Whom {
    /// The thread with this id, of which `is_waiting` says that it is the caller, still.
    fn of(thread: u32, process: u32, is_waiting: impl FnOnce() -> bool) -> Option<Whom> {
        let whom = match pidfd_open(thread.cast_signed(), true) {
            Ok(descriptor) => Whom::Thread(descriptor),
            Err(_) => Whom::Number { process, thread },
        };
        // Afterwards: it was the caller's number then.
        is_waiting().then_some(whom)
    }

    fn tell(&self, signal: Signal) -> bool {
        const NONE: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: integers, and no siginfo_t.
        let told = unsafe {
            match self {
                Whom::Thread(one) => {
                    libc::syscall(libc::SYS_pidfd_send_signal, one.as_raw_fd(), signal as i32, NONE, 0)
                }
                Whom::Number { process, thread } => libc::syscall(libc::SYS_tgkill, *process, *thread, signal as i32),
            }
        };
        told == 0
    }

    fn tell_process(&self, signal: Signal) -> bool {
        /// PIDFD_SIGNAL_THREAD_GROUP of include/uapi/linux/pidfd.h (Linux 6.9).
        const THREAD_GROUP: libc::c_uint = 1 << 1;
        const NONE: *const libc::siginfo_t = std::ptr::null();
        let (one, signal) = match self {
            Whom::Thread(one) => (one.as_raw_fd(), signal as i32),
            Whom::Number { process, .. } => return kill(Pid::from_raw(process.cast_signed()), signal).is_ok(),
        };
        // SAFETY: integers, and no siginfo_t.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, one, signal, NONE, THREAD_GROUP) == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unblocked_pending_signals_count() {
        let status = |own: u64, blocked: u64| {
            Status::parse(&format!(
                "Name:\tx\nState:\tD (disk sleep)\nTgid:\t7\nThreads:\t3\nSigPnd:\t{own:016x}\nShdPnd:\t{:016x}\n\
                 SigBlk:\t{blocked:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
                0x10, 0, 0x20
            ))
        };
        assert_eq!(status(2, 0).own_to_handle(), 2);
        assert_eq!(status(2, 2).own_to_handle(), 0);
        assert_eq!(status(2, 0).shared_to_handle(), 0x10);
        assert_eq!(status(2, 0x10).shared_to_handle(), 0);
        let all = status(0, 0);
        assert_eq!((all.state, all.process, all.threads, all.caught), (b'D', 7, 3, 0x20));
        assert_eq!(Status::parse(""), Status::default());
    }

    /// A stranger that has the number of who waited is told nothing.
    #[test]
    fn only_who_waits_is_told() {
        use std::os::unix::process::ExitStatusExt;
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (id, status) = (child.id(), Status::of(child.id()).unwrap());
        assert!(Whom::of(id, status.process, || false).is_none() && !prod(id, &status, || false));
        for whom in [Whom::of(id, id, || true).unwrap(), Whom::Number { process: id, thread: id }] {
            assert!(whom.tell(Signal::SIGSTOP));
            while !Status::of(id).unwrap().is_stopped() {
                std::thread::yield_now();
            }
            assert!(whom.tell_process(Signal::SIGCONT) && !Status::of(id).unwrap().is_stopped());
        }
        let whom = Whom::of(id, id, || true).unwrap();
        assert!(whom.tell(Signal::SIGPIPE));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGPIPE));
        assert!(!whom.tell(Signal::SIGPIPE) && !whom.tell_process(Signal::SIGCONT));
    }

    #[test]
    fn one_of_this_process() {
        let own = Status::of(std::process::id()).unwrap();
        assert_eq!(own.process, std::process::id());
        assert!(own.threads >= 1 && !own.is_stopped() && !own.has_ended());
    }
}
