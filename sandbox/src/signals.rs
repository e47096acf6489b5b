//! Signals of the program's threads: is one about to be handled, is a process about to stop?

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
/// where the program would hear of it: it handles SIGCONT, or is being stopped.
pub(crate) fn prod(thread: u32, status: &Status) -> bool {
    const CONT: u64 = bit(Signal::SIGCONT);
    if status.is_stopped() || status.caught & CONT != 0 || (status.own | status.shared) & (CONT | STOPS) != 0 {
        return false;
    }
    // SAFETY: three integers; the thread waits in a trapped call, so its id is still its own.
    let told = unsafe { libc::syscall(libc::SYS_tgkill, status.process, thread, libc::SIGSTOP) } == 0;
    told && kill(Pid::from_raw(status.process as i32), Signal::SIGCONT).is_ok()
}

/// Sends SIGPIPE to a thread of the program: what a native send on a broken connection does.
pub fn broken_pipe(thread: u32) {
    let Some(process) = crate::notify::process_of(thread) else { return };
    // SAFETY: three integers; the thread waits in a trapped call, so its id is still its own.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGPIPE) };
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

    #[test]
    fn one_of_this_process() {
        let own = Status::of(std::process::id()).unwrap();
        assert_eq!(own.process, std::process::id());
        assert!(own.threads >= 1 && !own.is_stopped() && !own.has_ended());
    }
}
