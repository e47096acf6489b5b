//! The processes of the program: children of this one, and theirs, and the orphans that a subreaper inherits.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

/// The inode of a descriptor: sockets have one of their own each.
pub fn inode(fd: BorrowedFd<'_>) -> Option<u64> {
    nix::sys::stat::fstat(fd).ok().map(|s| s.st_ino)
}

/// A descriptor that names a process (pidfd_open(2)), close-on-exec.
///
/// # Errors
/// What pidfd_open(2) gives: ESRCH when it is gone.
pub fn descriptor_of(process: i32) -> Result<OwnedFd, Errno> {
    crate::child::pidfd_open(process, false).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
}

/// Whether a descriptor names this process (fdinfo of a pidfd: proc_pid_fdinfo(5)).
pub fn is_us(process: BorrowedFd<'_>) -> bool {
    use std::os::fd::AsRawFd;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).unwrap_or_default();
    let named = info.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|id| id.trim().parse().ok());
    named == Some(std::process::id())
}

/// The children of this process; its keeper is none.
///
/// # Errors
/// What opening and reading their lists gives: EMFILE where this process has no descriptor left.
pub fn children() -> io::Result<Vec<u32>> {
    children_of(std::process::id())
}

/// The children of a process, of all its threads (/proc/PID/task/TID/children, proc(5)).
fn children_of(process: u32) -> io::Result<Vec<u32>> {
    let is_gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH);
    let mut children = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        match thread.and_then(|thread| std::fs::read_to_string(thread.path().join("children"))) {
            Ok(list) => children.extend(list.split_ascii_whitespace().filter_map(|c| c.parse::<u32>().ok())),
            Err(e) if is_gone(&e) => {}
            Err(e) => return Err(e),
        }
    }
    children.retain(|child| !crate::keeper::is(*child));
    Ok(children)
}

/// What happened to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It ended with this status.
    Exited(i32),
    /// It ended by this signal.
    Killed(i32),
    /// It was stopped by this signal.
    Stopped(i32),
    /// Something else.
    Other,
}

/// The next child of this process to which something happened, which is reaped if it ended. None: there is none yet. (Any signal, also a
/// real-time one.)
///
/// # Errors
/// What waitpid(2) gives: ECHILD when there are no children.
pub fn wait_for_any() -> Result<Option<(i32, Change)>, Errno> {
    let mut status = 0;
    // SAFETY: it writes one int.
    let process = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED) })?;
    let change = match status {
        s if libc::WIFEXITED(s) => Change::Exited(libc::WEXITSTATUS(s)),
        s if libc::WIFSIGNALED(s) => Change::Killed(libc::WTERMSIG(s)),
        s if libc::WIFSTOPPED(s) => Change::Stopped(libc::WSTOPSIG(s)),
        _ => Change::Other,
    };
    Ok((process != 0).then_some((process, change)))
}

/// All processes below this one.
pub fn descendants() -> Vec<u32> {
    let mut found = Vec::new();
    let mut open = vec![std::process::id()];
    while let Some(process) = open.pop() {
        let children = children_of(process).unwrap_or_default();
        found.extend_from_slice(&children);
        open.extend(children);
    }
    found
}

/// Whether a process is below this one. From there upwards: the list of children may miss one while there are changes (proc(5)).
pub fn is_below_us(process: u32) -> bool {
    /// Of who ends meanwhile the children have another parent.
    const TIMES: usize = 4;
    const HIGHEST: usize = 4096;
    let own = Some(std::process::id());
    let above = || std::iter::successors(parent(process), |process| parent(*process)).take(HIGHEST);
    (0..TIMES).any(|_| above().any(|process| Some(process) == own))
}

/// The parent of a process (/proc/PID/status, proc(5)).
fn parent(process: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Processes of the program with a descriptor of the socket with this inode: process and descriptor.
pub fn holders(inode: u64) -> Vec<(u32, i32)> {
    let wanted = format!("socket:[{inode}]");
    let mut found = Vec::new();
    for process in descendants() {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/fd")) else { continue };
        for entry in entries.flatten() {
            let is_it = std::fs::read_link(entry.path()).is_ok_and(|l| l.as_os_str() == wanted.as_str());
            if is_it && let Some(number) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
                found.push((process, number));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    #[test]
    fn who_is_below_us() {
        let mut shell = std::process::Command::new("sh");
        let shell = shell.args(["-c", "sleep 60 & echo $!; exec sleep 60"]).stdout(std::process::Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let grandchild: u32 = line.trim().parse().unwrap();
        assert!(is_below_us(shell.id()) && is_below_us(grandchild));
        let above = [1, parent(std::process::id()).unwrap(), std::process::id()];
        assert!(!above.into_iter().any(is_below_us));
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(grandchild.cast_signed()), nix::sys::signal::SIGKILL);
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(!is_below_us(shell.id()));
    }
}
