//! SO_PEERCRED and SO_PEERPIDFD within a run. The supervisor makes connect(2) and listen(2) for the program, so the kernel names the
//! supervisor; it is remembered here whom it did them for.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use parking_lot::Mutex;
use sandbox::caller::Caller;

use crate::call::{Call, Target};
use crate::supervisor::Supervisor;
use crate::table::Cookie;

/// Sockets of each kind that are remembered; the oldest are forgotten first.
const SOCKETS: usize = 8192;

/// struct ucred (unix(7)): process, effective user and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    pub process: i32,
    pub uid: u32,
    pub gid: u32,
}

impl Credentials {
    pub fn of(caller: &Caller) -> Credentials {
        Credentials { process: caller.process, uid: caller.uid, gid: caller.gid }
    }

    /// Of a struct ucred; None for what has another length.
    pub fn read(bytes: &[u8]) -> Option<Credentials> {
        let word = |at: usize| bytes.get(at..at + 4)?.first_chunk().copied();
        let (process, uid, gid) = (word(0)?, word(4)?, word(8)?);
        (bytes.len() == 12).then_some(Credentials {
            process: i32::from_ne_bytes(process),
            uid: u32::from_ne_bytes(uid),
            gid: u32::from_ne_bytes(gid),
        })
    }

    /// Of a sender that is not known: no process, as of one in another process namespace. Its user is sipbox's own, unless that is
    /// root, which the program may have given up: then it is nobody (the kernel's overflow id).
    pub fn of_nobody(self) -> Credentials {
        const OVERFLOW: u32 = 65534;
        match nix::unistd::geteuid().is_root() {
            true => Credentials { process: 0, uid: OVERFLOW, gid: OVERFLOW },
            false => Credentials { process: 0, ..self },
        }
    }

    pub fn bytes(self) -> Vec<u8> {
        [self.process.to_ne_bytes(), self.uid.to_ne_bytes(), self.gid.to_ne_bytes()].concat()
    }
}

/// The newest entries.
struct Recent<K> {
    known: HashMap<K, Credentials>,
    order: VecDeque<K>,
}

impl<K> Default for Recent<K> {
    fn default() -> Recent<K> {
        Recent { known: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash> Recent<K> {
    fn insert(&mut self, key: K, credentials: Credentials) {
        if self.known.insert(key, credentials).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > SOCKETS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn get(&self, key: K) -> Option<Credentials> {
        self.known.get(&key).copied()
    }
}

/// Whom the supervisor acted for.
#[derive(Default)]
pub struct Peers(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Who listens, by the inode of the listener.
    listening: Recent<u64>,
    /// Who is at the other end: who listened when it was connected, or whom it was asked for before.
    called: Recent<Cookie>,
    /// Who connected the socket with this inode.
    calling: Recent<u64>,
}

impl Peers {
    /// `target` listens for `caller`.
    pub fn listens(&self, target: &Target, caller: &Caller) {
        if let Some(inode) = sandbox::processes::inode(target.as_fd()) {
            self.0.lock().listening.insert(inode, Credentials::of(caller));
        }
    }

    /// `target` was connected to the listener with this inode.
    pub fn connected(&self, target: &Target, listener: u64, caller: &Caller) {
        let mut known = self.0.lock();
        if let Some(inode) = sandbox::processes::inode(target.as_fd()) {
            known.calling.insert(inode, Credentials::of(caller));
        }
        if let Some(listens) = known.listening.get(listener) {
            known.called.insert(target.cookie, listens);
        }
    }

    /// Who is at the other end of a socket of which the kernel says: the supervisor.
    fn peer(&self, call: &Call, target: &Target) -> Option<Credentials> {
        {
            let known = self.0.lock();
            // A listener hears its own.
            let own = sandbox::processes::inode(target.as_fd()).and_then(|inode| known.listening.get(inode));
            if let Some(found) = known.called.get(target.cookie).or(own) {
                return Some(found);
            }
        }
        let inode = peer_inode(call.supervisor, target.as_fd());
        let mut known = self.0.lock();
        let found = known.calling.get(inode.ok()?)?;
        // The kernel forgets who it was when that end is closed.
        known.called.insert(target.cookie, found);
        Some(found)
    }
}

/// The inode of the socket at the other end.
pub fn peer_inode(supervisor: &Supervisor, socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    match &supervisor.network {
        Some(network) => network.inspector().unix_peer(socket),
        None => sandbox::unix_diag::peer_inode(socket),
    }
}

/// getsockopt(2) of SO_PEERCRED and SO_PEERPIDFD.
pub fn get_credentials(call: &Call, target: &Target, name: i32) -> Result<i64, Errno> {
    let given = usize::try_from(call.n.read_u32(call.argument(4))? as i32).map_err(|_| Errno::EINVAL)?;
    let native = nix::sys::socket::getsockopt(target, nix::sys::socket::sockopt::PeerCredentials)?;
    let native = Credentials { process: native.pid(), uid: native.uid(), gid: native.gid() };
    let is_ours = native.process == std::process::id() as i32;
    let meant = if is_ours {
        // Of one that is gone and was never asked for the user is left, and no process: as of one in another process namespace.
        call.supervisor.unix.peers.peer(call, target).unwrap_or(Credentials { process: 0, ..native })
    } else {
        native
    };
    let value = if name == libc::SO_PEERCRED {
        meant.bytes()
    } else {
        if given < size_of::<i32>() {
            return Err(Errno::EINVAL);
        }
        let process = if !is_ours {
            sandbox::unix::peer_process(target.as_fd())?
        } else if meant.process > 0 {
            process_of_this_run(meant.process)?
        } else {
            return Err(Errno::ENODATA);
        };
        call.n.reply.add_descriptor(process.as_fd(), true)?.to_ne_bytes().to_vec()
    };
    let length = value.len().min(given);
    call.n.write(call.argument(3), &value[..length])?;
    call.n.write(call.argument(4), &(length as u32).to_ne_bytes())?;
    Ok(0)
}

/// A descriptor of a process of the program. ESRCH when it is gone, also when a process of others has its number by now.
fn process_of_this_run(process: i32) -> Result<OwnedFd, Errno> {
    let found = sandbox::processes::descriptor_of(process)?;
    // After it was opened: it is of whoever had the number.
    if sandbox::processes::is_below_us(process.cast_unsigned()) { Ok(found) } else { Err(Errno::ESRCH) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let someone = |process| Credentials { process, uid: 1, gid: 2 };
        let mut recent = Recent::default();
        for key in 0..SOCKETS as u64 + 1 {
            recent.insert(key, someone(1));
        }
        recent.insert(5, someone(2));
        assert_eq!((recent.get(0), recent.get(1), recent.get(5)), (None, Some(someone(1)), Some(someone(2))));
        assert_eq!((recent.known.len(), recent.order.len()), (SOCKETS, SOCKETS));
        assert_eq!(someone(7).bytes(), [7i32.to_ne_bytes(), 1i32.to_ne_bytes(), 2i32.to_ne_bytes()].concat());
    }
}
