//! Signals of the program's threads: is one about to be handled?

/// True when thread `thread` has a pending signal that it does not block: a held call is then to be answered as
/// interrupted. Reads SigPnd, ShdPnd, SigBlk and SigIgn of /proc/TID/status (proc(5)).
pub fn is_interrupted(thread: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{thread}/status")).is_ok_and(|s| pending_in(&s))
}

fn pending_in(status: &str) -> bool {
    let mask = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
            .unwrap_or(0)
    };
    (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !mask("SigIgn") != 0
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
        let status = |pnd: u64, blk: u64, ign: u64| {
            format!("Name:\tx\nSigPnd:\t{pnd:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{blk:016x}\nSigIgn:\t{ign:016x}\n", 0)
        };
        assert!(!pending_in(&status(0, 0, 0)));
        assert!(pending_in(&status(2, 0, 0)));
        assert!(!pending_in(&status(2, 2, 0)));
        assert!(!pending_in(&status(2, 0, 2)));
        assert!(!pending_in(""));
    }
}
