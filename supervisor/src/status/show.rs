//! The asking end: every run of this user, one after the other.

use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, getpeername, getsockopt, sockopt};

use crate::hub;

/// A run answers at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const LONGEST: u64 = 4 << 20;
/// Runs that are asked.
const MOST: usize = 4096;
/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Arguments of `sipbox status`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 there are runs, 1 there is none, 2 bad flags.")]
pub struct Arguments {
    /// Print it again every second, until interrupted
    #[arg(long)]
    watch: bool,
    /// Print JSON: an array with an object for each run; with --watch, a line each time
    #[arg(long)]
    json: bool,
}

/// Asks all runs, and prints what they say. The exit status is 1 when there is none.
pub fn run(arguments: &Arguments) -> Result<i32, String> {
    let directory = hub::directory()?;
    let clears = arguments.watch && !arguments.json && std::io::IsTerminal::is_terminal(&std::io::stdout());
    loop {
        let found = ask_all(&directory, arguments.json);
        let shown = match (arguments.json, found.is_empty()) {
            (true, _) => format!("[{}]\n", found.join(",")),
            (false, true) => "no program runs under sipbox as this user\n".to_owned(),
            (false, false) => found.join("\n"),
        };
        let mut out = std::io::stdout().lock();
        let clear = if clears { "\x1b[H\x1b[2J" } else { "" };
        // Nobody reads any more: that is the end.
        if write!(out, "{clear}{shown}").and_then(|()| out.flush()).is_err() || !arguments.watch {
            return Ok(i32::from(found.is_empty()));
        }
        drop(out);
        std::thread::sleep(PERIOD);
    }
}

/// What each run says. Sockets that nobody answers at any more are removed.
fn ask_all(directory: &Path, json: bool) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|e| super::pid_of(e.file_name().to_str()?)).take(MOST).collect();
    pids.sort_unstable();
    let mut said = Vec::new();
    for pid in pids {
        let path = super::path(directory, pid);
        match ask(&path, pid, json) {
            Ok(answer) => said.push(answer),
            Err(Errno::ECONNREFUSED) => drop(std::fs::remove_file(&path)),
            Err(error) => tracing::debug!(%error, path = %path.display(), "a run does not answer"),
        }
    }
    said
}

/// Asks one run. Who listens must be the very process, and at this very name: whatever a program under sipbox puts in its place was made to
/// listen by its supervisor, who refuses that at such a name.
fn ask(path: &Path, pid: u32, json: bool) -> Result<String, Errno> {
    let stream = hub::connect(path)?;
    let listener = getsockopt(&stream, sockopt::PeerCredentials)?;
    let name: UnixAddr = getpeername(std::os::fd::AsRawFd::as_raw_fd(&stream))?;
    let is_it = listener.uid() == nix::unistd::getuid().as_raw()
        && u32::try_from(listener.pid()) == Ok(pid)
        && name.path().is_some_and(|name| name.as_os_str().as_bytes() == path.as_os_str().as_bytes());
    if !is_it {
        return Err(Errno::EPERM);
    }
    let io = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO));
    stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(io)?;
    exchange(stream, json).map_err(io)
}

fn exchange(mut stream: UnixStream, json: bool) -> std::io::Result<String> {
    stream.write_all(if json { b"j" } else { b"t" })?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    // What a program calls itself must not move the terminal's cursor.
    let text = String::from_utf8_lossy(&answer);
    Ok(text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect())
}
