//! What the calls that carry data share: the kind of socket, limits, and waiting.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use sandbox::memory::ForeignSlice;
use sandbox::ready::when_ready;
use sipcore::agent::Proto;
use tokio::io::Interest;

use crate::call::{Call, Held, Target};

/// Control data that one call may carry: the default of net.core.optmem_max.
pub const CONTROL_MAX: usize = 128 * 1024;
/// The largest datagram and a little more.
pub const DATAGRAM_MAX: usize = 65536;
/// Datagrams of other kinds (AF_UNIX) may be larger: net.core.wmem_max by default.
pub const UNIX_MAX: usize = 256 * 1024;
/// UIO_MAXIOV: the most messages of one sendmmsg or recvmmsg.
pub const MESSAGES_MAX: usize = 1024;

thread_local! {
    /// Room for one datagram: a thread moves one at a time.
    static ROOM: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Lends this thread's room for one datagram: no memory is asked for and cleared for each.
pub fn with_room<T>(carry: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut room = ROOM.take().unwrap_or_else(|| vec![0; DATAGRAM_MAX].into());
    let carried = carry(&mut room);
    ROOM.set(Some(room));
    carried
}

/// What kind of socket a call is about.
pub type Kind = Option<Proto>;

pub fn prepare(call: &mut Call, name: &str) -> Result<(Target, Kind), Errno> {
    let number = call.int(0);
    call.note(|| format!("{name}({number})"));
    let target = call.target(number)?;
    let kind = call.supervisor.known(&target)?;
    Ok((target, kind))
}

/// Answers a call that sends: a broken connection is also a SIGPIPE.
pub fn finish_send(call: Call, result: Result<i64, Errno>, flags: i32) {
    if result == Err(Errno::EPIPE) && flags & libc::MSG_NOSIGNAL == 0 {
        sandbox::signals::broken_pipe(&call.n);
    }
    call.finish(result);
}

/// How a call waits.
#[derive(Clone, Copy)]
pub struct Waiting {
    pub interest: Interest,
    /// SO_SNDTIMEO, SO_RCVTIMEO or the call's own.
    pub limit: Option<Duration>,
    /// Tried again this often also without readiness: a datagram to a full AF_UNIX receiver waits for the receiver, of whom
    /// poll(2) on the sender knows nothing.
    pub retry: Option<Duration>,
    /// The call's flags: MSG_NOSIGNAL for one that raises no SIGPIPE.
    pub flags: i32,
}

/// Waits for readiness and repeats `step`, until it says something else than EAGAIN, a signal comes or the limit is over.
pub fn wait(
    mut call: Call,
    target: Target,
    waiting: Waiting,
    mut step: impl FnMut(&mut Call, &Target) -> Result<i64, Errno> + Send + 'static,
) {
    let runtime = call.supervisor.runtime.clone();
    let watch = call.watch(target.cookie);
    runtime.spawn(async move {
        let ended = {
            let ready = async {
                loop {
                    let ready = when_ready(target.as_fd(), waiting.interest, || step(&mut call, &target));
                    match waiting.retry {
                        None => return ready.await,
                        Some(distance) => {
                            if let Ok(result) = tokio::time::timeout(distance, ready).await {
                                return result;
                            }
                        }
                    }
                }
            };
            let limited = async {
                match waiting.limit {
                    Some(limit) => tokio::time::timeout(limit, ready).await.unwrap_or(Err(Errno::EAGAIN)),
                    None => ready.await,
                }
            };
            watch.hold(limited).await
        };
        drop(step);
        target.let_go(&call.supervisor.runtime);
        match ended {
            Held::Done(Err(Errno::EAGAIN)) | Held::Interrupted if call.partial > 0 => {
                let n = call.partial;
                call.finish(Ok(n));
            }
            Held::Done(result) => finish_send(call, result, waiting.flags),
            Held::Interrupted => call.interrupted(waiting.limit),
            Held::Gone => call.abandon(),
        }
    });
}

/// What of the slices comes after the first `done` bytes.
pub fn behind(slices: &[ForeignSlice], done: usize) -> Vec<ForeignSlice> {
    let mut skip = done;
    let mut rest = Vec::new();
    for s in slices {
        let n = skip.min(s.length);
        skip -= n;
        if s.length > n {
            rest.push(ForeignSlice { base: s.base.wrapping_add(n as u64), length: s.length - n });
        }
    }
    rest
}
