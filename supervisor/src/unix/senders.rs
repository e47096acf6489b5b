//! SCM_CREDENTIALS and SCM_PIDFD within a run (unix(7)). The supervisor sends messages for the program, so the kernel says that they are
//! its own; who sent them is remembered here until they are received.
//!
//! Nothing is remembered before a program of the run has asked for credentials (SO_PASSCRED, SO_PASSPIDFD) or gives its own: the
//! kernel does not attach any before, either.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use nix::libc;
use parking_lot::Mutex;
use sandbox::message::{Control, Received};
use sandbox::sock;
use sandbox::unix::Caller;

use super::peers::{Credentials, peer_inode};
use crate::call::{Call, Target, errno};
use crate::former::Remembered;
use crate::supervisor::Supervisor;
use crate::table::Cookie;

/// Messages of one way that are remembered at once: more than the kernel queues, as it comes (net.unix.max_dgram_qlen).
const MESSAGES: usize = 512;

/// The way of messages, by the inode of a socket: from one that has a peer, or to one that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    From(u64),
    To(u64),
}

struct Message {
    number: u64,
    length: usize,
    by: Credentials,
}

/// Who sends.
#[derive(Default)]
pub struct Senders {
    asked: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    ways: Remembered<Way, VecDeque<Message>>,
    /// Where datagram sockets are connected to.
    points: Remembered<Cookie, u64>,
    messages: u64,
}

impl Known {
    fn note(&mut self, way: Way, length: usize, by: Credentials) -> u64 {
        self.messages += 1;
        let number = self.messages;
        let queue = self.ways.entry(way, VecDeque::new);
        if queue.len() >= MESSAGES {
            queue.pop_front();
        }
        queue.push_back(Message { number, length, by });
        number
    }

    /// How much of it was sent; none at all: it is no message.
    fn settle(&mut self, way: Way, number: u64, sent: Option<usize>) {
        let Some(queue) = self.ways.get_mut(&way) else { return };
        let Some(at) = queue.iter().position(|m| m.number == number) else { return };
        match sent {
            Some(length) => queue[at].length = length,
            None => drop(queue.remove(at)),
        }
    }

    /// Who sent the next message on one of these ways. Of a stream `length` bytes are taken; of others the message of this length, or
    /// the next where it is not known: those before it were received by read(2), which is not asked.
    fn take(&mut self, ways: &[Way], stream: bool, length: Option<usize>, keep: bool) -> Option<Credentials> {
        let way = *ways.iter().find(|way| self.ways.get_mut(way).is_some_and(|queue| !queue.is_empty()))?;
        let queue = self.ways.get_mut(&way)?;
        if stream {
            let by = queue.front()?.by;
            let mut left = length.unwrap_or(0);
            while !keep
                && left > 0
                && let Some(first) = queue.front_mut()
            {
                let taken = left.min(first.length);
                (first.length, left) = (first.length - taken, left - taken);
                if first.length == 0 {
                    queue.pop_front();
                }
            }
            return Some(by);
        }
        let at = length.and_then(|length| queue.iter().position(|m| m.length == length)).unwrap_or(0);
        let by = queue.get(at)?.by;
        if !keep {
            queue.drain(..=at);
        }
        Some(by)
    }
}

impl Senders {
    /// A datagram socket of the run is connected to the one with this inode.
    pub fn points(&self, target: &Target, to: u64) {
        *self.known.lock().points.entry(target.cookie, || to) = to;
    }

    /// Who sends this, where that may be asked for.
    ///
    /// # Errors
    /// ESRCH: the caller is gone.
    pub fn of(&self, call: &Call) -> Result<Option<Credentials>, Errno> {
        match self.asked.load(Relaxed) {
            true => Ok(Some(Credentials::of(&Caller::of(call.n.thread)?))),
            false => Ok(None),
        }
    }

    /// Sends what is `length` bytes long, by `send`. `to`: the inode of the socket whose name was given.
    pub fn send(
        &self,
        target: &Target,
        to: Option<u64>,
        by: Option<Credentials>,
        length: usize,
        send: impl FnOnce() -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let Some(by) = by else { return send() };
        let to = to.or_else(|| self.known.lock().points.get_mut(&target.cookie).copied());
        let own = || sandbox::processes::inode(target.as_fd()).map(Way::From);
        let Some(way) = to.map(Way::To).or_else(own) else { return send() };
        // Before it is sent: it may be received at once.
        let number = self.known.lock().note(way, length, by);
        let sent = send();
        self.known.lock().settle(way, number, sent.ok());
        sent
    }

    /// Who sent this message, of which the kernel says: the supervisor.
    pub fn sender(
        &self,
        supervisor: &Supervisor,
        target: &Target,
        received: &Received,
        flags: i32,
    ) -> Option<Credentials> {
        let own = sandbox::processes::inode(target.as_fd()).map(Way::To);
        let peer = peer_inode(supervisor, target).ok().map(Way::From);
        let ways: Vec<Way> = own.into_iter().chain(peer).collect();
        let stream = target.facts().is_ok_and(|facts| facts.kind == libc::SOCK_STREAM);
        let cut = received.flags & libc::MSG_TRUNC != 0 && flags & libc::MSG_TRUNC == 0;
        let length = (!cut).then_some(received.length);
        self.known.lock().take(&ways, stream, length, flags & libc::MSG_PEEK != 0)
    }
}

/// Credentials that the program gives for its own (SCM_CREDENTIALS), and what the kernel is to be told instead: the supervisor has no
/// right to speak for others.
///
/// # Errors
/// EINVAL: no struct ucred. EPERM: they are not its own. ESRCH: there is no such process.
pub fn given(call: &Call, data: &[u8]) -> Result<(Credentials, Control), Errno> {
    let given = Credentials::read(data).ok_or(Errno::EINVAL)?;
    let caller = Caller::of(call.n.thread)?;
    // scm_check_creds: who may speak for others is root.
    if caller.uid != 0 {
        let own =
            given.process == caller.process && caller.uids.contains(&given.uid) && caller.gids.contains(&given.gid);
        if !own {
            return Err(Errno::EPERM);
        }
    } else if !std::path::Path::new("/proc").join(given.process.to_string()).exists() {
        return Err(Errno::ESRCH);
    }
    let own = Credentials {
        process: std::process::id() as i32,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
    };
    Ok((given, Control { level: libc::SOL_SOCKET, kind: libc::SCM_CREDENTIALS, data: own.bytes() }))
}

/// setsockopt(2) of SO_PASSCRED and SO_PASSPIDFD: the kernel's own; from here on it is remembered who sends.
pub fn set_asking(mut call: Call) {
    let (number, level, name) = (call.int(0), call.int(1), call.int(2));
    call.note(|| format!("setsockopt({number}, {level}, {name})"));
    let result = (|| {
        let target = call.target(number)?;
        if call.int(4) < size_of::<i32>() as i32 {
            return Err(Errno::EINVAL);
        }
        let value = call.n.read_u32(call.argument(3))? as i32;
        if value != 0 {
            call.supervisor.unix.senders.asked.store(true, Relaxed);
        }
        sock::set_option(target.as_fd(), level, name, value).map_err(errno)?;
        Ok(0)
    })();
    call.finish(result);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn someone(process: i32) -> Credentials {
        Credentials { process, uid: 1, gid: 2 }
    }

    #[test]
    fn messages_are_told_apart_by_their_order_and_length() {
        let mut known = Known::default();
        let ways = [Way::To(7), Way::From(9)];
        for (length, process) in [(3, 10), (4, 11), (5, 12)] {
            known.note(Way::From(9), length, someone(process));
        }
        let failed = known.note(Way::From(9), 6, someone(13));
        known.settle(Way::From(9), failed, None);
        assert_eq!(known.take(&ways, false, Some(3), true), Some(someone(10)));
        // The one before was received otherwise.
        assert_eq!(known.take(&ways, false, Some(4), false), Some(someone(11)));
        assert_eq!(known.take(&ways, false, None, false), Some(someone(12)));
        assert_eq!(known.take(&ways, false, Some(6), false), None);
    }

    #[test]
    fn a_stream_is_told_apart_by_its_bytes() {
        let mut known = Known::default();
        let first = known.note(Way::From(9), 100, someone(1));
        known.settle(Way::From(9), first, Some(10));
        known.note(Way::From(9), 5, someone(2));
        let mut take = |n| known.take(&[Way::From(9)], true, Some(n), false);
        assert_eq!([take(4), take(6), take(5), take(1)], [Some(someone(1)), Some(someone(1)), Some(someone(2)), None]);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let mut known = Known::default();
        for n in 0..MESSAGES + 5 {
            known.note(Way::To(1), n, someone(n as i32));
        }
        assert_eq!(known.take(&[Way::To(1)], false, None, false), Some(someone(5)));
    }
}
