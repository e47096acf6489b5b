//! SCM_CREDENTIALS and SCM_PIDFD within a run (unix(7)). The supervisor sends messages for the program, so the kernel says that they are
//! its own; who sent them is remembered here until they are received.
//!
//! Nothing is remembered before a program of the run has asked for credentials (SO_PASSCRED, SO_PASSPIDFD) or gives its own, but for
//! what is sent by connections that nobody has accepted yet: to all else the kernel does not attach any before, either.
//!
//! What read(2) and recv(2) take is not told here. So what is remembered is put right where the kernel shows that it is out of date:
//! when nothing of a sender waits any more, or nothing for a receiver.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFlags;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use sandbox::message::{Control, Received};
use sandbox::sock;

use super::peers::{Credentials, peer_inode};
use crate::call::{Call, Target, errno};
use crate::former::Remembered;
use crate::supervisor::Supervisor;
use crate::table::Cookie;

/// Messages of one way that are remembered at once: more than the kernel queues, as it comes (net.unix.max_dgram_qlen).
const MESSAGES: usize = 512;

/// The way of messages, by the inode of a socket: to one, or from one whose peer has none yet, for nobody has accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    From(u64),
    To(u64),
}

struct Message {
    number: u64,
    length: usize,
    by: Credentials,
    /// By this socket.
    socket: Cookie,
    /// It is with the kernel.
    sent: bool,
}

/// Who sends.
#[derive(Default)]
pub struct Senders {
    asked: AtomicBool,
    /// Programs of the run accept connections.
    heard: AtomicBool,
    known: Mutex<Known>,
    /// Held while a message is received, until it is known who sent it.
    receiving: RwLock<()>,
}

#[derive(Default)]
struct Known {
    ways: Remembered<Way, VecDeque<Message>>,
    /// The other ends of connections, which they keep when they are closed.
    peers: Remembered<Cookie, u64>,
    messages: u64,
}

impl Known {
    fn note(&mut self, way: Way, length: usize, by: Credentials, socket: Cookie) -> u64 {
        self.messages += 1;
        let number = self.messages;
        let queue = self.ways.entry(way, VecDeque::new);
        if queue.len() >= MESSAGES {
            queue.pop_front();
        }
        queue.push_back(Message { number, length, by, socket, sent: false });
        number
    }

    /// How much of it was sent; none at all: it is no message.
    fn settle(&mut self, way: Way, number: u64, sent: Option<usize>) {
        let Some(queue) = self.ways.get_mut(&way) else { return };
        let Some(at) = queue.iter().position(|m| m.number == number) else { return };
        match sent {
            Some(length) => (queue[at].length, queue[at].sent) = (length, true),
            None => drop(queue.remove(at)),
        }
    }

    /// These have been received, as the kernel says.
    fn forget(&mut self, ways: &[Way], which: impl Fn(&Message) -> bool) {
        for way in ways {
            if let Some(queue) = self.ways.get_mut(way) {
                queue.retain(|m| !(m.sent && which(m)));
            }
        }
    }

    /// Who sent the next message on one of these ways. Of a stream `length` bytes are taken; of others the message of this length, or
    /// the next where it is not known: those before it were received by read(2), which is not asked.
    fn take(&mut self, ways: &[Way], stream: bool, length: Option<usize>, keep: bool) -> Option<Credentials> {
        let first = |way: &Way| Some((self.ways.get_mut(way)?.front()?.number, *way));
        let (_, way) = ways.iter().filter_map(first).min_by_key(|(number, _)| *number)?;
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
    /// A program of the run listens: what is sent to it before it accepts has credentials, whoever asks for them later.
    pub fn heard(&self) {
        self.heard.store(true, Relaxed);
    }

    pub fn are_asked_for(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// A connection was accepted.
    pub fn accepted(&self, supervisor: &Supervisor, connection: BorrowedFd<'_>) {
        if self.are_asked_for()
            && let Ok(cookie) = sock::socket_cookie(connection)
        {
            let _ = self.peer(supervisor, connection, cookie);
        }
    }

    /// The socket at the other end of a connection, also when it is closed by now, if it was asked for before. None while nobody has
    /// accepted it.
    fn peer(&self, supervisor: &Supervisor, connection: BorrowedFd<'_>, cookie: Cookie) -> Option<u64> {
        if let Some(known) = self.known.lock().peers.get_mut(&cookie) {
            return Some(*known);
        }
        let inode = peer_inode(supervisor, connection).ok().filter(|inode| *inode != 0)?;
        self.known.lock().peers.entry(cookie, || inode);
        Some(inode)
    }

    /// The socket at the other end; datagram sockets may have another one each time.
    fn other_end(&self, supervisor: &Supervisor, target: &Target) -> Option<u64> {
        match super::is_datagram(target) {
            true => peer_inode(supervisor, target.as_fd()).ok().filter(|inode| *inode != 0),
            false => self.peer(supervisor, target.as_fd(), target.cookie),
        }
    }

    /// Who sends this, where that may be asked for, and what the kernel is to be told of it: the user, where it is not sipbox's.
    ///
    /// # Errors
    /// ESRCH: the caller is gone.
    pub fn of(&self, call: &Call, target: &Target) -> Result<(Option<Credentials>, Option<Control>), Errno> {
        let early = || {
            let heard = self.heard.load(Relaxed) && !super::is_datagram(target);
            heard && self.other_end(call.supervisor, target).is_none()
        };
        let noted = self.are_asked_for() || early();
        if !noted && !nix::unistd::geteuid().is_root() {
            return Ok((None, None));
        }
        let caller = call.n.caller()?;
        // Of a message the kernel says whose it really is, unlike of a connection.
        let (uid, gid) = caller.sender();
        let sender = Credentials { process: caller.process, uid, gid };
        let is_other = (uid, gid) != (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        Ok((noted.then_some(sender), is_other.then(|| told(sender))))
    }

    /// Sends what is `length` bytes long, by `send`. `to`: the inode of the socket whose name was given.
    pub fn send(
        &self,
        supervisor: &Supervisor,
        target: &Target,
        to: Option<u64>,
        by: Option<Credentials>,
        length: usize,
        send: impl FnOnce() -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let Some(by) = by else { return send() };
        let to = to.or_else(|| self.other_end(supervisor, target)).map(Way::To);
        let from = sandbox::processes::inode(target.as_fd()).map(Way::From);
        let Some(way) = to.or(from) else { return send() };
        // Before it is sent: it may be received at once.
        let number = {
            let mut known = self.known.lock();
            if let Some(_nobody) = self.receiving.try_write()
                && sock::unacknowledged(target.as_fd()).is_ok_and(|waiting| waiting == 0)
            {
                known.forget(&[to, from].into_iter().flatten().collect::<Vec<_>>(), |m| m.socket == target.cookie);
            }
            known.note(way, length, by, target.cookie)
        };
        let sent = send();
        self.known.lock().settle(way, number, sent.ok());
        sent
    }

    /// The ways to this socket.
    fn ways(&self, supervisor: &Supervisor, target: &Target) -> Vec<Way> {
        let own = sandbox::processes::inode(target.as_fd()).map(Way::To);
        let connection = (!super::is_datagram(target)).then(|| self.peer(supervisor, target.as_fd(), target.cookie));
        own.into_iter().chain(connection.flatten().map(Way::From)).collect()
    }

    /// To be held while a message is received and looked at.
    pub fn receiving(&self) -> RwLockReadGuard<'_, ()> {
        self.receiving.read()
    }

    /// After a message was received: where no other one waits, all have been.
    pub fn received(&self, supervisor: &Supervisor, target: &Target) {
        let ways = self.ways(supervisor, target);
        let mut known = self.known.lock();
        if let Some(_nobody) = self.receiving.try_write()
            && !sock::is_ready(target.as_fd(), PollFlags::POLLIN)
        {
            known.forget(&ways, |_| true);
        }
    }

    /// Who sent this message, of which the kernel says: the supervisor.
    pub fn sender(
        &self,
        supervisor: &Supervisor,
        target: &Target,
        received: &Received,
        flags: i32,
    ) -> Option<Credentials> {
        // Also by a socket that the run was started with.
        self.asked.store(true, Relaxed);
        let ways = self.ways(supervisor, target);
        let stream = target.facts().is_ok_and(|facts| facts.kind == libc::SOCK_STREAM);
        let cut = received.flags & libc::MSG_TRUNC != 0 && flags & libc::MSG_TRUNC == 0;
        let length = (!cut).then_some(received.length);
        self.known.lock().take(&ways, stream, length, flags & libc::MSG_PEEK != 0)
    }

    /// The owner of this socket asks from now on: to what was sent to it before the kernel has attached nothing, unless it had not
    /// been accepted then.
    fn asks(&self, supervisor: &Supervisor, target: &Target) {
        self.asked.store(true, Relaxed);
        let before = self.ways(supervisor, target).into_iter().filter(|way| matches!(way, Way::To(_)));
        self.known.lock().forget(&before.collect::<Vec<_>>(), |_| true);
        self.received(supervisor, target);
    }
}

/// What the kernel is told of a sender: the supervisor has no right to speak for other processes.
fn told(sender: Credentials) -> Control {
    let told = Credentials { process: std::process::id() as i32, ..sender };
    Control { level: libc::SOL_SOCKET, kind: libc::SCM_CREDENTIALS, data: told.bytes() }
}

/// Credentials that the program gives for its own (SCM_CREDENTIALS), and what the kernel is to be told instead.
///
/// # Errors
/// EINVAL: no struct ucred, or -1 for an id. EPERM: it may not speak for them.
pub fn given(call: &Call, data: &[u8]) -> Result<(Credentials, Control), Errno> {
    let given = Credentials::read(data).filter(|given| ![given.uid, given.gid].contains(&u32::MAX));
    let given = given.ok_or(Errno::EINVAL)?;
    if !call.n.caller()?.may_speak_for(given.process, given.uid, given.gid) {
        return Err(Errno::EPERM);
    }
    Ok((given, told(given)))
}

/// SO_PASSPIDFD of include/uapi/asm-generic/socket.h (Linux 6.5).
const SO_PASSPIDFD: libc::c_int = 76;

fn is_set(target: &Target, option: i32) -> bool {
    sock::option(target.as_fd(), libc::SOL_SOCKET, option).is_ok_and(|value| value != 0)
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
        let is_one = target.is_of(libc::AF_UNIX);
        let asked_before = !is_one || [libc::SO_PASSCRED, SO_PASSPIDFD].iter().any(|o| is_set(&target, *o));
        sock::set_option(target.as_fd(), level, name, value).map_err(errno)?;
        if value != 0 && !asked_before {
            call.supervisor.unix.senders.asks(call.supervisor, &target);
        }
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
            known.note(Way::From(9), length, someone(process), 1);
        }
        let failed = known.note(Way::From(9), 6, someone(13), 1);
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
        let first = known.note(Way::From(9), 100, someone(1), 1);
        known.settle(Way::From(9), first, Some(10));
        known.note(Way::From(9), 5, someone(2), 1);
        let mut take = |n| known.take(&[Way::From(9)], true, Some(n), false);
        assert_eq!([take(4), take(6), take(5), take(1)], [Some(someone(1)), Some(someone(1)), Some(someone(2)), None]);
    }

    #[test]
    fn the_first_sent_is_the_first() {
        let mut known = Known::default();
        for (way, process) in [(Way::From(9), 1), (Way::To(7), 2)] {
            known.note(way, 3, someone(process), 1);
        }
        let mut take = || known.take(&[Way::To(7), Way::From(9)], true, Some(3), false);
        assert_eq!([take(), take(), take()], [Some(someone(1)), Some(someone(2)), None]);
    }

    #[test]
    fn what_is_on_its_way_to_the_kernel_is_not_forgotten() {
        let mut known = Known::default();
        for (process, socket) in [(1, 1), (2, 2), (3, 1)] {
            let number = known.note(Way::To(7), 3, someone(process), socket);
            known.settle(Way::To(7), number, (process < 3).then_some(3));
        }
        assert_eq!(known.ways.get_mut(&Way::To(7)).map(|queue| queue.len()), Some(2));
        known.note(Way::To(7), 3, someone(4), 1);
        known.forget(&[Way::To(7)], |m| m.socket == 1);
        let mut take = || known.take(&[Way::To(7)], false, Some(3), false);
        assert_eq!([take(), take(), take()], [Some(someone(2)), Some(someone(4)), None]);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let mut known = Known::default();
        for n in 0..MESSAGES + 5 {
            known.note(Way::To(1), n, someone(n as i32), 1);
        }
        assert_eq!(known.take(&[Way::To(1)], false, None, false), Some(someone(5)));
    }
}
